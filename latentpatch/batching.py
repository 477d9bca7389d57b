"""Cooperative batching: operations that wait for the same kind of work share one call.

An operation is a generator. It yields steps (:class:`Encode`, :class:`Search`, :class:`Decode`), receives each step's
result, and returns the result of its request. :func:`run_together` drives any number of operations and merges the steps
that wait at the same stage: a batch of different requests costs one encoder call, one search for each set of settings,
and one decoder call. A request's result is the same alone and in a batch, because every step computes each row exactly,
or in chunks of a fixed size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .methods.base import Sampler
from .runs.interruption import interruptible
from .settings import Settings

__all__ = ["Costs", "Decode", "Encode", "Operation", "Search", "Step", "run_together"]


@dataclass(frozen=True, eq=False)
class Encode:
    """A step from pictures ``(N, 3, H, W)`` to latents ``(N, L, h, w)``."""

    pictures: Tensor

    def key(self) -> Hashable:
        return self.pictures.shape[1:]

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, eq=False)
class Search:
    """A step to index maps ``(N, h, w)``.

    Attributes:
        method: the sampler.
        settings: of the sampler, resolved.
        noise: ``(N, noise_dim)``.
        candidates: ``(C,)`` int64, positions of the sources it may use; None for all.
        reference: ``(N or 1, h, w, r)`` int16 keys; None for none.
        mask: ``(h, w)`` bool, the cells to fill; None for all.
    """

    method: Sampler
    settings: Settings
    noise: Tensor
    candidates: Tensor | None = None
    reference: Tensor | None = None
    mask: Tensor | None = None

    def key(self) -> Hashable:
        tensors = _bytes(self.candidates), _bytes(self.mask), self.reference is not None, self.noise.shape[1]
        return self.method.name, self.settings, tensors

    def __len__(self) -> int:
        return len(self.noise)


@dataclass(frozen=True, eq=False)
class Decode:
    """A step from latents ``(N, L, h, w)`` to pictures ``(N, 3, H, W)``.

    Attributes:
        latents: of the pictures.
        dtype: type to compute in; None for the model's precision.
    """

    latents: Tensor
    dtype: torch.dtype | None = None

    def key(self) -> Hashable:
        return self.latents.shape[1:], self.dtype

    def __len__(self) -> int:
        return len(self.latents)


Step = Encode | Search | Decode
_STAGES: tuple[type[Any], ...] = (Encode, Search, Decode)
T = TypeVar("T")
Operation = Generator[Step, Tensor, T]


@dataclass
class Costs:
    """Seconds, by a clock, and numbers of images by stage: ``encode``, ``search`` and ``decode``."""

    seconds: dict[str, float] = field(default_factory=lambda: {stage.__name__.lower(): 0.0 for stage in _STAGES})
    images: dict[str, int] = field(default_factory=lambda: {stage.__name__.lower(): 0 for stage in _STAGES})

    clock: Callable[[], float] = time.perf_counter

    @contextmanager
    def timed(self, step: Step) -> Iterator[None]:
        start = self.clock()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # kernels still run when their calls return
        name = type(step).__name__.lower()
        self.seconds[name] += self.clock() - start
        self.images[name] += len(step)


def run_together(
    operations: Sequence[Operation[T]],
    perform: Callable[[Step], Tensor],
    *,
    costs: Costs | None = None,
    check: Callable[[], None] | None = None,
) -> list[T | Exception]:
    """Return the result of each operation, or the exception it ended with, which concerns it alone.

    Args:
        operations: generators of steps.
        perform: computes one step.
        costs: to which those of the steps are added.
        check: called before every step and within long ones; its exception ends the operations that still wait.
    """
    batch = _Batch(operations, perform, costs or Costs(), check)
    batch.run()
    return [batch.outcomes[i] for i in range(len(operations))]


class _Batch(Generic[T]):
    """Operations in progress.

    Not closures: recursive ones would keep their tensors until a garbage collection.
    """

    def __init__(
        self,
        operations: Sequence[Operation[T]],
        perform: Callable[[Step], Tensor],
        costs: Costs,
        check: Callable[[], None] | None,
    ) -> None:
        self.operations, self.perform, self.costs, self.check = operations, perform, costs, check
        self.outcomes: dict[int, T | Exception] = {}
        self.waiting: dict[int, Step] = {}

    def run(self) -> None:
        """Run all operations to their end."""
        for i, operation in enumerate(self.operations):
            self.resume(i, partial(next, operation))
        while self.waiting:
            # The earliest stage first: operations that lag behind catch up, and share the last stage.
            stage = min(_STAGES.index(type(step)) for step in self.waiting.values())
            groups: dict[Hashable, list[int]] = {}
            for i, step in sorted(self.waiting.items()):
                if type(step) is _STAGES[stage]:
                    groups.setdefault(step.key(), []).append(i)
            for members in groups.values():
                self.execute(members)

    def resume(self, i: int, advance: Callable[[], Step]) -> None:
        """Advance an operation to its next step or its end."""
        self.waiting.pop(i, None)
        try:
            self.waiting[i] = advance()
        except StopIteration as end:
            self.outcomes[i] = end.value
        except Exception as error:
            self.outcomes[i] = error

    def execute(self, members: list[int]) -> None:
        """Perform the steps of some operations as one, and resume them with its results."""
        try:
            if self.check is not None:
                self.check()
        except Exception as error:
            for i in members:
                self.throw(i, error)
            return
        step = _merge([self.waiting[i] for i in members])
        counts = [len(self.waiting[i]) for i in members]
        try:
            with self.costs.timed(step), interruptible(self.check):
                results = self.perform(step).split(counts)
        except Exception as error:
            if len(members) == 1:
                self.throw(members[0], error)
            else:  # each alone, to find the one at fault
                for i in members:
                    self.execute([i])
            return
        for i, result in zip(members, results, strict=True):
            self.resume(i, partial(self.operations[i].send, result))

    def throw(self, i: int, error: Exception) -> None:
        """Raise an error in an operation."""
        self.resume(i, partial(self.operations[i].throw, error))


def _merge(steps: Sequence[Step]) -> Step:
    """Return one step for several of equal keys, their rows one after the other."""
    first = steps[0]
    if len(steps) == 1:
        return first
    if isinstance(first, Encode):
        return Encode(torch.cat([step.pictures for step in steps if isinstance(step, Encode)]))
    if isinstance(first, Decode):
        return Decode(torch.cat([step.latents for step in steps if isinstance(step, Decode)]), first.dtype)
    searches = [step for step in steps if isinstance(step, Search)]
    references = [step.reference.expand(len(step), -1, -1, -1) for step in searches if step.reference is not None]
    noise, reference = torch.cat([step.noise for step in searches]), torch.cat(references) if references else None
    return replace(first, noise=noise, reference=reference)


def _bytes(tensor: Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.cpu().numpy().tobytes()
