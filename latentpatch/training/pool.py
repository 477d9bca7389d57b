"""Make training examples: pictures, mosaics of their latents, and a teacher's decodings of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders.registry import Autoencoder
from ..io.images import read_image
from ..methods.base import Context
from ..methods.latent.settings import RandomPatchesSettings, RasterSettings, ResynthesisSettings
from ..model import LatentPatch
from ..ops.noise import noise_from_seeds
from ..registry import SAMPLERS
from ..runs.progress import progress
from ..settings import Settings

__all__ = ["augment", "make_mosaics", "make_pool"]

_BATCH_SIZE = 16  # examples


def augment(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Crop, flip and recolour an image ``(3, H, W)`` at random; its size stays."""
    height, width = image.shape[1:]
    scale = rng.uniform(0.5, 1.0)
    h, w = int(height * scale), int(width * scale)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop = image[None, :, top : top + h, left : left + w]
    crop = F.interpolate(crop, (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
    if rng.random() < 0.5:
        crop = crop.flip(2)
    gain = torch.tensor(rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, (3, 1, 1)), dtype=torch.float32)
    grey = crop.mean(0, keepdim=True)
    colour = grey + (crop - grey) * rng.uniform(0.3, 1.4)
    return (colour * gain + rng.uniform(-0.08, 0.08)).clamp(0, 1)


def make_mosaics(model: LatentPatch, rng: np.random.Generator) -> tuple[Tensor, str]:
    """Sample a batch of index maps ``(N, h, w)`` at random settings; return them and a random decoding."""
    size = int(rng.choice([16, 32, 64, 128, len(model.bank)]))
    chosen = torch.from_numpy(rng.permutation(len(model.bank))[: min(size, len(model.bank))])
    settings = _random_settings(min(model.bank.grid), len(chosen), rng)
    sampler, context = SAMPLERS.of(settings), Context(model.bank.grid, len(chosen))
    seeds = rng.integers(1 << 40, size=_BATCH_SIZE).tolist()
    index = sampler(model.bank.keys[chosen], noise_from_seeds(seeds, sampler.noise_dim(settings, context)), settings)
    return chosen[index], "blend" if rng.random() < 0.6 else "gather"


def _random_settings(side: int, sources: int, rng: np.random.Generator) -> Settings:
    """Draw settings: of random patches for one batch in ten, else of one of the two samplers that search."""
    kind = rng.random()
    if kind < 0.1:
        return RandomPatchesSettings(int(rng.integers(max(1, side // 5), side // 2 + 1)))
    if kind < 0.55:
        patch = int(rng.integers(max(1, side // 8), side * 6 // 16 + 1))
        settings = ResynthesisSettings(
            patch_size=patch,
            stride=int(rng.integers(1, min(2, patch) + 1)),
            max_share=None if rng.random() < 0.5 else 0.5,
            allow_start_as_donor=bool(rng.random() < 0.5),
            donors=float(rng.choice([0.25, 0.5, 1.0])),
        )
        most = min(3, settings.num_donors(sources, has_reference=False))
        return replace(settings, neighbors=int(rng.integers(1, most + 1)))
    patch = int(rng.integers(max(1, side // 8), side * 10 // 16 + 1))
    return RasterSettings(
        patch_size=patch,
        stride=int(rng.integers(1, min(4, patch) + 1)),
        neighbors=int(rng.integers(1, min(6, sources) + 1)),
        scales=int(rng.choice([1, 3, 5])),
    )


def make_pool(
    folder: Path,
    paths: list[Path],
    teacher: Autoencoder,
    mosaic: int,
    real: int,
    seed: int,
    student: Autoencoder | None = None,
) -> None:
    """Write ``real + mosaic`` examples to ``folder`` as memory-mappable arrays.

    The files are ``latents.npy`` (N, L, h, w) float16; ``targets.npy`` (N, 3, H, W) uint8, the teacher's decodings of
    the latents; and ``images.npy`` (real, 3, H, W) uint8, the sources of the first ``real`` latents. With a student,
    whose encoder is trained, also ``own.npy`` (N, L, h, w) float16: the latents by the student's own encoder.
    """
    side = teacher.spec.image_size
    rng = np.random.default_rng(seed)
    originals = [read_image(path, (side, side)) for path in progress("reading", paths)]
    model = LatentPatch(teacher).fit(torch.stack(originals), residuals=False, progress=True)
    student_model = None if student is None else LatentPatch(student).fit(torch.stack(originals), residuals=False)
    grid = model.bank.grid
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "making"
    temporary.mkdir(exist_ok=True)

    def array(name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        return np.lib.format.open_memmap(temporary / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)

    count = real + mosaic
    latents = array("latents", (count, teacher.spec.latent_channels, *grid), "float16")
    targets = array("targets", (count, 3, side, side), "uint8")
    images = array("images", (real, 3, side, side), "uint8")
    own = None if student is None else array("own", (count, teacher.spec.latent_channels, *grid), "float16")
    with torch.no_grad(), progress("pool", total=count, leave=True) as bar:
        for first, end in [*_batches(0, real), *_batches(real, count)]:
            if first < real:
                # A sixth of the real examples are the images as they are.
                batch = torch.stack(
                    [
                        originals[i] if rng.random() < 1 / 6 else augment(originals[i], rng)
                        for i in rng.integers(len(originals), size=end - first)
                    ]
                )
                images[first:end] = _to_bytes(batch)
                encoded = teacher.encode(batch, torch.bfloat16)
                if own is not None and student is not None:
                    own[first:end] = student.encode(batch).half().numpy()
            else:
                index, decoding = make_mosaics(model, rng)
                encoded = model.latents_at(index[: end - first], decoding)
                if own is not None and student_model is not None:
                    own[first:end] = student_model.latents_at(index[: end - first], decoding).half().numpy()
            latents[first:end] = encoded.half().numpy()
            targets[first:end] = _to_bytes(teacher.decode(encoded, torch.bfloat16))
            bar.update(end - first)
    for name in ("own", "images", "targets", "latents"):  # latents last: their file marks a complete pool
        if name != "own" or own is not None:
            (temporary / f"{name}.npy").replace(folder / f"{name}.npy")
    temporary.rmdir()


def _batches(first: int, end: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BATCH_SIZE, end)) for start in range(first, end, _BATCH_SIZE)]


def _to_bytes(images: Tensor) -> npt.NDArray[np.uint8]:
    result: npt.NDArray[np.uint8] = (images * 255).round().byte().numpy()
    return result
