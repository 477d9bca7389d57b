"""The rule of the identity audit: known chances, copies, false alarms."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import jpeg
from helpers.errors import refuses
from helpers.random_vectors import normal_vectors
from PIL import Image, ImageOps

from latentpatch.evaluation import audit_identity, find_descriptor
from latentpatch.evaluation.identity import nearest, nearest_others
from latentpatch.evaluation.identity_audit import FALSE_ALARM, chance_of_as_many, single_limit
from latentpatch.io.images import read_image

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


@pytest.mark.slow(3)
def test_real_faces(shared: Path) -> None:
    """Portraits of others pass; one source among them fails, as a JPEG, cut by a tenth, or mirrored."""
    embed = find_descriptor(f"{shared / 'tools' / 'identity.py'}:embed")
    files = {name: (shared / "portraits" / f"{name}.txt").read_text().split() for name in ("source", "holdout")}

    def described(names: list[str]) -> torch.Tensor:
        return embed.features(torch.stack([read_image(shared / "portraits" / name, (256, 256)) for name in names]))

    sources, others = described(files["source"][:60]), described(files["holdout"][:70])
    distances, _ = nearest(others, sources)
    pictures, reference = distances[:20], distances[20:]
    assert audit_identity(pictures, reference).failures([""] * 20) == []
    copy = Image.open(shared / "portraits" / files["source"][11]).convert("RGB")
    width, height = copy.size
    changed = {
        "JPEG": Image.open(io.BytesIO(jpeg(copy, quality=20))),
        "cut": copy.crop((width // 20, height // 20, width - width // 20, height - height // 20)),
        "mirrored": ImageOps.mirror(copy),
    }
    for change, picture in changed.items():
        shown = torch.from_numpy(np.array(picture.resize((256, 256)))).permute(2, 0, 1)[None].float() / 255
        distance, number = nearest(embed.features(shown), sources)
        assert int(number) == 11, change
        (failure,) = audit_identity(torch.cat([distance, pictures]), reference).failures([change, *[""] * 20])
        assert failure["file"] == change
