"""Whether new samples help a classifier that has few examples, beside the usual augmentations.

    python benchmarks/augmentation.py -o augmentation.json --digits
    python benchmarks/augmentation.py -o augmentation.json --pictures FOLDER --attributes FILE.csv --attribute gender

A small convolutional network is trained from scratch on a few examples of each class, with the same number of optimiser
steps and examples a step whatever the augmentation, and tested on all other pictures. Examples and first weights are
drawn anew by every seed, and are the same for all augmentations. The score is balanced accuracy, the mean over classes
of the share that is right. Intervals are Student's t over the seeds, differences are paired.

``ours`` gives a class' examples or, half of the time, one of POOL new pictures of that class
(:mod:`latentpatch.datasets`). Rows are kept in the JSON file as they are computed: the same command goes on where it
was interrupted. Needs ``pip install latentpatch[bench]``.
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

SIDE = 64  # of the pictures the network sees; digits have half of it
FINE = 256  # of those new ones are made from
POOL = 128  # new pictures a class

Batch = tuple[Tensor, Tensor]  # images (N, 3, H, W) in [0, 1], probabilities of the classes (N, C)


@dataclass(frozen=True)
class Task:
    """Pictures to be classified.

    Attributes:
        name: of the task.
        pictures: ``(N, 3, H, W)`` in [0, 1], what the network sees.
        labels: ``(N,)`` int64.
        classes: their names.
        autoencoder: that new pictures are made with.
        fine: pictures of given numbers, as new ones are made from them.
        flips: whether a mirrored picture has the same label.
    """

    name: str
    pictures: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    autoencoder: str
    fine: Callable[[Tensor], Tensor]
    flips: bool


def digits() -> Task:
    """The digits of scikit-learn (UCI ML hand-written digits), 8x8 pixels, each of them a latent cell."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.from_numpy(found.images).float().div(16)[:, None].expand(-1, 3, -1, -1)
    pictures = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    names = tuple(map(str, range(10)))
    return Task("digits", pictures, torch.from_numpy(found.target), names, "pixels:4", pictures.__getitem__, False)


def portraits(folder: str, attributes: str, attribute: str, autoencoder: str) -> Task:
    """Pictures of a folder that have an attribute."""
    known = read_attributes(attributes)
    paths = images.list_images(folder)
    named = {path: known.get(path.stem, {}).get(attribute, "") for path in paths}
    paths = [path for path in paths if named[path]]
    if not paths:
        raise SystemExit(f"{folder}: no picture has the attribute {attribute!r} in {attributes}")
    names = tuple(sorted({named[path] for path in paths}))
    labels = torch.tensor([names.index(named[path]) for path in paths])

    def fine(numbers: Tensor) -> Tensor:
        return torch.stack([images.read_image(paths[int(i)], (FINE, FINE)) for i in numbers])

    pictures = torch.cat([shrunk(fine(some)) for some in torch.arange(len(paths)).split(16)])
    return Task(attribute, pictures, labels, names, autoencoder, fine, True)


