"""Operations as steps, so that several at once share the costly ones.

What a model does for one request is a generator: it yields a step, an :class:`Encode`, a :class:`Search` or a
:class:`Decode`, is sent the step's result, and returns the request's. :func:`run_together` drives any number of
them and merges the steps that wait at the same stage, so that a batch of different requests costs one encoder
call, one search for each set of settings, and one decoder call. Alone or together, a request's result is the same:
every step is exact, or padded to a fixed size, in each of its rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .methods.base import Sampler
from .settings import Settings

__all__ = ["Costs", "Decode", "Encode", "Operation", "Search", "Step", "run_together"]


@dataclass(frozen=True, eq=False)
class Encode:
    """Latents of pictures ``(N, 3, H, W)`` are wanted: ``(N, L, h, w)``."""

    pictures: Tensor

    def key(self) -> Hashable:
        return self.pictures.shape[1:]

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, eq=False)
class Search:
    """An index map is wanted: ``(N, h, w)``.

    Attributes:
        method: the sampler.
        settings: its settings.
        noise: ``(N, steps)``.
        candidates: ``(C,)`` int64, the sources it may use; None for all.
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
        return (
            self.method.name,
            self.settings,
            _bytes(self.candidates),
            self.reference is not None,
            _bytes(self.mask),
            self.noise.shape[1],
        )

    def __len__(self) -> int:
        return len(self.noise)


@dataclass(frozen=True, eq=False)
class Decode:
    """A request for the pictures ``(N, 3, H, W)`` of latents ``(N, L, h, w)``.

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
    """What a run took, by stage (``encode``, ``search``, ``decode``): seconds, and images that went through."""

    seconds: dict[str, float] = field(default_factory=lambda: {stage.__name__.lower(): 0.0 for stage in _STAGES})
    images: dict[str, int] = field(default_factory=lambda: {stage.__name__.lower(): 0 for stage in _STAGES})

    @contextmanager
    def timed(self, step: Step) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was started is not yet done
        name = type(step).__name__.lower()
        self.seconds[name] += time.perf_counter() - start
        self.images[name] += len(step)


def run_together(
    operations: Sequence[Operation[T]],
    perform: Callable[[Step], Tensor],
    *,
    costs: Costs | None = None,
    check: Callable[[], None] | None = None,
) -> list[T | Exception]:
    """The result of each operation, or the exception it ended with, which concerns it alone.

    Args:
        operations: generators of steps.
        perform: carries out one step.
        costs: is added to.
        check: called before every step; what it raises ends the operations that still wait.
    """
    run = _Run(operations, perform, costs or Costs(), check)
    run.to_the_end()
    return [run.outcomes[i] for i in range(len(operations))]


class _Run(Generic[T]):
    """Operations on their way. (Not closures: those that call themselves keep their tensors until a collection.)"""

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

    def to_the_end(self) -> None:
        for i, operation in enumerate(self.operations):
            self.advance(i, partial(next, operation))
        while self.waiting:
            # The earliest stage first: who lags behind catches up, and the last stage is taken together.
            stage = min(_STAGES.index(type(step)) for step in self.waiting.values())
            groups: dict[Hashable, list[int]] = {}
            for i, step in sorted(self.waiting.items()):
                if type(step) is _STAGES[stage]:
                    groups.setdefault(step.key(), []).append(i)
            for members in groups.values():
                self.carry_out(members)

    def advance(self, i: int, resume: Callable[[], Step]) -> None:
        self.waiting.pop(i, None)
        try:
            self.waiting[i] = resume()
        except StopIteration as end:
            self.outcomes[i] = end.value
        except Exception as error:
            self.outcomes[i] = error

    def carry_out(self, members: list[int]) -> None:
        try:
            if self.check is not None:
                self.check()
        except Exception as error:
            for i in members:
                self.throw(i, error)
            return
        step = _merged([self.waiting[i] for i in members])
        counts = [len(self.waiting[i]) for i in members]
        try:
            with self.costs.timed(step):
                results = self.perform(step).split(counts)
        except Exception as error:
            if len(members) == 1:
                self.throw(members[0], error)
            else:  # whose fault it is shows when each goes alone
                for i in members:
                    self.carry_out([i])
            return
        for i, result in zip(members, results, strict=True):
            self.advance(i, partial(self.operations[i].send, result))

    def throw(self, i: int, error: Exception) -> None:
        self.advance(i, partial(self.operations[i].throw, error))


def _merged(steps: Sequence[Step]) -> Step:
    """One step for several of equal keys, their rows one after the other."""
    first = steps[0]
    if len(steps) == 1:
        return first
    if isinstance(first, Encode):
        return Encode(torch.cat([step.pictures for step in steps if isinstance(step, Encode)]))
    if isinstance(first, Decode):
        return Decode(torch.cat([step.latents for step in steps if isinstance(step, Decode)]), first.dtype)
    searches = [step for step in steps if isinstance(step, Search)]
    references = [step.reference.expand(len(step), -1, -1, -1) for step in searches if step.reference is not None]
    return Search(
        first.method,
        first.settings,
        torch.cat([step.noise for step in searches]),
        first.candidates,
        torch.cat(references) if references else None,
        first.mask,
    )


def _bytes(tensor: Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.cpu().numpy().tobytes()
