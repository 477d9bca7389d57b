"""HP-VAE-GAN: a patch autoencoder and a pyramid of patch-GANs (Gur et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...runs.defaults import plain_torch
from .base import TrainedModel
from .networks import PatchScale, conv_block, conv_stack, upsample

__all__ = ["HPVAEGAN", "LAYERS", "Encoder"]

#: Convolutions of decoder, residual blocks and critic: one that widens, five, and one that narrows.
LAYERS = 7


class Encoder(nn.Module):
    """From pictures ``(N, 3, h, w)`` to mean and log-variance of codes ``(N, L, h, w)``."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(conv_block(3 if k == 0 else width, width, padding=1, norm="spectral") for k in range(3))
        )
        self.mean = nn.Conv2d(width, latent, 3, padding=1)
        self.log_variance = nn.Conv2d(width, latent, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.mean(features), self.log_variance(features)


class HPVAEGAN(TrainedModel):
    """Encoder and decoder of the coarsest scale, and a residual block for each finer one.

    Args:
        method, sizes, size, trained: see :class:`~latentpatch.methods.trained.base.TrainedModel`.
        width: channels of all networks.
        latent: channels of codes, L.

    Attributes:
        scales: the residual blocks of all scales but the first.
    """

    @plain_torch(keeps_device=True)
    def __init__(
        self,
        method: str,
        sizes: Sequence[Sequence[int]],
        size: Sequence[int] | None = None,
        trained: dict[str, Any] | None = None,
        *,
        width: int = 64,
        latent: int = 128,
    ) -> None:
        super().__init__(method, sizes, size, trained)
        self.width, self.latent = width, latent
        self.encoder = Encoder(width, latent)
        self.decoder = conv_stack(latent, width, 3, LAYERS, padding=1)
        self.scales = nn.ModuleList(PatchScale(conv_stack(3, width, 3, LAYERS, padding=1)) for _ in self.sizes[1:])

    def arguments(self) -> dict[str, Any]:
        return {"width": self.width, "latent": self.latent}

    def amplitude(self, scale: int) -> Tensor:
        """Return the standard deviation of the noise of a scale from 1 on, a buffer."""
        return cast(PatchScale, self.scales[scale - 1]).amplitude

    def step(self, scale: int, before: Tensor, size: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the picture of a scale from 1 on, from that of the scale before; None for no noise."""
        enlarged = upsample(before, size, has_aligned_corners=True)
        noise = None if generator is None else torch.randn(enlarged.shape, generator=generator).to(enlarged)
        return torch.tanh(enlarged + self.scales[scale - 1](enlarged, noise))

    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures of the coarsest scale ``(N, 3, h, w)`` of codes ``(N, L, h, w)``."""
        return torch.tanh(self.decoder(codes))

    def make_one(
        self, generator: torch.Generator, sizes: list[tuple[int, int]], start: int, before: Tensor | None
    ) -> Tensor:
        if before is None:
            image = self.decode(torch.randn(1, self.latent, *sizes[0], generator=generator).to(self.device))
        elif start == 0:
            image = self.decode(self.encoder(before)[0])
        else:
            image = before
        for k in range(1, len(sizes)):
            if before is None or k >= start:
                image = self.step(k, image, sizes[k], generator if k >= start else None)
        return image
