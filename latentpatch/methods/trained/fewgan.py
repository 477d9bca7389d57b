"""FewGAN: networks trained on a few pictures that are not registered make new ones (Ben-Moshe et al., ICIP 2022).

A code is the number of an entry of the codebook. Scale 0 turns a picture into codes, one a pixel, and codes into a
coarse picture. Each finer scale adds detail. A
PixelCNN draws codes. The networks blend what they learned: no pixel is the copy of a source's pixel, so that results
have no provenance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runs.defaults import plain_torch
from .base import TrainedModel
from .fewgan_networks import CoarseScale, Codebook, encoder, positional_code
from .fewgan_prior import PixelCNN
from .networks import PatchScale, conv_stack, upsample
from .settings import TrainedSettings

__all__ = ["FewGAN"]

_MARGIN = 1  # cells around a hole whose codes are drawn anew, too


class FewGAN(TrainedModel):
    """Scale 0, a residual generator for each finer scale, and the PixelCNN over the codes of scale 0.

    Args:
        method, sizes, size, trained: see :class:`~latentpatch.methods.trained.base.TrainedModel`.
        codes: entries of the codebook, K.
        code_size: channels of an entry besides its coordinates, n_z.
        position: repetitions of the coordinates in an entry, lambda_pos.
        width: channels of all networks.
        layers: convolutions of the decoder and the generators.
        prior_layers: layers of the PixelCNN after its first one.
    """

    tasks = ("reshuffle", "retarget", "analogy", "inpaint", "harmonize", "edit")

    @plain_torch(keeps_device=True)
    def __init__(
        self,
        method: str,
        sizes: Sequence[Sequence[int]],
        size: Sequence[int] | None = None,
        trained: dict[str, Any] | None = None,
        *,
        codes: int = 256,
        code_size: int = 64,
        position: int = 4,
        width: int = 64,
        layers: int = 5,
        prior_layers: int = 7,
    ) -> None:
        super().__init__(method, sizes, size, trained)
        self._arguments = {
            "codes": codes, "code_size": code_size, "position": position, "width": width, "layers": layers,
            "prior_layers": prior_layers,
        }  # fmt: skip
        entry_size = code_size + 2 * position
        decoder = nn.Sequential(conv_stack(entry_size, width, 3, layers, padding=1), nn.Tanh())
        self.coarse = CoarseScale(encoder(width, code_size), Codebook(codes, code_size, position), decoder)
        self.scales = nn.ModuleList(PatchScale(conv_stack(3, width, 3, layers, padding=1)) for _ in self.sizes[1:])
        self.prior = PixelCNN(codes, entry_size, width, prior_layers)

    def arguments(self) -> dict[str, Any]:
        return self._arguments

    def start_of(self, task: str, settings: TrainedSettings) -> int:
        """Return the scale that a task starts from: 0, by default, for all tasks, as in the paper."""
        return super().start_of(task, settings) if settings.start_scale is not None else 0

    def step(self, scale: int, before: Tensor, size: Sequence[int]) -> Tensor:
        """Return the picture of a scale from 1 on, from that of the scale before (equation 5).

        The hyperbolic tangent of the sum is HP-VAE-GAN's. Without it, pictures other than the sources, of which the
        critic sees none, had values of 50 and more.
        """
        enlarged = upsample(before, size, has_aligned_corners=True)
        return torch.tanh(enlarged + self.scales[scale - 1](enlarged))

    def codes(self, images: Tensor) -> Tensor:
        """Return the codes ``(N, h, w)`` int64 of pictures ``(N, 3, h, w)`` in [-1, 1]."""
        result: Tensor = self.coarse.codebook(self.coarse.encode(images)).codes
        return result

    def draw(self, generator: torch.Generator, codes: Tensor, mask: Tensor) -> Tensor:
        """Return codes ``(h, w)`` of which those in a mask are drawn anew by the PixelCNN.

        They are drawn in raster order: those in a hole know the codes above it and to its left, not those below.

        Args:
            generator: of the noise, on the CPU.
            codes: ``(h, w)`` int64.
            mask: ``(h, w)`` bool.
        """
        entries = self.coarse.codebook.entries
        noise = torch.rand(codes.shape, generator=generator, dtype=torch.float64)
        places = positional_code((codes.shape[0], codes.shape[1]), self.device)
        return self.prior.sample(entries, places, noise, codes.to(self.device), mask.to(self.device))

    def render(self, codes: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Return pictures ``(N, 3, h, w)`` in [-1, 1] of the last size from codes ``(N, h, w)`` of the first."""
        return self._refine(self.coarse.decode(self.coarse.codebook.look_up(codes)), sizes, 1)

    def make_one(
        self, generator: torch.Generator, sizes: list[tuple[int, int]], start: int, before: Tensor | None
    ) -> Tensor:
        if before is None:
            grid = torch.zeros(sizes[0], dtype=torch.int64)
            return self.render(self.draw(generator, grid, torch.ones_like(grid, dtype=torch.bool))[None], sizes)
        return self._refine(before, sizes, start) if start else self.render(self.codes(before), sizes)

    def fill_one(
        self, generator: torch.Generator, sizes: list[tuple[int, int]], before: Tensor, mask: Tensor
    ) -> Tensor:
        cells = F.adaptive_max_pool2d(mask[None].float(), sizes[0])
        hole = F.max_pool2d(cells, 2 * _MARGIN + 1, 1, _MARGIN)[0] > 0
        return self.render(self.draw(generator, self.codes(before)[0], hole)[None], sizes)

    def _refine(self, image: Tensor, sizes: list[tuple[int, int]], start: int) -> Tensor:
        for k in range(start, len(sizes)):
            image = self.step(k, image, sizes[k])
        return image
