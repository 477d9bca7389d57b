"""An accelerator that is there and cannot be used is done without, and that is said once."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

from latentpatch.runs import system
from latentpatch.runs.system import can_import, choose_device

SEARCH = """
import warnings, torch
warnings.simplefilter("always")
from latentpatch import LatentPatch
model = LatentPatch("pixels", components=4).fit(torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
print(model.generate(2).index.sum().item(), model.generate(1, sampler="random-patches").index.sum().item())
"""


def searched(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"} | environment
    command = [sys.executable, "-c", SEARCH]
    return subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True, text=True)


@pytest.mark.skipif(not system.has_numba(), reason="numba is not installed")
def test_numba_that_cannot_keep_a_cache_works_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect H2: no folder for the cache, as in a container without a home, ended every search."""
    from numba.core import caching

    def none(*_: object) -> None:
        return None

    for locator in caching.CacheImpl._locator_classes:
        monkeypatch.setattr(locator, "from_function", none)
    with pytest.raises(RuntimeError):  # Numba's own answer
        __import__("numba").njit(cache=True)(lambda x: x + 1)
    assert system.njit()(lambda x: x + 1)(2) == 3


def test_numba_that_cannot_be_imported_is_done_without(tmp_path: Path) -> None:
    """Defect H2: only its being installed was looked at."""
    expected = searched(tmp_path).stdout
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise SystemError('made for another NumPy')")
    found = searched(tmp_path)
    assert found.stdout == expected
    assert found.stderr.count("made for another NumPy") == 1


def test_a_package_that_fails_is_warned_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quick_but_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(RuntimeWarning, match="quick_but_broken"):
        assert not can_import("quick_but_broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not can_import("quick_but_broken")
        assert not can_import("not_installed_at_all")


def test_a_gpu_that_cannot_be_used_is_done_without_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", fails)
    with pytest.warns(RuntimeWarning, match="no kernel image"):
        assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="no kernel image"):
        choose_device("cuda")
