"""A gated PixelCNN over codes, with their places (van den Oord et al., NeurIPS 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PixelCNN"]

_FIRST_REACH = 3  # cells to each side that the first layer looks at


class _GatedLayer(nn.Module):
    """A layer of the vertical stack, which has the rows above, and of the horizontal one, which has the row so far.

    Args:
        inputs: channels of both inputs.
        channels: channels of both outputs.
        reach: cells that convolutions look at to each side.
        is_first: whether the horizontal stack leaves out the cell itself (mask A).
    """

    def __init__(self, inputs: int, channels: int, reach: int, is_first: bool) -> None:
        super().__init__()
        self.reach, self.is_first = reach, is_first
        self.down = nn.Conv2d(inputs, 2 * channels, (reach + 1, 2 * reach + 1))
        self.along = nn.Conv2d(inputs, 2 * channels, (1, reach + (not is_first)))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.place = nn.Conv2d(2, 4 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def vertical(self, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next features of rows, and what the horizontal stack gets of them, for the row below each."""
        reach = self.reach
        found = self.down(F.pad(rows, (reach, reach, reach, 0))) + self.place(places).chunk(2, 1)[0]
        return _gate(found), self.link(found)

    def horizontal(self, cells: Tensor, above: Tensor, places: Tensor) -> Tensor:
        """Return the next features of cells, from those to their left and from the rows above."""
        seen = cells[..., :-1] if self.is_first else cells
        found = self.along(F.pad(seen, (self.reach, 0, 0, 0)))
        result: Tensor = self.out(_gate(found + above + self.place(places).chunk(2, 1)[1]))
        return result if self.is_first else cells + result


class PixelCNN(nn.Module):
    """The distribution of each code, from the codes before it in raster order and from its place.

    Codes enter by the entries of the codebook, in which their usual coordinates are embedded (FewGAN, section 3). The
    coordinates of the cell itself enter every layer, as the location-dependent condition of van den Oord et al. does.

    Args:
        codes: number of codes.
        entry_size: numbers of an entry.
        channels: of the layers.
        layers: gated layers after the first one.
    """

    def __init__(self, codes: int, entry_size: int, channels: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [_GatedLayer(entry_size, channels, _FIRST_REACH, True)]
            + [_GatedLayer(channels, channels, 1, False) for _ in range(layers)]
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, 2 * channels, 1), nn.ReLU(), nn.Conv2d(2 * channels, codes, 1)
        )
        self.rows_above = _FIRST_REACH + layers + 1

    def forward(self, entries: Tensor, places: Tensor) -> Tensor:
        """Return logits ``(N, K, h, w)``.

        Args:
            entries: ``(N, entry_size, h, w)``, those of the codes.
            places: ``(1, 2, h, w)``, the coordinates of the cells.
        """
        above = [F.pad(each, (0, 0, 1, -1)) for each in self._vertical(entries, places)]
        return self._horizontal(entries, above, places)

    def _vertical(self, entries: Tensor, places: Tensor) -> list[Tensor]:
        links = []
        for layer in self.layers:
            entries, link = layer.vertical(entries, places)  # type: ignore[operator]
            links.append(link)
        return links

    def _horizontal(self, entries: Tensor, above: list[Tensor], places: Tensor) -> Tensor:
        for layer, each in zip(self.layers, above, strict=True):
            entries = layer.horizontal(entries, each, places)  # type: ignore[operator]
        logits: Tensor = self.head(entries)
        return logits

    @torch.no_grad()
    def sample(self, codebook: Tensor, places: Tensor, noise: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
        """Return a grid of codes with those in a mask drawn anew, in raster order (ancestral sampling).

        Args:
            codebook: ``(K, entry_size)``.
            places: ``(1, 2, h, w)``.
            noise: ``(h, w)`` uniforms in [0, 1), float64 on the CPU.
            codes: ``(h, w)`` int64; those in the mask do not matter.
            mask: ``(h, w)`` bool, True where codes are drawn.

        Returns:
            ``(h, w)`` int64.
        """
        codes = codes.masked_fill(mask, 0)
        for i in mask.any(1).nonzero()[:, 0].tolist():
            first = max(0, i - self.rows_above)
            above = [codebook.new_zeros(1, 1, 1, 1)] * len(self.layers)
            if i:
                links = self._vertical(_maps(codes[first:i], codebook), places[:, :, first:i])
                above = [link[:, :, -1:] for link in links]
            for j in mask[i].nonzero()[:, 0].tolist():
                row, place = codes[i : i + 1, : j + 1], places[:, :, i : i + 1, : j + 1]
                logits = self._horizontal(_maps(row, codebook), [link[..., : j + 1] for link in above], place)
                likely = logits[0, :, 0, j].cpu().double().softmax(0).cumsum(0)
                drawn = torch.searchsorted(likely, noise[i, j] * likely[-1], right=True)
                codes[i, j] = min(int(drawn), len(codebook) - 1)
        return codes


def _maps(codes: Tensor, codebook: Tensor) -> Tensor:
    return F.embedding(codes, codebook).movedim(-1, 0)[None]


def _gate(features: Tensor) -> Tensor:
    values, gates = features.chunk(2, 1)
    return torch.tanh(values) * torch.sigmoid(gates)
