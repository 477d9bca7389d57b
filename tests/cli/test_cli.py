"""The command line as a user meets it, on drawn faces with pixels for latents."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import contents, pictures, record, run
from helpers.paths import ROOT
from PIL import Image, PngImagePlugin
from torch import Tensor

from latentpatch import SAMPLERS, LatentPatch, RandomPatchesSettings, RasterSettings, load_autoencoder
from latentpatch.cli.main import main
from latentpatch.io.images import contact_sheet, encode_png, read_image, read_metadata, to_pil
from latentpatch.provenance.maps import provenance_images

PIXELS = ["--autoencoder", "pixels:4", "--size", "64"]
RASTER = ["--sampler", "raster"]
SHEETS = ["grid.png", "provenance.png"]


def pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, as written."""
    return np.asarray(to_pil(image))


def written(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def indices(folder: Path, name: str = "generation.json") -> Tensor:
    return torch.tensor([row["index"] for row in record(folder, name)["images"]])


@pytest.fixture(scope="module")
def five(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``generate -n 5 --seed 0`` writes."""
    out = tmp_path_factory.mktemp("five")
    run("generate", faces, *PIXELS, "-n", 5, "-o", out)
    return out


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moods and ages of the faces: every third is glad."""
    path = tmp_path_factory.mktemp("table") / "known.csv"
    rows = [f"face{i:02d}.png,{'glad' if i % 3 == 0 else 'calm'},{20 + i}" for i in range(12)]
    path.write_text("\n".join(["file,mood,age", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def some(faces: Path, tmp_path: Path) -> Path:
    """A folder of four faces of one's own, to spoil."""
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(faces.iterdir())[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


# --- generate ----------------------------------------------------------------------------------


def test_generate_writes_pictures_sheets_and_a_record(five: Path, faces: Path) -> None:
    assert sorted(contents(five)) == [*(f"{i:04d}.png" for i in range(5)), "generation.json", *SHEETS]
    report = record(five)
    assert report["command"] == "generate"
    assert report["sampler"] == "resynthesis"
    assert report["settings"] == {
        "patch_size": 5,
        "stride": 1,
        "neighbours": 1,
        "sweeps": 2,
        "max_share": 0.3,
        "draws": 2,
        "keep_start": False,
        "subset": 6,
        "symmetric": True,
        "switch_cost": 0.0,
        "use_cost": 0.0,
        "best_of": 1,
    }
    assert report["decoding"] == "blend"
    assert report["ids"] == [path.stem for path in sorted(faces.iterdir())]
    assert report["sources"] == 12
    assert report["autoencoder"]["name"] == "pixels"
    assert report["skipped"] == []
    assert [row["seed"] for row in report["images"]] == [0, 1, 2, 3, 4]
    maps = indices(five)
    assert maps.shape == (5, 16, 16)
    assert maps.min() >= 0
    assert maps.max() < 12
    assert len({str(row["index"]) for row in report["images"]}) == 5
    for i, row in enumerate(report["images"]):
        assert row["file"] == f"{i:04d}.png"
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)
        counts = {name: float((maps[i] == b).float().mean()) for b, name in enumerate(report["ids"])}
        assert row["shares"] == pytest.approx({name: share for name, share in counts.items() if share}, abs=1e-5)
        assert 0 < row["largest_region"] <= max(row["shares"].values())
        # Pixels as latents: each cell is that of the source the map names, joined to its neighbours.
        expected = model_of(faces).decode(maps[i : i + 1], report["decoding"])[0]
        assert np.abs(written(five / row["file"]).astype(int) - pixels(expected)).max() <= 1


def test_sheets_show_the_pictures_and_their_maps(five: Path) -> None:
    images = torch.stack([read_image(five / f"{i:04d}.png") for i in range(5)])
    assert np.array_equal(written(five / "grid.png"), pixels(contact_sheet(images)))
    maps = provenance_images(indices(five), 12, cell=4)
    assert np.array_equal(written(five / "provenance.png"), pixels(contact_sheet(maps)))


def test_the_same_command_gives_the_same_bytes(five: Path, faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 5, "-o", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(five)


def test_another_process_gives_the_same_bytes_and_json(five: Path, faces: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentpatch", "generate", faces, *PIXELS, "-n", "5", "--json", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=True)
    assert json.loads(result.stdout) == record(five)
    assert b"5 pictures in out" in result.stderr
    assert contents(tmp_path / "out") == contents(five)


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_does_not_depend_on_the_others(five: Path, faces: Path, tmp_path: Path, seed: int) -> None:
    run("generate", faces, *PIXELS, "-n", 1, "--seed", seed, "-o", tmp_path / "one")
    assert pictures(tmp_path / "one") == [pictures(five)[seed]]
    assert record(tmp_path / "one")["images"][0] == {**record(five)["images"][seed], "file": "0000.png"}


def test_few_sources_each_picture_of_four(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 12, "--preset", "few", "--mirrored", "-o", tmp_path / "few")
    drawn = [frozenset(row["shares"]) for row in record(tmp_path / "few")["images"]]
    assert max(map(len, drawn)) <= 4
    assert len(set(drawn)) > 6
    assert all(max(row["shares"].values()) <= 0.375 for row in record(tmp_path / "few")["images"])
    run("generate", faces, *PIXELS, "-n", 12, "--subset", 3, "-o", tmp_path / "three")
    drawn = [frozenset(row["shares"]) for row in record(tmp_path / "three")["images"]]
    assert max(map(len, drawn)) == 3
    assert len(set(drawn)) > 6
    run("generate", faces, *PIXELS, "--preset", "faithful", "-n", 4, "-o", tmp_path / "share", "--subset", 0.4)
    assert record(tmp_path / "share")["settings"]["subset"] == 5


def test_more_pictures_than_go_through_at_a_time(five: Path, faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 66, "-o", tmp_path / "many")
    many = pictures(tmp_path / "many")
    assert len(many) == len(record(tmp_path / "many")["images"]) == 66
    assert many[:5] == pictures(five)
    run("generate", faces, *PIXELS, "-n", 2, "--seed", 64, "-o", tmp_path / "last")
    assert pictures(tmp_path / "last") == many[64:]
    assert written(tmp_path / "many" / "grid.png").shape == (8 * 66 + 2, 8 * 66 + 2, 3), "64 pictures on the sheet"


def test_sources_may_be_given_in_several_ways(five: Path, faces: Path, tmp_path: Path) -> None:
    files = sorted(faces.iterdir())
    listing = tmp_path / "list.txt"
    listing.write_text("# faces\n" + "\n".join(map(str, files)), encoding="utf-8")
    run("fit", faces, *PIXELS, "-o", tmp_path / "model.safetensors")
    for name, sources in {
        "files": [*files, *PIXELS],
        "list": [listing, *PIXELS],
        "model": [tmp_path / "model.safetensors"],
        "model and name": [tmp_path / "model.safetensors", "--autoencoder", "pixels:4"],
    }.items():
        run("generate", *sources, "-n", 5, "-o", tmp_path / name)
        assert contents(tmp_path / name) == contents(five), name


def model_of(faces: Path, components: int = 16, **options: Any) -> LatentPatch:
    return LatentPatch("pixels:4", components).fit(faces, size=64, **options)


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 4},
        {"stride": 1},
        {"neighbours": 1},
        {"scales": 2},
        {"start_size": 8},
        {"patch_size": 5, "stride": 3, "neighbours": 12, "scales": 3, "start_size": 7},
    ],
    ids=str,
)
def test_settings_are_options(faces: Path, tmp_path: Path, settings: dict[str, int]) -> None:
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", value)]
    run("generate", faces, *PIXELS, "-n", 2, *RASTER, *options, "-o", tmp_path / "out")
    expected = model_of(faces).generate(2, settings=RasterSettings(**settings))
    assert torch.equal(indices(tmp_path / "out"), expected.index)
    plain = model_of(faces).generate(2, settings=RasterSettings())
    assert not torch.equal(expected.index, plain.index), "the setting makes a difference"
    assert record(tmp_path / "out")["settings"].items() >= settings.items()


def test_components_are_an_option(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 2, "--components", 2, "-o", tmp_path / "out")
    assert torch.equal(indices(tmp_path / "out"), model_of(faces, 2).generate(2).index)
    assert not torch.equal(indices(tmp_path / "out"), model_of(faces).generate(2).index)


def test_random_cells(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 2, "--sampler", "random-cells", "-o", tmp_path / "out")
    assert record(tmp_path / "out")["sampler"] == "random-cells"
    assert record(tmp_path / "out")["settings"] == {}
    assert torch.equal(indices(tmp_path / "out"), model_of(faces).generate(2, sampler="random-cells").index)


def test_random_patches(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 2, "--sampler", "random-patches", "--patch-size", 8, "-o", tmp_path / "out")
    maps = indices(tmp_path / "out")
    assert torch.equal(maps, maps[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2))
    expected = model_of(faces).generate(2, sampler="random-patches", settings=RandomPatchesSettings(8))
    assert torch.equal(maps, expected.index)


def test_a_reference_guides(faces: Path, tmp_path: Path) -> None:
    options = [*RASTER, "--reference", faces / "face04.png", "--neighbours", 1]
    run("generate", faces, *PIXELS, "-n", 18, *options, "-o", tmp_path / "out")
    assert indices(tmp_path / "out").unique().tolist() == [4]
    assert record(tmp_path / "out")["settings"]["scales"] == 1


def test_a_reference_of_another_shape_is_cropped_and_resized(faces: Path, tmp_path: Path) -> None:
    wide = Image.new("RGB", (160, 64), "green")
    wide.paste(Image.open(faces / "face07.png"), (48, 0))
    wide.save(tmp_path / "wide.png")
    options = [*RASTER, "--reference", tmp_path / "wide.png", "--neighbours", 1]
    run("generate", faces, *PIXELS, "-n", 1, *options, "-o", tmp_path / "out")
    assert indices(tmp_path / "out").unique().tolist() == [7]


def test_attributes_constrain(faces: Path, csv: Path, tmp_path: Path) -> None:
    options = ["--attributes", csv, "--where", "mood=glad and age<30"]
    run("generate", faces, *PIXELS, "-n", 6, *options, "-o", tmp_path / "out")
    assert set(indices(tmp_path / "out").unique().tolist()) == {0, 3, 6, 9}
    assert record(tmp_path / "out")["where"] == "mood=glad and age<30"
    # A fitted model remembers them.
    run("fit", faces, *PIXELS, "--attributes", csv, "-o", tmp_path / "new" / "model.safetensors")
    run("generate", tmp_path / "new" / "model.safetensors", "-n", 6, *options[2:], "-o", tmp_path / "again")
    assert pictures(tmp_path / "again") == pictures(tmp_path / "out")


def test_the_papers_decoding(five: Path, faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 1, "--decoding", "unproject", "-o", tmp_path / "out")
    assert torch.equal(indices(tmp_path / "out"), indices(five)[:1]), "the search is the same"
    expected = model_of(faces).generate(1, decoding="unproject").images[0]
    assert np.array_equal(written(tmp_path / "out" / "0000.png"), pixels(expected))
    assert pictures(tmp_path / "out")[0] != pictures(five)[0]


def test_sizes_need_not_be_square(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, "--autoencoder", "pixels:4", "--size", "48x64", "-n", 2, "-o", tmp_path / "out")
    assert indices(tmp_path / "out").shape == (2, 12, 16)
    assert written(tmp_path / "out" / "0001.png").shape == (48, 64, 3)


def test_bfloat16_is_near_and_recorded(five: Path, faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 1, "--precision", "bfloat16", "-o", tmp_path / "out")
    difference = written(tmp_path / "out" / "0000.png").astype(int) - written(five / "0000.png")
    assert np.abs(difference).max() <= 2
    assert json.loads(read_metadata(tmp_path / "out" / "0000.png")["latentpatch"])["precision"] == "bfloat16"


def test_json_is_all_there_is_on_standard_output(
    five: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("generate", faces, *PIXELS, "-n", 5, "--json", "-o", tmp_path / "out")
    out, err = capsys.readouterr()
    assert json.loads(out) == record(five)
    assert err.startswith("5 pictures in ")
    run("generate", faces, *PIXELS, "-n", 1, "-q", "-o", tmp_path / "out")
    assert capsys.readouterr() == ("", "")


# --- Pictures that can be made again -----------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        [],
        [
            *RASTER,
            *[
                "--patch-size",
                "5",
                "--stride",
                "2",
                "--neighbours",
                "2",
                "--scales",
                "3",
                "--start-size",
                "8",
                "--components",
                "12",
            ],
        ],
        ["--preset", "diverse", "--sweeps", 1, "--draws", 1, "--max-share", 0.4, "--keep-start"],
        ["--where", "mood!=glad", "--decoding", "unproject"],
        ["--sampler", "random-patches", "--patch-size", 5],
        ["--reference", "face02.png"],
    ],
    ids=str,
)
def test_metadata_is_enough_to_repeat_a_picture(
    faces: Path, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object]
) -> None:
    monkeypatch.chdir(faces)
    run("generate", faces, *PIXELS, "-n", 3, "--seed", 40, "--attributes", csv, *options, "-o", tmp_path / "out")
    path = tmp_path / "out" / "0002.png"
    metadata = read_metadata(path)
    facts = json.loads(metadata["latentpatch"])
    assert facts["seed"] == 42
    network = load_autoencoder(f"{facts['autoencoder']['name']}:{facts['autoencoder']['downsampling']}")
    assert network.fingerprint() == facts["autoencoder"]["sha256"]
    model = LatentPatch(network, facts["components"]).fit(faces, size=written(path).shape[:2], attributes=csv)
    assert model.bank.digest() == facts["sources_sha256"]
    again = model.generate(
        seed=facts["seed"],
        sampler=facts["sampler"],
        settings=SAMPLERS[facts["sampler"]].settings(**facts["settings"]),
        where=facts.get("where"),
        decoding=facts["decoding"],
        reference=facts["reference"]["file"] if "reference" in facts else None,
    )
    assert encode_png(again.images[0], metadata) == path.read_bytes()
    assert ("reference" in facts) == ("--reference" in options)


def test_no_picture_tells_where_it_was_made(faces: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    to_pil(torch.ones(3, 64, 64)).save(mask)
    a, b = faces / "face00.png", faces / "face01.png"
    run("generate", faces, *PIXELS, "-n", 1, "--reference", a, "-o", tmp_path / "generate")
    run("inpaint", faces, *PIXELS, "-n", 1, "--image", a, "--mask", mask, "-o", tmp_path / "inpaint")
    run("edit", a, *PIXELS, "--donor", b, "--mask", mask, "-o", tmp_path / "edit")
    run("reconstruct", a, *PIXELS, "-o", tmp_path / "reconstruct")
    for command in ("generate", "inpaint", "edit", "reconstruct"):
        found = sorted((tmp_path / command).glob("*.png"))
        assert len(found) >= 2
        for path in found:
            text = json.dumps(read_metadata(path))
            for folder in (tmp_path, faces, ROOT, Path.home()):
                assert str(folder) not in text
        facts = json.loads(read_metadata(tmp_path / command / "0000.png")["latentpatch"])
        assert facts["command"] == command
        assert facts["autoencoder"].keys() == {"name", "downsampling", "sha256", "license"}


# --- edit, inpaint, reconstruct ----------------------------------------------------------------


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White where the box 16,20,48,36 is."""
    picture = Image.new("L", (64, 64))
    picture.paste(255, (16, 20, 48, 36))
    picture.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


REGION = (slice(20, 36), slice(16, 48))  # rows, columns of the box


def test_edit(faces: Path, tmp_path: Path, mask: Path) -> None:
    a, b = faces / "face00.png", faces / "face01.png"
    run("edit", a, "--donor", b, "--box", "16,20,48,36", *PIXELS, "-o", tmp_path / "box")
    assert sorted(contents(tmp_path / "box")) == ["0000.png", "edit.json", *SHEETS]
    expected = written(a).copy()
    expected[REGION] = written(b)[REGION]
    assert np.array_equal(written(tmp_path / "box" / "0000.png"), expected)
    index = indices(tmp_path / "box", "edit.json")[0]
    assert (index[5:9, 4:12] == 0).all()
    assert (index == -1).sum() == 256 - 32
    report = record(tmp_path / "box", "edit.json")
    assert report["ids"] == ["donor"]
    assert report["images"][0]["shares"] == {"donor": 0.125}
    assert report["images"][0]["largest_region"] == 0.125
    assert (report["image"]["file"], report["donor"]["file"]) == ("face00.png", "face01.png")
    sheet = torch.stack([read_image(path) for path in (a, b, tmp_path / "box" / "0000.png")])
    assert np.array_equal(written(tmp_path / "box" / "grid.png"), pixels(contact_sheet(sheet)))
    run("edit", a, "--donor", b, "--mask", mask, *PIXELS, "-o", tmp_path / "mask")
    assert np.array_equal(written(tmp_path / "mask" / "0000.png"), expected)
    run("edit", a, "--donor", b, "--mask", mask, *PIXELS, "--composite", "-o", tmp_path / "composite")
    composite = written(tmp_path / "composite" / "0000.png")
    assert np.array_equal(composite, expected), "pixels lose nothing, so there is nothing to fit"


def test_inpaint(faces: Path, tmp_path: Path, mask: Path) -> None:
    a = faces / "face02.png"
    options = ["--image", a, *PIXELS, "--patch-size", 4]
    run("inpaint", faces, *options, "--box", "16,20,48,36", "-n", 3, "--seed", 5, "-o", tmp_path / "box")
    assert sorted(contents(tmp_path / "box")) == [
        "0000.png",
        "0001.png",
        "0002.png",
        *SHEETS[:1],
        "inpaint.json",
        SHEETS[1],
    ]
    outside = np.ones((64, 64), bool)
    outside[REGION] = False
    for i in range(3):
        assert np.array_equal(written(tmp_path / "box" / f"{i:04d}.png")[outside], written(a)[outside])
    index = indices(tmp_path / "box", "inpaint.json")
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[5:9, 4:12] = True
    assert (index[:, ~inside] == -1).all()
    assert (index[:, inside] >= 0).all()
    assert (index[:, inside] < 12).all()
    assert len(set(pictures(tmp_path / "box"))) == 3, "several fillings"
    assert [row["seed"] for row in record(tmp_path / "box", "inpaint.json")["images"]] == [5, 6, 7]
    selected = torch.zeros(64, 64, dtype=torch.bool)
    selected[REGION] = True
    expected = model_of(faces).inpaint(read_image(a), selected, 3, seed=5, settings=RasterSettings(patch_size=4))
    assert torch.equal(index, expected.index)
    for i in range(3):
        assert np.array_equal(written(tmp_path / "box" / f"{i:04d}.png"), pixels(expected.images[i]))
    run("inpaint", faces, *options, "--mask", mask, "-n", 1, "--seed", 6, "-o", tmp_path / "mask")
    assert np.array_equal(written(tmp_path / "mask" / "0000.png"), written(tmp_path / "box" / "0001.png"))
    run("inpaint", faces, *options, "--mask", mask, "-n", 1, "--seed", 6, "--reconstructed", "-o", tmp_path / "own")
    bare = model_of(faces).inpaint(
        read_image(a), selected, seed=6, settings=RasterSettings(patch_size=4), composite=False
    )
    assert np.array_equal(written(tmp_path / "own" / "0000.png"), pixels(bare.images[0]))


def test_inpainting_is_constrained_too(faces: Path, csv: Path, tmp_path: Path) -> None:
    options = ["--image", faces / "face02.png", "--box", "8,8,56,56", "--attributes", csv, "--where", "mood=glad"]
    run("inpaint", faces, *PIXELS, *options, "-n", 4, "-o", tmp_path / "out")
    assert set(indices(tmp_path / "out", "inpaint.json").unique().tolist()) == {-1, 0, 3, 6, 9}


def test_reconstruct(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("reconstruct", faces, *PIXELS, "-o", tmp_path / "out", "--json")
    report = record(tmp_path / "out", "reconstruct.json")
    assert json.loads(capsys.readouterr().out) == report
    assert len(pictures(tmp_path / "out")) == len(report["images"]) == 12
    for row, source in zip(report["images"], sorted(faces.iterdir()), strict=True):
        assert row["id"] == source.stem
        assert row["psnr"] > 90, "pixels lose nothing"
        assert np.array_equal(written(tmp_path / "out" / row["file"]), written(source))


# --- fit, inspect ------------------------------------------------------------------------------


def test_fit_and_inspect(faces: Path, csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    options = ["--attributes", csv, "--components", 8, "--json"]
    run("fit", faces, "--autoencoder", "pixels:4", "--size", "48x64", *options, "-o", path)
    out, err = capsys.readouterr()
    assert err == f"{path}: 12 sources\n"
    fitted = json.loads(out)
    assert fitted.pop("skipped") == []
    assert fitted["ids"] == [source.stem for source in sorted(faces.iterdir())]
    assert fitted["image_size"] == [48, 64]
    assert fitted["grid"] == [12, 16]
    assert fitted["components"] == 8
    assert 0.5 < fitted["explained_variance"] < 1
    assert fitted["attributes"] == ["age", "file", "mood"]
    assert fitted["autoencoder"]["name"] == "pixels"
    assert contents(tmp_path).keys() == {"model.safetensors"}
    for arguments in (["--json"], []):
        run("inspect", path, *arguments)
        assert json.loads(capsys.readouterr().out) == fitted
    before = path.read_bytes()
    run("fit", faces, "--autoencoder", "pixels:4", "--size", "48x64", *options, "-o", path)
    assert path.read_bytes() == before


def test_inspect_needs_no_weights(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = load_autoencoder("taef2", pretrained=False)
    path = tmp_path / "model.safetensors"
    LatentPatch(network).fit(sorted(faces.iterdir())[:3], size=64).save(path)
    run("inspect", path)
    report = json.loads(capsys.readouterr().out)
    assert report["autoencoder"]["sha256"] == network.fingerprint()
    assert report["sources"] == 3


def test_output_within_the_sources_is_refused(some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(some)
    assert main(["generate", str(some), *PIXELS, "-o", str(some / "out")]) == 1
    assert "lies within the sources" in capsys.readouterr().err
    assert contents(some) == before


def test_what_is_wrong_is_found_before_encoding(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any) -> None:
        raise AssertionError("encoding began")

    monkeypatch.setattr(LatentPatch, "_encode", encode)
    for option, value in {
        "--neighbours": 13,
        "--patch-size": 11,
        "--where": "mood=",
        "--attributes": "none.csv",
    }.items():
        refused(capsys, tmp_path, "generate", faces, *PIXELS, *RASTER, option, value)


def test_older_pictures_are_told_of(some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", some, *PIXELS, "-n", 3, "-o", tmp_path / "out")
    assert "earlier run" not in capsys.readouterr().err
    run("generate", some, *PIXELS, "-n", 1, "-o", tmp_path / "out")
    assert f"earlier run that stay in {tmp_path / 'out'}: 2" in capsys.readouterr().err
    assert (tmp_path / "out" / "0002.png").exists()


def test_inspect_a_picture(five: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", five / "0003.png")
    report = json.loads(capsys.readouterr().out)
    assert report["size"] == [64, 64]
    assert report["latentpatch"]["seed"] == 3
    assert report["latentpatch"]["settings"] == record(five)["settings"]
    run("inspect", faces / "face00.png", "--json")
    assert json.loads(capsys.readouterr().out) == {"size": [64, 64]}


def test_inspect_a_picture_of_someone_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[" * 100_000, "NaN", '{"a": [Infinity', "1" * 10_000, ""):
        chunks = PngImagePlugin.PngInfo()
        for key in ("latentpatch", "size", "Software"):
            chunks.add_text(key, text)
        Image.new("RGB", (32, 16)).save(tmp_path / "a.png", pnginfo=chunks)
        run("inspect", tmp_path / "a.png", "--json")

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        report = json.loads(capsys.readouterr().out, parse_constant=refuse)
        assert report == {"size": [16, 32], "latentpatch": text, "Software": text}


def test_inspect_a_folder(some: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (some / "text.png").write_text("This is a text.")
    (some / "small.png").write_bytes(encode_png(torch.zeros(3, 1, 1)))
    run("inspect", some)
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 6
    assert report["unusable"].keys() == {str(some / "text.png"), str(some / "small.png")}
    assert "1x1 pixels; sides must be at least 16" in report["unusable"][str(some / "small.png")]


# --- Bad input ---------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], place: Path, *arguments: object, output: str = "-o") -> str:
    """The one line of the error of a command that leaves nothing behind, nor anything changed."""
    (place / "there").mkdir(exist_ok=True)
    (place / "there" / "0000.png").write_bytes(b"mine")
    (place / "there" / "notes.txt").write_bytes(b"mine")
    before = contents(place)
    lines = set()
    for folder in (place / "there", place / "new" / "deep"):
        capsys.readouterr()
        where = [output, folder] if output else []
        assert main([str(argument) for argument in [*arguments, *where]]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("latentpatch: error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert contents(place) == before
        lines.add(err.removeprefix("latentpatch: error: ").rstrip().replace(str(folder), "OUT"))
    (line,) = lines
    return line


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def truncated_jpeg(path: Path) -> None:
    data = jpeg(Image.effect_noise((64, 64), 50).convert("RGB"), quality=95)
    path.write_bytes(data[: len(data) // 2])


def animated_gif(path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def enormous_png(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


BAD = {
    "cut.jpg": (truncated_jpeg, "damaged, truncated or unsupported"),
    "text.png": (lambda path: path.write_text("This is a text.\n" * 9), "still JPEG, PNG, WebP, BMP, TIFF and GIF"),
    "moves.gif": (animated_gif, "holds several frames or pages"),
    "dot.png": (
        lambda path: path.write_bytes(encode_png(torch.ones(3, 1, 1))),
        "1x1 pixels; sides must be at least 16",
    ),
    "huge.png": (enormous_png, "more than 67108864 pixels"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "still JPEG, PNG, WebP, BMP, TIFF and GIF"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_by_name(
    some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, message = BAD[name]
    good = some / "face00.png"
    make(some / name)
    for command in (["generate", some], ["reconstruct", some], ["generate", good, some / "face01.png", some / name]):
        line = refused(capsys, tmp_path, *command, *PIXELS)
        assert line.startswith(f"{some / name}: ")
        assert message in line
    others = [path for path in sorted(some.iterdir()) if path.name != name]
    box = ["--box", "0,0,32,32"]
    for command in (
        ["generate", *others, "--reference", some / name],
        ["inpaint", *others, "--image", some / name, *box],
        ["inpaint", *others, "--image", good, "--mask", some / name],
        ["edit", some / name, "--donor", good, *box],
        ["edit", good, "--donor", some / name, *box],
    ):
        assert refused(capsys, tmp_path, *command, *PIXELS).startswith(f"{some / name}: ")


def test_bad_pictures_are_skipped_on_demand(some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", some, *PIXELS, "-n", 2, "-o", tmp_path / "good")
    run("reconstruct", some, *PIXELS, "-o", tmp_path / "good again")
    bad = sorted(some / name for name in BAD)
    for path in bad:
        BAD[path.name][0](path)
    capsys.readouterr()
    run("generate", some, *PIXELS, "-n", 2, "--skip-bad", "-o", tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bad) + 1
    for path, line in zip(bad, lines, strict=False):
        assert line.startswith(f"skipped: {path}: ")
        assert BAD[path.name][1] in line
    skipped = record(tmp_path / "out")["skipped"]
    assert [row["file"] for row in skipped] == [str(path) for path in bad]
    assert all(BAD[path.name][1] in row["reason"] for path, row in zip(bad, skipped, strict=True))
    assert record(tmp_path / "out")["ids"] == [f"face{i:02d}" for i in range(4)]
    assert pictures(tmp_path / "out") == pictures(tmp_path / "good")

    run("reconstruct", some, *PIXELS, "--skip-bad", "-o", tmp_path / "again")
    assert capsys.readouterr().err.count("skipped: ") == len(bad)
    assert record(tmp_path / "again", "reconstruct.json")["skipped"] == skipped
    assert pictures(tmp_path / "again") == pictures(tmp_path / "good again")

    run("fit", some, *PIXELS, "--skip-bad", "--json", "-o", tmp_path / "model.safetensors")
    report = json.loads(capsys.readouterr().out)
    assert report["skipped"] == skipped
    assert report["sources"] == 4


def test_nothing_but_bad_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("dot.png", "text.png"):
        BAD[name][0](tmp_path / "bad" / name)
    line = refused(capsys, tmp_path, "generate", tmp_path / "bad", *PIXELS, "--skip-bad", "--neighbours", 1)
    assert line.startswith(f"none of the 2 sources could be used; the first: {tmp_path / 'bad' / 'dot.png'}: 1x1")


@pytest.mark.parametrize(
    "kind", ["cmyk.jpg", "palette.png", "deep.png", "clear.png", "turned.jpg", "large.png", "flat.bmp"]
)
def test_unusual_pictures_are_used(some: Path, faces: Path, tmp_path: Path, kind: str) -> None:
    face = Image.open(faces / "face05.png").convert("RGB")
    path = some / kind
    expected, tolerance = np.asarray(face).astype(int), 0
    if kind == "cmyk.jpg":
        path.write_bytes(jpeg(face.convert("CMYK"), quality=95, subsampling=0))
        tolerance = 40
    elif kind == "palette.png":
        few = face.quantize(256)
        few.save(path)
        expected = np.asarray(few.convert("RGB")).astype(int)
    elif kind == "deep.png":
        grey = np.asarray(face.convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
        expected = np.repeat(grey[..., None], 3, 2).astype(int)
    elif kind == "clear.png":
        clear = face.copy()
        clear.putalpha(Image.fromarray(np.tile(np.repeat([0, 255], 32).astype(np.uint8), (64, 1))))
        clear.save(path)
        expected[:, :32] = 255  # over white
    elif kind == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        path.write_bytes(jpeg(face.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95, subsampling=0))
        tolerance = 40
    elif kind == "large.png":  # cropped about the centre, then resized
        wide = Image.new("RGB", (400, 128), "red")
        wide.paste(face.resize((128, 128), Image.Resampling.NEAREST), (136, 0))
        wide.save(path)
        tolerance = 60
    else:
        face.save(path)
    run("reconstruct", path, *PIXELS, "-o", tmp_path / "one")
    difference = np.abs(written(tmp_path / "one" / "0000.png").astype(int) - expected)
    assert np.percentile(difference, 99) <= tolerance
    assert difference.mean() <= tolerance / 8
    run("generate", some, *PIXELS, "-n", 1, *RASTER, "--neighbours", 5, "-o", tmp_path / "out")
    assert len(record(tmp_path / "out")["ids"]) == 5


CASES: dict[str, tuple[list[object], str]] = {
    "missing folder": (["generate", "none"], "none: no such file or folder"),
    "empty folder": (["generate", "hollow"], "hollow: holds no images; accepted: .jpg"),
    "text without pictures": (["generate", "hollow/empty.txt"], "empty.txt: lists no images"),
    "wrong list": (["generate", "hollow/wrong.txt"], "wrong.txt: line 2: gone.png: no such file"),
    "one source": (["generate", "FACES/face00.png"], "sources: at least 1 beside the one it starts with is expected"),
    "one for the raster": (["generate", "FACES/face00.png", *RASTER], "neighbours 3: at most 1 (number of sources)"),
    "a source twice": (["generate", "FACES", "FACES/face00.png"], "face00.png: given twice"),
    "k > B": (["generate", "FACES", *RASTER, "--neighbours", 13], "neighbours 13: at most 12 (number of sources)"),
    "k = B": (
        ["generate", "FACES", "--neighbours", 12, "--subset", "1.0"],
        "neighbours 12: at most 11 (sources beside the one it starts",
    ),
    "small share": (["generate", "FACES", "--max-share", 0.05], "max_share 0.05: at least "),
    "foreign": (["generate", "FACES", "--scales", 2], "--scales: not a setting of the sampler 'resynthesis'"),
    "foreign sweeps": (["generate", "FACES", *RASTER, "--sweeps", 2], "--sweeps: not a setting of the sampler"),
    "k > B'": (["generate", "FACES", "--attributes", "CSV", "--where", "age<22", *RASTER], "neighbours 3: at most 2 "),
    "no neighbours": (["generate", "FACES", "--neighbours", 0], "neighbours 0: at least 1 is expected"),
    "large patch": (["generate", "FACES", *RASTER, "--patch-size", 11], "patch_size 11: at most 10 (shorter side of "),
    "large stride": (["generate", "FACES", *RASTER, "--stride", 7], "stride 7: at most patch_size 6 is expected"),
    "large start": (["generate", "FACES", *RASTER, "--start-size", 17], "start_size 17: at most 16 "),
    "many components": (["generate", "FACES", "--components", 49], "components 49: an integer from 1 to 48"),
    "odd size": (["generate", "FACES", "--size", 63], "63x63: pixels takes sides that are positive multiples of 4"),
    "no size": (["generate", "FACES", "--size", "64x"], "--size '64x': pixels are expected, as SIDE or HEIGHTxWIDTH"),
    "huge size": (["generate", "FACES", "--size", 1000000], "--size 1000000: at most 67108864 pixels are expected"),
    "unknown autoencoder": (["generate", "FACES", "--autoencoder", "vae"], "autoencoder 'vae': one of "),
    "no weights": (["generate", "FACES", "--autoencoder", "taesd:"], "autoencoder 'taesd:': a file or folder is "),
    "wrong argument": (["generate", "FACES", "--autoencoder", "pixels:0"], "downsampling 0: an integer from 1 to 64"),
    "missing weights": (["generate", "FACES", "--autoencoder", "taesd:none"], "none: a folder with taesd_encoder.pth "),
    "unknown device": (["generate", "FACES", "--device", "abacus"], "--device 'abacus': auto, cpu, cuda or "),
    "missing reference": (["generate", "FACES", "--reference", "none.png"], "none.png: cannot be read: No such file"),
    "guided baseline": (
        ["generate", "FACES", "--sampler", "random-cells", "--reference", "FACES/face00.png"],
        "reference: the sampler 'random-cells' takes none",
    ),
    "foreign setting": (
        ["generate", "FACES", "--sampler", "random-patches", "--stride", 2],
        "--stride: not a setting of the sampler 'random-patches'",
    ),
    "missing table": (["generate", "FACES", "--attributes", "none.csv"], "none.csv: cannot be read: No such file"),
    "wrong table": (["generate", "FACES", "--attributes", "hollow/wrong.csv"], "wrong.csv, line 3: 1 values; 2 are "),
    "foreign table": (
        ["generate", "FACES", "--attributes", "hollow/foreign.csv"],
        "foreign.csv: names none of the sources, such as 'face00'",
    ),
    "no table": (["generate", "FACES", "--where", "mood=glad"], "where 'mood=glad': no source has the attribute "),
    "unknown attribute": (
        ["generate", "FACES", "--attributes", "CSV", "--where", "hat=yes"],
        "where 'hat=yes': no source has the attribute 'hat'; known: age, file, mood",
    ),
    "bad condition": (
        ["generate", "FACES", "--attributes", "CSV", "--where", "mood ="],
        "condition 'mood =', position 7: a value",
    ),
    "nobody": (
        ["generate", "FACES", "--attributes", "CSV", "--where", "age>90"],
        "where 'age>90': none of the 12 sources satisfies it",
    ),
    "not a model": (["generate", "hollow/wrong.safetensors"], "wrong.safetensors: not a readable model file"),
    "missing model": (["generate", "none.safetensors"], "none.safetensors: not a readable model file"),
    "short box": (["inpaint", "FACES", "--image", "FACES/face00.png", "--box", "1,2,3"], "box must be LEFT,TOP,RIGHT"),
    "box outside": (
        ["inpaint", "FACES", "--image", "FACES/face00.png", "--box", "0,0,65,9"],
        "box must be inside the picture, which is 64 wide and 64 high, got '0,0,65,9'",
    ),
    "empty box": (["edit", "FACES/face00.png", "--donor", "FACES/face01.png", "--box", "9,9,9,20"], "box must be not"),
    "tiny box": (
        ["edit", "FACES/face00.png", "--donor", "FACES/face01.png", "--box", "0,0,2,3"],
        "mask: it selects no cell of the latent grid; at least one is expected",
    ),
    "black mask": (
        ["inpaint", "FACES", "--image", "FACES/face00.png", "--mask", "hollow/black.jpeg2"],
        "mask: it selects no cell of the latent grid",
    ),
    "missing mask": (
        ["inpaint", "FACES", "--image", "FACES/face00.png", "--mask", "none.png"],
        "none.png: cannot be read: No such file",
    ),
    "missing donor": (
        ["edit", "FACES/face00.png", "--donor", "none.png", "--box", "0,0,9,9"],
        "none.png: cannot be read: No such file",
    ),
    "missing pictures": (["reconstruct", "none"], "none: no such file or folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_requests_are_named(
    faces: Path,
    csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    (hollow / "empty.txt").write_text("# nothing\n")
    (hollow / "wrong.txt").write_text("# one\ngone.png\n")
    (hollow / "wrong.csv").write_text("id,mood\nface00,glad\nface01\n")
    (hollow / "foreign.csv").write_text("id,mood\nsomeone,glad\n")
    (hollow / "wrong.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    (hollow / "black.jpeg2").write_bytes(jpeg(Image.new("L", (64, 64))))
    arguments, message = CASES[name]
    given = [str(argument).replace("FACES", str(faces)).replace("CSV", str(csv)) for argument in arguments]
    standard = [
        text for i, text in enumerate(PIXELS) if PIXELS[i - i % 2] not in given and "safetensors" not in given[1]
    ]
    assert message in refused(capsys, tmp_path, *given, *standard)


def test_one_source_can_be_copied(faces: Path, tmp_path: Path) -> None:
    run("generate", faces / "face03.png", *PIXELS, "-n", 1, *RASTER, "--neighbours", 1, "-o", tmp_path / "out")
    assert np.array_equal(written(tmp_path / "out" / "0000.png"), written(faces / "face03.png"))


def test_a_model_file_is_what_it_was_fitted_as(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    run("fit", faces, *PIXELS, "-o", path)
    for option, value in (("--size", 64), ("--components", 8), ("--attributes", "known.csv")):
        line = refused(capsys, tmp_path, "generate", path, option, value)
        assert line == f"{option}: {path} is fitted already; give it to the command that fits"
    path.write_bytes(path.read_bytes()[:-1000])
    assert refused(capsys, tmp_path, "generate", path).startswith(f"{path}: not a readable model file")
    assert refused(capsys, tmp_path, "inspect", path, output="").startswith(f"{path}: not a readable model file")


def test_fitted_files_are_named_as_such(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, tmp_path, "fit", faces, *PIXELS)
    assert line == "--output OUT: a name ending in .safetensors is expected"


def test_weights_that_are_not_numbers(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    network = load_autoencoder("taesd", pretrained=False)
    for half in ("encoder", "decoder"):
        state = {key.partition(".")[2]: value for key, value in network.state_dict().items() if key.startswith(half)}
        if half == "decoder":
            state["19.bias"] = torch.full((3,), float("nan"))
        torch.save(state, folder / f"taesd_{half}.pth")
    place = tmp_path / "place"
    place.mkdir()
    command = ["generate", faces, "--autoencoder", f"taesd:{folder}", "--size", 160]
    line = refused(capsys, place, *command)
    assert line == f"{folder}: tensor 'decoder.19.bias' holds NaN or infinite values; finite ones are expected"


def test_weights_that_do_not_fit(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights").mkdir()
    for half in ("encoder", "decoder"):
        torch.save({"0.weight": torch.zeros(1)}, tmp_path / "weights" / f"taesd_{half}.pth")
    (tmp_path / "place").mkdir()
    line = refused(capsys, tmp_path / "place", "generate", faces, "--autoencoder", f"taesd:{tmp_path / 'weights'}")
    assert line.startswith(f"{tmp_path / 'weights'} does not fit taesd: ")
    assert "encoder.14.bias" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "FACES", *PIXELS],
        ["inpaint", "FACES", *PIXELS, "--image", "FACES/face00.png", "--box", "0,0,32,32", "-n", "2"],
        ["edit", "FACES/face00.png", *PIXELS, "--donor", "FACES/face01.png", "--box", "0,0,32,32"],
        ["reconstruct", "FACES", *PIXELS],
        ["fit", "FACES", *PIXELS],
    ],
    ids=lambda arguments: arguments[0],
)
def test_unwritable_places_are_named(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    given = [text.replace("FACES", str(faces)) for text in arguments]
    for output in (tmp_path / "file" / "below.safetensors", tmp_path / "file" / "a" / "b.safetensors"):
        assert main([*given, "-o", str(output)]) == 1
        named = output.parent if arguments[0] == "fit" else output
        assert capsys.readouterr().err == f"latentpatch: error: {named}: cannot be written: Not a directory\n"
        assert contents(tmp_path) == {"file": b"mine"}


def test_a_full_disk_leaves_nothing(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Path] = []

    def write_half_of_the_third(self: Path, data: bytes) -> int:
        calls.append(self)
        full = len(calls) % 3 == 0
        with self.open("wb") as stream:
            stream.write(data[: len(data) // 2] if full else data)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    place = tmp_path / "place"
    (place / "there").mkdir(parents=True)
    for name in ("0000.png", "notes.txt"):
        (place / "there" / name).write_bytes(b"mine")
    before = contents(place)
    for folder in (place / "there", place / "new" / "deep"):
        for command in (["generate", faces, "-n", 5], ["reconstruct", faces]):
            with monkeypatch.context() as patch:
                patch.setattr(Path, "write_bytes", write_half_of_the_third)
                assert main([str(argument) for argument in [*command, *PIXELS, "-o", folder]]) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("latentpatch: error: ")
            assert err.endswith("0002.png: cannot be written: No space left on device\n")
            assert contents(place) == before
    assert len(calls) == 12


def test_interruption_leaves_nothing(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "0000.png").write_bytes(b"mine")
    before = contents(tmp_path)
    monkeypatch.setattr("latentpatch.io.images.contact_sheet", interrupt)
    for folder in (tmp_path / "there", tmp_path / "new" / "deep"):
        assert main(["generate", str(faces), *PIXELS, "-o", str(folder)]) == 130
        assert capsys.readouterr() == ("", "latentpatch: interrupted, nothing was written\n")
        assert contents(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no POSIX signals here")
def test_a_signal_half_way_leaves_nothing(faces: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentpatch", "generate", faces, *PIXELS, "-n", "100000", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def heed() -> None:  # a shell's background jobs are started deaf to it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob("*.png"))) < 20 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(list(tmp_path.rglob("*.png"))) >= 20
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "latentpatch: interrupted, nothing was written\n"
    assert contents(tmp_path) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_report_that_cannot_be_printed(five: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentpatch", "inspect", five / "0000.png"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "latentpatch: error: cannot write the report: No space left on device\n"


def test_too_little_memory(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhaust(*_: object, **__: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(LatentPatch, "fit", exhaust)
    assert refused(capsys, tmp_path, "generate", faces, *PIXELS).startswith("out of memory; ")


def test_errors_of_the_program_are_not_hidden(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(LatentPatch, "fit", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["generate", str(faces), *PIXELS, "-o", str(tmp_path / "out")])
    assert contents(tmp_path) == {}


def test_file_names_need_not_be_text(some: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"z\xff\xe9.png")
    try:
        (some / name).write_bytes((some / "face00.png").read_bytes())
    except OSError:
        pytest.skip("file names are text here")
    (some / "zoë.png").write_bytes((some / "face01.png").read_bytes())
    run("generate", some, *PIXELS, "-n", 1, "-o", tmp_path / "out")
    assert record(tmp_path / "out")["ids"][4:] == sorted(["zoë", Path(name).stem])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["generate", "-o", "out"], "sources"),
        (["generate", "faces"], "-o/--output"),
        (["generate", "faces", "-o", "out", "-n", "0"], "argument -n: '0': an integer of at least 1 is expected"),
        (["generate", "faces", "-o", "out", "-n", "many"], "argument -n: 'many': an integer of at least 1"),
        (["generate", "faces", "-o", "out", "--seed", "-1"], "argument --seed: '-1': an integer of at least 0"),
        (["generate", "faces", "-o", "out", "--seed", "1.5"], "argument --seed: '1.5': an integer of at least 0"),
        (["generate", "faces", "-o", "out", "--patch-size", "big"], "argument --patch-size: invalid int value: 'big'"),
        (["generate", "faces", "-o", "out", "--sampler", "magic"], "raster"),
        (["generate", "faces", "-o", "out", "--decoding", "magic"], "unproject"),
        (["generate", "faces", "-o", "out", "--precision", "double"], "bfloat16"),
        (["generate", "faces", "-o", "out", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["inpaint", "faces", "-o", "out", "--image", "a.png"], "one of the arguments --mask --box is required"),
        (["edit", "a.png", "--donor", "b.png", "-o", "out", "--mask", "m", "--box", "0"], "not allowed with argument"),
        (["edit", "a.png", "--box", "0,0,1,1", "-o", "out"], "--donor"),
    ],
)  # fmt: skip
def test_unusable_arguments(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("command", ["generate", "inpaint", "edit", "reconstruct", "fit", "bench", "inspect"])
def test_help_names_every_option(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    wanted = {
        "generate": "-n --seed --output --autoencoder --patch-size --stride --neighbours --scales --start-size "
        "--reference --attributes --where --sampler --decoding --skip-bad --json --device --size --components "
        "--resume --shard-bank",
        "inpaint": "-n --seed --image --mask --box --reconstructed --where --patch-size --json",
        "edit": "--donor --mask --box --composite --json",
        "reconstruct": "--skip-bad --json",
        "fit": "--attributes --components --skip-bad",
        "bench": "--sizes -n --autoencoder --device --precision --patch-size --components --json",
        "inspect": "--json --quiet --verify",
    }
    for option in wanted[command].split():
        assert f"{option} " in text or f"{option}," in text or f"{option}\n" in text, option
