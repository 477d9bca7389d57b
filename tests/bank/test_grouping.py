"""Sources that count as one: re-saved files of one picture, and pictures with the same value of an attribute."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses, refuses_file
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.bank.augmentation import Variants
from latentpatch.bank.fitted_module import pack, unpack
from latentpatch.bank.grouping import Grouping, equal_sources, renumbered
from latentpatch.bank.sharded import ShardedBank
from latentpatch.cli.entry import main
from latentpatch.io.images import read_image
from latentpatch.methods.latent import reference
from latentpatch.methods.latent.presets import PRESETS
from latentpatch.methods.latent.resynthesis import ResynthesisSettings, resynthesis
from latentpatch.methods.latent.search import numba_backend as cpu
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.provenance.copying import copying, copying_of_sources
from latentpatch.provenance.explanation import explain
from latentpatch.registry import SAMPLERS
from latentpatch.runs.processes import ALONE

QUALITIES = (95, 85, 75, 60, 50)


def resaved(path: Path, quality: int, side: int | None = None) -> Image.Image:
    """Return a picture after a round trip through JPEG, and through another size."""
    picture = Image.open(path).convert("RGB")
    size = picture.size
    if side is not None:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB").resize(size, Image.Resampling.LANCZOS)


def people(folder: Path, paths: Sequence[Path]) -> Path:
    """Write five re-saved files of each picture, those of one quality one after the other: ``q95-NAME.png``..."""
    folder.mkdir()
    for number, quality in enumerate(QUALITIES):
        for path in paths:
            resaved(path, quality).save(folder / f"{number}-{path.stem}.png")
    return folder


def person(name: str) -> str:
    return name.split("-", 1)[1]


@pytest.fixture(scope="module")
def crowd(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn faces, five times each."""
    return people(tmp_path_factory.mktemp("crowd") / "pictures", sorted(faces.iterdir()))


@pytest.fixture
def twelve(crowd: Path) -> LatentPatch:
    return LatentPatch("pixels:4", components=8).fit(crowd, size=64)


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "installed", lambda: False)


def groups_by_person(model: LatentPatch) -> list[int]:
    """Return the group numbers that the names of the sources stand for."""
    names = [person(name) for name in model.bank.sources]
    first = list(dict.fromkeys(names))
    return [first.index(name) for name in names]


def largest_shares(model: LatentPatch, index: Tensor) -> Tensor:
    """Return the largest share of one person in each picture, counted by the names of the sources."""
    names = [person(name.split("~")[0]) for name in model.bank.ids]
    everyone = sorted(set(names))
    numbers = torch.tensor([everyone.index(name) for name in names])
    counts = [numbers[cells.flatten()].bincount(minlength=len(everyone)).max() for cells in index]
    return torch.stack(counts) / index[0].numel()


def test_resaved_pictures_are_groups(twelve: LatentPatch) -> None:
    bank = twelve.bank
    assert len(bank.sources) == 60
    assert bank.num_groups == 12
    assert bank.group_numbers.tolist() == groups_by_person(twelve)
    assert bank.group_names[:2] == ["0-face00", "0-face01"]
    assert bank.shared_groups["0-face03"] == [f"{number}-face03" for number in range(5)]
    assert twelve.context().num_sources == 12


def test_different_pictures_are_none(model: LatentPatch) -> None:
    """Faces 3 and 4 have the same hair, wall and shape; only clothes, skin and mouth differ."""
    assert model.bank.shared_groups == {}
    assert model.bank.num_groups == 12
    assert model.bank.prepared().groups.tolist() == list(range(12))


