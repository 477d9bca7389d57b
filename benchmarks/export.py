"""Time a model eager, compiled and exported, by turns, as ratios in one run.

    python benchmarks/export.py [SOURCES] [--forms eager compile pt2 aoti onnx] [-n 16] [--rounds 9] [--json FILE]

Every form makes the same pictures from the same noise; the table shows differences. Each round times all forms once,
one after the other, so that a slow moment of the machine hits all of them; a ratio is the median over the rounds of
the seconds of eager over those of the form. A form that this machine cannot make is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import take_turns
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.export.formats import export
from latentpatch.methods.latent.presets import DEFAULT_PRESET, PRESETS
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.registry import settings_record
from latentpatch.runs.benchmark import hardware, versions

Form = Callable[[Tensor], Any]

PORTRAITS = Path(__file__).parent.parent / "examples" / "portraits"
FORMS = ("eager", "compile", "pt2", "aoti", "onnx")


def make(name: str, model: LatentPatch, folder: Path, threads: int) -> Form:
    """Make a form: noise ``(N, noise_dim)`` -> images, and the index map beside them where exported."""
    if name == "eager":
        return model
    if name == "compile":
        return torch.compile(model)
    export(model, folder, name, only=("generate",))
    if name == "pt2":
        return torch.export.load(folder / "generate.pt2").module()
    if name == "aoti":
        return torch._inductor.aoti_load_package(str(folder / "generate.pt2"))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(folder / "generate.onnx"), options, providers=onnxruntime.get_available_providers()
    )
    return lambda noise: tuple(map(torch.from_numpy, session.run(None, {"noise": noise.numpy()})))


def try_form(name: str, model: LatentPatch, folder: Path, noise: Tensor) -> tuple[Form | None, dict[str, Any]]:
    """Make a form and call it once; describe both, or the reason why it cannot be made."""
    start = time.perf_counter()
    try:
        form = make(name, model, folder, torch.get_num_threads())
        result = form(noise)
    except Exception as error:  # such as a missing compiler
        return None, {"form": name, "reason": str(error).strip().splitlines()[0]}
    seconds = time.perf_counter() - start
    images, index = result if isinstance(result, tuple | list) else (result, None)
    return form, {
        "form": name,
        "made_in": round(seconds, 1),
        "bytes": sum(file.stat().st_size for file in folder.glob("generate.*")) or None,
        "cells_equal": None if index is None else float((index == model.search(noise)).double().mean()),
        "levels_apart": float((images - model(noise)).abs().max() * 255),
    }


def measure(model: LatentPatch, names: list[str], noise: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Measure every form."""
    with tempfile.TemporaryDirectory() as temporary:
        both = [try_form(name, model, Path(temporary) / name, noise) for name in names]
        forms = {row["form"]: form for form, row in both if form is not None}
        rivals = {name: lambda form=form: form(noise) for name, form in forms.items()}
        times = take_turns(rivals, rounds, warmups=0)
    rows = [row for _, row in both]
    for row in rows:
        seconds = times.get(row["form"])
        if seconds:
            ratios = [eager / own for eager, own in zip(times["eager"], seconds, strict=True)]
            row |= {"seconds": statistics.median(seconds), "seconds_best": min(seconds)}
            row |= {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}
    return rows


def table(report: dict[str, Any]) -> str:
    """Format a report as Markdown."""
    machine = report["hardware"]
    lines = [
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, load {machine['load']}",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"{report['images']} images of {report['sources']} sources, {report['autoencoder']}, preset {report['preset']}",
        "",
        "| form | ms | images/s | against eager (range) | same cells | levels apart | made in, s | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["forms"]:
        if "reason" in row:
            lines.append(f"| {row['form']} | not made: {row['reason']} | | | | | | |")
            continue
        low, high = row["ratio_range"]
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        cells = "" if row["cells_equal"] is None else f"{100 * row['cells_equal']:g} %"
        lines.append(
            f"| {row['form']} | {1000 * row['seconds']:.0f} | {report['images'] / row['seconds']:.1f} "
            f"| {row['ratio']:.2f} ({low:.2f}-{high:.2f}) | {cells} "
            f"| {row['levels_apart']:.4f} | {row['made_in']:.1f} | {size} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="?", default=PORTRAITS, help="folder (examples/portraits)")
    parser.add_argument("--autoencoder", default="embedded", metavar="NAME[:PATH]")
    parser.add_argument("--preset", choices=tuple(PRESETS), default=DEFAULT_PRESET)
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS[1:], default=FORMS[1:], help="forms to compare with eager (all)"
    )
    parser.add_argument("-n", type=int, default=16, help="images in a batch (16)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file, too")
    options = parser.parse_args()
    model = LatentPatch(options.autoencoder, settings=PRESETS[options.preset]).fit(options.sources).eval()
    noise = noise_from_seeds(range(options.n), model.noise_dim)
    with torch.no_grad():
        rows = measure(model, ["eager", *options.forms], noise, options.rounds)
    report = {
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "images": options.n,
        "sources": len(model.bank),
        "autoencoder": model.autoencoder.spec.name,
        "preset": options.preset,
        "settings": settings_record(model.settings),
        "forms": rows,
    }
    print(table(report))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(any("reason" in row for row in rows))


if __name__ == "__main__":
    main()
