"""The registry of generators by name, and the alignment of pictures to what a generator makes."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from .autoencoders.registry import AUTOENCODERS, load_autoencoder
from .errors import RegistrationWarning, WeightsError
from .inputs import size_pair
from .methods.inversion.generator import Generator
from .methods.inversion.inverting import Inversion, invert
from .methods.inversion.names import GENERATORS, parse_generator
from .methods.inversion.settings import InversionSettings
from .ops.pyramid import resize
from .registration.agreement import Disagreement, disagreement_of_picture
from .runs.defaults import plain_torch

__all__ = ["GENERATORS", "disagreement_with_generator", "generator", "inversion", "load_generator", "parse_generator"]

_CHECK_SAMPLES = 24  # pictures of the generator's own that stand for its alignment
_CHECK_TRUNCATION = 0.7  # plain ones agree better with one another
_CHECK_SIDE = 256  # pixels at which alignment is judged


def load_generator(
    name: str, argument: str | None = None, *, size: tuple[int, int] | None = None, pretrained: bool = True
) -> Generator:
    """Build a generator by name.

    Args:
        name: a key of :data:`GENERATORS`, or ``NAME:PATH``.
        argument: a local file or folder of weights, see the modules of :mod:`latentpatch.methods.inversion`.
        size: height and width of the pictures, for decoders of autoencoders, which make any.
        pretrained: False for random weights, without files.

    Raises:
        SettingError: for an unknown name, or a size that does not fit.
        MissingDependencyError: without the package that holds the weights.
        FileError, WeightsError: for files that are missing or malformed.
    """
    from .methods.inversion.decoders import DecoderGenerator, SourcesGenerator
    from .model import LatentPatch

    if argument is None:
        name, argument = parse_generator(name)
    else:
        parse_generator(name)
    size = None if size is None else size_pair(size, 0)
    with plain_torch(forks_random=pretrained, for_gradients=True):
        if name in AUTOENCODERS:
            return DecoderGenerator(load_autoencoder(name, argument, pretrained=pretrained), size, argument)
        if name == "latentpatch":
            if argument is None:
                raise WeightsError("the generator latentpatch needs a model file: latentpatch:MODEL.safetensors")
            return SourcesGenerator(LatentPatch.load(Path(argument)), argument)
        module = importlib.import_module(f".methods.inversion.{name.replace('-', '_')}", __package__)
        generator: Generator = module.load(argument, pretrained=pretrained)
    return generator


def generator(name: str = "embedded", weights: str | None = None, pretrained: bool = True) -> Generator:
    """Build a generator, a module whose pictures can be inverted.

    Args:
        name: ``embedded`` or another autoencoder, whose decoder it is; ``stylegan1``, ``stylegan2``,
            ``mobile-stylegan``, ``dcgan``; or ``latentpatch``, for the sources of a fitted model.
        weights: local file or folder.
        pretrained: False for random weights, without files.

    Example:
        >>> import torch
        >>> network = torch.hub.load(".", "generator", "stylegan2", source="local", pretrained=False)
        >>> network.sample([0, 1]).shape
        torch.Size([2, 3, 32, 32])
    """
    return load_generator(name, weights, pretrained=pretrained)


def inversion(
    name: str = "embedded", weights: str | None = None, pretrained: bool = True, **settings: Any
) -> Callable[..., Inversion]:
    """Return a function that finds the inputs of a generator for pictures (GAN inversion).

    Args:
        name: of the generator, see ``generator``.
        weights: local file or folder of the generator.
        pretrained: False for random weights.
        settings: of the search, such as ``steps`` and ``learning_rate``.

    Returns:
        A function of pictures ``(N, 3, H, W)`` in [0, 1] that returns an
        :class:`~latentpatch.methods.inversion.Inversion`; its further arguments are those of
        :func:`~latentpatch.methods.inversion.invert`.

    Example:
        >>> import torch
        >>> invert = torch.hub.load(".", "inversion", "stylegan2", source="local", pretrained=False, steps=10)
        >>> invert(torch.rand(1, 3, 32, 32)).styles.shape
        torch.Size([1, 8, 32])
    """
    return partial(invert, load_generator(name, weights, pretrained=pretrained), settings=InversionSettings(**settings))


def disagreement_with_generator(generator: Generator, targets: Tensor, names: list[str]) -> list[Disagreement]:
    """Return the disagreement of each picture that is not aligned as those that a generator makes.

    Nothing is judged for decoders, which make any picture, and for generators whose own pictures do not agree.

    Args:
        generator: frozen.
        targets: ``(N, 3, h, w)`` in [0, 1].
        names: of the pictures, N.

    Returns:
        One a picture that is not aligned, in their order; empty where all are.
    """
    from .methods.inversion.decoders import SourcesGenerator
    from .model import LatentPatch

    if isinstance(generator, SourcesGenerator):
        model = generator.model
    elif generator.spec.latent_dim:
        model, size = LatentPatch("embedded"), (_CHECK_SIDE, _CHECK_SIDE)
        samples = resize(generator.sample(range(_CHECK_SAMPLES), _CHECK_TRUNCATION).cpu(), size, "bilinear")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RegistrationWarning)  # of the samples: they are the yardstick
            model.fit(samples, residuals=False)
    else:
        return []
    pictures = resize(targets, model.image_size, "bilinear")
    keys = model.bank.keys_of(model.latents_of(pictures), model.pca)
    found = [disagreement_of_picture(model.bank, keys[i : i + 1], name) for i, name in enumerate(names)]
    return [each for each in found if each is not None]
