"""The training of HP-VAE-GAN on several pictures: first scales as an autoencoder, later ones against a critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from ..methods.trained.hp_vae_gan import HPVAEGAN, LAYERS
from ..methods.trained.networks import conv_stack, critic_loss, initialize, scale_sizes
from ..methods.trained.settings import HPVAEGANSettings
from ..ops.pyramid import pyramid
from .loop import Stage, Work

__all__ = ["build_hp_vae_gan", "divergence"]

_BETAS = (0.5, 0.999)  # of Adam
_OLDER = 0.2  # learning rate of encoder and decoder, for each scale after the first


def build_hp_vae_gan(pictures: Sequence[Tensor], settings: HPVAEGANSettings) -> tuple[HPVAEGAN, list[Stage]]:
    """Return an HP-VAE-GAN of pictures ``(3, H, W)`` of one size in [0, 1], untrained, and its stages.

    FewGAN's baseline (section 4): in place of one picture, each step takes a few of them at random.
    """
    sizes = scale_sizes(pictures[0].shape[1:], settings.ratio, settings.coarsest)
    model = HPVAEGAN("hp-vae-gan", sizes, width=settings.width, latent=settings.latent)
    reals = [each * 2 - 1 for each in pyramid(torch.stack(list(pictures)), model.sizes)]
    critics: list[nn.Module] = []
    stages = [
        Stage(f"scale {k}", settings.steps, lambda k=k: _build(model, k, reals, critics, settings), cost=h * w)  # type: ignore[misc]
        for k, (h, w) in enumerate(model.sizes)
    ]
    return model, stages


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean divergence (Kullback-Leibler) of Gaussian codes from N(0, 1), over all elements."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def _build(model: HPVAEGAN, k: int, reals: list[Tensor], critics: list[nn.Module], settings: HPVAEGANSettings) -> Work:
    """Make the networks of a scale; the weights of the block before are its first."""
    device = model.device
    real, smallest = reals[k].to(device), reals[0].to(device)
    modules: dict[str, nn.Module] = {}
    if k == 0:
        initialize(model.encoder)
        initialize(model.decoder)
    else:
        modules["block"] = block = model.scales[k - 1]
        if k == 1:
            initialize(block)
        else:
            block.load_state_dict(model.scales[k - 2].state_dict())
    is_autoencoder = k < settings.vae_levels
    rates = {"block": settings.rate}
    if is_autoencoder:
        modules |= {"encoder": model.encoder, "decoder": model.decoder}
        rates |= dict.fromkeys(("encoder", "decoder"), settings.rate * _OLDER**k)
    for module in modules.values():
        module.train().requires_grad_(True)

    def rebuild(images: Tensor, scale: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Return pictures of a scale, and of the first, from codes: their means, or samples; and both moments."""
        mean, log_variance = model.encoder(images)
        noise = 0 if generator is None else torch.randn(mean.shape, generator=generator).to(mean)
        coarse = made = model.decode(mean + noise * (0.5 * log_variance).exp())
        for j in range(1, scale + 1):
            made = model.step(j, made, model.sizes[j], None)
        return made, coarse, mean, log_variance

    with torch.no_grad():
        if k:
            error = F.mse_loss(real, rebuild(smallest, k)[0]).sqrt()
            model.amplitude(k).copy_(settings.noise * error / settings.batch)
    weights = list(modules.values())
    optimizers = {
        "generator": Adam(
            [{"params": module.parameters(), "lr": rates[name]} for name, module in modules.items()], betas=_BETAS
        )
    }
    critic: nn.Module | None = None
    if not is_autoencoder:
        critic = conv_stack(3, model.width, 1, LAYERS, padding=1, norm="spectral").to(device)
        if critics:
            critic.load_state_dict(critics[-1].state_dict())
        critics.append(critic)
        modules["critic"] = critic
        optimizers["critic"] = Adam(critic.parameters(), settings.rate, _BETAS)

    def update(loss: Tensor) -> None:
        optimizers["generator"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for module in weights for p in module.parameters()], settings.clip)
        optimizers["generator"].step()

    def step(i: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(real), (settings.batch,), generator=generator)
        goal, images = real[chosen], smallest[chosen]
        if is_autoencoder:
            made, coarse, mean, log_variance = rebuild(images, k, generator)
            reconstruction = F.mse_loss(made, goal) + F.mse_loss(coarse, images)
            far = divergence(mean, log_variance)
            update(settings.reconstruction * reconstruction + settings.divergence * far)
            return {"reconstruction": reconstruction, "divergence": far}
        assert critic is not None
        with torch.no_grad():
            before = rebuild(images, k - 1, generator)[0]
            shape = (settings.batch, model.latent, *model.sizes[0])
            fresh = model.decode(torch.randn(shape, generator=generator).to(device))
            for j in range(1, k):
                fresh = model.step(j, fresh, model.sizes[j], generator)
        fake = model.step(k, fresh, model.sizes[k], generator)
        critic.requires_grad_(True)
        losses = critic_loss(critic, goal, fake, settings.penalty, generator)
        optimizers["critic"].zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizers["critic"].step()
        critic.requires_grad_(False)
        adversarial = -critic(fake).mean()
        reconstruction = F.mse_loss(model.step(k, before, model.sizes[k], None), goal)
        update(adversarial + settings.reconstruction * reconstruction)
        return {**losses, "adversarial": adversarial, "reconstruction": reconstruction}

    return Work(modules, optimizers, step)
