"""``latentpatch explain``: exact for images that can be generated again, else a marked estimate; and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.browser import Page, browser
from helpers.errors import refuses
from helpers.paths import PORTRAITS
from PIL import Image, PngImagePlugin

from latentpatch import LatentPatch, RasterSettings, explain
from latentpatch.cli.entry import main
from latentpatch.io.images import read_image, read_metadata, write_image

SIZE = 128


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "explanation.json").read_text(encoding="utf-8"))


def named(report: dict[str, Any]) -> list[list[str]]:
    """Return the id of each cell's source."""
    return [[report["sources"][k]["id"] for k in row] for row in report["cells"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "portraits.safetensors"
    assert run("fit", *sorted(PORTRAITS.glob("*.jpg"))[:32], "--size", SIZE, "-q", "-o", path) == 0
    return path


@pytest.fixture(scope="module")
def generated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    assert run("generate", model, "-n", 3, "--seed", 5, "--patch-size", 4, "-q", "-o", out) == 0
    return out


def test_what_generate_wrote_is_explained_exactly(
    model: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", generated / "0001.png", model, "-o", tmp_path) == 0
    assert "agree to the last bit" in capsys.readouterr().err
    made = json.loads((generated / "generation.json").read_text(encoding="utf-8"))
    report, row = record(tmp_path), made["images"][1]
    assert report["exact"]
    assert report["distance"] is None
    assert report["facts"]["seed"] == 6
    assert named(report) == [[made["ids"][b] for b in cells] for cells in row["index"]]
    assert {part["id"]: part["share"] for part in report["sources"]} == row["shares"]
    assert [part["share"] for part in report["sources"]] == sorted(row["shares"].values(), reverse=True)
    grid = len(report["cells"]) * len(report["cells"][0])
    assert max(part["largest_region"] for part in report["sources"]) == round(row["largest_region"] * grid)
    assert sum(part["cells"] for part in report["sources"]) == grid


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sampler", "random-cells"],
        ["--patch-size", 4, "--neighbors", 2],
        ["--patch-size", 4, "--decoding", "unproject"],
        ["--patch-size", 4, "--precision", "bfloat16"],
        ["--patch-size", 4, "--where", "kind=odd", "--attributes", "CSV"],
    ],
)
def test_every_way_of_generating_is_repeated(tmp_path: Path, arguments: list[object]) -> None:
    table = tmp_path / "kinds.csv"
    names = sorted(path.stem for path in PORTRAITS.glob("*.jpg"))[:16]
    table.write_text("\n".join(["id,kind", *(f"{n},{'odd' if i % 2 else 'even'}" for i, n in enumerate(names))]))
    pictures = [PORTRAITS / f"{name}.jpg" for name in names]
    arguments = [table if each == "CSV" else each for each in arguments]
    made_in = tmp_path / "made"
    assert run("generate", *pictures, "--size", 128, "-n", 1, "-q", "-o", made_in, *arguments) == 0
    known = ["--attributes", table] if table in arguments else []
    assert run("explain", made_in / "0000.png", *pictures, "--size", 128, *known, "-q", "-o", tmp_path) == 0
    report = record(tmp_path)
    assert report["exact"], report["note"]
    made = json.loads((made_in / "generation.json").read_text(encoding="utf-8"))
    assert named(report) == [[made["ids"][b] for b in cells] for cells in made["images"][0]["index"]]


def test_a_missing_reference_is_named(model: Path, tmp_path: Path) -> None:
    face = sorted(PORTRAITS.glob("*.jpg"))[40]
    assert run("generate", model, "-n", 1, "--reference", face, "--patch-size", 4, "-q", "-o", tmp_path / "made") == 0
    picture = tmp_path / "made" / "0000.png"
    assert run("explain", picture, model, "-q", "-o", tmp_path / "without") == 0
    assert not record(tmp_path / "without")["exact"]
    assert "reference image, which is missing" in record(tmp_path / "without")["note"]
    assert run("explain", picture, model, "--reference", face, "-q", "-o", tmp_path / "with") == 0
    assert record(tmp_path / "with")["exact"]


def test_estimates_are_near_what_is_exact(model: Path, generated: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.png"
    Image.open(generated / "0002.png").convert("RGB").save(plain)  # without metadata
    assert run("explain", plain, model, "-q", "-o", tmp_path) == 0
    report, made = record(tmp_path), json.loads((generated / "generation.json").read_text(encoding="utf-8"))
    assert not report["exact"]
    assert "An estimate" in report["note"]
    truth = [made["ids"][b] for row in made["images"][2]["index"] for b in row]
    found = [name for row in named(report) for name in row]
    assert sum(a == b for a, b in zip(truth, found, strict=True)) > 0.85 * len(truth)
    assert max(max(row) for row in report["distance"]) < 2


def test_a_picture_that_was_changed_is_noticed(model: Path, generated: Path, tmp_path: Path) -> None:
    original = generated / "0000.png"
    pixels = read_image(original)
    pixels[:, 30:60, 30:60] = 0
    write_image(tmp_path / "changed.png", pixels, read_metadata(original))
    assert run("explain", tmp_path / "changed.png", model, "-q", "-o", tmp_path) == 0
    report = record(tmp_path)
    assert not report["exact"]
    assert "its pixels are not those" in report["note"]
    assert torch.tensor(report["distance"]).max() > 1  # nothing like the black square is among the sources


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sources_sha256": "0" * 64}, "other sources"),
        ({"seed": 3}, "its pixels are not those"),
        ({"seed": -1}, "cannot be used"),
        ({"seed": None}, "cannot be used"),
        ({"settings": {"patch_size": "large"}}, "cannot be used"),
        ({"sampler": "raster", "settings": {"scales": 10**9}}, "scales must be at most 16"),
        ({"settings": {"sweeps": 1_000_000_000}}, "sweeps must be at most 16"),
        ({"settings": {"best_of": 2_000_000}}, "best_of must be at most 16"),
        ({"settings": {"draws": 1_000_000_000_000}}, "start_candidates must be at most 64"),
        ({"settings": {"neighbors": 10**18}}, "neighbors must be at most"),
        ({"sampler": "diffusion", "settings": {"levels": 10**9}}, "levels must be at most 64"),
        ({"sampler": "diffusion", "settings": {"windows": [16, 10**9]}}, "windows must be at most 64"),
        ({"sampler": ["raster"]}, "cannot be used"),
        ({"where": 5}, "cannot be used"),
        ({"command": "inpaint"}, "'inpaint'"),
        (None, "no metadata of how it was generated"),
    ],
)
def test_metadata_is_not_believed(
    model: Path, generated: Path, tmp_path: Path, change: dict[str, Any] | None, reason: str
) -> None:
    facts = json.loads(read_metadata(generated / "0000.png")["latentpatch"])
    text = "[[[" if change is None else json.dumps({**facts, **change})
    write_image(tmp_path / "odd.png", read_image(generated / "0000.png"), {"latentpatch": text})
    assert run("explain", tmp_path / "odd.png", model, "-q", "-o", tmp_path) == 0
    report = record(tmp_path)
    assert not report["exact"]
    assert reason in report["note"]


