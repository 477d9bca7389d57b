"""The registry of autoencoders, by the name users give them."""

from __future__ import annotations

import importlib

import torch

from ..errors import SettingError
from ..validation import check_choice
from .base import Autoencoder, AutoencoderSpec

__all__ = ["AUTOENCODERS", "DEFAULT", "Autoencoder", "AutoencoderSpec", "load_autoencoder", "parse_autoencoder"]

#: Module of each autoencoder's family, which is imported when one of its members is built.
AUTOENCODERS = {
    "embedded": "embedded",
    "embedded-vq": "embedded",
    "taesd": "taesd",
    "taesdxl": "taesd",
    "taesd3": "taesd",
    "taef1": "taesd",
    "taef2": "taesd",
    "vqgan-ffhq": "vqgan",
    "vqgan-celebahq": "vqgan",
    "vqgan-faceshq": "vqgan",
    "vqgan-imagenet-1024": "vqgan",
    "vqgan-imagenet-16384": "vqgan",
    "diffusers": "hf_diffusers",
    "pixels": "pixels",
}


#: Name of the default autoencoder, which needs no download.
DEFAULT = "embedded"


def parse_autoencoder(text: str) -> tuple[str, str | None]:
    """Split ``NAME[:ARGUMENT]``, e.g. ``taef2:weights/`` or ``pixels:8``.

    Raises:
        SettingError: for an unknown name or nothing after the colon.
    """
    name, colon, argument = text.partition(":")
    check_choice("autoencoder", name, AUTOENCODERS)
    if colon and not argument:
        raise SettingError("autoencoder", text, "a name, or a name with a file or folder after the colon")
    return name, argument or None


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
    model: Autoencoder = family.load(name, argument, pretrained=pretrained)
    return model
