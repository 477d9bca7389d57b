"""Several processes at one task, started by ``torchrun``: who they are and what they tell each other.

Every process runs the same command. Work is split by :meth:`Processes.share`, and tensors travel as bytes, so
that nothing depends on how many processes there are. Where one fails, one message is printed and all end.
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
from .launch import launched, rank

__all__ = ["ALONE", "ProcessError", "Processes", "joined", "launched", "rank"]

T = TypeVar("T")

#: How long a process waits for the others, which may be a batch behind.
_PATIENCE = timedelta(minutes=30)
_PART = 1 << 26  # bytes sent at a time


class ProcessError(LatentPatchError):
    """Another process of the group ended, or does not answer."""


@dataclass(frozen=True)
class Processes:
    """The group as one of its members sees it.

    Attributes:
        rank: number of this process.
        count: how many there are.
        device: where tensors must be to travel; None where they do not.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    def share(self, size: int, rank: int | None = None) -> slice:
        """The part of ``range(size)`` that a process (this one by default) takes: contiguous, in order of rank."""
        rank = self.rank if rank is None else rank
        return slice(rank * size // self.count, (rank + 1) * size // self.count)

    def every(self, value: T) -> list[T]:
        """What each process gives here, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        self._talk(lambda: dist.all_gather_object(values, value))
        return values

    def gathered(self, value: Tensor) -> list[Tensor]:
        """Tensors of equal shapes from all processes, by rank."""
        if self.count == 1:
            return [value]
        own = value.to(self.device).contiguous()
        values = [torch.empty_like(own) for _ in range(self.count)]
        self._talk(lambda: dist.all_gather(values, own))
        return [each.to(value.device) for each in values]

    def added(self, value: Tensor) -> Tensor:
        """The sum of integer tensors of equal shapes from all processes."""
        if self.count == 1:
            return value
        total = value.to(self.device, copy=True).contiguous()
        self._talk(lambda: dist.all_reduce(total))
        return total.to(value.device)

    def first(self, value: Tensor) -> Tensor:
        """The tensor of process 0, of the same shape and type in all."""
        return value if self.count == 1 else self._sent(value, 0)

    def joined_rows(self, rows: Tensor, scratch: str | Path | None = None) -> Tensor:
        """Rows of all processes one after the other, by rank: shapes and types agree but for the first dimension."""
        if self.count == 1:
            return rows
        counts = self.every(len(rows))
        with Rows(sum(counts), rows.shape[1:], rows.dtype, rows.device, scratch) as joined:
            size = max(1, _PART // max(1, rows[:1].nbytes))
            for owner, count in enumerate(counts):
                for first in range(0, count, size):
                    part = slice(first, min(first + size, count))
                    own = rows[part] if owner == self.rank else rows.new_empty((part.stop - first, *rows.shape[1:]))
                    joined.append(self._sent(own, owner))
            return joined.tensor()

    def _sent(self, value: Tensor, owner: int) -> Tensor:
        # As bytes: not every backend knows every type.
        data = value.to(self.device, copy=True).contiguous().reshape(-1).view(torch.uint8)
        self._talk(lambda: dist.broadcast(data, owner))
        return data.view(value.dtype).view(value.shape).to(value.device)

    def _talk(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ProcessError(f"another process ended or does not answer ({reason})") from error


#: A process on its own.
ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """This process within its group, for the time of the block.

    Where the block raises, the exception passes in the process that is the first to fail; the others end with
    status 1 and say nothing.

    Args:
        device: type of the device the processes compute on: ``cpu`` (gloo) or ``cuda`` (NCCL).
    """
    if launched() == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous  # some builds of PyTorch lack it

    store, number, count = next(iter(rendezvous("env://", timeout=_PATIENCE)))
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
            timeout=_PATIENCE,
        )
        yield Processes(number, count, own)
    except BaseException as error:
        if not _is_first(notes):
            raise SystemExit(1) from error
        raise
    # Not after an error, where it might wait for processes that do not answer.
    dist.destroy_process_group()


def _is_first(notes: Any) -> bool:
    try:
        return bool(notes.add("failed", 1) == 1)
    except RuntimeError:  # torchrun itself ended
        return rank() == 0
