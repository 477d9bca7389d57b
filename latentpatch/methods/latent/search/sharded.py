"""Sources that lie with several processes: one search of all of them, each process comparing its own."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from ....ops.nearest import smallest_ranks
from ....runs.processes import Processes
from .prepared import PreparedSources, Size

__all__ = ["ShardedSources"]

_LAST = torch.iinfo(torch.int64).max


class ShardedSources(PreparedSources):
    """A process' share of the sources, with what searches prepare of it; numbers go through the shares by rank.

    The nearest k of each process are merged; the keys of the chosen ones come from whoever has them. Distances are
    exact integers and ties go to the lower source, so index maps are those of a search by one process, bit for bit.
    All processes make it together and search together, with the same noise, settings, reference and mask.

    Args:
        keys: ``(b, h, w, r)`` int16, this process' sources; there may be none.
        processes: who has the others.
        of: see :class:`~latentpatch.methods.latent.search.prepared.PreparedSources`.
    """

    def __init__(self, keys: Tensor, processes: Processes, of: Tensor | None = None) -> None:
        super().__init__(keys, of=of)
        counts = processes.gather_objects(len(keys))
        self.processes = processes
        self.first, self.total, self.most = sum(counts[: processes.rank]), sum(counts), max(counts)
        self.norm = max(processes.gather_objects(self.norm))

    def nearest(self, scores: Tensor, count: int) -> Tensor:
        """See :meth:`PreparedSources.nearest`."""
        ranks = torch.full((len(scores), count), _LAST, device=scores.device)
        if own := min(count, scores.shape[1]):
            ranks[:, :own] = smallest_ranks(scores, own, self.total, self.first)
        merged = torch.cat(self.processes.gather(ranks), 1)
        return merged.topk(count, dim=1, largest=False, sorted=True).values.remainder_(self.total)

    def keeps(self, grids: Collection[tuple[Size, int]]) -> bool:
        """See :meth:`PreparedSources.keeps`; of all processes, which do the same steps."""
        return all(self.processes.gather_objects(super().keeps(grids)))

    def pick(self, gather: Callable[[Tensor], Tensor], picks: Tensor, length: int) -> Tensor:
        """See :meth:`PreparedSources.pick`."""
        own, local = len(self.keys), picks - self.first
        keys = torch.zeros((*picks.shape, length), dtype=torch.int32, device=picks.device)
        if own:
            held = ((local >= 0) & (local < own))[:, :, None]
            keys = gather(local.clamp(0, own - 1)).int() * held
        return self.processes.sum(keys)
