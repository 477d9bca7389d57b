"""The task ``texture``, in Python and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses

import latentpatch
from latentpatch.cli import main
from latentpatch.io.images import read_image, write_image

QUICK = {
    "quilting": ("--block", "8"),
    "efros-leung": ("--window", "5"),
    "gpdm": ("--steps", "3", "--last-steps", "2"),
    "texture-optimization": ("--patch-sizes", "8,4", "--iterations", "2"),
}


def exemplar(path: Path, seed: int = 0, size: tuple[int, int] = (28, 24)) -> Path:
    write_image(path, torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)))
    return path


@pytest.mark.parametrize("method", sorted(QUICK))
def test_every_method_writes_pictures_and_a_record(method: str, tmp_path: Path) -> None:
    source, out = exemplar(tmp_path / "a.png"), tmp_path / "out"
    words = ["texture", str(source), "--size", "20x22", "--tileable", "--method", method, "-o", str(out), "-q"]
    assert main([*words, *QUICK[method]]) == 0
    assert read_image(out / "0000.png").shape == (3, 20, 22)
    record = json.loads((out / "texture.json").read_text(encoding="utf-8"))
    assert record["size"] == [20, 22]
    assert (out / "grid.png").exists()
    assert (out / "provenance.png").exists() == (method != "gpdm")


def test_a_seed_gives_the_same_bytes_alone_and_in_a_batch(tmp_path: Path) -> None:
    sources = [str(exemplar(tmp_path / f"{seed}.png", seed)) for seed in (0, 1)]
    words = ["texture", *sources, "--size", "30", "--block", "8", "-q"]
    assert main([*words, "-n", "2", "--seed", "5", "-o", str(tmp_path / "both")]) == 0
    assert main([*words, "-n", "1", "--seed", "6", "-o", str(tmp_path / "one")]) == 0
    pixels = [read_image(tmp_path / name) for name in ("both/0001.png", "one/0000.png", "both/0000.png")]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])


def test_weights_maps_and_symmetry_are_written_as_the_function_gives_them(tmp_path: Path) -> None:
    sources = [exemplar(tmp_path / f"{seed}.png", seed, (24 + 4 * seed, 26)) for seed in (0, 1)]
    write_image(tmp_path / "map.png", torch.linspace(0, 1, 20).expand(3, 16, 20))
    for number, (words, arguments) in enumerate(
        [
            (["--weights", "2,1"], {"weights": (2, 1)}),
            (["--map", str(tmp_path / "map.png")], {"source_map": tmp_path / "map.png"}),
            (["--symmetric", "p4m"], {"symmetric": "p4m"}),
        ]
    ):
        out = tmp_path / f"out{number}"
        made = latentpatch.texture(sources, (30, 30), block=8, **arguments)
        command = ["texture", *map(str, sources), "--size", "30", "--block", "8", "-q", *words, "-o", str(out)]
        assert main(command) == 0
        assert torch.equal((made.images[0] * 255).round() / 255, read_image(out / "0000.png"))
        record = json.loads((out / "texture.json").read_text(encoding="utf-8"))
        assert len(record["images"][0]["shares"]) == 2
        assert {"weights", "map", "symmetric"} & {*record} == {words[0].removeprefix("--")}


def test_the_function_gives_what_the_command_writes(tmp_path: Path) -> None:
    source = exemplar(tmp_path / "a.png")
    made = latentpatch.texture(source, (30, 26), tileable=True, block=8)
    words = ["texture", str(source), "--size", "30x26", "--tileable", "--block", "8", "-q"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    assert torch.equal((made.images[0] * 255).round() / 255, read_image(tmp_path / "out" / "0000.png"))
    assert made.offsets is not None
    assert made.method == "quilting"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--size", "12x40", "--block", "12", "--tileable"], "size"),
        (["--size", "40", "--block", "40"], "block"),
        (["--size", "40", "--method", "efros-leung", "--window", "6"], "window"),
        (["--size", "40", "--method", "gpdm", "--block", "9"], "--block belongs to quilting"),
    ],
)
def test_refusals_write_nothing(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = exemplar(tmp_path / "a.png"), tmp_path / "out"
    assert main(["texture", str(source), *words, "-o", str(out)]) == 1
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_methods_of_other_tasks_are_refused() -> None:
    with refuses("method"):
        latentpatch.texture(torch.rand(3, 24, 24), (30, 30), method="gpnn")
