"""The bank: latents, search keys, residuals, ids and attributes of the sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach

if TYPE_CHECKING:
    from .augmentation import Variants
    from .bank import SourceBank
    from .pca import PCA

__all__ = [
    "PCA",
    "SourceBank",
    "Variants",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        ".augmentation": ("Variants",),
        ".bank": ("SourceBank",),
        ".pca": ("PCA",),
    },
)
