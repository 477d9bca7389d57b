"""Inversion of generators: pictures to styles and noise maps, and new pictures between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import attach

if TYPE_CHECKING:
    from .generator import Generator, GeneratorSpec
    from .interpolating import interpolate, weights_of
    from .inverting import Inversion, estimate_seconds, invert
    from .settings import InversionSettings
    from .stored import StoredInversion

__all__ = [
    "Generator",
    "GeneratorSpec",
    "Inversion",
    "InversionSettings",
    "StoredInversion",
    "estimate_seconds",
    "interpolate",
    "invert",
    "weights_of",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        ".generator": ("Generator", "GeneratorSpec"),
        ".interpolating": ("interpolate", "weights_of"),
        ".inverting": ("Inversion", "estimate_seconds", "invert"),
        ".settings": ("InversionSettings",),
        ".stored": ("StoredInversion",),
    },
)
