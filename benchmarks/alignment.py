"""Measure errors of registration: without any, by congealing, and by the landmarks, the optimum.

    python benchmarks/alignment.py FOLDER LANDMARKS.csv
    python benchmarks/alignment.py FOLDER --misalign [--rotation 15 --zoom 1.25 --shift 0.12]

The error of a landmark is its distance to the mean over all pictures, divided by the distance of the first two
landmarks (the eyes) in the mean. ``--misalign`` moves registered pictures by random similarities; the landmarks are
then three points of the original frame, where portraits have eyes and mouth.
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
from latentpatch.registration.alignment import estimate, from_landmarks, read_landmarks
from latentpatch.registration.transforms import transform_points, warp

SIZE = (256, 256)
FACE = torch.tensor([[0.38, 0.48], [0.62, 0.48], [0.5, 0.72]], dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("landmarks", nargs="?", help="CSV, as latentpatch align takes it")
    parser.add_argument("--misalign", action="store_true", help="move registered pictures by random similarities first")
    parser.add_argument("--rotation", type=float, default=15.0, help="largest angle of --misalign in degrees")
    parser.add_argument("--zoom", type=float, default=1.25)
    parser.add_argument("--shift", type=float, default=0.12, help="share of the picture's side")
    parser.add_argument("--keep", help="folder to keep the misaligned pictures in")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.misalign == (options.landmarks is not None):
        parser.error("either LANDMARKS.csv or --misalign must be given")
    with tempfile.TemporaryDirectory() as temporary:
        if options.misalign:
            folder = Path(options.keep or temporary)
            folder.mkdir(parents=True, exist_ok=True)
            points = misalign(images.list_images(options.folder), folder, options)
        else:
            folder, points = Path(options.folder), read_landmarks(options.landmarks)
        paths = [path for path in images.list_images(folder) if path.name in points]
        table(paths, torch.stack([points[path.name] for path in paths]))


def misalign(paths: list[Path], folder: Path, options: argparse.Namespace) -> dict[str, Tensor]:
    """Write the pictures under random similarities; return the face points of each by file name."""
    rng = random.Random(options.seed)
    points = {}
    for path in paths:
        picture = images.read_image(path)
        height, width = picture.shape[1:]
        angle = math.radians(rng.uniform(-options.rotation, options.rotation))
        zoom = options.zoom ** rng.uniform(-1, 1)
        shift = [rng.uniform(-options.shift, options.shift) * side for side in (width, height)]
        cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
        linear = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        centre = torch.tensor([width, height], dtype=torch.float64) / 2
        offset = centre + torch.tensor(shift, dtype=torch.float64) - linear @ centre
        matrix = torch.cat([linear, offset[:, None]], 1)
        images.write_image(folder / f"{path.stem}.png", warp(picture, matrix, (height, width)))
        points[f"{path.stem}.png"] = transform_points(FACE * torch.tensor([width, height]), matrix)
    return points


def table(paths: list[Path], landmarks: Tensor) -> None:
    """Print the errors of each method."""
    sizes = [tuple(images.read_image(path).shape[1:]) for path in paths]
    cropped = from_landmarks(
        frames(sizes), sizes, SIZE
    ).matrices  # every picture has the same landmarks: this is no more than a crop
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
    """Return the corners of the central square of each picture, ``(N, 4, 2)``."""
    corners = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    centres = torch.tensor([[width, height] for height, width in sizes], dtype=torch.float64)[:, None] / 2
    return centres + corners * centres.amin(2, keepdim=True)


def row(name: str, landmarks: Tensor, matrices: Tensor) -> None:
    """Print the errors of one method."""
    points = transform_points(landmarks, matrices)
    mean = points.mean(0)
    errors = (points - mean).norm(dim=2) / (mean[0] - mean[1]).norm()
    figures = [errors.median(), errors.mean(), errors.quantile(0.9), errors.max()]
    bad = int((errors.mean(1) > 0.25).sum())
    print(f"| {name} | {len(points)} | {' | '.join(f'{float(figure):.3f}' for figure in figures)} | {bad} |")


if __name__ == "__main__":
    main()
