"""Train the embedded autoencoders: ``python -m latentpatch.training IMAGES -o FOLDER``.

A teacher (taef2) encodes the images, plain and flipped, cropped and recoloured; the samplers make mosaics of the
latents at many settings; the teacher decodes both. The student's encoder learns the teacher's latents, and its
decoder the teacher's pictures: mosaics above all, because generation decodes blended latents.

The first student is ``embedded-wide``. ``--student embedded --wide FOLDER`` makes a faster one: it removes channels
of the wide decoder and trains the rest again, also on latents of the student's own encoder. ``--student embedded-vq``
trains the quantized autoencoder on the pictures of a pool instead.

The pool of examples is made once and kept in the folder. Training is seeded, logs its losses to ``STUDENT.jsonl``,
writes the checkpoint ``STUDENT.pt`` every few minutes and resumes from it. With every checkpoint and at the end,
``STUDENT_encoder.safetensors`` and ``STUDENT_decoder.safetensors`` get the moving average of the weights, in half
precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn

from ..autoencoders.registry import load_autoencoder
from ..autoencoders.weights import read_checkpoint
from ..errors import FileError, LatentPatchError
from ..io.atomic import replacing, write_tensors
from ..io.images import list_images
from ..runs.defaults import plain_torch
from ..runs.progress import progress
from ..runs.resume import locked
from ..validation import check_integer, check_number
from .pool import make_pool
from .students import STUDENTS, load_wide_student

__all__ = ["main", "train"]

_LEAST = {"mosaics": 0, "real": 1, "steps": 1, "batch": 1, "seed": 0, "log_every": 1}  # smallest numbers of options
_WARM_UP_STEPS = 500  # the learning rate grows to its largest value
_FINAL_RATE = 0.01  # share of the largest learning rate
_MAX_DECAY = 0.999  # a step, in the moving average of weights


@plain_torch(for_gradients=True)
def train(folder: Path, options: argparse.Namespace) -> None:
    """Train on the pool of ``folder`` until ``options.steps``, from the checkpoint where there is one."""
    torch.manual_seed(options.seed)
    student = STUDENTS[options.student](folder, options)
    model = student.model.requires_grad_(True).to(options.device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=1e-4, betas=(0.9, 0.98))
    step = 0
    checkpoint = folder / f"{options.student}.pt"
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        try:
            model.load_state_dict(state["model"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            step = check_integer("step", state["step"], 0)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise FileError(checkpoint, f"malformed: {' '.join(str(error).split())}; delete the file") from error
    logged: list[dict[str, float]] = []
    saved = time.monotonic()
    bar = progress("training", total=options.steps, initial=step, unit="step", mininterval=1, leave=True)
    with bar, (folder / f"{options.student}.jsonl").open("a") as log:
        while step < options.steps:
            rate = options.rate * min(1.0, (step + 1) / _WARM_UP_STEPS) * _cosine(step / options.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            picture, latent = student.losses(step)
            (picture + latent).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            decay = min(_MAX_DECAY, (step + 1) / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - decay)
            step += 1
            logged.append({"picture": float(picture.detach()), "latent": float(latent.detach()), "norm": float(norm)})
            bar.update()
            if step % options.log_every == 0:
                # There are fewer than log_every rows after a checkpoint was loaded.
                means = {name: round(sum(row[name] for row in logged) / len(logged), 5) for name in logged[0]}
                log.write(json.dumps({"step": step, **means}) + "\n")
                log.flush()
                bar.set_postfix(means)
                logged.clear()
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
    """Write the weights for the package: two safetensors files in half precision."""
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in model.state_dict().items()}
    decoder = {key: value for key, value in tensors.items() if key.startswith("decoder.")}
    encoder = {key: value for key, value in tensors.items() if key not in decoder}
    for half, part in (("encoder", encoder), ("decoder", decoder)):
        write_tensors(folder / f"{name}_{half}.safetensors", part)


def main(arguments: list[str] | None = None) -> int:
    """Make the pool unless it exists, then train."""
    parser = argparse.ArgumentParser(prog="python -m latentpatch.training", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="+", help="folders, pictures, or text files that list pictures")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--student", choices=tuple(STUDENTS), default="embedded-wide")
    parser.add_argument(
        "--wide", metavar="FOLDER", help="folder of the trained embedded-wide, for the student embedded"
    )
    parser.add_argument(
        "--teacher", default="taef2", metavar="NAME[:PATH]", help="an autoencoder with taef2's latents (taef2)"
    )
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
        for name, least in _LEAST.items():
            check_integer(name, getattr(options, name), least)
        check_number("rate", options.rate, 1e-12, 1)
        check_number("checkpoint_seconds", options.checkpoint_seconds, 0, 86400)
        _run(options)
    except (LatentPatchError, OSError, ValueError) as error:
        print(f"latentpatch.training: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("latentpatch.training: interrupted, run it again to go on", file=sys.stderr)
        return 130
    return 0


@plain_torch(for_gradients=True)
def _run(options: argparse.Namespace) -> None:
    """Make the pool unless it exists, then train."""
    narrow = options.student == "embedded"
    if narrow and options.wide is None:
        raise ValueError("--student embedded needs --wide FOLDER, the folder of the trained embedded-wide")
    teacher = None
    if not (options.output / "latents.npy").exists():
        teacher, paths = load_autoencoder(options.teacher), list_images(*options.images)
        student = load_wide_student(options.wide) if narrow else None
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        lock = locked(options.output / "lock")
    except OSError as error:
        raise FileError(options.output, f"cannot be written: {error.strerror or error}") from error
    with lock:
        if teacher is not None:
            make_pool(options.output, paths, teacher, options.mosaics, options.real, options.seed, student)
        if narrow and not (options.output / "own.npy").exists():
            raise FileError(options.output, "holds the pool of another student; give another folder")
        train(options.output, options)


def _cosine(done: float) -> float:
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))
