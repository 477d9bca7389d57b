"""``latentpatch evaluate``: its folder, what it reuses, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentpatch import LatentPatch
from latentpatch.cli.entry import main
from latentpatch.evaluation import Evaluation, Row, load_extractor
from latentpatch.io.images import read_image

FEW = ["--samples", "8", "--seeds", "2", "--pairs", "30", "--resamples", "10", "-q"]


@pytest.fixture(scope="module")
def evaluated(portraits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluation of two rows, with the embedded autoencoder."""
    sources, held_out = map(str, portraits)
    output = tmp_path_factory.mktemp("evaluated") / "out"
    rows = ["--row", "raster", "--row", "copier: raster neighbors=1"]
    assert main(["evaluate", sources, "--held-out", held_out, *FEW, *rows, "-o", str(output)]) == 0
    return output


def test_an_evaluation_from_end_to_end(evaluated: Path) -> None:
    entries = [json.loads(line) for line in (evaluated / "evaluation.jsonl").read_text().splitlines()]
    rows = {entry["name"]: entry for entry in entries if "row" in entry}
    assert list(rows) == ["sources, verbatim", "raster", "copier"]
    for entry in rows.values():
        figures = entry["figures"]
        assert entry["counts"] == [8, 8]
        assert len(figures["distance"]["sets"]) == 2
        assert figures["distance"]["value"] == pytest.approx(np.mean(figures["distance"]["sets"]))
        for name, figure in figures.items():
            low, high = figure["interval"]
            assert low <= high, name
            assert low >= 0 or name == "kernel", name
            assert np.isfinite([figure["value"], low, high]).all(), name
        conditions = entry["conditions"]
        assert (conditions["features"], conditions["held_out"], conditions["sources"]) == ("latents", 8, 12)
        assert conditions["directions"] == 7  # one less than the held-out pictures
    assert rows["sources, verbatim"]["figures"]["largest_share"]["value"] == 1
    assert [rows[name]["copies"] for name in rows] == [True, False, True]
    assert rows["raster"]["figures"]["seams"]["value"] > 0
    (memory,) = [entry["memorisation"] for entry in entries if "memorisation" in entry]
    assert [found["side"] for found in memory] == [4, 16]  # the block of the preset for few sources, and the grid
    assert all(found["sources"] < 1e-3 < found["left_out"] for found in memory)
    text = (evaluated / "evaluation.md").read_text()
    assert text.count("⚠ copies") == 2
    assert "`latents` is the generator's own latent space" in text
    assert "12 sources, 8 held-out images" in text
    assert "bootstrap" in text
    assert read_image(evaluated / rows["raster"]["sheets"]["first"]).shape[0] == 3
    assert set(rows["raster"]["sheets"]) == {"first", "worst"}
    assert set(rows["sources, verbatim"]["sheets"]) == {"first"}  # it has no seams
    figure = importlib.util.find_spec("matplotlib") is not None
    assert (evaluated / "frontier.png").exists() == figure


