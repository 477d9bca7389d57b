"""Students: the networks to train, each with its losses."""

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

__all__ = ["STUDENTS", "Distillation", "Narrowing", "Quantization", "load_wide_student", "picture_loss"]

_LATENT_NOISE = 0.05  # standard deviation
_LATENT_WEIGHT = 0.1  # weight of the loss of latents beside that of pictures
_COMMITMENT_WEIGHT = 0.25  # weight of the encoder's distance to its codes


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """Compute L1 distances of pixels, of differences of neighbors (edges) and of averages (colour)."""
    loss = F.l1_loss(output, target)
    for axis in (2, 3):
        loss = loss + F.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
    return loss + F.l1_loss(F.avg_pool2d(output, 8), F.avg_pool2d(target, 8))


class Distillation:
    """Train the wide embedded autoencoder on the teacher's latents and decodings, mosaics included."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.model = EmbeddedAutoencoder(between=None)
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.targets = np.load(folder / "targets.npy", mmap_mode="r")
        self.images = np.load(folder / "images.npy", mmap_mode="r")

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the losses of pictures and of latents."""
        options = self.options
        rng = np.random.default_rng([options.seed, step])
        batch = np.sort(rng.integers(len(self.latents), size=options.batch))
        real = np.sort(rng.integers(len(self.images), size=options.batch // 2))
        latents = _tensor(self.latents[batch], options.device)
        # Noise, because the decoder must also decode the latents of the student's own encoder.
        generator = torch.Generator(options.device).manual_seed(options.seed * options.steps + step)
        noise = _LATENT_NOISE * torch.randn(latents.shape, generator=generator, device=options.device)
        with torch.autocast(options.device, torch.bfloat16):
            decoded = self.model.decode_raw(_channels_last(latents + noise))
            encoded = self.model.encode_raw(_pictures(self.images[real], options.device))
        picture = picture_loss(decoded.float(), _pictures(self.targets[batch], options.device))
        return picture, _LATENT_WEIGHT * F.l1_loss(encoded.float(), _tensor(self.latents[real], options.device))


class Narrowing:
    """Train a narrower decoder, cut from the wide one, on the teacher's decodings.

    Half of its latents are those of the student's own encoder, as in use. The encoder stays unchanged.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.latents, self.own, self.targets = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("latents", "own", "targets")
        )
        examples = torch.from_numpy(np.array(self.latents[:: max(1, len(self.latents) // 64)][:64])).float()
        self.model = EmbeddedAutoencoder().prune_from(load_wide_student(options.wide), examples)

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the loss of pictures, and 0."""
        options = self.options
        rng = np.random.default_rng([options.seed, step])
        batch = np.sort(rng.integers(len(self.latents), size=options.batch))
        is_own = rng.random(options.batch) < 0.5
        latents = _tensor(np.where(is_own[:, None, None, None], self.own[batch], self.latents[batch]), options.device)
        with torch.autocast(options.device, torch.bfloat16):
            decoded = self.model.decode_raw(_channels_last(latents))
        loss = picture_loss(decoded.float(), _pictures(self.targets[batch], options.device))
        return loss, loss.new_zeros(())


class Quantization:
    """Train the quantized autoencoder to reconstruct pictures and mosaics through its codebook.

    Van den Oord et al., "Neural discrete representation learning", 2017, arXiv:1711.00937.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.model = QuantizedAutoencoder()
        self.pictures = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("targets", "images")]
        self.used = torch.zeros(len(self.model.codebook), dtype=torch.bool)
        self.first_step = options.steps // 20  # the first one with quantization

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the losses of pictures, and of latents against their codes."""
        options = self.options
        rng = np.random.default_rng([options.seed, step])
        counts = [len(pictures) for pictures in self.pictures]
        drawn = np.sort(rng.integers(sum(counts), size=options.batch))
        batch = np.stack([self.pictures[0][i] if i < counts[0] else self.pictures[1][i - counts[0]] for i in drawn])
        target = _pictures(batch, options.device)
        with torch.autocast(options.device, torch.bfloat16):
            latents = self.model.encode_raw(target)
        latents = latents.float()
        gap = latents.new_zeros(())
        # First a plain autoencoder, so that there are latents worth quantizing.
        if step >= self.first_step:
            vectors = latents.detach().movedim(1, -1).flatten(0, 2)
            self._revive(step, vectors, rng)
            with torch.no_grad():
                nearest = torch.cdist(vectors, self.model.codebook).argmin(1)
                self.used[nearest.cpu().unique()] = True
            codes = self.model.codebook[nearest].view(latents.movedim(1, -1).shape).movedim(-1, 1)
            gap = F.mse_loss(codes, latents.detach()) + _COMMITMENT_WEIGHT * F.mse_loss(latents, codes.detach())
            latents = latents + (codes - latents).detach()  # gradients pass straight through
        with torch.autocast(options.device, torch.bfloat16):
            decoded = self.model.decode_raw(_channels_last(latents))
        return picture_loss(decoded.float(), target), gap

    def _revive(self, step: int, vectors: Tensor, rng: np.random.Generator) -> None:
        """Replace unused codes by latents of this batch: all codes at first, later every 200 steps."""
        if step > self.first_step and (step % 200 or step > self.options.steps * 3 // 4):
            return
        dead = torch.arange(len(self.used)) if step == self.first_step else (~self.used).nonzero()[:, 0]
        with torch.no_grad():
            self.model.codes_table[dead] = vectors[rng.integers(len(vectors), size=len(dead))]
        self.used[:] = False


STUDENTS: dict[str, type[Distillation] | type[Narrowing] | type[Quantization]] = {
    "embedded-wide": Distillation,
    "embedded": Narrowing,
    "embedded-vq": Quantization,
}


def load_wide_student(folder: str) -> EmbeddedAutoencoder:
    """Load the trained student ``embedded-wide``.

    Raises:
        WeightsError: where the weight files are missing or malformed.
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
