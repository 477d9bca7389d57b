"""Fitting in bfloat16: networks at several times the rate, of which bank and records tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses
from helpers.paths import ROOT

from latentpatch import LatentPatch
from latentpatch.bank.fitted_module import pack, unpack
from latentpatch.cli.entry import main
from latentpatch.io.images import list_images, read_image
from latentpatch.provenance.unlearning import verify_unlearning

PICTURES = list_images(ROOT / "examples" / "portraits")[:7]


def fitted(name: str = "embedded", precision: str = "bfloat16") -> LatentPatch:
    model = LatentPatch(name, components=6)
    model.precision = precision
    return model.fit(PICTURES, size=64)


@pytest.fixture(scope="module")
def model() -> LatentPatch:
    return fitted()


@pytest.mark.parametrize("name", ["embedded", "embedded-vq"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_bank_does_not_depend_on_threads(name: str, precision: str) -> None:
    threads, digests = torch.get_num_threads(), set()
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            digests.add(fitted(name, precision).bank.digest())
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1


def test_latents_are_near_those_of_float32(model: LatentPatch) -> None:
    exact = fitted(precision="float32")
    quick, latents = model.bank.latents.float(), exact.bank.latents.float()
    assert 0 < (quick - latents).abs().mean() < 0.03 * latents.abs().mean()
    assert "precision" not in exact.bank.fit_record()
    assert model.bank.fit_record()["precision"] == "bfloat16"


def test_pictures_are_encoded_as_the_sources_were(model: LatentPatch) -> None:
    """Whatever the precision that pictures are decoded in later."""
    picture = read_image(PICTURES[3], (64, 64))[None]
    other = LatentPatch("embedded", components=6)
    other.load_state_dict(model.state_dict())
    assert (other.precision, other.bank.precision) == ("float32", "bfloat16")
    for each in (model, other):
        assert torch.equal(each.latents_of(picture)[0].movedim(0, 2).half(), model.bank.latents[3])


def test_what_is_made_of_a_model_keeps_the_precision(model: LatentPatch, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    loaded = LatentPatch.load(tmp_path / "m.safetensors")
    assert model.subset(torch.arange(4)).bank.precision == "bfloat16"
    loaded.remove(model.bank.ids[6])
    part = LatentPatch("embedded", components=6)
    part.precision = "bfloat16"
    part.fit(PICTURES[:6], size=64)
    assert loaded.bank.digest() == part.bank.digest()
    loaded.add([PICTURES[6]])
    assert torch.equal(loaded.bank.latents, model.bank.latents)
    assert torch.equal(loaded.bank.residuals, model.bank.residuals)


def test_unlearning_encodes_the_others_as_before(model: LatentPatch, tmp_path: Path) -> None:
    after = fitted()
    after.remove(model.bank.ids[0])
    after.save(tmp_path / "m.safetensors")
    checks = verify_unlearning(model, after, tmp_path / "m.safetensors", model.bank.ids[:1], [0], PICTURES[1:])
    assert [check.name for check in checks if not check.passed] == []


def test_a_file_with_another_precision_is_refused(model: LatentPatch) -> None:
    state = model.bank.state_dict()
    record = unpack(state["_extra_state"])
    for wrong in ("float8", 32, None):
        state["_extra_state"] = pack({**record, "precision": wrong})
        with refuses("precision"):
            type(model.bank)().load_state_dict(state)


@pytest.mark.parametrize("fitting", [[], ["--precision", "bfloat16"]])
def test_explain_and_audit_fit_as_the_record_says(tmp_path: Path, fitting: list[str]) -> None:
    """A picture of a bank fitted in bfloat16 is explained exactly, and one that was only decoded so, too."""
    (tmp_path / "in").mkdir()
    for path in PICTURES[:4]:
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    model, made, why = (str(tmp_path / name) for name in ("m.safetensors", "made", "why"))
    sources = [str(tmp_path / "in"), "--size", "64"]
    assert main(["fit", *sources, *fitting, "-o", model, "-q"]) == 0
    assert main(["generate", model, "--precision", "bfloat16", "-n", "2", "-o", made, "-q"]) == 0
    for more in ([], ["--precision", "bfloat16"]):
        assert main(["explain", f"{made}/0001.png", *sources, *more, "-q", "-o", why]) == 0
        assert json.loads((tmp_path / "why" / "explanation.json").read_text())["exact"]
    main(["audit", sources[0], made, *sources[1:], "-o", str(tmp_path / "audit"), "-q"])
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["covered"]["notes"] == []


def test_pictures_of_sources_are_of_a_bank_in_the_precision_of_the_run(tmp_path: Path) -> None:
    sources, made = [str(PICTURES[0]), str(PICTURES[1]), "--size", "64"], str(tmp_path / "made")
    for name in ("float32", "bfloat16"):
        assert main(["generate", *sources, "--precision", name, "-n", "1", "-o", made, "-q"]) == 0
        record = json.loads((tmp_path / "made" / "generation.json").read_text())
        assert (record["precision"], record["fit"].get("precision", "float32")) == (name, name)
        model = LatentPatch.open(PICTURES[:2], size=64, precision=name)
        assert record["sources_sha256"] == model.bank.digest()
