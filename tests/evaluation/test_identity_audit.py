"""The rule of the identity audit: known chances, copies, false alarms."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from helpers.errors import refuses
from helpers.random_vectors import normal_vectors

from latentpatch.evaluation import audit_identity
from latentpatch.evaluation.identity import nearest, nearest_others
from latentpatch.evaluation.identity_audit import FALSE_ALARM, chance_of_as_many, single_limit

SOURCES = normal_vectors(100, 16)
REFERENCE = nearest(normal_vectors(150, 16, 1), SOURCES)[0]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_chances_are_those_of_all_orders(rank: int) -> None:
    """Four pictures among five others: of all places that they may have, those where enough are below."""
    orders = [set(places) for places in combinations(range(9), 4)]
    for count in range(5):
        below = 0
        for pictures in orders:
            others = [place for place in range(9) if place not in pictures]
            below += sum(place < others[rank - 1] for place in pictures) >= count
        assert chance_of_as_many(count, 4, 5, rank) == pytest.approx(below / len(orders))


def test_pictures_of_others_pass_nearly_always() -> None:
    alarms = 0
    for seed in range(200):
        pictures, others = (nearest(normal_vectors(n, 16, 2 * seed + k), SOURCES)[0] for k, n in ((2, 40), (3, 120)))
        found = audit_identity(pictures, others)
        alarms += bool(found.failures([str(i) for i in range(40)]))
    assert alarms <= 6  # 2 are expected
    for count in (1, 40, 2000):
        assert 0 < single_limit(REFERENCE, count) < float(REFERENCE.median())
    assert single_limit(REFERENCE, 2000) < single_limit(REFERENCE, 40) < single_limit(REFERENCE, 1)


def test_one_copy_fails_alone() -> None:
    pictures = normal_vectors(50, 16, 9)
    for noise in (0.0, 0.2):
        pictures[7] = SOURCES[3] + noise * normal_vectors(1, 16, 4)[0]
        for reference in (REFERENCE, nearest_others(SOURCES)):
            found = audit_identity(nearest(pictures, SOURCES)[0], reference)
            (failure,) = found.failures([f"{i}.png" for i in range(50)])
            assert (failure["file"], failure["figure"]) == ("7.png", "identity_distance")
            assert failure["value"] < failure["limit"]
            assert not found.too_many


def test_many_alike_fail_together() -> None:
    """Each just below the 1st percentile, where single pictures of others lie, too."""
    pictures = nearest(normal_vectors(50, 16, 9), SOURCES)[0]
    limit = audit_identity(pictures, REFERENCE).alike_limit
    for count, is_failing in ((2, False), (12, True)):
        some = pictures.clone()
        some[some < limit] = limit
        some[:count] = limit * 0.99
        found = audit_identity(some, REFERENCE)
        assert int(found.is_alike.sum()) == count
        assert found.too_many == is_failing == (found.chance <= FALSE_ALARM)
        failures = found.failures([f"{i}.png" for i in range(50)])
        assert [(each["file"], each["figure"]) for each in failures] == [(None, "identity_alike")] * is_failing
        assert found.record()["alike"] == count
    assert failures[0]["value"] == 12 / 50
    assert failures[0]["limit"] == found.most_by_chance / 50
    assert chance_of_as_many(found.most_by_chance, 50, 150, 2) > FALSE_ALARM
    assert chance_of_as_many(found.most_by_chance + 1, 50, 150, 2) <= FALSE_ALARM


def test_the_limit_is_the_users() -> None:
    pictures = nearest(normal_vectors(50, 16, 9), SOURCES)[0]
    limit = float(pictures.sort().values[4])
    found = audit_identity(pictures, REFERENCE, limit)
    assert int(found.is_single.sum()) == 4
    assert found.single_limit == limit
    assert not bool(audit_identity(pictures, REFERENCE, 0.0).is_single.any())
    for wrong in (-1.0, float("nan")):
        with refuses("identity_limit"):
            audit_identity(pictures, REFERENCE, wrong)


def test_a_reference_without_spread_is_refused() -> None:
    with refuses("reference"):
        audit_identity(torch.ones(3), torch.ones(4))
    with refuses("pictures"):
        audit_identity(torch.ones(0), REFERENCE)
    with refuses("identity"):
        audit_identity(torch.ones(3), torch.zeros(9))
