"""The Triton backend of the raster sampler: the same index maps as in torch, without synchronization with the host.

Sources are laid out once for every scale, in two planes of int8 (:mod:`.triton_kernels`). For few sources, one program
visits all places of a scale for a block of images. For many sources, each place takes two kernels: the first compares
whole windows with parts of the sources and keeps the nearest sources of each part, the second draws one of these
candidates and copies it. Comparing whole windows reads a source cell once for every patch that covers it, but needs no
memory per image and source, and a block of images shares each read.

From the second search with the same sizes on, a CUDA graph of all scales is replayed.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
import torch
import triton
from torch import Tensor

from ....ops.noise import draw
from ..raster import raster, raster_steps
from ..settings import RasterSettings
from . import triton_kernels as kernels
from .keys import Resize
from .prepared import PreparedSources, score_bound
from .schedule import Scale, last_writers, places_in_units
from .sharded import ShardedSources
from .triton_layout import Layout, from_slabs, to_slabs

__all__ = ["agrees", "grow", "obstacle"]

#: Images that a program compares together: the rows of a matrix product.
IMAGES = 16
#: Sources of a tile: the columns of a matrix product.
SOURCES = 128
_SPAN: int = kernels.SPAN.value
#: Stages of the load pipeline: two slabs are in flight, and their numbers are loaded ahead of them.
_STAGES = 5
#: Largest number of sources for which one program visits a whole scale.
WALKED = 512
#: Largest number of neighbors that a program keeps in registers.
MAX_NEIGHBORS = 64
#: Largest number of candidates of an image, over all parts of the sources.
MAX_CANDIDATES = 4096
#: Largest number of images in one search; further images follow in searches of their own.
MAX_IMAGES = 256
#: Largest share of the device's memory for the layouts of a bank.
MAX_SHARE = 0.25
#: Number of searches whose buffers and graphs a bank keeps; the least recently used is evicted.
MAX_SEARCHES = 8


def obstacle(sources: PreparedSources, scales: Sequence[Scale], settings: RasterSettings, norm: int) -> str | None:
    """Return the reason why the kernels cannot search a bank; None if they can.

    Args:
        sources: the bank.
        scales: scales of the sampler.
        settings: settings of the sampler.
        norm: upper bound on the norms of all keys.
    """
    if isinstance(sources, ShardedSources):
        return "the sources are distributed over several processes"
    if sources.costs is not None:
        return "the sources have an offset cost"
    count, depth, device = len(sources.keys), sources.keys.shape[3], sources.keys.device
    if settings.neighbors > MAX_NEIGHBORS:
        return f"neighbors must be at most {MAX_NEIGHBORS} in Triton, got {settings.neighbors}"
    # A product of two elements of the lower planes is at most 2^12 in magnitude.
    if settings.window**2 * depth >= 1 << 19 or score_bound(settings.window, norm) >= (1 << 62) // _SPAN:
        return f"sums over patches of size {settings.window} exceed the exact range of the integers"
    if count > _SPAN:
        return f"there must be at most {_SPAN} sources, got {count}"
    needed = sum(Layout.bytes(count, depth, *name) for name in {(scale.size, scale.unit) for scale in scales})
    if needed > _allowed(device):
        return f"the layouts of {count} sources take {needed} bytes, the limit is {_allowed(device)}"
    # Triton's interpreter, whose functions are of another type, runs on the CPU.
    if device.type != "cuda" and isinstance(kernels.walk, triton.JITFunction):
        return f"Triton needs sources on a CUDA GPU, not on {device}"
    return None


def grow(
    sources: PreparedSources,
    noise: Tensor,
    settings: RasterSettings,
    reference: Tensor | None,
    scales: tuple[Scale, ...],
    *,
    memory: int,
    keep: bool,
) -> Tensor:
    """Compute the index maps of :func:`~latentpatch.methods.latent.raster.raster`, if :func:`obstacle` is None.

    Args:
        sources: the bank.
        noise: ``(N, steps)`` uniforms.
        settings: settings of the sampler.
        reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 keys; None for no reference.
        scales: scales of the sampler.
        memory: limit in bytes on candidates; at least :data:`IMAGES` images are searched at a time in any case.
        keep: whether to keep buffers and graphs for later searches with these scales.

    Returns:
        ``(N, h, w)`` int64 numbers of sources.
    """
    with _LOCK:
        bank = _BANKS.setdefault(sources, _Bank())
    maps = [torch.zeros((0, *sources.keys.shape[1:3]), dtype=torch.int64, device=noise.device)]
    group = _images_at_a_time(memory, len(sources.keys), settings.neighbors)
    # Tensors created in inference mode could not be written to outside of it.
    with torch.inference_mode(False), torch.no_grad(), _on(sources.keys.device):
        for first in range(0, len(noise), group):
            part = noise[first : first + group]
            part_reference = reference if reference is None or len(reference) == 1 else reference[first : first + group]
            images = max(IMAGES, triton.next_power_of_2(len(part)))
            search = bank.search(sources.keys, scales, settings.neighbors, images, part_reference is not None, keep)
            maps.append(search(part, part_reference))
    return torch.cat(maps)


@cache
def agrees(device: torch.device) -> bool:
    """Return whether the kernels run on a device with the results of torch; tested once, on small banks."""
    generator = torch.Generator().manual_seed(0)
    try:
        # These two banks cover all kernels and both lengths of slabs.
        for count, depth, stride in ((20, 4, 1), (WALKED + SOURCES + 1, 16, 2)):
            settings = RasterSettings(patch_size=4, stride=stride, neighbors=3, scales=2, start_size=4)
            keys = torch.randint(-300, 300, (count, 6, 6, depth), dtype=torch.int16, generator=generator).to(device)
            noise = torch.rand(3, raster_steps((6, 6), settings), generator=generator).to(device)
            expected, prepared = raster(keys, noise, settings, backend="torch"), PreparedSources(keys)
            # The first search launches kernels, the second captures a graph, the third replays it.
            for _ in range(3):
                if not torch.equal(raster(prepared, noise, settings, backend="triton"), expected):
                    raise RuntimeError("the kernels find other sources than torch")
    # Every failure (no C compiler, an old GPU, an old driver) leaves the search to torch.
    except Exception as error:
        warnings.warn(f"Triton's kernels cannot be used on {device}, torch runs the search: {error}", stacklevel=4)
        return False
    return True


class _Bank:
    """Layouts of a bank by grid size and side of a unit, and searches kept for reuse."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.layouts: dict[tuple[tuple[int, int], int], Layout] = {}
        self.searches: OrderedDict[object, _Search] = OrderedDict()

    def search(
        self,
        keys: Tensor,
        scales: tuple[Scale, ...],
        neighbors: int,
        images: int,
        guided: bool,
        keep: bool,
    ) -> _Search:
        """Return a search of a number of images, from the cache or new.

        ``guided`` tells whether it has a reference, ``keep`` whether the cache keeps it.
        """
        name = (scales, neighbors, images, guided)
        with self.lock:
            found = self.searches.get(name)
            if found is None:
                self._lay_out(keys, {(scale.size, scale.unit) for scale in scales})
                layouts = [self.layouts[scale.size, scale.unit] for scale in scales]
                levels = [_Level(*pair, neighbors, images) for pair in zip(scales, layouts, strict=True)]
                found = _Search(levels, keys.shape[1:], guided)
                if keys.is_cuda:
                    # Another stream may run the next search with these layouts.
                    torch.cuda.current_stream().synchronize()
            if keep:
                self.searches[name] = found
                self.searches.move_to_end(name)
                while len(self.searches) > MAX_SEARCHES:
                    self.searches.popitem(last=False)
            return found

    def _lay_out(self, keys: Tensor, names: set[tuple[tuple[int, int], int]]) -> None:
        """Compute the layouts of some sizes; evict those of earlier searches if not all fit."""
        count, depth = len(keys), keys.shape[3]
        if sum(Layout.bytes(count, depth, *name) for name in names | self.layouts.keys()) > _allowed(keys.device):
            self.searches.clear()
            self.layouts.clear()
        for name in names - self.layouts.keys():
            self.layouts[name] = Layout(keys, *name)


