"""What sources have in common stays: no color, and a ground of one color."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.traced_once import traced_once
from torch import Tensor

from latentpatch import LatentPatch, RasterSettings
from latentpatch.bank import format as modelfile
from latentpatch.bank.common import encode_common, have_one_ground, is_shared
from latentpatch.bank.fitted_module import pack, unpack
from latentpatch.bank.residuals import quarters
from latentpatch.bank.sharded import ShardedBank
from latentpatch.export.formats import export
from latentpatch.export.graphs import graphs
from latentpatch.provenance.unlearning import verify_unlearning
from latentpatch.runs.defaults import plain_torch
from latentpatch.runs.processes import ALONE

FACTS = ("grey", "grounds")  # of the bank's record in a state dict
DECODINGS = ("detail", "blend", "gather", "unproject")


@pytest.fixture(scope="module")
@plain_torch()
def grey_images(face_images: Tensor) -> Tensor:
    return ((face_images.mean(1, keepdim=True) * 255).round() / 255).expand(-1, 3, -1, -1).contiguous()


@pytest.fixture(scope="module")
@plain_torch()
def white_images(face_images: Tensor) -> Tensor:
    """Faces in discs of different sizes on white."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    radii = 16 + torch.arange(len(face_images))
    inside = ((rows - 31.5) ** 2 + (columns - 31.5) ** 2).sqrt() < radii[:, None, None]
    return torch.where(inside[:, None], face_images * 0.9, 1.0)


@pytest.fixture(scope="module")
def white(white_images: Tensor) -> LatentPatch:
    return LatentPatch("embedded", components=8).fit(white_images)


def chroma(images: Tensor) -> float:
    return float((images.amax(1) - images.amin(1)).max())


