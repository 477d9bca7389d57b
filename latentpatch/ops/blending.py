"""Blending: latents of several sources joined without seams.

Where two sources meet, their latents differ by more than the image calls for, in tone above all. Gradient-domain
blending (Perez et al. 2003, "Poisson image editing") finds the smallest change of latents such that neighboring cells
differ as they do in their own sources. A screening term keeps the change near the seams.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from .decodings import DECODINGS

__all__ = ["DECODINGS", "STIFFNESS", "Solver", "blend", "blend_with", "default_decoding", "stiffness_of"]

#: Weight of a latent's change against that of a difference between neighbors. A step of tone at a seam spreads over
#: some 1 / sqrt(0.03) = 6 cells.
STIFFNESS = 0.03


def stiffness_of(unit: int) -> float:
    """Return the stiffness with which steps of tone spread over so many times as many cells."""
    return STIFFNESS / unit**2


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
    """Return the latents of index maps, blended where sources meet.

    For each image and channel, the result u minimises the squared deviations of differences u(j) - u(i) between
    neighbors from their mean in the two cells' own sources, plus ``stiffness`` times the squared change. An image of
    one source stays as it is.

    Args:
        gather: function from index maps ``(N, h, w)`` int64 to the sources' latents ``(N, L, h, w)``.
        index: ``(N, h, w)`` int64.
        stiffness: more than 0.

    Returns:
        ``(N, L, h, w)`` float32.
    """
    # A compiler keeps no caches, and warns of them.
    make = Solver.of.__wrapped__ if torch.compiler.is_compiling() else Solver.of
    return blend_with(gather, index, make(index.shape[1], index.shape[2], stiffness, index.device))


class Solver(NamedTuple):
    """Solver of (stiffness + Laplacian) x = b on a grid; cosine transforms make the Laplacian diagonal.

    Attributes:
        down: ``(h, h)`` float32, the transform of columns.
        right: ``(w, w)`` float32, the transform of rows.
        eigenvalues: ``(h, w, 1)`` float32.
    """

    down: Tensor
    right: Tensor
    eigenvalues: Tensor

    @staticmethod
    @lru_cache(maxsize=16)
    def of(height: int, width: int, stiffness: float, device: torch.device) -> Solver:
        """Return the solver of a grid of ``height x width`` cells."""
        (down, high), (right, wide) = _cosines(height), _cosines(width)
        eigenvalues = (stiffness + high[:, None] + wide)[:, :, None]
        return Solver(*(part.to(device, torch.float32) for part in (down, right, eigenvalues)))

    def solve(self, residual: Tensor) -> Tensor:
        """Return x of the shape of b, ``(N, h, w, L)``."""
        spectrum = _transformed(residual, self.down, self.right).div_(self.eigenvalues)
        return _transformed(spectrum, self.down.T, self.right.T)


def blend_with(gather: Callable[[Tensor], Tensor], index: Tensor, solver: Solver) -> Tensor:
    """Return what :func:`blend` does, by a solver that was made beforehand."""
    with torch.autocast(index.device.type, enabled=False):
        own = gather(index).movedim(1, -1).float()  # as banks hold them
        residual = torch.zeros_like(own)
        for axis in (1, 2):
            count = index.shape[axis]
            # Each cell as the source of the cell before it has it, and as the source of the next cell has it.
            before = torch.cat([index.narrow(axis, 0, 1), index.narrow(axis, 0, count - 1)], axis)
            behind = torch.cat([index.narrow(axis, 1, count - 1), index.narrow(axis, count - 1, 1)], axis)
            wanted = gather(before).movedim(1, -1).narrow(axis, 1, count - 1).float()
            wanted -= own.narrow(axis, 1, count - 1)
            wanted += own.narrow(axis, 0, count - 1)
            wanted -= gather(behind).movedim(1, -1).narrow(axis, 0, count - 1)
            residual.narrow(axis, 1, count - 1).add_(wanted, alpha=0.5)
            residual.narrow(axis, 0, count - 1).sub_(wanted, alpha=0.5)
        return solver.solve(residual).add_(own).movedim(-1, 1)


def _transformed(cells: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Apply matrices to the columns and rows of ``(N, h, w, L)``, in products whose shapes do not depend on N."""
    images, height, width, channels = cells.shape
    along = torch.bmm(down.expand(images, -1, -1), cells.reshape(images, height, width * channels))
    rows = along.reshape(images * height, width, channels)
    return torch.bmm(right.expand(images * height, -1, -1), rows).reshape(cells.shape)


def _cosines(count: int) -> tuple[Tensor, Tensor]:
    """Return the orthonormal cosine transform (DCT-II) and the eigenvalues of the Laplacian along one axis."""
    frequencies = torch.arange(count, dtype=torch.float64)[:, None]
    waves = torch.cos(pi / count * (torch.arange(count, dtype=torch.float64) + 0.5) * frequencies)
    return waves / waves.norm(dim=1, keepdim=True), 2 - 2 * torch.cos(pi / count * frequencies[:, 0])
