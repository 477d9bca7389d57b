"""Errors of arguments, files, weights and missing packages.

Arguments raise ``ValueError`` or ``TypeError``, mostly as :class:`SettingError` with the argument's name. Failures of
the outside world (files, weights, packages, processes) raise a :class:`LatentPatchError`. Attributes carry the facts;
nobody has to parse a message.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

__all__ = [
    "EXTRAS",
    "AttributesWarning",
    "FileError",
    "ImageError",
    "ImageTooLargeError",
    "LatentPatchError",
    "MissingDependencyError",
    "PictureWarning",
    "RegistrationWarning",
    "SettingError",
    "SettingTypeError",
    "TrainingError",
    "UnlearningError",
    "WeightsError",
]

#: Packages of each optional feature, by the name of its extra in setup.cfg.
EXTRAS = {
    "taming": ("taming-transformers",),
    "diffusers": ("diffusers",),
    "huggingface": ("huggingface_hub",),
    "serve": ("torchserve", "pyyaml", "pydantic"),
    "http": ("starlette", "uvicorn", "python-multipart", "pydantic"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "heif": ("pillow-heif",),
    "numba": ("numba",),
    "triton": ("triton",),
    "filters": ("opencv-contrib-python-headless",),
    "course": ("jupytext", "matplotlib", "numba", "opencv-contrib-python-headless"),
    "evaluate": ("torch-fidelity", "lpips"),
    "bench": ("faiss-cpu", "numba", "matplotlib", "scikit-learn"),
}

_LONGEST = 200  # characters of a value in a message


class AttributesWarning(UserWarning):
    """Attributes name no source."""


class PictureWarning(UserWarning):
    """A picture was read, but not as it was meant: its colour profile was not applied, or its depth is unusual."""


class RegistrationWarning(UserWarning):
    """Sources do not show the same thing at the same place."""


class SettingError(ValueError):
    """An argument or setting out of range: "NAME must be CONSTRAINT, got VALUE".

    Attributes:
        name: the argument's name.
        value: the argument's value.
        constraint: what it must be, such as "at least 1".
        group: the argument that the name is an entry of, such as "settings"; None for an argument itself.
    """

    group: str | None = None

    def __init__(self, name: str, value: Any, constraint: str) -> None:
        super().__init__(name, value, constraint)
        self.name, self.value, self.constraint = name, value, constraint

    def __str__(self) -> str:
        return f"{self.name} must be {self.constraint}, got {shorten(self.value)}"


class SettingTypeError(SettingError, TypeError):
    """An argument or setting of a wrong type."""


class LatentPatchError(Exception):
    """Base of the errors of files, weights, packages and processes."""


class FileError(LatentPatchError):
    """A file or folder that cannot be read or written, or holds something else: "PATH: REASON".

    Attributes:
        path: the file or folder; None where a message is all there is.
        reason: why it cannot be used.
    """

    def __init__(self, path: str | PathLike[str], reason: str | None = None) -> None:
        super().__init__(path) if reason is None else super().__init__(path, reason)
        self.path = None if reason is None else path
        self.reason = str(path) if reason is None else reason

    def __str__(self) -> str:
        return self.reason if self.path is None else f"{self.path}: {self.reason}"


class ImageError(FileError):
    """A picture that cannot be used."""


class ImageTooLargeError(ImageError):
    """A picture of more pixels than are accepted; raised before it is decoded."""


class WeightsError(LatentPatchError):
    """Network weights that are missing, altered, malformed or not finite."""


class TrainingError(LatentPatchError):
    """A training whose losses or weights are not finite; its last checkpoint is good.

    Attributes:
        stage: the stage's name.
        step: steps of the stage until it was found.
        broken: names of the losses and weights that are not finite.
    """

    def __init__(self, stage: str, step: int, broken: list[str]) -> None:
        super().__init__(stage, step, broken)
        self.stage, self.step, self.broken = stage, step, broken

    def __str__(self) -> str:
        return (
            f"training stopped at step {self.step} of {self.stage}: {', '.join(self.broken[:4])} not finite; the last "
            "checkpoint is good: try a lower rate, float32 in place of bfloat16, or another seed, in another folder"
        )


class UnlearningError(LatentPatchError):
    """A removal of sources that could not be proved."""


class MissingDependencyError(LatentPatchError):
    """A feature whose optional packages are not installed.

    Attributes:
        package: the package that was not found.
        extra: the extra in setup.cfg that lists the feature's packages.
        feature: the feature, a noun for the message.
    """

    def __init__(self, package: str, extra: str, feature: str) -> None:
        super().__init__(package, extra, feature)
        self.package, self.extra, self.feature = package, extra, feature

    def __str__(self) -> str:
        # Names of packages that exist, wherever this one was installed from.
        install = " ".join(EXTRAS.get(self.extra, (self.package,)))
        return f"{self.feature} needs the package {self.package}: pip install {install}"


def printable(text: str) -> str:
    """Return text for a terminal: control characters, which could give it orders, as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def shorten(value: object) -> str:
    """Return ``repr(value)``, cut where it is too long for a message."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
