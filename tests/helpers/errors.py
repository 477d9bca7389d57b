"""Assertions about errors: by type and fields, not by sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from latentpatch.errors import SettingError

__all__ = ["refuses"]


@contextmanager
def refuses(name: str, error: type[Exception] = SettingError) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Assert that a :class:`SettingError` about the argument ``name`` is raised, in the common form of messages.

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
