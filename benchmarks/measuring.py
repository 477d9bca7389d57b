"""Timing by turns, and peaks of memory, for the scripts beside this file."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from latentpatch.runs.benchmark import synchronize

CPU = torch.device("cpu")
Seconds = dict[str, list[float]]


def take_turns(
    rivals: dict[str, Callable[[], object]], rounds: int, device: torch.device = CPU, warmups: int = 1
) -> Seconds:
    """Time each call once a round, in turns, so that a slow moment of the machine hits all of them."""
    seconds: Seconds = {name: [] for name in rivals}
    for number in range(rounds + warmups):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            synchronize(device)
            if number >= warmups:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: list[float], others: list[float]) -> dict[str, float]:
    """Return the ratio of the fastest rounds and of the medians."""
    best, middle = min(seconds) / min(others), median(seconds) / median(others)
    return {"of best": round(best, 3), "of medians": round(middle, 3)}


def reset_peak_memory(device: torch.device = CPU) -> int:
    """Return the bytes in memory now, and count the peak from here on; on a CPU for Linux only."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak_memory(device: torch.device = CPU) -> int:
    """Return the largest number of bytes in memory since :func:`reset_peak_memory`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024
