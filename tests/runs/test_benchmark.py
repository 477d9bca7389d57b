"""The benchmark a user runs, and the script behind the figures of growth."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses
from helpers.paths import ROOT

from latentpatch import RasterSettings, load_autoencoder
from latentpatch.cli.entry import main
from latentpatch.runs import benchmark as bench

SMALL = ["--sizes", "2,16", "-n", "2", "--autoencoder", "pixels:16", "--components", "4"]


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_MAX_SECONDS", 0.0)


def test_bench_reports_stages_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SMALL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in report["stages"]] == ["encode", "fit PCA", "decode", "write PNG"]
    assert all(row["images_per_second"] == pytest.approx(2 / row["seconds"]) for row in report["stages"])
    assert [row["sources"] for row in report["search"]] == [2, 16]
    for row in report["search"]:
        assert row["seconds"] > row["place"] > 0
        assert row["cdist_ratio"] == pytest.approx(row["cdist_place"] / row["place"])
        if "faiss" in report["versions"]:
            assert row["faiss_ratio"] == pytest.approx(row["faiss_place"] / row["place"])
        else:
            assert row["faiss_place"] is None
    assert report["versions"]["torch"] == torch.__version__
    assert report["hardware"]["threads"] == torch.get_num_threads()
    assert (report["grid"], report["components"], report["settings"]["stride"]) == ([16, 16], 4, 2)


def test_bench_without_faiss_prints_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["bench", *SMALL, "--patch-size", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "pixels, float32; patch_size 3, stride 1" in lines[2]
    assert [line.split()[0] for line in lines if line.startswith(("encode", "decode"))] == ["encode", "decode"]
    assert sum(line.startswith("raster, ") for line in lines) == 2
    assert lines[-1].split()[0] == "16"
    assert lines[-1].split()[-1] == "-"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--sizes", "16,0"], 2, "--sizes"),
        (["--patch-size", "17"], 1, "--patch-size must be"),
        (["--device", "abacus"], 2, "--device"),
    ],
)
def test_bench_checks_its_arguments(
    arguments: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = main(["bench", "--autoencoder", "pixels:16", *arguments])
    except SystemExit as end:
        found = end.code
    assert found == status
    assert text in capsys.readouterr().err


def test_numbers_of_sources_are_positive() -> None:
    with refuses("sizes"):
        bench.bench(load_autoencoder("pixels"), [0])


@pytest.mark.parametrize("name", ["cdist", "addmm", "faiss"])
def test_plain_searches_are_exact(name: str) -> None:
    if name == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed")
    rng = torch.Generator().manual_seed(0)
    vectors, queries = torch.rand(40, 8, generator=rng), torch.rand(5, 8, generator=rng)
    nearest = (queries[:, None] - vectors).square().sum(2).argsort(1)[:, :3]
    assert torch.equal(bench.exact_search(name, vectors, 3)(queries), nearest)


def test_neighbours_are_at_most_the_sources() -> None:
    row = bench.measure_search(1, 1, (8, 8), 2, RasterSettings(patch_size=3), torch.device("cpu"))
    assert row["seconds"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux reports it")
def test_scaling_measures_points_and_fits_slopes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "benchmarks" / "scaling.py"
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))  # of each point
    spec = importlib.util.spec_from_file_location("scaling", path)
    scaling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scaling)
    figure = importlib.util.find_spec("matplotlib") is not None
    options = ["--axes", "sources", "--values", "16", "64", "--fit-from", "1", "-o", str(tmp_path / "a.png")]
    monkeypatch.setattr(sys, "argv", [str(path), *options, *([] if figure else ["--no-figure"])])
    scaling.main()
    assert capsys.readouterr().err.startswith("sources 16: ")
    report = json.loads((tmp_path / "a.json").read_text())
    (points,) = report["points"].values()
    assert [point["sources"] for point in points] == [16, 64]
    assert (tmp_path / "a.png").exists() == figure
    points = [{"sources": b, "seconds": 3.0 * b**0.5} for b in (1, 4, 100, 1000)]
    assert scaling.slope(points, "sources", "seconds", 4) == pytest.approx(0.5)
