"""New images from a handful of registered examples, without training (LatentPatch, ICIP 2023)."""

from .autoencoders import Autoencoder, AutoencoderSpec, load_autoencoder
from .bank import SourceBank
from .errors import FileError, ImageError, LatentPatchError, WeightsError
from .explanation import Explanation, explain
from .generation import Blend, Generation
from .model import LatentPatch
from .pca import PCA
from .sampling import (
    PRESETS,
    SAMPLERS,
    DiffusionSettings,
    RandomCellsSettings,
    RandomPatchesSettings,
    RasterSettings,
    ResynthesisSettings,
)

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
__version__ = "0.1.0"
