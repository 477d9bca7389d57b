"""Draw pictures, do every task on one picture with them, and write a contact sheet for each: the sheets of the docs.

    python examples/one_picture.py docs/images    # some minutes

The sheets are ``one-picture-TASK.jpg``. All results of a sheet are those of the first seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import latentpatch
from latentpatch.io.images import to_pil

sys.path.insert(0, str(Path(__file__).resolve().parent / "course"))
from course import bricks, cobbles, landscape, painting, portrait, with_noise

CAPTION = 22  # pixels
SCENE = (192, 288)
TEXTURE_METHODS = ("quilting", "texture-optimization", "gpdm")
DENOISING_METHODS = ("nl-pca", "nl-means", "bilateral")

Row = list[tuple[str, Tensor]]


def disk(size: tuple[int, int], row: int, column: int, radius: int) -> Tensor:
    """Return a mask ``(h, w)`` bool, True in a disk."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def on_painting(picture: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
    """Return a painting with the face of a portrait pasted into it, and its mask."""
    pasted, mask = painting(*SCENE, seed=3), disk(SCENE, row, column, 66)
    top, left = row - picture.shape[1] // 2, column - picture.shape[2] // 2
    placed = torch.zeros_like(pasted)
    placed[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
    return torch.where(mask, placed, pasted), mask


def rows() -> dict[str, list[Row]]:
    """Make the pictures of all sheets, by task: rows of captions and pictures."""
    scene, style, stones, wall = landscape(*SCENE), painting(192, 192), cobbles(96, 96), bricks(96, 96)
    face, noisy = portrait(24, 192), with_noise(portrait(24, 192), 20)
    hole, (pasted, paste) = disk(SCENE, 120, 150, 26), on_painting(face, 96, 140)
    moved, where = scene.clone(), torch.zeros(SCENE, dtype=torch.bool)
    moved[:, 100:160, 20:80], where[100:160, 20:80] = scene[:, 100:160, 180:240], True
    reshuffled, fade = latentpatch.reshuffle(scene, 2), torch.linspace(0, 1, 192).expand(1, 144, 192)
    tile = latentpatch.texture(wall, (96, 96), tileable=True).images[0]
    return {
        "reshuffle": [
            [("the picture", scene), *((f"seed {seed}", reshuffled.images[seed]) for seed in range(2))],
            [
                ("seed 0: from where", reshuffled.provenance()[0]),
                *((name, latentpatch.reshuffle(scene, method=name).images[0]) for name in ("gpnn", "gpdm")),
            ],
        ],
        "retarget": [
            [("the picture", scene), ("192 x 180", latentpatch.retarget(scene, (192, 180)).images[0])],
            [("192 x 400", latentpatch.retarget(scene, (192, 400)).images[0])],
        ],
        "texture": [
            [
                ("an exemplar", stones),
                *((name, latentpatch.texture(stones, (192, 192), method=name).images[0]) for name in TEXTURE_METHODS),
            ],
            [
                ("an exemplar", wall),
                ("quilting", latentpatch.texture(wall, (192, 192)).images[0]),
                ("tileable, four times", tile.repeat(1, 2, 2)),
            ],
        ],
        "exemplars": [
            [
                (caption, latentpatch.texture([stones, wall], (144, 192), **arguments).images[0])
                for caption, arguments in (
                    ("weights 2,1", {"weights": (2, 1)}),
                    ("a map from black to white", {"source_map": fade, "method": "patch-diffusion"}),
                    ("mirrored", {"weights": (1, 0), "symmetric": "mirrored"}),
                )
            ],
        ],
        "stylize": [
            [
                ("content", face),
                ("style", style),
                ("stylize", latentpatch.stylize(face, style).images[0]),
                ("strength 0.8", latentpatch.stylize(face, style, strength=0.8).images[0]),
            ],
        ],
        "analogy": [
            [("structure", face), ("patches", stones), ("analogy", latentpatch.analogy(face, stones).images[0])],
        ],
        "inpaint": [
            [
                ("a hole", scene.masked_fill(hole, 1)),
                *((f"seed {seed}", latentpatch.inpaint(scene, hole, seed=seed).images[0]) for seed in range(2)),
            ],
        ],
        "harmonize": [
            [("pasted", pasted), ("harmonize", latentpatch.harmonize(pasted, paste).images[0])],
        ],
        "edit": [
            [
                ("the picture", scene),
                ("a part copied by hand", moved),
                ("edit", latentpatch.edit(moved, where, sources=scene).images[0]),
            ],
        ],
        "denoise": [
            [
                ("noise of 20 levels", noisy),
                *((name, latentpatch.denoise(noisy, method=name).images[0]) for name in DENOISING_METHODS),
            ],
        ],
    }


def sheet(pictures: list[Row]) -> Image.Image:
    """Return rows of pictures, each below its caption."""
    gap = 4
    heights = [CAPTION + max(picture.shape[1] for _, picture in row) + gap for row in pictures]
    width = max(sum(picture.shape[2] + gap for _, picture in row) for row in pictures)
    made = Image.new("RGB", (width, sum(heights)), "white")
    pen, font, top = ImageDraw.Draw(made), ImageFont.load_default(14), 0
    for row, height in zip(pictures, heights, strict=True):
        left = 0
        for caption, picture in row:
            pen.text((left + 2, top + 2), caption, fill="black", font=font)
            made.paste(to_pil(picture), (left, top + CAPTION))
            left += picture.shape[2] + gap
        top += height
    return made


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for task, pictures in rows().items():
        sheet(pictures).save(folder / f"one-picture-{task}.jpg", quality=90, optimize=True)
