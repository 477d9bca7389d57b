"""Names of autoencoders; importing this module imports no torch."""

from __future__ import annotations

from ..errors import SettingError

__all__ = ["AUTOENCODERS", "DEFAULT", "parse_autoencoder"]

#: Module of each autoencoder, in this package; it is imported when one of its members is loaded.
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

#: Autoencoder where none is named; it needs no download.
DEFAULT = "embedded"


def parse_autoencoder(text: str) -> tuple[str, str | None]:
    """Split ``NAME[:ARGUMENT]``, e.g. ``taef2:weights/`` or ``pixels:8``.

    Raises:
        SettingError: for an unknown name or nothing after the colon.
    """
    name, colon, argument = text.partition(":")
    if name not in AUTOENCODERS:
        raise SettingError("autoencoder", name, f"one of {', '.join(AUTOENCODERS)}")
    if colon and not argument:
        raise SettingError("autoencoder", text, "followed by a file or folder after the colon")
    return name, argument or None
