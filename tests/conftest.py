"""Fixtures shared by the tests."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.draw_faces import draw_face
from helpers.live_server import LiveServer, missing
from helpers.paths import PORTRAITS, ROOT, SHARED
from torch import Tensor

import latentpatch
from latentpatch import LatentPatch
from latentpatch.io.images import read_image
from latentpatch.methods.latent.search import numba_backend as cpu
from latentpatch.runs.defaults import plain_torch

# LATENTPATCH_TEST_DTYPE=float64 runs the tests as in a program that has changed torch's default.
torch.set_default_dtype(getattr(torch, os.environ.get("LATENTPATCH_TEST_DTYPE", "float32")))


# Few searches for garbage: exports of graphs leave millions of objects, and each search would take half a second.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of the slowest tests first: of several processes none is then left alone with one at the end."""
    seconds: Counter[Path] = Counter()
    for item in items:
        for mark in item.iter_markers("slow"):
            seconds[item.path] += mark.args[0]
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """No test leaves another number of threads behind: several on a busy core take many times as long as one."""
    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before


@pytest.fixture
def float32() -> Iterator[None]:
    """PyTorch's own default type, for tests of parts that the package runs within :func:`plain_torch` alone."""
    with plain_torch():
        yield


@pytest.fixture
def pretend_threads() -> Iterator[Callable[[int], None]]:
    """A function that makes torch say that it has so many threads, while its own operations keep theirs."""
    count = [torch.get_num_threads()]

    def set_count(number: int) -> None:
        count[0] = number

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: count[0])
        patch.setattr(torch, "set_num_threads", set_count)
        yield set_count


@pytest.fixture(params=["torch", "numba"])
def cpu_search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What searches on a CPU when nothing else is said."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="Numba is not installed")
    monkeypatch.setattr(cpu, "installed", lambda: request.param == "numba")
    return str(request.param)


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve drawn faces, 64 pixels."""
    folder = tmp_path_factory.mktemp("faces")
    for seed in range(12):
        draw_face(seed, 64).save(folder / f"face{seed:02d}.png")
    return folder


@pytest.fixture(scope="session")
def face_images(faces: Path) -> Tensor:
    """(12, 3, 64, 64)"""
    return torch.stack([read_image(path) for path in sorted(faces.iterdir())])


@pytest.fixture
def model(face_images: Tensor) -> LatentPatch:
    """A model of the drawn faces on a 16x16 grid of raw pixels."""
    return LatentPatch("pixels:4", components=8).fit(face_images)


@pytest.fixture
def shared() -> Path:
    """The folder of portraits and weights that development machines have beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{os.path.relpath(SHARED, ROOT)} (portraits and weights) is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that ``latentpatch archive`` makes when told nothing; an installed package is told the pictures."""
    if (lacking := missing()) is not None:
        pytest.skip(f"TorchServe cannot run on this machine: it has no {lacking}")
    path = tmp_path_factory.mktemp("store") / "latentpatch.mar"
    sources = [] if Path(latentpatch.__file__).is_relative_to(ROOT) else [PORTRAITS]
    subprocess.run([sys.executable, "-m", "latentpatch", "archive", *sources, "-q", "-o", path], check=True)
    return path


@pytest.fixture(scope="session")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """TorchServe with that archive, for tests that leave it as they find it."""
    with LiveServer(archive, tmp_path_factory.mktemp("torchserve")) as live:
        yield live
