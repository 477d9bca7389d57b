"""Memory: how much there is, and that what was freed is not given back at once."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingError

if TYPE_CHECKING:
    import torch

__all__ = ["choose_device", "is_out_of_memory", "keep_freed_memory", "machine_memory"]

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of ``auto``, ``cpu``, ``cuda`` or ``cuda:NUMBER``; ``auto`` is a GPU where there is one.

    Raises:
        SettingError: for another name, or a device that cannot be used on this machine.
    """
    import torch

    text = str(name)
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", text) is None:
        raise SettingError("device", text, "auto, cpu, cuda or cuda:NUMBER")
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else text)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError("device", text, f"usable on this machine ({reason})") from error
    return device


@lru_cache(maxsize=1)
def machine_memory() -> int:
    """Bytes of memory that a process may use: the machine's, or its control group's limit. 0 where none can tell."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):  # Windows has none
        return 0
    for path in _LIMITS:
        try:
            found.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min(found)


def keep_freed_memory() -> bool:
    """Have glibc keep up to half a gigabyte of freed memory instead of giving it back to the system.

    By default blocks from 128 KiB on are mapped and unmapped each time, and a network of large activations spends
    a good part of its time on having pages cleared: decoding by taef2 or the VQGAN takes a fifth to a third less
    without. It is for programs to call, once, not for libraries: it holds for the whole process.

    Returns:
        Whether it was done: only where the C library is glibc, and the environment says nothing else (``MALLOC_*``).
    """
    chosen = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if sys.platform != "linux" or chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # 32 MiB is the most that glibc takes for the one.
    return bool(library.mallopt(_MAP_THRESHOLD, 32 << 20)) and bool(library.mallopt(_TRIM_THRESHOLD, 1 << 29))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the machine or a GPU has no memory left."""
    import torch

    # The allocator of CPU tensors raises a RuntimeError of its own.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
