"""Draw pictures of a kind of scene, or the contact sheet of the page on a few pictures.

python examples/few_pictures.py draw landscapes      # four drawn landscapes
python examples/few_pictures.py sheet docs/images    # few-pictures.jpg, in a minute
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

import latentpatch
from latentpatch.io.images import write_image

sys.path.insert(0, str(Path(__file__).resolve().parent / "course"))
from course import landscape
from one_picture import sheet

SIZE = (120, 168)
#: Factors of red, green and blue in the sky and on the ground.
SEASONS = {
    "summer": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "autumn": ((1.0, 0.95, 0.9), (1.6, 0.95, 0.6)),
    "winter": ((0.85, 0.88, 0.9), (1.9, 1.7, 3.0)),
    "evening": ((1.6, 0.85, 0.6), (0.7, 0.55, 0.9)),
}


def scenes() -> list[Tensor]:
    """Return a drawn landscape of each season: no two have a hill at the same place."""
    pictures = []
    ground = torch.linspace(0, 1, SIZE[0]).sub(0.55).mul(8).sigmoid()[:, None]  # 0 in the sky, 1 on the ground
    for seed, (above, below) in enumerate(SEASONS.values()):
        upper, lower = (torch.tensor(each)[:, None, None] for each in (above, below))
        pictures.append((landscape(*SIZE, seed=seed + 10) * (upper * (1 - ground) + lower * ground)).clamp(0, 1))
    return pictures


def structure() -> Tensor:
    """Return a plain sketch: bright sky over a dark hill at the right."""
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, n) for n in SIZE), indexing="ij")
    return torch.where(rows > 0.85 - 0.6 * torch.exp(-(((columns - 0.8) / 0.25) ** 2)), 0.3, 0.85).expand(3, *SIZE)


def main(what: str, folder: Path) -> None:
    """Write the pictures, or the sheet, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = scenes()
    if what == "draw":
        for name, picture in zip(SEASONS, pictures, strict=True):
            write_image(folder / f"{name}.png", picture)
        return
    made = latentpatch.compose(pictures, 4)
    maps = made.provenance()
    sketch = structure()
    followed = latentpatch.compose(pictures, 3, structure=sketch)
    rows = [
        list(zip(SEASONS, pictures, strict=True)),
        [(f"seed {seed}", made.images[seed]) for seed in range(4)],
        [] if maps is None else [(f"seed {seed}: from where", maps[seed]) for seed in range(4)],
        [("structure", sketch), *((f"seed {seed}, of this structure", followed.images[seed]) for seed in range(3))],
    ]
    sheet(rows).save(folder / "few-pictures.jpg", quality=90, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
