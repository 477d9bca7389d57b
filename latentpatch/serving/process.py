"""Of the process that serves, and of nothing else: what a library should not do to its host."""

from __future__ import annotations

import ctypes

__all__ = ["level_memory"]

_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE = 1 << 18  # bytes


def level_memory() -> bool:
    """Let the memory of large tensors go back to the system as soon as they are freed.

    glibc raises by itself, up to 32 MB, the size from which on it does so; below it tensors of ever-changing sizes
    leave holes, and the memory of a process that serves batches grows for thousands of requests. A fixed
    size keeps it level.

    Returns:
        False where the C library has no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE))
