"""New images from a handful of registered examples, without training (LatentPatch, ICIP 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import attach

if TYPE_CHECKING:
    from .autoencoders.base import Autoencoder, AutoencoderSpec
    from .autoencoders.registry import load_autoencoder
    from .bank.bank import SourceBank
    from .bank.pca import PCA
    from .errors import FileError, ImageError, LatentPatchError, MissingDependencyError, SettingError, WeightsError
    from .methods.base import Context, Method, Sampler, register
    from .methods.latent.presets import PRESETS
    from .methods.latent.settings import (
        DiffusionSettings,
        RandomCellsSettings,
        RandomPatchesSettings,
        RasterSettings,
        ResynthesisSettings,
    )
    from .model import LatentPatch
    from .provenance.explanation import Explanation, explain
    from .registry import SAMPLERS
    from .results import Blend, Generation
    from .settings import Settings, setting

__all__ = [
    "PCA",
    "PRESETS",
    "SAMPLERS",
    "Autoencoder",
    "AutoencoderSpec",
    "Blend",
    "Context",
    "DiffusionSettings",
    "Explanation",
    "FileError",
    "Generation",
    "ImageError",
    "LatentPatch",
    "LatentPatchError",
    "Method",
    "MissingDependencyError",
    "RandomCellsSettings",
    "RandomPatchesSettings",
    "RasterSettings",
    "ResynthesisSettings",
    "Sampler",
    "SettingError",
    "Settings",
    "SourceBank",
    "WeightsError",
    "explain",
    "load_autoencoder",
    "register",
    "setting",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        ".autoencoders.base": ("Autoencoder", "AutoencoderSpec"),
        ".autoencoders.registry": ("load_autoencoder",),
        ".bank.bank": ("SourceBank",),
        ".bank.pca": ("PCA",),
        ".errors": (
            "FileError",
            "ImageError",
            "LatentPatchError",
            "MissingDependencyError",
            "SettingError",
            "WeightsError",
        ),
        ".methods.base": ("Context", "Method", "Sampler", "register"),
        ".methods.latent.presets": ("PRESETS",),
        ".methods.latent.settings": (
            "DiffusionSettings",
            "RandomCellsSettings",
            "RandomPatchesSettings",
            "RasterSettings",
            "ResynthesisSettings",
        ),
        ".model": ("LatentPatch",),
        ".provenance.explanation": ("Explanation", "explain"),
        ".registry": ("SAMPLERS",),
        ".results": ("Blend", "Generation"),
        ".settings": ("Settings", "setting"),
    },
)
__version__ = "0.1.0"
