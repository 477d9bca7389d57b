"""The TAESD family: the layout of its public files, what they compute, and files that are not right."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import refuses
from torch import Tensor

from latentpatch import WeightsError, load_autoencoder
from latentpatch.autoencoders import taesd as tiny
from latentpatch.autoencoders import weights
from latentpatch.autoencoders.taesd import TinyAutoencoder
from latentpatch.autoencoders.weights import cache_folder, sha256_of
from latentpatch.io.images import read_image

CHANNELS = {"taesd": 4, "taesdxl": 4, "taesd3": 16, "taef1": 16, "taef2": 32}
HALVES = ("encoder", "decoder")


# --- Fabrication -------------------------------------------------------------------------------


def layout(name: str, half: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a public file, written out from the published networks."""
    channels, shapes = CHANNELS[name], {}

    def convolution(key: str, inside: int, outside: int, side: int = 3, bias: bool = True) -> None:
        shapes[f"{key}.weight"] = (outside, inside, side, side)
        if bias:
            shapes[f"{key}.bias"] = (outside,)

    def block(number: int, pooled: bool) -> None:
        for layer in (0, 2, 4):
            convolution(f"{number}.conv.{layer}", 64, 64)
        if pooled and name == "taef2":
            convolution(f"{number}.pool.0", 64, 256, 1, bias=False)
            shapes[f"{number}.pool.1.weight"] = shapes[f"{number}.pool.1.bias"] = (256,)
            convolution(f"{number}.pool.3", 256, 64, 1, bias=False)

    if half == "encoder":
        convolution("0", 3, 64)
        for number in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
            block(number, pooled=number > 10)
        for number in (2, 6, 10):
            convolution(str(number), 64, 64, bias=False)
        convolution("14", 64, channels)
    else:
        convolution("1", channels, 64)
        for number in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
            block(number, pooled=number < 6)
        for number in (7, 12, 17):
            convolution(str(number), 64, 64, bias=False)
        convolution("19", 64, 3)
    return shapes


def random_state(name: str, half: str, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: (torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5).half()
        for key, shape in layout(name, half).items()
    }


