"""Principal component analysis of latent vectors (LatentPatch, section 2, step 2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..runs.threads import one_thread
from ..validation import check_integer
from .fitted_module import FittedModule

__all__ = ["PCA"]


class PCA(FittedModule):
    """A linear map of L-dimensional latents to their r leading principal components and back.

    Tensors, which move with the module and are in its state dict:
        mean: ``(L,)`` float32, mean latent.
        basis: ``(r, L)`` float32, orthonormal rows, by falling variance; the entry of largest magnitude
            of each is positive, so that a fit is unique.
        explained_variance: ``(r,)`` float32, variance along each row of the basis.
        total_variance: scalar float32, variance of the latents summed over all dimensions.
    """

    mean: Tensor
    basis: Tensor
    explained_variance: Tensor
    total_variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shape in {"mean": (0,), "basis": (0, 0), "explained_variance": (0,), "total_variance": ()}.items():
            self.register_fitted(name, torch.zeros(shape, dtype=torch.float32))

    @property
    def components(self) -> int:
        """Number of components, r; 0 before fitting."""
        return self.basis.shape[0]

    @torch.no_grad()
    @one_thread()
    def fit(self, batches: Iterable[Tensor], components: int) -> PCA:
        """Fit in one pass, with one batch and an L x L matrix in memory. Returns itself.

        Args:
            batches: tensors ``(..., L)`` of latent vectors, floating point.
            components: r, from 1 to L.

        Raises:
            SettingError: where r is out of range.
            ValueError: where there are no vectors, or they are not finite.
        """
        count, shift, total, outer = 0, torch.zeros(0), torch.zeros(0), torch.zeros(0)
        for batch in batches:
            vectors = batch.reshape(-1, batch.shape[-1]).double()
            if not len(vectors):
                continue
            if not count:
                # Sums about a point near the mean lose no digits to it.
                shift = vectors.mean(0)
                total, outer = torch.zeros_like(shift), torch.zeros_like(shift.outer(shift))
            vectors = vectors - shift
            total += vectors.sum(0)
            outer += vectors.T @ vectors
            count += len(vectors)
        if not count:
            raise ValueError("a PCA needs at least one latent vector")
        dimensions = len(shift)
        check_integer("components", components, 1, dimensions)
        offset = total / count
        covariance = (outer - count * offset.outer(offset)) / max(1, count - 1)
        if not bool(torch.isfinite(covariance).all()):
            raise ValueError("latents must be finite, got NaN or infinite values")
        # On the CPU, where the decomposition is the same whatever the module's device.
        variances, vectors = torch.linalg.eigh(covariance.cpu())
        basis = vectors.flip(1)[:, :components].T
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        device = self.mean.device
        self.mean = (shift + offset).float().to(device)
        self.basis = (basis * largest.sign()).float().to(device)
        self.explained_variance = variances.flip(0)[:components].clamp(min=0).float().to(device)
        self.total_variance = variances.clamp(min=0).sum().float().to(device)
        return self

    def project(self, latents: Tensor) -> Tensor:
        """Return the coordinates ``(N, r, h, w)`` float64 of latents ``(N, L, h, w)``.

        In double precision, so that rounding does not depend on the batch in any digit that matters.
        """
        return torch.einsum("rl,nlhw->nrhw", self.basis.double(), latents.double() - self.mean.double()[:, None, None])

    def unproject(self, reduced: Tensor) -> Tensor:
        """Return the latents ``(N, L, h, w)`` float64 of coordinates ``(N, r, h, w)``.

        The inverse of :meth:`project` where r = L, otherwise the closest latents the components can express.
        """
        return torch.einsum("rl,nrhw->nlhw", self.basis.double(), reduced.double()) + self.mean.double()[:, None, None]
