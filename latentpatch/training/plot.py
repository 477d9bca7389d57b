"""Draw the curves of losses with Pillow."""

from __future__ import annotations

import io
from typing import TypeAlias

from PIL import Image, ImageDraw

__all__ = ["Row", "plot_losses"]

#: Number and name of a stage, steps of it, mean losses by name.
Row: TypeAlias = tuple[int, str, int, dict[str, float]]

_WIDTH, _HEIGHT, _MARGIN = 720, 120, 16  # pixels of one loss's panel
_TRIMMED = 0.02  # share of the values beyond either end of the axis: the first steps would flatten all others


def plot_losses(rows: list[Row]) -> bytes:
    """Return a PNG with a panel for each loss: its curve over all steps, grey lines where stages begin."""
    names = list(dict.fromkeys(name for row in rows for name in row[3]))
    picture = Image.new("RGB", (_WIDTH, max(1, len(names)) * _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    totals: list[int] = []
    before, latest = 0, (rows[0][0], 0) if rows else (0, 0)
    starts = []
    for number, _, step, _ in rows:
        if number != latest[0]:
            before += latest[1]
            starts.append(before)
        latest = (number, step)
        totals.append(before + step)
    scale = (_WIDTH - 2 * _MARGIN) / max(totals, default=1)
    for k, name in enumerate(names):
        top, bottom = k * _HEIGHT + _MARGIN, (k + 1) * _HEIGHT - 4
        points = [(at, row[3][name]) for at, row in zip(totals, rows, strict=True) if name in row[3]]
        ordered = sorted(value for _, value in points)
        cut = int(_TRIMMED * len(ordered))
        low, high = ordered[cut], ordered[-1 - cut]
        for start in starts:
            draw.line([(_MARGIN + start * scale, top), (_MARGIN + start * scale, bottom)], "lightgrey")
        curve = [
            (_MARGIN + at * scale, bottom - (bottom - top) * min(max((value - low) / ((high - low) or 1), 0), 1))
            for at, value in points
        ]
        draw.line(curve, "navy") if len(curve) > 1 else draw.point(curve, "navy")
        draw.text((_MARGIN, k * _HEIGHT + 2), f"{name}: {low:.4g} to {high:.4g}, now {points[-1][1]:.4g}", "black")
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
