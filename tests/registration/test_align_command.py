"""The command ``align`` writes registered pictures and a record, or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.misaligned import POINTS, Misaligned, misalign, portraits, scatter
from helpers.paths import PORTRAITS
from PIL import Image

from latentpatch.cli.entry import main
from latentpatch.io.images import read_image
from latentpatch.registration.transforms import transform_points, warp

QUICKLY = ("--rotation", "0", "--zoom", "1")


def run(*arguments: object) -> int:
    return main(["align", *map(str, arguments)])


@pytest.fixture(scope="module")
def nearly() -> Misaligned:
    """Three portraits nearly in register."""
    return misalign([portraits(4)[number] for number in (0, 1, 3)], angle=4, zoom=1.05)


@pytest.fixture
def folder(nearly: Misaligned, tmp_path: Path) -> Path:
    """The three in as many formats."""
    originals = tmp_path / "originals"
    (originals / "deeper").mkdir(parents=True)
    for picture, name in zip(nearly.pictures, ("a.png", "b.jpg", "deeper/c.webp"), strict=True):
        levels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(levels).save(originals / name)
    return originals


@pytest.fixture
def table(nearly: Misaligned, tmp_path: Path) -> Path:
    """Landmarks of the three."""
    rows = ["file,a_x,a_y,b_x,b_y,c_x,c_y"]
    for name, points in zip(("a.png", "b.jpg", "c.webp"), nearly.points, strict=True):
        rows.append(",".join([name, *(f"{value:.4f}" for value in points.flatten().tolist())]))
    path = tmp_path / "points.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = (*QUICKLY, "--size", "96x64", "--mean", tmp_path / "mean.png", "--json")
    assert run(folder, "-o", tmp_path / "out", *quick) == 0
    assert sorted(contents(tmp_path / "out")) == ["a.png", "alignment.json", "b.jpg", "c.png"]
    report = json.loads((tmp_path / "out" / "alignment.json").read_text())
    printed = capsys.readouterr()
    assert json.loads(printed.out) == report
    assert "3 aligned pictures" in printed.err
    assert (report["size"], report["method"], report["skipped"]) == ([96, 64], "congealing", [])
    aligned = []
    for row in report["images"]:
        aligned.append(read_image(tmp_path / "out" / row["file"]))
        original = read_image(next(folder.rglob(row["source"])))
        assert row["size"] == list(original.shape[1:])
        again = warp(original, torch.tensor(row["matrix"], dtype=torch.float64), (96, 64))
        tolerance = 0.2 if row["file"].endswith("jpg") else 0.003
        torch.testing.assert_close(aligned[-1], again, atol=tolerance, rtol=0)
    mean = read_image(tmp_path / "mean.png")
    torch.testing.assert_close(mean, torch.stack(aligned).mean(0), atol=0.07, rtol=0)


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert run(folder, "-o", tmp_path / name, "-q", *QUICKLY) == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_landmarks_on_the_command_line(folder: Path, table: Path, nearly: Misaligned, tmp_path: Path) -> None:
    assert run(folder, "-o", tmp_path / "out", "--landmarks", table, "--size", "128", "--crop", "-q") == 0
    report = json.loads((tmp_path / "out" / "alignment.json").read_text())
    matrices = torch.tensor([row["matrix"] for row in report["images"]], dtype=torch.float64)
    assert float(scatter(transform_points(nearly.points[:3], matrices)).max()) < 1e-4
    assert all(row["outside"] == 0 and "agreement" not in row for row in report["images"])


def test_new_pictures_are_registered_to_old_ones(folder: Path, nearly: Misaligned, tmp_path: Path) -> None:
    shutil.copytree(PORTRAITS, tmp_path / "old", ignore=shutil.ignore_patterns("*[1-9].jpg", "*.md"))
    assert run(folder / "a.png", "-o", tmp_path / "out", "--to", tmp_path / "old", "--size", "128", "-q") == 0
    report = json.loads((tmp_path / "out" / "alignment.json").read_text())
    back = transform_points(nearly.points[0], torch.tensor(report["images"][0]["matrix"], dtype=torch.float64))
    assert float((back - POINTS).norm(dim=1).max()) < 4


def test_strangers_are_named_and_nothing_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(folder / "plain.png")
    assert run(folder, "-o", tmp_path / "out", *QUICKLY) == 1
    assert "plain.png: agreement" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(folder, "-o", tmp_path / "out", *QUICKLY, "--skip-bad") == 0
    report = json.loads((tmp_path / "out" / "alignment.json").read_text())
    assert "plain.png" in report["skipped"][-1]["file"]
    assert "plain.png" not in contents(tmp_path / "out")


def test_damaged_pictures_are_refused_or_listed(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    arguments = (folder, "-o", tmp_path / "out", "--landmarks", table)
    assert run(*arguments) == 1
    assert "broken.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(*arguments, "--skip-bad") == 0
    report = json.loads((tmp_path / "out" / "alignment.json").read_text())
    assert [Path(entry["file"]).name for entry in report["skipped"]] == ["broken.png"]
    assert len(report["images"]) == 3


def test_pictures_without_landmarks_are_named(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert run(folder, "-o", tmp_path / "out", "--landmarks", table) == 1
    assert "c.webp: has no landmarks" in capsys.readouterr().err


def test_one_picture_is_too_few(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder / "a.png", "-o", tmp_path / "out") == 1
    assert "1 usable picture: at least 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert run(tmp_path / "none", "-o", tmp_path / "out") == 1
    assert "holds no images" in capsys.readouterr().err


def test_originals_are_never_replaced(folder: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert run(folder, "-o", folder, "--landmarks", table) == 1
    assert "a.png would replace an original" in capsys.readouterr().err
    assert run(folder, "-o", folder / "out", "--landmarks", table) == 1
    assert "lies within the sources" in capsys.readouterr().err
    assert contents(folder) == before


CONFLICTS = {
    ("--landmarks", "x.csv", "--zoom", "2"): "--zoom: ",
    ("--to", "x", "--crop"): "--crop: ",
    ("--to", "x", "--closer", "2"): "--closer: ",
    ("--mean", "OUT/mean.png"): "lies within --output",
    ("--mean", "mean.gif"): "--mean must be a name ending in .png",
}


@pytest.mark.parametrize("options", CONFLICTS)
def test_options_that_do_not_go_together(
    options: tuple[str, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(folder, "-o", output, *(option.replace("OUT", str(output)) for option in options)) == 1
    assert CONFLICTS[options] in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--zoom", "0.9"), ("--rotation", "x"), ("--focus", "0.5"), ("--focus", "0.5,2"), ("--size", "big")]
)
def test_numbers_out_of_range(option: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "-o", tmp_path / "out", *option)
    assert ended.value.code == 2
