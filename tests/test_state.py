"""State that a model keeps: which autoencoder made its bank, after conversions, and after a load that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from latentpatch import LatentPatch
from latentpatch.autoencoders import load_autoencoder


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(pictures: Tensor) -> LatentPatch:
    return LatentPatch(components=4).fit(pictures)


def test_state_dicts_tell_which_autoencoder_made_the_bank(model: LatentPatch, pictures: Tensor, tmp_path: Path) -> None:
    """Defect M7: details of one autoencoder were added to pictures of another, and sources of another were added."""
    model.save(tmp_path / "m.safetensors")
    other = load_autoencoder("taef2", pretrained=False)
    first = LatentPatch.load(tmp_path / "m.safetensors", other)
    second = LatentPatch(other)
    second.load_state_dict(first.state_dict())
    for each in (first, second, second.subset(torch.arange(3))):
        assert not each.has_residuals
        assert (each.origin()["name"], each.default_decoding(each.settings)) == ("embedded", "blend")
        with refuses("autoencoder"):
            each.add(pictures[:1], ids=["new"])
    assert torch.equal(first.generate(1).images, second.generate(1).images)
    second.save(tmp_path / "n.safetensors")
    assert LatentPatch.load(tmp_path / "n.safetensors").origin() == model.origin()
    back = LatentPatch()
    back.load_state_dict(model.state_dict())
    assert back.has_residuals


@pytest.mark.parametrize("convert", ["half", "bfloat16", "double"])
def test_converted_models_can_be_saved_and_loaded(
    pictures: Tensor, convert: str, tmp_path: Path, model: LatentPatch
) -> None:
    """Defect M8: what was saved after a conversion could not be loaded."""
    changed = getattr(LatentPatch(components=4).fit(pictures), convert)()
    changed.save(tmp_path / "m.safetensors")
    loaded = LatentPatch.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.generate(1).images, model.generate(1).images)
    changed.float().save(tmp_path / "n.safetensors")
    assert (tmp_path / "n.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


@pytest.mark.parametrize("fault", ["nan latents", "missing", "misshapen weight", "bad settings"])
@pytest.mark.parametrize("is_fitted", [False, True])
@pytest.mark.parametrize("assign", [False, True])
def test_a_load_that_fails_changes_nothing(
    model: LatentPatch, pictures: Tensor, fault: str, is_fitted: bool, assign: bool
) -> None:
    """Defect L20: a model was half loaded, and made pictures of NaN."""
    state = {name: value.clone() for name, value in LatentPatch(components=4).fit(1 - pictures).state_dict().items()}
    if fault == "nan latents":
        state["bank.latents"].fill_(float("nan"))
    elif fault == "missing":
        del state["pca.mean"]
    elif fault == "misshapen weight":
        name = next(name for name in state if name.endswith("weight"))
        state[name] = state[name][:1]
    else:
        state["_extra_state"] = torch.tensor(
            list(b'{"components": 4, "settings": {"sampler": "no"}}'), dtype=torch.uint8
        )
    target = LatentPatch(components=4)
    if is_fitted:
        target.load_state_dict(model.state_dict())
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises((RuntimeError, ValueError)):
        target.load_state_dict(state, assign=assign)
    after = target.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    if is_fitted:
        assert torch.equal(target.generate(1).images, model.generate(1).images)
        bank = target.bank
        with pytest.raises(ValueError, match="finite"):
            bank.load_state_dict({**bank.state_dict(), "latents": torch.full_like(bank.latents, float("nan"))})
        assert torch.equal(target.generate(1).images, model.generate(1).images)


def test_state_dicts_are_contiguous(model: LatentPatch, tmp_path: Path) -> None:
    """Defect: safetensors.torch.save_file refused 24 of 66 tensors."""
    save_file(model.state_dict(), tmp_path / "s.safetensors")
    for assign in (False, True):
        copy = nn.Sequential(LatentPatch(components=4))
        copy.load_state_dict({f"0.{name}": value for name, value in load_file(tmp_path / "s.safetensors").items()},
                             assign=assign)  # fmt: skip
        assert torch.equal(copy[0].generate(1).images, model.generate(1).images)
        convolutions = [each for each in copy.modules() if isinstance(each, nn.Conv2d)]
        assert all(each.weight.is_contiguous(memory_format=torch.channels_last) for each in convolutions)


class _Clones(TorchDispatchMode):
    """Count the elements of tensors that are cloned within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.ops.aten.clone.default:
            self.count += arguments[0].numel()
        return function(*arguments, **(options or {}))


def test_loading_copies_nothing_but_what_it_writes(model: LatentPatch) -> None:
    """A promise that a failed load changes nothing may not take a second copy of everything."""
    state = model.state_dict()
    weights = sum(value.numel() for name, value in state.items() if name.startswith("autoencoder."))
    bank = {name: value for name, value in state.items() if not name.startswith("autoencoder.")}
    for loaded, options, most in ((state, {"assign": True}, 0), (bank, {"strict": False}, 0), (state, {}, weights)):
        target = LatentPatch(components=4)
        with _Clones() as clones:
            target.load_state_dict(loaded, **options)
        assert clones.count <= most
        assert torch.equal(target.generate(1).images, model.generate(1).images)
