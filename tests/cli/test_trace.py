"""``--trace``: the steps of a picture as an animation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import contents, record, run
from PIL import Image, ImageSequence

from latentpatch.cli._options import RunContext
from latentpatch.cli._trace import Trace
from latentpatch.io.images import read_image
from latentpatch.methods.picture import PictureStep


@pytest.fixture
def stones(tmp_path: Path) -> Path:
    rows, columns = np.mgrid[:24, :32]
    levels = 120 + 80 * np.sin(rows / 3) * np.cos(columns / 4)
    Image.fromarray(np.stack([levels, levels + 20, 0 * levels + 90], -1).astype(np.uint8)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("reshuffle", ["-n", 2, "--method", "gpnn", "--coarsest", 10, "--iterations", 1]),
        ("reshuffle", ["-n", 2, "--method", "gpdm", "--matching", "together", "--steps", 4, "--last-steps", 2]),
        ("texture", ["-n", 2, "--size", "40x32"]),
        ("denoise", ["--method", "nl-means"]),
    ],
)
def test_the_steps_of_the_first_picture(command: str, options: list[Any], stones: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(command, stones, *options, "--trace", "-q", "-o", out)
    assert record(out, f"{command}.json")["trace"] == "trace.gif"
    result = read_image(out / "0000.png")
    with Image.open(out / "trace.gif") as gif:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
        assert (gif.info["loop"], gif.size) == (0, tuple(result.shape[:0:-1]))
    assert len(frames) >= (1 if command == "denoise" else 2)
    assert np.abs(frames[-1] / 255 - result.permute(1, 2, 0).numpy()).mean() < 0.05
    run(command, stones, *options, "-q", "-o", tmp_path / "plain")
    assert "trace.gif" not in contents(tmp_path / "plain")
    assert (tmp_path / "plain" / "0000.png").stat().st_size == pytest.approx((out / "0000.png").stat().st_size, abs=60)


def test_a_trace_of_many_steps_is_short_and_without_later_pictures(tmp_path: Path) -> None:
    trace = Trace(2)
    for done in range(1, 2001):
        trace(
            PictureStep(
                done, 2000, torch.tensor([0.1, 0.2 + done / 2500, 0.3, 1]).view(1, 4, 1, 1).expand(-1, -1, 4, 4)
            )
        )
    trace.write(tmp_path / "trace.gif", torch.tensor([0.1, 0.6, 0.3]).view(1, 3, 1, 1).expand(-1, -1, 4, 4))
    with Image.open(tmp_path / "trace.gif") as gif:
        frames = [np.asarray(frame.convert("RGB"))[0, 0] for frame in ImageSequence.Iterator(gif)]
    assert 60 <= len(frames) <= 66
    assert np.abs(frames[-1] - np.array([0.1, 0.6, 0.3]) * 255).max() <= 1


def test_progress_is_shown_on_a_terminal_alone(
    stones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [stones, "-n", 1, "--method", "gpnn", "--coarsest", 10, "--iterations", 1]
    run("reshuffle", *options, "-o", tmp_path / "out")
    assert "step" not in capsys.readouterr().err
    monkeypatch.setattr(RunContext, "shows_progress", True)
    run("reshuffle", *options, "-o", tmp_path / "out")
    shown = capsys.readouterr().err
    assert "reshuffle:" in shown
    assert "step" in shown
