"""Checks of a bank's contents, as callers pass or files hold them; each raises ``ValueError``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import SettingError, SettingTypeError
from ..methods.latent.search.keys import KEY_NORM
from .grouping import renumbered
from .latents import chunks
from .residuals import cell_side

if TYPE_CHECKING:
    from .stored import StoredSources

__all__ = ["check_groups", "check_ids", "check_keys", "check_latents", "check_layout", "check_shape", "read_integers"]


def check_ids(ids: Sequence[str], count: int) -> None:
    """Refuse ids that are not one unique text for each of ``count`` sources.

    Raises:
        SettingError, SettingTypeError: about ``ids``.
    """
    if len(ids) != count:
        raise SettingError("ids", len(ids), f"one for each of {count} sources")
    seen: set[str] = set()
    for name in ids:
        if not isinstance(name, str):
            raise SettingTypeError("ids", name, "text")
        if name in seen:
            raise SettingError("ids", name, "unique")
        seen.add(name)


def check_shape(name: str, tensor: Tensor, shape: Sequence[int], count: int | None = None) -> None:
    """Refuse a tensor that is not ``(count, *shape)``; any count where it is None.

    Raises:
        SettingError: about ``name``.
    """
    if tensor.shape[1:] != tuple(shape) or count not in (None, len(tensor)):
        first = "B" if count is None else count
        raise SettingError(name, tuple(tensor.shape), f"of shape ({', '.join(map(str, (first, *shape)))})")


def check_layout(bank: StoredSources) -> None:
    """Refuse tensors, ids and attributes whose types, shapes or counts do not go together."""
    keys, latents, residuals = bank.keys, bank.latents, bank.residuals
    check_ids(bank.ids, len(keys) if keys.ndim else 0)
    for name, tensor, dtypes in (
        ("keys", keys, (torch.int16,)),
        ("latents", latents, (torch.float16, torch.int16)),
        ("details", residuals, (torch.int8,)),
        ("masks", bank.masks, (torch.uint8,)),
    ):
        is_empty = not tensor.numel() and name not in ("details", "masks")
        if tensor.dtype not in dtypes or tensor.ndim != 4 or is_empty:
            types = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(f"{name} must be {types} with four axes, got {tensor.dtype} of {tuple(tensor.shape)}")
        if tensor.numel() and tensor.shape[:3] != keys.shape[:3]:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} do not go with keys of {tuple(keys.shape)}")
    if bank.has_residuals and not cell_side(residuals.shape[3]):
        raise ValueError(f"details must have the values of whole cells, got {residuals.shape[3]} a cell")
    if len(bank.attributes) != len(bank.ids):
        raise ValueError(f"attributes must be one row for each of {len(bank.ids)} sources, got {len(bank.attributes)}")
    if bank.ids != bank.variants.ids(bank.sources):
        raise ValueError(f"ids must be those of sources with {bank.variants.count} variants each")
    if len(bank.grounds) != (len(bank.sources) if bank.masks.numel() else 0) or bank.masks.shape[3] % 4:
        raise ValueError(f"masks and grounds must be there for all of {len(bank.sources)} sources, or for none")
    check_groups(bank.group_numbers, len(bank.sources))
    step = bank.key_step
    if step.shape != () or step.dtype != torch.float32 or not 0 < float(step) < float("inf"):
        raise ValueError("key_step must be a positive float32 number")


def check_groups(numbers: Tensor, count: int) -> None:
    """Refuse group numbers that are not one for each of ``count`` sources, from 0 by first appearance."""
    is_integer = numbers.dtype == torch.int64 and numbers.shape == (count,)
    if not is_integer or not torch.equal(numbers, renumbered(numbers)):
        raise ValueError(f"groups must be numbers from 0 by first appearance, one for each of {count} sources")


def check_keys(keys: Tensor) -> None:
    """Refuse keys longer than :data:`~latentpatch.methods.latent.search.keys.KEY_NORM`."""
    for chunk in chunks(keys):
        # Single precision is exact up to 2^24, and KEY_NORM squared is below.
        if chunk.numel() and float(chunk.float().square().sum(3).max()) > KEY_NORM**2:
            raise ValueError(f"keys must not be longer than {KEY_NORM}")


def check_latents(latents: Tensor, num_codes: int | None = None) -> None:
    """Refuse latents that are not finite, and code indices that are negative or not below ``num_codes``."""
    if not bool(torch.isfinite(latents).all()) or (latents.dtype == torch.int16 and int(latents.min()) < 0):
        raise ValueError("latents must be finite, and codes not negative")
    if num_codes is not None and int(latents.max()) >= num_codes:
        raise ValueError(f"codes must be below the {num_codes} of the autoencoder")


def read_integers(record: Mapping[str, Any], name: str, dtype: torch.dtype, default: Sequence[int] = ()) -> Tensor:
    """Return the integers that a record has by a name, on the CPU."""
    values, wanted = record.get(name, default), f"{name} must be integers within {str(dtype).removeprefix('torch.')}"
    try:
        integers = torch.tensor(values, dtype=dtype, device="cpu")
        is_exact = not integers.numel() or not torch.tensor(values, device="cpu").is_floating_point()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(wanted) from error
    if not is_exact:
        raise ValueError(f"{wanted}, got {integers.numel()} fractions")
    return integers