def where_all_are_white(images: Tensor, index: Tensor) -> Tensor:
    """Return the pixels at which the sources of the cells around are all white, in plain loops: ``(N, H, W)``."""
    is_white = (images > 0.99).all(1)
    rows, columns = index.shape[1:]
    side = images.shape[2] // rows
    result = torch.zeros(len(index), *images.shape[2:], dtype=torch.bool)
    for n, y, x in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        around = [
            (min(max(row, 0), rows - 1), min(max(column, 0), columns - 1))
            for row in {y // side, (2 * y // side + 1) // 2 - 1, (2 * y // side + 1) // 2}
            for column in {x // side, (2 * x // side + 1) // 2 - 1, (2 * x // side + 1) // 2}
        ]
        result[n, y, x] = all(is_white[index[n, row, column], y, x] for row, column in around)
    return result


def test_grey_sources_give_grey_pictures(grey_images: Tensor, face_images: Tensor) -> None:
    model = LatentPatch("embedded", components=8).fit(grey_images)
    assert bool(model.bank.grey.all())
    index = model.generate(2).index
    assert chroma(model.autoencoder.decode(model.latents_at(index))) > 0.01, "the decoder alone is not grey"
    for decoding in DECODINGS:
        assert chroma(model.generate(2, decoding=decoding).images) == 0
    assert chroma(model(torch.rand(2, model.noise_dim))) == 0
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    settings = RasterSettings(patch_size=2, scales=1)
    for composite in (False, True):
        assert chroma(model.inpaint(grey_images[0], mask, settings=settings, composite=composite).images) == 0
        assert chroma(model.edit(grey_images[0], "source:3", mask, composite=composite).images) == 0
        assert chroma(model.edit(grey_images[0], grey_images[1], mask, composite=composite).images) == 0
    assert chroma(model.inpaint(face_images[0], mask, settings=settings).images) > 0.1
    assert chroma(model.edit(face_images[0], grey_images[1], mask).images) > 0.1
    assert chroma(model.soft(grey_images[0]).images) == 0


def test_grey_sources_among_others(grey_images: Tensor, face_images: Tensor, tmp_path: Path) -> None:
    mixed = torch.cat([grey_images[:6], face_images[6:]])
    rows = {str(i): {"tone": "grey" if i < 6 else "color"} for i in range(12)}
    model = LatentPatch("embedded", components=8).fit(mixed, attributes=rows)
    assert model.bank.grey.tolist() == [True] * 6 + [False] * 6
    assert chroma(model.generate(2, where="tone=grey").images) == 0
    assert chroma(model.generate(2, where="tone=color").images) > 0.1
    model.save(tmp_path / "mixed.safetensors")
    again = LatentPatch.load(tmp_path / "mixed.safetensors")
    assert again.bank.grey.tolist() == model.bank.grey.tolist()
    assert again.bank.digest() == model.bank.digest()
    model.remove(["7", "2"])
    assert model.bank.grey.tolist() == [True] * 5 + [False] * 5
    model.add(grey_images[7:8], ids=["new"])
    assert model.bank.grey.tolist() == [True] * 5 + [False] * 5 + [True]


def test_little_color_is_none() -> None:
    grey = torch.full((3, 3, 16, 16), 100 / 255)
    grey[1, 0, 3, 3] += 2 / 255
    grey[2, 0, 3, 3] += 3 / 255
    assert encode_common(grey, 16).grey.tolist() == [True, True, False]


def test_white_grounds_stay_white(white: LatentPatch, white_images: Tensor) -> None:
    made = white.generate(3)
    expected = where_all_are_white(white_images, made.index)
    assert 0.3 < float(expected.float().mean()) < 0.9
    for decoding in DECODINGS:
        images = white.decode(made.index, decoding)
        assert float(images.movedim(1, -1)[expected].min()) == 1
        plain = white.decode_latents(white.latents_at(made.index, decoding))
        if decoding == "detail":
            plain = white.add_residuals(plain, made.index, white.latents_at(made.index, decoding))
        assert torch.equal(images.movedim(1, -1)[~expected], plain.movedim(1, -1)[~expected])
        assert float(plain.movedim(1, -1)[expected].min()) < 0.99, "the decoder alone is not white"
    for seed in range(3):
        assert torch.equal(white.generate(1, seed=seed).images[0], made.images[seed])
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, 40:] = True
    filled = white.inpaint(white_images[0], mask, settings=RasterSettings(patch_size=2, scales=1)).images
    assert float(filled[0, :, :, -6:].min()) == 1


@pytest.mark.parametrize("color", [(0.0, 0.0, 0.0), (0.8, 0.2, 0.4)])
def test_grounds_of_any_color_but_one(white_images: Tensor, color: Sequence[float]) -> None:
    ground = torch.tensor(color, dtype=torch.float32)[:, None, None]
    images = torch.where((white_images > 0.99).all(1, keepdim=True), ground, white_images)
    images[0] = torch.where((white_images[0] > 0.99).all(0), ground + 2 / 255, white_images[0])
    model = LatentPatch("embedded", components=8).fit(images)
    corner = model.generate(2).images[:, :, :6, :6]
    torch.testing.assert_close(corner, (ground + 1 / 255).expand_as(corner), atol=1.5 / 255, rtol=0)
    images[0] = torch.where((white_images[0] > 0.99).all(0), ground + 0.1, white_images[0])
    assert not LatentPatch("embedded", components=8).fit(images).bank.masks.numel()


def test_a_ground_may_fade_from_the_top_to_the_bottom(white_images: Tensor) -> None:
    down = torch.linspace(0, 1, 64, dtype=torch.float32)[:, None]
    ground = ((1 - down) * torch.tensor([210, 215, 180])[:, None, None] + down * 230).round() / 255
    ground = ground.expand(3, 64, 64)
    images = torch.where((white_images > 0.99).all(1, keepdim=True), ground, white_images * 0.7)
    images[:, :, -3:, 20:50] = 0.2  # an object that is cut off
    assert encode_common(images, 16).grounds.tolist() == [[[210, 215, 180], [230, 230, 230]]] * 12
    model = LatentPatch("embedded", components=8).fit(images)
    found = model.generate(2).images[:, :, :, :4]
    torch.testing.assert_close(found, ground[None, :, :, :4].expand_as(found), atol=0.51 / 255, rtol=0)
    assert not LatentPatch("embedded", components=8).fit(images[:1]).bank.masks.numel(), "one source shares nothing"


def test_what_shares_nothing_stores_nothing(face_images: Tensor) -> None:
    model = LatentPatch("embedded", components=8).fit(face_images)
    assert "bank.masks" not in model.state_dict()
    assert not len(model.bank.grounds)
    assert not model.bank.grey.any()
    found = encode_common(torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]), 16)
    assert not have_one_ground(found.grounds)
    halves = torch.zeros(2, 3, 32, 32)
    halves[0, :, 16:], halves[1, :, :16] = 1, 1
    halves[:, :, :, 0] = torch.tensor([0.3, 0.3])[:, None, None]
    found = encode_common(halves, 16)
    assert not is_shared(torch.zeros(2, 2, 3, dtype=torch.uint8), found.masks[:, :, :, :0])


