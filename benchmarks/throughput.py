"""Time whole commands beside their heart: fitting on files, starting, and writing many pictures in each format.

    python benchmarks/throughput.py [--against CHECKOUT OR REVISION] [--sources PICTURES] [--rounds 1] [--json]

Whole processes take turns, of this checkout and of another one, such as the version before a change: ``import torch``,
sixteen pictures, many pictures, and one that runs commands in turn with ``LatentPatch.generate`` and with decoding
alone. There "a further one" is the difference of two commands, over that of their pictures or files. Ratios are medians
of those of each turn, two a round; seconds are the best. Where other programs run, compare seconds of processors with
one thread (``OMP_NUM_THREADS=1``), not of the clock. Fits are in bfloat16 where the processor has it. A round takes
about 70 s of a processor.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from latentpatch.io.listing import list_images
from latentpatch.runs.benchmark import hardware, versions
from latentpatch.runs.system import slowness

ROOT = Path(__file__).resolve().parent.parent
START, MANY = 16, 160  # pictures of a run that is mostly its start, and of one that is not
FEWER, FURTHER = 64, 48  # pictures of a command, as many as its sheets show, and those that another one has more
FILES = 16  # files of the shorter fit
FORMATS = {"png": (), "webp": ("--format", "webp"), "jpeg": ("--format", "jpeg")}
PRECISION = "float32" if slowness("bfloat16", torch.device("cpu")) else "bfloat16"  # the precision of the fits
KINDS = ("clock", "processors")
INNER = """
import json, runpy, sys, time
import torch
from latentpatch import LatentPatch
from latentpatch.runs.system import keep_freed_memory
keep_freed_memory()
model, further, commands = LatentPatch.load(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
latents = model.bank.latents[torch.arange(16) % len(model.bank)].movedim(-1, 1).float()
def run(command):
    sys.argv = ["latentpatch", *command]
    try:
        runpy.run_module("latentpatch", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
def seconds(call, times=1):
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        call()
    return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times
def decode():
    with torch.inference_mode():
        model.autoencoder.decode(latents)
def turn(times):
    found = {name: seconds(lambda: run(command)) for name, command in commands.items()}
    pairs = [(seconds(lambda: model.generate(16)), seconds(decode)) for _ in range(times)]
    for number, name in enumerate(("model", "decode")):
        found[name] = [sum(pair[number][kind] for pair in pairs) / times / 16 for kind in (0, 1)]
    return found
for name, command in commands.items():
    run([*command[:-1], "16"] if "-n" in command else command)
model.generate(16)
print(json.dumps([turn(further // 16) for _ in range(2)]))
"""

Seconds = tuple[float, float]
Turn = dict[str, Seconds]


def seconds_of(checkout: Path, *command: object) -> tuple[Seconds, str]:
    """Run Python in a checkout; return its seconds by the clock and of processors, and its output."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, check=True, stdout=subprocess.PIPE, text=True,
        cwd=tempfile.gettempdir(),  # or the package of the current folder would come first
    )  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


def turns(checkout: Path, folder: Path, has_all: bool) -> list[Turn]:
    """Run every command in a checkout; return the seconds of two turns, the start's in both."""
    model = str(folder / "model.safetensors")
    generate = ("generate", model, "-q", "-o", str(folder / "out"))
    whole = {
        "import torch": seconds_of(checkout, "-c", "import torch")[0],
        "start": seconds_of(checkout, "-m", "latentpatch", *generate, "-n", START)[0],
        "many": seconds_of(checkout, "-m", "latentpatch", *generate, "-n", MANY)[0],
    }
    commands: dict[str, tuple[str, ...]] = {}
    for name in FORMATS if has_all else ("png",):
        for label, count in ((name, FEWER + FURTHER), (f"{name}, fewer", FEWER)):
            commands[label] = (*generate, *FORMATS[name], "-n", str(count))
    for label in ("fit", "fit, fewer") if has_all else ():
        place, file = str(folder / label), str(folder / "other.safetensors")
        commands[label] = ("fit", place, "--precision", PRECISION, "-q", "-o", file)
    inner = json.loads(seconds_of(checkout, "-c", INNER, model, FURTHER, json.dumps(commands))[1])
    return [{**whole, **each} for each in inner]


def prepare(checkout: Path, folder: Path, pictures: list[Path]) -> None:
    """Fit the model in a checkout, and choose the files of further fits."""
    for label, count in (("fit", FILES + FURTHER), ("fit, fewer", FILES)):
        (folder / label).mkdir(parents=True)
        for path in pictures[:count]:
            (folder / label / path.name).symlink_to(path)
    seconds_of(checkout, "-m", "latentpatch", "fit", pictures[0].parent, "-q", "-o", folder / "model.safetensors")


def figures(found: list[Turn], kind: int) -> dict[str, float]:
    """Return the best seconds and the medians of ratios, by the clock (0) or of processors (1)."""
    rows = [{name: seconds[kind] for name, seconds in each.items()} for each in found]
    best = {name: min(row[name] for row in rows) for name in rows[0]}

    def middle(ratio: Callable[[dict[str, float]], float]) -> float:
        return median(ratio(row) for row in rows)

    report = {
        "import torch, s": best["import torch"],
        f"{START} pictures, s": best["start"],
        f"{START} pictures, times import torch": middle(lambda row: row["start"] / row["import torch"]),
        f"{MANY} pictures to PNG, s": best["many"],
        "model, pictures a second": 1 / best["model"],
        "model, times decoding alone": middle(lambda row: row["model"] / row["decode"]),
    }
    for name in [name for name in (*FORMATS, "fit") if name in best]:

        def further(row: dict[str, float], name: str = name) -> float:
            return (row[name] - row[f"{name}, fewer"]) / FURTHER

        report[f"{name}: a further one, ms"] = 1e3 * middle(further)
        report[f"{name}: of the model's own rate"] = middle(lambda row, further=further: row["model"] / further(row))  # type: ignore[misc]
    return {name: round(value, 3) for name, value in report.items()}


def checkout_of(against: str, folder: Path) -> Path:
    """Return the folder of another checkout, or write a revision of this one to a folder."""
    if Path(against).is_dir():
        return Path(against).resolve()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", against], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", help="another checkout or a revision, which only starts, makes and writes PNG")
    parser.add_argument("--all", action="store_true", help="fit and write all formats there, too")
    parser.add_argument("--sources", type=Path, default=ROOT / "examples" / "portraits")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pictures = list_images(options.sources.resolve())
    if len(pictures) < FILES + FURTHER:
        parser.error(f"--sources must be at least {FILES + FURTHER} pictures, got {len(pictures)}")
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {"here": ROOT}
        if options.against is not None:
            checkouts["against"] = checkout_of(options.against, Path(folder, "checkout"))
        for name, checkout in checkouts.items():
            prepare(checkout, Path(folder, name), pictures)
        found: dict[str, list[Turn]] = {name: [] for name in checkouts}
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                found[name] += turns(checkout, Path(folder, name), name == "here" or options.all)
    report: dict[str, Any] = {
        name: {kind: figures(rows, number) for number, kind in enumerate(KINDS)} for name, rows in found.items()
    }
    report["machine"] = hardware(torch.device("cpu")) | versions() | {"fit": PRECISION}
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for kind in KINDS:
        print(f"\n{kind:<48}" + "".join(f"{name:>12}" for name in checkouts))
        for label in report["here"][kind]:
            print(
                f"{label:<48}" + "".join(f"{report[name][kind].get(label, float('nan')):>12.3f}" for name in checkouts)
            )
    print(json.dumps(report["machine"]))


if __name__ == "__main__":
    main()
