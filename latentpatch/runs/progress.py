"""Show progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["progress"]


def progress(description: str, items: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> Any:
    """Return a ``tqdm`` bar over ``items``, or one to be updated by its caller; it vanishes at the end.

    Args:
        description: text before the bar.
        items: the items to iterate over; None where the caller updates the bar.
        shown: whether there is a bar at all.
        options: further arguments of ``tqdm``, such as ``total``; the unit is pictures by default.
    """
    return tqdm(items, desc=description, disable=not shown, **{"unit": "img", "leave": False, **options})