def test_in_python(model: Path, tmp_path: Path) -> None:
    loaded = LatentPatch.load(model)
    made = loaded.generate(2, seed=9, settings=RasterSettings(patch_size=4))
    first, second = explain(loaded, made), explain(loaded, made, 1)
    assert second.exact
    assert second.facts["seed"] == 10
    for i, found in enumerate((first, second)):
        assert {part.id: part.share for part in found.sources} == pytest.approx(made.shares()[i])
        for k, part in enumerate(found.sources):
            used = made.index[i] == loaded.bank.ids.index(part.id)
            assert torch.equal(found.index == k, used)
            assert torch.equal(part.picture, loaded.source_picture(loaded.bank.ids.index(part.id)))
    assert not explain(loaded, made.images[0]).exact
    with refuses("i"):
        explain(loaded, made, 2)
    loaded.remove(loaded.bank.ids[0])
    with refuses("picture"):
        explain(loaded, made)


def test_an_edited_picture_keeps_its_own_cells(model: Path) -> None:
    loaded = LatentPatch.load(model)
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[64:, 64:] = True
    filled = loaded.inpaint(sorted(PORTRAITS.glob("*.jpg"))[50], mask, 1, seed=1, settings=RasterSettings(patch_size=3))
    found = explain(loaded, filled)
    assert (found.index[:4] == -1).all()
    assert (found.index[4:, 4:] >= 0).all()
    assert sum(part.share for part in found.sources) == pytest.approx(0.25)
    assert '"cells"' in found.page()


def test_sources_are_shown_from_their_files_where_there_are_any(tmp_path: Path) -> None:
    sources = sorted(PORTRAITS.glob("*.jpg"))[:8]
    assert run("explain", sources[3], *sources, "--size", 64, "-q", "-o", tmp_path) == 0
    assert [part["id"] for part in record(tmp_path)["sources"]] == [sources[3].stem]
    sheet, picture = read_image(tmp_path / "explanation.png"), read_image(sources[3], (64, 64))
    assert torch.allclose(sheet[:, 68:132, 2:66], picture, atol=0.01)  # the third: its only source, all of it used


