"""The autoencoder the package carries: small, fast, and taught by taef2 to blend.

A student of taef2 (https://github.com/madebyollin/taesd, MIT) that shares its latent space, folded to
f16: a bank made with one can be decoded by the other. Nearly all work is done at 1/16 of the resolution,
where a wide network sees the surroundings of each cell, so that a mosaic of latents from many sources
becomes one picture. :mod:`latentpatch.training` is the recipe.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import WeightsError
from .base import Autoencoder, AutoencoderSpec
from .weights import WeightFile, locate

__all__ = ["EmbeddedAutoencoder", "load"]

_FOLDER = Path(__file__).parent / "embedded_weights"
_SHA256: dict[str, str] = {}
_CHANNELS = 128


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(torch.relu(self.first(x)))
        return x + change


def _decoder(coarse: int = 224, middle: int = 128, fine: int = 48) -> nn.Sequential:
    """(N, 128, h, w) -> (N, 3, 16 h, 16 w); the widths are those at 1/16, 1/8 and 1/4 of the resolution."""
    return nn.Sequential(
        nn.Conv2d(_CHANNELS, coarse, 3, padding=1),
        *(_Residual(coarse) for _ in range(3)),
        nn.Conv2d(coarse, 4 * middle, 1),
        nn.PixelShuffle(2),
        _Residual(middle),
        nn.Conv2d(middle, 4 * fine, 1),
        nn.PixelShuffle(2),
        _Residual(fine),
        nn.Conv2d(fine, 48, 3, padding=1),
        nn.PixelShuffle(4),
    )


def _encoder(fine: int = 48, middle: int = 128, coarse: int = 192) -> nn.Sequential:
    """(N, 3, 16 h, 16 w) -> (N, 128, h, w): the decoder's mirror image."""
    return nn.Sequential(
        nn.PixelUnshuffle(4),
        nn.Conv2d(48, fine, 3, padding=1),
        _Residual(fine),
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * fine, middle, 1),
        _Residual(middle),
        _Residual(middle),
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * middle, coarse, 1),
        _Residual(coarse),
        _Residual(coarse),
        nn.Conv2d(coarse, _CHANNELS, 3, padding=1),
    )


class EmbeddedAutoencoder(Autoencoder):
    """A compact student of taef2: f16, 128 channels, about 3.5 and 2.7 million parameters."""

    def __init__(self) -> None:
        super().__init__(AutoencoderSpec("embedded", "embedded", _CHANNELS, 16, 256, "MIT"))
        self.encoder = _encoder()
        self.decoder = _decoder()
        self.freeze()

    def _encode(self, images: Tensor) -> Tensor:
        # taef2's latents lie within about 3 of zero; so do these.
        latents: Tensor = self.encoder(images - 0.5)
        return latents

    def _decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.decoder(torch.tanh(latents / 3) * 3)
        return images + 0.5


def load(name: str, argument: str | None = None, *, pretrained: bool = True) -> EmbeddedAutoencoder:
    """Build it.

    Args:
        name: ``embedded``.
        argument: folder with ``embedded_encoder.safetensors`` and ``embedded_decoder.safetensors`` of one's
            own training; None for those the package carries.
        pretrained: False for random weights.

    Raises:
        WeightsError: for files that are missing, altered or malformed.
    """
    model = EmbeddedAutoencoder()
    if pretrained:
        weights: dict[str, Tensor] = {}
        for half in ("encoder", "decoder"):
            file = f"{name}_{half}.safetensors"
            path = locate(WeightFile(file, sha256=_SHA256.get(file) if argument is None else None), argument or _FOLDER)
            try:
                state = load_file(path)
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
            weights |= {f"{half}.{key}": value.float() for key, value in state.items()}
        model.load_weights(weights, str(argument or _FOLDER))
    return model
