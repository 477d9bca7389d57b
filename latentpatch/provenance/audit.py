"""Audit of images for copies of sources: their figures, those of a reference without copies, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..validation import check_number
from .copying import Copying
from .registered import Registered

__all__ = ["CopyLimits", "audit_report", "concatenate", "distribution"]

_FIGURES = ("largest_share", "local_share", "sources", "largest_region", "regions", "distance", "relative")


@dataclass(frozen=True)
class CopyLimits:
    """Limits beyond which images count as copies; each from 0 to 1.

    The defaults separate images that are no copies (held-out images, default samples) from copies of sources
    (unchanged, compressed, resized, flipped, brighter, shifted by a few pixels): docs/provenance.md has the
    distributions.

    Attributes:
        mean_share: largest mean of the images' largest shares.
        share: largest share of one source in any image.
        local_share: the same with cells weighted by detail, see :func:`~latentpatch.provenance.maps.local_shares`.
        relative: least distance of any image to the nearest source, relative to the next nearest.
        registered: the same after registration: see :class:`~latentpatch.provenance.registered.Registered`.
    """

    mean_share: float = 0.5
    share: float = 0.9
    local_share: float = 0.7
    relative: float = 0.6
    registered: float = 0.55

    def __post_init__(self) -> None:
        for field in fields(self):
            check_number(field.name, getattr(self, field.name), 0, 1)

    def failures(
        self, figures: Copying, names: Sequence[Any], registered: Registered | None = None
    ) -> list[dict[str, Any]]:
        """Return the figures beyond the limits, each with its image's name, or None for the mean of all images."""
        found: list[dict[str, Any]] = []
        mean = float(figures.largest_share.mean())
        if mean > self.mean_share:
            found.append(_failure(None, "largest_share", mean, self.mean_share))
        rows = (figures.largest_share.tolist(), figures.local_share.tolist(), figures.relative.tolist())
        for name, share, local, relative in zip(names, *rows, strict=True):
            if share > self.share:
                found.append(_failure(name, "largest_share", share, self.share))
            if local > self.local_share:
                found.append(_failure(name, "local_share", local, self.local_share))
            if relative < self.relative:
                found.append(_failure(name, "relative", relative, self.relative))
        for name, relative in [] if registered is None else zip(names, registered.relative.tolist(), strict=True):
            if relative < self.registered:
                found.append(_failure(name, "registered", relative, self.registered))
        return found


def audit_report(
    figures: Copying,
    names: Sequence[str],
    reference: Copying,
    limits: CopyLimits | None = None,
    registered: Registered | None = None,
    reference_registered: Registered | None = None,
) -> dict[str, Any]:
    """Return figures, failures and verdict of images, as JSON holds them.

    Args:
        figures: figures of the images.
        names: names of the images.
        reference: figures of images that are no copies: held-out images, or the sources, each without itself.
        limits: limits of the verdict.
        registered, reference_registered: the same images after registration; None where they were not registered.
    """
    limits = limits or CopyLimits()
    failures = limits.failures(figures, names, registered)
    return {
        "verdict": "fail" if failures else "pass",
        "limits": asdict(limits),
        "failures": failures,
        "figures": _distributions(figures, registered),
        "reference": _distributions(reference, reference_registered),
        # Ratios of medians: 1 for images as far from the sources, and as irregular, as the reference.
        "beside_reference": {
            name: round(_median(getattr(figures, name)) / max(_median(getattr(reference, name)), 1e-30), 4)
            for name in ("distance", "regions")
        },
    }


def concatenate(parts: Sequence[Copying]) -> Copying:
    """Return the figures of several batches of images as one."""
    return Copying(**{each.name: torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Copying)})


def _distributions(figures: Copying, registered: Registered | None) -> dict[str, dict[str, float]]:
    found = {name: distribution(getattr(figures, name)) for name in _FIGURES}
    return found if registered is None else found | {"registered": distribution(registered.relative)}


def _failure(name: Any, figure: str, value: float, limit: float) -> dict[str, Any]:
    return {"file": name, "figure": figure, "value": round(value, 4), "limit": limit}


def _median(values: Tensor) -> float:
    return float(values.double().median())


def distribution(values: Tensor, digits: int = 4) -> dict[str, float]:
    """Return the least, median, mean and largest of values, rounded, as JSON holds them."""
    values = values.double()
    figures = {"least": values.min(), "median": values.median(), "mean": values.mean(), "most": values.max()}
    return {name: round(float(value), digits) for name, value in figures.items()}
