"""Images of edit and inpaint are explained from the record beside them, which is not believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import PIXELS, indices, record, run

from latentpatch import LatentPatch, explain

BOX = ["--box", "16,20,48,36"]


def explained(picture: Path, faces: Path, output: Path) -> dict[str, Any]:
    run("explain", picture, faces, *PIXELS, "-o", output)
    return record(output, "explanation.json")


def cells_by_id(found: dict[str, Any]) -> list[list[str]]:
    names = [part["id"] for part in found["sources"]]
    return [["" if cell < 0 else names[cell] for cell in row] for row in found["cells"]]


@pytest.mark.parametrize("options", [[], ["--reconstructed"]])
def test_an_inpainted_picture_has_the_map_it_was_made_with(faces: Path, options: list[str], tmp_path: Path) -> None:
    run("inpaint", faces, "--image", faces / "face02.png", *PIXELS, *BOX, "-n", 2, "-o", tmp_path / "out", *options)
    found = explained(tmp_path / "out" / "0001.png", faces, tmp_path / "why")
    assert found["exact"], found["note"]
    ids, index = record(tmp_path / "out", "inpaint.json")["ids"], indices(tmp_path / "out", "inpaint.json")[1]
    assert cells_by_id(found) == [["" if b < 0 else ids[b] for b in row] for row in index.tolist()]


@pytest.mark.parametrize("options", [[], ["--composite"]])
def test_an_edited_picture_is_of_its_donor(faces: Path, options: list[str], tmp_path: Path) -> None:
    donor = tmp_path / "someone.png"  # another name of a source
    shutil.copy(faces / "face05.png", donor)
    run("edit", faces / "face02.png", "--donor", donor, *PIXELS, *BOX, "-o", tmp_path / "out", *options)
    found = explained(tmp_path / "out" / "0000.png", faces, tmp_path / "why")
    assert found["exact"], found["note"]
    assert [part["id"] for part in found["sources"]] == ["face05"]
    assert sum(cell >= 0 for row in found["cells"] for cell in row) == 4 * 8
    run("fit", faces, *PIXELS, "-o", tmp_path / "m.safetensors")
    model = LatentPatch.load(tmp_path / "m.safetensors")
    assert not explain(model, tmp_path / "out" / "0000.png").exact  # the name alone is that of no source


def test_records_are_not_believed(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("inpaint", faces, "--image", faces / "face02.png", *PIXELS, *BOX, "-n", 1, "-o", out)
    good = json.loads((out / "inpaint.json").read_text())
    row = good["images"][0]
    other = [[(b + 1) % 12 if b >= 0 else -1 for b in each] for each in row["index"]]
    for number, change in enumerate(
        (
            {"images": [{**row, "index": other}]},
            {"images": [{**row, "index": [[-1] * 16] * 16}]},
            {"images": [{**row, "index": [[99] * 16] * 16}]},
            {"images": [{**row, "index": "a"}]},
            {"images": [{**row, "seed": 7}]},
            {"images": []},
            {"images": None},
            {"sources_sha256": "0"},
            {"settings": None},
        )
    ):
        (out / "inpaint.json").write_text(json.dumps(good | change))
        found = explained(out / "0000.png", faces, tmp_path / f"why{number}")
        assert not found["exact"], change
        assert "inpaint.json beside it" in found["note"]
    for number, text in enumerate((None, "no JSON", "[]", "[" * 100_000)):
        (out / "inpaint.json").unlink() if text is None else (out / "inpaint.json").write_text(text)
        found = explained(out / "0000.png", faces, tmp_path / f"text{number}")
        assert not found["exact"]
        assert "inpaint.json beside it" in found["note"]
