"""Pictures and figures that the chapters share.

All pictures are the repository's own or are drawn here. In a notebook figures appear below their cell. A chapter that
runs as a script writes them to the folder ``figures``. Without matplotlib there are no figures; all else is the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from latentpatch.io.channels import on_white
from latentpatch.io.images import read_image
from latentpatch.ops.pyramid import resize

EXAMPLES = Path(__file__).resolve().parents[1]
IS_NOTEBOOK = "ipykernel" in sys.modules
HAS_MATPLOTLIB = find_spec("matplotlib") is not None

# --- pictures: (3, height, width), float32 in [0, 1] ------------------------------------------------------------------


def portrait(number: int, side: int = 96) -> Tensor:
    """Return one of the sixty-four portraits."""
    return read_image(EXAMPLES / "portraits" / f"portrait-{number:02d}.jpg", (side, side))


def robot(number: int, side: int = 96) -> Tensor:
    """Return one of the sixty-four robots."""
    return read_image(EXAMPLES / "robots" / f"robot-{number:02d}.jpg", (side, side))


def smooth_noise(size: Sequence[int], grain: int, generator: torch.Generator) -> Tensor:
    """Return noise ``(height, width)`` in [0, 1] whose blobs are about ``grain`` pixels wide."""
    coarse = torch.rand(1, 1, size[0] // grain + 2, size[1] // grain + 2, generator=generator)
    fine = resize(coarse, (coarse.shape[2] * grain, coarse.shape[3] * grain))[0, 0, : size[0], : size[1]]
    return (fine - fine.min()) / (fine.max() - fine.min())


def cobbles(height: int = 96, width: int = 96, seed: int = 0, stone: int = 14) -> Tensor:
    """Draw a pavement: a pixel belongs to the nearest of some scattered points, and joints lie between two."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    grid = torch.cartesian_prod(torch.arange(-1.0, height / stone + 1), torch.arange(-1.0, width / stone + 1))
    centers = (grid + 0.75 * torch.rand(grid.shape, generator=generator)) * stone
    offsets = torch.stack([rows[..., None] - centers[:, 0], columns[..., None] - centers[:, 1]], -1)
    near, order = offsets.norm(dim=-1).topk(2, dim=-1, largest=False)
    joint = ((near[..., 1] - near[..., 0]) / 3).clamp(0, 1)
    palette = torch.tensor([[0.62, 0.55, 0.48], [0.50, 0.50, 0.54], [0.72, 0.66, 0.55], [0.45, 0.38, 0.34]])
    colors = palette[torch.randint(4, (len(centers),), generator=generator)]
    colors = colors + 0.05 * torch.randn(len(centers), 1, generator=generator)
    slope = offsets.gather(2, order[..., :1, None].expand(-1, -1, -1, 2))[..., 0, :].sum(-1) / stone
    light = 1 - 0.28 * slope + 0.06 * torch.randn(height, width, generator=generator)
    picture = colors[order[..., 0]] * (light * (0.25 + 0.75 * joint))[..., None]
    return picture.permute(2, 0, 1).clamp(0, 1).contiguous()


