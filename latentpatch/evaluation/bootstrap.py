"""Bootstrap intervals (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError
from ..validation import check_integer

__all__ = ["bootstrap"]


def bootstrap(
    statistic: Callable[[Sequence[Tensor]], float],
    counts: Sequence[int],
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the ends of a bootstrap interval of a statistic of one or several sets.

    A resampled set holds some images twice, which biases statistics such as the Frechet distance. So the interval takes
    the percentiles of the deviations from the resamples' mean and centers them on the statistic itself.

    Args:
        statistic: function of weights, one ``(count,)`` float64 tensor a set: how often each image counts.
        counts: images in each set.
        resamples: number of resampled sets; the same arguments give the same ones.
        level: share of the resamples within the interval.

    Raises:
        SettingError: for fewer than two resamples, or a level that is not between 0 and 1.
    """
    check_integer("resamples", resamples, 2)
    if not 0 < level < 1:
        raise SettingError("level", level, "above 0 and below 1")
    rng = np.random.default_rng(seed)
    values = np.array(
        [
            statistic([torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)) for n in counts])
            for _ in range(resamples)
        ]
    )
    center = statistic([torch.ones(n, dtype=torch.float64) for n in counts])
    low, high = np.quantile(values - values.mean(), [(1 - level) / 2, (1 + level) / 2])
    return center + float(low), center + float(high)
