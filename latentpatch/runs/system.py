"""Ask the machine about memory and devices, and keep freed memory in the process."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingError

if TYPE_CHECKING:
    import torch

__all__ = ["choose_device", "has_numba", "is_out_of_memory", "keep_freed_memory", "machine_memory"]

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 29
_LARGEST_UNMAPPED_BLOCK = 32 << 20  # bytes; glibc accepts no more


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the machine or of a GPU, did not suffice."""
    import torch

    # The CPU allocator of PyTorch raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:NUMBER``.

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
    """Return the bytes a process may use: the machine's, or its control group's limit; 0 if unknown."""
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):  # Windows has none
        return 0
    for path in _MEMORY_LIMITS:
        try:
            limits.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min(limits)


def keep_freed_memory() -> bool:
    """Let glibc keep up to half a gigabyte of freed memory instead of returning it to the system.

    By default glibc maps and unmaps blocks from 128 KiB on each time, and a network of large activations spends much
    of its time on cleared pages: without that, decoding by taef2 or the VQGAN takes a fifth to a third less time. The
    setting holds for the whole process: programs call this once, libraries do not.

    Returns:
        True where the setting was made: only with glibc, and unless the environment has one (``MALLOC_*``).
    """
    has_choice = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if sys.platform != "linux" or has_choice or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MAP_THRESHOLD, _LARGEST_UNMAPPED_BLOCK)) and bool(
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    )


@lru_cache(maxsize=1)
def has_numba() -> bool:
    """Return whether Numba is installed."""
    return find_spec("numba") is not None
