"""Tasks on pictures behind limits: without the model, each request by itself."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from .. import __version__
from ..errors import SettingError
from ..io.channels import read_channels
from ..io.images import read_mask
from ..io.opening import open_image
from ..methods.single_image.presets import presets_of, task_settings
from ..picture_tasks import make_pictures
from ..registry import PICTURE_METHODS, TASKS
from ..results import PictureGeneration
from ..scene_tasks import exemplar_shares
from ..settings import Settings
from .failures import BUSY, Failure, Refusal
from .limits import Limits, check_bytes, count_images, too_much_work
from .schema import PictureRequest
from .setting_fields import apply_settings
from .trained_models import TrainedModels

__all__ = ["estimate_task", "run_task", "task_report", "tasks_info"]

_EXEMPLARS = ("weights", "map", "symmetric")  # fields of textures from pictures
#: Tasks by fields that have no meaning for them.
_WITHOUT = {
    "target": ("reshuffle", "retarget", "texture"),
    "mask": ("reshuffle", "retarget", "texture", "compose", "analogy", "stylize", "denoise"),
    **dict.fromkeys(_EXEMPLARS, tuple(task for task in TASKS if task != "texture")),
}
_WHOLE = 0.75  # part of a batch's time that is as good as all of it


def tasks_info(limits: Limits) -> dict[str, Any]:
    """Return the methods and presets of each task, the default method first; nothing where tasks are refused."""
    tasks = {task: PICTURE_METHODS.having(task) for task in TASKS if limits.max_task_pixels}
    return {task: {"methods": names, "presets": list(presets_of(task))} for task, names in tasks.items() if names}


def estimate_task(request: PictureRequest, limits: Limits, trained: TrainedModels) -> float:
    """Return about how many seconds a task takes, by the headers of its pictures.

    Args:
        request: the task.
        limits, trained: of the server.

    Raises:
        Refusal, LatentPatchError, SettingError: for a task that is turned off, and pictures that cannot be used, are
            too large, or make too large ones.
    """
    if not limits.max_task_pixels:
        raise SettingError("operation", request.operation, "another: this server has no tasks on pictures")
    for name, tasks in _WITHOUT.items():
        if getattr(request, name) is not None and request.task in tasks:
            raise SettingError(name, "a value", f"absent for {request.task}")
    for name in _EXEMPLARS:
        if getattr(request, name) is not None and request.trained is not None:
            raise SettingError(name, "a value", "absent for trained models")
    check_bytes(request.mask or b"", "mask", limits)
    if request.map is not None:
        _header_size(request.map, "map", limits)
    sizes = {name: _header_size(data, name, limits) for name, data in _files(request).items()}
    _check_pixels("pictures", sum(height * width for height, width in sizes.values()), limits)
    own = trained.size_of(request) if request.trained is not None else next(iter(sizes.values()))
    size, count = request.size or sizes.get("target") or own, count_images(request)
    _check_pixels("n" if count > 1 else "size", count * size[0] * size[1], limits)
    if request.trained is not None:
        return trained.estimate(request, size, count)
    settings = _settings(request)
    sources = [each for name, each in sizes.items() if name != "target"]
    return PICTURE_METHODS.of(settings).task_seconds(request.task, sources, size, count, settings)


def run_task(request: PictureRequest, limits: Limits, trained: TrainedModels, deadline: float) -> PictureGeneration:
    """Return the result of a task.

    Args:
        request: that :func:`estimate_task` did not refuse.
        limits, trained: of the server.
        deadline: of the batch, in seconds of ``time.monotonic``; checked after each step.

    Raises:
        Refusal: 413 for a task that had all of the time and was not done, 503 for one that shared it.
        LatentPatchError, SettingError: for pictures and settings that cannot be used.
    """
    has_all = deadline - time.monotonic() >= _WHOLE * limits.max_seconds

    def check_time(_: object) -> None:
        if time.monotonic() > deadline:
            raise too_much_work(limits) if has_all else Refusal(BUSY)

    check_time(None)
    pictures = {
        name: read_channels(data, name=name, max_pixels=limits.max_task_pixels)
        for name, data in _files(request).items()
    }
    target = pictures.pop("target", None)
    sources = list(pictures.values())
    mask = None
    around = next((each for each in (target, *sources) if each is not None), None)
    if request.mask is not None and around is not None:
        height, width = around.shape[1:]
        mask = read_mask(request.mask, (height, width), name="mask", max_pixels=limits.max_pixels)
    if request.trained is not None:
        return trained.run(request, target, mask, check_time)
    own_map = None if request.map is None else read_channels(request.map, name="map", max_pixels=limits.max_task_pixels)
    size = request.size or (int(sources[0].shape[1]), int(sources[0].shape[2]))
    return make_pictures(
        request.task, sources, request.size, request.all_seeds, settings=_settings(request), target=target, mask=mask,
        shares=exemplar_shares(len(sources), size, request.weights, own_map), symmetric=request.symmetric,
        observe=check_time,
    )  # fmt: skip


def task_report(request: PictureRequest, result: PictureGeneration) -> dict[str, Any]:
    """Return the facts that all pictures of a task have in common."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in _files(request).items()}
    target = digests.pop("target", None)
    given: dict[str, Any] = {"trained": request.trained}
    if request.trained is None:
        sources = zip(digests.values(), result.sizes, strict=True)
        given = {"sources": [{"sha256": digest, "size": list(size)} for digest, size in sources]}
    return {
        "version": __version__,
        "task": result.task,
        **result.settings_record(),
        "size": list(result.images.shape[2:]),
        **given,
        **({} if target is None else {"target": {"sha256": target}}),
        **({} if request.map is None else {"map": {"sha256": hashlib.sha256(request.map).hexdigest()}}),
        **{name: value for name in ("weights", "symmetric") if (value := getattr(request, name)) is not None},
    }


def _files(request: PictureRequest) -> dict[str, bytes]:
    """Return the files of the pictures by field."""
    files = {
        f"pictures.{i}" if len(request.pictures) > 1 else "pictures": each for i, each in enumerate(request.pictures)
    }
    return files if request.target is None else {**files, "target": request.target}


def _settings(request: PictureRequest) -> Settings:
    return apply_settings(task_settings(request.task, request.method, request.preset), request.settings)


def _header_size(data: bytes, name: str, limits: Limits) -> tuple[int, int]:
    check_bytes(data, name, limits)
    with open_image(data, name, limits.max_task_pixels) as image:
        return image.height, image.width


def _check_pixels(name: str, pixels: int, limits: Limits) -> None:
    if pixels > limits.max_task_pixels:
        message = f"{name}: pictures of a task have at most {limits.max_task_pixels} pixels together, not {pixels}"
        raise Refusal(Failure(413, "picture_too_large", message, name))
