"""The contracts of methods and samplers.

A method turns inputs and noise into a result. A sampler is the method whose result is an index map over a bank: which
source each cell is copied from. Callers ask a method's flags, never its type or name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..errors import SettingError
from ..registry import FLAGS, SAMPLERS
from ..settings import Settings
from .latent.patch_settings import PatchSettings
from .latent.search.prepared import PreparedSources

__all__ = ["Context", "Method", "Sampler", "register", "window_size"]


@dataclass(frozen=True)
class Context:
    """The inputs that settings are resolved and checked against.

    Attributes:
        grid: height and width in cells.
        num_sources: sources that may take part; augmented copies of one, and a group of several, count as one.
        has_reference: whether there is a reference.
        mask: ``(h, w)`` bool, the cells to fill; None for all.
    """

    grid: tuple[int, int]
    num_sources: int
    has_reference: bool = False
    mask: Tensor | None = None


def window_size(grid: tuple[int, int], side: int) -> float:
    """Return the mean number of cells in the part of a window within the grid, over all cells as its centers."""
    before, after = (side - 1) // 2, side // 2
    means = [sum(min(i + after, n - 1) - max(i - before, 0) + 1 for i in range(n)) / n for n in grid]
    return means[0] * means[1]


class Method(ABC):
    """A method: settings, what it costs, and how much noise one image takes.

    Attributes:
        name: the name users give it.
        Settings: its settings class.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Settings]]

    def resolve(self, settings: Any, context: Context) -> Any:
        """Return settings with every value that is left to the method filled in, and sizes in cells."""
        return settings.in_cells(context.grid) if isinstance(settings, PatchSettings) else settings

    def validate(self, settings: Any, context: Context) -> None:
        """Refuse settings that do not go together with the grid or the number of sources.

        Raises:
            SettingError: naming a setting.
        """
        self.noise_dim(settings, context)

    @abstractmethod
    def noise_dim(self, settings: Any, context: Context) -> int:
        """Return the number of uniform variates that one image takes.

        Raises:
            SettingError: where settings do not fit the grid.
        """

    def work(self, settings: Any, context: Context) -> int:
        """Return the cost of one image besides decoding, in compared window cells; 0 for next to none.

        Servers estimate from it how long a request takes: within a factor of three is good enough.
        """
        return 0


class Sampler(Method):
    """A method whose result is an index map.

    Attributes:
        accepts_reference: whether a reference may guide it.
        accepts_mask: whether it fills a masked region of a reference.
        is_shardable: whether it searches a bank of which each process has a part.
        is_exportable: whether :meth:`traceable` gives a module.
        default_decoding: ``gather``, or ``blend`` for samplers whose seams are to be blended.
    """

    accepts_reference: ClassVar[bool] = False
    accepts_mask: ClassVar[bool] = False
    is_shardable: ClassVar[bool] = False
    is_exportable: ClassVar[bool] = False
    default_decoding: ClassVar[str] = "gather"

    @abstractmethod
    def sample(
        self, sources: PreparedSources, noise: Tensor, settings: Any, reference: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Return index maps, see :meth:`__call__`; the flags and the sources' preparation are seen to already."""

    @torch.no_grad()
    def __call__(
        self,
        sources: Tensor | PreparedSources,
        noise: Tensor,
        settings: Settings | None = None,
        *,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return index maps.

        Args:
            sources: ``(B, h, w, r)`` int16 search keys, or those with what earlier searches prepared.
            noise: ``(N, noise_dim)`` uniforms in [0, 1), float32 or float64; one row an image.
            settings: of this sampler; defaults where None.
            reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 keys.
            mask: ``(h, w)`` bool, True where cells are filled; the others keep the reference and get index -1.

        Returns:
            ``(N, h, w)`` int64 positions of sources.

        Raises:
            SettingError, SettingTypeError: for inputs that do not go together.
        """
        for name, value, accepts in (
            ("mask", mask, self.accepts_mask),
            ("reference", reference, self.accepts_reference),
        ):
            if value is not None and not accepts:
                raise SettingError(name, tuple(value.shape), f"None for the sampler {self.name!r}")
        if mask is not None and reference is None:
            raise SettingError("reference", None, "there with a mask, to give the cells that are kept")
        prepared = sources if isinstance(sources, PreparedSources) else PreparedSources(sources)
        return self.sample(prepared, noise, settings or self.Settings(), reference, mask)

    def traceable(self, sources: PreparedSources, settings: Any, has_reference: bool) -> nn.Module:
        """Return a module for tracing: noise, and keys of references where there are any, to index maps.

        Raises:
            SettingError: where the sampler or its settings cannot be exported.
        """
        raise SettingError("sampler", self.name, "one that can be exported")


S = TypeVar("S", bound=type[Sampler])


def register(sampler: S) -> S:
    """Enter a sampler class in the registry, under its ``name`` and with its ``Settings``; a class decorator.

    The first line of its docstring becomes its summary in documentation and help.
    """
    summary = (sampler.__doc__ or sampler.name).strip().splitlines()[0]
    flags = [flag for flag in FLAGS if getattr(sampler, flag)]
    SAMPLERS.declare(sampler.name, sampler.Settings, summary, sampler(), flags)
    return sampler
