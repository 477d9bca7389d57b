"""A critic that tells a student's pictures from its teacher's, so that the student learns to draw texture.

A patch discriminator (Isola et al. 2017, arXiv:1611.07004) on pictures whose 4x4 blocks are channels, with the hinge
loss and its features matched (Wang et al. 2018, arXiv:1711.11585). It learns with the student and from nothing but the
teacher's pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Critic", "joined_gradient"]


class Critic(nn.Module):
    """Pictures ``(N, 3, H, W)`` in [0, 1] to a judgement of each block of 8x8 pixels and its surroundings."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(48, width, 3, padding=1),
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width)),
                nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GroupNorm(8, 2 * width)),
                nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.GroupNorm(8, 2 * width)),
            ]
        )
        self.judge = nn.Conv2d(2 * width, 1, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judgements ``(N, 1, H/8, W/8)``, large for the teacher's pictures, and what each layer saw."""
        x = F.pixel_unshuffle(pictures - 0.5, 4) * 2
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.judge(x), features

    def student_loss(self, made: Tensor, wanted: Tensor) -> Tensor:
        """What the student is to make smaller: that its pictures be found out, by judgement and by features."""
        judged, features = self(made)
        with torch.no_grad():
            _, expected = self(wanted)
        gap = sum(
            (F.l1_loss(a.float(), b.float()) for a, b in zip(features, expected, strict=True)), made.new_zeros(())
        )
        loss: Tensor = 10 * gap / len(features) - judged.float().mean()
        return loss

    def own_loss(self, made: Tensor, wanted: Tensor) -> Tensor:
        """The hinge loss of telling ``made`` from ``wanted``."""
        judged, _ = self(torch.cat([made.detach(), wanted]))
        fake, real = judged.float().chunk(2)
        return F.relu(1 + fake).mean() + F.relu(1 - real).mean()


def joined_gradient(made: Tensor, first: Tensor, second: Tensor, ratio: float) -> Tensor:
    """Gradient of pictures of a first loss, and of a second scaled to ``ratio`` times its length, together.

    Losses of adversaries have no scale of their own; after Esser et al. 2021 (arXiv:2012.09841, eq. 7), at the pictures
    instead of at the last layer.
    """
    (main,) = torch.autograd.grad(first, made, retain_graph=True)
    (other,) = torch.autograd.grad(second, made)
    joined: Tensor = main + other * (ratio * main.norm() / other.norm().clamp(min=1e-12))
    return joined
