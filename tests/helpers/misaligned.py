"""Pictures out of register by known similarities, and the errors of registering them again."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from helpers.paths import PORTRAITS
from latentpatch.io.images import list_images, read_image
from latentpatch.registration.transforms import transform_points, warp

SIZE = (128, 128)
POINTS = torch.tensor([[0.38, 0.48], [0.62, 0.48], [0.5, 0.72]], dtype=torch.float64) * 128


class Misaligned(NamedTuple):
    pictures: list[Tensor]
    matrices: Tensor  # original to misaligned
    points: Tensor  # where POINTS are

    def error(self, found: Tensor, chosen: slice = slice(None)) -> Tensor:
        """Distances of points to their mean, over the distance of the first two in the mean."""
        return scatter(transform_points(self.points, found)[chosen])


def scatter(points: Tensor) -> Tensor:
    mean = points.mean(0)
    return (points - mean).norm(dim=2) / (mean[0] - mean[1]).norm()


def similarity(angle: float, zoom: float, shift: Sequence[float], side: int = 128) -> Tensor:
    """Rotation (degrees) and zoom about the centre of a square, then a shift in pixels."""
    cosine, sine = zoom * math.cos(math.radians(angle)), zoom * math.sin(math.radians(angle))
    linear = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    offset = side / 2 + torch.tensor(shift, dtype=torch.float64) - linear @ torch.full((2,), side / 2).double()
    return torch.cat([linear, offset[:, None]], 1)


def misalign(pictures: Sequence[Tensor], seed: int = 0, angle: float = 12, zoom: float = 1.2) -> Misaligned:
    draw = random.Random(seed)
    matrices = torch.stack(
        [
            similarity(
                draw.uniform(-angle, angle), zoom ** draw.uniform(-1, 1), [draw.uniform(-14, 14), draw.uniform(-14, 14)]
            )
            for _ in pictures
        ]
    )
    warped = [warp(picture, matrix, SIZE) for picture, matrix in zip(pictures, matrices, strict=True)]
    return Misaligned(warped, matrices, transform_points(POINTS, matrices))


def smooth(seed: int, side: int = 128) -> Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)[0]


def draw_boat(seed: int) -> Tensor:
    """A sailing boat of random colours on a speckled ground; in its place but for a wave or so."""
    rng = np.random.default_rng(seed)
    hull, mast, sail, sea = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(4))
    ground = np.clip(rng.integers(60, 200, 3) + rng.normal(0, 12, (256, 256, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(ground)
    pen = ImageDraw.Draw(image)
    level = int(rng.integers(196, 205))
    pen.rectangle((0, level, 256, 256), fill=sea)
    pen.polygon([(60, 160), (196, 160), (172, level), (84, level)], fill=hull)
    pen.rectangle((124, 50, 131, 160), fill=mast)
    pen.polygon([(135, 60), (135, 150), (190, 150)], fill=sail)
    pen.polygon([(120, 76), (120, 150), (int(rng.integers(68, 84)), 150)], fill=sail)
    resized = image.resize((128, 128), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def strangers() -> list[Tensor]:
    """Noise, a plain ground, stripes, and a portrait upside down."""
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    stripes = (torch.arange(128) // 8 % 2).float().expand(3, 128, 128)
    return [noise, torch.full((3, 128, 128), 0.4), stripes, read_image(list_images(PORTRAITS)[2], SIZE).flip(1)]


def portraits(count: int) -> list[Tensor]:
    return [read_image(path, SIZE) for path in list_images(PORTRAITS)[1::3][:count]]