_BANKS: WeakKeyDictionary[PreparedSources, _Bank] = WeakKeyDictionary()
_LOCK = threading.Lock()
_CAPTURING = threading.Lock()


class _Level:
    """A scale of a search, on the device: slabs to compare and to write, and buffers of results.

    Args:
        scale: the scale.
        layout: layout of the bank at this scale.
        neighbors: number of nearest sources to choose from.
        images: number of images, a multiple of :data:`IMAGES`.
    """

    def __init__(self, scale: Scale, layout: Layout, neighbors: int, images: int) -> None:
        device = layout.norms.device
        self.scale = scale
        self.layout = layout
        self.neighbors = neighbors
        numbers, self.spans = _slabs_of_places(scale, len(layout.slabs))
        self.numbers = torch.tensor(numbers, dtype=torch.int32, device=device)
        self.fill = torch.from_numpy(scale.fill)[:, :, None].to(device)
        self.queries = torch.zeros((len(layout.slabs), 2, images, layout.length), dtype=torch.int8, device=device)
        # The last row stays -1, for cells that no place writes.
        self.picks = torch.full((len(self.spans) + 1, images), -1, dtype=torch.int64, device=device)
        self.slots = triton.next_power_of_2(neighbors)
        count = len(layout.norms[0])
        self.walked = count <= WALKED
        if self.walked:
            self.spans_there = torch.tensor(self.spans, dtype=torch.int32, device=device)
        else:
            self.tiles, self.parts = _parts(count, neighbors)
            self.candidates = torch.empty((images, self.parts, self.slots), dtype=torch.int64, device=device)

    def set_queries(self, grids: Tensor) -> None:
        """Set the keys of the images: ``(N, h, w, r)`` int16."""
        self.queries.copy_(to_slabs(grids, self.scale.unit, self.layout.length))

    def queries_as_grids(self, depth: int) -> Tensor:
        """Return the keys of the images: ``(N, h, w, r)`` int16."""
        return from_slabs(self.queries, self.scale.size, self.scale.unit, depth)

    def visit(self, uniforms: Tensor) -> None:
        """Visit all places, with ``(N, places)`` uniforms."""
        images, count = self.queries.shape[2], self.layout.norms.shape[1]
        ranks, blind = draw(uniforms, self.neighbors), draw(uniforms, count)
        length = self.layout.length
        found = {"SLOTS": self.slots, "SOURCES": SOURCES, "IMAGES": IMAGES, "num_stages": _STAGES}
        blocks = images // IMAGES
        slabs, norms = self.layout.slabs, self.layout.norms
        if self.walked:
            kernels.walk[(blocks,)](
                self.picks, self.queries, images, ranks, blind, len(self.spans), self.spans_there,
                slabs, norms, count, self.numbers, self.neighbors, LENGTH=length, **found,
            )  # fmt: skip
            return
        width = self.parts * self.slots
        for place, (compared, written, end) in enumerate(self.spans):
            is_blind = compared == written
            if not is_blind:
                kernels.nearest_of_parts[(blocks, self.parts)](
                    self.candidates, self.queries, images, slabs, norms, count, self.tiles,
                    self.numbers, compared, written, self.neighbors, LENGTH=length, **found,
                )  # fmt: skip
            kernels.copy_drawn[(images,)](
                self.picks, self.queries, images, self.candidates, width, blind if is_blind else ranks,
                len(self.spans), place, slabs, count, self.numbers, written, end,
                CANDIDATES=triton.next_power_of_2(width), BLIND=is_blind, LENGTH=length, num_warps=8,
            )  # fmt: skip


