"""Are pictures copies of sources? Figures beside those of pictures that are none, and a verdict against limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .copying import Copying

__all__ = ["Limits", "audited", "joined"]

_FIGURES = ("largest_share", "sources", "largest_region", "regions", "distance", "relative")


@dataclass(frozen=True)
class Limits:
    """What no picture, or no set of pictures, may pass.

    The defaults were chosen between pictures that are no copies (held-out ones, default samples) and copies of sources
    (as they are, compressed, resized, flipped, brighter, a few pixels off): docs/provenance.md has the distributions.

    Attributes:
        mean_share: of the largest source of a picture, on average, at most.
        share: of the largest source of any picture, at most.
        relative: distance to the nearest source beside that to the next nearest, of any picture, at least.
    """

    mean_share: float = 0.5
    share: float = 0.9
    relative: float = 0.6

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:  # so that NaN fails too
                raise ValueError(f"limit {field.name} {value!r}: a number from 0 to 1 is expected")

    def failures(self, figures: Copying, names: Sequence[str]) -> list[dict[str, Any]]:
        """What is beyond the limits: the picture's name (None for all together), the figure, its value, its limit."""
        found: list[dict[str, Any]] = []
        mean = float(figures.largest_share.mean())
        if mean > self.mean_share:
            found.append(_failure(None, "largest_share", mean, self.mean_share))
        for name, share, relative in zip(names, figures.largest_share.tolist(), figures.relative.tolist(), strict=True):
            if share > self.share:
                found.append(_failure(name, "largest_share", share, self.share))
            if relative < self.relative:
                found.append(_failure(name, "relative", relative, self.relative))
        return found


def audited(figures: Copying, names: Sequence[str], reference: Copying, limits: Limits | None = None) -> dict[str, Any]:
    """Figures, failures and verdict of pictures, as JSON.

    Args:
        figures: of the pictures.
        names: of the pictures.
        reference: of pictures that are no copies: held-out ones, or the sources each without itself.
        limits: by default :class:`Limits`.
    """
    limits = limits or Limits()
    failures = limits.failures(figures, names)
    return {
        "verdict": "fail" if failures else "pass",
        "limits": asdict(limits),
        "failures": failures,
        "figures": {name: _distribution(getattr(figures, name)) for name in _FIGURES},
        "reference": {name: _distribution(getattr(reference, name)) for name in _FIGURES},
        # What the pictures have of the reference's: 1 where they are as far from the sources, and as irregular.
        "beside_reference": {
            name: round(float(getattr(figures, name).double().median() / _middle(getattr(reference, name))), 4)
            for name in ("distance", "regions")
        },
    }


def joined(parts: Sequence[Copying]) -> Copying:
    """Figures of pictures that were looked at in several batches."""
    return Copying(**{each.name: torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Copying)})


def _failure(name: str | None, figure: str, value: float, limit: float) -> dict[str, Any]:
    return {"file": name, "figure": figure, "value": round(value, 4), "limit": limit}


def _middle(values: Tensor) -> float:
    return max(float(values.double().median()), 1e-30)


def _distribution(values: Tensor) -> dict[str, float]:
    values = values.double()
    figures = {"least": values.min(), "median": values.median(), "mean": values.mean(), "most": values.max()}
    return {name: round(float(value), 4) for name, value in figures.items()}