def test_the_page_needs_nothing_else(model: Path, generated: Path, tmp_path: Path) -> None:
    assert run("explain", generated / "0000.png", model, "-q", "-o", tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"explanation.{end}" for end in ("html", "json", "png")]
    page = (tmp_path / "explanation.html").read_text(encoding="utf-8")
    assert "__DATA__" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert not re.findall(r"https?://", page)
    assert "default-src 'none'" in page


def test_unreadable_pictures_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", tmp_path / "absent.png", model, "-o", tmp_path / "out") == 1
    assert "absent.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- the page in a browser -----------------------------------------------------------------------------


@pytest.mark.slow(4)
def test_a_person_can_explore_the_page(tmp_path: Path) -> None:
    if browser() is None:
        pytest.skip("no Chromium on this machine: the page was not opened")
    evil = "</script><img src=x onerror=alert(1)>"
    pictures = torch.stack([read_image(path, (64, 64)) for path in sorted(PORTRAITS.glob("*.jpg"))[:8]])
    model = LatentPatch().fit(pictures, ids=[evil, *"bcdefgh"], attributes={evil: {"mood": "<b>sly</b>"}})
    index = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 2], [0, 0, 3, 3], [0, 4, 3, 0]])
    made = model.generate(1, sampler="random-cells")
    explained = explain(model, type(made)(model.decode(index[None]), index[None], made.ids))
    (tmp_path / "page.html").write_text(explained.page(), encoding="utf-8")
    with Page() as page:
        page.open(tmp_path / "page.html")
        assert page.js("document.querySelectorAll('#picture .cell').length") == 16
        assert page.js("document.querySelectorAll('#list button').length") == 5
        assert page.js("document.querySelectorAll('#picture .cell.on').length") == 0

        page.hover('#picture .cell[data-i="2"]')
        chosen = "[...document.querySelectorAll('%s .cell.on')].map(cell => Number(cell.dataset.i))"
        for panel in ("#picture", "#map", "#source"):
            assert page.js(chosen % panel) == [2, 6]
        assert page.js("document.getElementById('heading').textContent") == "3. b"
        assert "13 %" in page.js("document.getElementById('said').textContent")
        shown = page.js("document.getElementById('source').style.backgroundImage")
        assert shown.startswith('url("data:image/jpeg')

        page.hover('#map .cell[data-i="15"]')
        assert page.js(chosen % "#picture") == [0, 1, 4, 5, 8, 9, 12, 15]
        assert page.js("document.getElementById('name').textContent") == f"Source 1: {evil}"
        assert page.js("document.getElementById('known').textContent") == "mood: <b>sly</b>"

        page.click('#picture .cell[data-i="13"]')  # kept, wherever the mouse goes
        page.hover('#picture .cell[data-i="0"]')
        assert page.js(chosen % "#picture") == [13]
        page.hover("#heading")  # or a cell that moves below the mouse would count as pointed at
        page.key("Escape")
        assert page.js(chosen % "#picture") == []

        page.js("document.querySelector('#picture .cell[tabindex=\"0\"]').focus()")
        page.key("ArrowUp")
        page.key("ArrowRight")
        assert page.js("document.activeElement.dataset.i") == "10"
        assert page.js("document.activeElement.getAttribute('aria-label')") == "row 3, column 3: d"
        assert page.js(chosen % "#source") == [10, 11, 14]
        assert page.js("document.querySelectorAll('#picture [tabindex=\"0\"]').length") == 1

        ground = "getComputedStyle(document.body).backgroundColor"
        page.scheme("dark")
        dark = page.js(ground)
        page.scheme("light")
        assert page.js(ground) != dark
        page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True)
        assert page.js("document.documentElement.scrollWidth") <= 360
        assert [address for address in page.requests if not address.startswith(("file:", "data:"))] == []
        assert page.errors == []


def test_estimates_do_not_need_a_metadata_of_ours(model: Path, tmp_path: Path) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "something else")
    Image.open(sorted(PORTRAITS.glob("*.jpg"))[60]).save(tmp_path / "other.png", pnginfo=note)
    assert run("explain", tmp_path / "other.png", model, "-q", "-o", tmp_path) == 0
    assert record(tmp_path)["facts"] == {}
