"""Count the copies that an audit finds, by the way they were changed, and its false alarms.

    python benchmarks/copies.py SOURCES --held-out PICTURES [--pictures GENERATED] [-o copies.json]

SOURCES is a folder or a list. Sixteen sources, evenly spread,
are changed in each of the ways below and audited. Held-out pictures, and pictures that the model generates, are no
copies: whatever is flagged there is a false alarm. The limits are those of ``latentpatch audit``.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.io.images import list_images, read_image, to_pil
from latentpatch.provenance.audit import CopyLimits
from latentpatch.provenance.copying import copying
from latentpatch.provenance.registered import RegisteredSources

Change = Callable[[Image.Image], Image.Image]
BATCH = 16


def jpeg(picture: Image.Image, quality: int = 30) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def halved(picture: Image.Image) -> Image.Image:
    small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def cropped(picture: Image.Image, share: float = 0.05) -> Image.Image:
    across, down = round(share * picture.width), round(share * picture.height)
    box = (across, down, picture.width - across, picture.height - down)
    return picture.crop(box).resize(picture.size, Image.Resampling.BICUBIC)


def rotated(picture: Image.Image, degrees: float = 5) -> Image.Image:
    return picture.rotate(degrees, Image.Resampling.BICUBIC)


def shifted(picture: Image.Image, share: float = 1 / 32) -> Image.Image:
    moved = Image.new("RGB", picture.size)
    moved.paste(picture, (round(share * picture.width), 0))
    return moved


def padded(picture: Image.Image, share: float = 0.1) -> Image.Image:
    across, down = round(share * picture.width), round(share * picture.height)
    small = picture.resize((picture.width - 2 * across, picture.height - 2 * down), Image.Resampling.LANCZOS)
    return ImageOps.expand(small, (across, down), (128, 128, 128))


def blurred(picture: Image.Image, width: float = 2) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(width * picture.width / 256))


def noisy(picture: Image.Image, deviation: float = 0.08) -> Image.Image:
    pixels = read_image(encoded(picture))
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return to_pil((pixels + deviation * noise).clamp(0, 1))


def hue_moved(picture: Image.Image, degrees: float = 20, saturation: float = 1.3) -> Image.Image:
    hue, rest, value = picture.convert("HSV").split()
    hue = hue.point([(level + round(degrees / 360 * 256)) % 256 for level in range(256)])
    moved = Image.merge("HSV", (hue, rest, value)).convert("RGB")
    return ImageEnhance.Color(moved).enhance(saturation)


def brighter(picture: Image.Image, factor: float = 1.25) -> Image.Image:
    return ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(factor)).enhance(factor)


def stretched(picture: Image.Image, factor: float = 1.15) -> Image.Image:
    wide = picture.resize((round(factor * picture.width), picture.height), Image.Resampling.BICUBIC)
    return ImageOps.fit(wide, picture.size)


def pasted(ground: Image.Image) -> Change:
    """Return a change that puts the middle of a picture on another ground."""

    def change(picture: Image.Image) -> Image.Image:
        box = tuple(round(share * picture.width) for share in (0.25, 0.3, 0.75, 0.85))
        both = ground.copy()
        both.paste(picture.crop(box), box[:2])
        return both

    return change


#: The changes that an audit is to find.
CHANGES: dict[str, Change] = {
    "JPEG of quality 30": jpeg,
    "half the size and back": halved,
    "mirrored": ImageOps.mirror,
    "cropped by 5 % a side": cropped,
    "rotated by 5 degrees": rotated,
    "mirrored, cropped by 5 % a side": lambda picture: cropped(ImageOps.mirror(picture)),
    "shifted by 8 of 256 pixels": shifted,
    "smaller, with a border of 10 % a side": padded,
    "blurred, 2 of 256 pixels": blurred,
    "noise of 0.08": noisy,
    "hue by 20 degrees, saturation by 30 %": hue_moved,
    "brightness and contrast by 25 %": brighter,
}
#: Changes beyond those: harder, and out of reach.
FURTHER: dict[str, Change] = {
    "rotated by 10 degrees": lambda picture: rotated(picture, 10),
    "cropped by 12 % a side": lambda picture: cropped(picture, 0.12),
    "shifted by 32 of 256 pixels": lambda picture: shifted(picture, 1 / 8),
    "15 % wider": stretched,
    "mirrored, rotated, cropped, JPEG of quality 30": lambda picture: jpeg(cropped(rotated(ImageOps.mirror(picture)))),
    "hue by 180 degrees": lambda picture: hue_moved(picture, 180, 1.0),
    "rotated by 25 degrees": lambda picture: rotated(picture, 25),
    "cropped by 20 % a side": lambda picture: cropped(picture, 0.2),
    "negative": ImageChops.invert,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", help="folder or list of sources")
    parser.add_argument("--held-out", required=True, help="folder or list of pictures like the sources")
    parser.add_argument("--pictures", help="folder of generated pictures; by default they are generated")
    parser.add_argument("-n", type=int, default=160, help="number of pictures to generate")
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--autoencoder", default="embedded")
    parser.add_argument("-o", "--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = list_images(options.sources)
    model = LatentPatch(options.autoencoder).fit(paths)
    start = time.perf_counter()
    compared = RegisteredSources(batches(paths, model.image_size))
    print(f"{len(paths)} sources; preparation of registration {time.perf_counter() - start:.1f} s\n")
    chosen = [i * len(paths) // options.copies for i in range(options.copies)]
    originals = [to_pil(read_image(paths[i], model.image_size)) for i in chosen]
    ground = to_pil(read_image(list_images(options.held_out)[0], model.image_size))
    print("| pictures | flagged | at the same place | after registration | `relative` | `registered` | source right |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name, change in (CHANGES | FURTHER | {"middle, on another ground": pasted(ground)}).items():
        copies = [read_image(encoded(change(original)), model.image_size) for original in originals]
        rows.append(row(name, model, compared, [torch.stack(copies)], chosen))
    rows.append(row("held-out pictures", model, compared, batches(list_images(options.held_out), model.image_size)))
    if options.pictures:
        made = batches(sorted(Path(options.pictures).glob("[0-9]*.png")), model.image_size)
    else:
        made = (model.generate(seeds=range(i, min(i + BATCH, options.n))).images for i in range(0, options.n, BATCH))
    rows.append(row("generated pictures", model, compared, made))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def encoded(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def batches(paths: Sequence[Path], size: tuple[int, int]) -> Iterator[Tensor]:
    for first in range(0, len(paths), BATCH):
        yield torch.stack([read_image(path, size) for path in paths[first : first + BATCH]])


def row(
    name: str,
    model: LatentPatch,
    compared: RegisteredSources,
    pictures: Iterator[Tensor] | Sequence[Tensor],
    sources: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Audit pictures, print a line of the table, and return its figures."""
    in_place: set[str] = set()
    placed: set[str] = set()
    relative, registered, nearest = [], [], []
    seconds, count = 0.0, 0
    for batch in pictures:
        figures = copying(model, batch)
        start = time.perf_counter()
        found = compared.compare(batch)
        seconds += time.perf_counter() - start
        names = [str(count + i) for i in range(len(batch))]
        count += len(batch)
        for failure in CopyLimits().failures(figures, names, found):
            if failure["file"] is not None:
                (placed if failure["figure"] == "registered" else in_place).add(failure["file"])
        relative.append(figures.relative)
        registered.append(found.relative)
        nearest += found.source[:, 0].tolist()
    right = "" if sources is None else sum(a == b for a, b in zip(nearest, sources, strict=True))
    figures = {
        "pictures": name,
        "number": count,
        "flagged": len(in_place | placed),
        "in_place": len(in_place),
        "registered_alone": len(placed),
        "relative": spread(torch.cat(relative)),
        "registered": spread(torch.cat(registered)),
        "source_right": right,
        "seconds": round(seconds, 2),
    }
    texts = (", ".join(f"{value:.2f}" for value in figures[each]) for each in ("relative", "registered"))
    cells = [name, f"{figures['flagged']} of {count}", len(in_place), len(placed), *texts, right]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return figures


def spread(values: Tensor) -> list[float]:
    """Return the least, the median and the largest value."""
    return [round(float(each), 4) for each in (values.min(), values.median(), values.max())]


if __name__ == "__main__":
    main()
