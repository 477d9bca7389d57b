"""Find the styles and noise maps with which a generator makes given pictures.

Guo and Zhuang, Few shot generation of face images based on GAN inversion: a style for every layer, the first k noise
maps, Adam with a cosine schedule, and the angle between the styles of layers as a second loss (section 4).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import SettingError, SettingTypeError
from ...ops.pyramid import resize
from ...runs.defaults import plain_torch
from ...runs.interruption import forget_signals
from ...runs.threads import map_in_threads
from ...validation import check_integer
from ..picture import Observer, PictureStep, check_picture
from .degradations import Degrade, degraded_targets
from .generator import Generator
from .losses import arc_loss, noise_correlation, pyramid_loss, squared_error
from .settings import InversionSettings

__all__ = ["Inversion", "Perceptual", "estimate_seconds", "invert"]

#: A differentiable function of pictures ``(N, 3, H, W)`` to features ``(N, ...)``, whose squared differences count.
Perceptual = Callable[[Tensor], Tensor]

_TIMED_STEPS = 3  # at least, to estimate the time of all
_TIMED_SECONDS = 1.0  # for which steps are timed, but not more than a hundredth of all
_TRIALS = 20  # step lengths that L-BFGS tries at most
_MEMORY = 20  # steps whose gradients L-BFGS keeps
_PART = 16  # pictures that an accelerator optimizes together


@dataclass(frozen=True)
class Inversion:
    """Styles and noise maps of pictures, the best of all steps.

    Attributes:
        styles: ``(N, L, D)`` float32.
        noise: the first k noise maps ``(N, 1, h, w)``; the others are the generator's maps of ``seed``.
        images: ``(N, 3, H, W)`` float32 in [0, 1], the pictures that the generator makes of them, not degraded.
        loss: ``(N,)``, the objective of each picture.
        error: ``(N,)``, mean squared difference to the targets, after the degradation, at the last of ``sides``.
        losses: ``(steps, N)``, the least objective up to each step, of each of ``sides`` by itself.
        steps: steps that were done.
        seed: of the noise maps and random starts.
        is_interrupted: True if fewer steps were done than the settings say.
    """

    styles: Tensor = field(repr=False)
    noise: tuple[Tensor, ...] = field(repr=False)
    images: Tensor = field(repr=False)
    loss: Tensor
    error: Tensor
    losses: Tensor = field(repr=False)
    steps: int
    seed: int
    is_interrupted: bool = False


@plain_torch(for_gradients=True)
def invert(
    generator: Generator,
    targets: Tensor,
    settings: InversionSettings | None = None,
    *,
    degrade: Degrade | None = None,
    perceptual: Perceptual | None = None,
    initial: Inversion | None = None,
    seed: int = 0,
    observe: Observer | None = None,
) -> Inversion:
    """Return the styles and noise maps whose pictures, after a degradation, are nearest to the targets.

    An interruption (Ctrl-C) ends the search; the best so far is returned then. On a CPU each picture is optimized by
    itself, with one thread, so that its result is the same alone and in any batch.

    Args:
        generator: frozen.
        targets: ``(N, 3, h, w)`` in [0, 1]: of the generator's size, or as ``degrade`` makes them. Smaller ones of the
            same proportions are compared after downsampling.
        settings: defaults where None.
        degrade: differentiable function of pictures; see :mod:`.degradations`.
        perceptual: differentiable features, whose mean squared difference is added to the loss.
        initial: styles and noise maps to start from, such as those found with a smaller size of the generator.
        seed: of the noise maps and of random starts.
        observe: called after each step with the pictures of the first start.

    Raises:
        SettingError: for targets or settings that do not fit, or losses that are no numbers.
    """
    search = _Search(generator, targets, settings or InversionSettings(), degrade, perceptual, seed, initial)
    history: list[Tensor] = []
    is_interrupted = False
    try:
        for done in range(1, search.settings.steps + 1):
            losses = search.step(done - 1)
            history.append(losses)
            if observe is not None:
                observe(PictureStep(done, search.settings.steps, search.images(), f"loss {float(losses.mean()):.5f}"))
    except KeyboardInterrupt:
        if not history:
            raise
        is_interrupted = True
        forget_signals()
    return search.result(torch.stack(history), is_interrupted)


@plain_torch(for_gradients=True)
def estimate_seconds(
    generator: Generator,
    targets: Tensor,
    settings: InversionSettings | None = None,
    *,
    degrade: Degrade | None = None,
    perceptual: Perceptual | None = None,
) -> float:
    """Return how long :func:`invert` takes, in seconds, from a few timed steps; arguments are those of it."""
    search = _Search(generator, targets, settings or InversionSettings(), degrade, perceptual, 0)
    seconds, last, size, rate = 0.0, 0.0, None, search.settings.learning_rate
    most = max(_TIMED_STEPS, search.settings.steps // 100)
    for number, stage in enumerate(search.stages):
        if stage.generator.spec.image_size != size:
            size = stage.generator.spec.image_size
            search.enter(number)
            search.advance(rate)  # first steps allocate
            start, timed = time.monotonic(), 0
            while timed < most and (timed < _TIMED_STEPS or time.monotonic() - start < _TIMED_SECONDS):
                search.advance(rate)
                timed += 1
            last = (time.monotonic() - start) / timed
        seconds += last
    return seconds * search.settings.steps / len(search.stages)


class _Stage(NamedTuple):
    """A generator, what its pictures go through, and the targets that they are compared with then."""

    generator: Generator
    degrade: Degrade
    targets: Tensor


def _stage_of(generator: Generator, targets: Tensor) -> _Stage:
    size = generator.spec.image_size
    return _Stage(generator, *degraded_targets(None, resize(targets, size), size))


class _Part:
    """Pictures that are optimized together, from one start."""

    targets: Tensor
    wanted: Tensor  # features of the targets
    loss: Tensor
    error: Tensor
    images: Tensor
    total: Tensor  # the last loss

    def __init__(self, place: slice, styles: Tensor, noise: Sequence[Tensor]) -> None:
        self.place = place
        self.styles = styles[place].detach().clone().requires_grad_()
        self.noise = [each[place].detach().clone().requires_grad_() for each in noise]
        self.searched = [self.styles, *self.noise]
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.searched)
        self.point: list[Tensor] | None = None  # where the loss was last computed
        self.best = [each.detach().clone() for each in self.searched]

    def keep(self, loss: Tensor, error: Tensor) -> None:
        """Keep styles and noise maps of the pictures whose loss is the least so far."""
        is_better = loss < self.loss  # NaN is not
        self.loss, self.error = torch.where(is_better, loss, self.loss), torch.where(is_better, error, self.error)
        for best, now in zip(self.best, self.searched, strict=True):
            best[is_better] = now.detach()[is_better]


class _Search:
    def __init__(
        self,
        generator: Generator,
        targets: Tensor,
        settings: InversionSettings,
        degrade: Degrade | None,
        perceptual: Perceptual | None,
        seed: int,
        initial: Inversion | None = None,
    ) -> None:
        if not isinstance(targets, Tensor) or targets.ndim != 4 or not len(targets):
            raise SettingError("targets", tuple(getattr(targets, "shape", ())), "of shape (N, 3, H, W), N at least 1")
        targets = torch.stack([check_picture("targets", each) for each in targets])
        for name, value, kind in (("settings", settings, InversionSettings), ("initial", initial, Inversion | None)):
            if not isinstance(value, kind):
                raise SettingTypeError(name, value, "InversionSettings" if name == "settings" else "an Inversion")
        for name, steps in (("degrade", degrade), ("perceptual", perceptual)):
            if not all(map(callable, steps if isinstance(steps, (list, tuple)) else [steps or len])):
                raise SettingTypeError(name, steps, "a function of pictures")
        seed = check_integer("seed", seed, 0, 2**63 - 1)
        self.generator, self.settings, self.seed, self.perceptual = generator, settings, seed, perceptual
        targets = targets.to(generator.device, torch.float32).clone()  # a tensor of inference mode has no gradients
        is_degraded = degrade is not None
        self.stages = [_Stage(generator, *degraded_targets(degrade, targets, generator.spec.image_size))]
        degrade, targets = self.stages[0].degrade, self.stages[0].targets
        noise = generator.noise(seed)
        k = min(settings.noise_maps, len(noise))
        count = len(targets)
        if initial is None:
            starts, first = self._starts(targets), [each.expand(count, -1, -1, -1) for each in noise[:k]]
        else:
            generator.check_styles(initial.styles, initial.noise)
            if len(initial.styles) != count:
                raise SettingError("initial", len(initial.styles), f"of {count} pictures, as the targets")
            k = max(k, len(initial.noise))
            starts = [initial.styles.to(generator.device, torch.float32)]
            first = [*initial.noise, *noise[len(initial.noise) : k]]
            first = [each.to(generator.device, torch.float32).expand(count, -1, -1, -1) for each in first]
        with torch.no_grad():
            made = degrade(generator.synthesize(starts[0][:1], noise))
        if not isinstance(made, Tensor):
            raise SettingTypeError("degrade", type(made).__name__, "a function to a tensor")
        if made.shape[1:] != targets.shape[1:]:
            wanted = f"of shape (N, {', '.join(map(str, made.shape[1:]))}), as {generator.spec.name} makes them"
            raise SettingError("targets", tuple(targets.shape), f"{wanted} after the degradation")
        if settings.sides is not None:
            if is_degraded or settings.sides[-1] > min(targets.shape[2:]):
                raise SettingError("sides", settings.sides, "at most those of the targets, without a degradation")
            self.stages = [_stage_of(generator.resized(side), targets) for side in settings.sides]
        self.fixed = noise[k:]
        self.precision = torch.float32 if settings.precision == "float32" else torch.bfloat16
        if self.precision != torch.float32:
            self.stages = [each._replace(generator=deepcopy(each.generator).to(self.precision)) for each in self.stages]
        side = 1 if generator.device.type == "cpu" or settings.optimizer == "lbfgs" else _PART
        self.parts = [[_Part(slice(at, at + side), styles, first) for at in range(0, count, side)] for styles in starts]
        self.enter(0)

    def enter(self, stage: int) -> None:
        """Begin to compare pictures of another size; losses of those before do not count."""
        self.stage, self.now = stage, self.stages[stage]
        features = self.perceptual or (lambda images: images[:, :0])
        for part in (p for row in self.parts for p in row):
            part.targets = self.now.targets[part.place]
            part.loss = torch.full((len(part.targets),), math.inf, device=part.targets.device)
            part.error = part.loss.clone()
            part.point = None
            if self.settings.optimizer == "lbfgs":  # what it knows is of another loss
                part.optimizer = torch.optim.LBFGS(
                    part.searched, 1, 1, _TRIALS, 0, history_size=_MEMORY, line_search_fn="strong_wolfe"
                )
            with torch.no_grad():
                part.wanted = features(part.targets)

    def _starts(self, targets: Tensor) -> list[Tensor]:
        """Return the first styles ``(N, L, D)`` of each start."""
        count, starts = len(targets), self.settings.starts
        kind = "random" if starts > 1 else self.settings.start or self.generator.default_start
        if kind == "encoder":
            with torch.no_grad():
                return [self.generator.encode(targets)]
        if kind == "mean":
            return [self.generator.mean_styles()[None].expand(count, -1, -1)]
        with torch.no_grad():
            seeds = range(self.seed, self.seed + starts)
            return [self.generator.random_styles([each]).expand(count, -1, -1) for each in seeds]

    def step(self, done: int) -> Tensor:
        """Do one step. Return the least loss so far: ``(N,)``."""
        stage = done * len(self.stages) // self.settings.steps
        if stage != self.stage:
            self.enter(stage)
        return self.advance(self.settings.learning_rate * (1 + math.cos(math.pi * done / self.settings.steps)) / 2)

    def advance(self, rate: float) -> Tensor:
        """Do one step of a length. Return as :meth:`step`."""
        map_in_threads(partial(self._step_part, rate=rate), [p for row in self.parts for p in row])
        least = torch.stack([torch.cat([p.loss for p in row]) for row in self.parts]).amin(0)
        if not bool(least.isfinite().all()):
            raise SettingError("loss", float("nan"), "a number; a lower learning_rate may help")
        return least.cpu()

    def images(self) -> Tensor:
        """Return the pictures ``(N, 3, H, W)`` of the last step, from the first start."""
        return torch.cat([part.images for part in self.parts[0]]).clamp(0, 1)

    @torch.enable_grad()
    def _step_part(self, part: _Part, rate: float) -> None:
        def compute() -> Tensor:
            part.optimizer.zero_grad()
            return self._loss(part)

        def compute_if_moved() -> Tensor:  # L-BFGS begins where it ended
            if part.point is None or not all(map(torch.equal, part.point, part.searched)):
                part.point = [each.detach().clone() for each in part.searched]
                part.total = compute()
            return part.total

        settings = self.settings
        if settings.optimizer == "adam":
            part.optimizer.param_groups[0]["lr"] = rate
            part.optimizer.step(compute)  # type: ignore[arg-type]
        else:
            part.optimizer.step(compute_if_moved)  # type: ignore[arg-type]
        if settings.noise_regularization:
            for each in part.noise:
                deviation, mean = torch.std_mean(each.data, (1, 2, 3), keepdim=True)
                each.data.sub_(mean).div_(deviation)

    def _loss(self, part: _Part) -> Tensor:
        """Return the sum of the losses of a part, with gradients, and keep the best."""
        settings = self.settings
        styles, *noise = (each.to(self.precision) for each in (*part.searched, *self.fixed))
        images = self.now.generator.synthesize(styles, noise).float()
        degraded = self.now.degrade(images)
        error = squared_error(degraded, part.targets)
        loss = error if settings.loss == "mse" else pyramid_loss(degraded, part.targets)
        if self.perceptual is not None:
            apart = (self.perceptual(degraded) - part.wanted).flatten(1).square().mean(1)
            loss = loss + settings.perceptual_weight * apart
        if settings.arc and self.generator.has_layers:
            loss = loss + settings.arc * arc_loss(part.styles)
        if settings.noise_regularization and part.noise:
            loss = loss + settings.noise_regularization * noise_correlation(part.noise)
        part.keep(loss.detach(), error.detach())
        part.images = images.detach()
        total = loss.sum()
        total.backward()
        return total.detach()

    @torch.no_grad()
    def result(self, losses: Tensor, is_interrupted: bool) -> Inversion:
        """Return the best of all starts and steps."""
        rows = [
            [torch.cat(each) for each in zip(*([*p.best, p.loss, p.error] for p in row), strict=True)]
            for row in self.parts
        ]
        best = torch.stack([row[-2] for row in rows]).argmin(0)
        picked = [torch.stack([rows[int(b)][i][n] for n, b in enumerate(best)]) for i in range(len(rows[0]))]
        styles, *noise, loss, error = picked
        images = map_in_threads(
            lambda n: self.generator.synthesize(styles[n : n + 1], [*(m[n : n + 1] for m in noise), *self.fixed]).clamp(
                0, 1
            ),
            range(len(styles)),
        )
        return Inversion(
            styles.cpu(), tuple(m.cpu() for m in noise), torch.cat(images).cpu(), loss.cpu(), error.cpu(), losses,
            len(losses), self.seed, is_interrupted,
        )  # fmt: skip
