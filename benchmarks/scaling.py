"""Measure how time and memory of the search grow with sources, images, patch size and grid.

    python benchmarks/scaling.py -o docs/images/scaling.png

Each point is measured in a process of its own, on random keys, S = 1 over a filled grid: the best of several searches
of a bank after a first one, and the peak of resident memory beside the bank, including the first search. Points are
written to a JSON file beside the figure. Slopes are those of a straight line through logarithms, fitted over the
points from ``--fit-from`` on: 1 is linear. The machine should be idle.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import peak_memory, reset_peak_memory

from latentpatch import RasterSettings
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.runs.benchmark import best_seconds, synthetic_keys

#: Values of a point on the axes that do not vary.
POINT = {"sources": 1000, "images": 16, "patch_size": 6, "grid": 16}
AXES: dict[str, tuple[str, list[int]]] = {
    "sources": ("sources, B", [16, 64, 250, 1000, 3000, 10_000, 30_000, 100_000, 300_000]),
    "images": ("images, n", [1, 2, 4, 8, 16, 32, 64]),
    "patch_size": ("patch size, ω", [2, 3, 4, 5, 6, 8, 10, 12]),
    "grid": ("side of the grid, cells", [8, 12, 16, 24, 32, 48]),
}
COMPONENTS = 16


def measure(sources: int, images: int, patch_size: int, grid: int) -> dict[str, float]:
    """Measure the seconds of one search, and the bytes of memory beside the bank."""
    cells = (grid, grid)
    small = synthetic_keys(4, cells, COMPONENTS)
    settings = RasterSettings(patch_size, stride=2, neighbors=3, scales=1)
    noise = noise_from_seeds(range(images), raster_steps(cells, settings, True))
    reference = synthetic_keys(images, cells, COMPONENTS, seed=1)
    raster(small, noise, settings, reference)  # compiles and loads everything that first use needs
    keys = synthetic_keys(sources, cells, COMPONENTS)
    before = reset_peak_memory()
    prepared = PreparedSources(keys)
    raster(prepared, noise, settings, reference)
    seconds = best_seconds(lambda: raster(prepared, noise, settings, reference), keys.device)
    return {"seconds": seconds, "memory": max(0, peak_memory() - before)}


def slope(points: list[dict[str, Any]], axis: str, quantity: str, least: float) -> float:
    """Fit the slope of log quantity over log axis, to points from ``least`` on."""
    chosen = [(point[axis], point[quantity]) for point in points if point[axis] >= least and point[quantity] > 0]
    if len(chosen) < 2:
        return float("nan")
    x, y = np.log(np.array(chosen, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])


def plot(curves: dict[str, list[dict[str, Any]]], slopes: dict[str, dict[str, float]], path: Path, title: str) -> None:
    """Draw seconds and memory over each axis."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(2, len(curves), figsize=(4 * len(curves), 7), squeeze=False, layout="constrained")
    for column, (axis, points) in enumerate(curves.items()):
        x = [point[axis] for point in points]
        for pane, quantity, unit, label in (
            (panes[0][column], "seconds", 1.0, "seconds a search"),
            (panes[1][column], "memory", 1e-6, "MB beside the bank"),
        ):
            y = [unit * point[quantity] for point in points]
            pane.loglog(x, y, "o-", label=f"slope {slopes[axis][quantity]:.2f}")
            pane.set(xlabel=AXES[axis][0], ylabel=label)
            pane.set_xticks(x, [str(value) for value in x], rotation=45)
            pane.xaxis.minorticks_off()
            # At least a decade, so that noise does not look like growth.
            middle = (min(y) * max(y)) ** 0.5
            pane.set_ylim(min(*y, middle / 3) / 1.3, max(*y, middle * 3) * 1.3)
            pane.grid(alpha=0.3)
            pane.legend()
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/scaling.png"))
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--values", nargs="+", type=int, help="values of one of --axes, instead of its own")
    parser.add_argument(
        "--fit-from", type=int, default=1000, help="number of sources from which the slope over B is fitted"
    )
    parser.add_argument("--no-figure", action="store_true", help="write the JSON file alone")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(**json.loads(options.point))))
        return
    if options.values and len(options.axes) != 1:
        parser.error("--values needs exactly one of --axes")
    curves: dict[str, list[dict[str, Any]]] = {}
    for axis in options.axes:
        curves[axis] = []
        for value in options.values or AXES[axis][1]:
            point = {**POINT, axis: value}
            command = [sys.executable, __file__, "--point", json.dumps(point)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            curves[axis].append({**point, **found})
            print(f"{axis} {value}: {found['seconds']:.4f} s, {found['memory'] / 1e6:.0f} MB", file=sys.stderr)
    slopes = {
        axis: {
            quantity: slope(points, axis, quantity, options.fit_from if axis == "sources" else 0)
            for quantity in ("seconds", "memory")
        }
        for axis, points in curves.items()
    }
    title = f"S = 1, w = 2, k = 3, r = {COMPONENTS}; {torch.get_num_threads()} threads, torch {torch.__version__}"
    report = {"what": title, "points": curves, "slopes": slopes}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not options.no_figure:
        plot(curves, slopes, options.output, title)


if __name__ == "__main__":
    main()
