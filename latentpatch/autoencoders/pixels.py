"""Pixels as latents: the whole method without any weights."""

from __future__ import annotations

from torch import Tensor

from .base import Autoencoder, AutoencoderSpec

__all__ = ["PixelAutoencoder", "load"]


class PixelAutoencoder(Autoencoder):
    """Pixel-unshuffled RGB: a cell holds the ``f x f x 3`` values it covers, so nothing is lost and
    nothing is blended. For tests, comparisons and single-image methods.

    Args:
        downsampling: pixels a cell covers along each side, f.
    """

    def __init__(self, downsampling: int = 16) -> None:
        if isinstance(downsampling, bool) or not isinstance(downsampling, int) or not 1 <= downsampling <= 64:
            raise ValueError(f"downsampling {downsampling!r}: an integer from 1 to 64 is expected")
        spec = AutoencoderSpec(
            "pixels", "pixels", 3 * downsampling**2, downsampling, 256, "none", argument=str(downsampling)
        )
        super().__init__(spec, fold=downsampling)

    @property
    def lossless(self) -> bool:
        """True: latents are pixels."""
        return True

    def _encode(self, images: Tensor) -> Tensor:
        return images - 0.5  # centred, so that half-precision storage is finest around mid-grey

    def _decode(self, latents: Tensor) -> Tensor:
        return latents + 0.5


def load(name: str, argument: str | None = None, *, pretrained: bool = True) -> PixelAutoencoder:
    """Build it; ``argument`` is the downsampling (16 where not given), ``pretrained`` has no meaning.

    Raises:
        ValueError: where the argument is no integer from 1 to 64.
    """
    if argument is None:
        return PixelAutoencoder()
    if not argument.isdecimal():
        raise ValueError(f"{name}:{argument}: an integer from 1 to 64 is expected after the colon")
    return PixelAutoencoder(int(argument))
