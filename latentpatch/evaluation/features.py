"""Feature extractors: what turns pictures into vectors that are compared.

An extractor is any callable that takes images ``(N, 3, H, W)``, float32 in [0, 1] on the CPU, and gives features
``(N, D)``, a tensor or an array. It may have

- ``pair_distances(images, first, second)``: perceptual distances ``(P,)`` of the pictures ``images[first[p]]`` and
  ``images[second[p]]``; without it the Euclidean distance of features is taken,
- ``note``: a sentence to print beside its figures.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..autoencoders.registry import Autoencoder
from ..autoencoders.weights import sha256_of
from ..errors import FileError, LatentPatchError

__all__ = ["BUILT_IN", "Extractor", "LatentFeatures", "find_extractor", "load_extractor", "read_features"]

_BATCH = 32
_PACKAGES = {"inception": "torch_fidelity.feature_extractor_inceptionv3", "lpips": "lpips"}
_DEFAULT_NAME = "extractor"  # in a file of one's own


class Extractor:
    """A feature extractor under its name, with its answers checked.

    Args:
        name: what tables call it.
        function: see the module's text.
        digest: SHA-256 of the file it comes from, where there is one.
    """

    def __init__(self, name: str, function: Callable[[Tensor], Any], digest: str | None = None) -> None:
        if not callable(function):
            raise TypeError(f"features {name!r}: a callable is expected, got {type(function).__name__}")
        self.name, self.function, self.digest = name, function, digest
        self.note = str(getattr(function, "note", ""))
        self._dimensions: int | None = None

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features of images ``(N, 3, H, W)`` in [0, 1]: ``(N, D)`` float64.

        Raises:
            ValueError: where the extractor gives something else, or numbers that are not finite.
        """
        return torch.cat([self._checked(self.function(batch), len(batch)) for batch in images.cpu().split(_BATCH)])

    @torch.no_grad()
    def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Perceptual distances of pairs of images: ``(P,)`` float64.

        Raises:
            ValueError: where the extractor gives something else, or numbers that are not finite.
        """
        method = getattr(self.function, "pair_distances", None)
        if method is None:
            features = self.features(images)
            differences: Tensor = features[first] - features[second]
            return differences.square().sum(1).sqrt()
        distances = _as_tensor(method(images.cpu(), first, second), self.name)
        if distances.shape != first.shape or not bool(torch.isfinite(distances).all()):
            raise ValueError(
                f"features {self.name!r}: {len(first)} finite distances of pairs are expected, "
                f"got {_described(distances)}"
            )
        return distances

    def _checked(self, answer: Any, count: int) -> Tensor:
        features = _as_tensor(answer, self.name)
        if features.ndim != 2 or len(features) != count or not features.shape[1]:
            raise ValueError(
                f"features {self.name!r}: shape ({count}, D) is expected for {count} images, "
                f"got {tuple(features.shape)}"
            )
        if self._dimensions not in (None, features.shape[1]):
            raise ValueError(
                f"features {self.name!r}: {features.shape[1]} dimensions, before {self._dimensions}; "
                "one number is expected"
            )
        if not bool(torch.isfinite(features).all()):
            raise ValueError(f"features {self.name!r}: NaN or infinite values; finite ones are expected")
        self._dimensions = features.shape[1]
        return features


class LatentFeatures:
    """What the autoencoder's own encoder sees: mean and standard deviation of each latent channel over the cells.

    Needs no other network. It is the space that the generator copies in, so it flatters what is decoded from there.
    """

    note = (
        "`latents` is the generator's own latent space: its figures compare rows made with one autoencoder, and are "
        "not comparable with published ones."
    )

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder

    def __call__(self, images: Tensor) -> Tensor:
        """-> (N, 2 L)"""
        deviation, mean = torch.std_mean(self.autoencoder.encode(images).flatten(2), dim=2, correction=0)
        return torch.cat([mean, deviation], 1).cpu()

    def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Mean squared difference of latents. -> (P,)"""
        latents = self.autoencoder.encode(images).cpu()
        return torch.stack([(latents[i] - latents[j]).square().mean() for i, j in zip(first, second, strict=True)])


class Inception:
    """Inception v3 with the weights that published FID and KID use (torch-fidelity's): 2048 features.

    They are downloaded at first use, 91 MB.
    """

    def __init__(self, device: torch.device) -> None:
        module = _required(_PACKAGES["inception"], "inception")
        self.device = device
        self.network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """-> (N, 2048)"""
        levels = images.mul(255).round().to(self.device, torch.uint8)
        features: Tensor = self.network(levels)[0]
        return features.cpu()


