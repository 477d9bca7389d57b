"""Measure how much new samples help a classifier with few examples, beside the usual augmentations.

    python benchmarks/augmentation.py -o augmentation.json --digits
    python benchmarks/augmentation.py -o augmentation.json --pictures FOLDER --attributes FILE.csv --attribute gender

A small convolutional network is trained from scratch on a few examples of each class and tested on all other
pictures. The number of optimizer steps and of examples a step is the same for every augmentation. Every seed draws
its own examples and first weights, the same for all augmentations. The score is balanced accuracy: the mean over
classes of the share of correct answers. Intervals are Student's t over the seeds, differences are paired.

``ours`` draws one of a class' examples or, half of the time, one of POOL new pictures of that class
(:mod:`latentpatch.datasets`). Rows are written to the JSON file as they are computed: the same command resumes an
interrupted one. Needs ``pip install '.[bench]'``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentpatch.bank.attributes import read_attributes
from latentpatch.datasets import RecombinedSamples, fit_labelled
from latentpatch.io import images
from latentpatch.io.atomic import write_bytes

SIDE = 64  # pixels of the pictures of the network; digits have half of it
FINE_SIDE = 256  # pixels of the sources of new pictures
POOL = 128  # new pictures a class

Batch = tuple[Tensor, Tensor]  # images (N, 3, H, W) in [0, 1], probabilities of the classes (N, C)


@dataclass(frozen=True)
class Task:
    """A set of labelled pictures to classify.

    Attributes:
        name: name in the table.
        pictures: ``(N, 3, H, W)`` in [0, 1], the network's inputs.
        labels: ``(N,)`` int64.
        classes: names of the labels.
        autoencoder: name of the autoencoder for new pictures.
        load_fine: function of picture numbers that returns the sources of new pictures.
        can_flip: whether a mirrored picture has the same label.
    """

    name: str
    pictures: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    autoencoder: str
    load_fine: Callable[[Tensor], Tensor]
    can_flip: bool


def digits() -> Task:
    """Return the digits of scikit-learn (UCI ML hand-written digits): 8x8 pixels, each a latent cell."""
    from sklearn.datasets import load_digits

    dataset = load_digits()
    small = torch.from_numpy(dataset.images).float().div(16)[:, None].expand(-1, 3, -1, -1)
    pictures = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    names = tuple(map(str, range(10)))
    return Task("digits", pictures, torch.from_numpy(dataset.target), names, "pixels:4", pictures.__getitem__, False)


def portraits(folder: str, attributes: str, attribute: str, autoencoder: str) -> Task:
    """Return the pictures of a folder that have an attribute."""
    table = read_attributes(attributes)
    paths = images.list_images(folder)
    values = {path: table.get(path.stem, {}).get(attribute, "") for path in paths}
    paths = [path for path in paths if values[path]]
    if not paths:
        raise SystemExit(f"{folder}: no picture has the attribute {attribute!r} in {attributes}")
    names = tuple(sorted({values[path] for path in paths}))
    labels = torch.tensor([names.index(values[path]) for path in paths])

    def load_fine(numbers: Tensor) -> Tensor:
        return torch.stack([images.read_image(paths[int(i)], (FINE_SIDE, FINE_SIDE)) for i in numbers])

    pictures = torch.cat([shrink(load_fine(some)) for some in torch.arange(len(paths)).split(16)])
    return Task(attribute, pictures, labels, names, autoencoder, load_fine, True)


def shrink(pictures: Tensor) -> Tensor:
    """Shrink pictures to the size of the network's inputs."""
    return F.avg_pool2d(pictures, FINE_SIDE // SIDE) if pictures.shape[2] == FINE_SIDE else pictures


# --- augmentations -------------------------------------------------------------------------------------


def standard(batch: Tensor, can_flip: bool) -> Tensor:
    """Mirror, shift by up to a sixteenth of the side, change brightness and contrast by up to 20 %."""
    count, _, height, width = batch.shape
    most = height // 16
    padded = F.pad(batch, (most, most, most, most), mode="reflect")
    corners = torch.randint(2 * most + 1, (count, 2)).tolist()
    moved = torch.stack([each[:, y : y + height, x : x + width] for each, (y, x) in zip(padded, corners, strict=True)])
    if can_flip:
        moved = torch.where(torch.rand(count, 1, 1, 1) < 0.5, moved.flip(3), moved)
    contrast, brightness = (1 + 0.4 * (torch.rand(count, 1, 1, 1) - 0.5) for _ in range(2))
    mean = moved.mean((1, 2, 3), keepdim=True)
    return ((moved - mean) * contrast + mean * brightness).clamp(0, 1)


def mixup(batch: Batch) -> Batch:
    """Mix two examples and their labels by weighted means (Zhang et al. 2018, alpha = 0.2)."""
    pictures, targets = batch
    share = torch.distributions.Beta(0.2, 0.2).sample((len(pictures),))
    other = torch.randperm(len(pictures))
    weights = share[:, None, None, None]
    return (
        pictures * weights + pictures[other] * (1 - weights),
        targets * share[:, None] + targets[other] * (1 - share[:, None]),
    )


def new_pictures(task: Task, chosen: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Make POOL new pictures of each class; return them with their labels."""
    model = fit_labelled(task.load_fine(chosen), task.labels[chosen], task.autoencoder)
    count = len(task.classes)
    samples = RecombinedSamples(model, length=POOL * count, seed=seed, batch_size=32 * count, transform=_shrink_one)
    pictures, positions = zip(*samples, strict=True)
    labels = [int(samples.classes[position]) for position in positions]
    return torch.stack(pictures), torch.tensor(labels)


def _shrink_one(picture: Tensor) -> Tensor:
    return shrink(picture[None])[0]


METHODS = ("none", "standard", "mixup", "ours", "ours + standard")


def batches(task: Task, method: str, chosen: Tensor, pool: Batch | None, size: int) -> Callable[[], Batch]:
    """Return a function that draws a batch, as many of each class on average, and augments it."""
    examples, count = task.pictures[chosen], len(task.classes)
    own = [(task.labels[chosen] == label).nonzero()[:, 0] for label in range(count)]
    new = [] if pool is None else [(pool[1] == label).nonzero()[:, 0] for label in range(count)]

    def draw() -> Batch:
        labels = torch.randint(count, (size,))
        pictures = []
        for label in labels.tolist():
            if new and torch.rand(()) < 0.5:
                assert pool is not None
                pictures.append(pool[0][new[label][torch.randint(len(new[label]), ())]])
            else:
                pictures.append(examples[own[label][torch.randint(len(own[label]), ())]])
        batch = torch.stack(pictures), F.one_hot(labels, count).float()
        if method.endswith("standard"):
            return standard(batch[0], task.can_flip), batch[1]
        return mixup(batch) if method == "mixup" else batch

    return draw


# --- training ------------------------------------------------------------------------------------------


def network(classes: int) -> nn.Sequential:
    """Build four convolutions of some 60,000 weights."""
    widths = (3, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, classes))


def score(task: Task, draw: Callable[[], Batch], chosen: Tensor, steps: int, seed: int) -> float:
    """Train a network on batches of ``draw``; return its balanced accuracy on all but ``chosen``."""
    torch.manual_seed(seed)
    model = network(len(task.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        pictures, targets = draw()
        loss = F.cross_entropy(model(pictures - 0.5), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    held_out = torch.ones(len(task.labels), dtype=torch.bool)
    held_out[chosen] = False
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(some - 0.5).argmax(1) for some in task.pictures[held_out].split(256)])
    right, labels = answers == task.labels[held_out], task.labels[held_out]
    return float(torch.stack([right[labels == label].float().mean() for label in labels.unique()]).mean())


def few(task: Task, count: int, seed: int) -> Tensor:
    """Draw the numbers of ``count`` examples of each class."""
    rng = np.random.default_rng([seed, count])
    chosen = []
    for label, name in enumerate(task.classes):
        members = (task.labels == label).nonzero()[:, 0].numpy()
        if len(members) <= count:
            raise SystemExit(f"{task.name}={name}: needs more than {count} pictures, got {len(members)}")
        chosen.append(rng.permutation(members)[:count])
    return torch.from_numpy(np.concatenate(chosen))


# --- rows ----------------------------------------------------------------------------------------------


class Results:
    """Table rows in a JSON file, written whenever a row is added."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            earlier = json.loads(path.read_text())
            if earlier["settings"] != settings:
                raise SystemExit(f"{path}: made with {earlier['settings']}; give another file for {settings}")
            self.rows = earlier["rows"]

    def has(self, **key: Any) -> bool:
        """Return whether there is a row with these values."""
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and write the file."""
        self.rows.append(row)
        text = json.dumps({"settings": self.settings, "rows": self.rows}, indent=1)
        write_bytes(self.path, (text + "\n").encode())


def run(task: Task, results: Results, counts: list[int], seeds: int, steps: int, batch: int) -> None:
    """Compute the missing rows of a task."""
    for seed, count in itertools.product(range(seeds), counts):
        missing = [m for m in METHODS if not results.has(task=task.name, examples=count, seed=seed, method=m)]
        if not missing:
            continue
        chosen, start = few(task, count, seed), time.process_time()
        pool = new_pictures(task, chosen, seed) if any("ours" in method for method in missing) else None
        making = time.process_time() - start
        for method in missing:
            start = time.process_time()
            draw = batches(task, method, chosen, pool if "ours" in method else None, batch)
            accuracy = score(task, draw, chosen, steps, seed)
            row = {"task": task.name, "examples": count, "seed": seed, "method": method, "accuracy": accuracy}
            seconds = time.process_time() - start
            results.add({**row, "seconds": round(seconds, 1), "making": round(making, 1) if "ours" in method else 0.0})
            print(f"{task.name}, {count} a class, seed {seed}, {method}: {accuracy:.3f} ({seconds:.0f} s)", flush=True)


def interval(values: list[float]) -> str:
    """Format a mean and its 95 % interval."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Format the accuracy of each task and augmentation, and the gains, as Markdown."""
    accuracy = {(row["task"], row["examples"], row["method"], row["seed"]): row["accuracy"] for row in rows}
    counts, seeds = sorted({row["examples"] for row in rows}), sorted({row["seed"] for row in rows})
    lines = ["| task | augmentation | " + " | ".join(f"{count} a class" for count in counts) + " |"]
    lines.append("|---" * (len(counts) + 2) + "|")

    gains = [("ours", "none"), ("ours + standard", "standard")]
    for task, (one, other) in itertools.product(
        sorted({row["task"] for row in rows}), [*((m, "") for m in METHODS), *gains]
    ):
        cells = []
        for count in counts:
            values = [accuracy.get((task, count, one, seed)) for seed in seeds]
            others = [accuracy.get((task, count, other, seed)) if other else 0.0 for seed in seeds]
            both = [(x, y) for x, y in zip(values, others, strict=True) if x is not None and y is not None]
            cells.append(interval([x - y for x, y in both]) if both else "")
        name = f"*{one}, less {other}*" if other else one
        lines.append(f"| {task} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file, continued where it exists")
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--pictures", help="folder")
    parser.add_argument("--attributes", help="CSV file")
    parser.add_argument("--attribute", default="gender")
    parser.add_argument("--autoencoder", default="embedded", help="autoencoder of the pictures (embedded)")
    parser.add_argument("--examples", default="4,8,16,32", help="numbers of examples a class (4,8,16,32)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (200)")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    if not options.digits and not options.pictures:
        parser.error("--digits or --pictures must be given")
    if options.pictures and not options.attributes:
        parser.error("--pictures needs --attributes")
    settings = {"steps": options.steps, "batch": options.batch, "pool": POOL, "autoencoder": options.autoencoder}
    results = Results(options.output, settings)
    counts = [int(count) for count in options.examples.split(",")]
    tasks = [digits] if options.digits else []
    if options.pictures:
        tasks.append(lambda: portraits(options.pictures, options.attributes, options.attribute, options.autoencoder))
    for task in tasks:
        run(task(), results, counts, options.seeds, options.steps, options.batch)
    print(table(results.rows))


if __name__ == "__main__":
    main()
