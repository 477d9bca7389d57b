"""The command line, one file a command; :mod:`.entry` parses and runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach

if TYPE_CHECKING:
    from .entry import main

__all__ = ["main"]

__getattr__, __dir__ = attach(__name__, {".entry": ("main",)})
