"""``latentpatch audit --identity``: pictures of one source's identity fail, others pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import PORTRAITS
from PIL import Image

from latentpatch.cli.entry import main
from latentpatch.io.images import read_image

FILES = sorted(PORTRAITS.glob("*.jpg"))
SIZE = 64
FIT = ["--autoencoder", "pixels:16", "--size", SIZE]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "audit.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A descriptor of colours alone, and lists: 20 sources, 10 held out, 8 pictures."""
    place = tmp_path_factory.mktemp("place")
    (place / "tiny.py").write_text(
        "import torch\ndef descriptor(x):\n"
        "    return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)\n"
    )  # fmt: skip
    for name, paths in (("sources", FILES[:20]), ("held-out", FILES[40:50]), ("pictures", FILES[56:64])):
        (place / f"{name}.txt").write_text("\n".join(map(str, paths)))
    return place


def test_pictures_of_others_pass(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = [place / f"{name}.txt" for name in ("sources", "pictures")]
    assert run("audit", *lists, *FIT, "--identity", place / "tiny.py", "-o", tmp_path / "a") == 0
    report = record(tmp_path / "a")
    assert report["verdict"] == "pass"
    found = report["identity"]
    assert (found["descriptor"], found["originals"], found["alike"] <= found["most_by_chance"]) == ("tiny", True, True)
    assert len(found["pairs"]) == 8
    assert [pair["distance"] for pair in found["pairs"]] == sorted(pair["distance"] for pair in found["pairs"])
    assert (
        f"nearest are {found['pairs'][0]['file']} and source {found['pairs'][0]['source']}" in capsys.readouterr().err
    )
    held_out = ["--held-out", place / "held-out.txt"]
    assert run("audit", *lists, *FIT, *held_out, "--identity", place / "tiny.py", "-q", "-o", tmp_path / "b") == 0
    assert record(tmp_path / "b")["identity"]["reference"] != found["reference"]


def test_an_identity_fails_where_cells_pass(place: Path, tmp_path: Path) -> None:
    """A source's colours with its cells in another order of pixels: no copy to the latents, one to the descriptor."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in FILES[54:64]:
        (folder / path.name).write_bytes(path.read_bytes())
    whole = Image.open(FILES[5]).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    for y in range(0, SIZE, 16):
        for x in range(0, SIZE, 16):
            box = (x, y, x + 16, y + 16)
            whole.paste(whole.crop(box).transpose(Image.Transpose.ROTATE_180), box)
    whole.save(folder / "changed.png")
    open_limits = ["--min-relative", 0, "--max-share", 1, "--max-mean-share", 1, "--max-local-share", 1]
    command = ["audit", place / "sources.txt", folder, *FIT, *open_limits, "-q"]
    assert run(*command, "-o", tmp_path / "plain") == 0
    # Without the option nothing is described.
    assert "identity" not in record(tmp_path / "plain")
    assert not (tmp_path / "plain" / "identities.png").exists()
    assert run(*command, "--identity", place / "tiny.py", "-o", tmp_path / "identity") == 3
    report = record(tmp_path / "identity")
    (failure,) = report["failures"]
    assert (failure["file"], failure["figure"]) == ("changed.png", "identity_distance")
    pair = report["identity"]["pairs"][0]
    assert (pair["file"], pair["source"]) == ("changed.png", FILES[5].stem)
    assert pair["distance"] == pytest.approx(failure["value"], abs=1e-4)
    sheet = read_image(tmp_path / "identity" / "identities.png")
    shown, known = read_image(folder / "changed.png"), read_image(FILES[5], (SIZE, SIZE))
    assert float((sheet[:, 2:66, 2:66] - shown).abs().max()) < 0.01
    assert float((sheet[:, 2:66, 68:132] - known).abs().max()) < 0.01


def test_many_alike_pictures_fail_together(place: Path, tmp_path: Path) -> None:
    """Sources themselves, with the user's own limit for single ones out of the way."""
    (tmp_path / "some.txt").write_text("\n".join(map(str, FILES[:9])))
    command = ["audit", place / "sources.txt", tmp_path / "some.txt", *FIT, "-q", "-o", tmp_path / "out"]
    command += [
        "--min-relative",
        0,
        "--min-registered",
        0,
        "--max-share",
        1,
        "--max-mean-share",
        1,
        "--max-local-share",
        1,
        "--identity",
        place / "tiny.py",
    ]
    assert run(*command, "--identity-limit", 0.01) == 3
    report = record(tmp_path / "out")
    assert {failure["file"] for failure in report["failures"]} == {None, *(path.name for path in FILES[:9])}
    assert report["identity"]["single_limit"] == 0.01
    assert report["failures"][0]["figure"] == "identity_alike"


def test_decoded_sources_stand_for_pictures(place: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    assert run("fit", place / "sources.txt", *FIT, "-q", "-o", model) == 0
    command = ["audit", model, place / "pictures.txt", "--autoencoder", "pixels:16", "-q", "-o", tmp_path / "out"]
    assert run(*command, "--identity", place / "tiny.py") == 0
    assert not record(tmp_path / "out")["identity"]["originals"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--identity", "absent.py"], 1, "absent.py"),
        (["--identity-limit", "0.3"], 1, "--identity-limit needs --identity"),
        (["--identity", "TINY", "--identity-limit", "-1"], 2, "--identity-limit"),
        (["--identity", "TINY", "--identity-input", "size=4"], 1, "--identity-input needs"),
        (["--identity", "TINY", "--held-out", "FOUR"], 1, "reference must be at least 5"),
    ],
)
def test_unusable_arguments_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    (tmp_path / "four.txt").write_text("\n".join(map(str, FILES[40:44])))
    places = {"TINY": str(place / "tiny.py"), "FOUR": str(tmp_path / "four.txt")}
    command = ["audit", place / "sources.txt", place / "pictures.txt", *FIT, "-o", tmp_path / "out"]
    try:
        found = run(*command, *(places.get(word, word) for word in arguments))
    except SystemExit as end:
        found = end.code
    assert found == status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
