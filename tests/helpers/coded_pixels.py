"""An autoencoder with a codebook, small enough for tests."""

from __future__ import annotations

import torch
from torch import nn

from latentpatch.autoencoders import Autoencoder, AutoencoderSpec

__all__ = ["CodedPixels"]


class CodedPixels(Autoencoder):
    """Pixel latents with a codebook, to stand for a vector-quantised autoencoder."""

    def __init__(self, codes: int = 64) -> None:
        super().__init__(AutoencoderSpec("coded", "test", 48, 4, 64, "none", codebook_size=codes))
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("codes_table", torch.rand(codes, 48, generator=generator))

    @property
    def codebook(self):
        return self.codes_table

    def encode_raw(self, images):
        return nn.functional.pixel_unshuffle(images, 4)

    def decode_raw(self, latents):
        return nn.functional.pixel_shuffle(latents, 4)
