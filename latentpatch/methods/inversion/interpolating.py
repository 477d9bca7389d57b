"""Weighted means of the styles and noise maps of inverted pictures (GAN inversion, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import SettingError
from ...ops.noise import noise_from_seeds
from ...runs.defaults import plain_torch
from ...runs.system import check_memory
from ...runs.threads import map_in_threads
from ...validation import check_choice, check_integer
from ..memory import check_count
from .generator import Generator

__all__ = ["WEIGHTINGS", "interpolate", "weights_of"]

#: Ways to choose weights, with what each does.
WEIGHTINGS = {
    "line": "evenly from each input to the next, in order",
    "grid": "a square of which three or four inputs are the corners; with three, the last is their mean",
    "random": "uniform among all weights that add up to 1, each of its own seed",
}

_SUM_TOLERANCE = 1e-4
_WEIGHT_BYTES = 64  # memory of a weight while it is computed


@plain_torch()
def weights_of(kind: str, inputs: int, count: int, seed: int = 0) -> Tensor:
    """Return weights ``(count, inputs)`` float32 whose rows add up to 1.

    Args:
        kind: of :data:`WEIGHTINGS`.
        inputs: number of inputs, at least 2.
        count: number of pictures; a square number for ``grid``.
        seed: of the first picture, for ``random``; the next picture has the next seed.

    Raises:
        SettingError: for numbers that do not fit.
    """
    check_choice("by", kind, WEIGHTINGS)
    check_integer("inputs", inputs, 2)
    check_memory("n", count, _WEIGHT_BYTES * inputs * check_integer("n", count, 1))
    eye = torch.eye(inputs)
    if kind == "random":
        shares = -torch.log1p(-noise_from_seeds(range(seed, seed + count), inputs).double())
        return (shares / shares.sum(1, keepdim=True)).float()
    if kind == "line":
        places = torch.linspace(0, inputs - 1, count) if count > 1 else torch.tensor([(inputs - 1) / 2])
        before = places.floor().long().clamp(max=inputs - 2)
        share = (places - before)[:, None]
        return eye[before] * (1 - share) + eye[before + 1] * share
    side = math.isqrt(count)
    if inputs not in (3, 4) or side * side != count or side < 2:
        raise SettingError("by", f"grid of {count} from {inputs}", "a square number of pictures from 3 or 4 inputs")
    corners = torch.cat([eye, eye.mean(0, keepdim=True)])[:4]
    down, right = (each.flatten()[:, None] for each in torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="ij"))
    return torch.cat([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], 1) @ corners


@torch.no_grad()
@plain_torch()
def interpolate(
    generator: Generator, styles: Tensor, noise: Sequence[Tensor], weights: Tensor, *, seed: int = 0
) -> Tensor:
    """Return the pictures of weighted means of styles and noise maps.

    The noise maps beyond those of the inputs are the generator's maps of ``seed`` in all pictures.

    Args:
        generator: that the inputs were inverted into.
        styles: ``(N, L, D)``.
        noise: the first k noise maps ``(N, 1, h, w)``.
        weights: ``(M, N)``, rows that add up to 1.
        seed: of the inversion.

    Returns:
        ``(M, 3, H, W)`` float32 in [0, 1].

    Raises:
        SettingError: for shapes that do not fit, numbers that are not finite, or rows of another sum.
    """
    generator.check_styles(styles, noise)
    if weights.ndim != 2 or weights.shape[1] != len(styles):
        raise SettingError("weights", tuple(weights.shape), f"of shape (M, {len(styles)})")
    check_count(len(weights), math.prod(generator.spec.image_size))
    if not bool(((weights.sum(1) - 1).abs() < _SUM_TOLERANCE).all()):  # false for NaN, too
        raise SettingError("weights", [round(float(each), 4) for each in weights.sum(1)], "rows that add up to 1")
    weights, device = weights.float(), generator.device
    fixed = generator.noise(seed)[len(noise) :]

    def picture(row: Tensor) -> Tensor:
        style, *maps = (torch.tensordot(row, each.float(), 1)[None].to(device) for each in (styles, *noise))
        return generator.synthesize(style, [*maps, *fixed]).clamp(0, 1).cpu()

    return torch.cat(map_in_threads(picture, list(weights)))
