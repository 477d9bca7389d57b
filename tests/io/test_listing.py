"""Folders and lists are searched for pictures, which get unique names."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.errors import refuses, refuses_file

from latentpatch.io.listing import SUFFIXES, identifiers, list_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names_below(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_folders_are_searched(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.PNG", "a.jpg", "sub/z.gif", "sub/y.tif", "sub-1/x.webp", ".hidden.png", ".git/x.png", "notes.txt"
    )
    touch(tmp_path, *(f"all/x{suffix}" for suffix in SUFFIXES))
    found = names_below(tmp_path, list_images(str(tmp_path)))
    others = sorted(f"all/x{suffix}" for suffix in SUFFIXES)
    assert found == ["a.jpg", *others, "b.PNG", "sub/y.tif", "sub/z.gif", "sub-1/x.webp"]


def test_sources_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.png", "m.png", "a/b.png")
    found = list_images(tmp_path / "z", tmp_path / "m.png", tmp_path / "a")
    assert names_below(tmp_path, found) == ["z/a.png", "m.png", "a/b.png"]


def test_lists(tmp_path: Path) -> None:
    touch(tmp_path, "pictures/b b.png", "pictures/a.png", "c.png")
    text = f"\ufeff# pictures\r\n\r\n  b b.png \r\n../c.png\n{tmp_path / 'pictures' / 'a.png'}"
    (tmp_path / "pictures" / "list.txt").write_text(text, encoding="utf-8", newline="")
    found = list_images(tmp_path / "pictures" / "list.txt")
    assert [path.name for path in found] == ["b b.png", "c.png", "a.png"]
    assert all(path.is_file() for path in found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a.png\n\nnone.png\n", "line 3: none.png: no such file"),
        (b"a.png\nx" + b"y" * 5000 + b".png\n", "line 2: x" + "y" * 5000 + ".png: no such file"),
        (b"a.png\n.\n", "line 2: .: no such file"),
        (b"# a\nlist.txt\n", "line 2: list.txt: not a picture; accepted: .jpg"),
        (b"# only\n\n", "lists no images"),
        (b"\xff\xfe", "not a readable UTF-8 text file"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "list.txt").write_bytes(text)
    with refuses_file("list.txt", reason):
        list_images(tmp_path / "list.txt")


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "empty/notes.md", "a.png", "a.csv")
    with refuses("sources"):
        list_images()
    with refuses_file("none", "no such file or folder"):
        list_images(tmp_path / "none")
    with refuses_file("xxx", ""):
        list_images(tmp_path / ("x" * 5000))
    with refuses_file("a.csv", "not a folder, a .txt list or a picture; accepted: .jpg"):
        list_images(tmp_path / "a.csv")
    with refuses_file("empty", "holds no images; accepted: .jpg .jpeg"):
        list_images(tmp_path / "empty")


def test_repeats_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "d/a.png", "d/b.png")
    with refuses_file("a.png", "listed twice"):
        list_images(tmp_path / "d", tmp_path / "d" / ".." / "d" / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "d" / "b.png")
    with refuses_file("link.png", "listed twice, the first time as") as caught:
        list_images(tmp_path / "d", tmp_path / "link.png")
    assert caught.value.reason.endswith("b.png")


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "d/a.png")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    assert names_below(tmp_path, list_images(tmp_path)) == ["d/a.png"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["d/a.png", "e/b.png"], ["a", "b"]),
        (["d/a.png", "d/a.jpg"], ["a.png", "a.jpg"]),
        (["top/d/a.png", "top/e/a.png", "top/e/b.png"], ["d/a.png", "e/a.png", "e/b.png"]),
        (["top/a.png", "top/e/a.png"], ["a.png", "e/a.png"]),
        (["a.png"], ["a"]),
        ([], []),
    ],
)
def test_identifiers(tmp_path: Path, paths: list[str], expected: list[str]) -> None:
    assert identifiers([tmp_path / path for path in paths]) == expected
    assert identifiers([Path(path) for path in paths]) == expected


def test_identifiers_of_repeats(tmp_path: Path) -> None:
    with refuses("paths") as caught:
        identifiers([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"])
    assert caught.value.value == str(tmp_path / "a.png")