class _Search:
    """A search of a number of images through all scales, with buffers of its own.

    Args:
        levels: scales from coarse to fine.
        shape: shape ``(h, w, r)`` of a source.
        guided: whether there is a reference.
    """

    def __init__(self, levels: list[_Level], shape: Sequence[int], guided: bool) -> None:
        images, device = levels[0].queries.shape[2], levels[0].queries.device
        grid, self.depth = (shape[0], shape[1]), shape[2]
        self.levels = levels
        # The remainder maps -1 (no place) to the last row of picks.
        writers = last_writers(levels[-1].scale) % len(levels[-1].picks)
        self.writers = torch.from_numpy(writers).to(device)
        steps = sum(len(level.spans) for level in levels)
        self.noise = torch.zeros((images, steps), dtype=torch.float64, device=device)
        self.reference = torch.zeros((images, *shape), dtype=torch.int16, device=device) if guided else None
        self.from_reference = [Resize(grid, level.scale.size, device) for level in levels]
        sizes = [level.scale.size for level in levels]
        self.from_coarser = [Resize(old, new, device) for old, new in pairwise(sizes)]
        self.index = torch.empty((images, *grid), dtype=torch.int64, device=device)
        self.lock = threading.Lock()
        self.uses = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.done = torch.cuda.Event() if device.type == "cuda" else None

    def __call__(self, noise: Tensor, reference: Tensor | None) -> Tensor:
        """Return index maps ``(N, h, w)``, for at most as many images as the buffers have."""
        with self.lock:
            if self.done is not None:
                # This stream waits for the searches of other streams, which use the same buffers.
                self.done.wait()
            self.noise[: len(noise)] = noise
            if self.reference is not None and reference is not None:
                self.reference[: len(noise)] = reference
            self._run_or_replay()
            index = self.index[: len(noise)].clone()
            if self.done is not None:
                self.done.record()
            return index

    def _run_or_replay(self) -> None:
        self.uses += 1
        # The first search compiles kernels, and many searches are not repeated, so the second one captures the graph.
        if self.noise.is_cuda and self.uses == 2:
            self._capture()
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()

    def _capture(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.noise.device)
        # A capture begins with a wait for the device, so captures exclude each other. Other work of other threads may
        # go on during a capture.
        with _CAPTURING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._run()
        self.graph = graph

    def _run(self) -> None:
        grids: Tensor | None = None
        first_step = 0
        for number, level in enumerate(self.levels):
            resized_reference = None if self.reference is None else self.from_reference[number](self.reference)
            if grids is None:
                grids = resized_reference
            else:
                grids = self.from_coarser[number - 1](grids)
                if resized_reference is not None and not level.scale.fill.all():
                    grids = torch.where(level.fill, grids, resized_reference)
            if grids is not None:
                level.set_queries(grids)
            level.visit(self.noise[:, first_step : first_step + len(level.spans)])
            first_step += len(level.spans)
            if number < len(self.levels) - 1:
                grids = level.queries_as_grids(self.depth)
        self.index.copy_(self.levels[-1].picks[self.writers].movedim(2, 0))


