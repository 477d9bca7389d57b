"""What goes wrong with files, weights and requests, under one name.

Wrong arguments raise the built-in ``ValueError`` and ``TypeError``; everything that depends on the
outside world raises a :class:`LatentPatchError`, so a caller can catch one type.
"""

from __future__ import annotations

__all__ = ["FileError", "ImageError", "ImageTooLargeError", "LatentPatchError", "WeightsError"]


class LatentPatchError(Exception):
    """Base of the errors of files, weights and requests."""


class FileError(LatentPatchError):
    """A file or folder that cannot be read or written, or does not hold what its name promises."""


class ImageError(FileError):
    """A picture that cannot be used; the message names the file and what is accepted."""


class ImageTooLargeError(ImageError):
    """A picture of more pixels than are accepted; found before it is decoded."""


class WeightsError(LatentPatchError):
    """Network weights that are missing, altered, malformed or not finite."""
