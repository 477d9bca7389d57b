"""Checks of arguments; each raises :class:`~latentpatch.errors.SettingError` with the argument's name."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING, Any

from .errors import SettingError, SettingTypeError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "check_choice",
    "check_dense",
    "check_flag",
    "check_integer",
    "check_noise",
    "check_number",
    "check_real",
    "check_reference",
    "plain",
]


def plain(value: Any) -> Any:
    """Return a NumPy number, or a tensor without axes, as the number of Python; others as they are."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def check_integer(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return ``value`` as an ``int`` if it is an integer, of NumPy or torch too, from ``least`` to ``most``.

    Raises:
        SettingTypeError: for another type, ``bool`` among them.
        SettingError: out of range.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingTypeError(name, value, "an integer")
    if value < least or (most is not None and value > most):
        raise SettingError(name, value, f"at least {least}" if most is None else f"from {least} to {most}")
    return value


def check_real(name: str, value: object) -> float:
    """Return ``value`` as an ``int`` or ``float`` if it is a number, of NumPy or torch too; NaN and infinity pass.

    Raises:
        SettingTypeError: for another type.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingTypeError(name, value, "a number")
    return value


def check_number(name: str, value: object, least: float, most: float) -> float:
    """Return ``value`` if it is a finite number from ``least`` to ``most``.

    Raises:
        SettingTypeError, SettingError: otherwise.
    """
    number = check_real(name, value)
    if not (least <= number <= most and isfinite(number)):  # an integer may be too large for a float
        raise SettingError(name, value, f"from {least:g} to {most:g}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        SettingTypeError: otherwise.
    """
    if not isinstance(value, bool):
        raise SettingTypeError(name, value, "True or False")
    return value


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        SettingError: otherwise.
    """
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        raise SettingError(name, value, f"one of {', '.join(names)}")
    return value


def check_dense(name: str, tensor: Tensor) -> None:
    """Refuse a tensor without values in memory: a sparse one, or one of the device meta.

    Raises:
        SettingTypeError: otherwise.
    """
    layout = str(tensor.layout).removeprefix("torch.")
    if layout != "strided" or tensor.is_meta:
        raise SettingTypeError(name, f"a {layout} tensor on {tensor.device.type}", "a dense tensor with values")


def check_noise(noise: Tensor, noise_dim: int) -> None:
    """Refuse noise that is not ``(N, noise_dim)`` float32 or float64; bfloat16 has 128 numbers from 1/2 to 1.

    Raises:
        SettingTypeError, SettingError: otherwise.
    """
    dtype = str(noise.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise SettingTypeError("noise", dtype, "float32 or float64, whatever the type of the module")
    if noise.ndim != 2 or noise.shape[1] != noise_dim:
        raise SettingError("noise", tuple(noise.shape), f"of shape (N, {noise_dim})")


def check_reference(reference: Tensor | None, bank: Tensor, num_images: int) -> None:
    """Refuse references that are not ``(N, h, w, r)`` or ``(1, h, w, r)`` for search keys ``(B, h, w, r)``.

    Raises:
        SettingError: with both shapes.
    """
    if reference is None:
        return
    shape = ", ".join(map(str, bank.shape[1:]))
    if reference.shape[1:] != bank.shape[1:] or reference.shape[0] not in (1, num_images):
        raise SettingError("reference", tuple(reference.shape), f"of shape (1 or {num_images}, {shape})")
