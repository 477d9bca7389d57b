"""Compare `inpaint` with G'MIC and OpenCV on holes whose contents are known.

    python benchmarks/inpainting.py PICTURE... [-o OUT] [--without RIVAL ...]

Each picture gets a hole of each shape. Peers are G'MIC's ``inpaint_matchpatch`` (``pip install gmic``) and OpenCV's
``inpaint`` and ``xphoto.inpaint`` (``pip install opencv-contrib-python-headless``); missing ones are left out. Means
over the pictures go to the standard output as JSON, and pictures to ``OUT``. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from math import log10
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from frontier import SAMPLES, SIDE
from torch import Tensor

import latentpatch
from latentpatch.io.images import read_image, write_image
from latentpatch.ops.patch_nearest import levels, nearest_vectors
from latentpatch.ops.patches import extract_patches

Fill = Callable[[Tensor, Tensor, Path], Tensor]


def box(height: int, width: int) -> Tensor:
    """Return a hole of a third of the height and a quarter of the width."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height * 2 // 5 : height * 2 // 5 + height // 3, width // 3 : width // 3 + width // 4] = True
    return mask


def blot(height: int, width: int) -> Tensor:
    """Return ragged holes of a tenth of the picture."""
    noise = torch.randn(1, 1, 5, 7, generator=torch.Generator().manual_seed(3))
    smooth = F.interpolate(noise, (height, width), mode="bicubic")[0, 0]
    fine = F.interpolate(
        torch.randn(1, 1, 30, 40, generator=torch.Generator().manual_seed(4)), (height, width), mode="bicubic"
    )
    mixed = smooth + 0.3 * fine[0, 0]
    return mixed > mixed.flatten().kthvalue(mixed.numel() * 9 // 10).values


def strokes(height: int, width: int) -> Tensor:
    """Return scratches 5 pixels wide across the picture."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [height * share + height / 8 * torch.sin(columns * 6.3 / width * n + n) for n, share in
             ((1, 0.2), (2, 0.5), (3, 0.8))]  # fmt: skip
    return torch.stack([(rows - each).abs() <= 2 for each in waves]).any(0)


def corner(height: int, width: int) -> Tensor:
    """Return a disc at the lower right corner, cut off by the edges."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((rows - height * 0.85) ** 2 + (columns - width * 0.85) ** 2).sqrt() < height * 0.3


HOLES = {"box": box, "blot": blot, "strokes": strokes, "corner": corner}


def rivals() -> dict[str, Fill]:
    """Return the functions that fill a hole, of those programs that are installed."""
    found: dict[str, Fill] = {"latentpatch": lambda picture, mask, _: latentpatch.inpaint(picture, mask).images[0]}
    try:
        import gmic

        def by_gmic(picture: Tensor, mask: Tensor, path: Path) -> Tensor:
            names = [path.with_suffix(f".{name}.png") for name in ("picture", "mask", "made")]
            write_image(names[0], picture * ~mask)
            write_image(names[1], mask[None].float().expand(3, -1, -1))
            first, second, made = names
            gmic.run(f"{first} {second} channels[1] 0 inpaint_matchpatch[0] [1] keep[0] output {made}")
            return read_image(made)

        found["gmic inpaint_matchpatch"] = by_gmic
    except ImportError:
        print("without G'MIC: pip install gmic", file=sys.stderr)
    try:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())

        def pixels(picture: Tensor) -> np.ndarray:
            return np.ascontiguousarray(picture.mul(255).round().byte().flip(0).permute(1, 2, 0).numpy())

        def tensor(made: np.ndarray) -> Tensor:
            return torch.from_numpy(made.copy()).permute(2, 0, 1).flip(0).float() / 255

        def by_telea(picture: Tensor, mask: Tensor, _: Path) -> Tensor:
            return tensor(cv2.inpaint(pixels(picture * ~mask), mask.byte().numpy() * 255, 5, cv2.INPAINT_TELEA))

        found["cv2.inpaint, Telea"] = by_telea
        for name in ("SHIFTMAP", "FSR_FAST"):

            def by_xphoto(picture: Tensor, mask: Tensor, _: Path, name: str = name) -> Tensor:
                given = pixels(picture * ~mask)
                if name == "SHIFTMAP":
                    given = cv2.cvtColor(given, cv2.COLOR_BGR2Lab)
                made = given.copy()
                cv2.xphoto.inpaint(given, (~mask).byte().numpy() * 255, made, getattr(cv2.xphoto, f"INPAINT_{name}"))
                return tensor(cv2.cvtColor(made, cv2.COLOR_Lab2BGR) if name == "SHIFTMAP" else made)

            if hasattr(cv2, "xphoto"):
                found[f"cv2.xphoto.inpaint, {name}"] = by_xphoto
    except ImportError:
        print("without OpenCV: pip install opencv-contrib-python-headless", file=sys.stderr)
    return found


def measure(truth: Tensor, made: Tensor, mask: Tensor) -> dict[str, float]:
    """Return the PSNR of the hole in dB, and coherence and completeness of its patches in levels of 255.

    Coherence is the root mean square from patches of the result with pixels of the hole to the nearest ones of the
    picture without any; completeness that from such patches of the truth to those of the result.
    """
    generator = torch.Generator().manual_seed(0)
    inside = mask.unfold(0, SIDE, 1).unfold(1, SIDE, 1).any(-1).any(-1)
    was, now = (extract_patches(levels(each)[None], SIDE)[0] for each in (truth, made))
    known, missing, result = was[~inside], was[inside], now[inside]
    chosen = torch.randint(len(result), (SAMPLES,), generator=generator)
    error = float((truth - made)[:, mask].square().mean())
    return {
        "psnr": -10 * log10(max(error, 1e-10)),
        "coherence": float((nearest_vectors(result[chosen], known).scores.mean() / known.shape[1]).sqrt()),
        "completeness": float((nearest_vectors(missing[chosen], result).scores.mean() / known.shape[1]).sqrt()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, default=Path("inpainting"))
    parser.add_argument("--without", nargs="+", default=[], metavar="RIVAL")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    found = {name: fill for name, fill in rivals().items() if name not in options.without}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for hole, shape in HOLES.items():
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in found}
        for path in options.pictures:
            truth = levels(read_image(path)).add(128).div(255)
            mask = shape(truth.shape[1], truth.shape[2])
            made = [truth, truth * ~mask]
            for name, fill in found.items():
                start = time.process_time()
                image = fill(truth, mask, options.output / f"{path.stem}-{hole}")
                seconds = time.process_time() - start
                figures[name].append(measure(truth, image, mask) | {"seconds": seconds})
                made.append(image)
            write_image(options.output / f"{path.stem}-{hole}-all.png", torch.cat(made, 2))
        table[hole] = {
            name: {key: round(mean(each[key] for each in rows), 2) for key in rows[0]} for name, rows in figures.items()
        }
        print(hole, json.dumps(table[hole]), file=sys.stderr, flush=True)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
