"""``latentpatch generate``, on drawn faces with pixels for latents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import (
    PIXELS,
    RASTER,
    SHEETS,
    contents,
    indices,
    model_of,
    pictures,
    pixels,
    record,
    run,
    written,
)
from helpers.paths import ROOT
from PIL import Image

from latentpatch import PRESETS, SAMPLERS, LatentPatch, RandomPatchesSettings, load_autoencoder
from latentpatch.cli.entry import main
from latentpatch.io.images import contact_sheet, encode_png, read_image, read_metadata
from latentpatch.provenance.maps import provenance_images


def test_generate_writes_pictures_sheets_and_a_record(five: Path, faces: Path) -> None:
    assert sorted(contents(five)) == [*(f"{i:04d}.png" for i in range(5)), "generation.json", *SHEETS]
    report = record(five)
    assert report["command"] == "generate"
    assert report["sampler"] == "resynthesis"
    assert report["settings"] == {
        "patch_size": 10,
        "stride": 4,
        "neighbors": 3,
        "sweeps": 2,
        "max_share": 0.36,
        "start_candidates": 1,
        "allow_start_as_donor": True,
        "donors": 6,
        "symmetric": True,
        "switch_cost": 0.0,
        "reuse_cost": 0.0,
        "best_of": 1,
        "bands": 2,
        "unit": 1,
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


def test_few_sources_each_picture_of_six(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 12, "--preset", "few", "--mirrored", "-o", tmp_path / "few")
    drawn = [frozenset(row["shares"]) for row in record(tmp_path / "few")["images"]]
    assert max(map(len, drawn)) <= 6
    assert len(set(drawn)) > 6
    assert all(max(row["shares"].values()) <= 0.36 for row in record(tmp_path / "few")["images"])
    run("generate", faces, *PIXELS, "-n", 12, "--donors", 3, "-o", tmp_path / "three")
    drawn = [frozenset(row["shares"]) for row in record(tmp_path / "three")["images"]]
    assert max(map(len, drawn)) == 3
    assert len(set(drawn)) > 6
    run("generate", faces, *PIXELS, "--preset", "faithful", "-n", 4, "-o", tmp_path / "share", "--donors", 0.4)
    assert record(tmp_path / "share")["settings"]["donors"] == 5


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


def test_components_are_an_option(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 2, "--components", 2, "--preset", "balanced", "-o", tmp_path / "out")
    assert torch.equal(indices(tmp_path / "out"), model_of(faces, 2).generate(2, settings=PRESETS["balanced"]).index)
    assert not torch.equal(indices(tmp_path / "out"), model_of(faces).generate(2, settings=PRESETS["balanced"]).index)


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
    options = [*RASTER, "--reference", faces / "face04.png", "--neighbors", 1]
    run("generate", faces, *PIXELS, "-n", 18, *options, "-o", tmp_path / "out")
    assert indices(tmp_path / "out").unique().tolist() == [4]
    assert record(tmp_path / "out")["settings"]["scales"] == 1


def test_a_reference_of_another_shape_is_cropped_and_resized(faces: Path, tmp_path: Path) -> None:
    wide = Image.new("RGB", (160, 64), "green")
    wide.paste(Image.open(faces / "face07.png"), (48, 0))
    wide.save(tmp_path / "wide.png")
    options = [*RASTER, "--reference", tmp_path / "wide.png", "--neighbors", 1]
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


@pytest.mark.parametrize(("capability", "is_said"), [("AVX2", True), ("AVX512", False), ("NEON", False)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_processor_that_is_slow_in_bfloat16_is_told_of(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    capability: str, is_said: bool, precision: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    model = tmp_path / "model.safetensors"
    for command in (["fit", faces, *PIXELS, "-o", model], ["generate", model, "-n", 1, "-o", tmp_path / "out"]):
        assert main([*map(str, command), "--precision", precision]) == 0
        said = "bfloat16 is several times slower than float32 on this processor" in capsys.readouterr().err
        assert said == (is_said and precision == "bfloat16")


def test_json_is_all_there_is_on_standard_output(
    five: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("generate", faces, *PIXELS, "-n", 5, "--json", "-o", tmp_path / "out")
    out, err = capsys.readouterr()
    assert json.loads(out) == record(five)
    assert err.splitlines()[-1].startswith("5 pictures in ")
    run("generate", faces, *PIXELS, "-n", 1, "-q", "-o", tmp_path / "out")
    assert capsys.readouterr() == ("", "")


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
                "--neighbors",
                "2",
                "--scales",
                "3",
                "--start-size",
                "8",
                "--components",
                "12",
            ],
        ],
        ["--preset", "diverse", "--sweeps", 1, "--start-candidates", 1, "--max-share", 0.4, "--allow-start-as-donor"],
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
        settings=SAMPLERS.settings_class(facts["sampler"])(**facts["settings"]),
        where=facts.get("where"),
        decoding=facts["decoding"],
        reference=facts["reference"]["file"] if "reference" in facts else None,
    )
    assert encode_png(again.images[0], metadata) == path.read_bytes()
    assert ("reference" in facts) == ("--reference" in options)


def test_one_source_can_be_copied(faces: Path, tmp_path: Path) -> None:
    run("generate", faces / "face03.png", *PIXELS, "-n", 1, *RASTER, "--neighbors", 1, "-o", tmp_path / "out")
    assert np.array_equal(written(tmp_path / "out" / "0000.png"), written(faces / "face03.png"))


def test_older_pictures_are_told_of(some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", some, *PIXELS, "-n", 3, "-o", tmp_path / "out")
    assert "earlier run" not in capsys.readouterr().err
    run("generate", some, *PIXELS, "-n", 1, "-o", tmp_path / "out")
    assert f"earlier run that stay in {tmp_path / 'out'}: 2" in capsys.readouterr().err
    assert (tmp_path / "out" / "0002.png").exists()


def test_file_names_need_not_be_text(some: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"z\xff\xe9.png")
    try:
        (some / name).write_bytes((some / "face00.png").read_bytes())
    except OSError:
        pytest.skip("file names are text here")
    (some / "zoë.png").write_bytes((some / "face01.png").read_bytes())
    run("generate", some, *PIXELS, "-n", 1, "-o", tmp_path / "out")
    assert record(tmp_path / "out")["ids"][4:] == sorted(["zoë", Path(name).stem])
