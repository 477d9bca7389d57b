"""Feature extractors: functions that turn images into vectors, which metrics compare.

An extractor is any callable that takes images ``(N, 3, H, W)``, float32 in [0, 1] on the CPU, and returns features
``(N, D)``, a tensor or an array. It may have

- ``pair_distances(images, first, second)``: perceptual distances ``(P,)`` of the images ``images[first[p]]`` and
  ``images[second[p]]``; the default is the Euclidean distance of features,
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
from torch import Tensor

from ..autoencoders.registry import Autoencoder
from ..autoencoders.weights import sha256_of
from ..errors import FileError, LatentPatchError, MissingDependencyError, SettingError, SettingTypeError
from ..io.mmap import read_tensors
from ..runs.defaults import plain_torch

__all__ = [
    "BUILT_IN",
    "Extractor",
    "LatentFeatures",
    "find_extractor",
    "import_extractor",
    "load_extractor",
    "read_features",
]

_BATCH = 32  # images in one call of an extractor
_PACKAGES = {"inception": "torch_fidelity.feature_extractor_inceptionv3", "lpips": "lpips"}
_DEFAULT_NAME = "extractor"  # the callable in a user's file


class Extractor:
    """A feature extractor with a name, whose results are checked.

    Args:
        name: its name in tables.
        function: the callable, see the module's documentation.
        digest: SHA-256 of the file that defines it, if any.
        kind: noun of its results in errors.
    """

    def __init__(
        self, name: str, function: Callable[[Tensor], Any], digest: str | None = None, kind: str = "features"
    ) -> None:
        if not callable(function):
            raise SettingTypeError(f"{kind} {name!r}", type(function).__name__, "a callable")
        self.name, self.function, self.digest, self.kind = name, function, digest, kind
        self.note = str(getattr(function, "note", ""))
        self._dimensions: int | None = None

    @torch.no_grad()
    @plain_torch()
    def features(self, images: Tensor) -> Tensor:
        """Return the features of images ``(N, 3, H, W)`` in [0, 1]: ``(N, D)`` float64.

        Raises:
            SettingError: where the extractor returns another shape or type, or numbers that are not finite.
        """
        batches = images.float().cpu().split(_BATCH)
        return torch.cat([self._checked(self.function(batch), len(batch)) for batch in batches])

    @torch.no_grad()
    @plain_torch()
    def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return perceptual distances of pairs of images: ``(P,)`` float64.

        Raises:
            SettingError: where the extractor returns another shape or type, or numbers that are not finite.
        """
        method = getattr(self.function, "pair_distances", None)
        if method is None:
            features = self.features(images)
            differences: Tensor = features[first] - features[second]
            return differences.square().sum(1).sqrt()
        distances = self._as_tensor(method(images.float().cpu(), first, second))
        if distances.shape != first.shape or not bool(torch.isfinite(distances).all()):
            raise self._refusal(distances.tolist(), f"{len(first)} finite distances of pairs")
        return distances

    def _checked(self, result: Any, count: int) -> Tensor:
        features = self._as_tensor(result)
        if features.ndim != 2 or len(features) != count or not features.shape[1]:
            raise self._refusal(tuple(features.shape), f"of shape ({count}, D) for {count} images")
        if self._dimensions not in (None, features.shape[1]):
            raise self._refusal(features.shape[1], f"of {self._dimensions} dimensions, as before")
        if not bool(torch.isfinite(features).all()):
            raise self._refusal("NaN or infinite values", "finite")
        self._dimensions = features.shape[1]
        return features

    def _as_tensor(self, result: Any) -> Tensor:
        if isinstance(result, np.ndarray):
            result = torch.from_numpy(result)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            kind = str(result.dtype) if isinstance(result, Tensor) else type(result).__name__
            raise self._refusal(kind, "a floating-point tensor or array")
        return result.detach().cpu().double()

    def _refusal(self, value: Any, constraint: str) -> SettingError:
        return SettingError(f"{self.kind} {self.name!r}", value, constraint)


class LatentFeatures:
    """Features of the autoencoder's encoder: mean and standard deviation of each latent channel over the cells.

    They need no other network. The generator copies in the same space, so they favor its images.
    """

    note = (
        "`latents` is the generator's own latent space: its figures compare rows made with one autoencoder, and are "
        "not comparable with published ones."
    )

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder

    def __call__(self, images: Tensor) -> Tensor:
        """Return ``(N, 2 L)``."""
        deviation, mean = torch.std_mean(self.autoencoder.encode(images).flatten(2), dim=2, correction=0)
        return torch.cat([mean, deviation], 1).cpu()

    def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return mean squared differences of latents: ``(P,)``."""
        latents = self.autoencoder.encode(images).cpu()
        return torch.stack([(latents[i] - latents[j]).square().mean() for i, j in zip(first, second, strict=True)])


class Inception:
    """Inception v3 with torch-fidelity's weights, those of published FID and KID: 2048 features.

    The first use downloads the weights, 91 MB.
    """

    def __init__(self, device: torch.device) -> None:
        module = _import_package("inception")
        self.device = device
        self.network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return ``(N, 2048)``."""
        levels = images.mul(255).round().to(self.device, torch.uint8)
        features: Tensor = self.network(levels)[0]
        return features.cpu()


