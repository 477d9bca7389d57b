"""Training of the embedded autoencoders: ``python -m latentpatch.training IMAGES -o FOLDER``.

A teacher (taef2) encodes the images, as they are and flipped, cropped and recoloured; the sampler makes
mosaics of those latents, at many settings; the teacher decodes both. The student's encoder learns the
teacher's latents, its decoder the teacher's pictures: of mosaics above all, because blending is what
generation asks of it.

``--student embedded-vq`` trains the quantised autoencoder on the pictures of the same pool instead.

The pool of examples is made once and kept in the folder. Training is seeded, logs its losses to
``STUDENT.jsonl``, writes ``STUDENT.pt`` every few minutes and goes on from it when called again; at the end
(and at every checkpoint) ``STUDENT_encoder.safetensors`` and ``STUDENT_decoder.safetensors`` hold the
moving average of the weights, in half precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .autoencoders import Autoencoder, load_autoencoder
from .autoencoders.embedded import EmbeddedAutoencoder, QuantizedAutoencoder
from .errors import LatentPatchError
from .files import replacing, write_tensors
from .images import list_images, read_image
from .model import LatentPatch
from .sampling import SAMPLERS, RandomPatchesSettings, RasterSettings, Settings, noise_from_seeds

__all__ = ["main", "make_pool", "train"]

_GROUP = 16  # examples made together


# --- examples ------------------------------------------------------------------------------------------


def augmented(image: Tensor, rng: np.random.Generator) -> Tensor:
    """An image ``(3, H, W)`` cropped, flipped and recoloured at random, of the same size."""
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


def mosaics(model: LatentPatch, rng: np.random.Generator) -> Tensor:
    """Latents of one group of generated grids, at settings drawn at random: ``(N, L, h, w)`` float16."""
    side = min(model.bank.grid)
    size = int(rng.choice([16, 32, 64, 128, len(model.bank)]))
    chosen = torch.from_numpy(rng.permutation(len(model.bank))[: min(size, len(model.bank))])
    subset = model.bank.keys[chosen]
    settings: Settings
    if rng.random() < 0.1:
        method = SAMPLERS["random-patches"]
        settings = RandomPatchesSettings(int(rng.integers(max(1, side // 5), side // 2 + 1)))
    else:
        method = SAMPLERS["raster"]
        patch = int(rng.integers(max(1, side // 8), side * 10 // 16 + 1))
        settings = RasterSettings(
            patch_size=patch,
            stride=int(rng.integers(1, min(4, patch) + 1)),
            neighbours=int(rng.integers(1, min(6, len(subset)) + 1)),
            scales=int(rng.choice([1, 3, 5])),
        )
    steps = method.steps(model.bank.grid, settings, False, None)
    noise = noise_from_seeds(rng.integers(1 << 40, size=_GROUP).tolist(), steps)
    index = method.sample(subset, noise, settings)
    return model.bank.gather(chosen[index])


def make_pool(folder: Path, paths: list[Path], teacher: Autoencoder, mosaic: int, real: int, seed: int) -> None:
    """Write ``real + mosaic`` examples to ``folder`` as memory-mappable arrays.

    ``latents.npy`` (N, L, h, w) float16, ``targets.npy`` (N, 3, H, W) uint8, the teacher's pictures of
    them, and ``images.npy`` (real, 3, H, W) uint8, what the first ``real`` latents were encoded from.
    """
    side = teacher.spec.image_size
    rng = np.random.default_rng(seed)
    originals = [read_image(path, (side, side)) for path in tqdm(paths, desc="reading", leave=False)]
    model = LatentPatch(teacher).fit(torch.stack(originals), progress=True)
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
    with torch.no_grad(), tqdm(total=count, desc="pool", unit="img") as bar:
        for first, end in [*_groups(0, real), *_groups(real, count)]:
            if first < real:
                # A sixth of the real examples are the images as they are.
                batch = torch.stack(
                    [
                        originals[i] if rng.random() < 1 / 6 else augmented(originals[i], rng)
                        for i in rng.integers(len(originals), size=end - first)
                    ]
                )
                images[first:end] = _to_bytes(batch)
                encoded = teacher.encode(batch).half()
            else:
                encoded = mosaics(model, rng)[: end - first]
            latents[first:end] = encoded.numpy()
            targets[first:end] = _to_bytes(teacher.decode(encoded))
            bar.update(end - first)
    for name in ("images", "targets", "latents"):  # the last says that all are there
        (temporary / f"{name}.npy").replace(folder / f"{name}.npy")
    temporary.rmdir()


def _groups(first: int, end: int) -> list[tuple[int, int]]:
    return [(start, min(start + _GROUP, end)) for start in range(first, end, _GROUP)]


def _to_bytes(images: Tensor) -> npt.NDArray[np.uint8]:
    result: npt.NDArray[np.uint8] = (images * 255).round().byte().numpy()
    return result


# --- training ------------------------------------------------------------------------------------------


def picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 of pixels, of differences between neighbours (edges) and of averages (colour)."""
    loss = F.l1_loss(made, wanted)
    for axis in (2, 3):
        loss = loss + F.l1_loss(made.diff(dim=axis), wanted.diff(dim=axis))
    return loss + F.l1_loss(F.avg_pool2d(made, 8), F.avg_pool2d(wanted, 8))


