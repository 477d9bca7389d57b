"""``latentpatch unlearn``: the new file equals that of a model without the sources, or nothing is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses
from helpers.paths import PORTRAITS
from safetensors.torch import load_file

from latentpatch import LatentPatch
from latentpatch.cli.entry import main
from latentpatch.io.images import read_image
from latentpatch.provenance.audit import CopyLimits
from latentpatch.provenance.unlearning import check_removable, nearest_remaining, unlearned, verify_unlearning


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def fitted(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fitted") / "faces.safetensors"
    assert run("fit", faces, "--autoencoder", "pixels:4", "--size", 64, "--components", 8, "-q", "-o", path) == 0
    return path


def unlearn(model: Path, folder: Path, *more: object) -> tuple[int, dict[str, Any]]:
    status = run("unlearn", model, "-o", folder / "new.safetensors", "--report", folder / "report.json", *more)
    report = folder / "report.json"
    return status, json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}


def test_the_new_file_is_that_of_a_model_that_never_saw_them(fitted: Path, faces: Path, tmp_path: Path) -> None:
    status, report = unlearn(
        *(fitted, tmp_path, "--id", "face03", "--id", "face07", "--pictures", faces, "--seeds", 40, "-q"),
        "--keep-similar",
    )
    assert status == 0
    others = tmp_path / "others"
    others.mkdir()
    for path in faces.iterdir():
        if path.stem not in ("face03", "face07"):
            (others / path.name).write_bytes(path.read_bytes())
    anew = tmp_path / "anew.safetensors"
    assert run("fit", others, "--autoencoder", "pixels:4", "--size", 64, "--components", 8, "-q", "-o", anew) == 0
    assert (tmp_path / "new.safetensors").read_bytes() == anew.read_bytes()
    assert b"face03" not in anew.read_bytes()
    assert report["verdict"] == "pass"
    assert report["removed"] == ["face03", "face07"]
    assert report["before"]["sha256"] == hashlib.sha256(fitted.read_bytes()).hexdigest()
    assert report["after"]["sha256"] == hashlib.sha256(anew.read_bytes()).hexdigest()
    assert report["after"]["sources"] == 10
    assert [check["passed"] for check in report["checks"]] == [True] * 5
    seeds = report["checks"][-1]
    assert seeds["pictures_before"] > 0
    assert seeds["pictures_after"] == 0
    text = (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert "face03, face07" in text
    assert report["after"]["sha256"] in text


def test_the_counts_are_those_of_generating(fitted: Path, tmp_path: Path) -> None:
    _, report = unlearn(fitted, tmp_path, "--id", "face05", "--seeds", 20, "--seed", 7, "-q")
    before = LatentPatch.load(fitted)
    position = before.bank.ids.index("face05")
    made = before.generate(20, seed=7)
    expected = int((made.index == position).flatten(1).any(1).sum())
    check = report["checks"][-1]
    assert (check["pictures_before"], check["seeds"], check["first_seed"]) == (expected, 20, 7)


@pytest.mark.parametrize("kind", ["embedded", "embedded-vq"])
def test_portraits_of_the_repository(kind: str, tmp_path: Path) -> None:
    model = tmp_path / "portraits.safetensors"
    pictures = sorted(PORTRAITS.glob("*.jpg"))[:20]
    assert run("fit", *pictures, "--autoencoder", kind, "--size", 128, "-q", "-o", model) == 0
    gone = pictures[4].stem
    status, report = unlearn(
        model, tmp_path, "--id", gone, "--pictures", PORTRAITS, "--seeds", 16, "--patch-size", 4, "-q"
    )
    assert status == 0, report
    assert report["checks"][2]["check"] == "equal, bit for bit, to a model fitted on the remaining pictures"
    assert gone not in LatentPatch.load(tmp_path / "new.safetensors").bank.ids


@pytest.mark.parametrize("left", ["name", "row", "key", "pca"])
def test_what_is_left_is_found(fitted: Path, tmp_path: Path, left: str) -> None:
    """The proof fails on files from which a source was not, or not wholly, removed."""
    before, after = LatentPatch.load(fitted), LatentPatch.load(fitted)
    latents = before.bank.latents[3].clone()
    after.remove("face03", refit=left != "pca")
    if left == "name":
        after.bank.attributes[0] = {"friend": "face03"}
    elif left == "row":
        after.bank.latents[0, 5] = latents[5]
    elif left == "key":
        after.bank.keys[2, 0, 0, 0] += 1
    after.save(tmp_path / "left.safetensors")
    checks = verify_unlearning(
        before, LatentPatch.load(tmp_path / "left.safetensors"), tmp_path / "left.safetensors", ["face03"], range(4)
    )
    failed = [i for i, check in enumerate(checks) if not check.passed]
    assert failed == {"name": [0], "row": [1, 2], "key": [1], "pca": [1]}[left]


def test_a_model_that_was_not_changed_fails_every_check(fitted: Path) -> None:
    model = LatentPatch.load(fitted)
    checks = verify_unlearning(model, model, fitted, ["face03"], range(40))
    assert not any(check.passed for check in checks)


def test_the_same_picture_under_another_id_is_not_forgotten(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "twice"
    folder.mkdir()
    for path in sorted(faces.iterdir())[:6]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "twin.png").write_bytes((folder / "face01.png").read_bytes())
    model = tmp_path / "model.safetensors"
    assert run("fit", folder, "--autoencoder", "pixels:4", "--size", 64, "-q", "-o", model) == 0
    status, report = unlearn(model, tmp_path / "out", "--id", "face01", "--seeds", 4, "--keep-similar")
    assert status == 1
    assert not report
    assert not (tmp_path / "out").exists()
    assert "not proved" in capsys.readouterr().err


def test_similar_sources_that_remain_are_named_and_refused(
    fitted: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faces 3 and 4 are much alike, face 5 is like no other; twins count as one source."""
    model = LatentPatch.load(fitted)
    alike, alone = nearest_remaining(model, ["face03", "face05"])
    assert (alike.nearest, alike.group, alike.is_copy) == ("face04", (), True)
    assert alike.relative == pytest.approx(float(_relative(model, 3)))
    assert alike.relative < CopyLimits().relative < alone.relative
    assert not alone.is_copy
    assert not nearest_remaining(model, ["face03", "face04"])[0].is_copy  # both go
    with refuses("keep_similar"):
        unlearned(fitted, ["face03"])
    with refuses("keep_similar"):
        check_removable(model, ["face03"])
    assert check_removable(model, ["face03"], keep_similar=True) == [alike]
    assert unlearned(fitted, ["face03"], keep_similar=True).bank.num_groups == 11

    assert unlearn(fitted, tmp_path / "no", "--id", "face03", "--seeds", 4)[0] == 1
    assert "--keep-similar must be set to remove face03 without face04" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    status, report = unlearn(fitted, tmp_path, "--id", "face03", "--seeds", 4, "--keep-similar")
    assert status == 0
    (named,) = report["nearest_remaining"]
    assert (named["id"], named["nearest"], named["group"]) == ("face03", "face04", [])
    assert "face03: the nearest remaining source is face04, at 0." in capsys.readouterr().err

    twins = tmp_path / "twins.safetensors"
    model.add(read_image(faces / "face05.png")[None].mul(0.99), ids=["twin"])
    model.save(twins)
    (similar,) = nearest_remaining(model, ["face05"])
    assert (similar.nearest, similar.group, similar.is_copy) == ("twin", ("twin",), True)
    assert unlearn(twins, tmp_path / "no", "--id", "face05", "--seeds", 4)[0] == 1
    assert "--keep-similar must be set to remove face05 without twin" in capsys.readouterr().err
    status, report = unlearn(twins, tmp_path / "both", "--id", "face05", "--id", "twin", "--seeds", 4, "-q")
    assert (status, report["after"]["sources"]) == (0, 11)
    status, report = unlearn(twins, tmp_path / "one", "--id", "face05", "--seeds", 4, "-q", "--keep-similar")
    assert status == 0
    assert "counts as one source with twin, which remain" in (tmp_path / "one/report.txt").read_text(encoding="utf-8")


