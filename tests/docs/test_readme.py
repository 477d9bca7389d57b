"""What the README shows of Python does what it says."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from helpers.paths import ROOT


def code_of(section: str) -> list[str]:
    """The Python blocks of a section of the README."""
    found = re.search(rf"^## {section}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"the README has no section {section!r}"
    return re.findall(r"^```python\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_in_your_own_model(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples" / "portraits", tmp_path / "examples" / "portraits")
    monkeypatch.chdir(tmp_path)
    blocks = code_of("In your own model")
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["network"](torch.rand(4, names["model"].steps)).shape == (4, 3, 32, 32)
    assert {path.name for path in (tmp_path / "portraits").iterdir()} == {"README.md", "model.safetensors"}
    assert names["reference"].grad.abs().max() > 0
    assert names["blend"].weights.shape == (1, 64, 16, 16)
    assert names["batch"].shape == (16, 3, 64, 64)
    assert names["classes"].tolist() == [0, 1] * 8
