"""Split one task over several processes that ``torchrun`` started, and exchange results.

Every process runs the same command. :meth:`Processes.share` splits the work, and tensors travel as bytes, so that no
result depends on the number of processes. Where one process fails, one message is printed and all end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import LatentPatchError
from ..io.mmap import Rows
from .launch import num_processes, rank

__all__ = ["ALONE", "ProcessError", "Processes", "num_processes", "process_group", "rank"]

T = TypeVar("T")

#: How long a process waits for the others, which may be a batch behind.
_TIMEOUT = timedelta(minutes=30)
_BYTES_PER_MESSAGE = 1 << 26


class ProcessError(LatentPatchError):
    """Another process of the group ended, or does not answer."""


@dataclass(frozen=True)
class Processes:
    """A group of processes, from the view of one of them.

    Attributes:
        rank: number of this process.
        count: number of processes.
        device: device of tensors in messages; None for a process alone.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    def share(self, size: int, rank: int | None = None) -> slice:
        """Return the part of ``range(size)`` of a process, this one by default: contiguous, in order of rank."""
        rank = self.rank if rank is None else rank
        return slice(rank * size // self.count, (rank + 1) * size // self.count)

    def gather_objects(self, value: T) -> list[T]:
        """Return the ``value`` of every process, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        self._communicate(lambda: dist.all_gather_object(values, value))
        return values

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, of equal shapes, by rank."""
        if self.count == 1:
            return [value]
        own = value.to(self.device).contiguous()
        values = [torch.empty_like(own) for _ in range(self.count)]
        self._communicate(lambda: dist.all_gather(values, own))
        return [each.to(value.device) for each in values]

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of the integer tensors of all processes, of equal shapes."""
        if self.count == 1:
            return value
        total = value.to(self.device, copy=True).contiguous()
        self._communicate(lambda: dist.all_reduce(total))
        return total.to(value.device)

    def broadcast(self, value: Tensor, owner: int = 0) -> Tensor:
        """Return the tensor of process ``owner``, of the same shape and dtype in all."""
        if self.count == 1:
            return value
        # As bytes: not every backend knows every dtype.
        data = value.to(self.device, copy=True).contiguous().reshape(-1).view(torch.uint8)
        self._communicate(lambda: dist.broadcast(data, owner))
        return data.view(value.dtype).view(value.shape).to(value.device)

    def concatenate(self, rows: Tensor, scratch: str | Path | None = None) -> Tensor:
        """Return the rows of all processes, by rank.

        Args:
            rows: of equal shapes and dtypes in all processes but for the first dimension.
            scratch: folder of a temporary file for the result, see :class:`~latentpatch.io.mmap.Rows`.
        """
        if self.count == 1:
            return rows
        counts = self.gather_objects(len(rows))
        with Rows(sum(counts), rows.shape[1:], rows.dtype, rows.device, scratch) as everything:
            size = max(1, _BYTES_PER_MESSAGE // max(1, rows[:1].nbytes))
            for owner, count in enumerate(counts):
                for first in range(0, count, size):
                    part = slice(first, min(first + size, count))
                    own = rows[part] if owner == self.rank else rows.new_empty((part.stop - first, *rows.shape[1:]))
                    everything.append(self.broadcast(own, owner))
            return everything.tensor()

    def _communicate(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ProcessError(f"another process ended or does not answer ({reason})") from error


#: A process on its own.
ALONE = Processes()


@contextmanager
def process_group(device: str) -> Iterator[Processes]:
    """Join the group of processes of torchrun for the time of the block.

    Where the block raises, the exception passes in the first process that fails; the others end with status 1 and
    print nothing.

    Args:
        device: type of the device the processes compute on: ``cpu`` (gloo) or ``cuda`` (NCCL).
    """
    if num_processes() == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous  # some builds of PyTorch lack it

    store, number, count = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    notes = dist.distributed_c10d.PrefixStore(f"latentpatch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    own = torch.device("cpu") if device == "cpu" else torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    try:
        if own.type == "cuda":
            torch.cuda.set_device(own)
        backend = "gloo" if own.type == "cpu" else "cpu:gloo,cuda:nccl"  # objects travel by gloo
        dist.init_process_group(
            backend,
            store=dist.distributed_c10d.PrefixStore("group", notes),
            rank=number,
            world_size=count,
            timeout=_TIMEOUT,
        )
        yield Processes(number, count, own)
    except BaseException as error:
        if not _is_first_failure(notes):
            raise SystemExit(1) from error
        raise
    # Not after an error, where this might wait for processes that do not answer.
    dist.destroy_process_group()


def _is_first_failure(notes: Any) -> bool:
    try:
        return bool(notes.add("failed", 1) == 1)
    except RuntimeError:  # torchrun itself ended
        return rank() == 0
