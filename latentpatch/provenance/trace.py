"""The field of a picture: which source each of its cells is from, or nearest to, whatever made the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bank.latents import chunks, dequantize

__all__ = ["nearest_fields"]

_BATCH = 16  # pictures compared with a chunk of the bank at a time
_WHOLE = 1e-5  # weight of the whole picture's distance in the choice of a cell's source


def nearest_fields(
    latents: Tensor,
    stored: Tensor,
    codebook: Tensor | None = None,
    excluded: Tensor | None = None,
    variants: int = 1,
) -> tuple[Tensor, Tensor]:
    """The source nearest to each cell at the same place, in the full latents.

    Where several are as near, as sources with the same code are, the one nearest to the whole picture is taken: what is
    compared is a cell's squared distance plus 1e-5 of the mean over the picture's cells. Of 16 pictures of the default
    settings, decoded, rounded to 8 bits and encoded again by the embedded autoencoder, 98.6 % of cells found their
    source (68 % in the reduced latents).

    Args:
        latents: ``(N, L, h, w)`` of the pictures.
        stored: ``(B, h, w, L)``, or ``(B, h, w, q)`` codes: :attr:`SourceBank.latents`.
        codebook: where ``stored`` are codes.
        excluded: ``(N,)`` int64, number of a source that does not count for each picture; -1 for none.
        variants: how many variants of each source there are, side by side, which do not count with it.

    Returns:
        ``(N, h, w)`` int64 positions, and ``(N, h, w)`` float32 Euclidean distances.
    """
    parts = [
        _nearest_fields(
            part, stored, codebook, None if excluded is None else excluded[first : first + len(part)], variants
        )
        for first, part in zip(range(0, len(latents), _BATCH), latents.split(_BATCH), strict=True)
    ]
    return torch.cat([index for index, _ in parts]), torch.cat([distance for _, distance in parts])


def _nearest_fields(
    latents: Tensor, stored: Tensor, codebook: Tensor | None, excluded: Tensor | None, variants: int
) -> tuple[Tensor, Tensor]:
    count, _, height, width = latents.shape
    cells = latents.float().flatten(2).movedim(2, 0)  # cells x N x L
    shape = (height * width, count)
    best = torch.full(shape, float("inf"), device=cells.device)
    found, distance = torch.full(shape, -1, device=cells.device), best.clone()
    first = 0
    for chunk in chunks(stored, codebook):
        sources = dequantize(chunk.to(cells.device), codebook).float().flatten(1, 2).movedim(1, 0)  # cells x b x L
        squared = torch.cdist(cells, sources, compute_mode="donot_use_mm_for_euclid_dist").square()
        cost = squared + _WHOLE * squared.mean(0)
        if excluded is not None:
            numbers = torch.arange(first, first + len(chunk), device=excluded.device) // variants
            own = excluded[:, None] == numbers
            cost = cost.masked_fill(own.to(cost.device), float("inf"))
        least, position = cost.min(2)
        closer = least < best
        best = torch.where(closer, least, best)
        found = torch.where(closer, position + first, found)
        distance = torch.where(closer, squared.gather(2, position[..., None])[..., 0].sqrt(), distance)
        first += len(chunk)
    return found.T.reshape(count, height, width), distance.T.reshape(count, height, width)
