"""The raster sampler over a bank whose sources lie with several processes.

Each process searches its own sources and the nearest k of all are merged; the keys of the chosen ones come from
whoever has them. Distances are exact integers and ties go to the lower source, so index maps are those of
:func:`~latentpatch.sampling.raster.raster` over the whole bank, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..processes import Processes
from .keys import resize_keys
from .raster import draw
from .schedule import RasterSettings, Scale, raster_schedule

__all__ = ["sharded_raster"]

#: Bound on the table of cell distances of a process, in elements of 4 bytes: images go in groups that keep it.
MAX_DISTANCES = 1 << 27

_GROUP = 256  # sources interpolated at a time
_NONE = torch.iinfo(torch.int64).max


@torch.no_grad()
def sharded_raster(
    keys: Tensor,
    noise: Tensor,
    settings: RasterSettings,
    reference: Tensor | None,
    processes: Processes,
) -> Tensor:
    """Index maps of the raster sampler; all processes call it together, with the same noise and reference.

    Args:
        keys: ``(b, h, w, r)`` int16, this process' sources. The bank is those of process 0, then 1 and so on.
        noise: ``(N, steps)`` uniforms in [0, 1).
        settings: of the sampler.
        reference: ``(N or 1, h, w, r)`` int16 keys that fill the grid beforehand, or None.
        processes: who has the other sources.

    Returns:
        ``(N, h, w)`` int64 positions in the bank, equal in all processes.

    Raises:
        ValueError: where settings and bank do not go together.
    """
    counts = processes.every(len(keys))
    settings.check_sources(sum(counts))
    scales = raster_schedule((keys.shape[1], keys.shape[2]), settings, reference is not None)
    steps = sum(len(scale.places) for scale in scales)
    if noise.ndim != 2 or noise.shape[1] != steps:
        raise ValueError(f"noise: shape (N, {steps}) is expected, got {tuple(noise.shape)}")
    # The same groups everywhere, whoever has the most sources.
    area = keys.shape[1] * keys.shape[2]
    group = max(1, MAX_DISTANCES // (area * max(counts)))
    maps = [torch.zeros((0, *keys.shape[1:3]), dtype=torch.int64, device=keys.device)]
    with torch.autocast(keys.device.type, enabled=False):
        for first in range(0, len(noise), group):
            images = slice(first, first + group)
            uniforms = noise[images]
            given = reference[images] if reference is not None and len(reference) > 1 else reference
            maps.append(_grow(keys, uniforms, settings, given, scales, processes, counts))
    return torch.cat(maps)


def _grow(
    keys: Tensor,
    uniforms: Tensor,
    settings: RasterSettings,
    reference: Tensor | None,
    scales: tuple[Scale, ...],
    processes: Processes,
    counts: list[int],
) -> Tensor:
    grid = None if reference is None else reference.expand(len(uniforms), -1, -1, -1)
    index = torch.empty(0)
    taken = 0
    for scale in scales:
        cells = _cells(keys, scale.size)
        known = None if grid is None else resize_keys(grid, scale.size).flatten(1, 2).transpose(0, 1)
        here = uniforms[:, taken : taken + len(scale.places)]
        taken += len(scale.places)
        index, written = _scan(cells, here, settings.neighbours, scale, known, processes, counts)
        grid = written.transpose(0, 1).reshape(len(uniforms), *scale.size, -1)
    return index


def _scan(
    cells: Tensor,
    uniforms: Tensor,
    neighbours: int,
    scale: Scale,
    known: Tensor | None,
    processes: Processes,
    counts: list[int],
) -> tuple[Tensor, Tensor]:
    """One scale. -> (N, h, w) int64 sources, (C, N, r) their keys"""
    (height, width), (area, own, depth), images = scale.size, cells.shape, len(uniforms)
    count, first, device = sum(counts), sum(counts[: processes.rank]), cells.device
    index = torch.full((area, images), -1, dtype=torch.int64, device=device)
    order = torch.arange(first, first + own, device=device)
    distances = torch.zeros((area, images, own), dtype=torch.int32, device=device)
    written = cells.new_zeros((area, images, depth)) if known is None else known.clone()
    if known is not None:
        for row in torch.arange(area, device=device).split(width):
            distances[row] = _distances(known[row], cells[row])
    by_row = distances.view(height, width, images, own)
    for step, place in enumerate(scale.places):
        if place.blind:
            chosen = draw(uniforms[:, step], count)
        else:
            top, bottom, left, right = place.window
            # Distance and source in one number: no two are equal, and ties go to the lower source.
            ranked = by_row[top:bottom, left:right].sum((0, 1)) * count + order
            nearest = ranked.new_full((images, neighbours), _NONE)
            best = ranked.topk(min(neighbours, own), dim=1, largest=False).values
            nearest[:, : best.shape[1]] = best
            merged = torch.cat(processes.gathered(nearest), 1)
            sources = merged.topk(neighbours, dim=1, largest=False, sorted=True).values % count
            chosen = sources.gather(1, draw(uniforms[:, step], neighbours)[:, None])[:, 0]
        block = torch.tensor(place.cells, device=device)
        index[block] = chosen
        written[block] = _keys_at(cells, block, chosen - first, processes)
        distances[block] = _distances(written[block], cells[block])
    return index.T.reshape(images, height, width), written


def _keys_at(cells: Tensor, block: Tensor, chosen: Tensor, processes: Processes) -> Tensor:
    """Keys of the chosen sources, from the processes that have them. -> (cells of the block, N, r)"""
    held = ((chosen >= 0) & (chosen < cells.shape[1])).nonzero()[:, 0]
    keys = torch.zeros((len(block), len(chosen), cells.shape[2]), dtype=torch.int32, device=cells.device)
    keys[:, held] = cells[block[:, None], chosen[held][None, :]].int()
    return processes.added(keys).to(cells.dtype)


def _cells(keys: Tensor, size: tuple[int, int]) -> Tensor:
    """The sources at one grid size, cell by cell. -> (C, b, r)"""
    cells = keys.new_empty((size[0] * size[1], keys.shape[0], keys.shape[3]))
    for first in range(0, len(keys), _GROUP):
        resized = resize_keys(keys[first : first + _GROUP], size)
        cells[:, first : first + _GROUP] = resized.flatten(1, 2).transpose(0, 1)
    return cells


def _distances(queries: Tensor, sources: Tensor) -> Tensor:
    """Squared distances of keys at the same cells: (C, N, r), (C, b, r) -> (C, N, b) int32, exact in doubles."""
    queries, sources = queries.double(), sources.double()
    norms = queries.square().sum(2)[:, :, None] + sources.square().sum(2)[:, None, :]
    return (norms - 2 * torch.bmm(queries, sources.transpose(1, 2))).int()
