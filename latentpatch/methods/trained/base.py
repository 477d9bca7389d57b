"""The contract of trained models: networks that make pictures scale by scale, and their file."""

from __future__ import annotations

import importlib
import json
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ...errors import FileError, SettingError
from ...io.mmap import open_tensors
from ...io.stored import read_stored, write_stored
from ...ops.compositing import fill_smoothly, join
from ...ops.pyramid import resize
from ...runs.defaults import plain_torch
from ...runs.system import check_memory
from ...runs.threads import map_in_threads
from ...validation import check_choice, check_integer
from ..memory import check_count
from ..picture import REGION_TASKS, Observer, PictureStep, check_picture, check_region
from .settings import TrainedSettings

__all__ = ["FORMAT", "TrainedModel", "is_trained", "load_trained"]

FORMAT = "latentpatch-trained/1"

_MOST_PIXELS = 1 << 24  # pixels of a model's pictures
_MOST_UNITS = 1 << 14  # channels, layers or codes of a model's file

_CHANNEL_BYTES = 32  # memory of a pixel in a channel of the finest scale, measured: inputs and outputs of a layer

#: Classes by the name of the method, "MODULE:CLASS" relative to this package.
CLASSES = {
    "singan": ".singan:SinGAN",
    "concat-singan": ".singan:SinGAN",
    "hp-vae-gan": ".hp_vae_gan:HPVAEGAN",
    "fewgan": ".fewgan:FewGAN",
}


