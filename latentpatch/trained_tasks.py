"""Tasks on pictures by a trained model: it takes the place of the pictures, which it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import SettingError, SettingTypeError
from .inputs import size_pair
from .methods.picture import Observer
from .methods.trained.base import TrainedModel, is_trained, load_trained
from .methods.trained.settings import TrainedSettings
from .results import PictureGeneration
from .settings import Settings
from .validation import check_choice

__all__ = ["make_trained", "opened"]


def opened(pictures: Any) -> TrainedModel | None:
    """Return the trained model that stands in the place of pictures, loaded where it is a file; else None."""
    if isinstance(pictures, (list, tuple)) and len(pictures) == 1:
        pictures = pictures[0]
    if isinstance(pictures, TrainedModel):
        return pictures
    return load_trained(Path(pictures)) if is_trained(pictures) else None


def make_trained(
    model: TrainedModel,
    task: str,
    size: tuple[int, int] | None,
    seeds: Sequence[int],
    method: str | None = None,
    settings: Settings | str | None = None,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    observe: Observer | None = None,
    changes: dict[str, Any] | None = None,
) -> PictureGeneration:
    """Return pictures of a task; see :func:`~latentpatch.picture_tasks.make_pictures` for the arguments.

    Raises:
        SettingError: for a task or settings that the model does not have.
    """
    if method is not None:
        check_choice("method", method, [model.method])
    settings = TrainedSettings() if settings is None else settings
    if not isinstance(settings, TrainedSettings):
        raise SettingTypeError("settings", type(settings).__name__, "those of a trained model: start_scale")
    if task not in model.tasks:
        raise SettingError("task", task, f"one of {', '.join(model.tasks)} for a model of {model.method}")
    settings = settings.changed(**(changes or {}))
    settings = settings.changed(start_scale=model.start_of(task, settings))
    sides = None if size is None else size_pair(size, 0)
    images = model.make(task, seeds, sides, settings, target=target, mask=mask, observe=observe)
    return PictureGeneration(images, tuple(seeds), (model.size,), task, model.method, settings)