class Distillation:
    """The embedded autoencoder learns the teacher's latents and, of mosaics too, the teacher's pictures."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.model = EmbeddedAutoencoder()
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
            made = self.model._decode(_channels_last(latents + noise))
            encoded = self.model._encode(_pictures(self.images[real], options.device))
        picture = picture_loss(made.float(), _pictures(self.targets[batch], options.device))
        return picture, 0.1 * F.l1_loss(encoded.float(), _tensor(self.latents[real], options.device))


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
            latents = self.model._encode(wanted)
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
            made = self.model._decode(_channels_last(latents))
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


_STUDENTS: dict[str, type[Distillation] | type[Quantisation]] = {"embedded": Distillation, "embedded-vq": Quantisation}


def train(folder: Path, options: argparse.Namespace) -> None:
    """Train on the pool of ``folder`` until ``options.steps``, going on from the checkpoint."""
    torch.manual_seed(options.seed)
    task = _STUDENTS[options.student](folder, options)
    model = task.model.requires_grad_(True).to(options.device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=1e-4, betas=(0.9, 0.98))
    step = 0
    checkpoint = folder / f"{options.student}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=options.device)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    sums, summed = np.zeros(3), 0
    saved = time.monotonic()
    bar = tqdm(total=options.steps, initial=step, desc="training", unit="step", mininterval=1)
    with bar, (folder / f"{options.student}.jsonl").open("a") as log:
        while step < options.steps:
            rate = options.rate * min(1.0, (step + 1) / 500) * _cosine(step / options.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            picture, latent = task.losses(step)
            optimizer.zero_grad(set_to_none=True)
            (picture + latent).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            decay = min(0.999, (step + 1) / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - decay)
            step += 1
            sums += float(picture.detach()), float(latent.detach()), float(norm)
            summed += 1  # fewer than log_every after going on from a checkpoint
            bar.update()
            if step % options.log_every == 0:
                means = [round(float(value), 5) for value in sums / summed]
                log.write(json.dumps({"step": step, "picture": means[0], "latent": means[1], "norm": means[2]}) + "\n")
                log.flush()
                bar.set_postfix(picture=means[0], latent=means[1])
                sums[:], summed = 0, 0
            if step == options.steps or time.monotonic() - saved > options.checkpoint_seconds:
                state = {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                }
                with replacing(checkpoint) as temporary:
                    torch.save(state, temporary)
                export(average, folder, options.student)
                saved = time.monotonic()


def export(model: nn.Module, folder: Path, name: str) -> None:
    """Write the weights as the package reads them: two safetensors files in half precision."""
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in model.state_dict().items()}
    decoder = {key: value for key, value in tensors.items() if key.startswith("decoder.")}
    encoder = {key: value for key, value in tensors.items() if key not in decoder}
    for half, part in (("encoder", encoder), ("decoder", decoder)):
        write_tensors(folder / f"{name}_{half}.safetensors", part)


def _tensor(array: npt.NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(array).to(device).float()


def _pictures(array: npt.NDArray[np.uint8], device: str) -> Tensor:
    return _channels_last(_tensor(array, device) / 255)


def _cosine(progress: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def main(arguments: list[str] | None = None) -> int:
    """Make the pool where it is missing, then train."""
    parser = argparse.ArgumentParser(prog="python -m latentpatch.training", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="+", help="folders, pictures, or text files that list pictures")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--student", choices=tuple(_STUDENTS), default="embedded")
    parser.add_argument("--teacher", default="taef2", metavar="NAME[:PATH]", help="must have taef2's latents (taef2)")
    parser.add_argument("--mosaics", type=int, default=6000, help="generated examples in the pool (6000)")
    parser.add_argument("--real", type=int, default=3000, help="encoded examples in the pool (3000)")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="largest learning rate (0.001)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--log-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--checkpoint-seconds", type=float, default=180)
    options = parser.parse_args(arguments)
    try:
        if not (options.output / "latents.npy").exists():
            teacher = load_autoencoder(options.teacher)
            teacher.encode_dtype = teacher.decode_dtype = torch.bfloat16
            paths = list_images(*options.images)
            make_pool(options.output, paths, teacher, options.mosaics, options.real, options.seed)
        train(options.output, options)
    except (LatentPatchError, ValueError) as error:
        print(f"latentpatch.training: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
