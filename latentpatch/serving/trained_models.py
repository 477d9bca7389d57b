"""Tasks by trained models of a server, which take the place of a request's pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import SettingError
from ..methods.picture import Observer
from ..methods.trained.base import TrainedModel
from ..methods.trained.settings import TrainedSettings
from ..results import PictureGeneration
from ..trained_tasks import make_trained
from ..validation import check_choice
from .schema import PictureRequest
from .setting_fields import apply_settings

__all__ = ["TrainedModels", "name_and_file"]


@dataclass(frozen=True)
class _Served:
    model: TrainedModel
    seconds: float  # of a picture of the model's own size


class TrainedModels:
    """The trained models of a server, by name.

    Args:
        models: each makes one picture to measure how long that takes.
    """

    def __init__(self, models: Mapping[str, TrainedModel] | None = None) -> None:
        self._served = {name: _Served(model, _seconds(model)) for name, model in (models or {}).items()}

    def info(self) -> dict[str, Any]:
        """Return method, tasks and picture size of each model."""
        models = {name: served.model for name, served in self._served.items()}
        return {name: {"method": m.method, "tasks": list(m.tasks), "size": list(m.size)} for name, m in models.items()}

    def estimate(self, request: PictureRequest, size: tuple[int, int], count: int) -> float:
        """Return about how many seconds a request's pictures take.

        Args:
            request: with the name of a model.
            size: height and width of the results.
            count: number of pictures.

        Raises:
            SettingError: for a model, a task or settings that are not there.
        """
        served = self._of(request)
        for name in ("method", "preset"):
            if getattr(request, name) is not None:
                raise SettingError(name, getattr(request, name), "absent where trained is there")
        check_choice("task", request.task, served.model.tasks)
        served.model.start_of(request.task, _settings(request))
        ratio = size[0] * size[1] / (served.model.size[0] * served.model.size[1])
        return count * served.seconds * max(ratio, ratio * ratio)  # a PixelCNN draws code by code

    def size_of(self, request: PictureRequest) -> tuple[int, int]:
        """Return height and width of the pictures of a request's model."""
        return self._of(request).model.size

    def run(
        self, request: PictureRequest, target: Tensor | None, mask: Tensor | None, observe: Observer
    ) -> PictureGeneration:
        """Return the pictures of a request; ``observe`` is called after each."""
        model, settings = self._of(request).model, _settings(request)
        return make_trained(
            model, request.task, request.size, request.all_seeds, settings=settings, target=target, mask=mask,
            observe=observe,
        )  # fmt: skip

    def _of(self, request: PictureRequest) -> _Served:
        if not self._served:
            raise SettingError("trained", request.trained, "absent: this server has no trained models")
        return self._served[check_choice("trained", str(request.trained), self._served)]


def name_and_file(text: str) -> tuple[str, str]:
    """Return the name and the path of ``NAME=FILE``."""
    name, is_named, path = text.partition("=")
    if not (name and is_named):
        raise SettingError("trained", text, "NAME=FILE")
    return name, path


def _settings(request: PictureRequest) -> TrainedSettings:
    settings = apply_settings(TrainedSettings(), request.settings)
    assert isinstance(settings, TrainedSettings)
    return settings


def _seconds(model: TrainedModel) -> float:
    """Return the seconds that a picture takes, on a processor those of this process, however busy the machine is."""
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    start = clock()
    model.make("reshuffle", [0])
    return clock() - start
