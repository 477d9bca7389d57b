"""A model on a GPU: nothing that it does mixes tensors of two devices, and results are those of the CPU.

A stand-in takes the place of the GPU, see :mod:`helpers.other_device`; the kernels for GPUs have tests of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.other_device import other_device, values
from torch import Tensor

import latentpatch
from latentpatch import DiffusionSettings, LatentPatch, RasterSettings, ResynthesisSettings, load_autoencoder
from latentpatch.results import Generation
from latentpatch.settings import Settings
from latentpatch.tasks import generating

# The pictures are random, so they have nothing at the same place.
pytestmark = pytest.mark.filterwarnings("ignore::latentpatch.errors.RegistrationWarning")

PICTURES = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
CHOSEN = torch.tensor([True, True, False, True, True, True, True, True])
HOLE = torch.zeros(128, 128, dtype=torch.bool)
HOLE[30:70, 30:90] = True
RASTER = RasterSettings(patch_size=3, scales=2)
SEARCHES: list[Settings | str] = [
    "random-cells", "random-patches", RASTER, RasterSettings(patch_size=3, scales=1, neighbors=2), DiffusionSettings(),
    ResynthesisSettings(), ResynthesisSettings(max_share=0.5), ResynthesisSettings(best_of=2),
    ResynthesisSettings(symmetric=True), ResynthesisSettings(bands=2),
    ResynthesisSettings(neighbors=2, switch_cost=0.1, reuse_cost=0.1),
]  # fmt: skip
GRADIENT = 10.0  # about the size of those of a sum of pixels
HERE = {"explain", "provenance"}  # acts whose results are of the CPU, whatever the model's device
Move = Callable[[Tensor], Tensor]
Act = Callable[[LatentPatch, Move], Tensor]


@pytest.fixture(scope="module")
def model() -> LatentPatch:
    return LatentPatch("embedded", components=8).fit(PICTURES)


def generated(model: LatentPatch, choice: Settings | str) -> Generation:
    named = {"sampler": choice} if isinstance(choice, str) else {"settings": choice}
    return model.generate(3, **named)


def changed(model: LatentPatch, change: Callable[[LatentPatch], object]) -> Tensor:
    own = copy.deepcopy(model)
    change(own)
    return own.generate(2).images


def gradients(model: LatentPatch) -> Tensor:
    latents = model.latents_at(model.generate(1).index).requires_grad_()
    model.decode_latents(latents).sum().backward()
    assert latents.grad is not None
    return latents.grad / GRADIENT


def together(model: LatentPatch) -> Tensor:
    return torch.cat([each.images for each in model.run_together([generating(model, 2), generating(model, 1, seed=9)])])


def reopened(model: LatentPatch, path: Path) -> Tensor:
    model.save(path)
    return LatentPatch.load(path).generate(2).images


ACTS: dict[str, Act] = {
    "blend": lambda m, to: m.generate(2, decoding="blend").images,
    "gather": lambda m, to: m.generate(2, decoding="gather").images,
    "unproject": lambda m, to: m.generate(2, decoding="unproject").images,
    "where": lambda m, to: m.generate(2, where=to(CHOSEN)).images,
    "where, raster": lambda m, to: m.generate(2, where=to(CHOSEN), settings=RASTER).images,
    "reference": lambda m, to: m.generate(2, reference=to(PICTURES[:1])).index,
    "reference, raster": lambda m, to: m.generate(2, reference=to(PICTURES[:1]), settings=RASTER).index,
    "reference, diffusion": lambda m, to: m.generate(2, reference=to(PICTURES[:1]), settings=DiffusionSettings()).index,
    "reconstruct": lambda m, to: m.reconstruct(to(PICTURES[:2])),
    "inpaint": lambda m, to: m.inpaint(to(PICTURES[0]), to(HOLE), 2, settings=RASTER).images,
    "edit": lambda m, to: m.edit(to(PICTURES[0]), to(PICTURES[1]), to(HOLE)).images,
    "latents of pictures": lambda m, to: m.latents_of(to(PICTURES[:2])),
    "fit": lambda m, to: changed(m, lambda own: own.fit(to(PICTURES[:5]))),
    "fit, mirrored": lambda m, to: changed(m, lambda own: own.fit(to(PICTURES[:3]), mirrored=True)),
    "fit, grey": lambda m, to: changed(m, lambda own: own.fit(to(PICTURES[:5, :1].expand(-1, 3, -1, -1)))),
    "add": lambda m, to: changed(m, lambda own: own.add(to(PICTURES[:2] / 2), ids=["a", "b"])),
    "remove": lambda m, to: changed(m, lambda own: own.remove(["2"])),
    "subset": lambda m, to: m.subset(to(CHOSEN)).generate(2).images,
    "explain": lambda m, to: latentpatch.explain(m, to(PICTURES[0])).index,
    "soft": lambda m, to: m.soft(to(PICTURES[:1])).images,
    "module": lambda m, to: m(to(torch.full((2, m.noise_dim), 0.4))),
    "search": lambda m, to: m.search(to(torch.full((2, m.noise_dim), 0.4))),
    "batch": lambda m, to: together(m),
    "source": lambda m, to: m.source_picture(3),
    "provenance": lambda m, to: m.generate(2).provenance(),
    "gradients": lambda m, to: gradients(m),
}  # fmt: skip


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """Sums in another order may move a residual by two levels of 255."""
    torch.testing.assert_close(values(found), expected, rtol=0, atol=0.01)


def test_mixed_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in itself: what a GPU refuses and what it allows."""
    here = torch.arange(6.0)
    with other_device(monkeypatch) as device:
        there = here.to(device)
        assert there.device == device
        assert torch.equal((there + 1)[torch.tensor([0, 2])].cpu(), torch.tensor([1.0, 3.0]))
        for mixes in (
            lambda: there + here,
            lambda: here[there.long()],
            lambda: torch.zeros(6).index_copy_(0, there.long(), here),
            lambda: there.index_select(0, torch.tensor([1])),
            lambda: there.index_put_((torch.tensor([0, 1]),), torch.ones(2)),
        ):
            with pytest.raises(RuntimeError, match="device"):
                mixes()


