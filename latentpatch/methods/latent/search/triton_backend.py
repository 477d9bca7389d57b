"""The raster sampler by Triton kernels, without synchronising with the host, to the same index maps as in torch.

Sources are laid out once for every scale, in two planes of int8 (:mod:`.triton_kernels`). Where there are few, one
program walks the places of a scale for a block of images. Where there are many, each place is two kernels: programs
that compare whole windows with parts of the sources and keep the nearest of each as they go, then one that draws from
what they found and copies. Whole windows read a source cell as often as patches cover it, but nothing an image and
source is kept, and a block of images shares the reading.

From the second search of a kind on, a CUDA graph of all scales is replayed.
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

IMAGES = 16  # images a program compares together: rows of a matrix product
SOURCES = 128  # sources of a tile
_SPAN: int = kernels.SPAN.value
_STAGES = 5  # of the pipeline that loads slabs: two of them, with numbers of slabs ahead
#: Up to so many sources, one program walks a scale.
WALKED = 512
#: Most neighbours a program keeps at hand.
MAX_NEIGHBOURS = 64
#: Most numbers of an image that are drawn from, of all parts of the sources.
MAX_CANDIDATES = 4096
#: Most images of a search; more go one after the other.
MAX_IMAGES = 256
#: Share of the device's memory for a bank's layouts.
MAX_SHARE = 0.25
#: Searches a bank keeps buffers and graphs of: the least recently used goes.
MAX_SEARCHES = 8


def obstacle(sources: PreparedSources, scales: Sequence[Scale], settings: RasterSettings, norm: int) -> str | None:
    """Why the kernels cannot search a bank; None where they can.

    Args:
        norm: bound on the norm of all keys.
    """
    if isinstance(sources, ShardedSources):
        return "sources of several processes: those of one are expected"
    if sources.costs is not None:
        return "sources with an offset cost: none is expected"
    count, depth, device = len(sources.keys), sources.keys.shape[3], sources.keys.device
    if settings.neighbors > MAX_NEIGHBOURS:
        return f"neighbours {settings.neighbors}: at most {MAX_NEIGHBOURS} is expected"
    # Products of the lower planes are at most 2^12.
    if settings.patch_size**2 * depth >= 1 << 19 or score_bound(settings.patch_size, norm) >= (1 << 62) // _SPAN:
        return f"patch_size {settings.patch_size}: sums over such patches exceed what is held exactly"
    if count > _SPAN:
        return f"{count} sources: at most {_SPAN} is expected"
    needed = sum(Layout.bytes(count, depth, *name) for name in {(scale.size, scale.unit) for scale in scales})
    if needed > _allowed(device):
        return f"{count} sources: their layouts take {needed} bytes, at most {_allowed(device)} is expected"
    if device.type != "cuda" and isinstance(kernels.walk, triton.JITFunction):  # not run by the interpreter
        return f"keys on {device}: a CUDA GPU is expected"
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
    """Index maps as :func:`~latentpatch.methods.latent.raster.raster` gives them, of what :func:`obstacle` lets pass.

    Args:
        scales: of the sampler.
        memory: bound in bytes on candidates; a block of :data:`IMAGES` is searched whatever it is.
        keep: whether these scales come again.
    """
    with _LOCK:
        bank = _BANKS.setdefault(sources, _Bank())
    maps = [torch.zeros((0, *sources.keys.shape[1:3]), dtype=torch.int64, device=noise.device)]
    group = _images_at_a_time(memory, len(sources.keys), settings.neighbors)
    # Tensors made in inference mode could not be written to outside of it.
    with torch.inference_mode(False), torch.no_grad(), _on(sources.keys.device):
        for first in range(0, len(noise), group):
            some = noise[first : first + group]
            given = reference if reference is None or len(reference) == 1 else reference[first : first + group]
            images = max(IMAGES, triton.next_power_of_2(len(some)))
            search = bank.search(sources.keys, scales, settings.neighbors, images, given is not None, keep)
            maps.append(search(some, given))
    return torch.cat(maps)


@cache
def agrees(device: torch.device) -> bool:
    """Whether the kernels run on a device and find there what torch finds: tried once, on small banks."""
    generator = torch.Generator().manual_seed(0)
    try:
        for count, depth, stride in ((20, 4, 1), (WALKED + SOURCES + 1, 16, 2)):  # all kernels, both lengths of slabs
            settings = RasterSettings(patch_size=4, stride=stride, neighbors=3, scales=2, start_size=4)
            keys = torch.randint(-300, 300, (count, 6, 6, depth), dtype=torch.int16, generator=generator).to(device)
            noise = torch.rand(3, raster_steps((6, 6), settings), generator=generator).to(device)
            expected, prepared = raster(keys, noise, settings, backend="torch"), PreparedSources(keys)
            for _ in range(3):  # launched, captured, replayed
                if not torch.equal(raster(prepared, noise, settings, backend="triton"), expected):
                    raise RuntimeError("they find other sources than torch")
    except Exception as error:  # no C compiler, a GPU too old, a driver too old: whatever it is, torch can do it
        warnings.warn(f"Triton's kernels cannot be used on {device}, the search is torch's: {error}", stacklevel=4)
        return False
    return True


class _Bank:
    """What was prepared of a bank, by size of the grid, and for searches that may come again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.layouts: dict[tuple[tuple[int, int], int], Layout] = {}
        self.searches: OrderedDict[object, _Search] = OrderedDict()

    def search(
        self,
        keys: Tensor,
        scales: tuple[Scale, ...],
        neighbours: int,
        images: int,
        guided: bool,
        keep: bool,
    ) -> _Search:
        """One of so many images; guided by a reference, or not."""
        name = (scales, neighbours, images, guided)
        with self.lock:
            found = self.searches.get(name)
            if found is None:
                self._lay_out(keys, {(scale.size, scale.unit) for scale in scales})
                layouts = [self.layouts[scale.size, scale.unit] for scale in scales]
                levels = [_Level(*pair, neighbours, images) for pair in zip(scales, layouts, strict=True)]
                found = _Search(levels, keys.shape[1:], guided)
                if keys.is_cuda:
                    torch.cuda.current_stream().synchronize()  # other streams may search next
            if keep:
                self.searches[name] = found
                self.searches.move_to_end(name)
                while len(self.searches) > MAX_SEARCHES:
                    self.searches.popitem(last=False)
            return found

    def _lay_out(self, keys: Tensor, names: set[tuple[tuple[int, int], int]]) -> None:
        """Prepare the sources at these sizes; those of former searches go where not all fit."""
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
    """A scale of a search, on the device: what its places compare and write, and where results go.

    Args:
        layout: of the bank at this scale.
        images: a multiple of :data:`IMAGES`.
    """

    def __init__(self, scale: Scale, layout: Layout, neighbours: int, images: int) -> None:
        device = layout.norms.device
        self.scale = scale
        self.layout = layout
        self.neighbours = neighbours
        numbers, self.spans = _slabs_of_places(scale, len(layout.slabs))
        self.numbers = torch.tensor(numbers, dtype=torch.int32, device=device)
        self.fill = torch.from_numpy(scale.fill)[:, :, None].to(device)
        self.queries = torch.zeros((len(layout.slabs), 2, images, layout.length), dtype=torch.int8, device=device)
        # The last stays -1, for cells that no place writes.
        self.picks = torch.full((len(self.spans) + 1, images), -1, dtype=torch.int64, device=device)
        self.slots = triton.next_power_of_2(neighbours)
        count = len(layout.norms[0])
        self.walked = count <= WALKED
        if self.walked:
            self.spans_there = torch.tensor(self.spans, dtype=torch.int32, device=device)
        else:
            self.tiles, self.parts = _parts(count, neighbours)
            self.candidates = torch.empty((images, self.parts, self.slots), dtype=torch.int64, device=device)

    def hold(self, grids: Tensor) -> None:
        """Set what the images hold: ``(N, h, w, r)`` int16."""
        self.queries.copy_(to_slabs(grids, self.scale.unit, self.layout.length))

    def held(self, depth: int) -> Tensor:
        """What the images hold: ``(N, h, w, r)`` int16."""
        return from_slabs(self.queries, self.scale.size, self.scale.unit, depth)

    def scan(self, uniforms: Tensor) -> None:
        """Visit all places, ``(N, places)``."""
        images, count = self.queries.shape[2], self.layout.norms.shape[1]
        ranks, blind = draw(uniforms, self.neighbours), draw(uniforms, count)
        length = self.layout.length
        found = {"SLOTS": self.slots, "SOURCES": SOURCES, "IMAGES": IMAGES, "num_stages": _STAGES}
        blocks = images // IMAGES
        slabs, norms = self.layout.slabs, self.layout.norms
        if self.walked:
            kernels.walk[(blocks,)](
                self.picks, self.queries, images, ranks, blind, len(self.spans), self.spans_there,
                slabs, norms, count, self.numbers, self.neighbours, LENGTH=length, **found,
            )  # fmt: skip
            return
        width = self.parts * self.slots
        for place, (compared, written, end) in enumerate(self.spans):
            is_blind = compared == written
            if not is_blind:
                kernels.nearest_of_parts[(blocks, self.parts)](
                    self.candidates, self.queries, images, slabs, norms, count, self.tiles,
                    self.numbers, compared, written, self.neighbours, LENGTH=length, **found,
                )  # fmt: skip
            kernels.copy_drawn[(images,)](
                self.picks, self.queries, images, self.candidates, width, blind if is_blind else ranks,
                len(self.spans), place, slabs, count, self.numbers, written, end,
                CANDIDATES=triton.next_power_of_2(width), BLIND=is_blind, LENGTH=length, num_warps=8,
            )  # fmt: skip


