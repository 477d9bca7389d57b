"""Export of fitted models to ONNX, torch.export and AOTInductor, which run without this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach

if TYPE_CHECKING:
    from .formats import EXTERNAL_FROM, FORMATS, export

__all__ = [
    "EXTERNAL_FROM",
    "FORMATS",
    "export",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        ".formats": (
            "EXTERNAL_FROM",
            "FORMATS",
            "export",
        ),
    },
)