def write_files(folder: Path, name: str, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for half in HALVES:
        torch.save(random_state(name, half, seed), folder / f"{name}_{half}.pth")
    return folder


def slow_network(state: dict[str, Tensor], x: Tensor, half: str) -> Tensor:
    """The network layer by layer, from what the state dict holds."""
    state = {key: value.float() for key, value in state.items()}

    def convolution(key: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, state.get(f"{key}.bias"), stride, weight.shape[-1] // 2)

    def block(number: int, x: Tensor) -> Tensor:
        if f"{number}.pool.0.weight" in state:
            wide = F.group_norm(
                convolution(f"{number}.pool.0", x), 4, state[f"{number}.pool.1.weight"], state[f"{number}.pool.1.bias"]
            )
            x = x + convolution(f"{number}.pool.3", wide.relu())
        y = convolution(f"{number}.conv.2", convolution(f"{number}.conv.0", x).relu()).relu()
        return (convolution(f"{number}.conv.4", y) + x).relu()

    if half == "encoder":
        x = block(1, convolution("0", x))
        for first in (2, 6, 10):
            x = convolution(str(first), x, stride=2)
            for number in range(first + 1, first + 4):
                x = block(number, x)
        return convolution("14", x)
    x = convolution("1", torch.tanh(x / 3) * 3).relu()
    for first in (3, 8, 13):
        for number in range(first, first + 3):
            x = block(number, x)
        x = convolution(str(first + 4), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return convolution("19", block(18, x))


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights may bear the names of files whose digests are known."""
    monkeypatch.setattr(tiny, "_SHA256", {})


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{url} was to be downloaded")

    monkeypatch.setattr(weights, "download", refuse)


# --- Public files ------------------------------------------------------------------------------


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.usefixtures("unpinned", "no_download")
def test_files_of_the_public_layout_load(tmp_path: Path, name: str) -> None:
    folder = write_files(tmp_path / "weights", name)
    model = load_autoencoder(f"{name}:{folder}")
    assert model.spec.name == name
    assert model.spec.license == "MIT"
    assert (model.spec.latent_channels, model.spec.downsampling) == (4 * CHANNELS[name], 16)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    latents = model.encode(images)
    assert latents.shape == (2, 4 * CHANNELS[name], 2, 3)
    assert latents.dtype == torch.float32

    unfolded = TinyAutoencoder(name, fold=1)
    unfolded.load_state_dict(model.state_dict())
    fine = unfolded.encode(images)
    assert fine.shape == (2, CHANNELS[name], 4, 6)
    torch.testing.assert_close(F.pixel_unshuffle(fine, 2), latents)
    torch.testing.assert_close(fine, slow_network(random_state(name, "encoder"), images, "encoder"))

    decoded = model.decode(latents)
    assert decoded.shape == images.shape
    torch.testing.assert_close(unfolded.decode(fine), decoded)
    expected = slow_network(random_state(name, "decoder"), fine, "decoder")
    assert expected.std() > 0.1
    torch.testing.assert_close(decoded, expected.clamp(0, 1), atol=2e-5, rtol=1.3e-6)  # sums in another order


@pytest.mark.usefixtures("no_download")
def test_random_weights_need_no_files() -> None:
    model = load_autoencoder("taesd", pretrained=False)
    assert model.encode(torch.rand(1, 3, 16, 16)).shape == (1, 16, 1, 1)
    assert not cache_folder().exists()


def test_names_and_folds_are_checked() -> None:
    with refuses("name"):
        TinyAutoencoder("taesd9")
    for fold in (3, True):
        with refuses("fold"):
            TinyAutoencoder("taesd", fold=fold)


# --- Whether a file is what it was -------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.usefixtures("no_download")
def test_a_file_that_changes_after_its_first_use_is_refused(tmp_path: Path, half: str) -> None:
    folder = write_files(tmp_path / "weights", "taesd")
    load_autoencoder(f"taesd:{folder}")
    load_autoencoder(f"taesd:{folder}")
    path = folder / f"taesd_{half}.pth"
    before = sha256_of(path)
    torch.save(random_state("taesd", half, seed=1), path)
    record = cache_folder() / "sha256.json"
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(f"taesd:{folder}")
    for part in (path, before, sha256_of(path), record):
        assert str(part) in str(caught.value)
    # As the message says:
    known = json.loads(record.read_text())
    del known[str(path.resolve())]
    record.write_text(json.dumps(known))
    load_autoencoder(f"taesd:{folder}")


@pytest.mark.usefixtures("no_download")
def test_a_file_with_a_known_digest_must_have_it(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "weights", "taef2")
    path = folder / "taef2_encoder.pth"
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(f"taef2:{folder}")
    for part in (str(path), sha256_of(path), "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6"):
        assert part in str(caught.value)


# --- Files that are not there ------------------------------------------------------------------


@pytest.mark.usefixtures("no_download")
def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "weights", "taesd3")
    (folder / "taesd3_decoder.pth").unlink()
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(f"taesd3:{folder}")
    assert f"{folder / 'taesd3_decoder.pth'}: no such file" in str(caught.value)
    assert "https://github.com/madebyollin/taesd/raw/main/taesd3_decoder.pth" in str(caught.value)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(f"taesd3:{tmp_path / 'none'}")
    assert str(tmp_path / "none") in str(caught.value)
    assert "must be a folder with taesd3_encoder.pth and taesd3_decoder.pth" in str(caught.value)


def test_either_file_stands_for_both(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "weights", "taesd3")
    whole = load_autoencoder(f"taesd3:{folder}")
    for half in ("encoder", "decoder"):
        again = load_autoencoder(f"taesd3:{folder / f'taesd3_{half}.pth'}")
        assert again.fingerprint() == whole.fingerprint()


def test_a_file_that_could_not_be_loaded_may_be_replaced(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "weights", "taesd3")
    good = (folder / "taesd3_decoder.pth").read_bytes()
    (folder / "taesd3_decoder.pth").write_bytes(good[:1000])
    with pytest.raises(WeightsError, match="not a readable PyTorch checkpoint"):
        load_autoencoder(f"taesd3:{folder}")
    (folder / "taesd3_decoder.pth").write_bytes(good)
    load_autoencoder(f"taesd3:{folder}")


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(weights, "download", fail)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder("taef1")
    for part in (
        "no route to host",
        "https://github.com/madebyollin/taesd/raw/main/taef1_encoder.pth",
        str(cache_folder() / "taef1_encoder.pth"),
    ):
        assert part in str(caught.value)
    assert not list(cache_folder().iterdir())


def test_downloads_are_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = write_files(tmp_path / "site", "taesdxl")
    fetched: list[str] = []

    def copy(url: str, target: str, *_: Any, **__: Any) -> None:
        fetched.append(url)
        shutil.copyfile(site / url.rpartition("/")[2], target)

    monkeypatch.setattr(weights, "download", copy)
    first = load_autoencoder("taesdxl")
    again = load_autoencoder("taesdxl")
    base = "https://github.com/madebyollin/taesd/raw/main/taesdxl_"
    assert fetched == [f"{base}encoder.pth", f"{base}decoder.pth"]
    assert first.fingerprint() == again.fingerprint() == load_autoencoder(f"taesdxl:{site}").fingerprint()
    cached = cache_folder() / "taesdxl_decoder.pth"
    before = sha256_of(cached)
    torch.save(random_state("taesdxl", "decoder", seed=1), cached)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder("taesdxl")
    assert len(fetched) == 2
    assert before in str(caught.value)
    assert sha256_of(cached) in str(caught.value)


def test_a_download_with_a_known_digest_must_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = write_files(tmp_path / "site", "taef2")
    monkeypatch.setattr(
        weights,
        "download",
        lambda url, target, *_, **__: shutil.copyfile(site / url.rpartition("/")[2], target),
    )
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"taef2_encoder\.pth: SHA-256 must be .*not the published"):
            load_autoencoder("taef2")


# --- Files that are not right ------------------------------------------------------------------


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, zipped: bool) -> None:
    folder = write_files(tmp_path / "weights", "taesd")
    path = folder / "taesd_decoder.pth"
    state = {**random_state("taesd", "decoder"), "extra": Bomb(tmp_path / "ran")}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=rf"taesd_decoder\.pth: refused.*{os.system.__module__}\.system"):
        load_autoencoder(f"taesd:{folder}")
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "it would have run"


@pytest.mark.parametrize("length", [0, 1, 100, 5_000, 1_000_000])
def test_truncated_files_are_refused(tmp_path: Path, length: int) -> None:
    folder = write_files(tmp_path / "weights", "taesd")
    path = folder / "taesd_encoder.pth"
    data = path.read_bytes()
    assert len(data) > length
    path.write_bytes(data[:length])
    with pytest.raises(WeightsError, match=r"taesd_encoder\.pth: not a readable PyTorch checkpoint"):
        load_autoencoder(f"taesd:{folder}")


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != key}


STATE = random_state("taesd", "encoder")
WEIGHT = STATE["0.weight"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without(STATE, "14.bias"), r"weights does not fit taesd: .*encoder\.14\.bias"),
        ({**STATE, "15.weight": WEIGHT}, r"weights does not fit taesd: .*encoder\.15\.weight"),
        ({**STATE, "0.weight": WEIGHT[:, :1]}, r"weights does not fit taesd: .*encoder\.0\.weight"),
        ({**STATE, "0.weight": WEIGHT * float("nan")}, r"weights: tensor 'encoder\.0\.weight' must be finite"),
        ({**STATE, "0.bias": STATE["0.bias"] + float("inf")}, r"'encoder\.0\.bias' must be finite"),
        ({"state_dict": STATE}, r"taesd_encoder\.pth must hold a flat state dict"),
        (list(STATE.values()), r"taesd_encoder\.pth must hold a flat state dict"),
        (WEIGHT, r"taesd_encoder\.pth must hold a flat state dict"),
        ({}, "weights does not fit taesd"),
        (random_state("taesd3", "encoder"), r"weights does not fit taesd: .*encoder\.14\.weight"),
    ],
)
def test_wrong_contents_are_refused(tmp_path: Path, state: Any, message: str) -> None:
    folder = write_files(tmp_path / "weights", "taesd")
    torch.save(state, folder / "taesd_encoder.pth")
    with pytest.raises(WeightsError, match=rf"(?s){message}"):
        load_autoencoder(f"taesd:{folder}")


# --- The real thing ----------------------------------------------------------------------------


@pytest.mark.usefixtures("no_download")
def test_taef2_on_portraits(shared: Path) -> None:
    for half in HALVES:
        state = torch.load(shared / "weights" / f"taef2_{half}.pth", weights_only=True)
        assert {key: tuple(value.shape) for key, value in state.items()} == layout("taef2", half)
    model = load_autoencoder(f"taef2:{shared / 'weights'}")
    paths = sorted((shared / "portraits" / "aligned256").glob("*.jpg"))[:4]
    images = torch.stack([read_image(path) for path in paths])
    latents = model.encode(images)
    assert latents.shape == (4, 128, 16, 16)
    decoded = model.decode(latents)
    psnr = -10 * (decoded - images).square().mean((1, 2, 3)).log10()
    assert psnr.mean() > 34
    assert psnr.min() > 31
    assert torch.equal(model.encode(images[2:3])[0], latents[2])
    assert torch.equal(model.decode(latents[2:3])[0], decoded[2])