def bricks(height: int = 96, width: int = 96, seed: int = 0) -> Tensor:
    """Draw a wall: courses of 12 pixels, bricks of 24, each course moved by half a brick."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    course = rows // 12
    along = columns + 12 * (course % 2)
    tone = 0.85 + 0.3 * torch.rand(height // 12 + 1, width // 24 + 2, generator=generator)[course, along // 24]
    tone = tone * (0.9 + 0.2 * torch.rand(height, width, generator=generator))
    is_mortar = (rows % 12 < 2) | (along % 24 < 2)
    colors = torch.tensor([[0.62, 0.30, 0.22], [0.78, 0.76, 0.70]])[is_mortar.long()].permute(2, 0, 1)
    return (colors * torch.where(is_mortar, 1.0, tone)).clamp(0, 1).contiguous()


def landscape(height: int = 96, width: int = 144, seed: int = 0) -> Tensor:
    """Draw sky and clouds, two ridges of mountains, firs and a meadow."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    clouds = (smooth_noise((height, width), height // 6, generator) - 0.45).clamp(min=0) * 1.6
    clouds = clouds * (1 - 1.6 * rows).clamp(min=0)
    sky = torch.stack([0.35 + 0.5 * rows, 0.55 + 0.35 * rows, 0.85 + 0.1 * rows])
    picture = sky + clouds * (1 - sky)
    for base, swing, color in ((0.52, 0.36, (0.45, 0.50, 0.62)), (0.64, 0.26, (0.28, 0.36, 0.38))):
        ridge = base - swing * smooth_noise((1, width), width // 8, generator)[0]
        ridge = ridge - 0.05 * smooth_noise((1, width), 4, generator)[0]
        rock = 0.8 + 0.4 * smooth_noise((height, width), 5, generator)
        picture = torch.where(rows > ridge, torch.tensor(color)[:, None, None] * rock, picture)
    meadow = 0.72 + 0.04 * smooth_noise((1, width), width // 4, generator)[0]
    grass = torch.stack([0.35 + 0.3 * rows, 0.50 + 0.12 * rows, 0.18 + 0 * rows])
    grass = grass * (0.75 + 0.5 * torch.rand(height, width, generator=generator))
    picture = torch.where(rows > meadow, grass, picture)
    image = Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(image)
    for place in torch.rand(width // 6, 3, generator=generator).tolist():
        x, tall = place[0] * width, (0.10 + 0.12 * place[1]) * height
        foot, shade = (0.74 + 0.10 * place[2]) * height, int(30 + 45 * place[1])
        for part in range(3):
            top, half = foot - tall * (1 - part / 4), tall * (0.12 + 0.07 * part)
            pen.polygon([(x, top), (x - half, top + tall / 2), (x + half, top + tall / 2)], (shade, shade + 30, shade))
    return read_pixels(image)


def painting(height: int = 128, width: int = 128, seed: int = 0) -> Tensor:
    """Draw a painting of short strokes that swirl, in a few colors."""
    generator = torch.Generator().manual_seed(seed)
    image = Image.new("RGB", (width, height), (30, 40, 80))
    pen = ImageDraw.Draw(image)
    turn = 2 * math.pi * smooth_noise((height, width), height // 3, generator)
    tone = smooth_noise((height, width), height // 4, generator)
    palette = [(24, 34, 84), (38, 76, 140), (84, 140, 190), (160, 196, 190), (236, 200, 90), (250, 240, 190)]
    for row, column, jitter in torch.rand(height * width // 6, 3, generator=generator).tolist():
        y, x = row * (height - 1), column * (width - 1)
        angle, at = float(turn[int(y), int(x)]), float(tone[int(y), int(x)])
        dx, dy = 5 * math.cos(angle), 5 * math.sin(angle)
        color = palette[min(5, max(0, int(6 * (at + 0.3 * (jitter - 0.5)))))]
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], tuple(int(c * (0.85 + 0.15 * jitter)) for c in color), 2)
    return read_pixels(image)


def read_pixels(image: Image.Image) -> Tensor:
    """Return a picture of Pillow as a tensor."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float().div(255).contiguous()


def with_noise(picture: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Return a picture with white Gaussian noise of ``sigma`` levels of 255, clipped to [0, 1]."""
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    return (picture + noise * sigma / 255).clamp(0, 1)


def psnr(first: Tensor, second: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two pictures in [0, 1], in dB."""
    return -10 * math.log10(float((first - second).square().mean()))


# --- figures ----------------------------------------------------------------------------------------------------------


def show(name: str, pictures: Mapping[str, Tensor], columns: int = 4, zoom: float = 2.2) -> None:
    """Show pictures ``(C, H, W)`` by their captions.

    Args:
        name: of the file, where there is one.
        pictures: by caption.
        columns: pictures in a row.
        zoom: width of a picture, in inches.
    """
    if not HAS_MATPLOTLIB:
        return
    plt = _pyplot()
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    tall = max(each.shape[1] / each.shape[2] for each in pictures.values())
    figure, axes = plt.subplots(rows, columns, figsize=(zoom * columns, (zoom * tall + 0.35) * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (caption, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(on_white(picture[None])[0].permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(caption, fontsize=9)
    _finish(plt, figure, name)


def plot(name: str, curves: Mapping[str, Any], x: str, y: str, log: bool = False) -> None:
    """Plot curves by their labels.

    Args:
        name: of the file, where there is one.
        curves: sequences of y, or pairs of sequences of x and y.
        x: label of the axis, with its unit.
        y: the same.
        log: whether both axes are logarithmic.
    """
    if not HAS_MATPLOTLIB:
        return
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(5, 3))
    for label, curve in curves.items():
        points = curve if isinstance(curve, tuple) else (range(len(curve)), curve)
        axis.plot(*points, label=label, marker=".")
    axis.set(xlabel=x, ylabel=y, **({"xscale": "log", "yscale": "log"} if log else {}))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _finish(plt, figure, name)


def _pyplot() -> Any:
    if not IS_NOTEBOOK:
        import matplotlib

        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _finish(plt: Any, figure: Any, name: str) -> None:
    figure.tight_layout()
    if IS_NOTEBOOK:
        plt.show()
    else:
        Path("figures").mkdir(exist_ok=True)
        figure.savefig(f"figures/{name}.png", dpi=110)
    plt.close(figure)
