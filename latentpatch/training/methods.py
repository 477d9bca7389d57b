"""Trainings by the name of their method; importing this module imports no torch."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingError, SettingTypeError
from ..methods.trained.fewgan_settings import FewGANSettings
from ..methods.trained.settings import HPVAEGANSettings, SinGANSettings
from ..settings import Settings
from ..validation import check_choice, check_integer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..methods.trained.base import TrainedModel

__all__ = ["TRAININGS", "Training", "train_model"]

_BASE_MEMORY = 450 << 20  # bytes of the process without networks
_BYTES_PER_CHANNEL = 400  # of a pixel in a step, measured: activations of all layers, and their gradients


@dataclass(frozen=True)
class Training:
    """A method that can be trained.

    Attributes:
        settings: class of the settings of the training.
        summary: one phrase, for help.
        build: "MODULE:FUNCTION" relative to this package; from pictures and settings to model and stages.
        least: fewest pictures.
        most: most pictures; None for any number.
        accepts_side: whether side pictures may give the structure.
    """

    settings: type[Settings]
    summary: str
    build: str
    least: int = 1
    most: int | None = None
    accepts_side: bool = False


#: Trainings by name.
TRAININGS = {
    "singan": Training(
        SinGANSettings, "a pyramid of patch-GANs of one picture (Shaham et al., ICCV 2019)", ".singan:build_singan",
        most=1,
    ),
    "concat-singan": Training(
        SinGANSettings, "SinGAN of several pictures side by side (a baseline of FewGAN, ICIP 2022)",
        ".singan:build_concat_singan", least=2,
    ),
    "hp-vae-gan": Training(
        HPVAEGANSettings, "a patch autoencoder and patch-GANs of several pictures (Gur et al., NeurIPS 2020)",
        ".hp_vae_gan:build_hp_vae_gan", least=2,
    ),
    "fewgan": Training(
        FewGANSettings, "a codebook, patch-GANs and a PixelCNN of several pictures (Ben-Moshe et al., ICIP 2022)",
        ".fewgan:build_fewgan", least=2, accepts_side=True,
    ),
}  # fmt: skip


def train_model(
    method: str,
    pictures: Sequence[Tensor],
    folder: str | Path,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    log_every: int = 50,
    checkpoint_seconds: float = 60.0,
    show_progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
    **inputs: Any,
) -> TrainedModel:
    """Train a model on one picture or a few; go on where an earlier call with the same arguments was interrupted.

    Args:
        method: a key of :data:`TRAININGS`.
        pictures: ``(3, H, W)`` float32 in [0, 1], all of one size.
        folder: of the checkpoints and the log, see :func:`~latentpatch.training.loop.train`.
        settings: of the training.
        seed, device, precision, log_every, checkpoint_seconds, show_progress, say: see
            :func:`~latentpatch.training.loop.train`.
        inputs: further ones of the method, such as side pictures: lists of tensors.

    Raises:
        SettingError: for arguments that cannot be used; before the first step.
        FileError, TrainingError: see :func:`~latentpatch.training.loop.train`.
    """
    import torch

    from ..io.atomic import tensor_bytes
    from ..methods.picture import check_picture
    from ..runs.defaults import plain_torch
    from .loop import train

    training = TRAININGS[check_choice("method", method, TRAININGS)]
    settings = training.settings() if settings is None else settings
    if not isinstance(settings, training.settings):
        raise SettingTypeError("settings", type(settings).__name__, f"settings of the training {method}")
    if len(pictures) < training.least or len(pictures) > (training.most or len(pictures)):
        raise SettingError("pictures", len(pictures), f"at least {training.least}" if training.least > 1 else "one")
    pictures = [check_picture("pictures", each) for each in pictures]
    for each in pictures:
        if each.shape != (3, *pictures[0].shape[1:]):
            raise SettingError("pictures", tuple(each.shape), "of shape (3, H, W), the same for all")
    module, _, name = training.build.partition(":")
    build = getattr(importlib.import_module(module, __package__), name)
    model: TrainedModel
    with (
        plain_torch(for_gradients=True),
        torch.random.fork_rng([]),
    ):  # weights that no stage draws anew, such as biases, follow from the seed, too
        torch.manual_seed(check_integer("seed", seed, 0))
        model, stages = build(pictures, settings, **inputs)
    model.to(device)
    digests = {
        key: [hashlib.sha256(tensor_bytes(each)).hexdigest() for each in tensors]
        for key, tensors in {"pictures": pictures, **inputs}.items()
    }
    totals = {key: hashlib.sha256("".join(digests[key]).encode()).hexdigest() for key in inputs}  # there may be many
    facts = {"method": method, **settings.record(), **digests, **totals}
    height, width = model.sizes[-1]
    pixels = height * width * getattr(settings, "batch", 1)
    channels = max(each.shape[0] for each in model.parameters() if each.ndim == 4)
    memory = _BASE_MEMORY + pixels * channels * _BYTES_PER_CHANNEL
    with plain_torch(for_gradients=True):
        train(
            stages, folder, facts, seed=seed, device=device, precision=precision, memory=memory, log_every=log_every,
            checkpoint_seconds=checkpoint_seconds, show_progress=show_progress, say=say,
        )  # fmt: skip
    model.trained = {**facts, "seed": seed, "precision": precision}
    return model
