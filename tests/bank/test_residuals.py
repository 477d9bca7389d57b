"""What an autoencoder loses of the sources, kept and put back."""

from __future__ import annotations

from copy import deepcopy
from math import cos, floor, pi
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import refuses
from torch import Tensor

from latentpatch import FileError, LatentPatch, RasterSettings
from latentpatch.bank import format as modelfile
from latentpatch.bank import residuals
from latentpatch.bank.residuals import (
    add_residuals,
    can_have_residuals,
    cell_side,
    depth_of,
    encode_residuals,
    has_all_colors,
)
from latentpatch.bank.sharded import ShardedBank
from latentpatch.cli.entry import main
from latentpatch.export.graphs import graphs
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.provenance.unlearning import verify_unlearning
from latentpatch.runs.processes import ALONE


@pytest.fixture(scope="module")
def detailed(face_images: Tensor) -> LatentPatch:
    """Twelve drawn faces of 4x4 cells, with details."""
    return LatentPatch("embedded", components=8).fit(face_images)


def gatherer(table: Tensor):
    """From ``(B, h, w, d)``."""
    quarters = table.unflatten(3, (4, -1))
    rows, columns = (torch.arange(side) for side in table.shape[1:3])

    def gather(index: Tensor) -> Tensor:
        found = quarters[index.clamp(min=0), rows[:, None, None], columns[None, :, None], torch.arange(4)]
        return found * (index >= 0)[..., None]

    return gather


def pixel_by_pixel(index: Tensor, planes: Tensor, side: int) -> Tensor:
    """The same in plain loops, from what the module's text says; planes are ``(B, c, H, W)`` in 1/255."""
    result = torch.zeros(len(index), *planes.shape[1:])
    height, width = index.shape[1:]
    for n in range(len(index)):
        for y in range(planes.shape[2]):
            for x in range(planes.shape[3]):
                down, right = (y + 0.5) / side - 0.5, (x + 0.5) / side - 0.5  # in cells, from the first one's centre
                total = torch.zeros(planes.shape[1])
                for row in (floor(down), floor(down) + 1):
                    for column in (floor(right), floor(right) + 1):
                        weight = (0.5 + 0.5 * cos(pi * (down - row))) * (0.5 + 0.5 * cos(pi * (right - column)))
                        b = int(index[n, min(max(row, 0), height - 1), min(max(column, 0), width - 1)])
                        if b >= 0:
                            total += weight * planes[b, :, y, x]
                result[n, :, y, x] = total / 255
    return result


