"""Assertions about errors: by type and fields, not by sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latentpatch.errors import FileError, SettingError

__all__ = ["refuses", "refuses_file"]


@contextmanager
def refuses(name: str, error: type[Exception] = SettingError) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Assert that a :class:`SettingError` about ``name`` is raised, in the common form of messages.

    Args:
        name: the argument.
        error: ``SettingTypeError`` or ``TypeError`` for a wrong type, another base to be caught by.
    """
    with pytest.raises(error) as caught:
        yield caught
    refusal = caught.value
    assert isinstance(refusal, SettingError), refusal
    assert refusal.name == name, refusal
    assert str(refusal).startswith(f"{name} must be "), refusal


@contextmanager
def refuses_file(
    path: str | Path, reason: str, error: type[FileError] = FileError
) -> Iterator[pytest.ExceptionInfo[FileError]]:
    """Assert that a :class:`FileError` is raised about a file or folder, for a reason.

    Args:
        path: the file's path, or the end of it.
        reason: a fragment of the reason.
        error: a subclass that must be raised.
    """
    with pytest.raises(error) as caught:
        yield caught
    refusal = caught.value
    assert str(refusal.path).endswith(str(path)), refusal
    assert reason in refusal.reason, refusal
