"""The training recipe, at toy size: it makes its pool, learns, stops, resumes and exports."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentpatch import LatentPatch, load_autoencoder
from latentpatch.autoencoders.embedded import EmbeddedAutoencoder
from latentpatch.autoencoders.taesd import TinyAutoencoder
from latentpatch.runs.defaults import plain_torch
from latentpatch.runs.resume import locked
from latentpatch.training import train as training
from latentpatch.training.students import load_wide_student


@pytest.fixture(scope="module")
@plain_torch()
def teacher():
    torch.manual_seed(0)
    teacher = TinyAutoencoder("taef2")
    # A quarter of the pictures' side, to be quick.
    object.__setattr__(teacher.spec, "image_size", 64)
    return teacher


@pytest.fixture(scope="module")
def arguments(faces):
    """Arguments that make a pool of a random teacher's examples."""
    return [str(faces), "--mosaics", "24", "--real", "20", "--batch", "4", "--log-every", "15", "--device", "cpu"]


@pytest.fixture
def taught(teacher, monkeypatch):
    monkeypatch.setattr(training, "load_autoencoder", lambda _: teacher)


def run(folder, arguments, steps) -> None:
    assert training.main([*arguments, "-o", str(folder), "--steps", str(steps)]) == 0


def run_twice(folder, arguments, student):
    """Train for fifteen steps and fifteen more; return the rows of the log after the first."""
    arguments = [*arguments, "--student", student]
    run(folder, arguments, 15)
    rows = [json.loads(line) for line in (folder / f"{student}.jsonl").read_text().splitlines()]
    run(folder, arguments, 30)
    return rows


@pytest.fixture(scope="module")
def wide(teacher, arguments, tmp_path_factory):
    """The folder of the wide student, with its pool, and what was logged half-way."""
    folder = tmp_path_factory.mktemp("wide") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_autoencoder", lambda _: teacher)
        return folder, run_twice(folder, arguments, "embedded-wide")


