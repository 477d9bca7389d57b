"""The chapters of the course: they run as scripts, their facts hold, and they are notebooks."""

from __future__ import annotations

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.paths import ROOT

COURSE = ROOT / "examples" / "course"
CHAPTERS = sorted(COURSE.glob("[0-9]*.py"))


def cells_of(text: str) -> list[tuple[str, str]]:
    """Return kind and text of each cell: "markdown" or "code"."""
    parts = re.split(r"^# %%( \[markdown\])?\n", text, flags=re.MULTILINE)[1:]
    return [("markdown" if kind else "code", body) for kind, body in zip(parts[::2], parts[1::2], strict=True)]


@pytest.mark.slow(4)
@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_it_runs_and_its_facts_hold(chapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if chapter.name.startswith("01"):
        pytest.importorskip("cv2", reason="OpenCV is not installed: the chapter on filters was not run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(COURSE)
    runpy.run_path(str(chapter), run_name="__main__")
    named = set(re.findall(r'^(?:show|plot)\(\s*"([^"]+)"', chapter.read_text(), re.MULTILINE))
    assert named
    assert all(name.startswith(chapter.name[:3]) for name in named)
    written = {path.stem for path in tmp_path.glob("figures/*.png")}
    assert written == (named if find_spec("matplotlib") else set())


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_it_is_a_chapter(chapter: Path) -> None:
    number, text = int(chapter.name[:2]), chapter.read_text()
    cells = cells_of(text)
    assert cells[0] == ("markdown", cells[0][1])
    assert cells[0][1].startswith(f"# # {number}. ")
    exercises = re.findall(r"\*\*Exercise (\d+)\.(\d+)\.\*\*", text)
    assert exercises == [(str(number), str(each)) for each in range(1, len(exercises) + 1)]
    assert len(re.findall(r"^assert ", text, re.MULTILINE)) > len(exercises) > 5
    for kind, body in cells:
        assert kind == "code" or all(line.startswith("#") for line in body.splitlines() if line)
    for page in (COURSE / "README.md", ROOT / "docs" / "course.md"):
        assert f"{chapter.name})" in page.read_text()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_jupytext_reads_it(chapter: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed: the notebooks were not read by it")
    notebook, text = jupytext.read(chapter), chapter.read_text()
    assert [cell.cell_type for cell in notebook.cells] == [kind for kind, _ in cells_of(text)]
    again = jupytext.writes(notebook, fmt="py:percent")
    assert again.partition("\n\n")[2] == text.partition("\n\n")[2]  # the head has jupytext's version
