"""Export of fitted models as graphs that run without this package: ONNX, torch.export, AOTInductor."""

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
