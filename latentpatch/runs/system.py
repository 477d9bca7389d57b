"""Ask the machine about memory and devices, and keep freed memory in the process."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import SettingError

if TYPE_CHECKING:
    import torch

__all__ = [
    "can_import",
    "check_memory",
    "choose_device",
    "few_searches",
    "has_numba",
    "is_out_of_memory",
    "keep_freed_memory",
    "machine_memory",
    "njit",
    "on_compilation",
    "slowness",
    "usable_memory",
]

F = TypeVar("F", bound=Callable[..., Any])

_loads_numba: ContextVar[bool] = ContextVar("loads_numba", default=True)
_tellers: list[Callable[[], None]] = []

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

_WITHOUT_BFLOAT16 = ("DEFAULT", "AVX2")  # names that torch gives to instructions of a processor

_GIBIBYTE = 1 << 30
_USABLE_SHARE = 0.8  # part of the memory that a call may use

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 29
_LARGEST_UNMAPPED_BLOCK = 32 << 20  # bytes; glibc accepts no more


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the machine or of a GPU, did not suffice."""
    import torch

    # The CPU allocator of PyTorch raises a plain RuntimeError, and so does the count of bytes beyond 64 bits.
    texts = ("can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in texts)


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
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if text == "auto":
            warnings.warn(f"slower without the GPU, which cannot be used: {reason}", RuntimeWarning, stacklevel=2)
            return torch.device("cpu")
        raise SettingError("device", text, f"usable on this machine ({reason})") from error
    return device


def slowness(precision: str, device: torch.device) -> str | None:
    """Return a sentence where a device computes several times slower in ``bfloat16`` than in ``float32``, else None.

    Processors of Intel and AMD without AVX-512 have no instructions for bfloat16: torch converts every number.
    """
    import torch

    is_slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in _WITHOUT_BFLOAT16
    if precision != "bfloat16" or not is_slow:
        return None
    return "bfloat16 is several times slower than float32 on this processor, which has no AVX-512"


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


def usable_memory(device: torch.device | None = None) -> float:
    """Return the bytes that a call may use on a device, by default the CPU; infinity if unknown."""
    if device is not None and device.type == "cuda":
        import torch

        return _USABLE_SHARE * torch.cuda.mem_get_info(device)[0]
    return _USABLE_SHARE * machine_memory() or inf


def check_memory(name: str, value: object, needed: float, device: torch.device | None = None) -> None:
    """Refuse an argument that takes more memory than there is.

    Args:
        name: of the argument.
        value: of the argument.
        needed: estimate in bytes.
        device: whose memory it is; None for the CPU.

    Raises:
        SettingError: with both amounts.
    """
    if needed > (usable := usable_memory(device)):
        amounts = f"{needed / _GIBIBYTE:.1f} GiB of memory are needed, {usable / _GIBIBYTE:.1f} usable"
        raise SettingError(name, value, f"smaller here: {amounts}")


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


@contextmanager
def few_searches() -> Iterator[None]:
    """Do without Numba within the block, unless it is loaded: that would take longer than some searches by torch."""
    token = _loads_numba.set(False)
    try:
        yield
    finally:
        _loads_numba.reset(token)


def has_numba() -> bool:
    """Return whether Numba can be used, and is loaded or may be."""
    return (_loads_numba.get() or "numba" in sys.modules) and can_import("numba")


def on_compilation(tell: Callable[[], None]) -> None:
    """Call a function, once, when Numba begins to compile a loop rather than to load one from the disk."""
    _tellers[:] = [tell]


@lru_cache(maxsize=1)
def _listen() -> None:
    """Let Numba tell of compilations."""
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: object) -> None:
            if _tellers:
                _tellers.pop()()

        def on_end(self, event: object) -> None:
            pass

    event.register("numba:compile", Listener())


@lru_cache(maxsize=8)
def can_import(accelerator: str) -> bool:
    """Return whether a package that makes work faster can be imported; warn of one that is installed and cannot."""
    if find_spec(accelerator) is None:
        return False
    try:
        import_module(accelerator)
    except Exception as error:  # such as one made for another NumPy
        message = f"slower without {accelerator}, which cannot be imported: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return False
    return True


def njit(**options: Any) -> Callable[[F], F]:
    """Return Numba's ``njit``: with a cache on the disk, or without one where no folder for it can be written."""
    import numba

    _listen()

    def decorate(function: F) -> F:
        try:
            result: F = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # "no locator available"
            result = numba.njit(nogil=True, **options)(function)
        return result

    return decorate
