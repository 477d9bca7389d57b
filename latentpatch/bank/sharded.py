"""A bank whose sources are split over several processes, each of which searches its own part."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from ..errors import SettingError
from ..methods.base import Sampler
from ..methods.latent.search.prepared import PreparedSources, cell_detail, mean_key, sum_keys
from ..methods.latent.search.sharded import ShardedSources
from ..registry import SAMPLERS
from ..runs.processes import Processes
from .bank import SourceBank, detail_parts

__all__ = ["ShardedBank"]


class ShardedBank(SourceBank):
    """One process' part of a bank. Ids, attributes and positions are those of all sources.

    Methods that read sources (:meth:`sample`, :meth:`gather`, :meth:`gather_reduced`) must be called by all processes
    together, with the same arguments, and return the result to all of them. The bank cannot be changed.

    Raises:
        SettingError: for a bank of augmented sources.
    """

    def __init__(self, bank: SourceBank, processes: Processes) -> None:
        super().__init__()
        if bank.variants.count > 1:
            raise SettingError("bank", bank.variants, "of sources without mirrored or moved copies to be sharded")
        part = processes.share(len(bank))
        self.processes, self.first = processes, part.start
        self._take_rows(bank, part)
        self.ids, self.attributes, self._claimed_digest = bank.ids, bank.attributes, bank.digest()
        self.group_numbers, self.grey, self.grounds = bank.group_numbers, bank.grey, bank.grounds
        total = processes.sum(sum_keys(self.keys))
        self._detail = detail_parts(cell_detail(mean_key(total, len(bank)))) if len(bank) else None

    @property
    def detail(self) -> Tensor | None:
        """The part of each cell in the detail of the mean of all sources, see :attr:`SourceBank.detail`."""
        return self._detail

    def _check_sampler(self, sampler: Sampler) -> None:
        if not sampler.is_shardable:
            names = ", ".join(name for name, each in SAMPLERS.items() if each.is_shardable)
            raise SettingError("sampler", sampler.name, f"one of {names} for a sharded bank")

    def _prepare(self, keys: Tensor, candidates: Tensor | None) -> PreparedSources:
        if candidates is None:
            return ShardedSources(keys, self.processes)
        own = candidates - self.first
        return ShardedSources(keys[own[(own >= 0) & (own < len(keys))]], self.processes, of=keys)

    def gather(self, index: Tensor, num_codes: int | None = None) -> Tensor:
        """See :meth:`SourceBank.gather`."""
        own, found = self._own(index, self.latents)
        self._check_gathered(found, num_codes)
        return self._together(own, found, self.latents, index).movedim(-1, 1)

    def gather_reduced(self, index: Tensor) -> Tensor:
        """See :meth:`SourceBank.gather_reduced`."""
        own, found = self._own(index, self.keys)
        return self._together(own, found, self.keys, index).movedim(-1, 1).double() * self.key_step.double()

    def gather_residuals(self, index: Tensor) -> Tensor:
        """See :meth:`SourceBank.gather_residuals`."""
        stored = self.residuals.unflatten(3, (4, -1))
        own, found = self._own(index, stored)
        return self._together(own, found, stored, index)

    def gather_masks(self, index: Tensor) -> Tensor:
        """See :meth:`SourceBank.gather_masks`."""
        stored = self.masks.unflatten(3, (4, -1))
        own, found = self._own(index, stored)
        return self._together(own, found, stored, index)

    def _own(self, index: Tensor, stored: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the cells (image, row, column, ...) whose source is in this part, and what is stored there."""
        local = index.to(stored.device) - self.first
        own = ((local >= 0) & (local < len(stored))).nonzero(as_tuple=True)
        places = (local[own], *own[1:])
        return own, stored[places]

    def _together(self, own: tuple[Tensor, ...], found: Tensor, stored: Tensor, index: Tensor) -> Tensor:
        # Bits as integers, zero where another process has the source: their sum is exact.
        integers = torch.int8 if stored.dtype.itemsize == 1 else torch.int16
        bits = torch.zeros((*index.shape, found.shape[-1]), dtype=torch.int32, device=stored.device)
        bits[own] = found.view(integers).int()
        return self.processes.sum(bits).to(integers).view(stored.dtype).to(index.device)

    def _materialize(self) -> NoReturn:
        raise RuntimeError("a sharded bank cannot be changed")
