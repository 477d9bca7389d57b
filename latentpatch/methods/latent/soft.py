"""A soft choice of sources, through which gradients pass.

A sampler's choice is an index and has no gradient. Here every source has a weight in every cell: the softmax
of the negative distances of the patches around the cell over a temperature, as in neural nearest neighbours (Plötz and
Roth, 2018, section 3). As the temperature falls the weights become those of the nearest patch alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SettingError
from ...settings import setting
from .patch_settings import PATCH_SIZE_HELP, PatchSettings, size_setting

if TYPE_CHECKING:
    from ...bank.bank import SourceBank
    from ...bank.pca import PCA

__all__ = ["SoftSettings", "patch_distances", "soft_weights", "source_weights"]


@dataclass(frozen=True)
class SoftSettings(PatchSettings):
    """Settings of the soft choice."""

    temperature: float = setting(
        0.1, "softness, in units of the sources' variance: two sources are about 2 apart", above=0
    )
    patch_size: int | float = size_setting(4, PATCH_SIZE_HELP, symbol="ω")
    neighbors: int | None = setting(
        None,
        "number of nearest sources with a weight in a cell",
        minimum=1,
        default_help="all",
        aliases=("neighbours",),
    )
    hard: bool = setting(False, "choose the nearest source alone, with the gradient of the soft weights")


def source_weights(
    bank: SourceBank, pca: PCA, latents: Tensor, settings: SoftSettings, candidates: Tensor | None = None
) -> Tensor:
    """Return the weight of every source in every cell: ``(N, B, h, w)`` float32, zero for those not among candidates.

    Args:
        bank: fitted, not sharded.
        pca: of the bank.
        latents: ``(N, L, h, w)`` floating point.
        settings: of the soft choice.
        candidates: ``(C,)`` int64 positions; None for all.

    Raises:
        SettingError: for arguments out of range.
    """
    shape = (len(pca.mean), *bank.grid)
    if latents.ndim != 4 or tuple(latents.shape[1:]) != shape or not latents.is_floating_point():
        found = f"{str(latents.dtype).removeprefix('torch.')} {tuple(latents.shape)}"
        raise SettingError("latents", found, f"floating-point numbers of shape (N, {', '.join(map(str, shape))})")
    keys = bank.validated_keys()
    if len(keys) != len(bank):
        raise ValueError("soft choice takes a bank that is not sharded")
    # Doubles: as the temperature falls, differences of large numbers decide.
    sources = (keys if candidates is None else keys[candidates]).double() * bank.key_step.double()
    distances = patch_distances(pca.project(latents.to(keys.device)), sources, settings.in_cells(bank.grid).window)
    variance = float(pca.explained_variance.double().sum()) or 1.0  # equal sources have no variance
    weights = soft_weights(distances / variance, settings).float()
    if candidates is None:
        return weights
    everyone = weights.new_zeros((len(weights), len(bank), *weights.shape[2:]))
    return everyone.index_copy(1, candidates, weights)


def patch_distances(reference: Tensor, sources: Tensor, patch_size: int) -> Tensor:
    """Return the mean squared distances ``(N, B, h, w)`` of the patches around each cell.

    Args:
        reference: ``(N, r, h, w)`` floating point.
        sources: ``(B, h, w, r)`` of the same type.
        patch_size: side of the patches in cells; cells beyond the grid do not count.

    Raises:
        SettingError: where the patch exceeds the grid.
    """
    height, width = reference.shape[2:]
    if patch_size > min(height, width):
        raise SettingError("patch_size", patch_size, f"at most {min(height, width)} (shorter side of the grid)")
    products = torch.einsum("nrhw,bhwr->nbhw", reference, sources)
    cells = reference.square().sum(1)[:, None] - 2 * products + sources.square().sum(3)
    before, after = patch_size // 2, (patch_size - 1) // 2  # the margins of resynthesis
    inside = F.pad(cells.new_ones(1, 1, height, width), (before, after, before, after))
    sums = F.avg_pool2d(F.pad(cells, (before, after, before, after)), patch_size, 1)
    distances: Tensor = sums / F.avg_pool2d(inside, patch_size, 1)
    return distances


def soft_weights(distances: Tensor, settings: SoftSettings) -> Tensor:
    """Return the weights of sources in cells, ``(N, B, h, w)``, which add up to 1 over the sources.

    Args:
        distances: ``(N, B, h, w)``.
        settings: with the temperature in units of the distances.

    Raises:
        SettingError: for more neighbors than sources.
    """
    count = settings.neighbors
    if count is not None:
        if count > distances.shape[1]:
            raise SettingError("neighbors", count, f"at most {distances.shape[1]} (number of sources)")
        nearest = distances.topk(count, dim=1, largest=False).indices
        distances = torch.full_like(distances, float("inf")).scatter(1, nearest, distances.gather(1, nearest))
    weights = (-distances / settings.temperature).softmax(1)
    if not settings.hard:
        return weights
    chosen = torch.zeros_like(weights).scatter_(1, distances.argmin(1, keepdim=True), 1)
    return chosen + (weights - weights.detach())