class TrainedModel(nn.Module):
    """A model that was trained on one picture or a few, for tasks on pictures.

    Args:
        method: name of the method that trained it.
        sizes: heights and widths of the scales, coarse to fine.
        size: height and width of its pictures; by default those of the finest scale.
        trained: facts about its training, as JSON: settings, seed, digests of the pictures.

    Attributes:
        tasks: of :data:`~latentpatch.registry.TASKS`, those that it does.
    """

    tasks: ClassVar[tuple[str, ...]] = ("reshuffle", "retarget", "analogy", "harmonize", "edit")

    def __init__(
        self,
        method: str,
        sizes: Sequence[Sequence[int]],
        size: Sequence[int] | None = None,
        trained: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.method = check_choice("method", method, CLASSES)
        self.sizes = [_checked("sizes", each) for each in sizes]
        if any(h > self.sizes[-1][0] or w > self.sizes[-1][1] for h, w in self.sizes):
            raise SettingError("sizes", self.sizes, "coarse to fine")
        self.size = self.sizes[-1] if size is None else _checked("size", size)
        self.trained = trained or {}

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the class that are its own, beside those of :class:`TrainedModel`."""

    @abstractmethod
    def make_one(
        self, generator: torch.Generator, sizes: list[tuple[int, int]], start: int, before: Tensor | None
    ) -> Tensor:
        """Return one picture ``(1, 3, h, w)`` in [-1, 1].

        Args:
            generator: of the noise, on the CPU.
            sizes: of all scales.
            start: first scale that makes the picture anew.
            before: a picture in [-1, 1] of the scale before, enlarged to the size of the start; of the first scale's
                size where the start is 0. None for the model's own.
        """

    def fill_one(
        self, generator: torch.Generator, sizes: list[tuple[int, int]], before: Tensor, mask: Tensor
    ) -> Tensor:
        """Return one picture with a hole filled, ``(1, 3, h, w)`` in [-1, 1]; for models that do the task inpaint.

        Args:
            generator, sizes: as for :meth:`make_one`.
            before: a picture of the first scale's size in [-1, 1], its hole filled smoothly.
            mask: ``(h, w)`` bool, True in the hole.
        """
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.parameters()).device

    def sizes_for(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """Return the sizes of all scales for pictures of a size."""
        height, width = self.sizes[-1]
        return [(max(1, round(h * size[0] / height)), max(1, round(w * size[1] / width))) for h, w in self.sizes]

    def check_memory(self, size: Sequence[int], count: int = 1) -> None:
        """Refuse pictures of a size, and more pictures, than fit into memory.

        Raises:
            SettingError: naming ``size`` or ``n``.
        """
        finest = getattr(self, "scales", None)
        layers = (finest[-1] if finest else self).parameters()
        channels = max(each.shape[0] for each in layers if each.ndim == 4)
        pixels = size[0] * size[1]
        check_memory("size", tuple(size), pixels * channels * _CHANNEL_BYTES, self.device)
        check_count(count, pixels)

    @torch.no_grad()
    @plain_torch()
    def make(
        self,
        task: str,
        seeds: Sequence[int],
        size: Sequence[int] | None = None,
        settings: TrainedSettings | None = None,
        *,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> Tensor:
        """Return pictures ``(N, 3, h, w)`` in [0, 1], one a seed; each is the same alone and in any batch.

        Args:
            task: of :attr:`tasks`.
            seeds: of the pictures, N.
            size: height and width in pixels; by default the target's, or those of the model.
            settings: by default those of the task; they name the first scale that makes the picture anew.
            target: ``(3, h, w)`` in [0, 1], for tasks that have one: the layout of an analogy, the naive edit.
            mask: ``(h, w)`` bool; pixels outside of it stay as they are, for tasks that have one.
            observe: called after each picture.

        Raises:
            SettingError: for arguments out of range.
        """
        check_choice("task", task, self.tasks)
        start = self.start_of(task, settings or TrainedSettings())
        if (target is None) != (task in ("reshuffle", "retarget")):
            raise SettingError("target", None if target is None else "a picture", f"a picture or none, as {task} needs")
        height, width = self.size if size is None else size
        if target is not None:
            target = check_picture("target", target)
            if target.shape[0] != 3:
                raise SettingError("target", tuple(target.shape), "of 3 channels")
            height, width = target.shape[1:]
        if target is not None and task in REGION_TASKS:
            check_region(mask, (height, width), (height, width))
        final = (height, width)
        if not len(seeds):
            raise SettingError("seeds", list(seeds), "at least one")
        sizes = self.sizes_for(final)
        self.check_memory(final, len(seeds))
        if min(sizes[0]) < 3:
            raise SettingError("size", final, "larger: the coarsest scale has less than 3 pixels")
        before = None
        if target is not None:
            around = sizes[max(start - 1, 0)]
            seen = fill_smoothly(target[None], mask) if task == "inpaint" and mask is not None else target[None]
            shrunk = resize(seen.to(self.device) * 2 - 1, around)
            before = resize(shrunk, sizes[start])
        self.eval()
        finished: list[int] = []

        def one(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            if task == "inpaint" and before is not None and mask is not None:
                made = self.fill_one(generator, sizes, before, mask.to(self.device))
            else:
                made = self.make_one(generator, sizes, start, before)
            image: Tensor = (made[0].float().clamp(-1, 1) + 1).cpu() / 2
            if target is not None and mask is not None:
                image = join(image[None], target[None], mask)[0]
            finished.append(seed)
            if observe is not None:
                observe(PictureStep(len(finished), len(seeds), image[None], f"picture {len(finished)}"))
            return image

        return torch.stack(map_in_threads(one, [check_integer("seeds", seed, 0, 2**63 - 1) for seed in seeds]))

    def start_of(self, task: str, settings: TrainedSettings) -> int:
        """Return the scale that a task starts from, by default that of the task.

        Raises:
            SettingError: for a scale that the model does not have.
        """
        last = len(self.sizes) - 1
        defaults = {"analogy": min(1, last), "edit": (last + 1) // 2, "harmonize": max(min(1, last), last - 1)}
        if settings.start_scale is None:
            return defaults.get(task, 0)
        return check_integer("start_scale", settings.start_scale, 0, last)

    def save(self, path: str | Path) -> None:
        """Write the model file, whole or not at all.

        Raises:
            FileError: where it cannot be written.
        """
        write_stored(path, FORMAT, self.facts(), self.state_dict())

    def facts(self) -> dict[str, Any]:
        """Return method, sizes, facts about the training and further arguments of the class, as JSON."""
        facts = {"method": self.method, "sizes": self.sizes, "size": self.size, "trained": self.trained}
        return {**facts, "arguments": self.arguments()}


def _checked(name: str, size: Sequence[int]) -> tuple[int, int]:
    """Return height and width of a scale or of pictures, of at least 3 pixels a side and at most 16 million."""
    height, width = (check_integer(name, side, 3, _MOST_PIXELS) for side in size)
    check_integer(name, height * width, 9, _MOST_PIXELS)
    return height, width


def is_trained(path: object) -> bool:
    """Return whether a path is that of a trained model's file; its header is read."""
    if not isinstance(path, (str, Path)) or Path(path).suffix != ".safetensors":
        return False
    try:
        with open_tensors(path) as stored:
            header = json.loads((stored.metadata() or {}).get("latentpatch", "null"))
        return isinstance(header, dict) and header.get("format") == FORMAT
    except (OSError, SafetensorError, ValueError, RecursionError):
        return False


@plain_torch(for_gradients=True)
def load_trained(path: str | Path) -> TrainedModel:
    """Load a trained model from its file, as ``latentpatch train`` writes it.

    Args:
        path: the file; no code in it is run.

    Raises:
        FileError: where it is no such file, or malformed.
    """
    header, tensors = read_stored(path, FORMAT)
    try:
        module, _, name = CLASSES[header["method"]].partition(":")
        kind: type[TrainedModel] = getattr(importlib.import_module(module, __package__), name)
        facts = {key: header[key] for key in ("method", "sizes", "size", "trained")}
        arguments: dict[str, Any] = {
            key: check_integer(key, value, 0, _MOST_UNITS) for key, value in header["arguments"].items()
        }
        with torch.device("meta"), warnings.catch_warnings():  # no memory before the tensors are known to fit
            warnings.simplefilter("ignore")  # layers of no channels
            model = kind(**facts, **arguments)
        floats = {value.dtype for value in tensors.values() if value.is_floating_point()}  # one type, perhaps half
        expected = {key: (value.shape, value.is_floating_point()) for key, value in model.state_dict().items()}
        found = {key: (value.shape, value.is_floating_point()) for key, value in tensors.items()}
        if expected != found or len(floats) != 1:
            raise ValueError(f"tensors are not those of {header['method']}")
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise ValueError("tensors must be finite")
        model.load_state_dict(tensors, assign=True)
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise FileError(path, f"malformed model file: {' '.join(str(error).split())}") from error
    return model.eval().requires_grad_(False)
