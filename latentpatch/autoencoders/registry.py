"""The registry of autoencoders, by the name users give them."""

from __future__ import annotations

import importlib

import torch

from ..runs.defaults import plain_torch
from .base import Autoencoder, AutoencoderSpec
from .names import AUTOENCODERS, DEFAULT, parse_autoencoder

__all__ = ["AUTOENCODERS", "DEFAULT", "Autoencoder", "AutoencoderSpec", "load_autoencoder", "parse_autoencoder"]


def load_autoencoder(name: str, argument: str | None = None, *, pretrained: bool = True) -> Autoencoder:
    """Build an autoencoder by name. Under ``torch.device("meta")`` no weights are read.

    Args:
        name: a key of :data:`AUTOENCODERS`, or ``NAME:ARGUMENT``.
        argument: mostly a local file or folder of weights, see the families' modules.
        pretrained: False builds random weights without touching files or the network.

    Raises:
        SettingError: for an unknown name.
        MissingDependencyError: without the family's packages.
        WeightsError: for weights that are missing, altered or malformed.
    """
    if argument is None:
        name, argument = parse_autoencoder(name)
    else:
        parse_autoencoder(name)
    pretrained = pretrained and not torch.empty(0).is_meta
    family = importlib.import_module(f".{AUTOENCODERS[name]}", __package__)
    with plain_torch(keeps_device=True, forks_random=pretrained):
        model: Autoencoder = family.load(name, argument, pretrained=pretrained)
    return model