class LPIPS:
    """Learned perceptual image patch similarity of AlexNet (Zhang et al. 2018; the lpips package): distances of pairs.

    The weights of AlexNet are downloaded at first use, 233 MB.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.network = _required(_PACKAGES["lpips"], "lpips").LPIPS(net="alex", verbose=False).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        raise ValueError("features 'lpips': it gives distances of pairs only; name it with --perceptual")

    def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """-> (P,)"""
        return torch.cat(
            [
                self.network(images[i].to(self.device), images[j].to(self.device), normalize=True).flatten().cpu()
                for i, j in zip(first.split(_BATCH), second.split(_BATCH), strict=True)
            ]
        )


#: Extractors by the name users give them, each made of the autoencoder in use.
BUILT_IN: dict[str, Callable[[Autoencoder], Callable[[Tensor], Any]]] = {
    "latents": LatentFeatures,
    "inception": lambda autoencoder: Inception(autoencoder.device),
    "lpips": lambda autoencoder: LPIPS(autoencoder.device),
}


def load_extractor(text: str, autoencoder: Autoencoder) -> Extractor:
    """The extractor that a name, ``MODULE:CALLABLE`` or ``FILE.py[:CALLABLE]`` stands for.

    A file or module is code, and is run. A class is made without arguments. A file's callable is ``extractor`` where
    none is named.

    Raises:
        ValueError: for an unknown name.
        LatentPatchError: where code cannot be run, or what it needs is missing.
    """
    return find_extractor(text)(autoencoder)


def find_extractor(text: str) -> Callable[[Autoencoder], Extractor]:
    """:func:`load_extractor` up to where an autoencoder is needed, with its errors."""
    if text in BUILT_IN:
        if text in _PACKAGES:
            _required(_PACKAGES[text], text)
        return lambda autoencoder: Extractor(text, BUILT_IN[text](autoencoder))
    place, _, name = text.rpartition(":") if not text.endswith(".py") else (text, "", _DEFAULT_NAME)
    digest = None
    if place.endswith(".py"):
        module, digest = _module_of(Path(place))
    elif place:
        module = _module_named(place)
    else:
        raise ValueError(
            f"features {text!r}: one of {', '.join(BUILT_IN)}, MODULE:CALLABLE or FILE.py[:CALLABLE] is expected"
        )
    found = getattr(module, name, None)
    if found is None:
        raise LatentPatchError(f"{place}: defines no {name!r}; see the contract in docs/evaluation.md")
    if isinstance(found, type):
        found = _run(place, found)
    extractor = Extractor(Path(place).stem if digest else text, found, digest)
    return lambda autoencoder: extractor


def read_features(path: str | Path) -> Tensor:
    """Features kept in a file: ``(M, D)`` float64, of ``.npy`` or of ``.safetensors`` with the one tensor ``features``.

    Raises:
        FileError: where the file holds something else. Pickled arrays are refused.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            found = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            found = load_file(path)["features"]
    except KeyError as error:
        raise FileError(f"{path}: a tensor named 'features' is expected") from error
    except (OSError, ValueError, TypeError, EOFError, safetensors.SafetensorError) as error:
        raise FileError(f"{path}: features cannot be read: {error}") from error
    if found.ndim != 2 or not found.is_floating_point() or not bool(torch.isfinite(found).all()):
        raise FileError(f"{path}: finite floating-point features of shape (M, D) are expected, got {_described(found)}")
    return found.double()


def _module_of(path: Path) -> tuple[ModuleType, str]:
    """-> the module that a file makes, the file's SHA-256"""
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"latentpatch_features_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _run(str(path), lambda: loader.exec_module(module))
    return module, sha256_of(path)


def _module_named(name: str) -> ModuleType:
    module: ModuleType = _run(name, lambda: importlib.import_module(name))
    return module


def _run(place: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # code of someone else's
        raise LatentPatchError(f"{place}: cannot be run: {type(error).__name__}: {error}") from error


def _required(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision beside another torch
        raise LatentPatchError(
            f"features {name!r} need {module.partition('.')[0]}, which cannot be imported ({error}): "
            "pip install 'latentpatch[evaluate]'"
        ) from error


def _as_tensor(answer: Any, name: str) -> Tensor:
    if isinstance(answer, np.ndarray):
        answer = torch.from_numpy(answer)
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        kind = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"features {name!r}: a floating-point tensor or array is expected, got {kind}")
    return answer.detach().cpu().double()


def _described(tensor: Tensor) -> str:
    values = "" if bool(torch.isfinite(tensor.double()).all()) else ", not finite"
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}{values}"
