"""Pretrained autoencoders behind one contract, one file a family."""

from __future__ import annotations

import importlib

import torch

from .base import Autoencoder, AutoencoderSpec

__all__ = ["AUTOENCODERS", "DEFAULT", "Autoencoder", "AutoencoderSpec", "load_autoencoder", "parse_autoencoder"]

#: Family of each autoencoder; a family's module is imported when one of its members is asked for.
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


#: The one that is taken where none is named: it needs no download.
DEFAULT = "embedded"


def parse_autoencoder(text: str) -> tuple[str, str | None]:
    """Split ``NAME[:ARGUMENT]``, e.g. ``taef2:weights/`` or ``pixels:8``.

    Raises:
        ValueError: for an unknown name or nothing after the colon.
    """
    name, colon, argument = text.partition(":")
    if name not in AUTOENCODERS:
        raise ValueError(f"autoencoder {name!r}: one of {', '.join(AUTOENCODERS)} is expected")
    if colon and not argument:
        raise ValueError(f"autoencoder {text!r}: a file or folder is expected after the colon")
    return name, argument or None


def load_autoencoder(name: str, argument: str | None = None, *, pretrained: bool = True) -> Autoencoder:
    """Build an autoencoder by name. Under ``torch.device("meta")`` no weights are read.

    Args:
        name: a key of :data:`AUTOENCODERS`, or ``NAME:ARGUMENT``.
        argument: what the family makes of it, mostly a local file or folder of weights.
        pretrained: False builds random weights without touching files or the network.

    Raises:
        ValueError: for an unknown name.
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
