"""Processes as torchrun started them; importing this module imports no torch."""

from __future__ import annotations

import os

__all__ = ["num_processes", "rank"]


def num_processes() -> int:
    """Return how many processes torchrun started together: 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process among those that torchrun started."""
    return int(os.environ.get("RANK", "0"))
