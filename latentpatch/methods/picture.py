"""The contract of methods on pictures: one picture or a few, and seeds, to new pictures.

Such a method needs no bank and no registration. Where it copies, its result says which pixel each pixel was copied
from. The tasks that it does (:data:`latentpatch.registry.TASKS`) are those that commands and functions offer it for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ..errors import SettingError, SettingTypeError
from ..registry import PICTURE_METHODS, TASKS
from ..runs.defaults import plain_torch
from ..settings import Settings
from ..validation import check_choice, check_dense, check_integer
from .base import Method

__all__ = [
    "Observer",
    "PictureMethod",
    "PictureResult",
    "PictureStep",
    "generators",
    "noise_of",
    "part_observer",
    "register_method",
]

#: Most channels of a picture: colour and alpha.
MAX_CHANNELS = 4

TARGET_TASKS = ("analogy", "stylize")  # tasks that need a picture to be near to
REGION_TASKS = ("inpaint", "harmonize", "edit")  # tasks that make a region of a picture anew


@dataclass(frozen=True)
class PictureStep:
    """A step of a method, for progress bars and traces.

    Attributes:
        done: finished steps.
        total: all steps.
        images: ``(N, C, h, w)``, the pictures so far, at the size of the step.
        name: of the step, such as "scale 2 of 8"; for files and captions.
    """

    done: int
    total: int
    images: Tensor = field(repr=False)
    name: str = ""


#: A function that is called after each step of a method.
Observer = Callable[[PictureStep], None]


def part_observer(observe: Observer | None, number: int, parts: int) -> Observer | None:
    """Return an observer of one of several calls that are told as one; their steps are as many."""
    if observe is None:
        return None
    return lambda step: observe(replace(step, done=number * step.total + step.done, total=parts * step.total))


@dataclass(frozen=True)
class PictureResult:
    """Pictures that a method made, with their provenance.

    Attributes:
        images: ``(N, C, h, w)`` float32 in [0, 1].
        offsets: ``(N, h, w, 3)`` int64, for each pixel the number of the picture, the row and the column that it was
            copied from, -1 for none; None for a method that copies nothing.
        losses: ``(steps,)`` float32, the objective over time; None for a method without one.
    """

    images: Tensor = field(repr=False)
    offsets: Tensor | None = field(default=None, repr=False)
    losses: Tensor | None = field(default=None, repr=False)


class PictureMethod(Method):
    """A method that makes pictures from one picture or a few.

    Attributes:
        tasks: of :data:`~latentpatch.registry.TASKS`, those that it does.
        accepts_several: whether it takes more than one picture.
        accepts_shares: whether it takes the shares of the pictures in each place; its :meth:`make` then does.
    """

    tasks: ClassVar[frozenset[str]] = frozenset()
    accepts_several: ClassVar[bool] = True
    accepts_shares: ClassVar[bool] = False

    def noise_dim(self, settings: Any, context: Any) -> int:
        """Return 0: these methods draw their noise from the generator of each picture's seed."""
        return 0

    def resolve(self, settings: Any, context: Any) -> Any:
        """Return settings with the values that the pictures decide.

        Args:
            settings: of this method.
            context: the pictures ``(C, H, W)``; they are checked each by itself.
        """
        return settings

    def smallest_side(self, settings: Any) -> int:
        """Return the shortest side, in pixels, of pictures and results that the settings can be used with."""
        return 1

    def memory(self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Any) -> int:
        """Return an estimate of the memory that a call takes, in bytes.

        Args:
            pictures: heights and widths of the sources.
            size: height and width of the results.
            count: number of results.
            settings: of this method.
        """
        return 0

    def seconds(self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Any) -> float:
        """Return an estimate of the time that a call takes, in seconds of one thread of a server processor.

        Servers refuse by it what would take too long: within a factor of three is good enough. The default is that of
        a method that searches by PatchMatch, coarse to fine. Arguments are those of :meth:`memory`.
        """
        return 1e-5 * (count * size[0] * size[1] + sum(height * width for height, width in pictures))

    def task_seconds(
        self, task: str, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Any
    ) -> float:
        """Return :meth:`seconds` for one of the method's tasks, where these differ in what they do."""
        return self.seconds(pictures, size, count, settings)

    @abstractmethod
    def make(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: Any,
        *,
        task: str,
        target: Tensor | None,
        mask: Tensor | None,
        observe: Observer | None,
    ) -> PictureResult:
        """Return pictures, see :meth:`__call__`; the arguments are checked already."""

    @plain_torch()
    def __call__(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: Settings | None = None,
        *,
        task: str = "reshuffle",
        target: Tensor | None = None,
        mask: Tensor | None = None,
        shares: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return one picture a seed; each is the same alone and in any batch, with any number of threads.

        Args:
            pictures: sources ``(C, H, W)`` floating, in [0, 1]: C is 3, 1 for grey, 2 or 4 with alpha in the end; the
                same for all. Heights and widths may differ.
            size: height and width of the results.
            seeds: of the results.
            settings: of this method; defaults where None.
            task: of :attr:`tasks`.
            target: ``(C, h, w)``, the picture that gives structure, content or the naive edit, for tasks that have one;
                for those of a region, the first of the pictures by default.
            mask: ``(h, w)`` bool, True where pixels are made anew, for tasks that have one. A patch with such a pixel
                is not copied from a picture that equals the target. The others stay as they are, without offsets.
            shares: ``(S, h, w)`` float32, the share of each picture in each place, of the results' size; they add up to
                1. A picture without any share is as if it were not there.
            observe: called after each step.

        Raises:
            SettingError, SettingTypeError: for arguments that do not go together; nothing was computed then. For
                settings so extreme that pixels are no numbers.
        """
        settings = self.Settings() if settings is None else settings
        if not isinstance(settings, self.Settings):
            raise SettingTypeError("settings", type(settings).__name__, f"settings of {self.name!r}")
        check_choice("task", task, sorted(self.tasks))
        if target is None and task in TARGET_TASKS:
            raise SettingError("target", None, f"a picture for the task {task}")
        pictures = [check_picture("pictures", each) for each in pictures]
        target = None if target is None else check_picture("target", target)
        self._check(pictures, size, seeds, settings, target, mask)
        used, extra = list(range(len(pictures))), {}
        if shares is not None:
            _check_shares(shares, len(pictures), size)
            used = [i for i in used if bool((shares[i] > 0).any())]
            extra = {"shares": shares[used]} if len(used) > 1 else {}
            if extra and not self.accepts_shares:
                names = [name for name in PICTURE_METHODS.having(task) if PICTURE_METHODS[name].accepts_shares]
                text = f"absent for {self.name}; for weights and maps, the method is {' or '.join(names) or 'none'}"
                raise SettingError("weights", len(pictures), text)
        if task in REGION_TASKS:
            target = pictures[0] if target is None else target
            check_region(mask, (target.shape[1], target.shape[2]), size)
        result = self.make(
            [pictures[i] for i in used], size, seeds, settings, task=task, target=target, mask=mask, observe=observe,
            **extra,
        )  # fmt: skip
        if not bool(result.images.isfinite().all()):
            raise SettingError("settings", settings.record(), "less extreme: some pixels are no numbers")
        if len(used) < len(pictures) and result.offsets is not None:
            numbers = torch.tensor([*used, -1], device=result.offsets.device)[result.offsets[..., :1]]
            result = replace(result, offsets=torch.cat([numbers, result.offsets[..., 1:]], -1))
        return result

    def _check(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: Any,
        target: Tensor | None,
        mask: Tensor | None,
    ) -> None:
        if not len(pictures) or (len(pictures) > 1 and not self.accepts_several):
            raise SettingError("pictures", len(pictures), "one or several" if self.accepts_several else "one")
        for picture in pictures:
            if picture.shape[0] != pictures[0].shape[0]:
                raise SettingError(
                    "pictures", tuple(picture.shape), f"of {pictures[0].shape[0]} channels, as the first"
                )
        least = self.smallest_side(settings)
        for height, width in (*((p.shape[1], p.shape[2]) for p in pictures), size):
            if min(height, width) < least:
                raise SettingError("size", (height, width), f"at least {least} x {least} pixels for these settings")
        if not len(seeds):
            raise SettingError("seeds", list(seeds), "at least one")
        for seed in seeds:
            check_integer("seeds", seed, 0, 2**63 - 1)
        if target is not None and target.shape[0] != pictures[0].shape[0]:
            raise SettingError("target", tuple(target.shape), f"of {pictures[0].shape[0]} channels, as the pictures")
        if mask is not None and (mask.dtype != torch.bool or mask.ndim != 2):
            raise SettingTypeError("mask", f"{tuple(mask.shape)} {mask.dtype}", "of shape (h, w) and type bool")


def _check_shares(shares: Tensor, count: int, size: tuple[int, int]) -> None:
    if shares.shape != (count, *size) or shares.dtype != torch.float32:
        raise SettingError("shares", tuple(shares.shape), f"float32 of shape ({count}, {size[0]}, {size[1]})")
    if not bool((shares >= 0).all()) or not bool(((shares.sum(0) - 1).abs() < 1e-3).all()):
        raise SettingError("shares", float(shares.min()), "from 0, with a sum of 1 in each place")


def check_region(mask: Tensor | None, target: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse a mask that is not of a part of the target, and results of another size than the target.

    Raises:
        SettingError: naming the argument.
    """
    if tuple(size) != target:
        raise SettingError("size", tuple(size), f"that of the picture, {target}")
    if mask is None or tuple(mask.shape) != target:
        raise SettingError("mask", None if mask is None else tuple(mask.shape), f"of the picture's shape, {target}")
    if not bool(mask.any()) or bool(mask.all()):
        raise SettingError("mask", "all of it" if bool(mask.any()) else "nothing", "a part of the picture")


def check_picture(name: str, picture: Tensor) -> Tensor:
    """Return a picture ``(C, H, W)`` of any floating type, in [0, 1], as float32.

    Raises:
        SettingError, SettingTypeError: naming the argument.
    """
    if not isinstance(picture, Tensor) or not picture.is_floating_point():
        raise SettingTypeError(name, str(getattr(picture, "dtype", type(picture).__name__)), "floating, in [0, 1]")
    check_dense(name, picture)
    if picture.ndim != 3 or not 1 <= picture.shape[0] <= MAX_CHANNELS or not picture.numel():
        raise SettingError(name, tuple(picture.shape), "of shape (C, H, W), C from 1 to 4")
    if not bool(((picture >= 0) & (picture <= 1)).all()):  # false for NaN, too
        raise SettingError(name, f"{float(picture.min())} to {float(picture.max())}", "in [0, 1] without NaN")
    return picture.float()


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return a generator of random numbers for each seed, on the CPU."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise_of(sources: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Draw Gaussian noise ``(N, *shape)`` float32: each row from its own generator, the same in any batch."""
    return torch.stack([torch.randn(*shape, generator=each) for each in sources]).to(device or "cpu")


P = TypeVar("P", bound=type[PictureMethod])


def register_method(method: P) -> P:
    """Enter a class in :data:`~latentpatch.registry.PICTURE_METHODS`, by its ``name``; a class decorator.

    The first line of its docstring becomes its summary in documentation and help.
    """
    for task in method.tasks:
        check_choice("task", task, TASKS)
    summary = (method.__doc__ or method.name).strip().splitlines()[0]
    PICTURE_METHODS.declare(method.name, method.Settings, summary, method(), method.tasks)
    return method
