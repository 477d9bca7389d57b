"""The multi-scale raster sampler of LatentPatch (Samuth et al., ICIP 2023, section 2, step 3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .keys import cell_distances, resize_keys
from .schedule import BoolArray, RasterSettings, Scale, raster_schedule

__all__ = ["raster", "raster_steps"]

#: Bound on the table of cell distances, in elements of 4 bytes: images go in groups that keep it.
MAX_DISTANCES = 1 << 27

_GROUP = 256  # sources interpolated at a time


def raster_steps(
    grid: tuple[int, int],
    settings: RasterSettings | None = None,
    reference: bool = False,
    mask: Tensor | None = None,
) -> int:
    """Uniforms the sampler takes for one image.

    Arguments and errors are those of :func:`~latentpatch.sampling.schedule.raster_schedule`.
    """
    scales = raster_schedule(grid, settings or RasterSettings(), reference, _on_host(mask))
    return sum(len(scale.places) for scale in scales)


@torch.no_grad()
def raster(
    keys: Tensor,
    noise: Tensor,
    settings: RasterSettings | None = None,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Grow index maps block by block, each copied from one of the k sources whose patch at the same
    place is nearest to what is there already.

    The squared distance of every image's cell to the sources' is computed once, when the cell is written;
    a patch's distance is a sum of those. Arithmetic is exact (:mod:`.keys`), ties go to the lower
    source, so an image depends on its own noise alone: not on its batch, the device or the chunking.

    Args:
        keys: ``(B, h, w, r)`` int16 sources.
        noise: ``(N, steps)`` uniforms in [0, 1), ``steps`` from :func:`raster_steps`; numbers outside count
            as the nearest inside.
        settings: defaults where None.
        reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 keys that fill the grid beforehand.
        mask: ``(h, w)`` bool, True where cells are to be sampled, the others being the reference's:
            inpainting. Cells outside it get index -1.

    Returns:
        ``(N, h, w)`` int64: which source each cell comes from.

    Raises:
        ValueError: where shapes, settings and bank do not go together.
    """
    settings = settings or RasterSettings()
    count, height, width, _ = keys.shape
    settings.check_sources(count)
    if mask is not None and reference is None:
        raise ValueError("mask: a reference is expected with it, to give the cells that are kept")
    scales = raster_schedule((height, width), settings, reference is not None, _on_host(mask))
    steps = sum(len(scale.places) for scale in scales)
    if noise.ndim != 2 or noise.shape[1] != steps:
        raise ValueError(f"noise: shape (N, {steps}) is expected, got {tuple(noise.shape)}")
    if reference is not None and (reference.shape[1:] != keys.shape[1:] or reference.shape[0] not in (1, len(noise))):
        raise ValueError(
            f"reference: shape (1 or {len(noise)}, {', '.join(map(str, keys.shape[1:]))}) is expected, "
            f"got {tuple(reference.shape)}"
        )

    grid: Tensor | None = None  # N x h x w x r keys of the images so far
    index = torch.empty(0)
    taken = 0
    # Autocast would round the integers.
    with torch.autocast(keys.device.type, enabled=False):
        for scale in scales:
            given = None if reference is None else resize_keys(reference, scale.size).expand(len(noise), -1, -1, -1)
            if grid is None:
                grid = given
            else:
                grid = resize_keys(grid, scale.size)
                if mask is not None and given is not None:
                    grid = torch.where(_column(scale.fill, keys.device), grid, given)
            cells = _cells(keys, scale.size)
            uniforms = noise[:, taken : taken + len(scale.places)]
            taken += len(scale.places)
            index = _scan(cells, uniforms, settings.neighbours, scale, grid)
            copied = _gather(cells, index)
            grid = copied if grid is None else torch.where(index[..., None] < 0, grid, copied)
    return index


def _cells(keys: Tensor, size: tuple[int, int]) -> Tensor:
    """The sources at one grid size, cell by cell. -> (C, B, r)"""
    cells = keys.new_empty((size[0] * size[1], keys.shape[0], keys.shape[3]))
    for first in range(0, len(keys), _GROUP):
        resized = resize_keys(keys[first : first + _GROUP], size)
        cells[:, first : first + _GROUP] = resized.flatten(1, 2).transpose(0, 1)
    return cells


def _scan(cells: Tensor, uniforms: Tensor, neighbours: int, scale: Scale, grid: Tensor | None) -> Tensor:
    """One scale, in groups of images that fit the bound on memory. -> (N, h, w)"""
    height, width = scale.size
    group = max(1, MAX_DISTANCES // (height * width * cells.shape[1]))
    parts = [torch.zeros((0, height, width), dtype=torch.int64, device=cells.device)]
    for first in range(0, len(uniforms), group):
        chunk = slice(first, first + group)
        parts.append(_scan_group(cells, uniforms[chunk], neighbours, scale, None if grid is None else grid[chunk]))
    return torch.cat(parts)


def _scan_group(cells: Tensor, uniforms: Tensor, neighbours: int, scale: Scale, grid: Tensor | None) -> Tensor:
    height, width = scale.size
    images, (area, count, _), device = len(uniforms), cells.shape, cells.device
    index = torch.full((area, images), -1, dtype=torch.int64, device=device)
    order = torch.arange(count, device=device)
    distances = torch.zeros((area, images, count), dtype=torch.int32, device=device)
    if grid is not None:
        queries = grid.flatten(1, 2).transpose(0, 1)  # C x N x r
        for known in torch.from_numpy(scale.known.ravel().nonzero()[0]).to(device).split(width):
            distances[known] = cell_distances(queries[known], cells[known])
    by_row = distances.view(height, width, images, count)
    for step, place in enumerate(scale.places):
        if place.blind:
            chosen = draw(uniforms[:, step], count)
        else:
            top, bottom, left, right = place.window
            total = by_row[top:bottom, left:right].sum((0, 1))  # N x B, int64
            # Distance and source in one number: no two are equal, and ties go to the lower source.
            nearest = (total * count + order).topk(neighbours, dim=1, largest=False, sorted=True).values % count
            chosen = nearest.gather(1, draw(uniforms[:, step], neighbours)[:, None])[:, 0]
        block = torch.tensor(place.cells, device=device)
        index[block] = chosen
        distances[block] = cell_distances(cells[block[:, None], chosen[None, :]], cells[block])
    return index.T.reshape(images, height, width)


def draw(uniforms: Tensor, choices: int) -> Tensor:
    """floor(u * choices), kept below ``choices`` where rounding or u = 1 would reach it."""
    return (uniforms.double() * choices).long().clamp(0, choices - 1)


def _gather(cells: Tensor, index: Tensor) -> Tensor:
    """Keys an index map of this size points to, anything where it is -1. -> (N, h, w, r)"""
    flat = index.clamp(min=0).flatten(1)
    return cells[torch.arange(flat.shape[1], device=flat.device), flat].view(*index.shape, cells.shape[2])


def _column(cells: BoolArray, device: torch.device) -> Tensor:
    """(h, w) on the host -> (h, w, 1) on the device."""
    return torch.from_numpy(cells)[:, :, None].to(device)


def _on_host(mask: Tensor | None) -> BoolArray | None:
    return None if mask is None else np.asarray(mask.detach().cpu().numpy(), dtype=bool)
