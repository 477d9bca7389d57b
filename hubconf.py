"""PyTorch Hub: ``torch.hub.load("OWNER/latentpatch", "latentpatch", trust_repo=True)``."""

dependencies = ["torch", "numpy", "PIL", "safetensors", "tqdm"]

from latentpatch.hub import (  # noqa: E402
    TASK_ENTRIES,
    diffusers_autoencoder,
    embedded_autoencoder,
    generator,
    inversion,
    latentpatch,
    pixel_autoencoder,
    taming_autoencoder,
    tiny_autoencoder,
    trained_model,
)

__all__ = [
    "diffusers_autoencoder",
    "embedded_autoencoder",
    "generator",
    "inversion",
    "latentpatch",
    "pixel_autoencoder",
    "taming_autoencoder",
    "tiny_autoencoder",
    "trained_model",
    *TASK_ENTRIES,
]
globals().update(TASK_ENTRIES)  # reshuffle, retarget and so on
