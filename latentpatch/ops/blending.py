"""Latents joined without seams: what a source says of differences between neighbours, not of values, decides.

Where two sources meet, their latents differ by more than the picture calls for: in tone, above all. Gradient-domain
blending (Perez et al. 2003, "Poisson image editing"), here of latents, screened so that it stays near where they meet:
the smallest change such that neighbouring cells differ as they do in their own sources.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DECODINGS", "STIFFNESS", "Solver", "blend", "default_decoding", "joined"]

#: Ways from an index map to latents, see :meth:`LatentPatch.generate`.
DECODINGS = ("detail", "blend", "gather", "unproject")

#: How much a change of a latent weighs against one of a difference to a neighbour. A change of tone where sources meet
#: spreads over some 1 / sqrt(0.03) = 6 cells.
STIFFNESS = 0.03


def default_decoding(wanted: str, has_codebook: bool, has_residuals: bool) -> str:
    """Return the decoding that a sampler's ``default_decoding`` comes to for a bank.

    Args:
        wanted: ``gather``, or ``blend`` for samplers whose seams are to be blended.
        has_codebook: whether latents are codes, which are not blended.
        has_residuals: whether the bank keeps the sources' residuals of this autoencoder.
    """
    if wanted == "gather":
        return "gather"
    return "detail" if has_residuals else "gather" if has_codebook else wanted


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
    # A compiler keeps no caches, and warns of them.
    make = Solver.of.__wrapped__ if torch.compiler.is_compiling() else Solver.of
    return joined(gather, index, make(index.shape[1], index.shape[2], stiffness, index.device))


class Solver(NamedTuple):
    """Solves (stiffness + Laplacian) x = b on a grid, by cosine transforms, which the Laplacian is diagonal in.

    Attributes:
        down: ``(h, h)`` float32, of columns.
        right: ``(w, w)`` float32, of rows.
        eigenvalues: ``(h, w, 1)`` float32.
    """

    down: Tensor
    right: Tensor
    eigenvalues: Tensor

    @staticmethod
    @lru_cache(maxsize=16)
    def of(height: int, width: int, stiffness: float, device: torch.device) -> Solver:
        """For a grid."""
        (down, high), (right, wide) = _cosines(height), _cosines(width)
        eigenvalues = (stiffness + high[:, None] + wide)[:, :, None]
        return Solver(*(part.to(device, torch.float32) for part in (down, right, eigenvalues)))

    def solved(self, residual: Tensor) -> Tensor:
        """``(N, h, w, L)`` -> x of that shape."""
        spectrum = _transformed(residual, self.down, self.right).div_(self.eigenvalues)
        return _transformed(spectrum, self.down.T, self.right.T)


def joined(gather: Callable[[Tensor], Tensor], index: Tensor, solver: Solver) -> Tensor:
    """:func:`blend` with a solver that was made beforehand."""
    with torch.autocast(index.device.type, enabled=False):
        own = gather(index).movedim(1, -1).float()  # as banks hold them
        residual = torch.zeros_like(own)
        for axis in (1, 2):
            count = index.shape[axis]
            # What the source of the cell before, and of the one behind, has here.
            before = torch.cat([index.narrow(axis, 0, 1), index.narrow(axis, 0, count - 1)], axis)
            behind = torch.cat([index.narrow(axis, 1, count - 1), index.narrow(axis, count - 1, 1)], axis)
            wanted = gather(before).movedim(1, -1).narrow(axis, 1, count - 1).float()
            wanted -= own.narrow(axis, 1, count - 1)
            wanted += own.narrow(axis, 0, count - 1)
            wanted -= gather(behind).movedim(1, -1).narrow(axis, 0, count - 1)
            residual.narrow(axis, 1, count - 1).add_(wanted, alpha=0.5)
            residual.narrow(axis, 0, count - 1).sub_(wanted, alpha=0.5)
        return solver.solved(residual).add_(own).movedim(-1, 1)


def _transformed(cells: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Matrices applied to columns and rows of ``(N, h, w, L)``: products whose shapes do not depend on N."""
    images, height, width, channels = cells.shape
    along = torch.bmm(down.expand(images, -1, -1), cells.reshape(images, height, width * channels))
    rows = along.reshape(images * height, width, channels)
    return torch.bmm(right.expand(images * height, -1, -1), rows).reshape(cells.shape)


def _cosines(count: int) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform (DCT-II) ``(count, count)``, and the Laplacian's eigenvalues ``(count,)``."""
    frequencies = torch.arange(count, dtype=torch.float64)[:, None]
    waves = torch.cos(pi / count * (torch.arange(count, dtype=torch.float64) + 0.5) * frequencies)
    return waves / waves.norm(dim=1, keepdim=True), 2 - 2 * torch.cos(pi / count * frequencies[:, 0])
