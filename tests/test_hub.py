"""PyTorch Hub, from a local folder and as it finds a downloaded repository."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from helpers.errors import refuses
from helpers.paths import ROOT

import latentpatch.hub
from latentpatch import PICTURE_PRESETS, PRESETS, FileError, LatentPatch, ResynthesisSettings, WeightsError
from latentpatch import reshuffle as reshuffled
from latentpatch.autoencoders import weights
from latentpatch.registry import TASKS

TASKS_WITH_FUNCTIONS = [task for task in TASKS if hasattr(latentpatch, task)]
ENTRIES = sorted(
    [
        "diffusers_autoencoder",
        "embedded_autoencoder",
        "generator",
        "inversion",
        "latentpatch",
        "pixel_autoencoder",
        "taming_autoencoder",
        "tiny_autoencoder",
        "trained_model",
        *TASKS_WITH_FUNCTIONS,
    ]
)
#: Parameters of torch.hub.load, which never reach an entry.
RESERVED = {"repo_or_dir", "model", "source", "trust_repo", "force_reload", "verbose", "skip_validation"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        raise AssertionError(f"the network was to be used: {arguments}")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(weights, "download", refuse)


@pytest.fixture
def repository(offline: None) -> str:
    """The repository where PyTorch Hub keeps what it has downloaded, by the name it then has."""
    folder = Path(torch.hub.get_dir()) / "someone_latentpatch_main"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "hubconf.py", folder)
    shutil.copytree(ROOT / "latentpatch", folder / "latentpatch", ignore=shutil.ignore_patterns("__pycache__"))
    return "someone/latentpatch:main"


def entry(name: str) -> Callable[..., Any]:
    """Return an entry as hubconf.py has it."""
    return latentpatch.hub.TASK_ENTRIES.get(name) or getattr(latentpatch.hub, name)


def load(*arguments: Any, **options: Any) -> Any:
    return torch.hub.load(str(ROOT), *arguments, source="local", **options)


# --- What there is -----------------------------------------------------------------------------


def test_entries_are_listed(repository: str) -> None:
    assert sorted(torch.hub.list(repository, trust_repo=True, skip_validation=True)) == ENTRIES
    assert {"compose", "reshuffle", "retarget", "texture", "stylize", "analogy", "denoise"} <= set(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_explain_themselves(repository: str, name: str) -> None:
    text = torch.hub.help(repository, name, trust_repo=True, skip_validation=True)
    first, _, rest = text.strip().partition("\n")
    assert first.endswith(".")
    for parameter in inspect.signature(entry(name)).parameters:
        assert f"{parameter}:" in rest, parameter


@pytest.mark.parametrize("name", ENTRIES)
def test_no_parameter_is_swallowed_by_the_hub(name: str) -> None:
    assert not RESERVED & set(inspect.signature(entry(name)).parameters)


def test_dependencies_are_all_it_takes() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        names = importlib.import_module("hubconf").dependencies
    finally:
        sys.path.remove(str(ROOT))
        sys.modules.pop("hubconf", None)
    assert set(names) == {"torch", "numpy", "PIL", "safetensors", "tqdm"}
    assert all(importlib.util.find_spec(name) for name in names)


# --- Loading -----------------------------------------------------------------------------------


def test_a_model_of_a_folder(offline: None, faces: Path) -> None:
    model = load("latentpatch", faces, autoencoder="pixels:16", components=8, neighbors=2, patch_size=5)
    assert isinstance(model, LatentPatch)
    assert model.settings == ResynthesisSettings(neighbors=2, patch_size=5)
    assert (len(model.bank), model.components) == (12, 8)
    images = model.generate(2, seed=1).images
    assert torch.equal(images, LatentPatch("pixels", 8, model.settings).fit(faces).generate(2, seed=1).images)


def test_a_fitted_model_file(offline: None, tmp_path: Path, model: LatentPatch) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = load("latentpatch", str(path))
    assert torch.equal(loaded.generate(2).images, model.generate(2).images)
    assert load("latentpatch", path, preset="paper").settings == PRESETS["paper"]
    changed = load("latentpatch", path, stride=1)
    assert changed.settings == PRESETS["balanced"].changed(stride=1)
    with pytest.raises(WeightsError, match="was fitted with pixels"):
        load("latentpatch", path, autoencoder="taesd", pretrained=False)


def test_nothing_pretrained_needs_no_network(offline: None) -> None:
    for name, channels in (("taesd", 16), ("taesdxl", 16), ("taesd3", 64), ("taef1", 64), ("taef2", 128)):
        network = load("tiny_autoencoder", name, pretrained=False)
        assert network.encode(torch.rand(1, 3, 32, 32)).shape == (1, channels, 2, 2)
    assert load("pixel_autoencoder", 8).encode(torch.rand(1, 3, 32, 32)).shape == (1, 192, 4, 4)
    assert load("embedded_autoencoder").encode(torch.rand(1, 3, 32, 32)).shape == (1, 128, 2, 2)
    model = load("latentpatch", pretrained=False)
    assert model.autoencoder.spec.name == "embedded"
    assert model.fit(torch.rand(3, 3, 160, 160)).generate(1).images.shape == (1, 3, 160, 160)


def test_tasks_on_pictures(offline: None) -> None:
    picture, other = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    reshuffle = load("reshuffle", coarsest=10, iterations=1, steps=2)
    made = reshuffle(picture, n=2, seed=3, sweeps=1)
    assert torch.equal(made.images, reshuffled(picture, 2, seed=3, coarsest=10, iterations=1, steps=2, sweeps=1).images)
    assert made.offsets is not None
    assert load("texture", "gpdm", steps=2, last_steps=1)(picture, (16, 20)).images.shape == (1, 3, 16, 20)
    assert load("reshuffle", preset="gpnn-original").keywords["settings"] == PICTURE_PRESETS["gpnn-original"]
    assert load("analogy")(picture, other).method == "gpnn"
    assert load("denoise", sigma=10)(picture).settings.sigma == 10


def test_taming_without_the_network(offline: None) -> None:
    pytest.importorskip("taming.modules", reason="taming-transformers is not installed")
    network = load("taming_autoencoder", "vqgan-imagenet-1024", pretrained=False)
    assert network.codebook.shape == (1024, 256)


@pytest.mark.parametrize(
    ("entry", "options", "name"),
    [
        ("tiny_autoencoder", {"name": "pixels"}, "name"),
        ("taming_autoencoder", {"name": "taef2"}, "name"),
        ("pixel_autoencoder", {"downsampling": 0}, "downsampling"),
        ("latentpatch", {"autoencoder": "magic"}, "autoencoder"),
        ("latentpatch", {"autoencoder": "pixels", "patches": 3}, "settings"),
        ("latentpatch", {"autoencoder": "pixels", "preset": "best"}, "preset"),
        ("latentpatch", {"autoencoder": "pixels", "patch_size": 0}, "patch_size"),
        ("latentpatch", {"sources": "none.safetensors", "components": 4}, "components"),
        ("reshuffle", {"method": "quilting"}, "method"),
        ("reshuffle", {"method": "gpnn", "preset": "gpnn-original"}, "preset"),
        ("texture", {"preset": "gpnn-original"}, "preset"),
        ("texture", {"softness": 1.0}, "settings"),
        ("stylize", {"strength": 2.0}, "strength"),
    ],
)
def test_wrong_requests_are_named(offline: None, entry: str, options: dict[str, Any], name: str) -> None:
    with refuses(name):
        load(entry, **options)


@pytest.mark.parametrize(
    ("entry", "options", "error", "path"),
    [
        ("latentpatch", {"autoencoder": "pixels", "sources": "none"}, FileError, "none"),
        ("latentpatch", {"sources": "none.safetensors"}, FileError, r"none\.safetensors"),
        ("tiny_autoencoder", {"weights": "none"}, WeightsError, "none"),
    ],
)
def test_missing_files_are_named(
    offline: None, entry: str, options: dict[str, Any], error: type[Exception], path: str
) -> None:
    with pytest.raises(error, match=path):
        load(entry, **options)


SCRIPT = """
import json, socket, sys
sys.modules.update(dict.fromkeys(("numba", "scipy", "cv2")))  # as where they are not installed
import torch
def refuse(*_, **__): raise AssertionError("the network was to be used")
socket.socket = socket.getaddrinfo = refuse
names = torch.hub.list({repository!r}, trust_repo=True, skip_validation=True)
network = torch.hub.load({repository!r}, "tiny_autoencoder", pretrained=False, trust_repo=True, skip_validation=True)
model = torch.hub.load({repository!r}, "latentpatch", autoencoder="pixels", trust_repo=True, skip_validation=True)
images = model.fit(torch.rand(4, 3, 256, 256)).generate(1).images
reshuffle = torch.hub.load({repository!r}, "reshuffle", trust_repo=True, skip_validation=True)
assert reshuffle(torch.rand(3, 24, 32)).offsets.shape == (1, 24, 32, 3)
heavy = sorted(name for name in ("taming", "diffusers", "transformers", "torchvision") if name in sys.modules)
print(json.dumps([sorted(names), list(images.shape), heavy, sys.modules["latentpatch"].__file__]))
"""


def test_in_a_process_that_knows_nothing_of_it(repository: str, tmp_path: Path) -> None:
    """From another folder, found through the hub alone, importing nothing that is not needed."""
    (tmp_path / "elsewhere").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(repository=repository)],
        cwd=tmp_path / "elsewhere",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    names, shape, heavy, file = json.loads(result.stdout)
    assert names == ENTRIES
    assert shape == [1, 3, 256, 256]
    assert heavy == []
    assert Path(file).is_relative_to(torch.hub.get_dir())


# --- Examples ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "example",
    [
        latentpatch.hub.latentpatch,
        latentpatch.hub.tiny_autoencoder,
        latentpatch.hub.pixel_autoencoder,
        latentpatch.model.LatentPatch,
    ],
    ids=lambda example: example.__name__,
)
def test_examples_run(monkeypatch: pytest.MonkeyPatch, offline: None, example: Callable[..., Any]) -> None:
    monkeypatch.chdir(ROOT)
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(example, globs={"torch": torch, example.__name__: example})
    output: list[str] = []
    results = doctest.DocTestRunner().run(test, out=output.append)
    assert results.attempted >= 2
    assert results.failed == 0, "".join(output)
