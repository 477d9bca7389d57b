"""Progress bars show and count, or are not there at all."""

from __future__ import annotations

import pytest

from latentpatch.runs.progress import progress


def test_bars_pass_items_on_and_vanish(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress("reading", [1, 2, 3], mininterval=0)) == [1, 2, 3]
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "img" in shown
    assert not shown.rpartition("\r")[0].endswith("\n"), "nothing stays"
    with progress("pool", total=2, unit="step", leave=True) as bar:
        bar.update(2)
    assert "2/2" in capsys.readouterr().err


def test_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress("reading", "ab", shown=False)) == ["a", "b"]
    assert capsys.readouterr().err == ""
