"""Quality and copying of generated images against held-out ones, the paper's protocol at small scale.

    python benchmarks/quality.py SOURCES HOLDOUT --yardstick FILE.py --autoencoder taef2 embedded -o DIR

SOURCES and HOLDOUT are whatever the command line takes for sources. The yardstick is a Python file with a
network ``MobileNetV1()`` and functions ``embed(images, network)``, ``fd(features, features)`` and
``pair_distance(images, network)``; its figures compare runs made with the same file only. Results come as
JSON lines (``DIR/quality.jsonl``; rows already there are not run again) and as a Markdown table
(``DIR/quality.md``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from latentpatch import LatentPatch, RasterSettings
from latentpatch.images import list_images, read_image

SETTINGS = ("patch_size", "stride", "neighbours", "scales", "start_size")
TABLES: dict[str, list[dict[str, Any]]] = {
    "main": [
        {"name": "sources, reconstructed", "kind": "sources"},
        {"name": "raster (default)", "kind": "raster"},
        {"name": "raster, unproject", "kind": "raster", "decoding": "unproject"},
        {"name": "random patches", "kind": "random-patches"},
        {"name": "random cells", "kind": "random-cells"},
    ],
    "reconstruction": [
        {"name": "held-out, reconstructed", "kind": "held-out"},
        {"name": "held-out, reconstructed through the PCA", "kind": "held-out", "reduced": True},
    ],
    "generation": [
        {"name": "raster (default)", "kind": "raster"},
        {"name": "raster, unproject", "kind": "raster", "decoding": "unproject"},
    ],
    "patch": [{"name": f"patch_size {p}", "kind": "raster", "patch_size": p} for p in (2, 3, 4, 5, 6, 7, 8, 10)],
    "stride": [{"name": f"stride {w}", "kind": "raster", "stride": w} for w in (1, 2, 3, 4, 6)],
    "neighbours": [{"name": f"neighbours {k}", "kind": "raster", "neighbours": k} for k in (1, 2, 3, 5, 10, 20)],
    "scales": [{"name": f"scales {s}", "kind": "raster", "scales": s} for s in (1, 2, 3, 5, 7)],
    "sources": [{"name": f"B = {b}", "kind": "raster", "sources": b} for b in (16, 32, 64, 128, 256, 500)],
    "table1": [{"name": "S = 1, k = 10 (table 1)", "kind": "raster", "scales": 1, "neighbours": 10}],
}


def load_yardstick(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("yardstick", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fitted(name: str, options: argparse.Namespace) -> LatentPatch:
    """A model of all sources, kept in the output folder."""
    path = options.output / f"{name.partition(':')[0]}.safetensors"
    if path.exists():
        return LatentPatch.load(path, name)
    model = LatentPatch(name).fit(options.sources, progress=True)
    model.save(path)
    return model


def make(row: dict[str, Any], model: LatentPatch, held_out: Tensor, samples: int, seed: int) -> tuple[Tensor, dict]:
    """Images of one row and seed, and the other figures."""
    chance = torch.Generator().manual_seed(seed)
    if row["kind"] == "held-out":
        result = model.reconstruct(held_out, reduced=row.get("reduced", False))
        error = (result - held_out).square().mean((1, 2, 3))
        return result, {"psnr": float((-10 * error.log10()).mean())}
    if row["kind"] == "sources":
        chosen = torch.randperm(len(model.bank), generator=chance)[:samples]
        return model.decode(chosen[:, None, None].expand(-1, *model.bank.grid)), {"largest_share": 1.0, "sources": 1.0}
    where = None
    if row.get("sources", len(model.bank)) < len(model.bank):
        kept = set(torch.randperm(len(model.bank), generator=chance)[: row["sources"]].tolist())
        model.bank.attributes = [{"kept": "yes" if b in kept else "no"} for b in range(len(model.bank))]
        where = "kept=yes"
    changes = {name: row[name] for name in SETTINGS if name in row}
    result = model.generate(
        samples,
        seed=seed * samples,
        sampler=row["kind"],
        settings=RasterSettings(**changes) if row["kind"] == "raster" else None,
        where=where,
        decoding=row.get("decoding", "gather"),
    )
    shares = result.shares()
    return result.images, {
        "largest_share": sum(max(s.values()) for s in shares) / samples,
        "largest_region": float(result.largest_regions().mean()),
        "sources": sum(map(len, shares)) / samples,
    }


def table(done: list[dict[str, Any]]) -> list[str]:
    columns = ("diversity", "largest_share", "largest_region", "sources", "psnr")
    lines = [
        "| | autoencoder | distance (lowest to highest seed) | "
        + " | ".join(c.replace("_", " ") for c in columns)
        + " |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for entry in done:
        mean, distances = entry["mean"], [seed["distance"] for seed in entry["seeds"]]
        digits = {"sources": 1, "psnr": 1}
        cells = [f"{mean[c]:.{digits.get(c, 2)}f}" if c in mean else "" for c in columns]
        lines.append(
            f"| {entry['row']['name']} | {entry['autoencoder']} | {mean['distance']:.2f} "
            f"({min(distances):.2f} to {max(distances):.2f}) | " + " | ".join(cells) + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources")
    parser.add_argument("holdout")
    parser.add_argument("--yardstick", type=Path, required=True)
    parser.add_argument("--autoencoder", nargs="+", default=["embedded"], metavar="NAME[:PATH]")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["main"])
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bfloat16", action="store_true", help="decode in bfloat16")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    yardstick = load_yardstick(options.yardstick)
    network = yardstick.MobileNetV1().eval()
    log = options.output / "quality.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    held_out = torch.stack([read_image(path, (256, 256)) for path in list_images(options.holdout)])
    reference = yardstick.embed(held_out, network)
    originals = torch.stack([read_image(path, (256, 256)) for path in list_images(options.sources)])
    spread = yardstick.pair_distance(originals, network)
    del originals
    for name in options.autoencoder:
        model = fitted(name, options)
        model.autoencoder.decode_dtype = torch.bfloat16 if options.bfloat16 else torch.float32
        for row in [row for table_name in options.tables for row in TABLES[table_name]]:
            short = model.autoencoder.spec.name
            if any((old["row"], old["autoencoder"]) == (row, short) for old in done):
                continue
            per_seed = []
            for seed in range(1 if row["kind"] == "held-out" else options.seeds):
                start = time.perf_counter()
                pictures, figures = make(row, model, held_out, options.samples, seed)
                figures["seconds"] = time.perf_counter() - start
                figures["distance"] = yardstick.fd(yardstick.embed(pictures, network), reference)
                figures["diversity"] = yardstick.pair_distance(pictures, network) / spread
                per_seed.append(figures)
            mean = {key: sum(figures[key] for figures in per_seed) / len(per_seed) for key in per_seed[0]}
            done.append({"row": row, "autoencoder": short, "mean": mean, "seeds": per_seed, "samples": options.samples})
            with log.open("a") as stream:
                stream.write(json.dumps(done[-1]) + "\n")
            print(short, row["name"], {key: round(value, 3) for key, value in mean.items()}, flush=True)
    lines = table(done)
    lines.append(
        f"\n{options.samples} samples a seed, decoded in {'bfloat16' if options.bfloat16 else 'float32'}, "
        f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads"
    )
    (options.output / "quality.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
