"""Pretrained autoencoders behind one contract, one file a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach

if TYPE_CHECKING:
    from .base import Autoencoder, AutoencoderSpec
    from .registry import AUTOENCODERS, DEFAULT, load_autoencoder, parse_autoencoder

__all__ = [
    "AUTOENCODERS",
    "DEFAULT",
    "Autoencoder",
    "AutoencoderSpec",
    "load_autoencoder",
    "parse_autoencoder",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        ".base": (
            "Autoencoder",
            "AutoencoderSpec",
        ),
        ".registry": (
            "AUTOENCODERS",
            "DEFAULT",
            "load_autoencoder",
            "parse_autoencoder",
        ),
    },
)
