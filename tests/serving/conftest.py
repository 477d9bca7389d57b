"""Fixtures of the serving tests: a small model behind limits, and the ASGI server with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from latentpatch import LatentPatch, RasterSettings
from latentpatch.io.images import read_image
from latentpatch.methods.trained.settings import SinGANSettings
from latentpatch.training.methods import train_model

if TYPE_CHECKING:
    from helpers.live_app import Live

    from latentpatch.serving import Service


@pytest.fixture(scope="session")
def service() -> Service:
    """Drawn faces, small for speed, and an autoencoder whose results could depend on the batch."""
    pytest.importorskip("pydantic", reason="the serve extra is not installed")
    from helpers import traffic

    from latentpatch.serving import Service

    pictures = torch.stack([read_image(traffic.face(seed), (128, 128)) for seed in range(12)])
    model = LatentPatch("embedded", settings=RasterSettings(patch_size=4), components=8)
    return Service(model.fit(pictures, attributes={str(i): {"even": str(i % 2 == 0)} for i in range(12)}))


@pytest.fixture(scope="session")
def default_service() -> Service:
    """Drawn faces of 256 pixels with the default sampler, and colors as attributes."""
    pytest.importorskip("pydantic", reason="the serve extra is not installed")
    from helpers import traffic

    from latentpatch.serving import Service

    pictures = torch.stack([read_image(traffic.face(seed)) for seed in range(12)])
    attributes = {str(i): {"colour": "red" if i % 2 else "green"} for i in range(12)}
    return Service(LatentPatch("embedded", components=8).fit(pictures, attributes=attributes))


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a SinGAN after two steps a scale, for pictures of 24 rows and 32 columns."""
    folder = tmp_path_factory.mktemp("trained")
    picture = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    model = train_model("singan", [picture], folder / "training", SinGANSettings(steps=2, width=4, coarsest=12))
    model.save(folder / "stones.safetensors")
    return folder / "stones.safetensors"


@pytest.fixture(scope="module")
def live(service: Service) -> Iterator[Live]:
    """The ASGI server, live for the tests of a file."""
    from helpers.live_app import Live

    with Live(service) as server:
        yield server