def test_rows_in_the_log_are_not_evaluated_again(
    portraits: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    command = ["evaluate", str(portraits[0]), "--held-out", str(portraits[1]), "-o", str(output)]
    command += ["--autoencoder", "pixels:4", "--size", "64", *FEW]
    assert main([*command, "--row", "raster", "--row", "raster neighbors=1"]) == 0
    before = (output / "evaluation.jsonl").read_text()
    made: list[str] = []
    make = Evaluation._sample

    def noting(self: Evaluation, row: Row, *rest: object) -> object:
        made.append(row.name)
        return make(self, row, *rest)

    monkeypatch.setattr(Evaluation, "_sample", noting)
    renamed = ["--row", "another name: raster patch_size=6", "--row", "copier: raster neighbors=1"]
    assert main([*command, *renamed]) == 0
    assert (output / "evaluation.jsonl").read_text() == before
    assert "| another name |" in (output / "evaluation.md").read_text()
    assert made == []
    # Interrupted after a row: what is finished stays, and the same command goes on.
    more = ["--row", "random-cells", "--row", "random-patches"]

    def interrupted(self: Evaluation, row: Row, *rest: object) -> object:
        if row.name == "random-patches":
            raise KeyboardInterrupt
        return noting(self, row, *rest)

    monkeypatch.setattr(Evaluation, "_sample", interrupted)
    assert main([*command, *more]) == 130
    assert (output / "evaluation.jsonl").read_text().startswith(before)
    monkeypatch.setattr(Evaluation, "_sample", noting)
    assert main([*command, *more]) == 0
    assert made == ["random-cells"] * 2 + ["random-patches"] * 2
    lines = (output / "evaluation.jsonl").read_text().splitlines()
    assert len(lines) == before.count("\n") + 2
    assert not list(output.glob(".*"))
    # Under other conditions a row is another row.
    assert main([*command, "--samples", "9", "--row", "raster"]) == 0
    assert made[4:] == ["sources, verbatim"] * 2 + ["raster"] * 2


def test_a_model_file_and_a_file_of_features_suffice(
    portraits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources, held_out = map(str, portraits)
    model = LatentPatch("pixels:16").fit(sources, size=64)
    model.save(tmp_path / "model.safetensors")
    pictures = torch.stack([read_image(path, (64, 64)) for path in sorted(portraits[1].iterdir())])
    save_file(
        {"features": load_extractor("latents", model.autoencoder).features(pictures)}, tmp_path / "known.safetensors"
    )
    command = ["evaluate", str(tmp_path / "model.safetensors"), "--autoencoder", "pixels:16", *FEW, "--json"]
    found = []
    for given in (held_out, str(tmp_path / "known.safetensors")):
        output = tmp_path / Path(given).stem
        assert main([*command, "--held-out", given, "--row", "random-cells", "-o", str(output)]) == 0
        found.append(json.loads(capsys.readouterr().out))
    values = [report["tables"]["Rows"][1]["figures"]["distance"]["value"] for report in found]
    assert values[0] == pytest.approx(values[1], rel=1e-4)  # float32 in the file
    assert not found[0]["conditions"]["originals"]
    assert [len(report["memorisation"]) for report in found] == [2, 0]
    known = ["--originals", sources, "--row", "random-cells", "-o", str(tmp_path / "pictures")]
    assert main([*command, "--held-out", held_out, *known]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["conditions"]["originals"]
    assert report["tables"]["Rows"][1]["figures"]["distance"] == found[0]["tables"]["Rows"][1]["figures"]["distance"]
    known[1] = held_out
    assert main([*command, "--held-out", sources, *known]) == 1
    assert "--originals" in capsys.readouterr().err
    assert main([*command, "--held-out", given, "--row", "held-out", "-o", str(tmp_path / "refused")]) == 1
    assert "--held-out must be images" in capsys.readouterr().err


def test_without_matplotlib_a_message_replaces_the_plot(
    portraits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sources, held_out = map(str, portraits)
    command = ["evaluate", sources, "--held-out", held_out, "--autoencoder", "pixels", "--size", "64"]
    command += [*FEW[:-1], "--json"]
    assert main([*command, "--row", "random-cells", "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "frontier.png was not drawn" in captured.err
    assert json.loads(captured.out)["frontier"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--held-out", "nowhere"], 1, "nowhere: no such file or folder"),
        (["--held-out", "SOURCES"], 1, "held out, but also the source"),
        (["--held-out", "FEW"], 1, "--held-out must be at least 6, got 3"),
        (["--held-out", "none.npy"], 1, "none.npy"),
        (["--held-out", "ABOVE"], 1, "its sheets would be held-out pictures"),
        (["--originals", "SOURCES"], 1, "only a fitted model needs them"),
        (["--samples", "5"], 1, "samples must be at least 6, got 5"),
        (["--resamples", "1"], 1, "resamples must be"),
        (["--features", "fid"], 1, "features must be one of latents"),
        (["--features", "BROKEN"], 1, "features 'broken' must be finite, got 'NaN"),
        (["--row", "painter"], 1, "row 'painter': sampler must be"),
        (["--row", "raster patch_size=17"], 1, "patch_size"),
        (["--row", "raster patch_size=2 neighbors=13"], 1, "neighbors must be at most 12"),
        (["--table", "none.json"], 1, "none.json"),
        ([], 2, "--held-out"),
    ],
)
def test_evaluate_checks_its_arguments(
    arguments: list[str],
    status: int,
    text: str,
    portraits: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few, broken = tmp_path / "few", tmp_path / "broken.py"
    few.mkdir()
    for path in sorted(portraits[1].iterdir())[:3]:
        shutil.copy(path, few)
    broken.write_text("def extractor(images):\n    return images.mean((2, 3)) * float('nan')\n")
    places = {"SOURCES": str(portraits[0]), "FEW": str(few), "ABOVE": str(tmp_path), "BROKEN": str(broken)}
    given = [places.get(word, word) for word in arguments]
    if given and "--held-out" not in given:
        given = ["--held-out", str(portraits[1]), *given]
    command = ["evaluate", str(portraits[0]), "--autoencoder", "pixels", "--size", "64"]
    try:
        found = main([*command, *given, "-o", str(tmp_path / "out")])
    except SystemExit as end:
        found = end.code
    assert found == status
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_log_is_named_and_kept(
    portraits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "evaluation.jsonl"
    log.write_text('{"conditions": {}}\n{"condi')
    command = ["evaluate", str(portraits[0]), "--held-out", str(portraits[1]), "--autoencoder", "pixels"]
    assert main([*command, "--size", "64", "-o", str(tmp_path)]) == 1
    assert "evaluation.jsonl: line 2 is damaged" in capsys.readouterr().err
    assert log.read_text() == '{"conditions": {}}\n{"condi'
