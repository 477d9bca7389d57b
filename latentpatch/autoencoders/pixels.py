"""Pixels as latents: the whole method without any weights."""

from __future__ import annotations

from torch import Tensor

from ..errors import SettingError
from ..validation import check_integer
from .base import Autoencoder, AutoencoderSpec

__all__ = ["PixelAutoencoder", "load"]

_MAX_DOWNSAMPLING = 64  # pixels


class PixelAutoencoder(Autoencoder):
    """Pixel-unshuffled RGB: the latents of a cell are its ``f x f x 3`` values, without loss and without blending.

    For tests, comparisons and single-image methods.

    Args:
        downsampling: pixels a cell covers along each side, f.
    """

    def __init__(self, downsampling: int = 16) -> None:
        check_integer("downsampling", downsampling, 1, _MAX_DOWNSAMPLING)
        spec = AutoencoderSpec(
            "pixels", "pixels", 3 * downsampling**2, downsampling, 256, "none", argument=str(downsampling)
        )
        super().__init__(spec, fold=downsampling)
        self.freeze()

    @property
    def lossless(self) -> bool:
        """True: latents are pixels."""
        return True

    def encode_raw(self, images: Tensor) -> Tensor:
        return images - 0.5  # centred, so that half-precision storage is finest around mid-grey

    def decode_raw(self, latents: Tensor) -> Tensor:
        return latents + 0.5


def load(name: str, argument: str | None = None, *, pretrained: bool = True) -> PixelAutoencoder:
    """Build the autoencoder; ``argument`` is the downsampling (16 by default), ``pretrained`` has no meaning.

    Raises:
        SettingError: where the argument is no integer from 1 to 64.
    """
    if argument is None:
        return PixelAutoencoder()
    if not argument.isdecimal():
        raise SettingError("autoencoder", f"{name}:{argument}", f"{name}:N with N from 1 to {_MAX_DOWNSAMPLING}")
    return PixelAutoencoder(int(argument))
