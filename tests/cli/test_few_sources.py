"""What few sources mean for shares is said before pictures are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import PIXELS, record, refused, run


def test_a_preset_that_few_sources_cannot_keep_is_named(
    some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Defect P35: the error was of an option that nobody gave."""
    for words in (["--preset", "diverse"], ["--preset=diverse"]):
        text = refused(capsys, tmp_path, "generate", some, *PIXELS, "-n", 1, *words)
        assert "--preset diverse" in text
        assert "--max-share" in text
    text = refused(capsys, tmp_path, "generate", some, *PIXELS, "-n", 1, "--preset", "diverse", "--max-share", 0.1)
    assert "preset" not in text


@pytest.mark.parametrize(("options", "is_said"), [(["--donors", 1], False), (["--subset", 2], True), ([], True)])
def test_large_shares_are_said_before(
    options: list[object], is_said: bool, some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("generate", some, *PIXELS, "-n", 1, *options, "-o", tmp_path / "out")
    assert ("one may give up to" in capsys.readouterr().err) == is_said


def test_one_is_all_whether_a_share_or_a_number(faces: Path, tmp_path: Path) -> None:
    """Defect M14: 1 gave whole sources, where 1.0 used all."""
    for value in ("1", "1.0"):
        run("generate", faces, *PIXELS, "-n", 1, "--subset", value, "-o", tmp_path / value)
    one, all_of_them = (record(tmp_path / value)["images"] for value in ("1", "1.0"))
    assert one == all_of_them
    assert max(one[0]["shares"].values()) < 0.5


def test_two_donors_are_said_to_give_most(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", faces, *PIXELS, "-n", 1, "--preset", "balanced", "--subset", 2, "-o", tmp_path / "out")
    assert "one may give up to 75% of a picture" in capsys.readouterr().err
