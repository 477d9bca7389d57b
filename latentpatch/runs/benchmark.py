"""Time every stage on this machine, and the search against plain exact searches."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..autoencoders.base import PRECISIONS, Autoencoder
from ..bank.pca import PCA
from ..io.images import encode_png
from ..methods.latent.raster import raster, raster_steps
from ..methods.latent.resynthesis import resynthesis, resynthesis_steps
from ..methods.latent.search import numba_backend
from ..methods.latent.search.prepared import PreparedSources
from ..methods.latent.search.schedule import raster_schedule
from ..methods.latent.settings import RasterSettings, ResynthesisSettings
from ..ops.noise import noise_from_seeds
from ..validation import check_choice, check_integer

__all__ = [
    "SIZES",
    "bench",
    "best_seconds",
    "exact_search",
    "hardware",
    "has_faiss",
    "measure_search",
    "synchronize",
    "synthetic_keys",
    "table",
    "versions",
]

#: Default numbers of sources.
SIZES = (16, 64, 1000, 10000)

_MAX_ROUNDS = 5
_MAX_SECONDS = 2.0  # no further round begins afterwards


def bench(
    autoencoder: Autoencoder,
    sizes: Sequence[int] = SIZES,
    *,
    n: int = 16,
    components: int = 16,
    settings: RasterSettings | None = None,
    side: int | None = None,
    precision: str = "float32",
) -> dict[str, Any]:
    """Time every stage for n images, and the search for banks of several sizes.

    Pictures and keys are random: their values do not decide the time.

    Args:
        autoencoder: on the device to be measured.
        sizes: numbers of sources.
        n: number of images in a batch.
        components: number of principal components, r.
        settings: settings of the raster sampler; ``neighbors`` is reduced to the number of sources.
        side: side of the images in pixels; by default the one the autoencoder was trained on.
        precision: precision of encoder and decoder, ``float32`` or ``bfloat16``.

    Returns:
        A record for :func:`table` or JSON, with times of :func:`best_seconds`.

    Raises:
        SettingError: where an argument is out of range.
    """
    for size in sizes:
        check_integer("sizes", size, 1)
    dtype = PRECISIONS[check_choice("precision", precision, PRECISIONS)]
    side = side or autoencoder.spec.image_size
    grid, device = autoencoder.grid(side, side), autoencoder.device
    settings = (settings or RasterSettings()).in_cells(grid)
    raster_schedule(grid, settings)  # refuses settings that do not fit the grid before anything is timed
    pictures = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = autoencoder.encode(pictures, dtype)
        decoded = autoencoder.decode(latents, dtype).cpu()
        vectors = latents.movedim(1, -1).half()
        num_components = min(components, vectors.shape[-1])
        stages = {
            "encode": best_seconds(lambda: autoencoder.encode(pictures, dtype), device),
            "fit PCA": best_seconds(lambda: PCA().to(device).fit([vectors], num_components), device),
            "decode": best_seconds(lambda: autoencoder.decode(latents, dtype), device),
            "write PNG": best_seconds(lambda: [encode_png(picture) for picture in decoded], device),
        }
    return {
        "hardware": hardware(device),
        "versions": versions(),
        "autoencoder": autoencoder.spec.name,
        "precision": precision,
        "images": n,
        "image_size": [side, side],
        "grid": list(grid),
        "components": components,
        "settings": settings.resolved(False).record(),
        "stages": [
            {"stage": name, "seconds": seconds, "images_per_second": n / seconds} for name, seconds in stages.items()
        ],
        "search": [measure_search(size, n, grid, components, settings, device) for size in sizes],
    }


def measure_search(
    sources: int, n: int, grid: tuple[int, int], components: int, settings: RasterSettings, device: torch.device
) -> dict[str, Any]:
    """Time the search of n images, and one place of it against plain exact searches.

    A place is one step of a scan at the finest scale over a filled grid. The plain searches get the windows of the
    sources already gathered; in use they would have to gather them.
    """
    settings = replace(settings.in_cells(grid), neighbors=min(settings.neighbors, sources))
    keys = synthetic_keys(sources, grid, components).to(device)
    prepared = PreparedSources(keys)  # once, as by a model
    noise = noise_from_seeds(range(n), raster_steps(grid, settings), device)
    row: dict[str, Any] = {"sources": sources}
    row["seconds"] = best_seconds(lambda: raster(prepared, noise, settings), device)
    row["images_per_second"] = n / row["seconds"]
    if sources > 1:
        default = ResynthesisSettings()
        uniforms = noise_from_seeds(range(n), resynthesis_steps(grid, default, num_sources=sources), device)
        row["resynthesis_seconds"] = best_seconds(lambda: resynthesis(prepared, uniforms, default), device)
    single = replace(settings, scales=1)
    places = raster_steps(grid, single, True)
    noise = noise_from_seeds(range(n), places, device)
    reference = synthetic_keys(n, grid, components, seed=1).to(device)
    row["place"] = best_seconds(lambda: raster(prepared, noise, single, reference), device) / places
    side = settings.window
    vectors, queries = (each[:, :side, :side].flatten(1).float() for each in (keys, reference))
    for name in ("cdist", "faiss"):
        row[f"{name}_place"] = row[f"{name}_ratio"] = None
        if name != "faiss" or (device.type == "cpu" and has_faiss()):
            search = exact_search(name, vectors, settings.neighbors)
            row[f"{name}_place"] = best_seconds(partial(search, queries), device)
            row[f"{name}_ratio"] = row[f"{name}_place"] / row["place"]
    return row


def exact_search(name: str, vectors: Tensor, num_neighbors: int) -> Callable[[Tensor], Tensor]:
    """Return an exact search of vectors ``(B, d)``: queries ``(N, d)`` -> indices ``(N, k)``.

    By name: ``cdist`` or ``addmm`` and top-k in torch, or the flat index of ``faiss`` on the CPU.
    """
    if name == "faiss":
        import faiss

        if vectors.is_cuda:
            import_module("faiss.contrib.torch_utils")  # lets faiss take tensors
            flat = faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), vectors.shape[1])
            flat.add(vectors)
            return lambda queries: flat.search(queries, num_neighbors)[1]
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(vectors.shape[1])
        index.add(vectors.numpy())
        return lambda queries: torch.from_numpy(index.search(queries.numpy(), num_neighbors)[1])
    if name == "cdist":
        return lambda queries: torch.cdist(queries, vectors).topk(num_neighbors, largest=False).indices
    norms, columns = vectors.square().sum(1), vectors.T
    return lambda queries: torch.addmm(norms, queries, columns, alpha=-2).topk(num_neighbors, largest=False).indices


def synthetic_keys(sources: int, grid: tuple[int, int], components: int, seed: int = 0) -> Tensor:
    """Return random search keys: ``(B, h, w, r)`` int16, no longer than half of what banks allow."""
    limit = int(1000 / components**0.5)
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(-limit, limit + 1, (sources, *grid, components), dtype=np.int16))


def best_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of the fastest of some rounds after a warm-up, or of a long warm-up."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) <= _MAX_ROUNDS and (len(times) < 2 or time.perf_counter() - begin < _MAX_SECONDS):
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
        if times[0] > _MAX_SECONDS:
            return times[0]
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(report: dict[str, Any]) -> str:
    """Format a report of :func:`bench` as text."""
    machine, settings = report["hardware"], report["settings"]
    rows, columns = report["grid"]
    lines = [
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, {machine['memory_gb']} GB"
        + (f", {machine['gpu']}" if machine["gpu"] else "")
        + (f", load {machine['load']}" if machine["load"] is not None else ""),
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"{report['images']} images of {report['image_size'][0]}x{report['image_size'][1]} pixels, {rows}x{columns} "
        f"cells, {report['components']} components; {report['autoencoder']}, {report['precision']}; "
        + ", ".join(f"{name} {settings[name]}" for name in ("patch_size", "stride", "neighbors", "scales")),
        "",
        f"{'stage':<24}{'ms':>10}{'images/s':>12}",
    ]
    stages = [(row["stage"], row["seconds"]) for row in report["stages"]]
    for row in report["search"]:
        stages.append((f"raster, {row['sources']} sources", row["seconds"]))
        if (seconds := row.get("resynthesis_seconds")) is not None:
            stages.append((f"resynthesis, {row['sources']}", seconds))
    lines += [f"{name:<24}{1000 * seconds:>10.1f}{report['images'] / seconds:>12.1f}" for name, seconds in stages]
    lines += ["", f"{'one place, ms':<24}{'latentpatch':>12}{'cdist, top-k':>14}{'':>8}{'faiss flat':>12}"]
    for row in report["search"]:
        cells = "".join(_comparison(row[f"{name}_place"], row[f"{name}_ratio"]) for name in ("cdist", "faiss"))
        lines.append(f"{row['sources']:<24}{1000 * row['place']:>12.3f}{cells}")
    return "\n".join(lines)


def _comparison(seconds: float | None, ratio: float | None) -> str:
    return f"{'-':>14}{'':>8}" if seconds is None else f"{1000 * seconds:>14.3f} {f'({ratio:.1f}x)':>7}"


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe the machine; None where the system does not tell."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        memory: int | None = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
        load: float | None = round(os.getloadavg()[0], 2)
    except (OSError, StopIteration, ValueError, AttributeError):  # not Linux
        memory = load = None
    return {
        "processor": processor,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": memory,
        "load": load,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the speed, by name."""
    required = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    numba = {"numba": version("numba")} if numba_backend.installed() else {}
    return {"latentpatch": __version__, **required, **numba, **({"faiss": version("faiss-cpu")} if has_faiss() else {})}


def has_faiss() -> bool:
    """Return whether faiss is installed."""
    return find_spec("faiss") is not None
