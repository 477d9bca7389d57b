"""New images from a handful of registered examples, without training (LatentPatch, ICIP 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import attach

if TYPE_CHECKING:
    from .autoencoders.base import Autoencoder, AutoencoderSpec
    from .autoencoders.registry import load_autoencoder
    from .bank.bank import SourceBank
    from .bank.pca import PCA
    from .errors import FileError, ImageError, LatentPatchError, WeightsError
    from .methods.latent.samplers import (
        PRESETS,
        SAMPLERS,
        DiffusionSettings,
        RandomCellsSettings,
        RandomPatchesSettings,
        RasterSettings,
        ResynthesisSettings,
    )
    from .model import LatentPatch
    from .provenance.explanation import Explanation, explain
    from .results import Blend, Generation

__all__ = [
    "PCA",
    "PRESETS",
    "SAMPLERS",
    "Autoencoder",
    "AutoencoderSpec",
    "Blend",
    "DiffusionSettings",
    "Explanation",
    "FileError",
    "Generation",
    "ImageError",
    "LatentPatch",
    "LatentPatchError",
    "RandomCellsSettings",
    "RandomPatchesSettings",
    "RasterSettings",
    "ResynthesisSettings",
    "SourceBank",
    "WeightsError",
    "explain",
    "load_autoencoder",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        ".autoencoders.base": (
            "Autoencoder",
            "AutoencoderSpec",
        ),
        ".autoencoders.registry": ("load_autoencoder",),
        ".bank.bank": ("SourceBank",),
        ".bank.pca": ("PCA",),
        ".errors": (
            "FileError",
            "ImageError",
            "LatentPatchError",
            "WeightsError",
        ),
        ".methods.latent.samplers": (
            "DiffusionSettings",
            "PRESETS",
            "RandomCellsSettings",
            "RandomPatchesSettings",
            "RasterSettings",
            "ResynthesisSettings",
            "SAMPLERS",
        ),
        ".model": ("LatentPatch",),
        ".provenance.explanation": (
            "Explanation",
            "explain",
        ),
        ".results": (
            "Blend",
            "Generation",
        ),
    },
)
__version__ = "0.1.0"
