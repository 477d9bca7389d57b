"""Bootstrap intervals (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["bootstrap"]


def bootstrap(
    statistic: Callable[[Sequence[Tensor]], float],
    counts: Sequence[int],
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a statistic of one or several sets, each drawn again from itself with replacement.

    A set that is drawn again holds some pictures twice, which moves statistics such as the Frechet distance to one
    side. So the percentiles are those of the deviations from the resamples' mean, laid about the statistic itself.

    Args:
        statistic: of weights, one ``(count,)`` float64 tensor a set: how often each of its pictures counts.
        counts: pictures in each set.
        resamples: sets drawn; the same arguments draw the same ones.
        level: share of the resamples within.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: for fewer than two resamples, or a level not between 0 and 1.
    """
    if resamples < 2:
        raise ValueError(f"resamples {resamples}: at least 2 are expected")
    if not 0 < level < 1:
        raise ValueError(f"level {level}: above 0 and below 1 is expected")
    chance = np.random.default_rng(seed)
    values = np.array(
        [
            statistic([torch.from_numpy(chance.multinomial(n, np.full(n, 1 / n)).astype(np.float64)) for n in counts])
            for _ in range(resamples)
        ]
    )
    centre = statistic([torch.ones(n, dtype=torch.float64) for n in counts])
    low, high = np.quantile(values - values.mean(), [(1 - level) / 2, (1 + level) / 2])
    return centre + float(low), centre + float(high)
