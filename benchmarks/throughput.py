"""Time whole commands beside their heart: fitting on files, starting, and writing many pictures in each format.

    python benchmarks/throughput.py [--against CHECKOUT] [--sources PICTURES] [-n 400] [--rounds 3] [--json]

Every figure is of whole processes, which take turns: those of this checkout, and those of another one, such as the
version before a change. "A further picture" is the difference of two runs, of all pictures and of a quarter, over their
number, and "of the model's own rate" compares it with ``LatentPatch.generate`` in a process without files. Where other
programs run, compare seconds of processors with one thread (``OMP_NUM_THREADS=1``), not of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from latentpatch.runs.benchmark import hardware, versions

ROOT = Path(__file__).resolve().parent.parent
START = 16  # pictures of a run that is mostly its start
FORMATS = {"png": (), "webp": ("--format", "webp"), "jpeg": ("--format", "jpeg")}
OWN = """
import sys, time
from latentpatch import LatentPatch
from latentpatch.runs.system import keep_freed_memory
keep_freed_memory()
model, n = LatentPatch.load(sys.argv[1]), int(sys.argv[2])
model.generate(16)
wall, cpu = time.perf_counter(), time.process_time()
for seed in range(0, n, 16):
    model.generate(16, seed=seed)
print((time.perf_counter() - wall) / n, (time.process_time() - cpu) / n)
"""

Seconds = tuple[float, float]


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


def turn(checkout: Path, folder: Path, sources: Path, n: int, formats: list[str]) -> dict[str, Seconds]:
    """Run every command once in a checkout."""
    model, command = folder / "model.safetensors", ("-m", "latentpatch")
    found = {"import torch": seconds_of(checkout, "-c", "import torch")[0]}
    quick = ("--precision", "bfloat16")
    found["fit, bfloat16"] = seconds_of(checkout, *command, "fit", sources, *quick, "-q", "-o", model)[0]
    found["fit"] = seconds_of(checkout, *command, "fit", sources, "-q", "-o", model)[0]
    wall, cpu = seconds_of(checkout, "-c", OWN, model, n)[1].split()
    found["model"] = (float(wall), float(cpu))
    generate = (*command, "generate", model, "-q", "-o", folder / "out")
    found["start"] = seconds_of(checkout, *generate, "-n", START)[0]
    for name in formats:
        found[name] = seconds_of(checkout, *generate, "-n", n, *FORMATS[name])[0]
        found[f"{name}, fewer"] = seconds_of(checkout, *generate, "-n", n // 4, *FORMATS[name])[0]
    return found


def figures(turns: list[dict[str, Seconds]], n: int, num_sources: int, kind: int) -> dict[str, float]:
    """Return the figures of the best turns, by the clock (0) or of processors (1)."""
    best = {name: min(each[name][kind] for each in turns) for name in turns[0]}
    report = {
        "import torch, s": best["import torch"],
        f"{START} pictures, s": best["start"],
        f"{START} pictures, times import torch": best["start"] / best["import torch"],
        f"fit of {num_sources} files, s": best["fit"],
        "fit, files a second, without the import": num_sources / (best["fit"] - best["import torch"]),
        f"fit of {num_sources} files in bfloat16, s": best["fit, bfloat16"],
        "fit in bfloat16, files a second, without the import": num_sources
        / (best["fit, bfloat16"] - best["import torch"]),
        "model, pictures a second": 1 / best["model"],
    }
    for name in set(best) & set(FORMATS):
        further = (best[name] - best[f"{name}, fewer"]) / (n - n // 4)
        report[f"{name}: {n} pictures, s"] = best[name]
        report[f"{name}: a further picture, ms"] = 1e3 * further
        report[f"{name}: of the model's own rate"] = best["model"] / further
    return {name: round(value, 3) for name, value in sorted(report.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout, which writes PNG only unless --all-formats")
    parser.add_argument("--all-formats", action="store_true", help="of the other checkout, too")
    parser.add_argument("--sources", type=Path, default=ROOT / "examples" / "portraits")
    parser.add_argument("-n", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from latentpatch.io.listing import list_images

    num_sources, checkouts = len(list_images(options.sources)), {"here": ROOT}
    if options.against is not None:
        checkouts["against"] = options.against.resolve()
    turns: dict[str, list[dict[str, Seconds]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):  # the first one compiles
            for name, checkout in checkouts.items():
                place = Path(folder, name)
                place.mkdir(exist_ok=True)
                formats = list(FORMATS) if name == "here" or options.all_formats else ["png"]
                if number:
                    turns[name].append(turn(checkout, place, options.sources.resolve(), options.n, formats))
                else:
                    turn(checkout, place, options.sources.resolve(), 4 * START, ["png"])
    report: dict[str, Any] = {
        name: {kind: figures(found, options.n, num_sources, k) for k, kind in enumerate(("clock", "processors"))}
        for name, found in turns.items()
    }
    report["machine"] = hardware(torch.device("cpu")) | versions()
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for kind in ("clock", "processors"):
        print(f"\n{kind:<48}" + "".join(f"{name:>12}" for name in checkouts))
        for label in report["here"][kind]:
            print(
                f"{label:<48}" + "".join(f"{report[name][kind].get(label, float('nan')):>12.3f}" for name in checkouts)
            )
    print(json.dumps(report["machine"]))


if __name__ == "__main__":
    main()
