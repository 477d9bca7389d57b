"""The training of FewGAN: scale 0, the finer scales one by one, then the PixelCNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from ..errors import SettingError
from ..methods.picture import check_picture
from ..methods.trained.fewgan import FewGAN
from ..methods.trained.fewgan_losses import continuity_loss, structural_similarity
from ..methods.trained.fewgan_networks import positional_code
from ..methods.trained.fewgan_settings import FewGANSettings
from ..methods.trained.fewgan_side import drawn_landscapes
from ..methods.trained.networks import conv_stack, critic_loss, initialize, scale_sizes
from ..ops.pyramid import resize
from .loop import Stage, Work

__all__ = ["build_fewgan"]

_BETAS = (0.5, 0.999)  # of Adam
_RENEWAL_STEPS = 100  # between replacements of entries that no source uses
_RENEWED_UNTIL = 0.5  # part of the steps of scale 0
_LEAST_VIEW = 0.75  # of the sides of a side picture


def build_fewgan(
    pictures: Sequence[Tensor], settings: FewGANSettings, side: Sequence[Tensor] | None = None
) -> tuple[FewGAN, list[Stage]]:
    """Return a FewGAN of pictures ``(3, H, W)`` of one size in [0, 1], untrained, and the stages that train it.

    Args:
        pictures: the sources.
        settings: of the training.
        side: pictures of the same size whose structure is learned, and none of their patches; by default drawn ones.

    Raises:
        SettingError: for no side picture, or one of another shape.
    """
    size = (pictures[0].shape[1], pictures[0].shape[2])
    side = list(drawn_landscapes(settings.drawn, size)) if side is None else side
    if not len(side):
        raise SettingError("side", 0, "at least one picture")
    side = [check_picture("side", each) for each in side]
    for each in side:
        if each.shape != pictures[0].shape:
            raise SettingError("side", tuple(each.shape), f"of the sources' shape, {tuple(pictures[0].shape)}")
    names = ("codes", "code_size", "position", "width", "layers", "prior_layers")
    model = FewGAN(
        "fewgan",
        scale_sizes(size, settings.ratio, settings.coarsest),
        **{name: getattr(settings, name) for name in names},
    )
    work = _Training(model, settings, torch.stack(list(pictures)) * 2 - 1, torch.stack(list(side)) * 2 - 1)
    stages = [
        Stage(f"scale {k}", settings.steps, lambda k=k: work.scale(k), cost=h * w)  # type: ignore[misc]
        for k, (h, w) in enumerate(model.sizes)
    ]
    area = model.sizes[0][0] * model.sizes[0][1]
    return model, [*stages, Stage("PixelCNN", settings.prior_steps, work.prior, cost=area / settings.critic_steps)]


class _Training:
    """The stages of a training; pictures are in [-1, 1].

    Args:
        model: the networks.
        settings: of the training.
        real, side: ``(N, 3, H, W)``, the sources and the side pictures.
    """

    def __init__(self, model: FewGAN, settings: FewGANSettings, real: Tensor, side: Tensor) -> None:
        self.model, self.settings, self.real, self.side = model, settings, real, side
        self.critics: list[nn.Module] = []

    def scale(self, k: int) -> Work:
        """Make the networks of a scale; the weights of the scale before are its first."""
        model, settings, device = self.model, self.settings, self.model.device
        network: nn.Module = model.scales[k - 1] if k else model.coarse
        # Batch normalization would take the mean colors of a batch of side pictures away before the critic sees them.
        critic = conv_stack(3, settings.width, 1, settings.layers, padding=1, norm="spectral").to(device)
        if k:
            critic.load_state_dict(self.critics[-1].state_dict())
        if k == 1:
            initialize(network)
        elif k:
            network.load_state_dict(model.scales[k - 2].state_dict())
        self.critics.append(critic)
        network.train().requires_grad_(True)
        real, coarse = (resize(self.real, model.sizes[j]).to(device) for j in (k, 0))
        side = self.side.to(device)
        adam = Adam(network.parameters(), settings.rate, _BETAS)
        critic_adam = Adam(critic.parameters(), settings.rate, _BETAS)

        def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            """Return pictures of the scale before, of sources and then of side pictures, and what they are made of."""
            chosen = torch.randint(len(real), (settings.batch,), generator=generator)
            views = _views(side, settings.batch, generator)
            before = torch.cat([coarse[chosen], resize(views, model.sizes[0])])
            if k:
                with torch.no_grad():
                    before = model.coarse(before)
                    for j in range(1, k):
                        before = model.step(j, before, model.sizes[j])
            return before, real[chosen], resize(views, model.sizes[k])

        def made(before: Tensor) -> Tensor:
            result: Tensor = model.step(k, before, model.sizes[k]) if k else model.coarse(before)
            return result

        def step(i: int, generator: torch.Generator) -> Mapping[str, Tensor]:
            if not k and i % _RENEWAL_STEPS == 0 and i <= _RENEWED_UNTIL * settings.steps:
                with torch.no_grad():
                    model.coarse.codebook.renew(model.coarse.encode(coarse), generator)
            critic.requires_grad_(True)
            for _ in range(settings.critic_steps):
                before, goal, _ = batch(generator)
                with torch.no_grad():
                    fakes = made(before)
                scores = critic_loss(critic, goal, fakes[: len(goal)], settings.penalty, generator)
                if settings.side_fakes:
                    scores["fake"] = (scores["fake"] + critic(fakes[len(goal) :]).mean()) / 2
                _update(critic_adam, scores)
            critic.requires_grad_(False)
            for _ in range(settings.generator_steps):
                before, goal, views = batch(generator)
                images, losses = (made(before), {}) if k else self._coarse(before)
                own, other = images.split(settings.batch)
                losses |= {
                    "reconstruction": settings.reconstruction * F.mse_loss(own, goal),
                    "adversarial": -critic(own).mean(),
                    "side_adversarial": -settings.side_adversarial * critic(other).mean(),
                    "ssim": settings.ssim * (1 - structural_similarity(other, views)),
                }
                _update(adam, losses)
            return {**scores, **losses}

        return Work({"generator": network, "critic": critic}, {"generator": adam, "critic": critic_adam}, step)

    def _coarse(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return pictures of scale 0, and the losses of codebook, which sources alone have, and of continuity."""
        coarse, settings = self.model.coarse, self.settings
        encoded = coarse.encode(images)
        own, other = encoded.split(settings.batch)
        found, unused = coarse.codebook(own), coarse.codebook(other)
        coarse.codebook.used[found.codes.flatten()] = True
        return coarse.decode(torch.cat([found.entries, unused.entries])), {
            "codebook": found.codebook_loss,
            "commitment": settings.commitment * found.commitment_loss,
            "continuity": settings.continuity * (continuity_loss(own) + continuity_loss(other)),
        }

    def prior(self) -> Work:
        """Make the PixelCNN of the codes of side pictures."""
        model, settings, prior = self.model, self.settings, self.model.prior
        prior.train().requires_grad_(True)
        adam = Adam(prior.parameters(), settings.rate)
        places, side = positional_code(model.sizes[0], model.device), self.side.to(model.device)

        def step(i: int, generator: torch.Generator) -> Mapping[str, Tensor]:
            views = resize(_views(side, settings.batch, generator), model.sizes[0])
            with torch.no_grad():
                codes = model.codes(views)
                entries = model.coarse.codebook.look_up(codes)
            losses = {"nats": F.cross_entropy(prior(entries, places), codes)}
            _update(adam, losses)
            return losses

        return Work({"prior": prior}, {"adam": adam}, step)


def _update(optimizer: Adam, losses: Mapping[str, Tensor]) -> None:
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def _views(side: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random side pictures at their own size, each a part of one, mirrored or not."""
    height, width = side.shape[2:]
    views = []
    for number in torch.randint(len(side), (count,), generator=generator).tolist():
        share, down, across, mirror = torch.rand(4, generator=generator).tolist()
        share = _LEAST_VIEW + (1 - _LEAST_VIEW) * share
        h, w = max(1, round(share * height)), max(1, round(share * width))
        top, left = round(down * (height - h)), round(across * (width - w))
        part = side[number : number + 1, :, top : top + h, left : left + w]
        views.append(resize(part.flip(3) if mirror < 0.5 else part, (height, width)))
    return torch.cat(views)
