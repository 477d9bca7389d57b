"""FewGAN's networks and losses: known answers, by hand or by plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from latentpatch.methods.trained.fewgan import FewGAN
from latentpatch.methods.trained.fewgan_losses import continuity_loss, structural_similarity
from latentpatch.methods.trained.fewgan_networks import Codebook, encoder, positional_code
from latentpatch.methods.trained.fewgan_prior import PixelCNN
from latentpatch.methods.trained.fewgan_side import drawn_landscapes

pytestmark = pytest.mark.usefixtures("float32")


def receptive_field(network: nn.Module, inputs: int, side: int = 41) -> tuple[int, int]:
    """Return height and width of the region that the middle of a network's output depends on."""
    network.eval()
    images = torch.rand(1, inputs, side, side, requires_grad=True)
    output = network(images)
    assert output.shape[2:] == images.shape[2:], "the size is kept"
    (gradient,) = torch.autograd.grad(output[0, :, side // 2, side // 2].sum(), images)
    rows, columns = gradient[0].abs().sum(0).nonzero(as_tuple=True)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def test_networks_keep_the_size_and_have_the_receptive_fields_of_their_papers() -> None:
    model = FewGAN("fewgan", [(25, 33), (48, 64)], codes=9, code_size=6, width=8).eval()
    assert receptive_field(encoder(8, 6), 3) == (7, 7)
    assert receptive_field(model.coarse.decode, 6 + 2 * 4) == (11, 11)
    assert receptive_field(model.scales[0], 3) == (11, 11)
    codes = model.codes(torch.rand(2, 3, 25, 33))
    assert codes.shape == (2, 25, 33), "one code a pixel of scale 0"
    assert model.render(codes, model.sizes).shape == (2, 3, 48, 64)


def test_finer_scales_add_a_residual_to_the_enlarged_picture() -> None:
    model = FewGAN("fewgan", [(4, 5), (8, 10)], codes=9, code_size=6, width=8).eval()
    with torch.no_grad():
        model.scales[0].network[-1].weight.zero_()
        model.scales[0].network[-1].bias.fill_(0.25)
    image = torch.rand(1, 3, 4, 5)
    made = model.step(1, image, (8, 10))
    enlarged = torch.nn.functional.interpolate(image, (8, 10), mode="bilinear", align_corners=True)
    assert torch.allclose(enlarged[..., ::7, ::9], image[..., ::3, ::4]), "corners on corners"
    assert torch.allclose(made, (enlarged + 0.25).tanh())


def test_scales_keep_pictures_in_their_range() -> None:
    """Residuals of 50 made stripes of black and white: the critic sees no picture with a side picture's structure."""
    model = FewGAN("fewgan", [(4, 5), (8, 10)], codes=9, code_size=6, width=8).eval()
    with torch.no_grad():
        model.scales[0].network[-1].bias.fill_(50.0)
        assert float(model.render(model.codes(torch.rand(2, 3, 4, 5)), model.sizes).abs().max()) <= 1


def test_the_positional_code_is_that_of_the_paper() -> None:
    height, width = 4, 7
    code = positional_code((height, width))[0]
    assert code[:, 0, 0].tolist() == [-1, -1]
    assert code[:, 0, -1].tolist() == [1, -1], "columns first"
    assert code[:, -1, 0].tolist() == [-1, 1]
    assert code[:, -1, -1].tolist() == [1, 1]
    for i in range(width):
        for j in range(height):
            assert code[:, j, i].tolist() == pytest.approx(
                [2 * i / (width - 1) - 1, 2 * j / (height - 1) - 1], abs=1e-6
            )
    assert positional_code((1, 1)).tolist() == [[[[0.0]], [[0.0]]]]


def test_coordinates_are_appended_as_often_as_the_setting_says() -> None:
    encoded = torch.rand(2, 3, 4, 5)
    placed = Codebook(4, 3, 2).placed(encoded)
    assert placed.shape == (2, 3 + 4, 4, 5)
    assert torch.equal(placed[:, :3], encoded)
    assert torch.equal(placed[1, 3:5], positional_code((4, 5))[0])
    assert torch.equal(placed[:, 3:5], placed[:, 5:7])


def codebook_of(*entries: tuple[float, ...], repeats: int = 0) -> Codebook:
    book = Codebook(len(entries), len(entries[0]) - 2 * repeats, repeats)
    with torch.no_grad():
        book.entries.copy_(torch.tensor(entries))
    return book


def test_codebook_losses_by_hand() -> None:
    book = codebook_of((0.0, 0.0), (1.0, 1.0))
    encoded = torch.tensor([[0.2, 0.9], [0.0, 1.0]]).view(1, 2, 1, 2).requires_grad_()
    found = book(encoded)
    assert found.codes.tolist() == [[[0, 1]]]
    squares = (0.2**2 + 0.1**2) / 4
    assert float(found.codebook_loss.detach()) == pytest.approx(squares)
    assert float(found.commitment_loss.detach()) == pytest.approx(squares)
    found.codebook_loss.backward()
    assert encoded.grad is None, "stop-gradient of the encoder's output"
    assert book.entries.grad is not None
    assert book.entries.grad.flatten().tolist() == pytest.approx([-0.1, 0, 0.05, 0]), "2 (z - e) / 4"
    book.entries.grad = None
    book(encoded).commitment_loss.backward()
    assert book.entries.grad is None, "stop-gradient of the entries"
    assert encoded.grad is not None
    assert encoded.grad.flatten().tolist() == pytest.approx([0.1, -0.05, 0, 0])


def test_the_gradient_goes_straight_through() -> None:
    book = codebook_of((0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), repeats=1)
    encoded = torch.rand(1, 2, 3, 3, requires_grad=True)
    weights = torch.rand(1, 4, 3, 3)
    entries = book(encoded).entries
    assert torch.allclose(entries, book.look_up(book(encoded).codes))
    (entries * weights).sum().backward()
    assert torch.equal(encoded.grad, weights[:, :2])


def test_coordinates_decide_between_like_outputs() -> None:
    book = codebook_of((0.5, -1.0, 0.0), (0.5, 1.0, 0.0), repeats=1)
    assert book(torch.full((1, 1, 1, 4), 0.5)).codes.tolist() == [[[0, 0, 1, 1]]]


def test_bfloat16_changes_neither_codes_nor_similarities() -> None:
    generator = torch.Generator().manual_seed(0)
    book, encoded = Codebook(64, 6, 1), torch.rand(1, 6, 12, 12, generator=generator)
    first, second = torch.rand(2, 1, 3, 14, 14, generator=generator) * 0.1
    codes, similarity = book(encoded).codes, structural_similarity(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book(encoded).codes, codes)
        assert torch.equal(structural_similarity(first, second), similarity)
        assert structural_similarity(first.bfloat16(), second).dtype == torch.float32


def test_unused_entries_become_outputs() -> None:
    book = codebook_of((5.0,), (7.0,), (9.0,))
    book.used[1] = True
    assert book.renew(torch.full((1, 1, 2, 2), 0.25), torch.Generator()) == 2
    assert book.entries.flatten().tolist() == [0.25, 7, 0.25]
    assert not book.used.any()


def test_continuity_by_hand() -> None:
    encoded = torch.tensor([[[[0.0, 1.0], [3.0, 7.0]]]])
    assert float(continuity_loss(encoded)) == (3 + 6) / 2 + (1 + 4) / 2


def test_structural_similarity_by_hand() -> None:
    first, second = torch.rand(2, 2, 3, 14, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(structural_similarity(first, first)) == pytest.approx(1)
    flat = [torch.full((1, 3, 12, 12), 2 * value - 1, dtype=torch.float64) for value in (0.2, 0.7)]
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    assert float(structural_similarity(*flat)) == pytest.approx(expected)
    weights = torch.tensor([torch.exp(torch.tensor(-((i - 5) ** 2) / 4.5)) for i in range(11)], dtype=torch.float64)
    weights = weights[:, None] * weights / weights.sum() ** 2
    values = []
    grey = [(x + 1) / 2 * torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype).view(3, 1, 1) for x in (first, second)]
    for n in range(2):
        for i in range(4):
            for j in range(3):
                x, y = (each[n].sum(0)[i : i + 11, j : j + 11] for each in grey)
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                c = (weights * (x - mx) * (y - my)).sum()
                values.append((2 * mx * my + 1e-4) * (2 * c + 9e-4) / (mx**2 + my**2 + 1e-4) / (vx + vy + 9e-4))
    assert float(structural_similarity(first, second)) == pytest.approx(float(torch.stack(values).mean()))


@pytest.fixture
def prior() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(codes=6, entry_size=4, channels=8, layers=3).eval().double()


def logits_of(prior: PixelCNN, book: Tensor, codes: Tensor) -> Tensor:
    places = positional_code((codes.shape[0], codes.shape[1])).double()
    return prior(book[codes].permute(2, 0, 1)[None], places)[0].detach()


def test_logits_depend_on_earlier_codes_alone(prior: PixelCNN) -> None:
    generator = torch.Generator().manual_seed(1)
    book, codes = torch.rand(6, 4, generator=generator).double(), torch.randint(6, (7, 9), generator=generator)
    before = logits_of(prior, book, codes)
    reached = torch.zeros(7, 9, dtype=torch.bool)
    for place in range(63):
        i, j = divmod(place, 9)
        changed = codes.clone()
        changed[i, j] = (changed[i, j] + 1) % 6
        differs = (logits_of(prior, book, changed) != before).any(0)
        assert not differs.flatten()[: place + 1].any(), "neither earlier cells nor the cell itself"
        reached |= differs
    assert reached.flatten()[1:].all(), "every cell but the first one depends on codes"
    changed = codes.clone()
    changed[3, 4] = (changed[3, 4] + 1) % 6
    differs = (logits_of(prior, book, changed) != before).any(0)
    assert differs[3, 5], "the cell to the right"
    assert differs[4, 2:8].all(), "cells below, on both sides: there is no blind spot"


def test_logits_depend_on_the_place(prior: PixelCNN) -> None:
    book, codes = torch.rand(6, 4).double(), torch.zeros(20, 20, dtype=torch.int64)
    logits = logits_of(prior, book, codes)
    assert not torch.allclose(logits[:, 14, 14], logits[:, 15, 14])
    assert not torch.allclose(logits[:, 14, 14], logits[:, 14, 15])


def test_sampling_equals_the_whole_network_cell_by_cell(prior: PixelCNN) -> None:
    generator = torch.Generator().manual_seed(2)
    book, noise = torch.rand(6, 4, generator=generator).double(), torch.rand(12, 5, generator=generator).double()
    start = torch.randint(6, (12, 5), generator=generator)
    mask = torch.rand(12, 5, generator=generator) < 0.7
    mask[0, 0] = True
    codes = start.masked_fill(mask, 0)
    for i, j in mask.nonzero().tolist():
        weights = logits_of(prior, book, codes)[:, i, j].softmax(0)
        codes[i, j] = int((weights.cumsum(0) <= noise[i, j]).sum())
    places = positional_code((12, 5)).double()
    drawn = prior.sample(book, places, noise, start, mask)
    assert torch.equal(drawn, codes)
    assert torch.equal(drawn[~mask], start[~mask])
    assert len(drawn[mask].unique()) > 2


def test_drawn_landscapes_differ_and_are_seeded() -> None:
    pictures = drawn_landscapes(6, (24, 32))
    assert pictures.shape == (6, 3, 24, 32)
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1
    assert torch.equal(pictures, drawn_landscapes(6, (24, 32)))
    assert torch.equal(pictures[:2], drawn_landscapes(2, (24, 32))), "the first ones are the same of any number"
    assert all((pictures[i] - pictures[j]).abs().mean() > 0.02 for i in range(6) for j in range(i))
