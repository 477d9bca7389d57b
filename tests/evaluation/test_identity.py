"""Identity figures of vectors whose answers are known, and the evaluation of rows by a descriptor."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from helpers.random_vectors import normal_vectors

from latentpatch import LatentPatch
from latentpatch.cli.entry import main
from latentpatch.evaluation import Evaluation, Extractor, Protocol, Row
from latentpatch.evaluation.identity import (
    Identity,
    low_percentile,
    membership_auc,
    nearest,
    nearest_others,
    percentile_rank,
)
from latentpatch.io.images import read_image

SOURCES, HELD_OUT, STRANGERS = normal_vectors(60, 8, 0), normal_vectors(200, 8, 1), normal_vectors(400, 8, 2)


def test_equal_vectors_are_at_distance_zero() -> None:
    """Also far from the origin, where differences of squares would be rounded."""
    far = SOURCES + 1e6
    distance, number = nearest(far[[3, 17, 3]], far)
    assert distance.tolist() == [0, 0, 0]
    assert number.tolist() == [3, 17, 3]
    assert nearest(far[:1], far[[5, 0, 0]])[1].tolist() == [1]  # the first of equally near ones
    with refuses("others"):
        nearest(SOURCES, SOURCES[:0])
    with refuses("others"):
        nearest(SOURCES, SOURCES[:, :3])


def test_pictures_of_one_person_are_no_others() -> None:
    twins = torch.cat([SOURCES, SOURCES[:10] + 1e-3])
    groups = torch.cat([torch.arange(60), torch.arange(10)])
    assert float(nearest_others(twins).min()) < 0.01
    whole = torch.cdist(SOURCES, SOURCES).fill_diagonal_(math.inf).amin(1)
    torch.testing.assert_close(nearest_others(SOURCES), whole)
    torch.testing.assert_close(nearest_others(twins, groups)[:60], whole, atol=0.01, rtol=0)
    assert len(nearest_others(SOURCES, count=7)) == 7
    with refuses("sources"):
        nearest_others(SOURCES, torch.zeros(60, dtype=torch.int64))


def test_the_percentile_is_one_of_the_values() -> None:
    assert [percentile_rank(n) for n in (1, 100, 101, 150, 201)] == [1, 1, 2, 2, 3]
    assert low_percentile(torch.arange(150.0).flip(0)) == 1


def test_the_area_counts_pairs() -> None:
    members, others = torch.tensor([1.0, 2, 2, 5]), torch.tensor([2.0, 3, 0])
    pairs = [(a < b) + 0.5 * (a == b) for a in members.tolist() for b in others.tolist()]
    assert membership_auc(members, others) == pytest.approx(sum(pairs) / 12)
    assert membership_auc(torch.zeros(3), torch.ones(5)) == 1
    assert membership_auc(torch.ones(3), torch.zeros(5)) == 0
    assert membership_auc(torch.ones(3), torch.ones(5)) == 0.5
    weights = torch.tensor([2.0, 0, 1, 1]), torch.tensor([0.0, 3, 1])
    repeated = [torch.repeat_interleave(v, w.long()) for v, w in zip((members, others), weights, strict=True)]
    assert membership_auc(members, others, *weights) == pytest.approx(membership_auc(*repeated))


def test_copies_are_alike_and_give_the_sources_away() -> None:
    figures = Identity(SOURCES, HELD_OUT, [0.5]).figures([SOURCES, SOURCES.flip(0)], 40)
    assert {name: figure["value"] for name, figure in figures.items()} == {
        "identity_distance": 0,
        "identity_alike": 1,
        "identity_below_0.5": 1,
        "identity_attack": 1,
    }
    low, high = figures["identity_alike"]["interval"]
    assert (low, high) == (pytest.approx(1 - (1 - 0.025 ** (1 / 120))), 1)  # not [1, 1]
    assert figures["identity_attack"]["sets"] == [1, 1]


def test_strangers_are_as_held_out_pictures_are() -> None:
    identity = Identity(SOURCES, HELD_OUT)
    figures = identity.figures([STRANGERS[:200], STRANGERS[200:]], 100)
    assert figures["identity_distance"]["value"] == pytest.approx(float(identity.distances.mean()), rel=0.05)
    assert figures["identity_alike"]["value"] < 0.05
    assert figures["identity_attack"]["value"] == pytest.approx(0.5, abs=0.06)
    record = identity.record(50)
    for figure in (figures["identity_attack"], record["baseline"]):
        low, high = figure["interval"]
        assert low < 0.5 < high
        assert high - low < 0.25
    assert record["baseline"]["value"] == pytest.approx(0.5, abs=0.06)
    assert record["chance"] == pytest.approx(2 / 201)
    assert record["counts"] == [60, 200]
    assert record["limit"] == record["held_out"]["percentile"] == low_percentile(identity.distances)
    assert identity.figures([STRANGERS], 0)["identity_alike"]["interval"] is None
    # None of some pictures is no proof that there is none.
    far = identity.figures([STRANGERS[:50] + 100], 20)["identity_alike"]
    assert (far["value"], far["interval"]) == (0, [0, pytest.approx(1 - 0.025 ** (1 / 50))])


def test_the_attack_grows_with_the_pictures() -> None:
    """Of pictures near sources: more of them cover more of the sources."""
    identity, rng = Identity(SOURCES, HELD_OUT), torch.Generator().manual_seed(0)
    drawn = torch.randint(60, (300,), generator=rng)
    pictures = SOURCES[drawn] + 0.3 * normal_vectors(300, 8, 5)
    values = [identity.attack([pictures[:n]], 0)["value"] for n in (10, 60, 300)]
    assert 0.5 < values[0] < values[1] < values[2] <= 1
    assert values[2] > 0.95


def test_what_cannot_be_compared_is_refused() -> None:
    with refuses("held_out"):
        Identity(SOURCES, HELD_OUT[:1])
    for limit in (0.0, -1.0, math.nan, math.inf):
        with refuses("identity_below"):
            Identity(SOURCES, HELD_OUT, [limit])
    with refuses("identity"):
        Identity(torch.ones(5, 3), torch.ones(9, 3))
    with refuses("others"):
        Identity(SOURCES, HELD_OUT[:, :4])


# --- rows ----------------------------------------------------------------------------------------------


def means(images: torch.Tensor) -> torch.Tensor:
    """A tiny descriptor: the colours of sixteen squares."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def test_figures_of_rows_are_those_of_their_descriptors(portraits: tuple[Path, Path], tmp_path: Path) -> None:
    sources, held_out = (sorted(folder.iterdir()) for folder in portraits)
    model = LatentPatch("pixels:16").fit(sources, size=64)
    evaluation = Evaluation(
        model,
        held_out,
        tmp_path,
        Extractor("means", means),
        sources=sources,
        protocol=Protocol(samples=12, seeds=2, pairs=50, resamples=10),
        identity=Extractor("means", means, kind="identity"),
        identity_below=[0.5],
    )
    entry = evaluation.run(Row("patches", "random-patches", {"patch_size": 2}))
    described = [
        means(torch.stack([read_image(path, (64, 64)) for path in some])).double() for some in (sources, held_out)
    ]
    settings = Row("patches", "random-patches", {"patch_size": 2}).settings_for(model)
    made = [means(model.generate(12, seed=12 * s, settings=settings).images).double() for s in range(2)]
    expected = Identity(*described, [0.5]).figures(made, 10)
    for name, figure in expected.items():
        assert entry["figures"][name]["sets"] == pytest.approx(figure["sets"], abs=1e-6), name
    near = [torch.cdist(each, described[0]).min(1) for each in made]
    least, s, i = min((float(d), s, i) for s, each in enumerate(near) for i, d in enumerate(each.values))
    assert entry["alike"][0]["distance"] == pytest.approx(least, abs=1e-5)
    assert (entry["alike"][0]["set"], entry["alike"][0]["number"]) == (s, i)
    assert entry["alike"][0]["source"] == sources[int(near[s].indices[i])].stem
    assert len(entry["alike"]) == 12
    sheet = read_image(tmp_path / entry["sheets"]["alike"])
    assert sheet.shape == (3, 4 * 66 + 2, 6 * 66 + 2)
    shown = read_image(sources[int(near[s].indices[i])], (64, 64))
    assert float((sheet[:, 2:66, 68:132] - shown).abs().max()) < 0.01
    verbatim = evaluation.run(Row("verbatim", "sources"))
    assert verbatim["figures"]["identity_attack"]["value"] == 1
    assert verbatim["figures"]["identity_distance"]["value"] == 0
    assert verbatim["figures"]["identity_alike"]["value"] == 1
    shown = evaluation.run(Row("held-out", "held-out"))["figures"]
    assert "identity_attack" not in shown  # it would attack with the people it is to tell apart
    assert shown["identity_distance"]["value"] == pytest.approx(evaluation.identity_reference()["held_out"]["mean"])


