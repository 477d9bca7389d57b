"""Decoders of autoencoders, and the soft choice among a model's sources, as generators.

Each latent cell is a style input. They have encoders, no mapping networks and no noise maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...autoencoders.base import Autoencoder
from ...runs.defaults import plain_torch
from ...runs.system import check_memory
from .generator import Generator, GeneratorSpec

if TYPE_CHECKING:
    from ...model import LatentPatch

__all__ = ["DecoderGenerator", "SourcesGenerator"]

_PIXEL_BYTES = 900  # memory of a pixel of a picture and its gradients in the smallest decoders, measured
_SMOOTH_CELLS = 5  # random colors along a side of the decoder's own pictures


class DecoderGenerator(Generator):
    """The decoder of an autoencoder: a style for each latent cell, in the order of rows.

    Args:
        autoencoder: the network.
        size: height and width of the pictures; by default those that it was trained on.
        argument: text after the name's colon.
    """

    default_start = "encoder"

    def __init__(
        self, autoencoder: Autoencoder, size: tuple[int, int] | None = None, argument: str | None = None
    ) -> None:
        facts = autoencoder.spec
        height, width = size or (facts.image_size, facts.image_size)
        check_memory("size", (height, width), _PIXEL_BYTES * height * width)
        self.grid = autoencoder.grid(height, width)
        cells = self.grid[0] * self.grid[1]
        spec = GeneratorSpec(
            facts.name, cells, facts.latent_channels, 0, (height, width), (), facts.license, "pictures", argument
        )
        super().__init__(spec)
        self.autoencoder = autoencoder
        self.freeze()

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        latents = styles.movedim(1, 2).unflatten(2, self.grid)
        return self.autoencoder.decode_raw(F.pixel_shuffle(latents, self.autoencoder.fold)).float()

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents of pictures, resized where they have another size."""
        images = F.interpolate(images, self.spec.image_size, mode="bilinear")
        return self.autoencoder.encode(images).flatten(2).movedim(2, 1)

    @plain_torch()
    def random_styles(self, seeds: Sequence[int]) -> Tensor:
        """Return the latents of smooth random colors."""
        colors = [
            torch.rand(1, 3, _SMOOTH_CELLS, _SMOOTH_CELLS, generator=torch.Generator().manual_seed(s)) for s in seeds
        ]
        pictures = F.interpolate(torch.cat(colors), self.spec.image_size, mode="bicubic").clamp(0, 1)
        return self.encode(pictures.to(self.device))

    @plain_torch()
    def mean_styles(self) -> Tensor:
        """Return the latents of a grey picture."""
        return self.encode(torch.full((1, 3, *self.spec.image_size), 0.5, device=self.device))[0]


class SourcesGenerator(DecoderGenerator):
    """Pictures whose cells are weighted means of a fitted model's sources (:meth:`LatentPatch.soft`).

    A style is the latent of a cell. The nearer a source's latents are to it, the more the source weighs there. So
    pictures are made of the sources, whatever the styles are.

    Args:
        model: fitted.
        argument: text after the name's colon.
    """

    def __init__(self, model: LatentPatch, argument: str | None = None) -> None:
        model.require_fit()
        super().__init__(model.autoencoder, model.image_size, argument)
        self.model = model
        sources = f"{len(model.bank.sources)} sources of the model"
        self.spec = GeneratorSpec(**{**self.spec.__dict__, "name": "latentpatch", "trained_on": sources})

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        return self.model.soft(latents=styles.movedim(1, 2).unflatten(2, self.grid)).images

    def random_styles(self, seeds: Sequence[int]) -> Tensor:
        """Return the latents of pictures that the model generates."""
        return self.encode(self.model.generate(len(seeds), seeds=list(seeds)).images)

    def mean_styles(self) -> Tensor:
        """Return the mean of the sources' latents."""
        positions = torch.arange(len(self.model.bank), device=self.device)[:, None, None].expand(-1, *self.grid)
        return self.model.latents_at(positions).mean(0).flatten(1).T
