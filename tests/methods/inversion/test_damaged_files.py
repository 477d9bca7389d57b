"""Files of generators and of latents that are damaged or hostile: one error, and nothing is opened or fetched."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses, refuses_file
from safetensors.torch import save_file
from torch import Tensor

from latentpatch.autoencoders import weights
from latentpatch.cli.entry import main
from latentpatch.errors import FileError, WeightsError
from latentpatch.generators import load_generator
from latentpatch.io.stored import write_stored
from latentpatch.methods.inversion import StoredInversion, interpolate, stylegan1, stylegan2, weights_of
from latentpatch.methods.inversion.dcgan import DCGAN

_STATES = {
    "stylegan2": lambda: stylegan2.random_state(16, 8, 4),
    "stylegan1": lambda: stylegan1.random_state(16, 8, 4),
    "dcgan": lambda: DCGAN().state_dict(),
}
_FORMAT = "latentpatch-inversion/1"


def changed(state: dict[str, Tensor], chance: random.Random) -> dict[Any, Any]:
    """Return a state dict with one tensor of another shape, type, value or name."""
    name = chance.choice(sorted(state))
    value = state[name]
    kind = chance.randrange(9)
    if kind == 0:
        return {key: each for key, each in state.items() if key != name}
    if kind == 1:
        return state | {name: torch.full_like(value.float(), float("nan"))}
    if kind == 2:
        return state | {name: value[None]}
    if kind == 3:
        return {**state, 3: value}
    kept = value if value.ndim else value[None]
    return state | {
        name: (value.new_zeros(()), value.new_zeros(0), kept[:0], torch.cat([kept, kept]), value.bool())[kind - 4]
    }


@pytest.mark.parametrize("name", _STATES)
def test_tensors_that_do_not_fit_are_refused_when_the_file_is_read(name: str, tmp_path: Path) -> None:
    chance, path, made = random.Random(name), tmp_path / "g.pt", 0
    state = _STATES[name]()
    for _ in range(10 if name == "dcgan" else 40):
        torch.save(changed(state, chance), path)
        try:
            generator = load_generator(name, str(path))
        except WeightsError:
            continue
        made += 1
        assert generator.sample([0]).shape[1] == 3
    assert made < 20  # such as more of a tensor that is not used


def test_a_small_file_cannot_ask_for_huge_pictures(tmp_path: Path) -> None:
    state = {key: each for key, each in stylegan2.random_state(16, 8, 4).items() if "noises" not in key}
    state |= {
        key.replace(".3.", f".{i}."): each for i in range(4, 30) for key, each in state.items() if "convs.3." in key
    }
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(WeightsError, match="at most 4096 pixels"):
        load_generator("stylegan2", str(tmp_path / "g.pt"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """A generator's file, and the header and tensors of latents of two pictures."""
    path = tmp_path_factory.mktemp("generator") / "g.safetensors"
    save_file(stylegan2.random_state(16, 8, 4), path)
    generator = load_generator(f"stylegan2:{path}")
    tensors = {"styles": generator.random_styles([0, 1]).contiguous(), "noise.0": torch.zeros(2, 1, 4, 4).float()}
    return path, {"ids": ["a", "b"], "seed": 0, "generator": generator.identity(), "record": {}}, tensors


_BAD_FACTS: tuple[Any, ...] = (
    *(None, 3, "x", [], {}, {"sha256": "x"}, {"sha256": "x", "name": "dcgan"}),
    {"sha256": "x", "name": "vqgan-ffhq:/etc/passwd", "image_size": [16, 16]},
    {"sha256": "x", "name": "diffusers:someone/model", "image_size": [16, 16]},
    *(
        {"sha256": "x", "name": "pixels", "image_size": each}
        for each in (3, [3], [1, 2, 3], [10**400, True], ["a", "b"])
    ),
)


@pytest.mark.parametrize("facts", _BAD_FACTS, ids=repr)
def test_headers_of_latents_are_checked(found: Any, tmp_path: Path, facts: Any) -> None:
    _, header, tensors = found
    write_stored(tmp_path / "l.safetensors", _FORMAT, header | {"generator": facts}, tensors)
    with refuses_file("l.safetensors", "malformed"):
        StoredInversion.read(tmp_path / "l.safetensors")


def test_a_file_of_latents_has_nothing_fetched(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, header, tensors = found
    facts = {"sha256": "x", "name": "taef2", "image_size": [16, 16]}
    write_stored(tmp_path / "l.safetensors", _FORMAT, header | {"generator": facts}, tensors)
    monkeypatch.setattr(weights, "download", lambda *_: pytest.fail("a download"))
    assert main(["interpolate", str(tmp_path / "l.safetensors"), "-o", str(tmp_path / "out")]) == 1
    assert "not on this machine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("by", ["line", "random"])
def test_more_pictures_than_memory_are_refused_at_once(
    found: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    path, header, tensors = found
    write_stored(tmp_path / "l.safetensors", _FORMAT, header, tensors)
    words = ["interpolate", tmp_path / "l.safetensors", "-n", 10**7, "--by", by, "--generator", f"stylegan2:{path}"]
    assert main([*map(str, words), "-o", str(tmp_path / "out")]) == 1
    assert "-n must be smaller" in capsys.readouterr().err
    generator = load_generator(f"stylegan2:{path}")
    with refuses("n"):
        weights_of(by, 2, 10**12)
    with refuses("n"):
        interpolate(generator, tensors["styles"], [], torch.tensor([[0.5, 0.5]]).expand(10**9, -1))


def test_latents_of_other_tensors_are_refused(found: Any, tmp_path: Path) -> None:
    _, header, tensors = found
    for name, value in {"styles": torch.zeros(()), "noise.0": torch.zeros(2, 4, 4), "noise.7": torch.zeros(1)}.items():
        write_stored(tmp_path / "l.safetensors", _FORMAT, header, tensors | {name: value})
        with pytest.raises(FileError):
            StoredInversion.read(tmp_path / "l.safetensors")
