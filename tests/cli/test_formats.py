"""Formats and layouts of generated pictures: files, data sets, shards; the same for any number of threads and runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import PIXELS, contents, misused, record, run, written
from helpers.paths import ROOT
from PIL import Image

from latentpatch import LatentPatch, ResynthesisSettings
from latentpatch.cli.entry import main
from latentpatch.datasets import RecombinedSamples
from latentpatch.io.images import read_image, read_record, to_pil
from latentpatch.runs.resume import ResumableRun

LAYOUTS = {
    "png": [],
    "webp": ["--format", "webp"],
    "jpeg": ["--format", "jpeg", "--quality", 80],
    "shards": ["--shards", 8, "--format", "webp"],
    "dataset": ["--dataset"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_the_same_for_any_number_of_threads(
    layout: str, faces: Path, tmp_path: Path, pretend_threads: Callable[[int], None]
) -> None:
    for threads in (1, 3):
        pretend_threads(threads)
        run("generate", faces, *PIXELS, "-n", 21, "-q", *LAYOUTS[layout], "-o", tmp_path / str(threads))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    run("generate", faces, *PIXELS, "-n", 21, "-q", *LAYOUTS[layout], "--resume", "-o", tmp_path / "resumable")
    assert contents(tmp_path / "resumable") == contents(tmp_path / "1")


@pytest.mark.parametrize("layout", ["webp", "jpeg"])
def test_other_formats_are_explained_exactly(
    layout: str, five: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("generate", faces, *PIXELS, "-n", 5, *LAYOUTS[layout], "-o", tmp_path / "out")
    report = record(tmp_path / "out")
    path = tmp_path / "out" / report["images"][3]["file"]
    assert path.suffix == {"webp": ".webp", "jpeg": ".jpg"}[layout]
    difference = np.abs(written(path).astype(int) - written(five / "0003.png"))
    assert difference.max() == 0 if layout == "webp" else 0 < difference.mean() < 8
    assert [row["index"] for row in report["images"]] == [row["index"] for row in record(five)["images"]]
    run("explain", path, faces, *PIXELS, "-o", tmp_path / "why")
    assert "agree to the last bit" in capsys.readouterr().err
    # Another picture with this one's record is not believed.
    with Image.open(path) as image, Image.open(tmp_path / "out" / report["images"][4]["file"]) as other:
        image.load()
        other.save(path, exif=image.getexif())
    run("explain", path, faces, *PIXELS, "-o", tmp_path / "why")
    assert not record(tmp_path / "why", "explanation.json")["exact"]


def test_sheets_of_lossy_pictures_show_what_is_written(faces: Path, tmp_path: Path) -> None:
    run("generate", faces, *PIXELS, "-n", 1, "--format", "jpeg", "--quality", 5, "-o", tmp_path)
    sheet = written(tmp_path / "grid.png")
    assert np.array_equal(sheet[2:-2, 2:-2], written(tmp_path / "0000.jpg"))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_a_web_dataset(five: Path, faces: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed: shards were not read by it")
    run("generate", faces, *PIXELS, "-n", 5, "--shards", 2, "-o", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [f"shard-00000{i}.tar" for i in range(3)]
    shards = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"000{i}" for i in range(5)]
    for sample, row in zip(samples, record(five)["images"], strict=True):
        assert np.array_equal(sample["png"], written(five / row["file"]))
        assert sample["json"] == {name: row[name] for name in row if name != "file"}


def test_a_data_set_is_an_image_folder(five: Path, faces: Path, csv: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: image folders were not read by it")
    out, where = tmp_path / "out", ["--attributes", csv, "--where", "age>22"]
    run("generate", faces, *PIXELS, "-n", 5, "--dataset", *where, "-o", out)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    rows = record(out)["images"]
    assert loaded["train"]["seed"] == [0, 1, 2, 3, 4]
    for sample, row in zip(loaded["train"], rows, strict=True):
        assert np.array_equal(np.asarray(sample["image"]), written(out / row["file"]))
        assert {each["source"]: each["share"] for each in sample["shares"]} == row["shares"]
        assert sample["where"] == "age>22"


def test_labels_are_those_of_recombined_samples(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = tmp_path / "moods.csv"
    csv.write_text("\n".join(["file,mood", *(f"face{i:02d}.png,{('glad', 'calm')[i % 3 > 0]}" for i in range(12))]))
    known = [*PIXELS, "--attributes", csv, "--components", 8]
    options = [*known, "--sampler", "resynthesis"]
    run("generate", faces, *options, "-n", 12, "--seed", 3, "--labels", "mood", "--shards", 8, "-o", tmp_path / "a")
    run("generate", faces, *options, "-n", 12, "--seed", 3, "--labels", "mood", "--dataset", "-o", tmp_path / "b")
    assert record(tmp_path / "a")["labels"] == "mood"
    model = LatentPatch("pixels:4", 8).fit(faces, size=64, attributes=csv)
    samples = RecombinedSamples(model, "mood", length=12, seed=3, batch_size=5, settings=ResynthesisSettings())
    table = [json.loads(line) for line in (tmp_path / "b" / "train" / "metadata.jsonl").read_text().splitlines()]
    for i, ((image, number), row) in enumerate(zip(samples, table, strict=True)):
        assert samples.classes[number] == row["label"] == ("calm", "glad")[i % 2]
        path = tmp_path / "b" / "train" / row["file_name"]
        assert np.array_equal(written(path), np.asarray(to_pil(image)))
        assert read_record(path)["where"] == row["where"] == f"mood={row['label']}"
        if i < 2:  # the classes differ in their number of sources, and so in their settings
            run("explain", path, faces, *known, "-o", tmp_path / "why")
            assert "agree to the last bit" in capsys.readouterr().err
    run("generate", faces, *options, "-n", 12, "--seed", 3, "--labels", "mood", "--shards", 8, "--resume",
        "-o", tmp_path / "c")  # fmt: skip
    assert contents(tmp_path / "c") == contents(tmp_path / "a")


def test_options_that_do_not_go_together_are_refused(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--quality" in misused(capsys, "generate", faces, "--quality", 101, "-o", tmp_path)
    assert "not allowed with" in misused(capsys, "generate", faces, "--shards", 3, "--dataset", "-o", tmp_path)
    for options, text in {
        ("--quality", "50"): "--quality needs --format jpeg|webp",
        ("--labels", "mood", "--where", "mood=glad"): "--where cannot be there",
    }.items():
        assert main(["generate", str(faces), *options, "-o", str(tmp_path / "out")]) == 1
        assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["shards", "dataset"])
def test_interrupted_data_sets_go_on(
    layout: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", faces, *PIXELS, "-n", 33, "-q", *LAYOUTS[layout]]
    write = ResumableRun.write_record

    def interrupted(self: ResumableRun, batch: int, row: object) -> None:
        if batch == 1:
            raise KeyboardInterrupt
        write(self, batch, row)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableRun, "write_record", interrupted)
        assert main([*map(str, arguments), "--resume", "-o", str(tmp_path / "two")]) == 130
    assert main([*map(str, arguments[:6]), "--resume", "-o", str(tmp_path / "two")]) == 1, "another layout"
    run(*arguments, "--resume", "-o", tmp_path / "two")
    run(*arguments, "-o", tmp_path / "one")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["at once", "resumable"])
def test_records_of_many_pictures_are_lines(
    resume: list[str], five: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentpatch.cli._writers._MOST_ROWS", 4)
    out = tmp_path / "out"
    run("generate", faces, *PIXELS, "-n", 5, *resume, "-o", out)
    report, expected = record(out), record(five)
    assert report.pop("images_file") == "images.jsonl"
    rows = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    assert {**report, "images": rows} == expected
    audit = ["audit", faces, out, *PIXELS, "-q", "-o", tmp_path / "audit"]
    assert main([str(each) for each in audit]) in (0, 3)
    skipped = [each["file"] for each in record(tmp_path / "audit", "audit.json")["covered"]["skipped"]]
    assert skipped == ["grid.png", "provenance.png"]


@pytest.mark.parametrize(
    ("total", "growth_kib"),
    [pytest.param(6000, 12_000, marks=pytest.mark.slow(7)), pytest.param(20_000, 40_000, marks=pytest.mark.long)],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory where Linux lists it")
def test_thousands_of_pictures_in_shards_with_flat_memory(
    total: int, growth_kib: int, faces: Path, tmp_path: Path
) -> None:
    """A kill on the way, too: 32 pixels a side, random cells."""
    size, all_batches = ["--autoencoder", "pixels:4", "--size", "32"], total // 16
    run("fit", faces, *size, "-q", "-o", tmp_path / "model.safetensors")
    command = [sys.executable, "-m", "latentpatch", "generate", tmp_path / "model.safetensors", "--sampler",
               "random-cells", "-n", total, "-q", "--shards", "1000", "--resume", "-o", tmp_path / "out"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    resident: dict[int, int] = {}
    for is_last in (False, True):
        with subprocess.Popen([str(each) for each in command], env=environment) as process:
            while process.poll() is None:
                batches = len(list((tmp_path / "out" / ".unfinished" / "batches").glob("*.json")))
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                resident[batches] = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
                if not is_last and batches >= 0.4 * all_batches:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.05)
        assert process.returncode == (0 if is_last else -signal.SIGKILL)
    early = max(kib for batches, kib in resident.items() if 0.08 <= batches / all_batches < 0.32)
    late = max(kib for batches, kib in resident.items() if batches / all_batches > 0.56)
    assert late < early + growth_kib, (early, late)
    assert len(list((tmp_path / "out").glob("shard-*.tar"))) == total // 1000
    assert (tmp_path / "out" / "images.jsonl").read_bytes().count(b"\n") == total
    assert torch.isfinite(read_image(tmp_path / "out" / "grid.png")).all()