def _relative(model: LatentPatch, b: int) -> float:
    """Return the distance to the nearest other source, relative to the mean of the next five."""
    others = (model.bank.keys.double() - model.bank.keys[b].double()).flatten(1).norm(dim=1).sort().values[1:]
    return float(others[0] / others[1:6].mean())


def test_a_group_of_the_rest_is_found_again(fitted: Path, faces: Path, tmp_path: Path) -> None:
    model = LatentPatch.load(fitted)
    model.add(torch.stack([read_image(faces / f"face{i:02d}.png") for i in (0, 8)]), ids=["again0", "again8"])
    model.save(tmp_path / "model.safetensors")
    status, report = unlearn(tmp_path / "model.safetensors", tmp_path, "--id", "face08", "--id", "again8", "-q")
    assert status == 0, report
    after = LatentPatch.load(tmp_path / "new.safetensors")
    assert after.bank.shared_groups == {"face00": ["face00", "again0"]}
    assert after.bank.num_groups == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id", "nobody"], "'nobody'"),
        (["--id", "face01", "--id", "face01"], "ids must be at least one id, each once"),
        ([part for i in range(12) for part in ("--id", f"face{i:02d}")], "ids must be fewer than the 12 sources"),
        ([*["--sampler", "raster"], *(p for i in range(10) for p in ("--id", f"face{i:02d}"))], "neighbors must be"),
        (["--id", "face01", "--patch-size", "40"], "--patch-size must be"),
    ],
)
def test_unusable_ids_are_refused(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert unlearn(fitted, tmp_path / "out", *arguments)[0] == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unusable_files_are_refused(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = fitted.read_bytes()
    report = tmp_path / "report.json"

    def refused(message: str, model: Path, new: Path, note: Path = report, *more: object) -> None:
        assert run("unlearn", model, "--id", "face01", "-o", new, "--report", note, *more) == 1
        assert message in capsys.readouterr().err
        assert not report.exists()

    new = tmp_path / "new.safetensors"
    refused("is the model itself", fitted, fitted)
    link = tmp_path / "link.safetensors"
    link.symlink_to(fitted)
    refused("is the model itself", fitted, link)
    refused("ending in .safetensors", fitted, tmp_path / "new.bin")
    refused("ending in .json", fitted, new, tmp_path / "report.pdf")
    refused("not a readable model file", tmp_path / "absent.safetensors", new)
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused("altered", altered, new)
    some = tmp_path / "some"
    some.mkdir()
    refused("holds no images", fitted, new, report, "--pictures", some, "--keep-similar")
    assert not new.exists()
    assert fitted.read_bytes() == data


def test_no_tensor_of_the_old_file_survives_by_name(fitted: Path, tmp_path: Path) -> None:
    unlearn(fitted, tmp_path, "--id", "face00", "--seeds", 4, "-q")
    old, new = load_file(fitted), load_file(tmp_path / "new.safetensors")
    assert old.keys() == new.keys()
    assert torch.equal(old["bank.latents"][1:], new["bank.latents"])
    assert not torch.equal(old["pca.mean"], new["pca.mean"])