@pytest.fixture
def descriptor(tmp_path: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(
        "import torch\ndef descriptor(images):\n"
        "    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)\n"
        "descriptor.note = 'tiny knows colours.'\n"
    )
    return str(path)


def test_rows_without_identity_stay_valid(
    portraits: tuple[Path, Path],
    descriptor: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    command = ["evaluate", str(portraits[0]), "--held-out", str(portraits[1]), "-o", str(output), "--json"]
    command += ["--autoencoder", "pixels:16", "--size", "64", "--samples", "8", "--seeds", "1", "--resamples", "10"]
    command += ["--row", "random-cells", "-q"]
    assert main(command) == 0
    assert "identity" not in json.loads(capsys.readouterr().out)
    assert not {"identity", "Identity"} & set((output / "evaluation.md").read_text().split())
    plain = (output / "evaluation.jsonl").read_text()
    assert "identity" not in plain
    with_identity = [*command, "--identity", descriptor, "--identity-below", "0.4", "0.2"]
    assert main(with_identity) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {entry["name"]: entry for entry in report["tables"]["Rows"]}
    assert rows["sources, verbatim"]["figures"]["identity_distance"]["value"] == 0
    assert rows["random-cells"]["figures"]["identity_below_0.2"]["value"] <= 1
    assert report["conditions"]["identity_below"] == [0.2, 0.4]
    assert report["identity"]["counts"] == [12, 8]
    text = (output / "evaluation.md").read_text()
    for words in ("## Identity", "tiny knows colours.", "membership AUC", "identity below 0.4", "-alike.png"):
        assert words in text
    both = (output / "evaluation.jsonl").read_text()
    assert both.startswith(plain)
    monkeypatch.setattr(Evaluation, "_sample", None)  # nothing is made again, in either way
    monkeypatch.setattr(Evaluation, "people", None)
    for again in (command, with_identity):
        assert main(again) == 0
    assert (output / "evaluation.jsonl").read_text() == both


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--identity", "none.py"], 1, "none.py"),
        (["--identity", "arcface"], 1, "identity must be one of FILE.onnx"),
        (["--identity", "FLAT"], 1, "identity 'flat' must be of shape"),
        (["--identity", "SAME"], 1, "identity must be different for others"),
        (["--identity-below", "0.3"], 1, "--identity-below needs --identity"),
        (["--identity", "TINY", "--identity-below", "-1"], 2, "--identity-below"),
        (["--identity", "TINY", "--identity-below", "0"], 1, "--identity-below must be above 0"),
        (["--identity", "TINY", "--identity-input", "size=9"], 1, "--identity-input needs --identity FILE.onnx"),
        (["--identity", "TINY", "--held-out", "FEATURES"], 1, "held-out must be images"),
    ],
)
def test_unusable_descriptors_are_refused(
    portraits: tuple[Path, Path],
    descriptor: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    (tmp_path / "flat.py").write_text("def descriptor(images):\n    return images.mean((1, 2, 3))\n")
    (tmp_path / "same.py").write_text("def descriptor(images):\n    return images[:, :, 0, 0] * 0\n")
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(9, 96)))
    places = {"TINY": descriptor, "FLAT": str(tmp_path / "flat.py"), "SAME": str(tmp_path / "same.py")}
    places["FEATURES"] = str(tmp_path / "features.npy")
    output = tmp_path / "out"
    options = f"--held-out {portraits[1]} -o {output} --autoencoder pixels:16 --size 64 --samples 8 --seeds 1 -q"
    command = ["evaluate", str(portraits[0]), "--row", "random-cells", *options.split()]
    try:
        found = main([*command, *(places.get(word, word) for word in arguments)])
    except SystemExit as end:
        found = end.code
    assert found == status
    assert words in capsys.readouterr().err
    assert not output.exists()
