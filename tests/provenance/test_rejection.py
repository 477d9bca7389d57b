"""Rejection: images that the audit would not pass are made anew, each by its own seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses
from helpers.paths import PORTRAITS
from torch import Tensor

from latentpatch import LatentPatch, ResynthesisSettings
from latentpatch.cli.entry import main
from latentpatch.io.images import read_image
from latentpatch.provenance.audit import CopyLimits
from latentpatch.provenance.copying import copying
from latentpatch.provenance.registered import RegisteredSources
from latentpatch.provenance.rejection import NEXT_SEED, generate_audited

SIZE = 128
#: One source gives half of each picture: about every third is too near to it.
NEAR = ResynthesisSettings(bands=1, max_share=0.5, allow_start_as_donor=True)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted(PORTRAITS.glob("*.jpg"))[:24]


@pytest.fixture(scope="module")
def model(files: list[Path]) -> LatentPatch:
    return LatentPatch(settings=NEAR).fit(files, size=SIZE)


def failed(model: LatentPatch, images: Tensor) -> set[int]:
    found = CopyLimits().failures(copying(model, images), range(len(images)))
    return {each["file"] for each in found} - {None}


def test_all_images_pass_and_those_that_passed_are_kept(model: LatentPatch) -> None:
    plain, (made, passes) = model.generate(8), generate_audited(model, 8)
    again = failed(model, plain.images)
    assert 0 < len(again) < 8
    assert passes.all()
    assert not failed(model, made.images)
    for i in range(8):
        assert (made.seeds[i] != i) == (i in again)
        assert made.seeds[i] % NEXT_SEED == i
        assert torch.equal(made.images[i], plain.images[i]) == (i not in again)


def test_an_image_depends_on_its_seed_alone_and_can_be_made_without_rejection(model: LatentPatch) -> None:
    made, _ = generate_audited(model, 6, seed=2)
    one, _ = generate_audited(model, seeds=[5])
    assert torch.equal(one.index[0], made.index[3])
    again = model.generate(seeds=made.seeds)
    assert torch.equal(again.index, made.index)
    assert torch.equal(again.images, made.images)


def test_where_no_attempt_passes_the_least_near_stays(model: LatentPatch) -> None:
    made, passes = generate_audited(model, 2, limits=CopyLimits(relative=1), attempts=3)
    assert not passes.any()
    tried = [model.generate(seeds=[i + attempt * NEXT_SEED for attempt in range(3)]) for i in range(2)]
    for i, attempts in enumerate(tried):
        best = int(copying(model, attempts.images).relative.argmax())
        assert made.seeds[i] == attempts.seeds[best]
        assert torch.equal(made.index[i], attempts.index[best])


def test_a_further_test_is_asked(model: LatentPatch) -> None:
    seen = []

    def accept(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.mean((1, 2, 3)) > images.mean()  # never all of a batch

    made, passes = generate_audited(model, 4, accept=accept, attempts=2)
    assert len(seen) == 2
    assert seen[0] == len(made) == 4
    assert not passes.all()


def test_images_are_registered_where_sources_are_given(model: LatentPatch, files: list[Path]) -> None:
    sources = RegisteredSources([torch.stack([read_image(path, (SIZE, SIZE)) for path in files])])
    plain = model.generate(4)
    limits = CopyLimits(relative=0, registered=float(sources.compare(plain.images).relative.median()))
    made, passes = generate_audited(model, 4, limits=limits, registered=sources, attempts=2)
    near = sources.compare(made.images).relative
    assert torch.equal(passes, near >= limits.registered)
    assert any(seed >= NEXT_SEED for seed in made.seeds)


def test_arguments(model: LatentPatch) -> None:
    with refuses("attempts"):
        generate_audited(model, attempts=0)
    with refuses("reference"):
        generate_audited(model, 2, reference=torch.rand(2, 3, SIZE, SIZE))


def test_the_command_makes_pictures_that_audit_passes(
    model: LatentPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert main(["generate", str(path), "-n", "4", "--audited", "-o", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert all(row["passes"] for row in report["images"])
    assert any(row["seed"] >= NEXT_SEED for row in report["images"])
    assert report["audited"]["limits"]["relative"] == CopyLimits().relative
    assert "fail" not in capsys.readouterr().err
    limits = ["--max-mean-share", "0.9"]
    assert main(["audit", str(path), str(tmp_path / "out"), *limits, "-q", "-o", str(tmp_path / "audit")]) == 0


def test_the_command_asks_a_descriptor(model: LatentPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, script = tmp_path / "model.safetensors", tmp_path / "far.py"
    model.save(path)
    script.write_text("def far(images):\n    return images.mean((2, 3))\n")
    options = ["--audited", "--identity", f"{script}:far", "--identity-limit", "9"]
    assert main(["generate", str(path), "-n", "2", *options, "-o", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert [row["passes"] for row in report["images"]] == [False, False]
    assert report["audited"]["identity"]["limit"] == 9
    assert "2 fail the audit" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--identity", "far.py"], ["--audited", "--labels", "age"]])
def test_options_that_do_not_go_together(
    model: LatentPatch, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert main(["generate", str(path), *options, "-o", str(tmp_path / "out")]) == 1
    assert "--audited" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
