"""The model archive, without a server: ``test_torchserve.py`` has TorchServe load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses, refuses_file
from helpers.paths import ROOT
from helpers.traffic import unpacked

from latentpatch import LatentPatch, LatentPatchError, load_autoencoder
from latentpatch.cli.entry import main
from latentpatch.methods.trained.base import load_trained

archive = pytest.importorskip("latentpatch.serving.archive", reason="serving needs pip install '.[serve]'")

HANDLER = "class LatentPatchHandler:\n    pass\n"


@pytest.fixture
def handler(tmp_path: Path) -> Path:
    path = tmp_path / "some_handler.py"
    path.write_text(HANDLER)
    return path


@pytest.fixture
def mar(model: LatentPatch, handler: Path, tmp_path: Path) -> Path:
    path = tmp_path / "store" / "faces.mar"
    archive.build_archive(model, path, handler=handler)
    return path


def properties(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))  # type: ignore[misc]


def test_same_inputs_same_bytes(model: LatentPatch, mar: Path, handler: Path, tmp_path: Path) -> None:
    os.utime(handler, (1e9, 1e9))
    handler.chmod(0o600)
    time.sleep(2.1)  # a zip tells even seconds
    again = tmp_path / "elsewhere" / "faces.mar"
    archive.build_archive(model, again, handler=handler)
    assert again.read_bytes() == mar.read_bytes()


def test_contents(model: LatentPatch, mar: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(mar) as opened:
        infos = opened.infolist()
    names = [info.filename for info in infos]
    assert names == sorted(names)
    package = [n for n in names if n.startswith("latentpatch/")]
    assert set(names) - set(package) == {
        "MAR-INF/MANIFEST.json",
        "model-config.yaml",
        "model.json",
        "model.safetensors",
        "some_handler.py",
    }
    assert {Path(name).suffix for name in package} == {".py", ".html", ".typed", ".safetensors"}
    assert {info.external_attr >> 16 for info in infos} == {0o100644}
    folder = unpacked(mar, tmp_path / "unpacked")
    for name in package:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    assert (folder / "some_handler.py").read_text() == HANDLER
    assert (folder / "model-config.yaml").read_text() == (ROOT / "handlers" / "model-config.yaml").read_text()
    model.save(tmp_path / "model.safetensors")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_as_torch_model_archiver_makes_it(mar: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_archiver")
    folder, extra = unpacked(mar, tmp_path / "unpacked"), tmp_path / "extra"
    ours = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
    extra.mkdir()
    for name in ("latentpatch", "model.json"):
        (folder / name).rename(extra / name)
    (tmp_path / "tmp").mkdir()
    arguments = {
        "model-name": "faces",
        "version": ours["model"]["modelVersion"],
        "handler": folder / "some_handler.py",
        "serialized-file": folder / "model.safetensors",
        "config-file": folder / "model-config.yaml",
        "extra-files": extra,
        "export-path": tmp_path,
    }
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    command += [str(part) for key, value in arguments.items() for part in (f"--{key}", value)]
    subprocess.run(command, check=True, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "faces.mar") as theirs, zipfile.ZipFile(mar) as opened:
        assert sorted(theirs.namelist()) == opened.namelist()
        manifest = json.loads(theirs.read("MAR-INF/MANIFEST.json"))
        for name in set(opened.namelist()) - {"MAR-INF/MANIFEST.json"}:
            assert theirs.read(name) == opened.read(name), name
    assert manifest | {"createdOn": ours["createdOn"]} == ours


def test_works_by_itself(model: LatentPatch, mar: Path, tmp_path: Path) -> None:
    folder = unpacked(mar, tmp_path / "unpacked")
    code = (
        "import sys; sys.modules['numba'] = None  # or all searches would be compiled anew for this copy\n"
        "import pathlib, torch, latentpatch\n"
        "from latentpatch.serving.archive import load_archived\n"
        "assert pathlib.Path(latentpatch.__file__).is_relative_to(sys.argv[1]), latentpatch.__file__\n"
        "torch.save(load_archived(sys.argv[1]).generate(2, seed=3).images, sys.argv[2])\n"
    )
    # -S: no .pth files, by which an editable installation would be found.
    installed = str(Path(torch.__file__).parents[1])  # the packages may be of another environment
    paths = dict.fromkeys([str(folder), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), installed])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-S", "-c", code, folder, tmp_path / "images.pt"], check=True, env=environment, cwd=folder
    )
    assert torch.equal(torch.load(tmp_path / "images.pt"), model.generate(2, seed=3).images)


@pytest.mark.parametrize("name", ["embedded", "embedded-vq", "taef2", "diffusers"])
def test_weights_the_package_lacks_are_packed(
    name: str, faces: Path, handler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    argument = None
    if name == "diffusers":
        diffusers = pytest.importorskip("diffusers")
        argument = str(tmp_path / "tiny")
        network = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
        network.save_pretrained(argument)
        autoencoder = load_autoencoder(name, argument)
    else:
        autoencoder = load_autoencoder(name, pretrained=False)
    model = LatentPatch(autoencoder, components=4).fit(faces, size=64)
    archive.build_archive(model, tmp_path / "own.mar", handler=handler)
    folder = unpacked(tmp_path / "own.mar", tmp_path / "unpacked")
    assert (folder / "autoencoder" / "weights.safetensors").is_file()
    if argument is not None:
        Path(argument).rename(tmp_path / "gone")
    monkeypatch.setattr("latentpatch.autoencoders.weights.download", None)
    loaded = archive.load_archived(folder)
    assert loaded.identity()["sha256"] == model.identity()["sha256"]
    settings = model.with_settings("raster", patch_size=2, start_size=2, scales=2)
    options: dict[str, Any] = {"seed": 1, "settings": settings}
    assert torch.equal(loaded.generate(2, **options).images, model.generate(2, **options).images)


def test_weights_of_the_package_are_not_packed_again(faces: Path, handler: Path, tmp_path: Path) -> None:
    model = LatentPatch().fit(faces, size=64)
    archive.build_archive(model, tmp_path / "own.mar", handler=handler)
    folder = unpacked(tmp_path / "own.mar", tmp_path / "unpacked")
    assert not (folder / "autoencoder").exists()
    assert archive.load_archived(folder).identity() == model.identity()


def test_a_decoder_of_the_same_latent_space_is_kept(faces: Path, handler: Path, tmp_path: Path) -> None:
    LatentPatch(load_autoencoder("taef2", pretrained=False)).fit(faces, size=64).save(tmp_path / "bank.safetensors")
    model = LatentPatch.load(tmp_path / "bank.safetensors", "embedded")
    archive.build_archive(model, tmp_path / "own.mar", handler=handler)
    loaded = archive.load_archived(unpacked(tmp_path / "own.mar", tmp_path / "unpacked"))
    assert loaded.identity()["name"] == "embedded"


def test_trained_models_are_packed_by_name(mar: Path, taught: Path, faces: Path, tmp_path: Path) -> None:
    assert archive.load_archived_trained(unpacked(mar, tmp_path / "without")) == {}
    named = f"stones={taught}"
    assert (
        main(["archive", str(faces), "--size", "64", "--trained", named, "-o", str(tmp_path / "faces.mar"), "-q"]) == 0
    )
    (found,) = archive.load_archived_trained(unpacked(tmp_path / "faces.mar", tmp_path / "with")).items()
    assert found[0] == "stones"
    assert torch.equal(found[1].make("reshuffle", [3]), load_trained(taught).make("reshuffle", [3]))


@pytest.mark.parametrize("named", ["stones", "=stones.safetensors", "../stones=stones.safetensors", "a b=c", "a="])
def test_bad_names_of_trained_models(named: str, faces: Path, tmp_path: Path) -> None:
    for more in ([str(faces)], ["--graphs", str(tmp_path)]):
        assert main(["archive", *more, "--trained", named, "-o", str(tmp_path / "faces.mar"), "-q"]) in (1, 2)
    assert not (tmp_path / "faces.mar").exists()


@pytest.mark.parametrize("name", ["faces.zip", "faces", ".mar", "-faces.mar", "two words.mar", "gesichtä.mar"])
def test_bad_names(name: str, model: LatentPatch, handler: Path, tmp_path: Path) -> None:
    with refuses("output"):
        archive.build_archive(model, tmp_path / name, handler=handler)


@pytest.mark.parametrize("name", ["latentpatch.py", "two-words.py", "handler.txt"])
def test_bad_handler_names(name: str, model: LatentPatch, tmp_path: Path) -> None:
    (tmp_path / name).write_text(HANDLER)
    with refuses("handler"):
        archive.build_archive(model, tmp_path / "faces.mar", handler=tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"batchSize": 0}, "batchSize"),
        ({"maxBatchDelay": -1}, "maxBatchDelay"),
        ({"minWorkers": True}, "minWorkers"),
        ({"batchsize": 2}, "settings"),
    ],
)
def test_bad_settings(settings: dict[str, int], name: str, model: LatentPatch, handler: Path, tmp_path: Path) -> None:
    with refuses(name):
        archive.build_archive(model, tmp_path / "faces.mar", handler=handler, settings=settings)


def test_bad_files(model: LatentPatch, handler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, bad = tmp_path / "faces.mar", tmp_path / "bad.yaml"
    with refuses_file("none.py", "no such file"):
        archive.build_archive(model, output, handler=tmp_path / "none.py")
    with refuses_file("none.yaml", "no such file"):
        archive.build_archive(model, output, handler=handler, config=tmp_path / "none.yaml")
    for text, reason in ((b"minWorkers: 1\nmaxWorkers: many\n", "maxWorkers"), (b"minWorkers: \xff\n", "read")):
        bad.write_bytes(text)
        with refuses_file(bad, reason):
            archive.build_archive(model, output, handler=handler, config=bad)
    with refuses("model"):
        archive.build_archive(LatentPatch("pixels"), output, handler=handler)
    monkeypatch.setattr(archive, "_HANDLERS", tmp_path / "site-packages" / "handlers")
    with refuses_file("handlers/latentpatch_handler.py", "--handler FILE"):
        archive.build_archive(model, output)
    assert not output.exists()


def test_output_that_cannot_be_written(model: LatentPatch, handler: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mar").mkdir()
    for output in (tmp_path / "file" / "faces.mar", tmp_path / "folder.mar"):
        with refuses_file("", "written"):
            archive.build_archive(model, output, handler=handler)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mar", "some_handler.py"]


@pytest.mark.parametrize("harm", ["missing", "not json", "no weights", "other weights"])
def test_damaged_archives(harm: str, faces: Path, handler: Path, tmp_path: Path) -> None:
    model = LatentPatch(load_autoencoder("embedded", pretrained=False)).fit(faces, size=64)
    archive.build_archive(model, tmp_path / "own.mar", handler=handler)
    folder = unpacked(tmp_path / "own.mar", tmp_path / "unpacked")
    if harm == "missing":
        (folder / "model.json").unlink()
    elif harm == "not json":
        (folder / "model.json").write_text("[]")
    elif harm == "no weights":
        (folder / "autoencoder" / "weights.safetensors").unlink()
    else:
        (folder / "model.json").write_text('{"name": "embedded", "argument": null, "packed": false}')
    with pytest.raises(LatentPatchError):
        archive.load_archived(folder)


def test_command_line(faces: Path, handler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = ["--autoencoder", "pixels:4", "--size", "64"]
    options = ["--handler", str(handler), "-o", str(tmp_path / "a" / "faces.mar")]
    settings = ["--workers", "3", "--batch-size", "4", "--max-batch-delay", "0"]
    assert main(["archive", "--sources", str(faces), *pixels, *options, *settings, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sources"] == 12
    assert report["bytes"] == (tmp_path / "a" / "faces.mar").stat().st_size
    folder = unpacked(tmp_path / "a" / "faces.mar", tmp_path / "unpacked")
    lines = (folder / "model-config.yaml").read_text().splitlines()
    assert {"minWorkers: 3", "maxWorkers: 3", "batchSize: 4", "maxBatchDelay: 0"} <= set(lines)
    assert len(archive.load_archived(folder).bank) == 12

    # Pictures, the fitted file that holds them, and what was packed are one and the same.
    fitted = tmp_path / "faces.safetensors"
    assert main(["fit", str(faces), *pixels, "-o", str(fitted), "-q"]) == 0
    options[-1] = str(tmp_path / "b" / "faces.mar")
    assert main(["archive", str(fitted), *options, *settings, "-q"]) == 0
    assert (tmp_path / "a" / "faces.mar").read_bytes() == (tmp_path / "b" / "faces.mar").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == fitted.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere"),
        (["{faces}", "--size", "64", "-o", "faces.zip"], "faces.zip"),
        (["{faces}", "--size", "64", "--handler", "none.py"], "none.py"),
    ],
)
def test_command_line_refuses(
    arguments: list[str],
    reason: str,
    faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [argument.format(faces=faces) for argument in arguments]
    assert main(["archive", *command, "--autoencoder", "pixels:4"]) == 1
    assert reason in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_configurations_agree() -> None:
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / "handlers" / "model-config.yaml").read_text())
    limits = config["handler"]["limits"]
    production, local = properties("config.properties"), properties("config.local.properties")
    differing = {key for key in production.keys() | local.keys() if production.get(key) != local.get(key)}
    assert differing == {"disable_token_authorization", "token_expiration_min"}
    assert int(production["max_request_size"]) > 2 * limits["max_image_bytes"] * 4 / 3
    assert int(production["max_response_size"]) > limits["max_images"] * 512 * 512 * 3 * 4 / 3
    assert config["responseTimeout"] >= 2 * limits["max_seconds"]
    assert config["jobQueueSize"] == int(production["job_queue_size"])
    metrics = yaml.safe_load((ROOT / production["metrics_config"]).read_text())
    pytest.importorskip("ts")
    defaults = yaml.safe_load((Path(sys.modules["ts"].__path__[0]) / "configs" / "metrics.yaml").read_text())
    assert metrics["ts_metrics"] == defaults["ts_metrics"]
    assert [m for m in defaults["model_metrics"]["gauge"] if m not in metrics["model_metrics"]["gauge"]] == []
