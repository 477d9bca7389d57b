"""Entropic optimal transport."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentpatch.ops import transport
from latentpatch.ops.transport import transport_weights


def test_without_rounds_weights_are_a_softmax() -> None:
    costs = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) * 3
    weights, potentials = transport_weights(costs, 0)
    assert torch.allclose(weights, torch.softmax(-costs, 1), atol=1e-6)
    assert not potentials.any()


def test_rows_and_columns_get_their_mass() -> None:
    costs = torch.rand(30, 20, generator=torch.Generator().manual_seed(0)) * 10
    weights, potentials = transport_weights(costs, 200)
    assert torch.allclose(weights.sum(1), torch.ones(30), atol=1e-5)
    assert torch.allclose(weights.sum(0), torch.full((20,), 1.5), atol=1e-3)
    again, _ = transport_weights(costs, 1, start=potentials)
    assert torch.allclose(again, weights, atol=1e-4)


def test_masses_may_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    costs, rows, columns = (torch.rand(*shape, generator=generator) + 0.1 for shape in ((30, 20), (30,), (20,)))
    weights, _ = transport_weights(costs, 200, (rows, columns))
    assert torch.allclose(weights.sum(1), torch.ones(30), atol=1e-5)
    assert torch.allclose(rows @ weights / rows.sum(), columns / columns.sum(), atol=1e-4)


def test_sharp_costs_give_the_assignment() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    points = torch.arange(12.0)
    costs = (points[:, None] - points[order]).square() * 50
    weights, _ = transport_weights(costs, 20)
    assert torch.equal(order[weights.argmax(1)], torch.arange(12))


def test_a_key_that_is_far_from_all_is_used_as_much() -> None:
    points, keys = torch.linspace(0, 1, 20), torch.tensor([0.0, 0.5, 1.0, 9.0])
    costs = (points[:, None] - keys).square() * 30
    weights, _ = transport_weights(costs, 500)
    assert abs(float(weights[:, 3].sum()) - 5) < 0.2
    assert float(torch.softmax(-costs, 1)[:, 3].sum()) < 1e-3


def test_huge_costs_stay_finite() -> None:
    costs = torch.tensor([[0.0, 1e6], [1e6, 2e6], [3e5, 0.0]])
    weights, _ = transport_weights(costs, 10)
    assert weights.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("kind", ["all keys", "groups", "masses"])
def test_products_and_logarithms_give_the_same(kind: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of the largest costs leave the range of float32."""
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(40, 30, generator=generator) * scale
    options: dict[str, Any] = {
        "all keys": {},
        "groups": {"groups": [5, 15, 10]},
        "masses": {"masses": tuple(torch.rand(n, generator=generator) + 0.1 for n in (40, 30))},
    }[kind]
    start = torch.randn(30, generator=generator)
    loops = transport_weights(costs, 25, start=start, **options)
    monkeypatch.setattr(transport, "has_numba", lambda: False)
    logarithms = transport_weights(costs, 25, start=start, **options)
    for quick, slow in zip(loops, logarithms, strict=True):
        assert torch.allclose(quick, slow, atol=1e-4, rtol=1e-4)
