"""Models larger than memory: written by streaming, mapped when loaded, checked when used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.coded_pixels import CodedPixels
from helpers.errors import refuses, refuses_file
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentpatch import PCA, LatentPatch, SourceBank
from latentpatch.bank import format as modelfile
from latentpatch.bank.format import ModelFile
from latentpatch.cli.entry import main
from latentpatch.io.atomic import write_tensors
from latentpatch.io.mmap import DTYPES, Rows, map_tensors


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model file counts as large."""
    monkeypatch.setattr(modelfile, "MAPPED_FROM", 0)


@pytest.fixture
def path(model: LatentPatch, tmp_path: Path) -> Path:
    """The model of drawn faces, saved."""
    model.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def rewritten(path: Path, **changes: Tensor) -> None:
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
    save_file({**tensors, **{f"bank.{name}": value for name, value in changes.items()}}, path, metadata)


# --- files ---------------------------------------------------------------------------------------------


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """One tensor of each type, an empty one and a scalar."""
    generator = torch.Generator().manual_seed(0)
    chance = {f"x.{name}": (100 * torch.rand(3, 5, generator=generator)).to(dtype) for dtype, name in DTYPES.items()}
    return {**chance, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.0), 'a"é\n': torch.ones(2).half()}


@pytest.mark.parametrize("metadata", [None, {"latentpatch": '{"a": "é\\u0001\\"/\\n"}\x01\x7f'}])
def test_written_files_are_those_of_safetensors(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    save_file(tensors, tmp_path / "theirs", metadata)
    write_tensors(tmp_path / "ours", tensors, metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_is_not_contiguous_is_written_in_order(tmp_path: Path) -> None:
    value = torch.arange(12).view(3, 4).T
    write_tensors(tmp_path / "a", {"x": value})
    assert torch.equal(map_tensors(tmp_path / "a")["x"], value)


def test_mapped_tensors_are_those_that_were_written(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_tensors(tmp_path / "a", tensors, {"key": "value"})
    read = map_tensors(tmp_path / "a")
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(read[name], value)
        assert read[name].dtype == value.dtype
    before = (tmp_path / "a").read_bytes()
    read["x.F32"].fill_(7)  # a private change
    assert (tmp_path / "a").read_bytes() == before


def test_malformed_files_are_not_mapped(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "a"
    write_tensors(path, tensors)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        map_tensors(path)
    save_file({"x": torch.zeros(1).to(torch.float8_e5m2)}, path)
    with refuses("dtype of tensor 'x'") as caught:
        map_tensors(path)
    assert caught.value.value == "F8_E5M2"
    header = b'{"x":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
    header += b" " * (1 - len(header) % 2)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with refuses("offset of a tensor"):
        map_tensors(path)


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files and the limit are Linux's")
def test_a_file_may_be_larger_than_memory(tmp_path: Path) -> None:
    count = 1 << 36  # 128 GiB of zeros, none of them on the disk
    header = json.dumps({"x": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    with (tmp_path / "a").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * count)
    value = map_tensors(tmp_path / "a")["x"]
    assert value.shape == (count,)
    assert float(value[-1]) == 0


@pytest.mark.parametrize("in_file", [False, True])
def test_rows_come_in_batches(tmp_path: Path, in_file: bool) -> None:
    expected = torch.arange(42, dtype=torch.int16).view(7, 2, 3)
    with Rows(10, (2, 3), torch.int16, folder=tmp_path if in_file else None) as rows:
        for batch in expected.split(3):
            rows.append(batch)
        assert len(rows) == 7
        value = rows.tensor()
    assert torch.equal(value, expected)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Path("/dev/full").open("w+b"))  # noqa: SIM115
    with (
        refuses_file(tmp_path, "cannot be written: No space left"),
        Rows(10, (2,), torch.int16, folder=tmp_path) as rows,
    ):
        rows.append(torch.zeros(1 << 20, 2))


# --- fitting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["pixels:4", "coded"])
def test_fitting_in_files_is_fitting_in_memory(tmp_path: Path, faces: Path, network: str) -> None:
    autoencoder = CodedPixels() if network == "coded" else network
    models = [LatentPatch(autoencoder, 8).fit(faces, size=64, scratch=scratch) for scratch in (None, tmp_path)]
    assert [model.bank.mapped for model in models] == [False, True]
    assert list(tmp_path.iterdir()) == [], "the files have no names"
    for name, model in zip("ab", models, strict=True):
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert torch.equal(models[0].generate(2).images, models[1].generate(2).images)
    tensors = {
        f"{part}.{name}": value
        for part in ("pca", "bank")
        for name, value in getattr(models[0], part).state_dict().items()
    }
    with safe_open(tmp_path / "a", "pt") as stored:
        save_file(tensors, tmp_path / "theirs", stored.metadata())
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "a").read_bytes()


def test_the_command_that_fits_leaves_one_file(tmp_path: Path, faces: Path) -> None:
    arguments = ["fit", str(faces), "--autoencoder", "pixels:4", "--size", "64", "-q"]
    assert main([*arguments, "-o", str(tmp_path / "new" / "a.safetensors")]) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]
    LatentPatch("pixels:4").fit(faces, size=64).save(tmp_path / "b.safetensors")
    assert (tmp_path / "new" / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


# --- mapped models -------------------------------------------------------------------------------------


def test_a_mapped_model_is_the_model(mapped: None, path: Path, model: LatentPatch) -> None:
    loaded = LatentPatch.load(path)
    assert loaded.bank.mapped
    assert loaded.bank.digest() == loaded.bank.computed_digest() == model.bank.digest()
    for decoding in ("gather", "unproject"):
        result, expected = loaded.generate(3, decoding=decoding), model.generate(3, decoding=decoding)
        assert torch.equal(result.index, expected.index)
        assert torch.equal(result.images, expected.images)
    again = path.with_name("again.safetensors")
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    fresh = LatentPatch("pixels:4", 8)
    fresh.load_state_dict(loaded.state_dict())
    assert torch.equal(fresh.generate(1).images, model.generate(1).images)


def test_a_mapped_bank_can_be_changed(mapped: None, path: Path, model: LatentPatch, face_images: Tensor) -> None:
    loaded = LatentPatch.load(path)
    for each in (loaded, model):
        each.remove("3")
        each.add(face_images[3:4], ids=["again"])
    assert not loaded.bank.mapped
    assert loaded.bank.digest() == model.bank.digest()
    assert torch.equal(loaded.generate(2).images, model.generate(2).images)


def test_saving_over_a_mapped_file(mapped: None, path: Path, model: LatentPatch) -> None:
    loaded = LatentPatch.load(path)
    loaded.save(path)
    assert torch.equal(loaded.generate(2).images, model.generate(2).images)


def test_mapped_values_are_checked_when_they_are_used(mapped: None, path: Path, model: LatentPatch) -> None:
    rewritten(path, latents=torch.full_like(model.bank.latents, float("nan")))
    loaded = LatentPatch.load(path)
    with refuses_file(path, "malformed model file: latents"):
        loaded.generate(1)
    with refuses_file(path, "malformed model file: latents"):
        ModelFile.read(path).verify(path)
    with pytest.raises(ValueError, match="latents must be finite"):
        loaded.remove("3")
    rewritten(path, latents=model.bank.latents, keys=torch.full_like(model.bank.keys, 9000))
    loaded = LatentPatch.load(path)
    for _ in range(2):
        with refuses_file(path, "malformed model file: keys"):
            loaded.generate(1)
        with refuses_file(path, "malformed model file: keys"):
            loaded(torch.zeros(1, loaded.steps))


def test_mapped_layouts_are_checked_at_once(mapped: None, path: Path, model: LatentPatch) -> None:
    rewritten(path, latents=model.bank.latents[:5].clone())
    with refuses_file(path, "malformed model file: latents"):
        LatentPatch.load(path)
    rewritten(path, latents=model.bank.latents.float())
    with refuses_file(path, "float16 or int16"):
        LatentPatch.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with refuses_file(path, "not a readable model file"):
        LatentPatch.load(path)


def test_mapped_codes_are_checked_when_they_are_used(mapped: None, tmp_path: Path, face_images: Tensor) -> None:
    model = LatentPatch(CodedPixels(), 8).fit(face_images)
    model.bank.latents.fill_(64)
    model.save(tmp_path / "a")
    loaded = LatentPatch.load(tmp_path / "a", model.autoencoder)
    with refuses_file(tmp_path / "a", "malformed model file: codes must be below the 64"):
        loaded.generate(1)


@pytest.mark.parametrize("large", [False, True])
def test_altered_sources_are_found(
    path: Path, model: LatentPatch, large: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if large:
        monkeypatch.setattr(modelfile, "MAPPED_FROM", 0)
    assert main(["inspect", str(path), "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    rewritten(path, latents=model.bank.latents + 1)
    assert main(["inspect", str(path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "verified" not in shown
    assert (shown["sources_sha256"] == model.bank.digest()) == large, "what the file says, where it is large"
    assert main(["inspect", str(path), "--verify"]) == 1
    message = capsys.readouterr().err
    assert f"{path}: altered: " in message
    assert model.bank.digest() in message
    assert main(["inspect", str(path.parent), "--verify"]) == 1
    assert "--verify needs a model file" in capsys.readouterr().err


def test_moving_a_mapped_bank_leaves_its_latents(mapped: None, path: Path) -> None:
    bank = ModelFile.read(path).bank
    latents = bank.latents
    bank.to("meta")
    assert bank.latents is latents
    assert bank.keys.device.type == "meta"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory as Linux reports it")
def test_memory_is_that_of_what_is_used(tmp_path: Path) -> None:
    """Loading and generating from a file of 20,000 sources takes less than half its size."""
    bank, pca = SourceBank(), PCA()
    generator = torch.Generator().manual_seed(0)
    shape, channels = (20_000, 6, 6), 192
    pca.fit([torch.rand(1000, channels, generator=generator)], 2)
    bank.keys = torch.randint(-700, 700, (*shape, 2), generator=generator).short()
    bank.latents = torch.rand(1, *shape[1:], channels, generator=generator).half().expand(*shape, -1)
    bank.ids, bank.attributes = [str(i) for i in range(shape[0])], [{} for _ in range(shape[0])]
    small = LatentPatch("pixels:8", 2).fit(torch.rand(9, 3, 48, 48, generator=generator))
    small.save(tmp_path / "small.safetensors")
    ModelFile(small.identity(), 2, small.settings, pca, bank).write(tmp_path / "large.safetensors")
    size = (tmp_path / "large.safetensors").stat().st_size
    assert size > modelfile.MAPPED_FROM
    script = """
import re, sys
from pathlib import Path
from latentpatch import LatentPatch, RasterSettings
def run(path):
    model = LatentPatch.load(path)
    model.generate(2, settings=RasterSettings(patch_size=3, scales=2))
    # Not what getrusage says, which begins with the parent's.
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = run(sys.argv[1])
print(run(sys.argv[2]) - before)
"""
    command = [sys.executable, "-c", script, *(tmp_path / f"{name}.safetensors" for name in ("small", "large"))]
    growth = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert growth < size / 2, f"{growth / 1e6:.0f} MB for a file of {size / 1e6:.0f} MB"
