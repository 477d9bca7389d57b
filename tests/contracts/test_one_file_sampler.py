"""A sampler with one new setting, in one file of a user: it works everywhere that samplers do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT

from latentpatch import LatentPatch

SAMPLER = '''
from dataclasses import dataclass

import torch

from latentpatch import Sampler, Settings, register, setting


@dataclass(frozen=True)
class StripesSettings(Settings):
    stripe_width: int = setting(3, "width of a stripe, in latent cells", minimum=1, limit=9, metavar="CELLS")


@register
class Stripes(Sampler):
    """Take vertical stripes from one source after another."""

    name = "stripes"
    Settings = StripesSettings

    def noise_dim(self, settings, context):
        return 1

    def sample(self, sources, noise, settings, reference, mask):
        height, width = sources.keys.shape[1:3]
        first = (noise[:, :1] * sources.total).long()
        columns = (first + torch.arange(width) // settings.stripe_width) % sources.total
        return columns[:, None].expand(-1, height, -1).contiguous()
'''


#: What Python, the tables of settings and a server make of it, as JSON: all in one process.
USES = """
import contextlib, io, json, my_samplers, sys
from latentpatch import LatentPatch
from latentpatch.registry import import_plugins
from latentpatch.settings import main
import_plugins()
found = {}
with contextlib.redirect_stdout(io.StringIO()) as table:
    main()
found["table"] = table.getvalue()
model = LatentPatch.load(sys.argv[1])
settings = my_samplers.StripesSettings(stripe_width=5)
found["maps"] = model.generate(2, settings=settings).index.tolist()
try:
    import pydantic
except ImportError:
    pass
else:
    from latentpatch.serving import Service, json_schema, parse
    requests = {"sampler": "stripes", "settings": {"stripe_width": 4}}, {"operation": "info"}
    made, info = Service(model).run([parse(request) for request in requests])
    found["served"] = {
        "settings": made.report["settings"],
        "range": info.report["ranges"]["stripe_width"],
        "in schema": "stripe_width" in json.dumps(json_schema()),
        "in info": "stripes" in info.report["samplers"],
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "my_samplers.py").write_text(SAMPLER)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "LATENTPATCH_PLUGINS": "my_samplers"}


@pytest.fixture(scope="module")
def fitted(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file."""
    path = tmp_path_factory.mktemp("fitted") / "model.safetensors"
    LatentPatch("pixels:4", components=8).fit(faces, size=64).save(path)
    return path


def run(environment: dict[str, str], *arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def used(environment: dict[str, str], fitted: Path) -> dict[str, Any]:
    """The output of :data:`USES`."""
    return dict(json.loads(run(environment, "-c", USES, fitted)))


def test_help_and_tables_list_it(environment: dict[str, str], used: dict[str, Any]) -> None:
    text = " ".join(run(environment, "-m", "latentpatch", "generate", "--help").split())
    assert "stripes" in text
    assert "--stripe-width CELLS width of a stripe, in latent cells" in text
    assert "## Sampler `stripes`\n\nTake vertical stripes from one source after another." in used["table"]
    assert "| `--stripe-width` |  | 3 | at least 1 | width of a stripe, in latent cells |" in used["table"]


def test_commands_and_python_make_the_same_images(
    environment: dict[str, str], used: dict[str, Any], fitted: Path, tmp_path: Path
) -> None:
    run(environment, "-m", "latentpatch", "generate", fitted, "--sampler", "stripes", "--stripe-width", 5, "-n", 2,
        "-q", "-o", tmp_path)  # fmt: skip
    report = json.loads((tmp_path / "generation.json").read_text())
    assert (report["sampler"], report["settings"]) == ("stripes", {"stripe_width": 5})
    assert [image["index"] for image in report["images"]] == used["maps"]


def test_a_server_takes_it(used: dict[str, Any]) -> None:
    pytest.importorskip("pydantic", reason="the serve extra is not installed")
    assert used["served"] == {"settings": {"stripe_width": 4}, "range": [1, 9], "in schema": True, "in info": True}


def test_a_plugin_that_is_missing_is_named(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "latentpatch", "generate", "nothing", "-o", "out"]
    broken = {**environment, "LATENTPATCH_PLUGINS": "no_such_module"}
    done = subprocess.run(command, env=broken, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr
