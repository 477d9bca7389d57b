"""Compositing: masks between pixels and latent cells, and seamless joins (LatentPatch, section 3, figure 1 e)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runs.threads import one_thread

__all__ = ["cell_mask", "fill_smoothly", "join"]


def cell_mask(mask: Tensor, grid: tuple[int, int], least: float) -> Tensor:
    """Return the latent cells that a pixel mask selects: ``(h, w)`` bool.

    Args:
        mask: ``(H, W)`` bool, True where selected.
        grid: cells ``(h, w)`` that divide H and W.
        least: share of a cell's pixels from which on the cell is selected; 0 for any pixel at all.
    """
    covered = F.avg_pool2d(mask[None].float(), (mask.shape[0] // grid[0], mask.shape[1] // grid[1]))[0]
    return covered >= least if least > 0 else covered > 0


@one_thread()
def fill_smoothly(image: Tensor, mask: Tensor) -> Tensor:
    """Replace masked pixels by a smooth continuation of the others.

    Pull-push interpolation: averages of the unmasked pixels at ever coarser sizes, interpolated back.

    Args:
        image: ``(N, C, H, W)`` floating point.
        mask: ``(H, W)`` bool, True where pixels are replaced. A mask of everything gives zeros.

    Returns:
        ``(N, C, H, W)``, equal to ``image`` outside the mask.
    """
    weight = (~mask)[None, None].to(image)
    return torch.where(mask, _pull_push(image * weight, weight), image)


def _pull_push(total: Tensor, weight: Tensor) -> Tensor:
    """Return means of sums and counts of pixels; holes are filled from the next coarser size."""
    mean = total / weight.clamp(min=1e-6)
    if bool((weight > 0).all()) or max(total.shape[2:]) == 1:
        return mean
    # Filled pixels count alike at the coarser size, however many fall into one of its pixels.
    pad = (0, total.shape[3] % 2, 0, total.shape[2] % 2)
    coarse_weight = F.avg_pool2d(F.pad(weight, pad), 2)
    coarse_total = F.avg_pool2d(F.pad(total, pad), 2)
    filled = coarse_weight > 0
    coarse = _pull_push(coarse_total / coarse_weight.clamp(min=1e-6) * filled, filled.to(total))
    smooth = _doubled(_doubled(coarse, 2), 3)
    return torch.where(weight > 0, mean, smooth[:, :, : total.shape[2], : total.shape[3]])


def _doubled(values: Tensor, axis: int) -> Tensor:
    """Interpolate to twice the length; unlike that of torch, to the same last bit with any number of threads."""
    count = values.shape[axis]
    before = torch.cat([values.narrow(axis, 0, 1), values.narrow(axis, 0, count - 1)], axis)
    behind = torch.cat([values.narrow(axis, 1, count - 1), values.narrow(axis, count - 1, 1)], axis)
    pair = torch.stack([values * 0.75 + before * 0.25, values * 0.75 + behind * 0.25], axis + 1)
    return pair.flatten(axis, axis + 1)


@one_thread()
def join(inside: Tensor, outside: Tensor, mask: Tensor, reach: int = 16) -> Tensor:
    """Put one image into another without a visible border.

    Outside the mask the result is ``outside`` to the last bit. Inside it is ``inside`` plus a smooth continuation of
    the difference across the border, the membrane of Poisson image editing (Perez, Gangnet and Blake 2003). The
    membrane fades out away from the border: where the two differ there in content and not only in tone, a full
    membrane would stain the whole region.

    Args:
        inside: ``(N, 3, H, W)`` in [0, 1].
        outside: ``(1, 3, H, W)`` in [0, 1].
        mask: ``(H, W)`` bool.
        reach: pixels over which the correction fades.
    """
    # The fade is one beside the outside, falls with the distance from it, and is zero beyond ``reach``.
    near, fade = (~mask)[None, None].to(inside), torch.zeros_like(inside[:1, :1])
    for _ in range(reach):
        near = F.max_pool2d(near, 3, 1, 1)
        fade += near / reach
    correction = fill_smoothly(outside - inside, mask) * fade
    return torch.where(mask, (inside + correction).clamp(0, 1), outside.expand_as(inside))
