"""What a model file may cause: nothing is fetched or opened, and every malformed file ends in one clear sentence."""

from __future__ import annotations

import copy
import json
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.autoencoders import load_autoencoder, weights
from latentpatch.bank import format
from latentpatch.bank.fitted_module import pack, unpack
from latentpatch.cli._output import describe_model
from latentpatch.errors import FileError, LatentPatchError, SettingError

_MUTATIONS = 2000
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 17, 10**6, 10**30, 10**400, -(2**63), 0.5, -0.0, 5e-324, 1e308),
    *(float("nan"), float("inf"), "", "0", "1", "resynthesis", "pixels", "embedded", "a\x00b\ud800\x1b[2J", "x" * 4096),
    *([], {}, [[]], [None], [1, 2], {"a": 1}, [["a", "b"]], [0] * 300, {"sampler": "raster"}),
)
_DTYPES = (torch.int16, torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.int8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a small model file."""
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures[1] = pictures[1].mean(0)  # grey
    rows = {"a": {"kind": "one"}, "b": {"kind": "two"}}
    model = LatentPatch("pixels:8", components=3).fit(pictures, ids=list("abcd"), attributes=rows, residuals=True)
    model.save(path)
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["latentpatch"]), load_file(path)


def _changed_json(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with one part replaced, removed or repeated."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def visit(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], (dict, list)):
                visit(part[key])

    visit(value)
    part, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del part[key]
    elif kind == 1 and isinstance(part, list):
        part.append(copy.deepcopy(part[key]))
    elif kind == 2 and isinstance(part, dict):
        part[str(chance.choice(_VALUES))[:20]] = part[key]
    else:
        part[key] = chance.choice(_VALUES)
    return value


def _changed_tensor(value: Tensor, chance: random.Random) -> Tensor:
    kind = chance.randrange(8)
    if kind == 0:
        return value.to(chance.choice(_DTYPES))
    if kind == 1:
        return value.flatten()[:1].reshape(()) if value.numel() else torch.zeros(())
    if kind == 2:
        return value[: chance.randrange(2)] if value.ndim else value[None]
    if kind == 3:
        return value.transpose(0, -1) if value.ndim else value.expand(3)
    if kind == 4:
        return torch.cat([value, value]) if value.ndim else value.repeat(2, 2)
    if kind == 5:
        return torch.zeros(chance.choice([(0,), (0, 2, 2, 3), (1,), (4, 4, 4, 4), (2,) * 5]), dtype=value.dtype)
    changed = value.clone().flatten()
    extremes: list[float] = [float("nan"), float("inf"), -6e4, 0.0]
    if not value.is_floating_point():
        extremes = [0, 1, 127, torch.iinfo(value.dtype).max, torch.iinfo(value.dtype).min]
    for _ in range(1 + chance.randrange(3)):
        if len(changed):
            changed[chance.randrange(len(changed))] = chance.choice(extremes)
    return changed.reshape(value.shape)


def _mutation(header: dict[str, Any], tensors: dict[str, Tensor], chance: random.Random) -> bytes:
    """Return the bytes of a model file with a fault."""
    header, tensors, kind = copy.deepcopy(header), dict(tensors), chance.randrange(10)
    name = chance.choice(list(tensors))
    if kind < 3:
        header = _changed_json(header, chance) if chance.random() < 0.95 else chance.choice(_VALUES)
    elif kind < 5:
        name = "bank._extra_state"
        tensors[name] = pack(_changed_json(unpack(tensors[name]), chance))
    elif kind < 7:
        tensors[name] = _changed_tensor(tensors[name], chance)
    elif kind == 7:
        other = chance.choice([*tensors, "bank.", "pca", "other.keys", "bank.details", "bank.masks"])
        tensors[other] = tensors.pop(name) if chance.random() < 0.5 else tensors[name].clone()
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    data = bytearray(save(tensors, {"latentpatch": json.dumps(header)}))
    if kind == 8:
        for _ in range(1 + chance.randrange(4)):
            data[chance.randrange(len(data) if chance.random() < 0.5 else 2000)] = chance.randrange(256)
    if kind == 9:
        end = chance.randrange(len(data))
        data = data[:end] if chance.random() < 0.7 else data + data[:end]
    return bytes(data)


def _outcome(path: Path, again: Path) -> str | None:
    """Load, describe, use and save a model file; return the message of a refusal."""
    try:
        describe_model(format.ModelFile.read(path))
        model = LatentPatch.load(path)
        model.generate(1)
        model.save(again)
    except (LatentPatchError, SettingError) as error:  # settings may be sound, and not suit four sources
        return str(error)
    return None


@pytest.mark.parametrize("is_mapped", [False, True])
def test_malformed_model_files_end_in_one_sentence(
    stored: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mapped: bool
) -> None:
    """Mutations of headers, records, tensors and bytes: a file works, or is refused with one line; nothing else."""
    if is_mapped:
        monkeypatch.setattr(format, "MAPPED_FROM", 0)
    path, refusals = tmp_path / "m.safetensors", 0
    seeds = range(is_mapped * _MUTATIONS // 2, (1 + is_mapped) * _MUTATIONS // 2)
    for seed in seeds:
        path.unlink(missing_ok=True)  # the former one may be mapped
        path.write_bytes(_mutation(*stored, random.Random(seed)))
        message = _outcome(path, tmp_path / "again.safetensors")
        if message is not None:
            refusals += 1
            assert 10 < len(message) < 1000, (seed, message)
            assert "\n" not in message, (seed, message)
            assert "Traceback" not in message
    assert len(seeds) // 3 < refusals < len(seeds)


def _write(path: Path, stored: tuple[dict[str, Any], dict[str, Tensor]], **facts: Any) -> Path:
    """Write the model file with other facts of its autoencoder."""
    header, tensors = stored
    header = {**header, "autoencoder": {**header["autoencoder"], **facts}}
    path.write_bytes(save(tensors, {"latentpatch": json.dumps(header)}))
    return path


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("diffusers", "somebody/something@vae"),
        ("diffusers", "{}"),
        ("vqgan-ffhq", "{}/secret"),
        ("taef2", "{}"),
        ("embedded", "{}"),
        ("taef2", None),
        ("taesd", None),
        ("vqgan-faceshq", None),
    ],
)
def test_nothing_is_fetched_or_opened_because_a_file_says_so(
    stored: tuple[dict[str, Any], dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    argument: str | None,
) -> None:
    """Defect M12: a model file named a repository, which was asked for, and any path, which was opened."""
    argument = argument and argument.format(tmp_path)
    (tmp_path / "secret").write_text("not weights")
    path = _write(tmp_path / "m.safetensors", stored, name=name, argument=argument, latent_space=None)
    fetched, built = [], []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: fetched.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: fetched.append(address))
    monkeypatch.setattr(weights, "download", lambda *address, **_: fetched.append(address))
    load = format.load_autoencoder
    monkeypatch.setattr(format, "load_autoencoder", lambda *names, **_: built.append(names) or load(*names))
    with pytest.raises(LatentPatchError, match=r"you name it, too|the autoencoder, too|needs the package|by itself"):
        LatentPatch.load(path)
    assert not fetched
    assert built == ([] if argument else [(name, None)])


def test_who_names_an_autoencoder_has_it(stored: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path) -> None:
    path = _write(tmp_path / "m.safetensors", stored, name="pixels", argument="8")
    assert len(LatentPatch.load(path).bank) == len(LatentPatch.load(path, "pixels:8").bank) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bank.keys", torch.zeros((), dtype=torch.int16)),
        ("pca.total_variance", torch.zeros(3)),
        ("bank.key_step", torch.tensor(0.1, dtype=torch.float64)),
        ("bank.key_step", torch.tensor(1)),
    ],
)
def test_tensors_of_other_types_and_shapes_are_refused(
    stored: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path, name: str, value: Tensor
) -> None:
    """Defect L1: these ended in a traceback, or were taken."""
    header, tensors = stored
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({**tensors, name: value}, {"latentpatch": json.dumps(header)}))
    with pytest.raises(FileError, match=r"malformed model file: (ids|pca.total_variance|key_step) must be"):
        LatentPatch.load(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("name", ["model", "weights"])
def test_files_that_may_not_be_read_say_so(
    stored: tuple[dict[str, Any], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Defect L18: safetensors says of a file that it may not open that there is none."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        for half in ("encoder", "decoder"):
            (Path(folder) / f"embedded_{half}.safetensors").touch(0)
        path = _write(Path(folder) / "m.safetensors", stored)
        path.chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(LatentPatchError, match="Permission denied"):
                LatentPatch.load(path) if name == "model" else load_autoencoder(f"embedded:{folder}")
        finally:
            os.seteuid(0)


def test_ids_with_lone_surrogates_are_saved(tmp_path: Path) -> None:
    """Defect L19: they could be fitted and not be saved."""
    ids = ["a\ud800", "b\udcff", "ç"]
    model = LatentPatch("pixels:8", components=3).fit(torch.rand(3, 3, 32, 32), ids=ids)
    model.save(tmp_path / "m.safetensors")
    loaded = LatentPatch.load(tmp_path / "m.safetensors")
    assert loaded.bank.ids == ids
    assert loaded.bank.digest() == model.bank.digest()
    other = LatentPatch("pixels:8")
    other.load_state_dict(model.state_dict())
    assert other.bank.ids == ids
