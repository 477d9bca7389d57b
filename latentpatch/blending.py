"""Latents joined without seams: what a source says of differences between neighbours, not of values, decides.

Where two sources meet, their latents differ by more than the picture calls for: in tone, above all. Gradient-domain
blending (Perez et al. 2003, "Poisson image editing"), here of latents, screened so that it stays near where they meet:
the smallest change such that neighbouring cells differ as they do in their own sources.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import pi

import torch
from torch import Tensor

from .sampling import DiffusionSettings, ResynthesisSettings, Settings

__all__ = ["DECODINGS", "STIFFNESS", "blend", "default_decoding"]

#: Ways from an index map to latents, see :meth:`LatentPatch.generate`.
DECODINGS = ("blend", "gather", "unproject")

#: How much a change of a latent weighs against one of a difference to a neighbour.
STIFFNESS = 2.0


def default_decoding(settings: Settings, codebook: bool) -> str:
    """How pictures of a sampler are decoded where nothing is said: those of the paper's samplers, and those of codes,
    without blending.
    """
    return "blend" if isinstance(settings, ResynthesisSettings | DiffusionSettings) and not codebook else "gather"


def blend(gather: Callable[[Tensor], Tensor], index: Tensor, stiffness: float = STIFFNESS) -> Tensor:
    """Latents of index maps, blended where sources meet.

    Minimises, for each image and channel, the squared differences between neighbours, u(j) - u(i), and what they are in
    the two cells' own sources, on average; plus ``stiffness`` times the squared change. Cells of a picture that is all
    of one source stay as they are.

    Args:
        gather: ``(N, h, w)`` int64 -> ``(N, L, h, w)`` floating point, what sources hold there.
        index: ``(N, h, w)`` int64.
        stiffness: more than 0.

    Returns:
        ``(N, L, h, w)`` float32.
    """
    with torch.autocast(index.device.type, enabled=False):
        own = _cells(gather(index))
        residual = torch.zeros_like(own)
        for axis in (1, 2):
            count = index.shape[axis]
            # What the source of the cell before, and of the one behind, has here.
            before = torch.cat([index.narrow(axis, 0, 1), index.narrow(axis, 0, count - 1)], axis)
            behind = torch.cat([index.narrow(axis, 1, count - 1), index.narrow(axis, count - 1, 1)], axis)
            wanted = (_cells(gather(before)) - own).narrow(axis, 1, count - 1)
            wanted += (own - _cells(gather(behind))).narrow(axis, 0, count - 1)
            residual.narrow(axis, 1, count - 1).add_(wanted, alpha=0.5)
            residual.narrow(axis, 0, count - 1).sub_(wanted, alpha=0.5)
        return (own + _solved(residual, stiffness)).movedim(-1, 1)


def _cells(latents: Tensor) -> Tensor:
    """(N, L, h, w) -> (N, h, w, L) float32, which is how banks hold them."""
    return latents.movedim(1, -1).float()


def _solved(residual: Tensor, stiffness: float) -> Tensor:
    """Solution of (stiffness + Laplacian) x = residual, by cosine transforms, which the Laplacian is diagonal in."""
    # A compiler keeps no caches, and warns of them.
    cosines = _cosines.__wrapped__ if torch.compiler.is_compiling() else _cosines
    (down, high), (right, wide) = cosines(residual.shape[1]), cosines(residual.shape[2])
    down, right = down.to(residual), right.to(residual)
    spectrum = _transformed(residual, down, right)
    spectrum /= (stiffness + high[:, None, None] + wide[:, None]).to(residual)
    return _transformed(spectrum, down.T, right.T)


def _transformed(cells: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Matrices applied to columns and rows of ``(N, h, w, L)``: products whose shapes do not depend on N."""
    images, height, width, channels = cells.shape
    along = torch.bmm(down.expand(images, -1, -1), cells.reshape(images, height, width * channels))
    rows = along.view(images * height, width, channels)
    return torch.bmm(right.expand(images * height, -1, -1), rows).view(cells.shape)


@lru_cache(maxsize=16)
def _cosines(count: int) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform (DCT-II) ``(count, count)``, and the Laplacian's eigenvalues ``(count,)``."""
    frequencies = torch.arange(count, dtype=torch.float64)[:, None]
    waves = torch.cos(pi / count * (torch.arange(count, dtype=torch.float64) + 0.5) * frequencies)
    return waves / waves.norm(dim=1, keepdim=True), 2 - 2 * torch.cos(pi / count * frequencies[:, 0])
