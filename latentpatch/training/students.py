"""What is trained, and by which losses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders.embedded import EmbeddedAutoencoder, QuantizedAutoencoder, read_halves

__all__ = ["STUDENTS", "Distillation", "Narrowing", "Quantisation", "picture_loss", "wide_student"]


def picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 of pixels, of differences between neighbours (edges) and of averages (colour)."""
    loss = F.l1_loss(made, wanted)
    for axis in (2, 3):
        loss = loss + F.l1_loss(made.diff(dim=axis), wanted.diff(dim=axis))
    return loss + F.l1_loss(F.avg_pool2d(made, 8), F.avg_pool2d(wanted, 8))


class Distillation:
    """The embedded autoencoder, wide, learns the teacher's latents and, of mosaics too, the teacher's pictures."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.model = EmbeddedAutoencoder(between=None)
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.targets = np.load(folder / "targets.npy", mmap_mode="r")
        self.images = np.load(folder / "images.npy", mmap_mode="r")

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Of pictures and of latents."""
        options = self.options
        rng = np.random.default_rng([options.seed, step])
        batch = np.sort(rng.integers(len(self.latents), size=options.batch))
        real = np.sort(rng.integers(len(self.images), size=options.batch // 2))
        latents = _tensor(self.latents[batch], options.device)
        # A little noise: the decoder must also take what the student's own encoder makes.
        generator = torch.Generator(options.device).manual_seed(options.seed * options.steps + step)
        noise = 0.05 * torch.randn(latents.shape, generator=generator, device=options.device)
        with torch.autocast(options.device, torch.bfloat16):
            made = self.model.decode_raw(_channels_last(latents + noise))
            encoded = self.model.encode_raw(_pictures(self.images[real], options.device))
        picture = picture_loss(made.float(), _pictures(self.targets[batch], options.device))
        return picture, 0.1 * F.l1_loss(encoded.float(), _tensor(self.latents[real], options.device))


class Narrowing:
    """A narrower decoder, cut from the wide one, learns the teacher's pictures, half of the time from latents as the
    student's own encoder makes them, which it will be given. The encoder stays as it is.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.latents, self.own, self.targets = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("latents", "own", "targets")
        )
        examples = torch.from_numpy(np.array(self.latents[:: max(1, len(self.latents) // 64)][:64])).float()
        self.model = EmbeddedAutoencoder().prune_from(wide_student(options.wide), examples)

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Of pictures; and nothing."""
        options = self.options
        rng = np.random.default_rng([options.seed, step])
        batch = np.sort(rng.integers(len(self.latents), size=options.batch))
        mine = rng.random(options.batch) < 0.5
        latents = _tensor(np.where(mine[:, None, None, None], self.own[batch], self.latents[batch]), options.device)
        with torch.autocast(options.device, torch.bfloat16):
            made = self.model.decode_raw(_channels_last(latents))
        loss = picture_loss(made.float(), _pictures(self.targets[batch], options.device))
        return loss, loss.new_zeros(())


class Quantisation:
    """The quantised autoencoder learns to reconstruct the pool's pictures, real ones and mosaics, through its
    codebook (van den Oord et al. 2017, arXiv:1711.00937).
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.model = QuantizedAutoencoder()
        self.pictures = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("targets", "images")]
        self.used = torch.zeros(len(self.model.codebook), dtype=torch.bool)

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Of pictures, and of latents against their codes."""
        options = self.options
        rng = np.random.default_rng([options.seed, step])
        counts = [len(pictures) for pictures in self.pictures]
        chosen = np.sort(rng.integers(sum(counts), size=options.batch))
        batch = np.stack([self.pictures[0][i] if i < counts[0] else self.pictures[1][i - counts[0]] for i in chosen])
        wanted = _pictures(batch, options.device)
        with torch.autocast(options.device, torch.bfloat16):
            latents = self.model.encode_raw(wanted)
        latents = latents.float()
        gap = latents.new_zeros(())
        # First a plain autoencoder, so that there is something to quantise.
        if step >= options.steps // 20:
            vectors = latents.detach().movedim(1, -1).flatten(0, 2)
            self._revive(step, vectors, rng)
            with torch.no_grad():
                nearest = torch.cdist(vectors, self.model.codebook).argmin(1)
                self.used[nearest.cpu().unique()] = True
            codes = self.model.codebook[nearest].view(latents.movedim(1, -1).shape).movedim(-1, 1)
            gap = F.mse_loss(codes, latents.detach()) + 0.25 * F.mse_loss(latents, codes.detach())
            latents = latents + (codes - latents).detach()  # gradients pass straight through
        with torch.autocast(options.device, torch.bfloat16):
            made = self.model.decode_raw(_channels_last(latents))
        return picture_loss(made.float(), wanted), gap

    def _revive(self, step: int, vectors: Tensor, rng: np.random.Generator) -> None:
        """Codes nothing was near to become latents of this batch: all at first, later every 200 steps."""
        start = self.options.steps // 20
        if step > start and (step % 200 or step > self.options.steps * 3 // 4):
            return
        dead = (~self.used).nonzero()[:, 0]
        if step == start:
            dead = torch.arange(len(self.used))
        with torch.no_grad():
            self.model.codes_table[dead] = vectors[rng.integers(len(vectors), size=len(dead))]
        self.used[:] = False


STUDENTS: dict[str, type[Distillation] | type[Narrowing] | type[Quantisation]] = {
    "embedded-wide": Distillation,
    "embedded": Narrowing,
    "embedded-vq": Quantisation,
}


def wide_student(folder: str) -> EmbeddedAutoencoder:
    """What the student ``embedded-wide`` became.

    Raises:
        WeightsError: where its files are missing or malformed.
    """
    model = EmbeddedAutoencoder(between=None)
    model.load_weights(read_halves(Path(folder), "embedded-wide"), folder)
    return model


def _tensor(array: npt.NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(array).to(device).float()


def _pictures(array: npt.NDArray[np.uint8], device: str) -> Tensor:
    return _channels_last(_tensor(array, device) / 255)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
