"""Time tasks on one picture against other programs, and how searches grow with the size of a picture.

    python benchmarks/single_image.py PICTURE STYLE [-o OUT] [--rounds N] [--only peers growth]

``PICTURE`` and ``STYLE`` are cropped and resized to the sizes of the table. Peers are G'MIC (``pip install gmic``) and
OpenCV (the extra ``filters``); those that are missing are left out, and that is said. Rivals take turns in one process
and use all threads that there are. ``OUT`` gets the pictures of each rival and, with matplotlib, ``growth.png``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from math import log
from pathlib import Path
from statistics import mean, median

import torch
from measuring import CPU, Seconds, ratio, take_turns
from torch import Tensor

import latentpatch
from latentpatch.io.images import read_image, write_image
from latentpatch.ops.patch_nearest import nearest_vectors
from latentpatch.ops.patches import extract_patches
from latentpatch.ops.patchmatch import Sources, patchmatch
from latentpatch.ops.wasserstein import sliced_wasserstein
from latentpatch.runs.benchmark import hardware, versions

SIDES = {"exact search": (64, 96, 128, 192, 256), "PatchMatch": (128, 256, 512, 1024), "SWD": (128, 256, 512, 1024)}
SIGMA = 20 / 255  # standard deviation of the noise that is taken out


def read(path: Path, size: tuple[int, int]) -> Tensor:
    """Return a picture ``(3, h, w)``, cropped and resized."""
    return read_image(path, size)


def gmic_command(inputs: list[Tensor], command: str, out: Path) -> Callable[[], object] | None:
    """Return a call of a command of G'MIC on pictures, from files to a file; None where it is not installed."""
    try:
        import gmic
    except ImportError:
        print("without G'MIC: pip install gmic", file=sys.stderr)
        return None
    files = [out.with_name(f"{out.stem}-input-{number}.png") for number in range(len(inputs))]
    for file, picture in zip(files, inputs, strict=True):
        write_image(file, picture)
    text = f"{' '.join(map(str, files))} {command} output {out}"
    return lambda: gmic.run(text)


def opencv_nl_means(noisy: Tensor, out: Path) -> Callable[[], object] | None:
    """Return a call of OpenCV's NL-means; None where it is not installed."""
    try:
        import cv2
    except ImportError:
        print("without OpenCV: pip install '.[filters]'", file=sys.stderr)
        return None
    pixels = noisy.mul(255).byte().permute(1, 2, 0).contiguous().numpy()

    def call() -> None:
        made = cv2.fastNlMeansDenoisingColored(pixels, None, 14, 14, 5, 21)
        write_image(out, torch.from_numpy(made).permute(2, 0, 1).float() / 255)

    return call


def ours(out: Path, make: Callable[[], latentpatch.PictureGeneration]) -> Callable[[], object]:
    """Return a call that makes a picture and writes it."""
    return lambda: write_image(out, make().images[0])


def peers(picture: Path, style: Path, out: Path, rounds: int) -> dict[str, dict[str, object]]:
    """Time tasks on one picture: medians in seconds, and ratios to the first peer of each."""
    small, exemplar = read(picture, (167, 250)), read(style, (256, 256))
    content, painting = read(picture, (384, 512)), read(style, (384, 512))
    clean = read(picture, (256, 256))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = (clean + SIGMA * noise).clamp(0, 1)
    tasks: dict[str, dict[str, Callable[[], object] | None]] = {
        "reshuffle, 167 x 250": {
            "patch-diffusion": ours(out / "reshuffle.png", lambda: latentpatch.reshuffle(small)),
            "gpnn": ours(out / "gpnn.png", lambda: latentpatch.reshuffle(small, method="gpnn")),
            "gpdm": ours(out / "gpdm.png", lambda: latentpatch.reshuffle(small, method="gpdm")),
        },
        "texture, 512 x 512 of 256 x 256": {
            "gmic syntexturize_matchpatch": gmic_command(
                [exemplar], "syntexturize_matchpatch 512,512", out / "texture-gmic.png"
            ),
            "quilting": ours(out / "quilting.png", lambda: latentpatch.texture(exemplar, (512, 512))),
        },
        "stylize, 384 x 512": {
            "gmic stylize": gmic_command([content, painting], "stylize[0] [1] keep[0]", out / "style-gmic.png"),
            "style-optimization": ours(out / "style.png", lambda: latentpatch.stylize(content, painting)),
        },
        "denoise, 256 x 256": {
            "opencv fastNlMeansDenoisingColored": opencv_nl_means(noisy, out / "nlmeans-opencv.png"),
            "nl-means": ours(out / "nl-means.png", lambda: latentpatch.denoise(noisy, method="nl-means", sigma=20)),
            "nl-pca": ours(out / "nl-pca.png", lambda: latentpatch.denoise(noisy, method="nl-pca", sigma=20)),
        },
    }
    table: dict[str, dict[str, object]] = {}
    for task, rivals in tasks.items():
        seconds = take_turns({name: call for name, call in rivals.items() if call is not None}, rounds)
        first, *others = seconds
        table[task] = {
            "seconds": {name: round(median(each), 3) for name, each in seconds.items()},
            f"to {first}": {name: ratio(seconds[name], seconds[first]) for name in others},
        }
        print(task, table[task], file=sys.stderr, flush=True)
    return table


def growth(picture: Path, style: Path, out: Path, rounds: int) -> dict[str, dict[str, object]]:
    """Time searches of pictures of growing size: seconds, and the exponent of the number of pixels."""

    def calls(side: int) -> dict[str, Callable[[], object]]:
        first, second = read(picture, (side, side)), read(style, (side, side))

        def exact() -> None:
            nearest_vectors(*(extract_patches(each[None], 7).flatten(0, 2) for each in (first, second)))

        return {
            "exact search": exact,
            "PatchMatch": lambda: patchmatch(first, Sources([second], 7)),
            "SWD": lambda: sliced_wasserstein(first[None], second[None]),
        }

    table: dict[str, dict[str, object]] = {}
    for name, sides in SIDES.items():
        seconds: Seconds = take_turns({str(side): calls(side)[name] for side in sides}, rounds)
        points = [(2 * log(side), log(min(seconds[str(side)]))) for side in sides]
        center = mean(x for x, _ in points), mean(y for _, y in points)
        slope = sum((x - center[0]) * (y - center[1]) for x, y in points) / sum((x - center[0]) ** 2 for x, _ in points)
        table[name] = {
            "seconds": {side: round(min(each), 4) for side, each in seconds.items()},
            "slope": round(slope, 2),
        }
        print(name, table[name], file=sys.stderr, flush=True)
    plot(table, out / "growth.png")
    return table


def plot(table: dict[str, dict[str, object]], path: Path) -> None:
    """Draw seconds against the number of pixels, if matplotlib is installed."""
    try:
        import matplotlib
    except ImportError:
        print(f"{path} was not drawn: pip install matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, row in table.items():
        seconds = row["seconds"]
        assert isinstance(seconds, dict)
        axes.loglog(
            [int(side) ** 2 for side in seconds], list(seconds.values()), "o-", label=f"{name}: n^{row['slope']}"
        )
    axes.set(xlabel="pixels", ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("style", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("single-image"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=("peers", "growth"), default=("peers", "growth"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    parts = {"peers": peers, "growth": growth}
    made = {name: parts[name](options.picture, options.style, options.output, options.rounds) for name in options.only}
    print(json.dumps({**hardware(CPU), **versions(), **made}, indent=1))


if __name__ == "__main__":
    main()
