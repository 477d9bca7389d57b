"""Parts of patch-GANs: convolutional networks of a small receptive field, pyramids, and the critic's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = [
    "PatchScale",
    "conv_block",
    "conv_stack",
    "critic_loss",
    "gradient_penalty",
    "initialize",
    "receptive_field",
    "scale_sizes",
    "upsample",
]

_SLOPE = 0.2  # of leaky ReLUs below zero
_WEIGHT_DEVIATION = 0.02  # standard deviation of initial weights (Radford et al., 2016)


def scale_sizes(size: Sequence[int], ratio: float, coarsest: int) -> list[tuple[int, int]]:
    """Return the sizes of a pyramid's scales, coarse to fine, by the rule of SinGAN's code.

    There are ``ceil(log(coarsest / side) / log(ratio)) + 2`` scales for the shorter side of the finest one. The ratio
    is refitted so that the shorter side of the first is ``coarsest``. A finest scale that is as small is the only one.
    """
    height, width = size
    side = min(size)
    if side <= coarsest:
        return [(height, width)]
    count = math.ceil(round(math.log(coarsest / side) / math.log(ratio), 9)) + 1
    refitted = (coarsest / side) ** (1 / count)
    return [(round(height * refitted**k), round(width * refitted**k)) for k in range(count, -1, -1)]


def conv_block(inputs: int, outputs: int, *, padding: int = 0, norm: str = "batch") -> nn.Sequential:
    """Return a 3 x 3 convolution, a normalization and a leaky ReLU.

    Args:
        inputs, outputs: channels.
        padding: pixels of zeros at each edge.
        norm: ``batch``, ``spectral`` or ``none``.
    """
    convolution = nn.Conv2d(inputs, outputs, 3, padding=padding)
    if norm == "spectral":
        return nn.Sequential(spectral_norm(convolution), nn.LeakyReLU(_SLOPE))
    norms = [nn.BatchNorm2d(outputs)] if norm == "batch" else []
    return nn.Sequential(convolution, *norms, nn.LeakyReLU(_SLOPE))


def conv_stack(
    inputs: int, width: int, outputs: int, layers: int = 5, *, padding: int = 0, norm: str = "batch"
) -> nn.Sequential:
    """Return ``layers`` 3 x 3 convolutions: blocks, and a plain one in the end; see :func:`conv_block`."""
    blocks = [conv_block(inputs if k == 0 else width, width, padding=padding, norm=norm) for k in range(layers - 1)]
    return nn.Sequential(*blocks, nn.Conv2d(width, outputs, 3, padding=padding))


def receptive_field(network: nn.Module) -> int:
    """Return the side of the receptive field of a chain of convolutions of stride 1."""
    return 1 + sum(each.kernel_size[0] - 1 for each in network.modules() if isinstance(each, nn.Conv2d))


def initialize(network: nn.Module) -> None:
    """Draw the weights of convolutions from N(0, 0.02), those of batch normalizations from N(1, 0.02)."""
    for each in network.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.normal_(each.weight, 0.0, _WEIGHT_DEVIATION)
        elif isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.weight, 1.0, _WEIGHT_DEVIATION)


class PatchScale(nn.Module):
    """The generator of one scale: adds a residual to the picture of the scale before.

    Args:
        network: from noise and picture to the residual.
        padding: pixels of zeros around the network's input, as many as its convolutions take away.

    Attributes:
        amplitude: () float32, standard deviation of the scale's noise.
    """

    amplitude: Tensor

    def __init__(self, network: nn.Module, padding: int = 0) -> None:
        super().__init__()
        self.network, self.padding = network, padding
        self.register_buffer("amplitude", torch.ones(()))

    def forward(self, before: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the network's output for the picture and its noise; pixels in [-1, 1], ``(N, 3, h, w)``."""
        noisy = before if noise is None else before + self.amplitude * noise
        result: Tensor = self.network(F.pad(noisy, [self.padding] * 4))
        return result


def upsample(images: Tensor, size: Sequence[int], *, has_aligned_corners: bool = False) -> Tensor:
    """Enlarge pictures ``(N, 3, h, w)`` to a size: bicubic, or bilinear where the corners' centers are aligned."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    mode = "bilinear" if has_aligned_corners else "bicubic"
    return F.interpolate(images, (size[0], size[1]), mode=mode, align_corners=has_aligned_corners)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Return the mean of ``(|gradient| - 1)^2`` of a critic between real and made pictures.

    The norm is that of each pixel's channels, as in the code of SinGAN and HP-VAE-GAN; that of WGAN-GP (Gulrajani et
    al., 2017, section 4) is over a whole picture.

    Args:
        critic: maps pictures to scores.
        real, fake: ``(N, 3, h, w)``.
        mix: weight of the real ones, in [0, 1], that broadcasts.
    """
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    gradient = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
    result: Tensor = ((gradient.float().norm(dim=1) - 1) ** 2).mean()
    return result


def critic_loss(
    critic: nn.Module, real: Tensor, fake: Tensor, weight: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the parts of the loss of a Wasserstein critic: ``real``, ``fake``, and ``penalty`` times its weight."""
    fake = fake.detach()
    mix = torch.rand(1, generator=generator).to(real.device)
    return {
        "real": -critic(real).mean(),
        "fake": critic(fake).mean(),
        "penalty": weight * gradient_penalty(critic, real, fake, mix),
    }
