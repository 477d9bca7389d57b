"""Entry points of PyTorch Hub; :mod:`hubconf` re-exports them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .autoencoders.pixels import PixelAutoencoder
from .autoencoders.registry import AUTOENCODERS, DEFAULT, Autoencoder, load_autoencoder
from .bank.format import model_file
from .methods.latent.presets import DEFAULT_PRESET, PRESETS
from .model import LatentPatch
from .validation import check_choice

__all__ = [
    "diffusers_autoencoder",
    "embedded_autoencoder",
    "latentpatch",
    "pixel_autoencoder",
    "taming_autoencoder",
    "tiny_autoencoder",
]


def latentpatch(
    sources: str | Path | Sequence[str | Path] | None = None,
    autoencoder: str | None = None,
    weights: str | None = None,
    pretrained: bool = True,
    components: int | None = None,
    preset: str | None = None,
    **settings: Any,
) -> LatentPatch:
    """New images from a handful of registered examples, without training (LatentPatch, ICIP 2023).

    Args:
        sources: a folder of pictures, files, or a text file that lists files, to fit the model on; a
            fitted model file (``.safetensors``); None for a model without sources, to be fitted later.
        autoencoder: name of the autoencoder, e.g. ``embedded``, ``taef2``, ``vqgan-faceshq``, ``pixels``; by
            default the one a fitted model file names, otherwise ``embedded``, which needs no download.
        weights: local file or folder of the autoencoder's weights; None to use the cache or download.
        pretrained: False for random weights: touches no file and no network.
        components: principal components kept for the search, 16 by default.
        preset: ``faithful``, ``balanced`` (the default), ``diverse``, ``few`` or ``paper``: how pictures are put
            together.
        settings: settings of the preset's sampler to change, such as ``patch_size`` or ``neighbours``.

    Returns:
        A :class:`LatentPatch` module.

    Example:
        >>> import torch
        >>> model = torch.hub.load(".", "latentpatch", source="local", autoencoder="pixels")
        >>> model = model.fit(torch.rand(8, 3, 256, 256))
        >>> model.generate(4, seed=0).images.shape
        torch.Size([4, 3, 256, 256])
    """
    named = autoencoder is not None or weights is not None or not pretrained
    network = load_autoencoder(autoencoder or DEFAULT, weights, pretrained=pretrained) if named else None
    chosen = None if preset is None else PRESETS[check_choice("preset", preset, PRESETS)]
    is_fitted = sources is not None and model_file(sources) is not None
    if not is_fitted:  # refused before anything is encoded
        chosen = (chosen or PRESETS[DEFAULT_PRESET]).changed(**settings)
    if sources is None:
        return LatentPatch(network or DEFAULT, 16 if components is None else components, chosen)
    model = LatentPatch.open(sources, autoencoder=network, components=components, settings=chosen, device="cpu")
    if is_fitted:
        model.settings = model.with_settings(**settings)
    return model


def embedded_autoencoder(name: str = "embedded", weights: str | None = None, pretrained: bool = True) -> Autoencoder:
    """An autoencoder the package carries (MIT): f16, small and fast, taught to blend.

    Args:
        name: ``embedded`` (128 channels, the latent space of taef2) or ``embedded-vq`` (256 channels, 1024 codes).
        weights: folder of weights of one's own training; None for those of the package.
        pretrained: False for random weights.

    Example:
        >>> import torch
        >>> net = torch.hub.load(".", "embedded_autoencoder", source="local")
        >>> net.decode(net.encode(torch.rand(1, 3, 64, 64))).shape
        torch.Size([1, 3, 64, 64])
    """
    return _member("embedded", name, weights, pretrained)


def tiny_autoencoder(name: str = "taef2", weights: str | None = None, pretrained: bool = True) -> Autoencoder:
    """A tiny autoencoder of the TAESD family (MIT): f8, folded to f16.

    Args:
        name: ``taesd``, ``taesdxl``, ``taesd3``, ``taef1`` or ``taef2``.
        weights: folder of ``NAME_encoder.pth`` and ``NAME_decoder.pth``; None to use the cache or download.
        pretrained: False for random weights, without files or network.

    Example:
        >>> import torch
        >>> net = torch.hub.load(".", "tiny_autoencoder", source="local", pretrained=False)
        >>> net.decode(net.encode(torch.rand(1, 3, 64, 64))).shape
        torch.Size([1, 3, 64, 64])
    """
    return _member("taesd", name, weights, pretrained)


def taming_autoencoder(name: str = "vqgan-faceshq", weights: str | None = None, pretrained: bool = True) -> Autoencoder:
    """A VQGAN of taming-transformers: f16 with a codebook. Needs ``pip install latentpatch[taming]``.

    Args:
        name: ``vqgan-ffhq``, ``vqgan-celebahq``, ``vqgan-faceshq``, ``vqgan-imagenet-1024`` or
            ``vqgan-imagenet-16384``.
        weights: checkpoint file, of the VQGAN or of a transformer that contains it.
        pretrained: False for random weights, without files or network.
    """
    return _member("vqgan", name, weights, pretrained)


def diffusers_autoencoder(weights: str) -> Autoencoder:
    """An AutoencoderTiny, VQModel or AutoencoderKL of diffusers. Needs ``pip install latentpatch[diffusers]``.

    Args:
        weights: local folder or Hugging Face repository, ``PATH_OR_REPO[@SUBFOLDER]``.
    """
    return _member("hf_diffusers", "diffusers", weights, True)


def pixel_autoencoder(downsampling: int = 16) -> Autoencoder:
    """Pixels as latents: no weights, nothing blended.

    Args:
        downsampling: pixels a latent cell covers along each side.

    Example:
        >>> import torch
        >>> net = torch.hub.load(".", "pixel_autoencoder", source="local")
        >>> net.encode(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 768, 4, 4])
    """
    return PixelAutoencoder(downsampling)


def _member(family: str, name: str, weights: str | None, pretrained: bool) -> Autoencoder:
    members = [member for member, of in AUTOENCODERS.items() if of == family]
    if name not in members:
        raise ValueError(f"name {name!r}: one of {', '.join(members)} is expected")
    return load_autoencoder(name, weights, pretrained=pretrained)
