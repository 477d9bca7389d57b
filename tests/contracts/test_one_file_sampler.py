"""A sampler with one new setting, in one file of a user: it works everywhere that samplers do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

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


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "my_samplers.py").write_text(SAMPLER)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "LATENTPATCH_PLUGINS": "my_samplers"}


def run(environment: dict[str, str], *arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_help_and_tables_list_it(environment: dict[str, str]) -> None:
    text = " ".join(run(environment, "-m", "latentpatch", "generate", "--help").split())
    assert "stripes" in text
    assert "--stripe-width CELLS width of a stripe, in latent cells" in text
    script = "import my_samplers; from latentpatch.settings import main; main()"
    table = run(environment, "-c", script)
    assert "## Sampler `stripes`\n\nTake vertical stripes from one source after another." in table
    assert "| `--stripe-width` |  | 3 | at least 1 | width of a stripe, in latent cells |" in table


def test_commands_and_python_make_the_same_images(environment: dict[str, str], faces: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    run(environment, "-m", "latentpatch", "fit", faces, "--autoencoder", "pixels:4", "--components", 8, "--size", 64,
        "-q", "-o", model)  # fmt: skip
    run(environment, "-m", "latentpatch", "generate", model, "--sampler", "stripes", "--stripe-width", 5, "-n", 2, "-q",
        "-o", tmp_path / "out")  # fmt: skip
    report = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert (report["sampler"], report["settings"]) == ("stripes", {"stripe_width": 5})
    script = (
        "import my_samplers, sys; from latentpatch import LatentPatch\n"
        "model = LatentPatch.load(sys.argv[1])\n"
        "settings = my_samplers.StripesSettings(stripe_width=5)\n"
        "print(model.generate(2, settings=settings).index.tolist())"
    )
    maps = json.loads(run(environment, "-c", script, model))
    assert [image["index"] for image in report["images"]] == maps


def test_a_server_takes_it(environment: dict[str, str], faces: Path) -> None:
    pytest.importorskip("pydantic", reason="the serve extra is not installed")
    script = (
        "import json, sys\n"
        "from latentpatch.registry import import_plugins\n"
        "import_plugins()\n"
        "from latentpatch import LatentPatch\n"
        "from latentpatch.serving import Service, json_schema, parse\n"
        "service = Service(LatentPatch('pixels:4', components=8).fit(sys.argv[1], size=64))\n"
        "made, info = service.run([parse({'sampler': 'stripes', 'settings': {'stripe_width': 4}}), "
        "parse({'operation': 'info'})])\n"
        "print(json.dumps([made.report['settings'], info.report['ranges']['stripe_width'], 'stripe_width' in "
        "json.dumps(json_schema()), 'stripes' in info.report['samplers']]))"
    )
    settings, values, in_schema, in_info = json.loads(run(environment, "-c", script, faces))
    assert settings == {"stripe_width": 4}
    assert values == [1, 9]
    assert in_schema
    assert in_info


def test_a_plugin_that_is_missing_is_named(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "latentpatch", "generate", "nothing", "-o", "out"]
    broken = {**environment, "LATENTPATCH_PLUGINS": "no_such_module"}
    done = subprocess.run(command, env=broken, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr
