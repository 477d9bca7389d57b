"""Memorization test: does the model recover its sources better than unseen images (Webster et al., CVPR 2019)?

The test recovers images with the model and compares the distribution of errors of its training images with that of
others. For a model that copies, the best recovery is known in closed form: among the index maps that are constant on
blocks of a side, the one nearest to an image's latents takes for each block the nearest source there. Its error is a
lower bound for every sampler that copies such blocks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bank.latents import chunks, dequantize
from ..errors import SettingError
from ..model import LatentPatch
from ..runs.defaults import plain_torch
from ..validation import check_integer
from .metrics import kolmogorov_smirnov

__all__ = ["Recovery", "measure_memorization", "recovery_errors"]

_MAX_RECOVERED = 1000  # sources that are recovered; all of them may serve to recover others


@dataclass(frozen=True)
class Recovery:
    """Recovery errors of sources and of held-out images, for one side of blocks.

    Attributes:
        side: cells along each side of the blocks; at the grid's longer side a block is a whole source.
        sources: median error of the sources, recovered from all sources: zero but for rounding.
        left_out: median error of the sources, each recovered from the others.
        held_out: median error of the held-out images.
        gap: ``(held_out - sources) / held_out``, the MRE-gap of Webster et al.: 1 for a model that stores its sources,
            0 for one that recovers them no better than other images.
        gap_left_out: the gap with ``left_out``: near 0 where held-out images are of the sources' kind.
        ks, p_value: Kolmogorov-Smirnov test of ``left_out`` against ``held_out``, by permutation.
        counts: numbers of recovered sources and held-out images.
    """

    side: int
    sources: float
    left_out: float
    held_out: float
    gap: float
    gap_left_out: float
    ks: float
    p_value: float
    counts: tuple[int, int]

    def record(self) -> dict[str, Any]:
        """Return the attributes as JSON holds them."""
        return asdict(self)


@torch.no_grad()
@plain_torch()
def recovery_errors(model: LatentPatch, latents: Tensor, side: int, own: Tensor | None = None) -> Tensor:
    """Return the error of the best copy of each image: mean squared error per latent value, ``(N,)`` float32.

    Args:
        model: a fitted model.
        latents: ``(N, L, h, w)`` of the images, at the bank's grid.
        side: side of the blocks in cells; they begin at the top left and are cut at the border.
        own: ``(N,)`` int64, for each image the number of a group of sources that must not be used.

    Raises:
        SettingError: for a side below 1, or latents of another grid.
    """
    check_integer("side", side, 1)
    height, width = model.bank.grid
    if latents.ndim != 4 or tuple(latents.shape[2:]) != (height, width):
        raise SettingError("latents", tuple(latents.shape), f"of shape (N, L, {height}, {width})")
    queries = _blocks(latents.float().cpu(), side)  # blocks x N x values
    best = torch.full((len(latents), len(queries)), torch.inf)
    first = 0
    codebook = model.autoencoder.codebook
    for chunk in chunks(model.bank.latents, codebook):
        vectors = dequantize(chunk.to(model.autoencoder.device), codebook)
        sources = _blocks(vectors.movedim(-1, 1).float().cpu(), side)
        for block, (query, candidates) in enumerate(zip(queries, sources, strict=True)):
            errors = torch.cdist(query, candidates).square()
            if own is not None:
                excluded = own[:, None] == model.bank.groups_of(torch.arange(first, first + len(chunk)))
                errors = errors.masked_fill(excluded, torch.inf)
            best[:, block] = torch.minimum(best[:, block], errors.amin(1))
        first += len(chunk)
    return best.sum(1) / latents[0].numel()


def measure_memorization(model: LatentPatch, held_out: Tensor, side: int) -> Recovery:
    """Compare how well the model recovers its sources and held-out images with blocks of one side.

    Args:
        model: a fitted model with at least two sources that do not count as one.
        held_out: ``(M, L, h, w)`` latents of images that are not sources.
        side: side of the blocks in cells.

    Raises:
        SettingError: for fewer than two sources.
    """
    check_integer("sources", model.bank.num_groups, 2)
    count = len(model.bank.sources)
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:_MAX_RECOVERED]
    codebook, stored = model.autoencoder.codebook, model.bank.latents[:: model.bank.variants.count]
    latents = dequantize(stored[chosen.to(stored.device)].to(model.autoencoder.device), codebook).movedim(-1, 1)
    own = model.bank.group_numbers[chosen]
    from_all, from_others = recovery_errors(model, latents, side), recovery_errors(model, latents, side, own)
    unseen = recovery_errors(model, held_out, side)
    sources, left_out, median = (float(errors.median()) for errors in (from_all, from_others, unseen))
    gap, gap_left_out = ((median - error) / median if median else 0.0 for error in (sources, left_out))
    ks, p_value = kolmogorov_smirnov(from_others, unseen)
    counts = (len(chosen), len(held_out))
    return Recovery(side, sources, left_out, median, gap, gap_left_out, ks, p_value, counts)


def _blocks(latents: Tensor, side: int) -> Tensor:
    """Cut ``(N, L, h, w)`` into ``(blocks, N, L * side * side)``; zeros beyond the border add no error."""
    height, width = latents.shape[2:]
    padded = F.pad(latents, (0, -width % side, 0, -height % side))
    return F.unfold(padded, side, stride=side).permute(2, 0, 1).contiguous()