def shrunk(pictures: Tensor) -> Tensor:
    """Pictures as the network sees them."""
    return F.avg_pool2d(pictures, FINE // SIDE) if pictures.shape[2] == FINE else pictures


# --- augmentations -------------------------------------------------------------------------------------


def standard(batch: Tensor, flips: bool) -> Tensor:
    """Mirrored, shifted by up to a sixteenth of the side, brightness and contrast changed by up to 20 %."""
    count, _, height, width = batch.shape
    most = height // 16
    padded = F.pad(batch, (most, most, most, most), mode="reflect")
    corners = torch.randint(2 * most + 1, (count, 2)).tolist()
    moved = torch.stack([each[:, y : y + height, x : x + width] for each, (y, x) in zip(padded, corners, strict=True)])
    if flips:
        moved = torch.where(torch.rand(count, 1, 1, 1) < 0.5, moved.flip(3), moved)
    contrast, brightness = (1 + 0.4 * (torch.rand(count, 1, 1, 1) - 0.5) for _ in range(2))
    mean = moved.mean((1, 2, 3), keepdim=True)
    return ((moved - mean) * contrast + mean * brightness).clamp(0, 1)


def mixup(batch: Batch) -> Batch:
    """Weighted means of two examples and of their labels (Zhang et al. 2018, alpha = 0.2)."""
    pictures, targets = batch
    share = torch.distributions.Beta(0.2, 0.2).sample((len(pictures),))
    other = torch.randperm(len(pictures))
    weights = share[:, None, None, None]
    return (
        pictures * weights + pictures[other] * (1 - weights),
        targets * share[:, None] + targets[other] * (1 - share[:, None]),
    )


def new_pictures(task: Task, chosen: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """POOL new pictures of each class, and their labels."""
    model = fit_labelled(task.fine(chosen), task.labels[chosen], task.autoencoder)
    count = len(task.classes)
    samples = RecombinedSamples(model, length=POOL * count, seed=seed, batch_size=32 * count, transform=_shrunk)
    made, positions = zip(*samples, strict=True)
    labels = [int(samples.classes[position]) for position in positions]
    return torch.stack(made), torch.tensor(labels)


def _shrunk(picture: Tensor) -> Tensor:
    return shrunk(picture[None])[0]


METHODS = ("none", "standard", "mixup", "ours", "ours + standard")


def batches(task: Task, method: str, chosen: Tensor, pool: Batch | None, size: int) -> Callable[[], Batch]:
    """Draws examples, as many of each class on average, and augments them."""
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
            return standard(batch[0], task.flips), batch[1]
        return mixup(batch) if method == "mixup" else batch

    return draw


# --- training ------------------------------------------------------------------------------------------


def network(classes: int) -> nn.Sequential:
    """Four convolutions, some 60,000 weights."""
    widths = (3, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, classes))


def score(task: Task, draw: Callable[[], Batch], chosen: Tensor, steps: int, seed: int) -> float:
    """Balanced accuracy on what was not chosen, of a network trained on what is drawn."""
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
        found = torch.cat([model(some - 0.5).argmax(1) for some in task.pictures[held_out].split(256)])
    right, labels = found == task.labels[held_out], task.labels[held_out]
    return float(torch.stack([right[labels == label].float().mean() for label in labels.unique()]).mean())


def few(task: Task, count: int, seed: int) -> Tensor:
    """Numbers of ``count`` examples of each class."""
    generator = np.random.default_rng([seed, count])
    chosen = []
    for label, name in enumerate(task.classes):
        members = (task.labels == label).nonzero()[:, 0].numpy()
        if len(members) <= count:
            raise SystemExit(f"{task.name}={name}: more than {count} pictures are expected, got {len(members)}")
        chosen.append(generator.permutation(members)[:count])
    return torch.from_numpy(np.concatenate(chosen))


# --- rows ----------------------------------------------------------------------------------------------


class Results:
    """Rows in a JSON file, written whenever one is added."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["settings"] != settings:
                raise SystemExit(f"{path}: made with {stored['settings']}; another file is expected for {settings}")
            self.rows = stored["rows"]

    def has(self, **key: Any) -> bool:
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        text = json.dumps({"settings": self.settings, "rows": self.rows}, indent=1)
        write_bytes(self.path, (text + "\n").encode())


def run(task: Task, results: Results, counts: list[int], seeds: int, steps: int, batch: int) -> None:
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
    """Mean and its 95 % interval."""
    from scipy.stats import t

    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each task and augmentation, and how far each is from the usual one."""
    accuracy = {(row["task"], row["examples"], row["method"], row["seed"]): row["accuracy"] for row in rows}
    counts, seeds = sorted({row["examples"] for row in rows}), sorted({row["seed"] for row in rows})
    lines = ["| task | augmentation | " + " | ".join(f"{count} a class" for count in counts) + " |"]
    lines.append("|---" * (len(counts) + 2) + "|")

    def line(task: str, name: str, values: Callable[[int], list[float]]) -> None:
        cells = [interval(found) if (found := values(count)) else "" for count in counts]
        lines.append(f"| {task} | {name} | {' | '.join(cells)} |")

    for task in sorted({row["task"] for row in rows}):
        for method in METHODS:
            line(
                task,
                method,
                lambda c, t=task, m=method: [accuracy[t, c, m, s] for s in seeds if (t, c, m, s) in accuracy],
            )
        for one, other in (("ours", "none"), ("ours + standard", "standard")):

            def gain(count: int, task: str = task, one: str = one, other: str = other) -> list[float]:
                pairs = [((task, count, one, seed), (task, count, other, seed)) for seed in seeds]
                return [accuracy[a] - accuracy[b] for a, b in pairs if a in accuracy and b in accuracy]

            line(task, f"*{one}, less {other}*", gain)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file, gone on with where it exists")
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--pictures", help="folder")
    parser.add_argument("--attributes", help="CSV file")
    parser.add_argument("--attribute", default="gender")
    parser.add_argument("--autoencoder", default="embedded", help="of the pictures (embedded)")
    parser.add_argument("--examples", default="4,8,16,32", help="of each class (4,8,16,32)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of the optimiser (200)")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    if not options.digits and not options.pictures:
        parser.error("--digits or --pictures is expected")
    if options.pictures and not options.attributes:
        parser.error("--attributes is expected with --pictures")
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
