"""``latentpatch audit``: copies of sources fail, default samples and held-out pictures pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import PORTRAITS
from PIL import Image, ImageEnhance, ImageOps

from latentpatch.cli.entry import main
from latentpatch.io.images import read_image

SIZE = 128


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "audit.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 24 portraits."""
    path = tmp_path_factory.mktemp("model") / "portraits.safetensors"
    assert run("fit", *sorted(PORTRAITS.glob("*.jpg"))[:24], "--size", SIZE, "-q", "-o", path) == 0
    return path


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("list") / "held-out.txt"
    path.write_text("\n".join(str(each) for each in sorted(PORTRAITS.glob("*.jpg"))[48:56]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def generated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    assert run("generate", model, "-n", 6, "--preset", "diverse", "--max-share", 0.2, "--start-candidates", 2, "-q",
               "-o", out) == 0  # fmt: skip
    return out


def altered(change: str, picture: Image.Image) -> Image.Image:
    if change == "flipped":
        return ImageOps.mirror(picture)
    if change == "brighter":
        return ImageEnhance.Brightness(picture).enhance(1.15)
    if change == "smaller":
        return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    return picture


def test_default_samples_pass(model: Path, generated: Path, tmp_path: Path) -> None:
    assert run("audit", model, generated, "-q", "-o", tmp_path) == 0
    report, made = record(tmp_path), json.loads((generated / "generation.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "pass"
    assert report["failures"] == []
    assert report["pictures"] == 6
    assert [row["file"] for row in report["images"]] == [row["file"] for row in made["images"]]
    believed = [row["exact"] for row in report["images"]]
    covered = report["covered"]
    assert any(believed)  # on 8x8 cells six wrong ones are too many
    assert {row["file"] for row in covered["records_not_believed"]} == {
        row["file"] for row in report["images"] if not row["exact"]
    }
    assert covered["exact_maps"] == sum(believed) == 6 - covered["estimated_maps"]
    for row, known in zip(report["images"], made["images"], strict=True):
        if row["exact"]:
            assert row["largest_share"] >= max(known["shares"].values()) - 1e-5
            assert row["largest_region"] >= known["largest_region"] - 1e-5
    assert report["figures"]["relative"]["least"] == pytest.approx(
        min(r["relative"] for r in report["images"]), abs=1e-4
    )
    assert 0 < report["beside_reference"]["regions"] < 1
    sheet = read_image(tmp_path / "pairs.png")
    assert sheet.shape[2] == 6 * (SIZE + 2) + 2


def test_one_returned_source_among_samples_fails(
    model: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in [*generated.glob("[0-9]*.png"), generated / "generation.json"]:
        (folder / path.name).write_bytes(path.read_bytes())
    source = sorted(PORTRAITS.glob("*.jpg"))[17]
    copy = "0005.png"  # under the name of an image in the record
    Image.open(source).convert("RGB").save(folder / copy)
    assert run("audit", model, folder, "--json", "-o", tmp_path / "audit") == 3
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report == record(tmp_path / "audit")
    assert report["verdict"] == "fail"
    assert {failure["file"] for failure in report["failures"]} == {copy}
    row = next(row for row in report["images"] if row["file"] == copy)
    assert row["nearest"] == source.stem
    assert not row["mirrored"]
    assert not row["exact"]
    assert report["pairs"][0] == {"file": copy, "nearest": source.stem}
    assert copy in printed.err


def test_changed_copies_among_samples_fail(model: Path, generated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in [*generated.glob("[0-9]*.png"), generated / "generation.json"]:
        (folder / path.name).write_bytes(path.read_bytes())
    copies = {"returned.jpg": "jpeg", "0003.png": "flipped", "0004.png": "brighter", "0005.png": "smaller"}
    sources = dict(zip(copies, sorted(PORTRAITS.glob("*.jpg"))[5:24:5], strict=True))
    for name, change in copies.items():
        altered(change, Image.open(sources[name]).convert("RGB")).save(folder / name, quality=70)
    assert run("audit", model, folder, "-q", "--max-mean-share", 1, "-o", tmp_path / "audit") == 3
    report = record(tmp_path / "audit")
    assert {failure["file"] for failure in report["failures"]} == set(copies)
    rows = {row["file"]: row for row in report["images"]}
    for name, change in copies.items():
        assert rows[name]["nearest"] == sources[name].stem
        assert rows[name]["mirrored"] == (change == "flipped")
        assert not rows[name]["exact"]
    closest = {pair["file"]: pair["nearest"] for pair in report["pairs"][: len(copies)]}
    assert closest == {name: source.stem for name, source in sources.items()}


def test_a_mirrored_crop_among_samples_fails(
    model: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cell by cell it is no copy: only registration finds it."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in generated.glob("[0-9]*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    source = sorted(PORTRAITS.glob("*.jpg"))[17]
    picture = ImageOps.mirror(Image.open(source).convert("RGB"))
    edge = round(0.06 * picture.width)
    picture.crop((edge, edge, picture.width - edge, picture.height - edge)).save(folder / "copy.jpg", quality=60)
    assert run("audit", model, folder, "-o", tmp_path / "audit") == 3
    report = record(tmp_path / "audit")
    assert {(failure["file"], failure["figure"]) for failure in report["failures"]} == {("copy.jpg", "registered")}
    row = next(row for row in report["images"] if row["file"] == "copy.jpg")
    assert row["registered_to"] == source.stem
    assert row["registered_mirrored"]
    assert row["overlap"] < 0.85
    assert row["registered"] < 0.3 < report["reference"]["registered"]["least"]
    assert report["pairs"][0] == {"file": "copy.jpg", "nearest": source.stem}
    assert "copy.jpg: registered" in capsys.readouterr().err
    assert run("audit", model, folder, "-q", "-o", tmp_path / "audit", "--min-registered", 0) == 0


def test_pairs_show_the_picture_and_its_source(tmp_path: Path) -> None:
    """The sheet shows the sources' files where sources are files."""
    one = sorted(PORTRAITS.glob("*.jpg"))[2]
    sources = sorted(PORTRAITS.glob("*.jpg"))[:6]
    assert run("audit", *sources, one, "--size", 64, "-q", "-o", tmp_path) == 3
    sheet, picture = read_image(tmp_path / "pairs.png"), read_image(one, (64, 64))
    assert sheet.shape == (3, 68, 134)
    for left in (2, 68):
        assert float((sheet[:, 2:66, left : left + 64] - picture).abs().max()) < 0.01


def test_limits_are_the_users(model: Path, generated: Path, tmp_path: Path) -> None:
    one = generated / "0000.png"
    assert run("audit", model, one, "-q", "-o", tmp_path, "--max-mean-share", 0.01) == 3
    assert record(tmp_path)["failures"][0]["file"] is None
    assert run("audit", model, one, "-q", "-o", tmp_path, "--min-relative", 1) == 3
    assert run("audit", model, sorted(PORTRAITS.glob("*.jpg"))[0], "-q", "-o", tmp_path, "--min-relative", 0,
               "--min-registered", 0, "--max-share", 1, "--max-mean-share", 1, "--max-local-share", 1) == 0  # fmt: skip


def test_held_out_pictures_pass_and_are_what_is_compared_with(
    model: Path, generated: Path, held_out: Path, tmp_path: Path
) -> None:
    assert run("audit", model, generated, "--held-out", held_out, "-q", "-o", tmp_path / "a") == 0
    assert run("audit", model, held_out, "-q", "-o", tmp_path / "b") == 0
    with_them, of_them = record(tmp_path / "a"), record(tmp_path / "b")
    assert not any(row["exact"] for row in of_them["images"])
    assert with_them["reference"] == of_them["figures"]
    assert with_them["reference_is"] == "held-out pictures"
    assert with_them["held_out_failures"] == []
    sources = sorted(PORTRAITS.glob("*.jpg"))[0]
    assert run("audit", model, generated / "0000.png", "--held-out", sources, "-q", "-o", tmp_path / "c") == 0
    assert record(tmp_path / "c")["held_out_failures"]  # no failure of the audited images


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--max-share", "1.5"], 2, "--max-share"),
        (["--min-relative", "nan"], 2, "--min-relative"),
        (["--held-out", "absent"], 1, "absent"),
    ],
)
def test_unusable_arguments_are_refused(
    model: Path,
    generated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    try:
        found = run("audit", model, generated, "-o", tmp_path / "out", *arguments)
    except SystemExit as end:
        found = end.code
    assert found == status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"sources_sha256": "DIGEST"}',
        '{"sources_sha256": "DIGEST", "images": [{"file": "0000.png", "index": [[99]]}]}',
        '{"sources_sha256": "DIGEST", "images": [{"file": "0000.png", "index": [[1, 2], [3]]}]}',
    ],
)
def test_a_malformed_record_is_refused(
    model: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0000.png").write_bytes((generated / "0000.png").read_bytes())
    made = json.loads((generated / "generation.json").read_text(encoding="utf-8"))
    (folder / "generation.json").write_text(text.replace("DIGEST", made["sources_sha256"]), encoding="utf-8")
    assert run("audit", model, folder, "-o", tmp_path / "out") == 1
    assert "not a record that generate wrote" in capsys.readouterr().err
