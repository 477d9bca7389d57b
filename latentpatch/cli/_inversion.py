"""Options of inversion; importing this module imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import SettingError
from ..methods.inversion.names import GENERATORS, parse_generator
from ..methods.inversion.settings import InversionSettings
from ..settings import declared
from . import _options as cli
from ._parsing import OptionGroup, Parser
from ._samplers import add_settings, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

__all__ = ["GENERATOR_HELP", "InversionOptions", "generator_name", "write_animation"]

GENERATOR_HELP = f"one of {', '.join(GENERATORS)}; after a colon, its file or folder"

_FRAME_MS = 120


def generator_name(text: str) -> str:
    """Read ``NAME[:PATH]`` of a generator."""
    try:
        parse_generator(text)
    except SettingError as error:
        raise argparse.ArgumentTypeError(f"must be {error.constraint}, got {text!r}") from error
    return text


@dataclass(frozen=True, kw_only=True)
class InversionOptions(OptionGroup):
    """Changed settings of inversion.

    Attributes:
        changes: settings on the command line.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def add_to(cls, parser: Parser, omit: Collection[str] = ()) -> None:
        settings = {name: {"invert": each} for name, each in declared(InversionSettings).items()}
        add_settings(parser, settings, ["invert"])

    @classmethod
    def read(cls, parsed: argparse.Namespace) -> InversionOptions:
        return replace(super().read(parsed), changes=settings_of(parsed))

    def check(self) -> None:
        self.settings()

    def settings(self) -> InversionSettings:
        """Return the settings in force.

        Raises:
            SettingError: for values that do not go together.
        """
        return InversionSettings(**self.changes)


def write_animation(folder: Path, kind: str, images: Tensor, context: cli.RunContext) -> str:
    """Write pictures as an animation there and back. Return the file's name.

    Args:
        folder: where to write.
        kind: ``gif``, ``apng`` or ``mp4``; a GIF is written where OpenCV, which writes MP4, is not installed.
        images: ``(M, 3, H, W)`` in [0, 1].
        context: to say so.
    """
    from ..io.images import to_pil

    frames = [to_pil(each) for each in [*images, *images[1:-1].flip(0)]]
    if kind == "mp4":
        if _write_mp4(folder / "interpolation.mp4", frames):
            return "interpolation.mp4"
        context.say("no MP4 without OpenCV (pip install opencv-contrib-python-headless): a GIF in its place")
        kind = "gif"
    name = "interpolation.gif" if kind == "gif" else "interpolation.apng"
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": _FRAME_MS, "loop": 0}
    frames[0].save(folder / name, "GIF" if kind == "gif" else "PNG", **options)
    return name


def _write_mp4(path: Path, frames: list[Image.Image]) -> bool:
    """Write a film by OpenCV; return False where it is not installed, or has no encoder."""
    try:
        import cv2
    except ImportError:
        return False
    import numpy as np

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 1000 / _FRAME_MS, frames[0].size)
    for frame in frames if writer.isOpened() else []:
        writer.write(np.ascontiguousarray(np.asarray(frame)[:, :, ::-1]))
    writer.release()
    return path.is_file() and path.stat().st_size > 0