class _Search:
    """All scales for a number of images, with buffers of its own.

    Args:
        levels: coarse to fine.
        shape: ``(h, w, r)`` of the bank.
        guided: whether a reference is given.
    """

    def __init__(self, levels: list[_Level], shape: Sequence[int], guided: bool) -> None:
        images, device = levels[0].queries.shape[2], levels[0].queries.device
        grid, self.depth = (shape[0], shape[1]), shape[2]
        self.levels = levels
        # -1 is the last row of picks.
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
        """Index maps ``(N, h, w)`` of as many images as there are or fewer."""
        with self.lock:
            if self.done is not None:
                self.done.wait()  # for the searches of other streams, by this stream
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
        # The first time compiles kernels, and many a search does not come a second time.
        if self.noise.is_cuda and self.uses == 2:
            self._capture()
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()

    def _capture(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.noise.device)
        # One capture at a time, for it begins by waiting for the device; of other threads, it forbids nothing else.
        with _CAPTURING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._run()
        self.graph = graph

    def _run(self) -> None:
        grids: Tensor | None = None
        taken = 0
        for number, level in enumerate(self.levels):
            given = None if self.reference is None else self.from_reference[number](self.reference)
            if grids is None:
                grids = given
            else:
                grids = self.from_coarser[number - 1](grids)
                if given is not None and not level.scale.fill.all():
                    grids = torch.where(level.fill, grids, given)
            if grids is not None:
                level.hold(grids)
            level.scan(self.noise[:, taken : taken + len(level.spans)])
            taken += len(level.spans)
            if number < len(self.levels) - 1:
                grids = level.held(self.depth)
        self.index.copy_(self.levels[-1].picks[self.writers].movedim(2, 0))


def _slabs_of_places(scale: Scale, slabs: int) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Slabs to compare and to write of one place after the other; and where each place's begin, change and end."""
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


def _parts(count: int, neighbours: int) -> tuple[int, int]:
    """Into how many parts sources are cut, and the tiles of each. -> (tiles, parts)"""
    tiles = -(-count // SOURCES)
    each = -(-tiles // (MAX_CANDIDATES // triton.next_power_of_2(neighbours)))
    return each, -(-tiles // each)


def _images_at_a_time(memory: int, count: int, neighbours: int) -> int:
    """A power of two, so that searches of other numbers of images are few."""
    bytes_an_image = 8 * _parts(count, neighbours)[1] * int(triton.next_power_of_2(neighbours))
    fit = min(MAX_IMAGES, memory // bytes_an_image)
    return max(IMAGES, 1 << max(0, fit.bit_length() - 1))


def _allowed(device: torch.device) -> int:
    """Bytes a bank's layouts may take; where there is no GPU, as on one of 16 GB."""
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 1 << 34
    return int(MAX_SHARE * total)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
