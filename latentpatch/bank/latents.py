"""Latents as banks store them: half-precision vectors or code indices, handled in chunks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .pca import PCA

__all__ = ["chunks", "dequantize", "fit_pca", "projected"]

_CHUNK_ELEMENTS = 1 << 21  # elements of a chunk, so that temporaries stay small beside the bank


def chunks(stored: Tensor, codebook: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split the sources of a tensor into chunks of a bounded number of elements.

    Args:
        stored: ``(B, ...)``.
        codebook: ``(codes, L / q)``, where the elements are to be replaced by codes.
    """
    depth = 1 if codebook is None else codebook.shape[1]
    parts: tuple[Tensor, ...] = stored.split(max(1, _CHUNK_ELEMENTS // max(1, stored[:1].numel() * depth)))
    return parts


def dequantize(stored: Tensor, codebook: Tensor | None) -> Tensor:
    """Return latents ``(B, h, w, L)`` of code indices ``(B, h, w, q)``; latents as they are without a codebook."""
    return stored if codebook is None else codebook[stored.long()].transpose(-1, -2).flatten(-2)


def fit_pca(pca: PCA, stored: Tensor, codebook: Tensor | None, components: int) -> None:
    """Fit a PCA on stored latents ``(B, h, w, L)`` or codes ``(B, h, w, q)``."""
    pca.fit((dequantize(chunk, codebook) for chunk in chunks(stored, codebook)), components)


def projected(stored: Tensor, pca: PCA, codebook: Tensor | None) -> Iterator[Tensor]:
    """Yield the reduced latents ``(b, r, h, w)`` float64 of stored ones, chunk by chunk."""
    for chunk in chunks(stored, codebook):
        yield pca.project(dequantize(chunk.to(pca.mean.device), codebook).movedim(-1, 1))