@pytest.mark.slow(5)
def test_portraits(shared: Path, tmp_path: Path) -> None:
    folder = shared / "portraits"
    paths = [folder / line for line in (folder / "source.txt").read_text(encoding="utf-8").split()]
    plain = LatentPatch().fit(paths[:80], residuals=False)
    assert plain.bank.shared_groups == {}
    many = LatentPatch().fit(people(tmp_path / "people", paths[:12]), residuals=False)
    assert many.bank.num_groups == 12
    assert many.bank.group_numbers.tolist() == groups_by_person(many)
    resized = torch.stack([read_image(_saved(resaved(path, 50, 224), tmp_path)) for path in paths[20:23]])
    plain.add(resized, ids=["a", "b", "c"])
    assert plain.bank.shared_groups == {
        paths[20 + number].stem: [paths[20 + number].stem, name] for number, name in enumerate("abc")
    }


def _saved(picture: Image.Image, folder: Path) -> Path:
    path = folder / "picture.png"
    picture.save(path)
    return path


@pytest.mark.parametrize("codec", ["embedded", "embedded-vq"])
def test_latents_of_networks(codec: str, faces: Path, tmp_path: Path) -> None:
    paths = sorted(faces.iterdir())[:6]
    model = LatentPatch(codec, components=8).fit(people(tmp_path / "people", paths), size=128, residuals=False)
    assert model.bank.group_numbers.tolist() == groups_by_person(model)


def test_two_files_of_one_picture_are_one(face_images: Tensor) -> None:
    both = torch.stack([face_images[2], (face_images[2] * 255 + 1).clamp(max=255) / 255])
    assert LatentPatch("pixels:4", components=4).fit(both).bank.num_groups == 1
    assert LatentPatch("pixels:4", components=4).fit(face_images[:2]).bank.num_groups == 2


def test_equal_plain_pictures_are_one() -> None:
    """Without any contrast only equal pictures count as one."""
    plain = torch.tensor([0.2, 0.4, 0.2, 0.6])[:, None, None, None].expand(-1, 3, 32, 32)
    assert LatentPatch("pixels:4", components=2).fit(plain).bank.group_numbers.tolist() == [0, 1, 0, 2]


