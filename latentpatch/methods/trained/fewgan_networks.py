"""Scale 0 of FewGAN: an encoder, a codebook with positional code, and a decoder (section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["CoarseScale", "Codebook", "Quantized", "encoder", "positional_code"]

_ENCODER_LAYERS = 2  # with spectral norm, before the last one, as in HP-VAE-GAN


class Quantized(NamedTuple):
    """Encoder outputs moved to the entries of a codebook.

    Attributes:
        entries: ``(N, D, h, w)``, the entries; the gradient goes to the encoder's output unchanged.
        codes: ``(N, h, w)`` int64.
        codebook_loss: scalar, mean squared distance that moves entries to outputs.
        commitment_loss: scalar, the same that moves outputs to entries.
    """

    entries: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


def positional_code(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Return the coordinates of cells, column then row, ``(1, 2, h, w)`` in [-1, 1]; 0 along a side of one cell."""
    rows, columns = (
        torch.linspace(-1, 1, side, device=device) if side > 1 else torch.zeros(1, device=device) for side in grid
    )
    return torch.stack([columns.expand(grid), rows[:, None].expand(grid)])[None]


class Codebook(nn.Module):
    """Entries that encoder outputs with their coordinates are moved to (equation 3).

    Args:
        codes: number of entries, K.
        code_size: numbers of an encoder output, n_z.
        repeats: times that the coordinates are appended, lambda_pos.
    """

    entries: nn.Parameter
    used: Tensor

    def __init__(self, codes: int, code_size: int, repeats: int) -> None:
        super().__init__()
        self.repeats = repeats
        self.entries = nn.Parameter(torch.randn(codes, code_size + 2 * repeats) / code_size**0.5)
        self.register_buffer("used", torch.zeros(codes, dtype=torch.bool))

    def placed(self, encoded: Tensor) -> Tensor:
        """Return encoder outputs ``(N, n_z, h, w)`` with their coordinates appended."""
        places = positional_code((encoded.shape[2], encoded.shape[3]), encoded.device).to(encoded.dtype)
        return torch.cat([encoded, places.repeat(1, self.repeats, 1, 1).expand(len(encoded), -1, -1, -1)], 1)

    def forward(self, encoded: Tensor) -> Quantized:
        """Return the nearest entries of encoder outputs ``(N, n_z, h, w)``; of equally near ones the first."""
        placed = self.placed(encoded.float())
        flat = placed.detach().movedim(1, -1).flatten(0, -2)
        entries = self.entries.detach()
        with torch.autocast(encoded.device.type, enabled=False):  # or half the codes would be others
            distances = entries.square().sum(1) - 2 * flat @ entries.T
        codes = distances.argmin(1).view(len(encoded), *encoded.shape[2:])
        chosen = self.look_up(codes)
        return Quantized(
            placed + (chosen - placed).detach(),
            codes,
            F.mse_loss(chosen, placed.detach()),
            F.mse_loss(placed, chosen.detach()),
        )

    def look_up(self, codes: Tensor) -> Tensor:
        """Return the entries of codes ``(N, h, w)`` as ``(N, D, h, w)``."""
        return F.embedding(codes, self.entries).movedim(-1, 1)

    @torch.no_grad()
    def renew(self, encoded: Tensor, generator: torch.Generator) -> int:
        """Replace entries that were not used by random outputs, and count uses from 0; return how many they were."""
        flat = self.placed(encoded.float()).movedim(1, -1).flatten(0, -2)
        unused = (~self.used).nonzero()[:, 0]
        picked = torch.randint(len(flat), (len(unused),), generator=generator).to(flat.device)
        self.entries[unused] = flat[picked]
        self.used.zero_()
        return len(unused)


def encoder(channels: int, code_size: int) -> nn.Sequential:
    """Return a fully convolutional encoder that keeps the size: HP-VAE-GAN's, with codes in place of moments."""
    layers: list[nn.Module] = []
    for i in range(_ENCODER_LAYERS):
        layers += [spectral_norm(nn.Conv2d(channels if i else 3, channels, 3, padding=1)), nn.BatchNorm2d(channels)]
        layers += [nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(channels, code_size, 3, padding=1))


class CoarseScale(nn.Module):
    """Scale 0: a picture to codes, and codes to a picture (equation 1).

    Args:
        encode: pictures ``(N, 3, h, w)`` to outputs ``(N, n_z, h, w)``.
        codebook: of the same n_z.
        decode: entries ``(N, D, h, w)`` to pictures ``(N, 3, h, w)`` in [-1, 1].
    """

    def __init__(self, encode: nn.Module, codebook: Codebook, decode: nn.Module) -> None:
        super().__init__()
        self.encode, self.codebook, self.decode = encode, codebook, decode

    def forward(self, images: Tensor) -> Tensor:
        """Return pictures in [-1, 1] made again from the codes of pictures."""
        result: Tensor = self.decode(self.codebook(self.encode(images)).entries)
        return result
