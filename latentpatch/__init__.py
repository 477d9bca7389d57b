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
    from .generators import load_generator
    from .methods.base import Context, Method, Sampler, register
    from .methods.inversion import InversionSettings, interpolate, invert
    from .methods.latent.presets import PRESETS
    from .methods.latent.settings import (
        DiffusionSettings,
        RandomCellsSettings,
        RandomPatchesSettings,
        RasterSettings,
        ResynthesisSettings,
    )
    from .methods.picture import PictureMethod, PictureResult, register_method
    from .methods.single_image.presets import PICTURE_PRESETS
    from .methods.single_image.settings import CompletionSettings, GPNNSettings, PatchDiffusionSettings
    from .model import LatentPatch
    from .picture_tasks import analogy, denoise, edit, harmonize, inpaint, reshuffle, retarget, stylize
    from .provenance.explanation import Explanation, explain
    from .registry import PICTURE_METHODS, SAMPLERS
    from .results import Blend, Generation, PictureGeneration
    from .scene_tasks import compose, texture
    from .settings import Settings, setting

__all__ = [
    "PCA",
    "PICTURE_METHODS",
    "PICTURE_PRESETS",
    "PRESETS",
    "SAMPLERS",
    "Autoencoder",
    "AutoencoderSpec",
    "Blend",
    "CompletionSettings",
    "Context",
    "DiffusionSettings",
    "Explanation",
    "FileError",
    "GPNNSettings",
    "Generation",
    "ImageError",
    "InversionSettings",
    "LatentPatch",
    "LatentPatchError",
    "Method",
    "MissingDependencyError",
    "PatchDiffusionSettings",
    "PictureGeneration",
    "PictureMethod",
    "PictureResult",
    "RandomCellsSettings",
    "RandomPatchesSettings",
    "RasterSettings",
    "ResynthesisSettings",
    "Sampler",
    "SettingError",
    "Settings",
    "SourceBank",
    "WeightsError",
    "analogy",
    "compose",
    "denoise",
    "edit",
    "explain",
    "harmonize",
    "inpaint",
    "interpolate",
    "invert",
    "load_autoencoder",
    "load_generator",
    "register",
    "register_method",
    "reshuffle",
    "retarget",
    "setting",
    "stylize",
    "texture",
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
        ".generators": ("load_generator",),
        ".methods.base": ("Context", "Method", "Sampler", "register"),
        ".methods.inversion": ("InversionSettings", "interpolate", "invert"),
        ".methods.latent.presets": ("PRESETS",),
        ".methods.latent.settings": (
            "DiffusionSettings",
            "RandomCellsSettings",
            "RandomPatchesSettings",
            "RasterSettings",
            "ResynthesisSettings",
        ),
        ".methods.picture": ("PictureMethod", "PictureResult", "register_method"),
        ".methods.single_image.presets": ("PICTURE_PRESETS",),
        ".methods.single_image.settings": ("CompletionSettings", "GPNNSettings", "PatchDiffusionSettings"),
        ".model": ("LatentPatch",),
        ".picture_tasks": (
            "analogy",
            "denoise",
            "edit",
            "harmonize",
            "inpaint",
            "reshuffle",
            "retarget",
            "stylize",
        ),
        ".provenance.explanation": ("Explanation", "explain"),
        ".registry": ("PICTURE_METHODS", "SAMPLERS"),
        ".results": ("Blend", "Generation", "PictureGeneration"),
        ".scene_tasks": ("compose", "texture"),
        ".settings": ("Settings", "setting"),
    },
)
__version__ = "0.1.0"
