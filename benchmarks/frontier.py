"""Plot how near the results of `reshuffle` are to their picture against how much they copy, beside published results.

    python benchmarks/frontier.py PICTURES -o OUT [--published NAME=FOLDER ...] [--seed 0] [--figure frontier.png]

Each picture of the folder ``PICTURES`` gets one result of each row of ``SETTINGS``. Results are kept in ``OUT``, and
not made again. ``FOLDER`` has results of another program: of ``a_7.jpg`` it is ``a_7.png`` or ``7.png``. Means over
the pictures go to the standard output as JSON. The figure needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import latentpatch
from latentpatch.io.images import list_images, read_image, write_image
from latentpatch.methods.single_image.presets import task_settings
from latentpatch.ops.patch_nearest import levels, nearest_vectors
from latentpatch.ops.patches import extract_patches
from latentpatch.ops.wasserstein import sliced_wasserstein

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "gpnn": {"method": "gpnn"},
    "gpnn-original": {"settings": task_settings("reshuffle", preset="gpnn-original")},
    "gpnn-original, searched once at first": {
        "settings": task_settings("reshuffle", preset="gpnn-original").changed(coarsest_iterations=1)
    },
    "gpnn-published": {"settings": task_settings("reshuffle", preset="gpnn-published")},
    "small-pieces": {"settings": task_settings("reshuffle", preset="small-pieces")},
    "neighbors 1": {"neighbors": 1},
    "softness 8": {"softness": 8.0, "neighbors": 8},
    "softness 16": {"softness": 16.0, "neighbors": 16},
    "patches of 5": {"patch_size": 5},
}
SIDE, SAMPLES = 7, 800
NEAR = 2  # pixels between places that count as the same
AXES = {"contiguity": "contiguity", "completeness": "completeness", "in place": "in place, share"}


def measure(source: Tensor, result: Tensor) -> dict[str, float]:
    """Return how a result relates to its source, both ``(3, h, w)`` in [0, 1], by patches of 7 x 7.

    Coherence is the root mean square, in levels of 255, from patches of the result to their nearest ones of the source;
    completeness the same the other way round. In place and contiguity are shares of patches whose nearest one is where
    they are, and of pairs of neighbors whose nearest ones are neighbors. SWD is that of pixels in [-1, 1].
    """
    generator = torch.Generator().manual_seed(0)
    keys, made = (extract_patches(levels(each)[None], SIDE)[0] for each in (source, result))
    rows = torch.randint(made.shape[0], (SAMPLES,), generator=generator)
    columns = torch.randint(made.shape[1] - 1, (SAMPLES,), generator=generator)
    flat, own = keys.flatten(0, 1), made.flatten(0, 1)
    first, second = (nearest_vectors(made[rows, columns + step], flat) for step in (0, 1))
    one, two = (torch.stack([each.positions[:, 0] // keys.shape[1], each.positions[:, 0] % keys.shape[1]])
                for each in (first, second))  # fmt: skip
    back = nearest_vectors(flat[torch.randint(len(flat), (SAMPLES,), generator=generator)], own)
    length = flat.shape[1]
    step = torch.tensor([[0], [1]])
    near = (one - torch.stack([rows, columns])).abs().amax(0) <= NEAR
    return {
        "coherence": float((torch.cat([first.scores, second.scores]).mean() / length).sqrt()),
        "completeness": float((back.scores.mean() / length).sqrt()),
        "in place": float(near.float().mean()),
        "contiguity": float((two == one + step).all(0).float().mean()),
        "SWD": float(2 * sliced_wasserstein(source[None], result[None], side=SIDE)),
    }


def published(source: Path, folder: Path) -> Path:
    """Return the result of another program for a source."""
    for stem in (source.stem, source.stem.rpartition("_")[2]):
        if (folder / f"{stem}.png").exists():
            return folder / f"{stem}.png"
    raise SystemExit(f"{folder} has no result for {source.name}")


def rows_of(sources: list[Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the means over the pictures of each setting, and of results of other programs."""
    table: dict[str, dict[str, float]] = {}
    for name in options.settings:
        keywords = dict(SETTINGS[name])
        folder = options.output / f"{name.replace(',', '').replace(' ', '-')}-{options.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        figures, seconds = [], []
        for source in sources:
            picture, path = read_image(source), folder / f"{source.stem}.png"
            if not path.exists():
                start = time.process_time()
                made = latentpatch.reshuffle(picture, seed=options.seed, **keywords)
                seconds.append(time.process_time() - start)
                write_image(path, made.images[0])
            figures.append(measure(picture, read_image(path)))
        table[name] = means(figures) | ({"seconds": round(mean(seconds), 2)} if seconds else {})
        print(name, table[name], file=sys.stderr, flush=True)
    for name, folder in options.published:
        pairs = [(read_image(source), read_image(published(source, folder))) for source in sources]
        table[name] = means([measure(picture, result) for picture, result in pairs])
    return table


def means(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(mean(each[name] for each in figures), 4) for name in figures[0]}


def plot(table: dict[str, dict[str, float]], others: set[str], path: Path) -> None:
    """Draw coherence against each other figure, if matplotlib is installed."""
    try:
        import matplotlib
    except ImportError:
        print(f"{path} was not drawn: pip install matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(11, 4.2), sharey=True, layout="constrained")
    for panel, (key, label) in zip(panels, AXES.items(), strict=True):
        for number, (name, row) in enumerate(table.items()):
            kind = {"marker": "*", "s": 140} if name in others else {"marker": "o", "s": 34}
            panel.scatter(row[key], row["coherence"], color=f"C{number % 10}", label=name, **kind)
        panel.set(xlabel=label)
        panel.grid(alpha=0.3)
    panels[0].set(ylabel="coherence, levels of 255")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("frontier"))
    parser.add_argument("--published", nargs="+", action="extend", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--figure", type=Path, default=None)
    options = parser.parse_args()
    options.published = [
        (name, Path(folder)) for name, _, folder in (each.partition("=") for each in options.published)
    ]
    table = rows_of(list_images(options.pictures), options)
    print(json.dumps(table, indent=1))
    plot(table, {name for name, _ in options.published}, options.figure or options.output / "frontier.png")


if __name__ == "__main__":
    main()
