"""Records beside audited pictures are believed only where the pixels confirm them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import PIXELS, RASTER, SHEETS, contents, record, run
from torch import Tensor

from latentpatch.cli.entry import main
from latentpatch.io.images import contact_sheet, read_image, write_image

NUMBER = 5


@pytest.fixture(scope="module")
def model(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "faces.safetensors"
    run("fit", faces, *PIXELS, "-q", "-o", path)
    return path


@pytest.fixture
def generated(model: Path, tmp_path: Path) -> Path:
    run("generate", model, *RASTER, "-n", NUMBER, "--decoding", "gather", "-q", "-o", tmp_path / "made")
    return tmp_path / "made"


def audited(model: Path, folder: Path) -> dict[str, Any]:
    out = folder.parent / "audit"
    assert main(["audit", str(model), str(folder), "-q", "-o", str(out)]) in (0, 3)
    return record(out, "audit.json")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    made = record(folder)
    change(made)
    (folder / "generation.json").write_text(json.dumps(made), encoding="utf-8")


def measured(report: dict[str, Any]) -> list[str]:
    return [row["file"] for row in report["images"]]


def test_contact_sheets_of_the_record_are_left_out(model: Path, generated: Path) -> None:
    report = audited(model, generated)
    assert report["pictures"] == NUMBER
    assert [entry["file"] for entry in report["covered"]["skipped"]] == SHEETS
    assert all("generation.json" in entry["reason"] for entry in report["covered"]["skipped"])
    assert report["covered"]["notes"] == []


def test_contact_sheets_of_inpaintings_are_left_out(model: Path, faces: Path, tmp_path: Path) -> None:
    picture = sorted(faces.iterdir())[3]
    run("inpaint", model, "--image", picture, "--box", "16,16,48,48", "-n", 3, "-q", "-o", tmp_path / "made")
    report = audited(model, tmp_path / "made")
    assert measured(report) == ["0000.png", "0001.png", "0002.png"]


@pytest.mark.parametrize("name", SHEETS)
def test_a_source_under_the_name_of_a_sheet_is_found(model: Path, generated: Path, faces: Path, name: str) -> None:
    write_image(generated / name, read_image(sorted(faces.iterdir())[4]))
    report = audited(model, generated)
    assert measured(report) == [*(f"{i:04d}.png" for i in range(NUMBER)), name]
    assert report["verdict"] == "fail"
    assert name in {failure["file"] for failure in report["failures"]}
    assert name in report["covered"]["notes"][0]


def test_a_sheet_that_no_record_names_is_measured(model: Path, generated: Path) -> None:
    rewrite(generated, lambda made: made.pop("sheets"))
    report = audited(model, generated)
    assert measured(report)[-2:] == SHEETS
    assert report["covered"]["skipped"] == []
    assert len(report["covered"]["notes"]) == 2


def _hide(folder: Path, faces: Path) -> None:
    """Put a source on the sheet whose picture is hidden from the audit."""
    source = read_image(sorted(faces.iterdir())[4])
    write_image(folder / ".hidden.png", source)
    write_image(folder / "grid.png", contact_sheet(source[None]))
    rewrite(folder, lambda made: made.update(images=[made["images"][0] | {"file": ".hidden.png"}]))


def _name_itself(folder: Path, faces: Path) -> None:
    source = read_image(sorted(faces.iterdir())[4])
    write_image(folder / "grid.png", source)
    rewrite(folder, lambda made: made.update(images=[made["images"][0] | {"file": "grid.png"}]))


def _name_a_picture(folder: Path, faces: Path) -> None:
    write_image(folder / "0003.png", read_image(sorted(faces.iterdir())[4]))
    rewrite(folder, lambda made: made.update(sheets=[*SHEETS, "0003.png"]))


def _break(folder: Path, faces: Path) -> None:
    write_image(folder / "grid.png", read_image(sorted(faces.iterdir())[4]))
    (folder / "generation.json").unlink()
    (folder / "edit.json").touch()


@pytest.mark.parametrize("forge", [_hide, _name_itself, _name_a_picture, _break])
def test_forged_records_hide_no_picture(
    model: Path, generated: Path, faces: Path, forge: Callable[[Path, Path], None]
) -> None:
    forge(generated, faces)
    report = audited(model, generated)
    name = "0003.png" if forge is _name_a_picture else "grid.png"
    assert name in measured(report)
    assert report["verdict"] == "fail"


def test_a_map_that_the_pixels_do_not_confirm_is_not_believed(model: Path, generated: Path, faces: Path) -> None:
    write_image(generated / "0001.png", read_image(sorted(faces.iterdir())[4]))
    report = audited(model, generated)
    assert [entry["file"] for entry in report["covered"]["records_not_believed"]] == ["0001.png"]
    row = report["images"][1]
    assert not row["exact"]
    assert row["largest_share"] == 1
    assert report["covered"]["exact_maps"] == NUMBER - 1
    assert measured(report)[-1] == "grid.png"  # which does not show that picture
    assert report["covered"]["estimated_maps"] == 2


@pytest.mark.parametrize("share", [0.95, 0.85])
def test_the_larger_count_is_kept(model: Path, generated: Path, faces: Path, share: float) -> None:
    """A record that agrees in most cells cannot make a copy smaller than it is measured to be."""
    write_image(generated / "0001.png", read_image(sorted(faces.iterdir())[4]))
    cells = torch.full((16, 16), 4)
    cells.view(-1)[: round((1 - share) * 256)] = torch.arange(round((1 - share) * 256)) % 4

    def claim(made: dict[str, Any]) -> None:
        made["images"][1]["index"] = cells.tolist()

    rewrite(generated, claim)
    row = audited(model, generated)["images"][1]
    assert row["exact"] == (share >= 0.9)
    assert row["largest_share"] == 1
    assert row["largest_region"] == 1
    assert row["sources"] == 1


def test_a_record_that_says_more_than_is_measured_counts(model: Path, generated: Path) -> None:
    before = audited(model, generated)["images"][0]
    cells = torch.tensor(record(generated)["images"][0]["index"])
    found, counts = cells.unique(return_counts=True)
    most = found[counts.argmax()]
    cells.view(-1)[(cells.view(-1) != most).nonzero()[:8, 0]] = most
    rewrite(generated, lambda made: made["images"][0].update(index=cells.tolist()))
    after = audited(model, generated)["images"][0]
    claimed = float((cells == most).float().mean())
    assert after["exact"]
    assert claimed > before["largest_share"]
    assert after["largest_share"] == pytest.approx(claimed, abs=1e-5)


def test_records_of_other_sources_are_named(faces: Path, generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--mirrored`` here, a record of mirrored sources is one of other sources."""
    folder = generated.parent / "mirrored"
    run("generate", faces, *PIXELS, *RASTER, "--mirrored", "-n", 2, "-q", "-o", folder)
    rewrite(folder, lambda made: made.pop("fit"))  # as older records, which do not tell
    main(["audit", str(faces), str(folder), *PIXELS, "-o", str(folder.parent / "audit")])
    report = record(folder.parent / "audit", "audit.json")
    (note,) = report["covered"]["notes"]
    assert "--mirrored" in note
    assert note in capsys.readouterr().err
    assert not any(row["exact"] for row in report["images"])


def test_the_closing_lines_say_what_is_covered(
    model: Path, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(generated)
    main(["audit", str(model), str(generated), "-o", str(generated.parent / "audit")])
    text = capsys.readouterr().err
    for words in (f"{NUMBER} exact and 0 estimated", "12 sources", "mirror images", "not covered: parts", "grid.png"):
        assert words in text, text
    report = record(generated.parent / "audit", "audit.json")
    reach: dict[str, Tensor] = report["covered"]["registered"]
    assert reach["sources"] == 12
    assert reach["mirrored"] is True
    assert report["not_covered"]
    assert contents(generated) == before
