"""``latentpatch invert`` and ``latentpatch interpolate``: files, records, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.command_line import contents, record, refused, run
from PIL import Image
from safetensors import safe_open

from latentpatch.cli.entry import main
from latentpatch.io.images import read_image, read_record, write_image
from latentpatch.methods.inversion.stylegan2 import StyleGAN2, random_state

FAST = ["--steps", 10, "--learning-rate", 0.02]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "small.pt"
    torch.save({"g_ema": random_state(32)}, path)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures that the network made."""
    folder = tmp_path_factory.mktemp("own")
    for i, picture in enumerate(StyleGAN2(random_state(32)).sample([1, 2, 3])):
        write_image(folder / f"{'abc'[i]}.png", picture)
    return folder


@pytest.fixture(scope="module")
def found(network: Path, own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("found")
    run("invert", own, "--generator", f"stylegan2:{network}", *FAST, "--trace", "-o", out)
    return out


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity.py"
    path.write_text("def descriptor(images):\n    return images.mean((2, 3))\n")
    return path


def test_invert_writes_pictures_latents_and_a_record(found: Path, own: Path) -> None:
    names = {"0000.png", "0001.png", "0002.png", "grid.png", "invert.json", "latents.safetensors", "trace.gif"}
    assert set(contents(found)) == names
    report = record(found, "invert.json")
    assert [row["id"] for row in report["images"]] == ["a", "b", "c"]
    assert report["steps"] == report["settings"]["steps"] == 10
    assert all(row["mse"] > 0 and row["source"]["sha256"] for row in report["images"])
    assert read_record(found / "0001.png")["id"] == "b"
    assert str(own) not in (found / "invert.json").read_text()
    with safe_open(found / "latents.safetensors", framework="pt") as file:
        assert file.get_slice("styles").get_shape() == [3, 8, 32]
        assert set(file.keys()) == {"styles", *(f"noise.{i}" for i in range(5))}


def test_interpolate_says_which_inputs_at_which_weights(found: Path, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = [found / "latents.safetensors", "--generator", f"stylegan2:{network}"]
    run("interpolate", *source, "-n", 5, "-o", out)
    rows = record(out, "interpolate.json")["images"]
    assert [row["weights"] for row in rows] == [
        {"a": 1.0}, {"a": 0.5, "b": 0.5}, {"b": 1.0}, {"b": 0.5, "c": 0.5}, {"c": 1.0},
    ]  # fmt: skip
    assert read_record(out / "0001.png")["weights"] == {"a": 0.5, "b": 0.5}
    assert float((read_image(out / "0000.png") - read_image(found / "0000.png")).abs().max()) <= 1 / 255
    with Image.open(out / "interpolation.gif") as film:
        assert film.n_frames == 8
    run(
        "interpolate",
        *source,
        "--weights",
        "0.2,0.8",
        "--inputs",
        "c",
        "a",
        "--animation",
        "none",
        "-o",
        tmp_path / "one",
    )
    assert record(tmp_path / "one", "interpolate.json")["images"][0]["weights"] == {"c": 0.2, "a": 0.8}
    run("interpolate", *source, "-n", 4, "--by", "grid", "--animation", "apng", "-o", tmp_path / "grid")
    assert (tmp_path / "grid" / "interpolation.apng").is_file()


def test_a_film_is_written_or_a_gif_in_its_place(
    found: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    source = [found / "latents.safetensors", "--generator", f"stylegan2:{network}", "-n", 3]
    run("interpolate", *source, "--animation", "mp4", "-o", tmp_path / "out")
    assert record(tmp_path / "out", "interpolate.json")["animation"] == "interpolation.gif"
    assert "no MP4" in capsys.readouterr().err


def test_figures(found: Path, network: Path, own: Path, identity: Path, faces: Path, tmp_path: Path) -> None:
    generator = ["--generator", f"stylegan2:{network}"]
    run("invert", own, *generator, *FAST, "--identity", identity, "-o", tmp_path / "found")
    assert all(row["identity"] >= 0 for row in record(tmp_path / "found", "invert.json")["images"])
    run(
        "interpolate", found / "latents.safetensors", *generator, "-n", 4, "--identity", identity, "--originals", own,
        "--strangers", faces, "--held-out", faces, "-o", tmp_path / "out",
    )  # fmt: skip
    report = record(tmp_path / "out", "interpolate.json")
    assert [len(row) for row in report["identity"]["to_inputs"]] == [1, 2, 2, 1]
    assert report["identity"]["strangers"]["least"] > 0
    assert report["frechet"]["generator"] > 0 < report["frechet"]["interpolated"]


def test_degraded_pictures(own: Path, network: Path, tmp_path: Path) -> None:
    generator = ["--generator", f"stylegan2:{network}", *FAST]
    run("invert", own / "a.png", *generator, "--size", 16, "-o", tmp_path / "larger")
    report = record(tmp_path / "larger", "invert.json")
    assert report["size"] == [16, 16]
    assert read_image(tmp_path / "larger" / "0000.png").shape == (3, 32, 32)
    run("invert", own / "a.png", *generator, "--degrade", "grey", "--degrade", "jpeg:40", "-o", tmp_path / "grey")
    assert record(tmp_path / "grey", "invert.json")["degrade"] == ["grey", "jpeg:40"]
    run("invert", own / "a.png", *generator, "--degrade", "downsample:2", "-o", tmp_path / "small")
    assert record(tmp_path / "small", "invert.json")["size"] == [16, 16]


def test_pictures_that_do_not_serve_are_refused(
    own: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["invert", own, "--generator", f"stylegan2:{network}", *FAST]
    (tmp_path / "faces.py").write_text("def detector(images):\n    return [[1], [1, 2], [1]]\n")
    assert "2 faces" in refused(capsys, tmp_path, *command, "--detector", tmp_path / "faces.py")
    assert "--size 32" in refused(capsys, tmp_path, *command, "--size", "64")
    assert "degrade" in refused(capsys, tmp_path, *command, "--degrade", "sharpen")
    assert "runs code" in refused(capsys, tmp_path, "invert", own, "--generator", f"stylegan2:{_pickle(tmp_path)}")


def _pickle(folder: Path) -> Path:
    (folder / "ffhq.pkl").write_bytes(b"\x80\x02.")
    return folder / "ffhq.pkl"


def test_unaligned_pictures_are_refused_unless_told(
    own: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpatch import generators
    from latentpatch.registration.agreement import Disagreement

    monkeypatch.setattr(generators, "disagreement_with_generator", lambda *_: [Disagreement(("a.png",), 1, False)])
    command = ["invert", own, "--generator", f"stylegan2:{network}", *FAST]
    line = refused(capsys, tmp_path, *command)
    assert "latentpatch align" in line
    assert "--unaligned" in line
    run(*command, "--unaligned", "-o", tmp_path / "out")


def test_latents_that_do_not_serve_are_refused(
    found: Path, own: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, latents = ["--generator", f"stylegan2:{network}"], found / "latents.safetensors"
    command = ["interpolate", latents, *generator]
    assert "1" in refused(capsys, tmp_path, *command, "--weights", "0.5,0.4,0")
    assert "3 numbers" in refused(capsys, tmp_path, *command, "--weights", "0.5,0.5")
    assert "one picture only" in refused(capsys, tmp_path, *command, "--inputs", "a")
    assert "'z'" in refused(capsys, tmp_path, *command, "--inputs", "z", "a")
    assert "--identity" in refused(capsys, tmp_path, *command, "--originals", own)
    assert "made with stylegan2" in refused(capsys, tmp_path, "interpolate", latents, "--generator", "embedded")
    assert "not a readable" in refused(capsys, tmp_path, "interpolate", own / "a.png", *generator)


def test_an_interruption_writes_the_best_so_far(
    own: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpatch.methods.inversion.inverting import _Search

    step = _Search.step

    def stops(self: _Search, done: int) -> object:
        if done == 5:
            raise KeyboardInterrupt
        return step(self, done)

    monkeypatch.setattr(_Search, "step", stops)
    command = ["invert", str(own), "--generator", f"stylegan2:{network}", *map(str, FAST), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert record(tmp_path / "out", "invert.json")["steps"] == 5
    assert "interrupted after 5 of 10 steps" in capsys.readouterr().err
