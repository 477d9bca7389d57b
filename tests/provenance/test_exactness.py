"""Provenance is called exact only of the sources that made a picture, and records tell how they were fitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses
from PIL import Image
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.cli._options import SourceOptions
from latentpatch.cli.entry import main
from latentpatch.provenance.copying import copying
from latentpatch.provenance.explanation import explain


def noise(seed: int) -> Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_pictures_of_other_sources_of_the_same_names_are_refused(tmp_path: Path) -> None:
    """Defect M11: only ids were compared, and a map of other pictures was called exact."""
    first, second = (LatentPatch("pixels", components=4).fit(noise(seed)) for seed in (0, 1))
    made = first.generate(2)
    assert explain(first, made).exact
    mask = torch.ones(64, 64, dtype=torch.bool)
    for result in (made, first.edit(noise(2)[0], "source:1", mask)):
        for judge in (explain, copying):
            with refuses("picture" if judge is explain else "pictures"):
                judge(second, result)  # type: ignore[operator]
    first.save(tmp_path / "m.safetensors")
    assert explain(LatentPatch.load(tmp_path / "m.safetensors"), made).exact


def test_the_digest_is_kept_until_something_changes() -> None:
    model = LatentPatch("pixels", components=4).fit(noise(0))
    digest, bank = model.bank.digest(), model.bank
    assert bank.digest() == bank.computed_digest() == digest
    bank.latents[0, 0, 0, 0] += 1
    assert bank.digest() == bank.computed_digest() != digest
    bank.latents[0, 0, 0, 0] -= 1
    bank.ids[0] = "other"
    assert bank.digest() == bank.computed_digest() != digest
    seen = set()
    for seed in range(4):
        model.fit(noise(seed))
        seen.add(model.bank.digest())
        assert model.bank.digest() == model.bank.computed_digest()
    model.remove("0")
    assert model.bank.digest() == model.bank.computed_digest()
    assert len(seen) == 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(noise(3)):
        Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "in" / f"p{i}.png")
    return tmp_path


PIXELS = ("--autoencoder", "pixels", "--size", "64")


@pytest.mark.parametrize(
    "options", [["--mirrored"], ["--mirrored", "--offsets", "1", "--offset-cost", "0.1"], ["--components", "5"],
                ["--no-groups"], ["--details"], ["--no-residuals"]]
)  # fmt: skip
def test_explain_fits_the_sources_as_the_record_says(folder: Path, options: list[str]) -> None:
    """Defect: pictures made with --mirrored or --offsets were explained by an estimate unless these were repeated."""
    sources, out, why = str(folder / "in"), str(folder / "out"), str(folder / "why")
    assert main(["generate", sources, "-n", "3", "--decoding", "gather", *PIXELS, *options, "-o", out]) == 0
    assert main(["explain", f"{out}/0000.png", sources, *PIXELS, "-o", why]) == 0
    assert json.loads((folder / "why" / "explanation.json").read_text())["exact"]
    main(["audit", sources, out, *PIXELS, "-o", str(folder / "audit"), "-q"])
    assert json.loads((folder / "audit" / "audit.json").read_text())["covered"]["exact_maps"] == 3


def test_a_hostile_record_decides_nothing_out_of_range(folder: Path) -> None:
    bare = SourceOptions(sources=(folder / "in",))
    for fit in ({"offsets": 10**9}, {"mirrored": 1, "offsets": [], "offset_cost": 1e300, "residuals": "yes"}, 7, None):
        assert bare.as_recorded({"fit": fit, "components": 10**9}) == bare
    for record, choice in (({}, "full"), ({"chroma": "half"}, True), ({"chroma": 7}, "full")):
        assert bare.as_recorded({"fit": {"residuals": True, **record}}).residuals == choice
    named = SourceOptions(sources=(folder / "in",), offsets=0, residuals=False, components=3)
    assert named.as_recorded({"fit": {"offsets": 2, "mirrored": True, "residuals": True}, "components": 5}) == named