def test_mirrored_copies(face_images: Tensor) -> None:
    """Where mirror images are sources, a flipped file of another source is the same picture."""
    sources = torch.cat([face_images, face_images[[5]].flip(3)])
    assert LatentPatch("pixels:4", components=8).fit(sources).bank.num_groups == 13
    bank = LatentPatch("pixels:4", components=8).fit(sources, mirrored=True).bank
    assert bank.shared_groups == {"5": ["5", "12"]}
    assert bank.groups.tolist() == [*(b // 2 for b in range(24)), 5, 5]
    assert bank.groups_of(torch.tensor([24, 10, -1, 25])).tolist() == [5, 5, -1, 5]


def test_a_chain_of_many_is_one_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-300, 300, (50, 4, 4, 8), generator=generator).to(torch.int16)
    keys = torch.cat([keys, keys[:20] + 3, keys[:5] - 3])
    expected = [*range(50), *range(20), *range(5)]
    for rows, elements, pairs in ((256, 1 << 23, 256), (7, 128 * 5, 3)):
        monkeypatch.setattr("latentpatch.bank.grouping._ROWS", rows)
        monkeypatch.setattr("latentpatch.bank.grouping._BLOCK_ELEMENTS", elements)
        monkeypatch.setattr("latentpatch.bank.grouping._PAIRS", pairs)
        for many in (0.0, 1.0):
            monkeypatch.setattr("latentpatch.bank.grouping._MANY", many)
            colors = keys.flatten(1, 2)[..., :3] / 600 + 0.5
            assert equal_sources(keys, Variants(), lambda b, colors=colors: colors[b]).tolist() == expected
    assert equal_sources(keys, Variants(), lambda b: b[:, None, None] / 9 + torch.eye(16, 3)).tolist() == [*range(75)]


def test_numbers_follow_first_appearance() -> None:
    assert renumbered(torch.tensor([7, 2, 7, 5, 2, 0])).tolist() == [0, 1, 0, 2, 1, 3]
    assert renumbered(torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_a_column_groups(face_images: Tensor) -> None:
    names = [f"n{i}" for i in range(12)]
    rows = {name: {"person": "abc"[i % 3] if i < 9 else ""} for i, name in enumerate(names)}
    bank = LatentPatch("pixels:4", components=8).fit(face_images, ids=names, attributes=rows, group_by="person").bank
    assert bank.group_numbers.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert bank.num_groups == 6
    for wrong in ("persons", ""):
        with refuses("group_by"):
            LatentPatch("pixels:4", components=8).fit(face_images, ids=names, attributes=rows, group_by=wrong)
    with refuses("group_by"):
        LatentPatch("pixels:4", components=8).fit(face_images, group_by="person")
    with refuses("groups", TypeError):
        LatentPatch("pixels:4", components=8).fit(face_images, groups="yes")  # type: ignore[arg-type]


def test_no_groups_on_demand(crowd: Path) -> None:
    model = LatentPatch("pixels:4", components=8).fit(crowd, size=64, groups=False)
    assert model.bank.num_groups == 60
    model.add(read_image(crowd / "0-face00.png")[None], ids=["again"])
    assert model.bank.num_groups == 61


# --- changes of a bank ---------------------------------------------------------------------------------


def test_they_travel_in_files_and_states(twelve: LatentPatch, tmp_path: Path) -> None:
    twelve.save(tmp_path / "model.safetensors")
    read, fresh = LatentPatch.load(tmp_path / "model.safetensors"), LatentPatch("pixels:4", components=8)
    fresh.load_state_dict(twelve.state_dict())
    for other in (read, fresh):
        assert other.bank.group_numbers.tolist() == twelve.bank.group_numbers.tolist()
        assert other.bank.grouping == Grouping(groups=True)
        assert other.bank.digest() == twelve.bank.digest()


def _rewritten(old: Path, new: Path, **changes: object) -> Path:
    """Write a model file whose record of the bank has some fields changed, or left out where None."""
    tensors = load_file(old)
    with safe_open(old, framework="np") as stored:
        metadata = stored.metadata()
    record = {**unpack(tensors["bank._extra_state"]), **changes}
    tensors["bank._extra_state"] = pack({name: value for name, value in record.items() if value is not None})
    save_file(tensors, new, metadata)
    return new


def test_older_files_have_no_groups(twelve: LatentPatch, tmp_path: Path) -> None:
    twelve.save(tmp_path / "new.safetensors")
    old = LatentPatch.load(
        _rewritten(tmp_path / "new.safetensors", tmp_path / "old.safetensors", grouping=None, groups=None)
    )
    assert old.bank.num_groups == 60
    assert old.bank.grouping == Grouping()
    plain = LatentPatch("pixels:4", components=8)
    plain.load_state_dict(old.state_dict())
    assert plain.bank.num_groups == 60
    assert old.bank.digest() != twelve.bank.digest()  # other pictures come from the same seeds


@pytest.mark.parametrize("numbers", [[0] * 59, [0, 2] + [1] * 58, [0.0] * 60, ["a"] * 60, 3])
def test_malformed_groups_are_refused(twelve: LatentPatch, tmp_path: Path, numbers: object) -> None:
    twelve.save(tmp_path / "new.safetensors")
    bad = _rewritten(tmp_path / "new.safetensors", tmp_path / "bad.safetensors", groups=numbers)
    with refuses_file(bad, "malformed model file"):
        LatentPatch.load(bad)


def test_adding_and_removing_find_them_anew(face_images: Tensor) -> None:
    model = LatentPatch("pixels:4", components=8).fit(face_images)
    model.add(face_images[[4, 7]], ids=["four", "seven"])
    assert model.bank.shared_groups == {"4": ["4", "four"], "7": ["7", "seven"]}
    assert model.bank.group_numbers.tolist() == [*range(12), 4, 7]
    digest = model.bank.digest()
    model.remove(["0", "4"])
    anew = LatentPatch("pixels:4", components=8).fit(
        torch.cat([face_images[[1, 2, 3, *range(5, 12)]], face_images[[4, 7]]]),
        ids=["1", "2", "3", *map(str, range(5, 12)), "four", "seven"],
    )
    assert model.bank.group_numbers.tolist() == anew.bank.group_numbers.tolist() == [*range(11), 5]
    assert model.bank.digest() == anew.bank.digest() != digest
    model.remove("7", refit=False)
    assert model.bank.num_groups == len(model.bank.sources) == 11


def test_choices_and_parts_keep_them(twelve: LatentPatch, in_torch: None) -> None:
    bank = twelve.bank
    positions = torch.tensor([1, 2, 13, 12, 25]).sort().values  # faces 1 and 2, then 0, 1 and 1
    part = twelve.subset(positions)
    assert part.bank.group_numbers.tolist() == [0, 1, 2, 0, 0]
    assert part.context().num_sources == twelve.context(positions).num_sources == 3
    assert bank.prepared(positions).groups.tolist() == [0, 1, 2, 0, 0]
    chosen = torch.arange(12, 60)
    assert torch.equal(
        twelve.generate(4, seed=1, where=chosen).index, chosen[twelve.subset(chosen).generate(4, seed=1).index]
    )
    sharded = ShardedBank(bank, ALONE)
    assert torch.equal(sharded.groups, bank.groups)
    assert sharded.prepared().groups.tolist() == list(range(60))  # samplers that search shards have no cap


# --- what counts them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["balanced", "faithful", "few"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_person_keeps_within_the_cap(crowd: Path, in_torch: None, preset: str, mirrored: bool) -> None:
    model = LatentPatch("pixels:4", components=8).fit(crowd, size=64, mirrored=mirrored)
    result = model.generate(12, seed=0, settings=PRESETS[preset])
    cap = result.settings.max_share
    assert cap is not None
    shares = largest_shares(model, result.index)
    assert float(shares.max()) <= cap
    reported = torch.tensor([next(iter(shares.values())) for shares in result.shares()])
    assert torch.allclose(shares, reported)
    assert set(result.shares()[0]) <= set(model.bank.group_names)
    alone = LatentPatch("pixels:4", components=8).fit(crowd, size=64, mirrored=mirrored, groups=False)
    uncounted = largest_shares(alone, alone.generate(12, seed=0, settings=PRESETS[preset]).index)
    assert float(uncounted.max()) > cap


def test_copies_are_found_among_groups(twelve: LatentPatch, faces: Path) -> None:
    again = torch.stack([read_image(_again(path)) for path in sorted(faces.iterdir())])
    figures = copying(twelve, again)
    assert [person(twelve.bank.sources[number]) for number in figures.nearest.tolist()] == [
        f"face{number:02d}" for number in range(12)
    ]
    assert float(figures.relative.max()) < 0.3
    assert float(figures.largest_share.min()) > 0.7
    assert int(figures.index.max()) < 12
    own = copying_of_sources(twelve)
    assert float(own.relative.min()) > 0.3
    assert int(own.index.max()) == 11


def test_one_group_has_none_to_be_compared_with(face_images: Tensor) -> None:
    model = LatentPatch("pixels:4", components=4).fit(face_images[[2, 2, 2]])
    assert model.bank.num_groups == 1
    with refuses("sources"):
        copying(model, face_images[:1])
    with refuses("sources"):
        copying_of_sources(model)
    found = explain(model, face_images[2])
    assert found.group_shares() == {"0": 1.0}


def test_samplers_agree_with_the_reference(twelve: LatentPatch, in_torch: None) -> None:
    """Group numbers need not be adjacent: files of one person are twelve sources apart."""
    prepared = twelve.bank.prepared()
    keys, numbers = twelve.bank.keys.long().numpy(), twelve.bank.groups.numpy()
    settings = ResynthesisSettings(donors=0.6, sweeps=1)
    noise = noise_from_seeds([0, 1], SAMPLERS.named("resynthesis").noise_dim(settings, twelve.context()))
    index = resynthesis(prepared, noise, settings)
    resolved = settings.in_cells(twelve.bank.grid).resolved(12, False)
    for picture, uniforms in zip(index, noise, strict=True):
        chosen = {name: getattr(resolved, name) for name in ("max_share", "neighbors", "donors", "sweeps")}
        expected = reference.resynthesis(
            keys,
            uniforms.tolist(),
            patch_size=resolved.patch_size,
            stride=resolved.stride,
            start_candidates=resolved.start_candidates,
            symmetric=resolved.symmetric,
            switch_cost=resolved.switch_cost,
            reuse_cost=resolved.reuse_cost,
            best_of=resolved.best_of,
            pictures=numbers,
            **chosen,
        )
        assert picture.tolist() == expected.tolist()
    traced = SAMPLERS.named("resynthesis").traceable(prepared, resolved, False)
    assert torch.equal(traced(noise), index)


def _again(path: Path) -> bytes:
    data = io.BytesIO()
    resaved(path, 80).save(data, "PNG")
    return data.getvalue()


def test_commands(crowd: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> int:
        return main([str(argument) for argument in arguments])

    model = tmp_path / "model.safetensors"
    pixels = ("--autoencoder", "pixels:4", "--size", 64)
    assert run("fit", crowd, *pixels, "-o", model) == 0
    said = capsys.readouterr().err
    assert "60 sources count as 12" in said
    assert "0-face03: with 1-face03, 2-face03, 3-face03, 4-face03" in said
    assert run("inspect", model) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["groups"]["0-face03"] == [f"{number}-face03" for number in range(5)]
    assert report["grouping"] == {"groups": True, "group_by": None}
    assert run("audit", model, faces, "-o", tmp_path / "audit", "-q") == 3
    audit = json.loads((tmp_path / "audit/audit.json").read_text(encoding="utf-8"))
    flagged = {failure["file"] for failure in audit["failures"] if failure["figure"] == "relative"}
    assert flagged == {f"face{number:02d}.png" for number in range(12)}
    assert (audit["sources"], audit["groups"]) == (60, 12)
    assert run("explain", crowd / "3-face07.png", model, "-o", tmp_path / "why") == 0
    assert "1 source, the largest 0-face07 with 100%" in capsys.readouterr().err
    why = json.loads((tmp_path / "why/explanation.json").read_text(encoding="utf-8"))
    assert why["groups"] == {"0-face07": 1.0}
    assert {part["group"] for part in why["sources"]} == {"0-face07"}

    table = tmp_path / "people.csv"
    names = sorted(path.stem for path in crowd.iterdir())
    table.write_text("id,person\n" + "".join(f"{name},{person(name)[:5]}\n" for name in names), encoding="utf-8")
    other = tmp_path / "other.safetensors"
    choice = ("--attributes", table, "--group-by", "person", "--no-groups")
    assert run("fit", crowd, *pixels, *choice, "-o", other) == 0
    assert "60 sources count as 2" in capsys.readouterr().err
    assert LatentPatch.load(other).bank.grouping == Grouping(groups=False, group_by="person")
    assert run("fit", crowd, *pixels, "--no-groups", "-o", other) == 0
    assert "count as" not in capsys.readouterr().err
    assert run("fit", crowd, *pixels, "--group-by", "person", "-o", other) != 0
    assert "--group-by needs --attributes" in capsys.readouterr().err
    assert run("fit", crowd, *pixels, "--attributes", table, "--group-by", "name", "-o", other) == 1
    assert "--group-by must be an attribute of the sources (id, person)" in capsys.readouterr().err
    assert run("generate", model, "--no-groups", "-o", tmp_path / "out") != 0
    assert "is fitted already" in capsys.readouterr().err