@pytest.mark.parametrize("student", ["embedded-wide", "embedded-vq"])
def test_training_learns_exports_and_resumes(student, taught, teacher, arguments, tmp_path, request):
    if student == "embedded-wide":
        folder, first = request.getfixturevalue("wide")
    else:
        folder = tmp_path / "run"
        first = run_twice(folder, arguments, student)
    latents, targets, images = (np.load(folder / f"{name}.npy") for name in ("latents", "targets", "images"))
    assert latents.shape == (44, 128, 4, 4)
    assert targets.shape == (44, 3, 64, 64)
    assert images.shape == (20, 3, 64, 64)
    shown = teacher.decode(torch.from_numpy(latents[[0, 30]]))
    assert (shown - torch.from_numpy(targets[[0, 30]]) / 255).abs().max() < 0.02, "targets are the teacher's pictures"
    assert [row["step"] for row in first] == [15]

    rows = [json.loads(line) for line in (folder / f"{student}.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [15, 30], "it went on where it was"
    assert rows[1]["picture"] < rows[0]["picture"]
    assert not list(folder.glob(".*")), "no temporary files stay"

    model = LatentPatch(
        load_wide_student(str(folder)) if student == "embedded-wide" else load_autoencoder(student, str(folder))
    )
    stored = load_file(folder / f"{student}_decoder.safetensors")
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert model.reconstruct(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.usefixtures("taught")
def test_a_narrower_decoder_learns_from_the_wide_one(wide, teacher, arguments, tmp_path, capsys):
    folder, _ = wide
    narrow = [*arguments, "--student", "embedded", "--wide", str(folder)]
    run(tmp_path / "narrow", narrow, 15)
    latents, own, targets = (np.load(tmp_path / "narrow" / f"{name}.npy") for name in ("latents", "own", "targets"))
    assert own.shape == latents.shape == (44, 128, 4, 4)
    assert not np.array_equal(own, latents)
    images = torch.from_numpy(np.load(tmp_path / "narrow" / "images.npy")) / 255
    student = load_wide_student(str(folder))
    assert (student.encode(images[:4]) - torch.from_numpy(own[:4])).abs().max() < 0.05, "the student's own latents"
    shown = teacher.decode(torch.from_numpy(latents[[0, 30]]))
    assert (shown - torch.from_numpy(targets[[0, 30]]) / 255).abs().max() < 0.02
    encoders = [load_file(path) for path in (folder / "embedded-wide_encoder.safetensors",)]
    encoders.append(load_file(tmp_path / "narrow" / "embedded_encoder.safetensors"))
    assert all(torch.equal(value, encoders[1][name]) for name, value in encoders[0].items()), "its encoder stays"
    sizes = [
        sum(value.numel() for value in load_file(path).values())
        for path in (folder / "embedded-wide_decoder.safetensors", tmp_path / "narrow" / "embedded_decoder.safetensors")
    ]
    assert sizes[1] < 0.6 * sizes[0]

    assert training.main([*arguments, "-o", str(folder), "--student", "embedded"]) == 1
    assert "needs --wide FOLDER" in capsys.readouterr().err
    assert training.main([*narrow, "-o", str(folder)]) == 1
    assert "holds the pool of another student" in capsys.readouterr().err
    assert training.main([*arguments, "-o", str(tmp_path / "x"), "--student", "embedded", "--wide", str(tmp_path)]) == 1
    assert "not a readable safetensors file" in capsys.readouterr().err


def test_channels_that_matter_are_kept():
    torch.manual_seed(0)
    wide = EmbeddedAutoencoder(between=None)
    latents = torch.randn(4, 128, 4, 4)
    with torch.no_grad():
        for layer in wide.decoder:
            if hasattr(layer, "first"):
                layer.second.weight[:, layer.first.out_channels // 3 :] = 0  # two thirds add nothing
    narrow = EmbeddedAutoencoder().prune_from(wide, latents)
    torch.testing.assert_close(narrow.decode(latents), wide.decode(latents), atol=1e-4, rtol=0)


@pytest.mark.usefixtures("taught")
def test_pool_is_seeded(wide, arguments, tmp_path):
    folder, _ = wide
    run(tmp_path / "again", arguments, 1)
    for name in ("latents", "targets", "images"):
        assert np.array_equal(np.load(folder / f"{name}.npy"), np.load(tmp_path / "again" / f"{name}.npy"))
    run(tmp_path / "other", [*arguments, "--seed", "1"], 1)
    assert not np.array_equal(np.load(folder / "latents.npy"), np.load(tmp_path / "other" / "latents.npy"))


def test_bad_images_are_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert training.main([str(tmp_path / "empty"), "-o", str(tmp_path / "run"), "--teacher", "pixels"]) == 1
    assert "holds no images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("taught")
def test_a_folder_is_for_one_training_and_damage_is_named(arguments, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    for option in (["--steps", "0"], ["--batch", "-1"], ["--rate", "nan"], ["--log-every", "0"]):
        assert training.main([*arguments, "-o", str(folder), *option]) == 1
        assert "must be" in capsys.readouterr().err
    assert not folder.exists()
    run(folder, arguments, 1)
    with locked(folder / "lock"):
        assert training.main([*arguments, "-o", str(folder), "--steps", "2"]) == 1
    assert "at work" in capsys.readouterr().err
    checkpoint = folder / "embedded-wide.pt"
    for state in (b"", b"text", {}, {"model": 3}, [1]):
        checkpoint.write_bytes(state) if isinstance(state, bytes) else torch.save(state, checkpoint)
        assert training.main([*arguments, "-o", str(folder), "--steps", "2"]) == 1
        assert str(checkpoint) in capsys.readouterr().err
    checkpoint.unlink()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    assert training.main([*arguments, "-o", str(folder)]) == 130
    assert capsys.readouterr().err.count("\n") == 1
