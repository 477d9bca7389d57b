"""Parts of patch-GANs: scales, receptive fields, initial weights, and the gradient penalty by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from latentpatch.methods.trained.networks import (
    PatchScale,
    conv_stack,
    critic_loss,
    gradient_penalty,
    initialize,
    receptive_field,
    scale_sizes,
)
from latentpatch.methods.trained.singan import width_of
from latentpatch.training.hp_vae_gan import divergence


def test_scales_of_the_papers_sizes():
    sizes = scale_sizes((186, 248), 0.75, 25)
    assert len(sizes) == math.ceil(math.log(25 / 186) / math.log(0.75)) + 2 == 9
    assert sizes[0] == (25, 33)
    assert sizes[-1] == (186, 248)
    ratios = [fine[1] / coarse[1] for coarse, fine in itertools.pairwise(sizes)]
    assert max(ratios) / min(ratios) < 1.06, "the refitted ratio is the same for all"


@pytest.mark.parametrize(("size", "expected"), [((25, 60), [(25, 60)]), ((20, 30), [(20, 30)]), ((26, 26), 3)])
def test_scales_of_small_pictures(size, expected):
    sizes = scale_sizes(size, 0.75, 25)
    assert len(sizes) == expected if isinstance(expected, int) else sizes == expected


def test_a_side_that_is_a_power_of_the_ratio_gives_no_scale_too_many():
    assert len(scale_sizes((25 * 8, 300), 0.5, 25)) == 3 + 2


def test_receptive_fields_are_those_of_the_papers():
    assert receptive_field(conv_stack(3, 8, 3)) == 11, "SinGAN"
    assert receptive_field(conv_stack(3, 8, 3, 7)) == 15, "HP-VAE-GAN"


@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_a_score_sees_its_receptive_field_and_no_more(norm):
    critic = conv_stack(3, 4, 1, norm=norm).eval()
    image = torch.rand(1, 3, 31, 31, requires_grad=True)
    scores = critic(image)
    assert scores.shape == (1, 1, 21, 21)
    scores[0, 0, 10, 10].backward()
    rows, columns = image.grad[0].abs().sum(0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 20, 10, 20)


def test_widths_double_after_four_scales_up_to_fourfold():
    assert [width_of(k, 32) for k in (0, 3, 4, 7, 8, 12)] == [32, 32, 64, 64, 128, 128]


def test_initial_weights():
    torch.manual_seed(0)
    network = conv_stack(3, 64, 3)
    initialize(network)
    assert float(network[1][0].weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(network[1][1].weight.detach().mean()) == pytest.approx(1, abs=0.01)


def test_the_penalty_of_a_linear_critic_is_known():
    class Linear(nn.Module):
        def forward(self, x):
            return (x * torch.tensor([3.0, 0.0, 4.0])[:, None, None]).sum(1)

    images = torch.rand(2, 3, 5, 5)
    assert float(gradient_penalty(Linear(), images, images * 0, torch.tensor(0.3))) == pytest.approx((5 - 1) ** 2)


def test_the_penalty_equals_finite_differences():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3)).double()
    real, fake, mix = torch.rand(1, 3, 6, 6).double(), torch.rand(1, 3, 6, 6).double(), torch.tensor(0.25).double()
    between = mix * real + (1 - mix) * fake
    slopes = torch.zeros_like(between)
    with torch.no_grad():
        for at in range(between.numel()):
            moved = between.flatten().clone()
            moved[at] += 1e-5
            slopes.view(-1)[at] = (critic(moved.view_as(between)).sum() - critic(between).sum()) / 1e-5
    expected = float(((slopes.square().sum(1).sqrt() - 1) ** 2).mean())
    penalty = gradient_penalty(critic, real, fake, mix)
    assert penalty.item() == pytest.approx(expected, rel=1e-4)
    penalty.backward()
    assert critic[0].weight.grad.abs().sum() > 0, "its own gradient reaches the weights"


def test_the_critics_loss_is_the_difference_of_means_and_spares_the_generator():
    critic = conv_stack(3, 4, 1, norm="none")
    real, fake = torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12, requires_grad=True)
    losses = critic_loss(critic, real, fake, 0.1, torch.Generator().manual_seed(0))
    assert (losses["real"] + losses["fake"]).item() == pytest.approx((critic(fake).mean() - critic(real).mean()).item())
    sum(losses.values()).backward()
    assert fake.grad is None


def test_a_scale_adds_its_noise_before_the_padding():
    class Last(nn.Module):
        def forward(self, x):
            self.seen = x
            return x[..., 2:-2, 2:-2]

    scale = PatchScale(Last(), 2)
    scale.amplitude.fill_(0.5)
    before, noise = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    assert torch.equal(scale(before, noise), before + 0.5 * noise)
    assert scale.network.seen.shape == (1, 3, 8, 8)
    assert scale.network.seen[..., :2, :].abs().sum() == 0


def test_the_divergence_of_standard_codes_is_zero_and_else_as_in_the_formula():
    assert float(divergence(torch.zeros(2, 3), torch.zeros(2, 3))) == 0
    mean, log_variance = torch.full((4, 4), 2.0), torch.full((4, 4), math.log(4.0))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(2.0, 2.0), normal(0.0, 1.0))
    assert float(divergence(mean, log_variance)) == pytest.approx(float(expected))
