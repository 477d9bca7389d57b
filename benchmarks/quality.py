"""Quality and copying of generated images against held-out ones, the paper's protocol at small scale.

    python benchmarks/quality.py SOURCES HOLDOUT --yardstick perceptual.py --autoencoder taef2:FOLDER -o DIR

SOURCES and HOLDOUT are whatever the command line takes for sources. The yardstick is a Python file with
``MobileNetV1``-like network class, ``embed``, ``fd`` and ``pair_distance`` (see ``load_yardstick``); its
figures compare runs made with the same file only. Rows come as JSON lines (``DIR/quality.jsonl``; rows
already there are not run again) and as a Markdown table (``DIR/quality.md``).
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

TABLES: dict[str, list[dict[str, Any]]] = {
    "main": [
        {"name": "sources, reconstructed", "kind": "reconstruct"},
        {"name": "raster (default)", "kind": "raster"},
        {"name": "raster, unproject", "kind": "raster", "decoding": "unproject"},
        {"name": "random patches", "kind": "random-patches"},
        {"name": "random cells", "kind": "random-cells"},
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


def measure(row: dict[str, Any], model: LatentPatch, samples: int, seed: int) -> tuple[Tensor, dict[str, float]]:
    """Images of one row and seed, and the copying figures."""
    kind = row["kind"]
    if kind == "reconstruct":
        chosen = torch.randperm(len(model.bank), generator=torch.Generator().manual_seed(seed))[:samples]
        index = chosen[:, None, None].expand(-1, *model.bank.grid)
        return model.decode(index), {"largest_share": 1.0, "largest_region": 1.0, "sources_used": 1.0}
    if "sources" in row and row["sources"] < len(model.bank):
        kept = torch.randperm(len(model.bank), generator=torch.Generator().manual_seed(seed))[: row["sources"]]
        ids = {model.bank.ids[b] for b in kept.tolist()}
        model.bank.attributes = [{"kept": "yes"} if name in ids else {} for name in model.bank.ids]
    changes = {
        name: row[name] for name in ("patch_size", "stride", "neighbours", "scales", "start_size") if name in row
    }
    result = model.generate(
        samples,
        seed=seed * samples,
        sampler=kind,
        settings=RasterSettings(**changes) if kind == "raster" else None,
        where="kept=yes" if "sources" in row and row["sources"] < len(model.bank) else None,
        decoding=row.get("decoding", "gather"),
    )
    shares = result.shares()
    return result.images, {
        "largest_share": sum(max(s.values()) for s in shares) / samples,
        "largest_region": float(result.largest_regions().mean()),
        "sources_used": sum(map(len, shares)) / samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources")
    parser.add_argument("holdout")
    parser.add_argument("--yardstick", type=Path, required=True)
    parser.add_argument("--autoencoder", default="taef2")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["main"])
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bfloat16", action="store_true", help="decode in bfloat16")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    yardstick = load_yardstick(options.yardstick)
    network = yardstick.MobileNetV1().eval()
    fitted = options.output / "model.safetensors"
    if fitted.exists():
        model = LatentPatch.load(fitted, options.autoencoder)
    else:
        model = LatentPatch(options.autoencoder).fit(options.sources, progress=True)
        model.save(fitted)
    model.autoencoder.decode_dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    held_out = torch.stack([read_image(path, model.image_size) for path in list_images(options.holdout)])
    reference = yardstick.embed(held_out, network)
    source_spread = yardstick.pair_distance(
        torch.stack([read_image(path, model.image_size) for path in list_images(options.sources)]), network
    )
    log = options.output / "quality.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for row in [row for table in options.tables for row in TABLES[table]]:
        if any(old["row"] == row for old in done):
            continue
        per_seed = []
        for seed in range(options.seeds):
            start = time.perf_counter()
            pictures, copying = measure(row, model, options.samples, seed)
            elapsed = time.perf_counter() - start
            per_seed.append(
                {
                    "distance": yardstick.fd(yardstick.embed(pictures, network), reference),
                    "diversity": yardstick.pair_distance(pictures, network) / source_spread,
                    "seconds": elapsed,
                    **copying,
                }
            )
        mean = {key: sum(s[key] for s in per_seed) / len(per_seed) for key in per_seed[0]}
        done.append({"row": row, "mean": mean, "seeds": per_seed, "samples": options.samples})
        with log.open("a") as stream:
            stream.write(json.dumps(done[-1]) + "\n")
        print(row["name"], {key: round(value, 3) for key, value in mean.items()}, flush=True)
    lines = ["| | distance | diversity | largest share | largest region | sources |", "|---|---|---|---|---|---|"]
    for old in done:
        m = old["mean"]
        spread = [s["distance"] for s in old["seeds"]]
        lines.append(
            f"| {old['row']['name']} | {m['distance']:.2f} ({min(spread):.2f} to {max(spread):.2f}) "
            f"| {m['diversity']:.2f} | {m['largest_share']:.2f} | {m['largest_region']:.2f} | {m['sources_used']:.1f} |"
        )
    lines.append(
        f"\n{options.samples} samples, {options.seeds} seeds, {len(model.bank)} sources, "
        f"{len(held_out)} held-out images, {model.autoencoder.spec.name} decoded in {model.autoencoder.decode_dtype}, "
        f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads"
    )
    (options.output / "quality.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
