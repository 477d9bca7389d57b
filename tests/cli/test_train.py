"""``latentpatch train``, and the commands that a trained model works with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.command_line import contents, pictures, record, run
from helpers.paths import ROOT
from PIL import Image

import latentpatch
from latentpatch.cli.entry import main
from latentpatch.io.images import read_image

TOY = ["--size", "20x26", "--coarsest", 14, "--ratio", 0.7, "--width", 4]


@pytest.fixture(scope="module")
def model(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SinGAN of one picture, trained for two steps a scale."""
    path = tmp_path_factory.mktemp("trained") / "m.safetensors"
    run("train", "singan", sorted(faces.iterdir())[0], *TOY, "--steps", 2, "-q", "-o", path)
    return path


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_train_writes_a_model_beside_its_log(model, capsys):
    assert sorted(contents(model.parent)) == [
        "m.safetensors",
        "m.training/",
        "m.training/lock",
        "m.training/losses.csv",
        "m.training/losses.png",
        *(f"m.training/stage-0{k}.safetensors" for k in range(3)),
        "m.training/training.json",
    ]
    run("inspect", model)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["method"], facts["sizes"][-1], facts["trained"]["width"]) == ("singan", [20, 26], 4)


def test_commands_take_a_trained_model_for_pictures(model, faces, tmp_path):
    face = sorted(faces.iterdir())[1]
    run("generate", model, "-n", 3, "--seed", 1, "-o", tmp_path / "made")
    assert record(tmp_path / "made", "generate.json")["method"] == "singan"
    image = read_image(tmp_path / "made" / "0001.png")
    expected = latentpatch.reshuffle(model, seed=2).images[0]
    assert float((image - expected).abs().max()) <= 0.5 / 255 + 1e-6, "pictures are those of the function"
    run("reshuffle", model, "--size", "20x40", "--start-scale", 1, "-o", tmp_path / "wide")
    with Image.open(tmp_path / "wide" / "0000.png") as wide:
        assert wide.size == (40, 20)
    assert record(tmp_path / "wide", "reshuffle.json")["settings"] == {"start_scale": 1}
    run("analogy", face, model, "-o", tmp_path / "painted")
    run("harmonize", face, "--box", "5,5,30,30", "--from", model, "-o", tmp_path / "harmonic")
    run("edit", face, "--box", "5,5,30,30", "--from", model, "--start-scale", 2, "-o", tmp_path / "edited")
    for name, command in (("painted", "analogy"), ("harmonic", "harmonize"), ("edited", "edit")):
        assert record(tmp_path / name, f"{command}.json")["method"] == "singan"
        assert len(pictures(tmp_path / name)) == 1


def test_enlarge(model, faces, tmp_path):
    run("enlarge", sorted(faces.iterdir())[0], model, "--factor", 1.5, "-o", tmp_path)
    with Image.open(sorted(faces.iterdir())[0]) as face, Image.open(tmp_path / "0000.png") as large:
        assert large.size == (round(1.5 * face.width), round(1.5 * face.height))
    assert record(tmp_path, "enlarge.json")["factor"] == 1.5


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["generate", "MODEL", "--sampler", "raster"], "trained model"),
        (["generate", "MODEL", "--resume"], "trained model"),
        (["reshuffle", "MODEL", "--method", "gpnn"], "--method"),
        (["reshuffle", "MODEL", "--patch-size", "5"], "--patch-size"),
        (["reshuffle", "FACE", "--start-scale", "1"], "--start-scale"),
        (["reshuffle", "MODEL", "--start-scale", "9"], "--start-scale"),
        (["stylize", "FACE", "MODEL"], "task"),
    ],
)
def test_options_that_a_trained_model_does_not_have_are_refused(words, reason, model, faces, tmp_path, capsys):
    names = {"MODEL": model, "FACE": sorted(faces.iterdir())[0]}
    assert reason in failure(capsys, *(names.get(word, word) for word in words), "-o", tmp_path / "out")
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hp-vae-gan", "FACE"], "at least 2"),
        (["singan", "FACES"], "pictures must be one"),
        (["singan", "FACE", "--vae-levels", "2"], "belongs to hp-vae-gan"),
        (["singan", "FACE", "--width", "0"], "--width"),
    ],
)
def test_trainings_that_cannot_be_are_refused(words, reason, faces, tmp_path, capsys):
    names = {"FACES": faces, "FACE": sorted(faces.iterdir())[0]}
    try:
        status = main(["train", *(str(names.get(w, w)) for w in words), "-o", str(tmp_path / "m.safetensors")])
    except SystemExit as error:
        status = int(str(error.code))
    assert status in (1, 2)
    assert reason in capsys.readouterr().err
    assert not contents(tmp_path)


def test_another_configuration_is_refused_by_name(model, faces, capsys):
    before = contents(model.parent)
    face = sorted(faces.iterdir())[0]
    assert "steps was 2, not 3" in failure(capsys, "train", "singan", face, *TOY, "--steps", 3, "-o", model)
    other = sorted(faces.iterdir())[1]
    assert "pictures was" in failure(capsys, "train", "singan", other, *TOY, "--steps", 2, "-o", model)
    assert contents(model.parent) == before


def test_a_training_that_was_killed_ends_with_equal_bytes(faces, tmp_path):
    words = ["train", "singan", str(sorted(faces.iterdir())[0]), *map(str, TOY), "--steps", "60", "-q"]
    command = [
        sys.executable,
        "-m",
        "latentpatch",
        *words,
        "--checkpoint-seconds",
        "0",
        "-o",
        str(tmp_path / "m.safetensors"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    until = time.monotonic() + 120
    while not (tmp_path / "m.training" / "checkpoint.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "m.safetensors").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in ("m", "whole"):
            run(*words, "-o", tmp_path / f"{name}.safetensors")
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
