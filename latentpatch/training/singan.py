"""The training of SinGAN: one scale after another, coarser ones frozen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from ..methods.trained.networks import conv_stack, critic_loss, initialize, scale_sizes
from ..methods.trained.settings import SinGANSettings
from ..methods.trained.singan import SinGAN, width_of
from ..ops.pyramid import pyramid
from .loop import Stage, Work

__all__ = ["build_concat_singan", "build_singan", "singan_critic"]

_BETAS = (0.5, 0.999)  # of Adam
_SLOW_FROM, _SLOW = 0.8, 0.1  # part of the steps after which the learning rate falls, and to which part of it


def build_singan(
    pictures: Sequence[Tensor], settings: SinGANSettings, method: str = "singan", size: Sequence[int] | None = None
) -> tuple[SinGAN, list[Stage]]:
    """Return a SinGAN of one picture ``(3, H, W)`` in [0, 1], untrained, and the stages that train it."""
    picture = pictures[0]
    model = SinGAN(
        method, scale_sizes(picture.shape[1:], settings.ratio, settings.coarsest), size, width=settings.width
    )
    reals = [each * 2 - 1 for each in pyramid(picture[None], model.sizes)]
    critics: list[nn.Module] = []
    stages = [
        Stage(f"scale {k}", settings.steps, lambda k=k: _build(model, k, reals[k], critics, settings), cost=h * w)  # type: ignore[misc]
        for k, (h, w) in enumerate(model.sizes)
    ]
    return model, stages


def build_concat_singan(pictures: Sequence[Tensor], settings: SinGANSettings) -> tuple[SinGAN, list[Stage]]:
    """Return a SinGAN of several pictures side by side, a baseline of FewGAN (section 4), and its stages.

    Its pictures have the size of one of them.
    """
    return build_singan([torch.cat(list(pictures), 2)], settings, "concat-singan", pictures[0].shape[1:])


def singan_critic(scale: int, width: int) -> nn.Sequential:
    """Return the critic of a scale: pictures ``(N, 3, h, w)`` to scores ``(N, 1, h - 10, w - 10)``."""
    return conv_stack(3, width_of(scale, width), 1)


def _build(model: SinGAN, k: int, real: Tensor, critics: list[nn.Module], settings: SinGANSettings) -> Work:
    """Make the networks of a scale; the weights of the scale before are its first where they have its shape."""
    scale, critic = model.scales[k], singan_critic(k, settings.width).to(model.anchor.device)
    real = real.to(model.anchor.device)
    if k and width_of(k, settings.width) == width_of(k - 1, settings.width):
        scale.load_state_dict(model.scales[k - 1].state_dict())
        critic.load_state_dict(critics[k - 1].state_dict())
    else:
        initialize(scale)
        initialize(critic)
    critics.append(critic)
    if k == 0:
        # Drawn on the CPU, as the noise of all steps.
        model.anchor.copy_(torch.randn(model.anchor.shape).to(model.anchor.device))
    with torch.no_grad():
        rebuilt = model.before(None, k)
        error = F.mse_loss(real, rebuilt).sqrt()
    model.amplitude(k).copy_(settings.noise * error if k else torch.ones_like(error))
    anchor = model.anchor.expand_as(real) if k == 0 else None
    scale.train().requires_grad_(True)
    optimizers = {
        "generator": Adam(scale.parameters(), settings.rate, _BETAS),
        "critic": Adam(critic.parameters(), settings.rate, _BETAS),
    }

    def step(i: int, generator: torch.Generator) -> dict[str, Tensor]:
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * (_SLOW if i >= _SLOW_FROM * settings.steps else 1)
        critic.requires_grad_(True)
        for _ in range(settings.critic_steps):
            with torch.no_grad():
                before = model.before(generator, k)
                noise = model.noise(generator, k, model.sizes[k], before)
                fake = model.step(k, before, noise)
            losses = critic_loss(critic, real, fake, settings.penalty, generator)
            optimizers["critic"].zero_grad()
            sum(losses.values()).backward()  # type: ignore[union-attr]
            optimizers["critic"].step()
        critic.requires_grad_(False)
        for _ in range(settings.generator_steps):
            adversarial = -critic(model.step(k, before, noise)).mean()
            reconstruction = F.mse_loss(model.step(k, rebuilt, anchor), real)
            optimizers["generator"].zero_grad()
            (adversarial + settings.reconstruction * reconstruction).backward()
            optimizers["generator"].step()
        return {**losses, "adversarial": adversarial, "reconstruction": reconstruction}

    return Work({"generator": scale, "critic": critic, "anchor": _Anchor(model)}, optimizers, step)


class _Anchor(nn.Module):
    """The noise of the reconstruction as a module, so that it is stored with the networks."""

    def __init__(self, model: SinGAN) -> None:
        super().__init__()
        self.register_buffer("value", model.anchor)
