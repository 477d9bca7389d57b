"""Search of a bank that is sharded over several processes; each process compares its own sources."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from ....ops.nearest import smallest_ranks
from ....runs.processes import Processes
from .prepared import PreparedSources, Size

__all__ = ["ShardedSources"]

#: Rank that sorts behind all ranks of sources.
_LAST = torch.iinfo(torch.int64).max


class ShardedSources(PreparedSources):
    """Shard of the sources in one process, prepared for searches.

    Source numbers follow the ranks of the processes. The k nearest sources of each process are merged; the keys of the
    chosen sources come from the processes that own them. Distances are exact integers and ties go to the lower source,
    so index maps equal those of a search by one process bit for bit. All processes construct their shards together and
    search together, with the same noise, settings, reference and mask.

    Args:
        keys: ``(b, h, w, r)`` int16 sources of this process; there may be none.
        processes: the group of processes that own the shards.
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
        """Return whether every process keeps the grids, because all take the same steps."""
        return all(self.processes.gather_objects(super().keeps(grids)))

    def pick(self, gather: Callable[[Tensor], Tensor], picks: Tensor, length: int) -> Tensor:
        """See :meth:`PreparedSources.pick`."""
        own, local = len(self.keys), picks - self.first
        keys = torch.zeros((*picks.shape, length), dtype=torch.int32, device=picks.device)
        if own:
            is_own = ((local >= 0) & (local < own))[:, :, None]
            keys = gather(local.clamp(0, own - 1)).int() * is_own
        return self.processes.sum(keys)
