"""Does the model know its sources better than pictures it never saw? (Webster, Rabin, Simon and Jurie, CVPR 2019)

Their test recovers pictures with the model, and compares the distribution of errors for those it was trained on with
that for others. A model that copies has its recovery in closed form: of all index maps that are constant on blocks of a
side, the one nearest to a picture's latents takes in each block the source nearest there. Its error bounds from below
that of any sampler that copies such blocks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bank.latents import chunks, dequantize
from ..model import LatentPatch
from .metrics import kolmogorov_smirnov

__all__ = ["Recovery", "memorisation", "recovery_errors"]


_ASKED = 1000  # sources recovered, at most; all of them may be used for it


@dataclass(frozen=True)
class Recovery:
    """Recovery errors of sources and of held-out pictures, at one side of blocks.

    Attributes:
        side: cells along each side of the blocks; the grid's longer side is a whole source.
        sources: median error of the sources, each in the bank: zero but for rounding.
        left_out: median error of the sources, each without itself.
        held_out: median error of the held-out pictures.
        gap: ``(held_out - sources) / held_out``, their MRE-gap: 1 for a model that holds its sources, 0 for one that
            knows them no better than others.
        gap_left_out: the same with ``left_out``: near 0 where held-out pictures are of the sources' kind.
        ks, p_value: Kolmogorov-Smirnov test of ``left_out`` against ``held_out``, by permutation.
        counts: sources and held-out pictures that were recovered.
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
        """For a JSON file."""
        return asdict(self)


@torch.no_grad()
def recovery_errors(model: LatentPatch, latents: Tensor, side: int, own: Tensor | None = None) -> Tensor:
    """How near the sources' blocks come to pictures: mean squared error a latent value.

    Args:
        model: with its sources.
        latents: ``(N, L, h, w)`` of the pictures, at the bank's grid.
        side: of the blocks in cells; they begin at the top left and are cut at the border.
        own: ``(N,)`` int64, for each picture the number of the source it must do without, with its variants.

    Returns:
        ``(N,)`` float32.
    """
    if side < 1:
        raise ValueError(f"side {side}: at least 1 is expected")
    if latents.ndim != 4 or tuple(latents.shape[2:]) != model.bank.grid:
        raise ValueError(f"latents: shape (N, L, {model.bank.grid[0]}, {model.bank.grid[1]}) is expected")
    queries = _blocks(latents.float().cpu(), side)  # blocks x N x values
    best = torch.full((len(latents), len(queries)), torch.inf)
    first = 0
    codebook = model.autoencoder.codebook
    for chunk in chunks(model.bank.latents, codebook):
        vectors = dequantize(chunk.to(model.autoencoder.device), codebook)
        sources = _blocks(vectors.movedim(-1, 1).float().cpu(), side)
        for block, (some, others) in enumerate(zip(queries, sources, strict=True)):
            errors = torch.cdist(some, others).square()
            if own is not None:
                mine = own[:, None] == model.bank.variants.sources_of(torch.arange(first, first + len(chunk)))
                errors = errors.masked_fill(mine, torch.inf)
            best[:, block] = torch.minimum(best[:, block], errors.amin(1))
        first += len(chunk)
    return best.sum(1) / latents[0].numel()


def memorisation(model: LatentPatch, held_out: Tensor, side: int) -> Recovery:
    """The test at one side of blocks.

    Args:
        model: with at least two sources.
        held_out: ``(M, L, h, w)`` latents of pictures that are not sources.
        side: of the blocks in cells.
    """
    count = len(model.bank.sources)
    if count < 2:
        raise ValueError(f"memorisation: at least 2 sources are expected, got {count}")
    asked = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:_ASKED]
    codebook, stored = model.autoencoder.codebook, model.bank.latents[:: model.bank.variants.count]
    latents = dequantize(stored[asked.to(stored.device)].to(model.autoencoder.device), codebook).movedim(-1, 1)
    known, others = recovery_errors(model, latents, side), recovery_errors(model, latents, side, asked)
    unseen = recovery_errors(model, held_out, side)
    middle = float(unseen.median())
    statistic, p_value = kolmogorov_smirnov(others, unseen)
    return Recovery(
        side,
        float(known.median()),
        float(others.median()),
        middle,
        _gap(float(known.median()), middle),
        _gap(float(others.median()), middle),
        statistic,
        p_value,
        (len(asked), len(held_out)),
    )


def _gap(sources: float, held_out: float) -> float:
    return (held_out - sources) / held_out if held_out else 0.0


def _blocks(latents: Tensor, side: int) -> Tensor:
    """(N, L, h, w) -> (blocks, N, L * side * side); zeros beyond the border, which differ from nothing."""
    height, width = latents.shape[2:]
    padded = F.pad(latents, (0, -width % side, 0, -height % side))
    return F.unfold(padded, side, stride=side).permute(2, 0, 1).contiguous()
