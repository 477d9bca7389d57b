"""What a machine makes of the stages, and of the search against plain implementations of it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..autoencoders.base import PRECISIONS, Autoencoder
from ..bank.pca import PCA
from ..io import images
from ..methods.latent.raster import raster, raster_steps
from ..methods.latent.resynthesis import resynthesis, resynthesis_steps
from ..methods.latent.search import numba_backend as cpu
from ..methods.latent.search.prepared import PreparedSources
from ..methods.latent.search.schedule import raster_schedule
from ..methods.latent.settings import RasterSettings, ResynthesisSettings
from ..ops.noise import noise_from_seeds
from ..validation import check_choice

__all__ = ["SIZES", "bench", "measure_search", "synthetic_keys", "table"]

#: Numbers of sources that are tried where none are given.
SIZES = (16, 64, 1000, 10000)

_ROUNDS = 5
_SECONDS = 2.0  # after which no further round begins


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

    Pictures and keys are random: what they show decides nothing but which sources are chosen. Times are the
    best of up to five rounds after a first one.

    Args:
        autoencoder: on the device to be measured.
        sizes: numbers of sources.
        n: images made together.
        components: principal components, r.
        settings: of the raster sampler; with fewer neighbours where there are fewer sources.
        side: of the images in pixels; by default what the autoencoder was trained on.
        precision: of the decoder, ``float32`` or ``bfloat16``.

    Returns:
        A record of plain values: ``hardware``, ``versions``, ``settings``, ``stages`` and ``search``, for
        :func:`table` or JSON.

    Raises:
        ValueError: where an argument is out of range.
    """
    for size in sizes:
        if size < 1:
            raise ValueError(f"sizes {list(sizes)}: numbers of at least 1 are expected")
    side = side or autoencoder.spec.image_size
    grid, device = autoencoder.grid(side, side), autoencoder.device
    settings = settings or RasterSettings()
    raster_schedule(grid, settings)  # what does not go together is found before anything is timed
    chance = torch.Generator().manual_seed(0)
    pictures = torch.rand(n, 3, side, side, generator=chance)
    with torch.no_grad():
        latents = autoencoder.encode(pictures)
        dtype = PRECISIONS[check_choice("precision", precision, PRECISIONS)]
        decoded = autoencoder.decode(latents, dtype).cpu()
        vectors = latents.movedim(1, -1).half()
        stages = {
            "encode": best(lambda: autoencoder.encode(pictures), device),
            "fit PCA": best(lambda: PCA().to(device).fit([vectors], min(components, vectors.shape[-1])), device),
            "decode": best(lambda: autoencoder.decode(latents, dtype), device),
            "write PNG": best(lambda: [images.encode_png(picture) for picture in decoded], device),
        }
    return {
        "hardware": _hardware(device),
        "versions": _versions(),
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
    """Time the search of n images, and one place of it against ``torch.cdist`` with top-k and faiss.

    A place is one step of a scan at the finest scale over a filled grid. The plain implementations are given
    the sources' windows already gathered, which in use they would have to gather.
    """
    settings = replace(settings, neighbors=min(settings.neighbors, sources))
    keys = synthetic_keys(sources, grid, components).to(device)
    prepared = PreparedSources(keys)  # once, as a model does
    noise = noise_from_seeds(range(n), raster_steps(grid, settings), device)
    row: dict[str, Any] = {"sources": sources, "seconds": best(lambda: raster(prepared, noise, settings), device)}
    row["images_per_second"] = n / row["seconds"]
    if sources > 1:
        default = ResynthesisSettings()
        uniforms = noise_from_seeds(range(n), resynthesis_steps(grid, default), device)
        row["resynthesis_seconds"] = best(lambda: resynthesis(prepared, uniforms, default), device)
    single = replace(settings, scales=1)
    steps = raster_steps(grid, single, True)
    noise = noise_from_seeds(range(n), steps, device)
    reference = synthetic_keys(n, grid, components, seed=1).to(device)
    row["place"] = best(lambda: raster(prepared, noise, single, reference), device) / steps
    side = settings.patch_size
    bank, queries = (each[:, :side, :side].flatten(1).float() for each in (keys, reference))
    plain: dict[str, Callable[[], Any]] = {
        "cdist": lambda: torch.cdist(queries, bank).topk(settings.neighbors, largest=False)
    }
    if device.type == "cpu" and (faiss := _faiss()) is not None:
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(bank.shape[1])
        index.add(bank.numpy())
        asked = queries.numpy()
        plain["faiss"] = lambda: index.search(asked, settings.neighbors)
    for name in ("cdist", "faiss"):
        seconds = best(plain[name], device) if name in plain else None
        row[f"{name}_place"] = seconds
        row[f"{name}_ratio"] = None if seconds is None else seconds / row["place"]
    return row


def synthetic_keys(sources: int, grid: tuple[int, int], components: int, seed: int = 0) -> Tensor:
    """Random search keys: ``(B, h, w, r)`` int16."""
    limit = int(1000 / components**0.5)
    chance = np.random.default_rng(seed)
    return torch.from_numpy(chance.integers(-limit, limit + 1, (sources, *grid, components), dtype=np.int16))


def best(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds the fastest of several rounds takes, the first not counted where there are others."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) <= _ROUNDS and (len(times) < 2 or time.perf_counter() - begin < _SECONDS):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
        if times[0] > _SECONDS:
            return times[0]
    return min(times[1:])


def table(report: dict[str, Any]) -> str:
    """A report for people to read."""
    hardware, settings = report["hardware"], report["settings"]
    rows, columns = report["grid"]
    lines = [
        f"{hardware['processor']}, {hardware['threads']} of {hardware['cores']} cores, {hardware['memory_gb']} GB"
        + (f", {hardware['gpu']}" if hardware["gpu"] else "")
        + (f", load {hardware['load']}" if hardware["load"] is not None else ""),
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"{report['images']} images of {report['image_size'][0]}x{report['image_size'][1]} pixels, {rows}x{columns} "
        f"cells, {report['components']} components; {report['autoencoder']}, {report['precision']}; "
        + ", ".join(f"{name} {settings[name]}" for name in ("patch_size", "stride", "neighbours", "scales")),
        "",
        f"{'stage':<24}{'ms':>10}{'images/s':>12}",
    ]
    stages = [(row["stage"], row["seconds"], row["images_per_second"]) for row in report["stages"]]
    for row in report["search"]:
        stages.append((f"raster, {row['sources']} sources", row["seconds"], row["images_per_second"]))
        if (seconds := row.get("resynthesis_seconds")) is not None:
            stages.append((f"resynthesis, {row['sources']}", seconds, report["images"] / seconds))
    lines += [f"{name:<24}{1000 * seconds:>10.1f}{speed:>12.1f}" for name, seconds, speed in stages]
    lines += ["", f"{'one place, ms':<24}{'latentpatch':>12}{'cdist, top-k':>14}{'':>8}{'faiss flat':>12}"]
    for row in report["search"]:
        cells = "".join(_versus(row[f"{name}_place"], row[f"{name}_ratio"]) for name in ("cdist", "faiss"))
        lines.append(f"{row['sources']:<24}{1000 * row['place']:>12.3f}{cells}")
    return "\n".join(lines)


def _versus(seconds: float | None, ratio: float | None) -> str:
    return f"{'-':>14}{'':>8}" if seconds is None else f"{1000 * seconds:>14.3f} {f'({ratio:.1f}x)':>7}"


def _hardware(device: torch.device) -> dict[str, Any]:
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
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": memory,
        "load": load,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
    }


def _versions() -> dict[str, str]:
    versions = {"latentpatch": __version__, "python": platform.python_version(), "torch": torch.__version__}
    faiss = _faiss()
    if cpu.installed():
        versions["numba"] = version("numba")
    return versions | {"numpy": np.__version__} | ({} if faiss is None else {"faiss": faiss.__version__})


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        return None
    return faiss
