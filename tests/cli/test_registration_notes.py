"""Commands say when pictures are not in register, and ``generate --align`` registers them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.command_line import contents, record, run
from helpers.misaligned import misalign, portraits, similarity, smooth
from helpers.paths import PORTRAITS

from latentpatch.cli.entry import main
from latentpatch.io.images import list_images, read_image, write_image
from latentpatch.registration.transforms import warp

SMALL = ["--size", "128", "-n", "1", "--no-residuals"]
BOX = ["--box", "48,72,80,112"]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight portraits in register."""
    folder = tmp_path_factory.mktemp("registered")
    for i, picture in enumerate(portraits(8)):
        write_image(folder / f"{i}.png", picture)
    return folder


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight turned, zoomed and shifted."""
    folder = tmp_path_factory.mktemp("scattered")
    for i, picture in enumerate(misalign(portraits(8)).pictures):
        write_image(folder / f"{i}.png", picture)
    return folder


def test_generate_says_so(
    registered: Path, scattered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("generate", registered, *SMALL, "-o", tmp_path / "good")
    assert "note:" not in capsys.readouterr().err
    run("generate", scattered, *SMALL, "-o", tmp_path / "bad")
    said = capsys.readouterr().err
    assert "note: the 8 sources are not in register" in said
    assert "latentpatch align" in said
    run("fit", scattered, *SMALL[:2], "--no-residuals", "-o", tmp_path / "bad.safetensors", "-q")
    assert not capsys.readouterr().err
    run("generate", tmp_path / "bad.safetensors", "-n", "1", "-o", tmp_path / "again")
    assert "note: the 8 sources are not in register" in capsys.readouterr().err


def test_generate_aligns(scattered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(scattered, folder)
    write_image(folder / "plain.png", torch.full((3, 128, 128), 0.4))
    run("generate", folder, "--align", "--skip-bad", *SMALL, "-o", tmp_path / "out")
    said, aligned = capsys.readouterr().err, tmp_path / "out-aligned"
    assert f"8 aligned pictures in {aligned}" in said
    assert "skipped: " in said
    assert "note:" not in said
    report = record(aligned, "alignment.json")
    assert (report["command"], report["size"], report["settings"]) == ("align", [128, 128], {"crop": False})
    run("generate", aligned, *SMALL, "-o", tmp_path / "by-hand")
    assert contents(tmp_path / "out") == contents(tmp_path / "by-hand")
    assert record(tmp_path / "out")["ids"] == [str(i) for i in range(8)]


def test_what_cannot_be_aligned(scattered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(scattered, folder, ignore=shutil.ignore_patterns("[4-9].png"))
    write_image(folder / "plain.png", torch.full((3, 128, 128), 0.4))
    assert main(["generate", str(folder), "--align", *SMALL, "-o", str(tmp_path / "out")]) == 1
    assert "plain.png" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed"]
    assert main(["generate", "some.safetensors", "--align", "-o", str(tmp_path / "out")]) == 1
    assert "--align: some.safetensors is fitted already" in capsys.readouterr().err


def test_registered_pictures_stay(registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifts = ("--rotation", "0", "--zoom", "1", "--shift", "0")
    run("align", registered, "--size", "128", *shifts, "-o", tmp_path / "out")
    assert "in register already" in capsys.readouterr().err
    for path in registered.iterdir():
        assert torch.equal(read_image(tmp_path / "out" / path.name), read_image(path))


def test_align_refuses_to_make_nothing_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "different"
    folder.mkdir()
    for seed in range(4):
        write_image(folder / f"{seed}.png", smooth(seed))
    shifts = ("--rotation", "0", "--zoom", "1", "--shift", "0", "--skip-bad")
    assert main(["align", str(folder), "-o", str(tmp_path / "out"), *shifts]) == 1
    assert "would agree no better than they do" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pictures_and_sources(registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fit", registered, *SMALL[:2], "--no-residuals", "-o", tmp_path / "good.safetensors", "-q")
    good, bad = list_images(PORTRAITS)[40], tmp_path / "bad.png"
    write_image(bad, warp(read_image(good, (128, 128)), similarity(0, 1, (12, 16)), (128, 128)))
    for picture, is_noted in ((good, False), (bad, True)):
        small = ["--patch-size", "3", "-n", "1"]
        run("inpaint", tmp_path / "good.safetensors", "--image", picture, *BOX, *small, "-o", tmp_path / "filled")
        assert ("is not in register with the sources" in capsys.readouterr().err) == is_noted
        run("generate", tmp_path / "good.safetensors", "--reference", picture, "-n", "1", "-o", tmp_path / "like")
        assert ("is not in register with the sources" in capsys.readouterr().err) == is_noted
        donor = list_images(registered)[0]
        run("edit", picture, "--donor", donor, "--size", "128", *BOX, "-o", tmp_path / "edited")
        assert ("are not in register" in capsys.readouterr().err) == is_noted
    assert record(tmp_path / "edited", "edit.json")["images"]