class LPIPS:
    """Learned perceptual image patch similarity with AlexNet (Zhang et al. 2018; package lpips): distances of pairs.

    The first use downloads AlexNet's weights, 233 MB.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.network = _import_package("lpips").LPIPS(net="alex", verbose=False).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        raise SettingError("features", "lpips", "an extractor of features; lpips is for --perceptual")

    def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return ``(P,)``."""
        return torch.cat(
            [
                self.network(images[i].to(self.device), images[j].to(self.device), normalize=True).flatten().cpu()
                for i, j in zip(first.split(_BATCH), second.split(_BATCH), strict=True)
            ]
        )


#: Built-in extractors by name, as functions of the autoencoder in use.
BUILT_IN: dict[str, Callable[[Autoencoder], Callable[[Tensor], Any]]] = {
    "latents": LatentFeatures,
    "inception": lambda autoencoder: Inception(autoencoder.device),
    "lpips": lambda autoencoder: LPIPS(autoencoder.device),
}


def load_extractor(text: str, autoencoder: Autoencoder) -> Extractor:
    """Return the extractor of a name, of ``MODULE:CALLABLE``, or of ``FILE.py[:CALLABLE]``.

    A file or module is code, and is run. A class is instantiated without arguments. The default name of a file's
    callable is ``extractor``.

    Raises:
        SettingError: for an unknown name.
        FileError: for a file that does not exist or is no Python file.
        MissingDependencyError: where a built-in extractor's package is not installed.
        LatentPatchError: where code cannot be run.
    """
    return find_extractor(text)(autoencoder)


def find_extractor(text: str) -> Callable[[Autoencoder], Extractor]:
    """Return :func:`load_extractor` of a text as a function of the autoencoder, with all other errors raised."""
    if text in BUILT_IN:
        if text in _PACKAGES:
            _import_package(text)
        return plain_torch()(lambda autoencoder: Extractor(text, BUILT_IN[text](autoencoder)))
    extractor = import_extractor(text, "features", _DEFAULT_NAME, ", ".join(BUILT_IN))
    return lambda autoencoder: extractor


@plain_torch()
def import_extractor(text: str, kind: str, default: str, others: str) -> Extractor:
    """Return the extractor of ``MODULE:CALLABLE`` or ``FILE.py[:CALLABLE]``, whose code is run.

    Args:
        text: the text.
        kind: noun of the extractor's results in errors.
        default: name of a file's callable where none is named.
        others: other texts that the caller accepts, for the error.

    Raises:
        SettingError: for another text.
        FileError: for a file that does not exist, is no Python file, or lacks the callable.
    """
    place, _, name = text.rpartition(":") if not text.endswith(".py") else (text, "", default)
    digest = None
    if place.endswith(".py"):
        module, digest = _import_file(Path(place))
    elif place:
        module = _run(place, lambda: importlib.import_module(place))
    else:
        raise SettingError(kind, text, f"one of {others}, MODULE:CALLABLE or FILE.py[:CALLABLE]")
    found = getattr(module, name, None)
    if found is None:
        raise FileError(place, f"defines no {name!r}; see the contract in docs/evaluation.md")
    if isinstance(found, type):
        found = _run(place, found)
    return Extractor(Path(place).stem if digest else text, found, digest, kind)


def read_features(path: str | Path) -> Tensor:
    """Read features ``(M, D)`` from ``.npy``, or from the tensor ``features`` of ``.safetensors``, as float64.

    Raises:
        FileError: for other contents, pickled arrays among them.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            found = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            found = read_tensors(path)["features"]
    except KeyError as error:
        raise FileError(path, "must hold a tensor named 'features'") from error
    except (OSError, ValueError, TypeError, EOFError, safetensors.SafetensorError) as error:
        raise FileError(path, f"features cannot be read: {error}") from error
    if found.ndim != 2 or not found.is_floating_point() or not bool(torch.isfinite(found).all()):
        shape = f"{found.dtype} {tuple(found.shape)}"
        raise FileError(path, f"must hold finite floating-point features of shape (M, D), got {shape}")
    return found.double()


def _import_file(path: Path) -> tuple[ModuleType, str]:
    """Run a Python file as a module; return the module and the file's SHA-256."""
    if not path.is_file():
        raise FileError(path, "no such file")
    spec = importlib.util.spec_from_file_location(f"latentpatch_features_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileError(path, "not a Python file")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _run(str(path), lambda: loader.exec_module(module))
    return module, sha256_of(path)


def _run(place: str, call: Callable[[], Any]) -> Any:
    """Call a user's code; any exception becomes a FileError of its file or module."""
    try:
        return call()
    except Exception as error:
        raise FileError(place, f"cannot be run: {type(error).__name__}: {error}") from error


def _import_package(name: str) -> Any:
    """Import the package of a built-in extractor."""
    module = _PACKAGES[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise MissingDependencyError(package, "evaluate", f"features {name!r}") from error
    except RuntimeError as error:  # torchvision beside a torch of another version
        raise LatentPatchError(f"features {name!r} need {module}, which cannot be imported: {error}") from error