def test_files_hold_grounds_read_or_mapped(
    white: LatentPatch, white_images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    white.save(tmp_path / "a.safetensors")
    expected = white.generate(2).images
    assert torch.equal(LatentPatch.load(tmp_path / "a.safetensors").generate(2).images, expected)
    on_disk = LatentPatch("embedded", components=8).fit(white_images, scratch=tmp_path)
    assert torch.equal(on_disk.generate(2).images, expected)
    monkeypatch.setattr(modelfile, "MAPPED_FROM", 0)
    mapped = LatentPatch.load(tmp_path / "a.safetensors").to("cpu")
    assert torch.equal(mapped.generate(2).images, expected)
    mapped.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    around = torch.stack(quarters(white.generate(2).index)).flatten(0, 1)
    assert torch.equal(ShardedBank(white.bank, ALONE).gather_masks(around), white.bank.gather_masks(around))


def test_grounds_come_and_go_with_sources(white_images: Tensor, face_images: Tensor, tmp_path: Path) -> None:
    before = LatentPatch("embedded", components=8).fit(white_images)
    after = LatentPatch("embedded", components=8).fit(white_images)
    after.remove(["3", "7"])
    keep = [b for b in range(12) if b not in (3, 7)]
    anew = LatentPatch("embedded", components=8).fit(white_images[keep], ids=[str(b) for b in keep])
    assert set(anew.state_dict()) == set(after.state_dict())
    for name, value in anew.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name
    after.save(tmp_path / "after.safetensors")
    checks = verify_unlearning(before, after, tmp_path / "after.safetensors", ["3", "7"], [0, 1])
    assert [check.passed for check in checks] == [True] * 4
    text = (tmp_path / "after.safetensors").read_bytes()
    (tmp_path / "after.safetensors").write_bytes(text + before.bank.masks[3].numpy().tobytes())
    checks = verify_unlearning(before, after, tmp_path / "after.safetensors", ["3", "7"], [0, 1])
    assert [check.passed for check in checks] == [True, True, False, True]
    after.add(white_images[3:4], ids=["3"])
    assert torch.equal(after.bank.masks[-1], before.bank.masks[3])
    after.add(face_images[3:4], ids=["other"])
    assert not after.bank.masks.numel(), "what one source lacks is not shared"


def test_copies_have_their_own_grounds(white_images: Tensor) -> None:
    model = LatentPatch("embedded", components=8).fit(white_images, mirrored=True, offsets=1)
    turned = LatentPatch("embedded", components=8).fit(white_images.flip(3))
    assert torch.equal(model.bank.masks[9::18], turned.bank.masks)
    moved = model.bank.ids.index("5~+1+0")
    assert torch.equal(model.bank.masks[moved, 1:], model.bank.masks[90, :-1])
    assert torch.equal(model.bank.masks[moved, 0], model.bank.masks[90, 0])


def check_kept(model: LatentPatch, noise: Tensor, found: Tensor, index: Tensor) -> None:
    """Pictures and maps of a graph are the model's, and show what sources have in common."""
    assert torch.equal(index, model.search(noise))
    torch.testing.assert_close(found, model(noise), atol=1 / 255, rtol=0)
    if len(model.bank.grounds):
        assert float(found[:, :, :4].min()) == 1
    if model.bank.has_grey:
        is_grey = model.bank.grey[index].flatten(1).all(1)
        assert 0 < int(is_grey.sum()) < len(found)
        assert [chroma(each[None]) == 0 for each in found] == is_grey.tolist()


@pytest.mark.parametrize("kind", ["white", "some grey", "both"])
def test_graphs_and_compilers_keep_them(
    kind: str, white_images: Tensor, grey_images: Tensor, face_images: Tensor, tmp_path: Path
) -> None:
    """As plain modules; with both also compiled, traced, as a program and as ONNX."""
    some, others = {
        "white": (white_images, white_images),
        "some grey": (grey_images, face_images),
        "both": (white_images.mean(1, keepdim=True).expand(-1, 3, -1, -1), white_images),
    }[kind]
    images = torch.cat([some[:10], others[10:]])
    settings = RasterSettings(patch_size=2, scales=1)
    model = LatentPatch("embedded", components=8, settings=settings).fit(images, groups=False)
    assert (len(model.bank.grounds) > 0, model.bank.has_grey) == (kind != "some grey", kind != "white")
    noise = torch.rand(5, model.noise_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    check_kept(model, noise, *graphs(model, "raster", settings, settings)[0].module(noise))
    if kind != "both":
        return

    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(noise), model(noise), atol=1e-6, rtol=0)
    whole = torch.export.export(model, (noise,), strict=False).module()
    torch.testing.assert_close(whole(noise), model(noise), atol=1e-6, rtol=0)
    traces: dict[str, Any] = {}
    with traced_once(traces):
        export(model, tmp_path, "pt2", only=("generate",))
    check_kept(model, noise, *torch.export.load(tmp_path / "generate.pt2").module()(noise))

    pytest.importorskip("onnxscript", reason="onnxscript is not installed: ONNX was not tested")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: ONNX was not run")
    with traced_once(traces):
        export(model, tmp_path, only=("generate", "edit"))
    sessions = {name: ort.InferenceSession(str(tmp_path / f"{name}.onnx")) for name in ("generate", "edit")}
    check_kept(model, noise, *map(torch.from_numpy, sessions["generate"].run(None, {"noise": noise.numpy()})))
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[:, 16:48, 16:48] = True
    pairs = {"image": torch.stack([grey_images[0], grey_images[1]]), "mask": mask, "donor": images[[2, 11]]}
    edited = torch.from_numpy(sessions["edit"].run(None, {k: v.numpy() for k, v in pairs.items()})[0])
    alone = [model.edit(*each).images for each in zip(pairs["image"], pairs["donor"], mask, strict=True)]
    torch.testing.assert_close(edited, torch.cat(alone), atol=1 / 255, rtol=0)
    assert [chroma(each[None]) == 0 for each in edited] == [True, False]


def test_compiled_models_follow_changes_of_the_bank(grey_images: Tensor, face_images: Tensor) -> None:
    settings = RasterSettings(patch_size=2, scales=1)
    model = LatentPatch("embedded", components=8, settings=settings).fit(face_images[:6], groups=False)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    noise = torch.rand(2, model.noise_dim)
    assert chroma(compiled(noise)) > 0.1
    model.add(grey_images[6:], ids=[f"grey-{i}" for i in range(6)])
    assert model.bank.has_grey
    model.remove([str(i) for i in range(6)])
    assert chroma(compiled(noise)) == 0
    assert model.subset(torch.arange(3)).bank.has_grey


def test_files_of_older_versions_have_nothing_in_common(
    grey_images: Tensor, white: LatentPatch, tmp_path: Path
) -> None:
    for model in (LatentPatch("embedded", components=8).fit(grey_images), white):
        state = model.state_dict()
        record = {name: value for name, value in unpack(state["bank._extra_state"]).items() if name not in FACTS}
        old = LatentPatch("embedded", components=8)
        old.load_state_dict({k: v for k, v in state.items() if k != "bank.masks"} | {"bank._extra_state": pack(record)})
        assert not old.bank.has_grey
        assert not len(old.bank.grounds)
        index = model.generate(1).index
        latents = model.latents_at(index, "detail")
        plain = model.add_residuals(model.decode_latents(latents), index, latents)
        assert torch.equal(old.decode(index, "detail"), plain)
        old.save(tmp_path / "old.safetensors")
        assert torch.equal(LatentPatch.load(tmp_path / "old.safetensors").decode(index, "detail"), plain)