def _slabs_of_places(scale: Scale, slabs: int) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Return the slabs that each place compares and then writes, and three offsets of each place.

    The offsets are those of the first slab to compare, of the first slab to write, and of the end.
    """
    per_unit = np.arange(slabs // scale.units)
    numbers: list[int] = []
    spans = []
    for place in places_in_units(scale):
        ends = [len(numbers)]
        for units in (place.window, place.block):
            numbers += (np.array(units, dtype=int)[:, None] * len(per_unit) + per_unit).ravel().tolist()
            ends.append(len(numbers))
        spans.append((ends[0], ends[1], ends[2]))
    return numbers, spans


def _parts(count: int, neighbors: int) -> tuple[int, int]:
    """Return the number of tiles in a part of the sources, and the number of parts."""
    tiles = -(-count // SOURCES)
    tiles_per_part = -(-tiles // (MAX_CANDIDATES // triton.next_power_of_2(neighbors)))
    return tiles_per_part, -(-tiles // tiles_per_part)


def _images_at_a_time(memory: int, count: int, neighbors: int) -> int:
    """Return the number of images of a search: a power of two, so that few searches differ in it."""
    bytes_per_image = 8 * _parts(count, neighbors)[1] * int(triton.next_power_of_2(neighbors))
    fit = min(MAX_IMAGES, memory // bytes_per_image)
    return max(IMAGES, 1 << max(0, fit.bit_length() - 1))


def _allowed(device: torch.device) -> int:
    """Return the limit in bytes on a bank's layouts; without a GPU, that of a GPU of 16 GiB."""
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 1 << 34
    return int(MAX_SHARE * total)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Return a context that makes a device current, because Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
