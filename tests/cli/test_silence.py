"""What is left out, does not match, or is not shown is counted and said; names of pictures are one notion."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from PIL import Image, features

from latentpatch import LatentPatch
from latentpatch.bank.attributes import read_attributes
from latentpatch.cli.entry import main
from latentpatch.errors import ImageError
from latentpatch.io.images import read_image

PIXELS = ["--autoencoder", "pixels", "--size", "64"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "in" / f"a{i}.png")
    return tmp_path


def generate(folder: Path, *options: object) -> dict[str, Any]:
    words = ["generate", str(folder / "in"), "-n", "1", "-o", str(folder / "out"), *PIXELS, *map(str, options)]
    assert main(words) == 0
    report: dict[str, Any] = json.loads((folder / "out" / "generation.json").read_text())
    return report


def test_files_that_are_left_out_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Defect: files of other suffixes, hidden ones and @eaDir were left out, or taken, without a word."""
    for name in ("b.jp2", "c.jp2", "._a0.png", "notes.txt"):
        (folder / "in" / name).write_bytes(b"x")
    (folder / "in" / "@eaDir").mkdir()
    shutil.copy(folder / "in" / "a0.png", folder / "in" / "@eaDir" / "thumb.png")
    report = generate(folder)
    assert report["sources"] == 4
    assert [Path(entry["file"]).name for entry in report["skipped"]] == ["._a0.png", "@eaDir", "b.jp2", "c.jp2"]
    assert "suffix .jp2: 2" in capsys.readouterr().err


def test_jfif_and_avif_are_pictures_and_heic_is_not_passed_over(folder: Path) -> None:
    picture = Image.open(folder / "in" / "a0.png")
    picture.save(folder / "in" / "b.jfif", "JPEG")
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "in" / "c.jpe", "JPEG")
    count = 6
    if features.check("avif"):
        picture.transpose(Image.Transpose.ROTATE_180).save(folder / "in" / "d.avif")
        count += 1
    assert generate(folder, "--no-groups")["sources"] == count
    (folder / "in" / "e.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100))
    with pytest.raises(ImageError, match=r"pillow-heif|damaged"):
        read_image(folder / "in" / "e.heic")
    assert len(generate(folder, "--no-groups", "--skip-bad")["skipped"]) == 1


def test_names_are_compared_in_one_normal_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Defect: of four pictures with names as macOS has them, two were dropped without a word."""
    for i, name in enumerate(("Zoë", "Jürgen", "anna", "bob")):
        (folder / "in" / f"a{i}.png").rename(folder / "in" / f"{unicodedata.normalize('NFD', name)}.png")
    (folder / "t.csv").write_text("id,who\n" + "".join(f"{name},é\n" for name in ("Zoë", "Jürgen", "anna", "bob")))
    report = generate(folder, "--attributes", folder / "t.csv", "--where", unicodedata.normalize("NFD", "who=é"))
    assert report["ids"] == ["Jürgen", "Zoë", "anna", "bob"]
    assert "without a row" not in capsys.readouterr().err
    model = LatentPatch("pixels", components=4).fit(torch.rand(2, 3, 64, 64), ids=["Zoë", "b"])
    assert model.bank.positions([unicodedata.normalize("NFD", "Zoë")]) == [0]


def test_rows_without_a_picture_and_pictures_without_a_row_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "t.csv").write_text("id,who\na0,x\na1,x\nzz,x\n")
    report = generate(folder, "--attributes", folder / "t.csv")
    text = capsys.readouterr().err
    reasons = ["1 row without a source, such as 'zz'", "2 sources without a row, such as 'a2'"]
    assert [entry["reason"] for entry in report["skipped"]] == reasons
    assert all(text.count(reason) == 1 for reason in reasons)
    assert "AttributesWarning" not in text


@pytest.fixture
def classes(folder: Path) -> Path:
    for i, place in enumerate(("cats/0.jpg", "cats/1.jpg", "dogs/0.jpg", "dogs/1.jpg")):
        target = folder / "cls" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(folder / "in" / f"a{i}.png").save(target)
    return folder / "cls"


def test_tables_tell_equal_names_in_class_folders_apart(classes: Path, tmp_path: Path) -> None:
    """Defect: paths were cut to their stems, and one row was of both cats/0.jpg and dogs/0.jpg."""
    table = tmp_path / "t.csv"
    table.write_text("file,kind\n" + "".join(f"{k}s/{i}.jpg,{k}\n" for k in ("cat", "dog") for i in range(2)))
    assert list(read_attributes(table)) == ["cats/0.jpg", "cats/1.jpg", "dogs/0.jpg", "dogs/1.jpg"]
    words = ["generate", str(classes), "-n", "1", "-o", str(tmp_path / "out"), *PIXELS, "--attributes", str(table)]
    assert main([*words, "--where", "kind=cat"]) == 0
    shares = json.loads((tmp_path / "out" / "generation.json").read_text())["images"][0]["shares"]
    assert set(shares) <= {"cats/0.jpg", "cats/1.jpg"}
    table.write_text("file,kind\n./x/a.jpg,1\nx\\b.jpg,2\n")
    assert list(read_attributes(table)) == ["a", "b"]


def test_landmarks_are_found_by_paths_and_aligned_names_are_kept(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "l.csv"
    words = ["align", str(classes), "-o", str(tmp_path / "al"), "--landmarks", str(table), "-q"]
    table.write_text("file,l_x,l_y,r_x,r_y\n" + "".join(f"{i}.jpg,10,10,40,10\n" for i in range(2)))
    assert main(words) == 1
    assert "another" in capsys.readouterr().err
    names = [f"{kind}/{i}.jpg" for kind in ("cats", "dogs") for i in range(2)]
    table.write_text("file,l_x,l_y,r_x,r_y\n" + "".join(f"{name},10,{10 + i},40,10\n" for i, name in enumerate(names)))
    assert main(words) == 0
    written = sorted(path.relative_to(tmp_path / "al").as_posix() for path in (tmp_path / "al").rglob("*.jpg*"))
    assert written == names


def test_a_link_that_leads_nowhere_is_a_bad_file(folder: Path) -> None:
    (folder / "in" / "x.png").symlink_to(folder / "nothing.png")
    assert len(generate(folder, "--skip-bad")["skipped"]) == 1


def test_sheets_that_show_a_part_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(folder, "-n", "65")["sheet_images"] == 64
    assert "the first 64 of 65" in capsys.readouterr().err


def test_arguments_that_others_override_are_refused() -> None:
    """Defect L6: n and seed were ignored beside seeds, and size beside a tensor."""
    model = LatentPatch("pixels", components=4).fit(torch.rand(4, 3, 64, 64))
    assert len(model.generate(2, seeds=[1, 2])) == 2
    for arguments in ({"n": 5, "seeds": [1, 2]}, {"seed": 7, "seeds": [1, 2]}):
        with refuses("seeds"):
            model.generate(**arguments)  # type: ignore[arg-type]
    with refuses("size"):
        LatentPatch("pixels").fit(torch.rand(4, 3, 64, 64), size=32)


def test_attributes_of_other_types_are_text_and_match() -> None:
    """Defect L4: integer ids were dropped without a word, and numbers ended in a TypeError."""
    rows: Any = {0: {"age": 20}, "1": {"age": 30}}
    model = LatentPatch("pixels", components=4).fit(torch.rand(3, 3, 64, 64), attributes=rows)
    assert model.bank.attributes == [{"age": "20"}, {"age": "30"}, {}]
    assert model.bank.candidates("age>24").tolist() == [1]  # type: ignore[union-attr]
