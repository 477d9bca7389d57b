"""Names of generators; importing this module imports no torch."""

from __future__ import annotations

from ...autoencoders.names import AUTOENCODERS
from ...errors import SettingError

__all__ = ["GENERATORS", "parse_generator"]

#: Generators by name, with what they are.
GENERATORS = {
    "dcgan": "DCGAN of 64 pixels; weights of the package gan-face-generate, or a file",
    "stylegan2": "StyleGAN2; a state dict of rosinality's or of NVIDIA's ada and 3",
    "stylegan1": "StyleGAN; a state dict of rosinality's or of lernapparat's",
    "mobile-stylegan": "MobileStyleGAN of 1024 pixels; the folder of the package random-face",
    "latentpatch": "weighted means of a fitted model's sources; a model file",
    **dict.fromkeys(AUTOENCODERS, "decoder of an autoencoder"),
}


def parse_generator(text: str) -> tuple[str, str | None]:
    """Split ``NAME[:PATH]``.

    Raises:
        SettingError: for an unknown name, or nothing after the colon.
    """
    name, colon, argument = text.partition(":")
    if name not in GENERATORS:
        raise SettingError("generator", name, f"one of {', '.join(GENERATORS)}")
    if colon and not argument:
        raise SettingError("generator", text, "followed by a file or folder after the colon")
    return name, argument or None
