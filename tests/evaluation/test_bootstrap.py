"""Bootstrap intervals."""

from __future__ import annotations

import pytest
from helpers.errors import refuses
from helpers.random_vectors import normal_vectors as draw
from torch import Tensor

from latentpatch.evaluation import bootstrap, frechet_distance


def test_bootstrap_is_repeatable_and_covers() -> None:
    def interval(values: Tensor, **options: float) -> tuple[float, float]:
        return bootstrap(lambda weights: float(weights[0] @ values / weights[0].sum()), [len(values)], **options)

    values = draw(50, 1)[:, 0]
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)
    low, high = interval(values, resamples=2000)
    half = 1.96 * float(values.std(correction=0)) / 50**0.5
    assert (low, high) == pytest.approx((float(values.mean()) - half, float(values.mean()) + half), abs=0.1 * half)
    covered = sum(low <= 0 <= high for low, high in (interval(draw(40, 1, i)[:, 0]) for i in range(200)))
    assert 175 <= covered <= 199  # 190 of 200 on average
    for options in ({"resamples": 1}, {"level": 1.0}):
        with refuses(*options):
            interval(values, **options)


def test_bootstrap_of_a_distance_lies_about_it() -> None:
    a, b = draw(60, 8), draw(80, 8, 1)
    value = frechet_distance(a, b)
    low, high = bootstrap(lambda weights: frechet_distance(a, b, weights=weights[0]), [60], 100)
    assert low < value < high
