"""How well pictures are registered: before, by congealing, and by the landmarks themselves, the best there is.

    python benchmarks/alignment.py FOLDER LANDMARKS.csv [--crop]
    python benchmarks/alignment.py FOLDER --misalign [--rotation 15 --zoom 1.25 --shift 0.12]

The error of a landmark is its distance to the mean of all pictures, over the distance of the first two landmarks
(the eyes) in the mean. With ``--misalign`` registered pictures are taken out of register by known similarities,
and the landmarks are three points of the original frame, where portraits have eyes and mouth.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from latentpatch.io import images
from latentpatch.registration.alignment import estimate, from_landmarks, read_landmarks, transformed, warp

SIZE = (256, 256)
FACE = torch.tensor([[0.38, 0.48], [0.62, 0.48], [0.5, 0.72]], dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("landmarks", nargs="?", help="CSV, as latentpatch align takes it")
    parser.add_argument("--misalign", action="store_true", help="take registered pictures out of register first")
    parser.add_argument("--rotation", type=float, default=15.0, help="degrees, at most, of --misalign")
    parser.add_argument("--zoom", type=float, default=1.25)
    parser.add_argument("--shift", type=float, default=0.12, help="share of the picture's side")
    parser.add_argument("--keep", help="folder for the pictures taken out of register")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.misalign == (options.landmarks is not None):
        parser.error("LANDMARKS.csv or --misalign is expected")
    with tempfile.TemporaryDirectory() as temporary:
        if options.misalign:
            folder = Path(options.keep or temporary)
            folder.mkdir(parents=True, exist_ok=True)
            known = misalign(images.list_images(options.folder), folder, options)
        else:
            folder, known = Path(options.folder), read_landmarks(options.landmarks)
        paths = [path for path in images.list_images(folder) if path.name in known]
        table(paths, torch.stack([known[path.name] for path in paths]))


def misalign(paths: list[Path], folder: Path, options: argparse.Namespace) -> dict[str, Tensor]:
    """Write the pictures under random similarities. -> where points of the face are in each"""
    draw = random.Random(options.seed)
    known = {}
    for path in paths:
        picture = images.read_image(path)
        height, width = picture.shape[1:]
        angle = math.radians(draw.uniform(-options.rotation, options.rotation))
        zoom = options.zoom ** draw.uniform(-1, 1)
        shift = [draw.uniform(-options.shift, options.shift) * side for side in (width, height)]
        cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
        linear = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        centre = torch.tensor([width, height], dtype=torch.float64) / 2
        offset = centre + torch.tensor(shift, dtype=torch.float64) - linear @ centre
        matrix = torch.cat([linear, offset[:, None]], 1)
        images.write_image(folder / f"{path.stem}.png", warp(picture, matrix, (height, width)))
        known[f"{path.stem}.png"] = transformed(FACE * torch.tensor([width, height]), matrix)
    return known


def table(paths: list[Path], landmarks: Tensor) -> None:
    """Print the errors of each way to register."""
    sizes = [tuple(images.read_image(path).shape[1:]) for path in paths]
    cropped = from_landmarks(frames(sizes), sizes, SIZE).matrices  # of the same crop in each: no more than that crop
    start = time.process_time()
    found = estimate((images.read_image(path) for path in paths), SIZE)
    seconds = time.process_time() - start
    best = from_landmarks(landmarks, sizes, SIZE).matrices
    print("| | pictures | median | mean | 90 % below | largest | pictures above 0.25 |\n|---|---|---|---|---|---|---|")
    row("cropped and resized", landmarks, cropped)
    row("`align`", landmarks[found.registered], found.matrices[found.registered])
    row("`align --landmarks`", landmarks, best)
    print(f"\n`align` took {seconds:.1f} s of processor time for the estimate.")
    for i in (~found.registered).nonzero()[:, 0].tolist():
        print(f"not registered: {paths[i].name}, agreement {found.agreement[i]:.2f}")


def frames(sizes: list[tuple[int, int]]) -> Tensor:
    """Corners of the central square of each picture, ``(N, 4, 2)``."""
    corners = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    centres = torch.tensor([[width, height] for height, width in sizes], dtype=torch.float64)[:, None] / 2
    return centres + corners * centres.amin(2, keepdim=True)


def row(name: str, landmarks: Tensor, matrices: Tensor) -> None:
    points = transformed(landmarks, matrices)
    mean = points.mean(0)
    errors = (points - mean).norm(dim=2) / (mean[0] - mean[1]).norm()
    figures = [errors.median(), errors.mean(), errors.quantile(0.9), errors.max()]
    bad = int((errors.mean(1) > 0.25).sum())
    print(f"| {name} | {len(points)} | {' | '.join(f'{float(figure):.3f}' for figure in figures)} | {bad} |")


if __name__ == "__main__":
    main()