@pytest.mark.parametrize("choice", SEARCHES, ids=str)
def test_searches(choice: Settings | str, model: LatentPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_device(monkeypatch) as device:
        found = generated(copy.deepcopy(model).to(device), choice)
        assert found.index.device == found.images.device == device
    expected = generated(model, choice)
    assert torch.equal(values(found.index), expected.index)
    assert_equal(found.images, expected.images)


@pytest.mark.parametrize("name", ACTS)
def test_acts(name: str, model: LatentPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With inputs of the CPU, and with inputs of the device; some acts have none."""
    expected = ACTS[name](model, lambda tensor: tensor)
    with other_device(monkeypatch) as device:
        there = copy.deepcopy(model).to(device)
        for move in (lambda tensor: tensor, lambda tensor: tensor.to(device)):
            found = ACTS[name](there, move)
            assert (found.device == device) == (name not in HERE)
            assert_equal(found, expected)


def test_files(model: LatentPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reopened(model, tmp_path / "cpu.safetensors")
    with other_device(monkeypatch) as device:
        found = reopened(copy.deepcopy(model).to(device), tmp_path / "gpu.safetensors")
    assert_equal(found, expected)
    assert (tmp_path / "cpu.safetensors").read_bytes() == (tmp_path / "gpu.safetensors").read_bytes()


def test_a_model_is_where_its_autoencoder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = LatentPatch("embedded").fit(PICTURES).generate(2).images
    with other_device(monkeypatch) as device:
        model = LatentPatch(load_autoencoder("embedded").to(device))
        assert model.bank.keys.device == model.pca.mean.device == device
        found = model.fit(PICTURES).generate(2).images
    assert_equal(found, expected)
