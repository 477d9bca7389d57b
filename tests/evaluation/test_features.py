"""Feature extractors: built-in ones, users' code, and files of features."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from helpers.random_vectors import normal_vectors
from safetensors.torch import save_file
from torch import Tensor

from latentpatch import FileError, load_autoencoder
from latentpatch.errors import MissingDependencyError, SettingTypeError
from latentpatch.evaluation import Extractor, load_extractor, read_features


def test_latents_are_the_default_extractor() -> None:
    autoencoder = load_autoencoder("pixels:4")
    extractor = load_extractor("latents", autoencoder)
    pictures = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = extractor.features(pictures)
    latents = autoencoder.encode(pictures).double()
    assert features.dtype == torch.float64
    torch.testing.assert_close(features[:, : latents.shape[1]], latents.mean((2, 3)))
    distances = extractor.pair_distances(pictures, torch.tensor([0, 1]), torch.tensor([2, 1]))
    assert distances[0] == pytest.approx(float((latents[0] - latents[2]).square().mean()))
    assert distances[1] == 0
    assert "not comparable" in extractor.note.replace("\n", " ")


def test_an_extractor_may_be_a_file_a_module_or_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def means(x):\n    return x.mean((2, 3))\n\nclass extractor:\n    note = 'mine'\n"
                    "    def __call__(self, x):\n        return x.amax((2, 3)).numpy()\n")  # fmt: skip
    autoencoder, pictures = load_autoencoder("pixels"), torch.rand(3, 3, 16, 16)
    named = load_extractor(f"{path}:means", autoencoder)
    torch.testing.assert_close(named.features(pictures), pictures.mean((2, 3)).double())
    apart = named.pair_distances(pictures, torch.tensor([0]), torch.tensor([1]))
    assert apart[0] == pytest.approx(float((pictures[0] - pictures[1]).mean((1, 2)).norm()), rel=1e-5)
    whole = load_extractor(str(path), autoencoder)
    torch.testing.assert_close(whole.features(pictures), pictures.amax((2, 3)).double())
    assert (whole.name, whole.note, named.note) == ("mine", "mine", "")
    assert whole.digest == named.digest is not None
    monkeypatch.syspath_prepend(tmp_path)
    assert load_extractor("mine:means", autoencoder).name == "mine:means"


def test_other_texts_are_no_extractors(tmp_path: Path) -> None:
    autoencoder = load_autoencoder("pixels")
    broken, empty = tmp_path / "broken.py", tmp_path / "empty.py"
    broken.write_text("raise OSError('no weights')")
    empty.write_text("number = 3")
    with refuses("features") as caught:
        load_extractor("fid", autoencoder)
    assert "one of latents, inception, lpips" in caught.value.constraint
    with refuses("features 'empty'", SettingTypeError):
        load_extractor(f"{empty}:number", autoencoder)
    for text, reason in (
        (str(tmp_path / "none.py"), "no such file"),
        (str(broken), "OSError: no weights"),
        (str(empty), "'extractor'"),
        ("no_such_module_here:f", "ModuleNotFoundError"),
    ):
        with pytest.raises(FileError) as failed:
            load_extractor(text, autoencoder)
        assert str(failed.value.path) == text.removesuffix(":f")
        assert reason in failed.value.reason


@pytest.mark.parametrize(
    ("function", "constraint"),
    [
        (lambda x: x.mean((2, 3)) * torch.nan, "finite"),
        (lambda x: x.mean((1, 2, 3)), "of shape (4, D) for 4 images"),
        (lambda x: x.mean((2, 3))[:2], "of shape (4, D) for 4 images"),
        (lambda x: x.argmax(1).flatten(1), "a floating-point tensor or array"),
        (lambda x: [1.0], "a floating-point tensor or array"),
    ],
)
def test_results_of_an_extractor_are_checked(function: object, constraint: str) -> None:
    extractor = Extractor("odd", function)
    with refuses("features 'odd'") as caught:
        extractor.features(torch.rand(4, 3, 16, 16))
    assert caught.value.constraint == constraint


def test_an_extractor_keeps_to_one_number_of_dimensions_and_finite_distances() -> None:
    extractor = Extractor("growing", lambda x: x.mean(2).flatten(1)[:, : 2 + len(x)])
    extractor.features(torch.rand(2, 3, 16, 16))
    with refuses("features 'growing'") as caught:
        extractor.features(torch.rand(3, 3, 16, 16))
    assert (caught.value.value, caught.value.constraint) == (5, "of 4 dimensions, as before")

    class Wrong:
        def __call__(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

        def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return torch.full((len(first),), torch.inf)

    with refuses("features 'wrong'") as caught:
        Extractor("wrong", Wrong()).pair_distances(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert caught.value.constraint == "2 finite distances of pairs"


class FakeInception:
    """The interface of torch-fidelity's extractor, which cannot be run without its weights."""

    def __init__(self, name: str, features_list: list[str]) -> None:
        assert (name, features_list) == ("inception-v3-compat", ["2048"])

    def to(self, device: torch.device) -> FakeInception:
        return self

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        assert x.dtype == torch.uint8
        return (x.float().mean((2, 3)).repeat(1, 683)[:, :2048],)


class FakeLPIPS:
    """The interface of lpips.LPIPS."""

    def __init__(self, net: str, verbose: bool) -> None:
        assert (net, verbose) == ("alex", False)

    def to(self, device: torch.device) -> FakeLPIPS:
        return self

    def __call__(self, in0: Tensor, in1: Tensor, normalize: bool) -> Tensor:
        assert normalize  # pictures in [0, 1]
        return (in0 - in1).square().mean((1, 2, 3), keepdim=True)


def test_inception_is_called_as_torch_fidelity_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FakeInception
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    features = load_extractor("inception", load_autoencoder("pixels")).features(torch.full((2, 3, 16, 16), 0.5))
    assert features.shape == (2, 2048)
    assert set(features.unique().tolist()) == {128.0}


def test_lpips_is_called_as_its_package_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=FakeLPIPS))
    extractor = load_extractor("lpips", load_autoencoder("pixels"))
    pictures = torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), 0.5)])
    assert extractor.pair_distances(pictures, torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0])).tolist() == [
        0.25,
        0.25,
        0,
    ]
    with refuses("features") as caught:
        extractor.features(pictures)
    assert "--perceptual" in caught.value.constraint


@pytest.mark.parametrize(("name", "package"), [("inception", "torch_fidelity"), ("lpips", "lpips")])
def test_missing_packages_are_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as caught:
        load_extractor(name, load_autoencoder("pixels"))
    assert (caught.value.package, caught.value.extra) == (package, "evaluate")
    assert repr(name) in caught.value.feature


def test_features_are_read_but_never_unpickled(tmp_path: Path) -> None:
    expected = normal_vectors(7, 4)
    np.save(tmp_path / "good.npy", expected.numpy())
    save_file({"features": expected.float()}, tmp_path / "good.safetensors")
    torch.testing.assert_close(read_features(tmp_path / "good.npy"), expected)
    torch.testing.assert_close(read_features(tmp_path / "good.safetensors"), expected.float().double())
    np.save(tmp_path / "pickled.npy", np.array([print], dtype=object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.ones((3, 2), dtype=np.int64))
    np.save(tmp_path / "nan.npy", np.full((3, 2), np.nan))
    save_file({"other": expected}, tmp_path / "named.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    for name in ("pickled.npy", "whole.npy", "nan.npy", "named.safetensors", "text.safetensors", "none.npy"):
        with pytest.raises(FileError) as caught:
            read_features(tmp_path / name)
        assert caught.value.path == tmp_path / name
