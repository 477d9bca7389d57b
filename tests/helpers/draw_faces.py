"""Simple registered faces, so that tests have sources of any number and size.

Every face has its eyes, nose and mouth at the same place; colours, hair, glasses, moods and
backgrounds are drawn at random.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SKINS = ["#f2cfb0", "#e5b48c", "#c98d63", "#a5683f", "#7a4a2b", "#f7dcc4"]
HAIRS = ["#2b1d14", "#5a3a20", "#8c5a2b", "#c99a4b", "#9a9a9a", "#b5482a", "#1a1a22"]
WALLS = ["#7fa6c9", "#a9c3a0", "#d7c49e", "#b6a7c9", "#8d99a6", "#c98f8f"]
CLOTHES = ["#27364f", "#5b2333", "#2f4f3a", "#4a4a4a", "#6b4f2a", "#20242c"]


def draw_face(seed: int, size: int = 256) -> Image.Image:
    """One face, drawn four times as large and reduced for smooth edges."""
    rng = np.random.default_rng(seed)
    side = 4 * size
    unit = side / 256

    def pick(colours: list[str]) -> str:
        return colours[int(rng.integers(len(colours)))]

    def box(x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
        return ((x - rx) * unit, (y - ry) * unit, (x + rx) * unit, (y + ry) * unit)

    image = Image.new("RGB", (side, side), pick(WALLS))
    # A soft light from one side.
    light = np.linspace(rng.uniform(0.75, 1.0), rng.uniform(0.95, 1.15), side)[None, :, None]
    image = Image.fromarray(np.clip(np.asarray(image) * light, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    skin, hair, clothes = pick(SKINS), pick(HAIRS), pick(CLOTHES)
    width, height = rng.uniform(58, 70), rng.uniform(80, 92)
    hairy = rng.integers(4)  # bald, short, full, long
    if hairy == 3:
        pen.rounded_rectangle(
            ((128 - width - 16) * unit, 60 * unit, (128 + width + 16) * unit, 220 * unit), 60 * unit, fill=hair
        )
    pen.ellipse(box(128, 290, 110, 72), fill=clothes)
    pen.rectangle((104 * unit, 190 * unit, 152 * unit, 236 * unit), fill=skin)
    if hairy >= 1:
        pen.ellipse(box(128, 112, width + 8, height + 4), fill=hair)
    for x in (128 - width, 128 + width):
        pen.ellipse(box(x, 132, 9, 16), fill=skin)
    pen.ellipse(box(128, 132, width, height), fill=skin)
    if hairy >= 2:
        pen.chord(box(128, 96, width + 2, height * 0.62), 180, 360, fill=hair)
    iris = pick(["#3b5f8a", "#4a3520", "#3f6b4a", "#222222"])
    openness = rng.uniform(5, 9)
    for x in (102, 154):
        pen.ellipse(box(x, 120, 13, openness), fill="white")
        pen.ellipse(box(x, 120, openness * 0.75, openness * 0.75), fill=iris)
        pen.ellipse(box(x, 120, openness * 0.35, openness * 0.35), fill="black")
        pen.line(
            [((x - 15) * unit, 104 * unit), (x * unit, 99 * unit), ((x + 15) * unit, 104 * unit)],
            fill=hair,
            width=int(rng.uniform(3, 6) * unit),
            joint="curve",
        )
    pen.arc(box(128, 148, 10, 8), 20, 160, fill="#00000055", width=int(3 * unit))
    mood = rng.uniform(4, 16)
    if rng.random() < 0.5:
        pen.chord(box(128, 172, 26, mood), 0, 180, fill="white", outline="#8a2f2f", width=int(2 * unit))
    else:
        pen.arc(box(128, 172, 26, mood), 10, 170, fill="#8a2f2f", width=int(4 * unit))
    if rng.random() < 0.35:
        for x in (102, 154):
            pen.ellipse(box(x, 121, 20, 16), outline="#222222", width=int(3 * unit))
        pen.line([(122 * unit, 119 * unit), (134 * unit, 119 * unit)], fill="#222222", width=int(3 * unit))
    if rng.random() < 0.25:
        pen.chord(box(128, 162, 24, 7), 180, 360, fill=hair)
    return image.resize((size, size), Image.Resampling.LANCZOS)
