"""What samplers refuse alike."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_integer", "check_noise", "check_number", "check_real", "check_reference"]


def check_integer(name: str, value: object, least: int) -> None:
    """Refuse what is no integer, or too small.

    Raises:
        TypeError, ValueError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} {value!r}: an integer is expected")
    if value < least:
        raise ValueError(f"{name} {value}: at least {least} is expected")


def check_real(name: str, value: object) -> float:
    """Refuse what is no number. -> it

    Raises:
        TypeError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} {value!r}: a number is expected")
    return value


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Refuse what is no number, or out of range.

    Raises:
        TypeError, ValueError: naming it.
    """
    if not least <= check_real(name, value) <= most:
        raise ValueError(f"{name} {value}: {least:g} to {most:g} is expected")


def check_noise(noise: Tensor, steps: int) -> None:
    """Refuse noise that is not ``(N, steps)``, or too coarse: bfloat16 holds 128 numbers from 1/2 to 1.

    Raises:
        TypeError, ValueError: saying what was given.
    """
    if noise.dtype not in (torch.float32, torch.float64):
        given = str(noise.dtype).removeprefix("torch.")
        raise TypeError(f"noise: float32 or float64 is expected, whatever the type of the module, got {given}")
    if noise.ndim != 2 or noise.shape[1] != steps:
        raise ValueError(f"noise: shape (N, {steps}) is expected, got {tuple(noise.shape)}")


def check_reference(reference: Tensor | None, bank: Tensor, images: int) -> None:
    """Refuse references that are not ``(N, h, w, r)`` or ``(1, h, w, r)`` for a bank ``(B, h, w, r)``.

    Raises:
        ValueError: with both shapes.
    """
    if reference is not None and (reference.shape[1:] != bank.shape[1:] or reference.shape[0] not in (1, images)):
        raise ValueError(
            f"reference: shape (1 or {images}, {', '.join(map(str, bank.shape[1:]))}) is expected, "
            f"got {tuple(reference.shape)}"
        )
