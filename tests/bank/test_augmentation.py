"""Variants of sources: mirror images and moved copies, which count as the source they are of."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch import LatentPatch, explain
from latentpatch.bank.augmentation import Variants
from latentpatch.bank.sharded import ShardedBank
from latentpatch.cli.entry import main
from latentpatch.errors import FileError
from latentpatch.io.images import write_image
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.resynthesis import resynthesis, resynthesis_steps
from latentpatch.methods.latent.search.prepared import Groups, PreparedSources
from latentpatch.methods.latent.settings import DiffusionSettings, RasterSettings, ResynthesisSettings
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.provenance.copying import copying, copying_of_sources
from latentpatch.provenance.unlearning import unlearned, verify_unlearning
from latentpatch.runs.processes import ALONE

MOVES = ((0, 0), (-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


def fitted(pictures: Tensor, **options: object) -> LatentPatch:
    return LatentPatch("pixels:4", components=8).fit(pictures, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def varied(face_images: Tensor) -> LatentPatch:
    """Twelve faces, mirrored and moved: 18 variants each."""
    return fitted(face_images, mirrored=True, offsets=1)


def test_ids_and_groups(varied):
    bank = varied.bank
    assert bank.sources == [str(i) for i in range(12)]
    assert len(bank) == 12 * 18
    assert bank.ids[18:22] == ["1", "1~-1+0", "1~+0-1", "1~+0+1"]
    assert bank.ids[27:29] == ["1~mirrored", "1~mirrored-1+0"]
    assert bank.groups.tolist() == [b // 18 for b in range(len(bank))]
    assert Variants().ids(["a"]) == ["a"]
    assert Variants(mirrored=True).ids(["a"]) == ["a", "a~mirrored"]
    assert Variants(offsets=1).moves == MOVES
    assert len(Variants(True, 2).ids(["a"])) == 50


def test_mirror_images_are_those_of_the_flipped_pictures(face_images):
    bank = fitted(face_images, mirrored=True).bank
    assert torch.equal(bank.latents[0::2], fitted(face_images).bank.latents)
    assert torch.equal(bank.latents[1::2], fitted(face_images.flip(3)).bank.latents)


def test_copies_are_moved_and_their_edges_repeated(face_images):
    plain, bank = fitted(face_images).bank.latents, fitted(face_images, offsets=1).bank
    moved = bank.latents.unflatten(0, (12, 9))
    for number, (down, right) in enumerate(MOVES):
        for row, column in ((5, 7), (0, 0), (15, 15), (0, 15)):
            source = plain[:, min(max(row - down, 0), 15), min(max(column - right, 0), 15)]
            assert torch.equal(moved[:, number, row, column], source)


def test_without_variants_nothing_changes(face_images):
    one, other = fitted(face_images), fitted(face_images, mirrored=False, offsets=0, offset_cost=3)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_moved_picture_is_put_together_from_moved_copies(face_images):
    """The reference is a source moved by a cell: without cost its copy is found, and with a high one no copy is."""
    moved = torch.roll(face_images[3], (4, -4), (1, 2))
    settings = ResynthesisSettings(max_share=1.0, donors=1.0, neighbors=1)
    cheap, dear = (fitted(face_images, offsets=1, offset_cost=cost) for cost in (0, 10))
    index = cheap.generate(settings=settings, reference=moved).index
    wanted = cheap.bank.positions(["3~+1-1"])[0]
    assert torch.equal(cheap.bank.keys_at(index)[0, 4:-4, 4:-4], cheap.bank.keys[wanted, 4:-4, 4:-4])
    assert float((index == wanted).float().mean()) > 0.6  # the ground is the same in others
    ways = Variants(offsets=1).squared_offsets().repeat(12)
    assert not ways[dear.generate(settings=settings, reference=moved).index].any()
    between = fitted(face_images, offsets=1).generate(8, settings=ResynthesisSettings())
    assert 0 < float((ways[between.index] > 0).float().mean()) < 8 / 9


def a_varied_bank(count: int = 8, cost: float = 0.1, longest: int = 400) -> PreparedSources:
    """Unlike pictures in nine variants that are nearly alike."""
    chance = torch.Generator().manual_seed(count)
    pictures = torch.randint(-longest, longest + 1, (count, 1, 10, 9, 5), generator=chance)
    keys = (pictures + torch.randint(-40, 41, (count, 9, 10, 9, 5), generator=chance)).flatten(0, 1).short()
    groups = Groups(torch.arange(9 * count) // 9, Variants(offsets=1).squared_offsets().repeat(count), cost)
    return PreparedSources(keys, groups=groups)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_no_picture_gives_more_than_its_share_by_its_variants(name):
    if name == "numba":
        pytest.importorskip("numba", reason="Numba is not installed")
    sources = a_varied_bank()
    settings = ResynthesisSettings(max_share=0.25, neighbors=4, start_candidates=2, allow_start_as_donor=False)
    noise = noise_from_seeds(range(8), resynthesis_steps((10, 9), settings))
    index = resynthesis(sources, noise, settings, backend=name)
    pictures = torch.nn.functional.one_hot(index.flatten(1) // 9, 8).sum(1)
    assert int(pictures.max()) <= 0.25 * 90
    assert int((pictures == 0).sum(1).min()) >= 1  # the one it was started with
    # Alone, no variant comes near the limit: without groups a picture would give more.
    free = resynthesis(sources.keys, noise, settings, backend=name)
    assert int(torch.nn.functional.one_hot(free.flatten(1) // 9, 8).sum(1).max()) > 0.25 * 90
    start = (noise[:, :1] * 8).long()
    one = ResynthesisSettings(start_candidates=1, allow_start_as_donor=False)
    index = resynthesis(sources, noise[:, : resynthesis_steps((10, 9), one)], one, backend=name)
    assert not (index.flatten(1) // 9 == start).any()


@pytest.mark.parametrize("longest", [30, 900])
@pytest.mark.parametrize(
    "settings",
    [
        ResynthesisSettings(),
        ResynthesisSettings(
            3, 2, max_share=0.6, switch_cost=0.5, reuse_cost=0.01, allow_start_as_donor=True, best_of=2
        ),
        RasterSettings(4),
        RasterSettings(4, 2, 3, 2),
    ],
    ids=["resynthesis", "with costs", "raster", "scales"],
)
def test_numba_finds_what_torch_finds(settings, longest):
    pytest.importorskip("numba", reason="Numba is not installed")
    sample, steps = (raster, raster_steps) if isinstance(settings, RasterSettings) else (resynthesis, resynthesis_steps)
    sources = a_varied_bank(longest=longest)
    noise = noise_from_seeds(range(4), steps((10, 9), settings, False))
    found = [sample(sources, noise, settings, backend=name) for name in ("torch", "numba")]
    assert torch.equal(*found)
    without = sample(a_varied_bank(longest=longest, cost=0), noise, settings)
    assert not torch.equal(found[0], without)


def test_groups_of_one_change_nothing():
    keys = a_varied_bank().keys
    alone = Groups(torch.arange(len(keys)), torch.zeros(len(keys), dtype=torch.int64), 1.0)
    settings = ResynthesisSettings(max_share=0.1, start_candidates=2, reuse_cost=0.1)
    noise = noise_from_seeds(range(4), resynthesis_steps((10, 9), settings))
    assert torch.equal(
        resynthesis(PreparedSources(keys, groups=alone), noise, settings), resynthesis(keys, noise, settings)
    )


@pytest.mark.parametrize("settings", [ResynthesisSettings(), DiffusionSettings(levels=3), RasterSettings()])
def test_shares_and_copying_count_variants_as_their_source(varied, settings):
    made = varied.generate(3, settings=settings)
    for image, shares in enumerate(made.shares()):
        numbers, counts = (made.index[image] // 18).unique(return_counts=True)
        assert shares == pytest.approx({str(int(b)): int(n) / 256 for b, n in zip(numbers, counts, strict=True)})
    figures = copying(varied, made)
    largest = [max(shares.values()) for shares in made.shares()]
    assert figures.largest_share.tolist() == pytest.approx(largest)
    assert figures.largest_region.tolist() == pytest.approx([row["largest_region"] for row in made.records()], abs=1e-5)
    parts = explain(varied, made).sources
    assert {part.id for part in parts} == {varied.bank.ids[b] for b in made.index[0].unique()}
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_a_moved_copy_of_a_source_is_known_as_that_source(varied, face_images):
    figures = copying(varied, torch.stack([face_images[5], face_images[7].flip(2)]))
    assert figures.nearest[0] == 5
    assert float(figures.relative[0]) < 0.01  # beside other pictures, not beside its own variants
    assert figures.largest_share[0] == 1
    others = copying_of_sources(varied)
    assert not (others.index == torch.arange(12)[:, None, None]).any()
    assert float(others.relative.min()) > 0.1


def test_where_takes_all_variants_of_a_source(face_images):
    attributes = {str(i): {"odd": "yes" if i % 2 else "no"} for i in range(12)}
    model = fitted(face_images, attributes=attributes, mirrored=True)
    made = model.generate(2, where="odd=yes")
    assert set(made.index.flatten().tolist()) <= {b for b in range(24) if b // 2 % 2}
    assert set(made.index.flatten().tolist()) & set(range(3, 24, 4))  # mirror images among them
    alone = fitted(face_images[1::2], mirrored=True)
    alone.pca, alone.bank.key_step, alone.bank.keys = (
        model.pca,
        model.bank.key_step,
        model.bank.keys[2:][torch.tensor([0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21])],
    )
    index = alone.generate(2).index
    assert torch.equal(made.index, (2 * (index // 2) + 1) * 2 + index % 2)


def test_adding_and_removing_take_all_variants(face_images):
    names = [f"f{i}" for i in range(12)]
    model = fitted(face_images[:10], ids=names[:10], mirrored=True, offsets=1)
    model.add(face_images[10:], ids=names[10:])
    assert model.bank.sources == names
    assert len(model.bank) == 12 * 18
    with refuses("source") as caught:
        model.remove("f3~mirrored+1-1")
    assert "'f3'" in str(caught.value)
    with refuses("ids"):
        model.remove(names)
    model.remove(["f3", "f11"])
    kept = [i for i in range(12) if i not in (3, 11)]
    anew = fitted(face_images[kept], ids=[names[i] for i in kept], mirrored=True, offsets=1)
    assert model.bank.ids == anew.bank.ids
    for name, value in model.state_dict().items():
        assert torch.equal(value, anew.state_dict()[name]), name
    assert model.bank.digest() == anew.bank.digest()


def test_a_removal_is_proved(varied, face_images, faces, tmp_path):
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    model = LatentPatch("pixels:4", components=8).fit(faces, size=64, mirrored=True, offsets=1)
    model.save(before)
    unlearned(before, ["face04"], keep_similar=True).save(after)  # face03 is much alike
    left = [path for path in sorted(faces.iterdir()) if path.stem != "face04"]
    read = LatentPatch.load(after)
    checks = verify_unlearning(LatentPatch.load(before), read, after, ["face04"], range(24), left)
    assert [check.name for check in checks if not check.passed] == []
    assert checks[0].facts == {"sources_before": 12, "sources_after": 11}
    assert checks[-1].facts["pictures_before"] > 0
    one_left = LatentPatch.load(before)
    one_left.bank.ids[4 * 18 + 1] = "elsewhere"  # a variant that removal overlooks
    assert not verify_unlearning(model, one_left, before, ["face04"], range(8))[0].passed


def test_they_travel_in_files_and_states(varied, tmp_path):
    path = tmp_path / "model.safetensors"
    varied.save(path)
    read = LatentPatch.load(path)
    fresh = LatentPatch("pixels:4", components=8)
    fresh.load_state_dict(varied.state_dict())
    for model in (read, fresh):
        assert model.bank.variants == Variants(True, 1)
        assert model.bank.sources == varied.bank.sources
        assert torch.equal(model.generate(2).index, varied.generate(2).index)


def test_the_cost_is_part_of_the_digest(face_images):
    digests = {fitted(face_images[:3], offsets=1, offset_cost=cost).bank.digest() for cost in (0, 0.1)}
    assert len(digests) == 2


def test_files_with_other_variants_than_they_say_are_refused(varied, tmp_path):
    path = tmp_path / "model.safetensors"
    model = fitted(torch.rand(3, 3, 64, 64), mirrored=True)
    model.bank.ids[3] = "another"
    model.save(path)
    with pytest.raises(FileError, match="ids must be those of sources with 2 variants each"):
        LatentPatch.load(path)


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"mirrored": 1}, TypeError, "mirrored"),
        ({"offsets": -1}, ValueError, "offsets"),
        ({"offsets": 1.5}, TypeError, "offsets"),
        ({"offsets": 5}, ValueError, "offsets"),
        ({"offsets": 1, "offset_cost": -0.1}, ValueError, "offset_cost"),
        ({"offsets": 1, "offset_cost": float("nan")}, ValueError, "offset_cost"),
        ({"mirrored": True, "ids": ["a", "a~mirrored"]}, ValueError, "ids"),
    ],
)
def test_bad_values_are_named(options, error, name):
    with refuses(name, error):
        fitted(torch.rand(2, 3, 64, 64), **options)


def test_offsets_beyond_the_grid_are_refused():
    with refuses("offsets"):
        fitted(torch.rand(2, 3, 8, 64), offsets=2)


def test_a_sharded_bank_takes_none(varied):
    with refuses("bank"):
        ShardedBank(varied.bank, ALONE)


def test_the_command_line(faces, tmp_path, capsys):
    out, model = tmp_path / "out", tmp_path / "model.safetensors"
    network = ["--autoencoder", "pixels:4", "--size", "64"]
    varied = ["--mirrored", "--offsets", "1", "--offset-cost", "0.2"]
    assert main(["fit", str(faces), *network, *varied, "--json", "-q", "-o", str(model)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sources"] == len(report["ids"]) == 12
    assert report["variants"] == {"mirrored": True, "offsets": 1, "offset_cost": 0.2}
    assert main(["generate", str(faces), *network, *varied, "-n", "2", "-q", "-o", str(out)]) == 0
    record = json.loads((out / "generation.json").read_text())
    assert len(record["ids"]) == 12 * 18
    assert set(record["images"][0]["shares"]) <= {f"face{i:02d}" for i in range(12)}
    again = LatentPatch.load(model).generate(2)
    assert again.index.tolist() == [row["index"] for row in record["images"]]
    for command in (["generate", str(model), "--offsets", "1"], ["generate", str(faces), "--offset-cost", "1"]):
        assert main([*command, "-o", str(out)]) != 0
        assert "--offset" in capsys.readouterr().err


def test_audits_count_variants_as_their_source(faces, face_images, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_image(folder / "other.png", face_images[2].flip(2))
    write_image(folder / "source.png", face_images[2])
    command = ["audit", str(faces), str(folder), "--autoencoder", "pixels:4", "--size", "64", "--offsets", "1"]
    main([*command, "--json", "-q", "-o", str(tmp_path / "out")])
    report = json.loads(capsys.readouterr().out)
    assert report["sources"] == 12
    found = {row["file"]: row for row in report["images"]}
    assert found["source.png"]["nearest"] == "face02"
    assert found["source.png"]["largest_share"] == 1
    assert report["verdict"] == "fail"


def test_a_file_named_as_a_copy_is_refused_before_it_is_encoded(face_images: Tensor) -> None:
    """Defect P26: the names clashed after all was encoded, and neither picture was named."""
    names = ["anna", "anna~mirrored", *map(str, range(len(face_images) - 2))]
    with refuses("ids") as caught:
        LatentPatch("pixels:4").fit(face_images, ids=names, mirrored=True)
    assert caught.value.value == "anna~mirrored"
    assert "'anna'" in caught.value.constraint
    assert len(LatentPatch("pixels:4").fit(face_images, ids=names).bank) == len(face_images)
