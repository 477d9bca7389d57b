"""Paths of the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORTRAITS = ROOT / "examples" / "portraits"
SHARED = ROOT.parent / "shared"
