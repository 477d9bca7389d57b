"""Inversion of generators: pictures to styles and noise maps, and new pictures between them."""

from __future__ import annotations

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