def planes_of(table: Tensor, start: int, channels: int, rows: int) -> Tensor:
    """Values of cells ``(B, h, w, d)``, from a place in each quarter on, where they belong: ``(B, c, H, W)``."""
    count, height, width, depth = table.shape
    planes = torch.zeros(count, channels, height * 2 * rows, width * 2 * rows)
    for channel in range(channels):
        for y in range(planes.shape[2]):
            for x in range(planes.shape[3]):
                quarter = 2 * (y // rows % 2) + x // rows % 2
                place = quarter * depth // 4 + start + (channel * rows + y % rows) * rows + x % rows
                planes[:, channel, y, x] = table[:, y // rows // 2, x // rows // 2, place].float()
    return planes


@pytest.mark.parametrize("side", [4, 6])
def test_details_are_those_of_the_sources_around_each_pixel(side: int) -> None:
    chance = torch.Generator().manual_seed(side)
    pictures = torch.rand(5, 3, 3 * side, 4 * side, generator=chance)
    table = encode_residuals(pictures, torch.full_like(pictures, 0.5), side, True)
    assert table.shape == (5, 3, 4, 3 * side**2)
    assert table.dtype == torch.int8
    # One source alone: its plane of details.
    index = torch.arange(5)[:, None, None].expand(-1, 3, 4)
    grey = torch.full_like(pictures, 0.5)
    planes = ((add_residuals(grey, index, gatherer(table)) - 0.5) * 255).round()
    assert planes.abs().max() > 60
    toned = encode_residuals(pictures, pictures + torch.tensor([0.1, -0.2, 0.3])[:, None, None], side, True)
    assert not toned.any(), "tone is the decoder's"
    mixed = torch.randint(-1, 5, (2, 3, 4), generator=chance)
    images = torch.rand(2, 3, 3 * side, 4 * side, generator=chance)
    expected = (images + pixel_by_pixel(mixed, planes, side)).clamp(0, 1)
    torch.testing.assert_close(add_residuals(images, mixed, gatherer(table)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [8, 12])
def test_luma_is_at_full_and_chroma_at_half_resolution(side: int) -> None:
    chance = torch.Generator().manual_seed(side)
    pictures = 0.2 + 0.6 * torch.rand(5, 3, 3 * side, 4 * side, generator=chance)
    grey, half = torch.full_like(pictures, 0.5), side // 2
    table = encode_residuals(pictures, grey, side)
    assert table.shape == (5, 3, 4, 3 * side**2 // 2)
    luma, chroma = planes_of(table, 0, 1, half), planes_of(table, half**2, 2, half // 2)
    red, green, blue = (pictures - grey).unbind(1)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    halved = F.avg_pool2d(torch.stack([red - bright, blue - bright], 1), 2)
    for planes, values, rows in ((luma, bright[:, None], half), (chroma, halved, half // 2)):
        means = F.interpolate(F.avg_pool2d(values, rows), scale_factor=rows, mode="bilinear")
        assert planes.abs().max() > 30
        assert (planes / 255 - (values - means)).abs().max() < 0.51 / 255
    mixed = torch.randint(-1, 5, (2, 3, 4), generator=chance)
    images = torch.rand(2, 3, 3 * side, 4 * side, generator=chance)
    red, blue = F.interpolate(pixel_by_pixel(mixed, chroma, half), scale_factor=2).unbind(1)
    colors = torch.stack([red, -(0.299 * red + 0.114 * blue) / 0.587, blue], 1)
    expected = (images + pixel_by_pixel(mixed, luma, side) + colors).clamp(0, 1)
    torch.testing.assert_close(add_residuals(images, mixed, gatherer(table)), expected, atol=1e-5, rtol=0)
    learning = images.clone().requires_grad_(True)  # takes another way
    torch.testing.assert_close(add_residuals(learning, mixed, gatherer(table)), expected, atol=1e-5, rtol=0)


def test_one_compiled_program_takes_cells_of_all_sizes() -> None:
    """The second of two compiled models was refused: how many values its cells had was a symbol to the compiler."""
    program = torch.compile(add_residuals, backend="eager", fullgraph=True, dynamic=True)
    for side, has_all in ((16, False), (12, False), (8, True)):
        table = torch.randint(-9, 9, (3, 2, 2, depth_of(side, has_all))).to(torch.int8)
        images, index = torch.rand(2, 3, 2 * side, 2 * side), torch.randint(0, 3, (2, 2, 2))
        expected = add_residuals(images, index, gatherer(table))
        torch.testing.assert_close(program(images, index, gatherer(table)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_a_compiled_loop_adds_the_same_bits(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    if not residuals._is_loop_exact(side // 2):
        pytest.skip("torch.addcmul rounds twice on this processor")
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(-127, 128, (5, 3, 4, depth_of(side)), generator=generator, dtype=torch.int8)
    index = torch.randint(-1, 5, (3, 3, 4), generator=generator)
    images = torch.rand(3, 3, 3 * side, 4 * side, generator=generator)
    gains = [torch.rand(3, 3, 4, 4, generator=generator) for _ in range(4)]
    made = []
    for has_numba in (True, False):
        monkeypatch.setattr(residuals, "has_numba", lambda answer=has_numba: answer)
        one = add_residuals(images, index, gatherer(table), gains=gains)
        last = add_residuals(
            images[2:].permute(0, 2, 3, 1).contiguous().movedim(-1, 1), index, gatherer(table), slice(2, 3), gains
        )
        assert torch.equal(one[2:], last)
        made.append(one)
    assert torch.equal(*made)
    assert not torch.equal(made[0], images)


def test_the_number_of_values_tells_their_kind() -> None:
    sides = [side for side in range(1, 40) if can_have_residuals(side)]
    for choice in (False, True):
        assert [cell_side(depth_of(side, choice)) for side in sides] == sides
    assert [side for side in sides if not has_all_colors(depth_of(side))] == [8, 12, 16, 20, 24, 28, 32, 36]
    assert {depth for depth in range(1, 2000) if cell_side(depth)} == {
        depth_of(side, choice) for side in range(4, 40, 2) for choice in (False, True) if depth_of(side, choice) < 2000
    }


def test_banks_keep_the_kind_that_they_have(detailed: LatentPatch, face_images: Tensor, tmp_path: Path) -> None:
    """Files of before, and pictures made of them, stay what they are: color at full resolution."""
    full = LatentPatch("embedded", components=8).fit(face_images, residuals="full")
    assert torch.equal(full.bank.residuals, LatentPatch("embedded").fit(face_images, details=True).bank.residuals)
    assert full.bank.residuals.shape[3] == 2 * detailed.bank.residuals.shape[3]
    for model, choice, record in ((full, "full", {}), (detailed, True, {"chroma": "half"})):
        assert model.bank.residual_choice == choice
        assert record.items() == {(k, v) for k, v in model.bank.fit_record().items() if k == "chroma"}
        model.save(tmp_path / "m.safetensors")
        other = LatentPatch.load(tmp_path / "m.safetensors")
        other.remove("11")
        other.save(tmp_path / "other.safetensors")
        checks = verify_unlearning(model, other, tmp_path / "other.safetensors", ["11"], [0])
        assert all(check.passed for check in checks)
        other.add(face_images[11:], ids=["11"])
        assert torch.equal(other.bank.residuals, model.bank.residuals)
    with refuses("residuals", TypeError):
        full.fit(face_images, residuals="half")


def test_residuals_are_added_where_latents_are_their_sources(detailed: LatentPatch) -> None:
    bank, index = detailed.bank, torch.full((1, 4, 4), 2)
    index[:, :, 2:] = 7
    own = detailed.latents_at(index, "gather")
    alone, upright, level, across = bank.residual_gains(index, own, detailed.pca)
    assert float(alone.min()) > 0.999
    assert torch.equal(upright, alone)
    # At the joint, the other source's residual counts by the distance of the two sources' latents there.
    reduced = bank.keys.double() * bank.key_step.double()
    squares = (reduced[2, :, 1] - reduced[7, :, 1]).square().sum(1)
    expected = torch.exp(-((squares / (0.36 * detailed.pca.explained_variance.double().sum())) ** 2)).float()
    torch.testing.assert_close(level[0, :, 1, 1], expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(level[0, :, 1, 3], expected, atol=5e-3, rtol=0)
    assert float(level[0, :, 1, 0].min()) > 0.999
    assert 0.1 < float(expected.min()) < float(expected.max()) < 0.9
    torch.testing.assert_close(across[0, 1:, 1, 1], expected[1:], atol=5e-3, rtol=0)
    foreign = detailed.latents_at(torch.full((1, 4, 4), 5), "gather") * 3
    plain = detailed.decode_latents(foreign)
    torch.testing.assert_close(detailed.add_residuals(plain, index, foreign), plain, atol=1e-2, rtol=0)
    same = LatentPatch("embedded", components=8).fit(torch.full((3, 3, 64, 64), 0.5), groups=False)
    assert bool(same.generate(2).images.isfinite().all())


def test_cells_that_cannot_be_halved_have_none() -> None:
    assert [side for side in range(1, 18) if can_have_residuals(side)] == [4, 6, 8, 10, 12, 14, 16]


def test_sources_come_back_nearer_to_what_they_were(detailed: LatentPatch, face_images: Tensor) -> None:
    assert detailed.bank.residuals.shape == (12, 4, 4, 384)
    assert detailed.default_decoding(detailed.settings) == "detail"
    assert detailed.default_decoding(RasterSettings()) == "gather", "the paper has none"
    known = torch.stack([detailed.source_picture(b) for b in range(12)])
    errors = [(each - face_images).square().mean() for each in (known, detailed.reconstruct(face_images))]
    assert errors[0] < errors[1] / 2


def test_pictures_are_alike_in_any_batch_and_differ_from_those_without(detailed: LatentPatch) -> None:
    made, plain = detailed.generate(5), detailed.generate(5, decoding="blend")
    assert torch.equal(made.index, plain.index)
    assert not torch.equal(made.images, plain.images)
    for seed in range(5):
        assert torch.equal(detailed.generate(1, seed=seed).images[0], made.images[seed])
    noise = torch.rand(3, detailed.steps)
    assert torch.equal(detailed(noise), detailed.decode(detailed.search(noise), "detail"))
    learning = deepcopy(detailed)
    learning.autoencoder.requires_grad_(True)
    images = learning(noise)
    torch.testing.assert_close(images, detailed(noise), atol=1e-6, rtol=0)
    images.mean().backward()
    assert all(bool(weight.grad.any()) for weight in learning.autoencoder.decoder.parameters())
    compiled = torch.compile(detailed, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(noise), detailed(noise), atol=1e-6, rtol=0)


def test_what_was_fitted_without_them_has_none(face_images: Tensor, detailed: LatentPatch) -> None:
    bare = LatentPatch("embedded", components=8).fit(face_images, residuals=False)
    assert "bank.details" not in bare.state_dict()
    assert bare.bank.digest() != detailed.bank.digest()
    assert torch.equal(bare.generate(2).images, detailed.generate(2, decoding="blend").images)
    with refuses("decoding"):
        bare.generate(1, decoding="detail")
    with refuses("residuals", TypeError):
        bare.fit(face_images, residuals=1)  # type: ignore[arg-type]
    with refuses("residuals"):
        bare.fit(face_images, residuals=True, details=True)
    # A state without them takes the place of one with them.
    other = LatentPatch("embedded", components=8).fit(face_images)
    other.load_state_dict(bare.state_dict())
    assert not other.bank.has_residuals
    assert not LatentPatch("pixels:4").fit(face_images).bank.has_residuals, "pixels lose nothing"


def test_the_former_name_stays(face_images: Tensor, detailed: LatentPatch) -> None:
    assert detailed.bank.details is detailed.bank.residuals
    assert not LatentPatch("embedded").fit(face_images[:2], details=False).bank.has_residuals
    assert "bank.details" in detailed.state_dict()


def test_files_hold_them_read_or_mapped(
    detailed: LatentPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, face_images: Tensor
) -> None:
    detailed.save(tmp_path / "a.safetensors")
    expected = detailed.generate(3).images
    assert torch.equal(LatentPatch.load(tmp_path / "a.safetensors").generate(3).images, expected)
    monkeypatch.setattr(modelfile, "MAPPED_FROM", 0)
    mapped = LatentPatch.load(tmp_path / "a.safetensors").to("cpu")
    assert mapped.bank.mapped
    assert torch.equal(mapped.generate(3).images, expected)
    mapped.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    on_disk = LatentPatch("embedded", components=8).fit(face_images, scratch=tmp_path)
    assert torch.equal(on_disk.generate(3).images, expected)


@pytest.mark.parametrize("shape", [(12, 4, 4, 24), (11, 4, 4, 384), (12, 4, 4, 386)])
def test_malformed_files_are_refused(detailed: LatentPatch, tmp_path: Path, shape: tuple[int, ...]) -> None:
    held = detailed.bank.residuals
    detailed.bank.residuals = torch.zeros(shape, dtype=torch.int8)
    try:
        detailed.save(tmp_path / "odd.safetensors")
    finally:
        detailed.bank.residuals = held
    with pytest.raises(FileError, match=r"malformed model file: .*details"):
        LatentPatch.load(tmp_path / "odd.safetensors")


def test_sources_come_and_go_with_them(face_images: Tensor) -> None:
    model = LatentPatch("embedded", components=8).fit(face_images[:10], ids=[f"a{i}" for i in range(10)])
    model.add(face_images[10:], ids=["b0", "b1"])
    assert torch.equal(model.bank.residuals, LatentPatch("embedded").fit(face_images).bank.residuals)
    before = LatentPatch("embedded", components=8).fit(face_images)
    after = LatentPatch("embedded", components=8).fit(face_images)
    after.remove(["3", "7"])
    keep = [b for b in range(12) if b not in (3, 7)]
    anew = LatentPatch("embedded", components=8).fit(face_images[keep], ids=[str(b) for b in keep])
    for name, value in anew.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name
    with refuses("residuals"):
        before.bank.add(before.bank.latents[:1], ["new"], before.pca)


def test_unlearning_searches_for_them(face_images: Tensor, tmp_path: Path) -> None:
    before = LatentPatch("embedded", components=8).fit(face_images)
    after = LatentPatch("embedded", components=8).fit(face_images)
    after.remove(["3"])
    after.save(tmp_path / "after.safetensors")
    checks = verify_unlearning(before, after, tmp_path / "after.safetensors", ["3"], [0, 1])
    assert [check.passed for check in checks] == [True] * 4
    # A file that has nothing of the source left but its details.
    text = (tmp_path / "after.safetensors").read_bytes()
    (tmp_path / "after.safetensors").write_bytes(text + before.bank.residuals[3].numpy().tobytes())
    checks = verify_unlearning(before, after, tmp_path / "after.safetensors", ["3"], [0, 1])
    assert [check.passed for check in checks] == [True, True, False, True]
    assert checks[2].facts["rows_found"] == 4


def test_variants_have_their_own(face_images: Tensor) -> None:
    plain = LatentPatch("embedded", components=8).fit(face_images).bank.residuals
    turned = LatentPatch("embedded", components=8).fit(face_images.flip(3)).bank.residuals
    varied = LatentPatch("embedded", components=8).fit(face_images, mirrored=True, offsets=1)
    assert len(varied.bank.residuals) == 12 * 18
    assert torch.equal(varied.bank.residuals[::18], plain)
    assert torch.equal(varied.bank.residuals[9::18], turned)
    moved = varied.bank.ids.index("5~+1+0")
    assert torch.equal(varied.bank.residuals[moved, 1:], plain[5, :-1])
    assert torch.equal(varied.bank.residuals[moved, 0], plain[5, 0])


def test_a_hole_is_filled_with_them(detailed: LatentPatch, face_images: Tensor) -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    bare = LatentPatch("embedded", components=8).fit(face_images, residuals=False)
    settings = RasterSettings(patch_size=2, scales=1)
    filled, bare = (each.inpaint(face_images[0], mask, 2, settings=settings) for each in (detailed, bare))
    assert torch.equal(filled.index, bare.index)
    assert torch.equal(filled.images[:, :, ~mask], bare.images[:, :, ~mask])
    assert not torch.equal(filled.images, bare.images)


def test_another_autoencoders_pictures_do_without(
    detailed: LatentPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one loses is not what another loses; but it stays in the file."""
    detailed.save(tmp_path / "a.safetensors")
    monkeypatch.setattr(detailed, "_origin", {"name": "other"})
    assert detailed.default_decoding(detailed.settings) == "blend"
    assert torch.equal(detailed.source_picture(2), detailed.decode(torch.full((1, 4, 4), 2))[0])


def test_processes_that_share_a_bank_gather_the_same(detailed: LatentPatch) -> None:
    index = detailed.generate(4).index
    quarters = torch.stack([index, index.flip(0), index.flip(1), index.flip(2)], -1)
    sharded = ShardedBank(detailed.bank, ALONE)
    assert torch.equal(sharded.gather_residuals(quarters), detailed.bank.gather_residuals(quarters))
    images = detailed.decode(index, "blend")
    whole = add_residuals(images, index, detailed.bank.gather_residuals)
    some = add_residuals(images[1:3], index, detailed.bank.gather_residuals, slice(1, 3))
    assert torch.equal(whole[1:3], some)


def test_graphs_have_them(detailed: LatentPatch) -> None:
    """The module that is traced; tests of exports have such a graph as a file."""
    method, settings = detailed.sampler_and_settings(None, None)
    settings = method.resolve(settings, detailed.context())
    graph = graphs(detailed, "resynthesis", settings, settings)[0].module
    images, index = graph(noise_from_seeds(range(3), detailed.steps))
    expected = detailed.generate(3)
    assert torch.equal(index, expected.index)
    torch.testing.assert_close(images, expected.images, atol=1 / 255, rtol=0)
    assert (images - detailed.decode(index, "blend")).abs().max() > 4 / 255


def test_on_the_command_line(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> int:
        return main([str(argument) for argument in arguments])

    common = ["--size", 64, "--components", 8, "-q"]
    assert run("fit", faces, *common, "-o", tmp_path / "with.safetensors") == 0
    assert run("fit", faces, *common, "--no-residuals", "-o", tmp_path / "without.safetensors") == 0
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("with", "without")]
    assert 12 * 64 * 64 * 1.5 <= sizes[0] - sizes[1] < 12 * 64 * 64 * 1.6
    assert run("inspect", tmp_path / "with.safetensors", "--json") == 0
    assert '"details": true' in capsys.readouterr().out
    assert run("generate", tmp_path / "with.safetensors", "--no-details", "-n", 1, "-o", tmp_path / "out") == 1
    assert "--residuals: " in capsys.readouterr().err
