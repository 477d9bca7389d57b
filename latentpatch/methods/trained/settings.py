"""Settings of trained methods: of their training and of their use; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import Settings, setting

__all__ = ["TRAINED_TASKS", "HPVAEGANSettings", "SinGANSettings", "TrainedSettings"]

#: Tasks on pictures that trained models can do.
TRAINED_TASKS = ("reshuffle", "retarget", "analogy", "harmonize", "edit", "inpaint")


@dataclass(frozen=True)
class TrainedSettings(Settings):
    """Settings of the use of a trained model."""

    start_scale: int | None = setting(
        None,
        "first scale of a trained model that makes the picture anew; coarser ones keep its layout",
        minimum=0,
        metavar="SCALE",
        default_help="0; 1 for analogies, the middle for edits, the last but one to harmonize",
    )


@dataclass(frozen=True)
class _PyramidSettings(Settings):
    """Settings that trainings of pyramids share."""

    ratio: float = setting(
        0.75, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95, symbol="1/r"
    )
    rate: float = setting(5e-4, "learning rate of Adam", above=0, maximum=1)
    reconstruction: float = setting(10.0, "weight of the reconstruction", minimum=0, symbol="alpha")
    penalty: float = setting(0.1, "weight of the gradient penalty", minimum=0, symbol="lambda")
    noise: float = setting(
        0.1, "standard deviation of a scale's noise, relative to the error of reconstruction", minimum=0, maximum=10
    )


@dataclass(frozen=True)
class SinGANSettings(_PyramidSettings):
    """Settings of the training of SinGAN (Shaham et al., ICCV 2019), by default those of its authors' code."""

    steps: int = setting(2000, "steps a scale", minimum=1)
    coarsest: int = setting(25, "shorter side of the coarsest scale", minimum=12, metavar="PIXELS")
    width: int = setting(32, "channels of the four coarsest scales; twice as many in finer ones", minimum=1, limit=512)
    critic_steps: int = setting(3, "updates of the critic in a step", minimum=1, is_advanced=True)
    generator_steps: int = setting(3, "updates of the generator in a step", minimum=1, is_advanced=True)


@dataclass(frozen=True)
class HPVAEGANSettings(_PyramidSettings):
    """Settings of the training of HP-VAE-GAN (Gur et al., NeurIPS 2020), by default those of its authors' code."""

    steps: int = setting(50000, "steps a scale", minimum=1)
    coarsest: int = setting(32, "shorter side of the coarsest scale", minimum=12, metavar="PIXELS")
    width: int = setting(64, "channels of all scales", minimum=1, limit=512)
    latent: int = setting(128, "channels of the code", minimum=1, limit=1024)
    vae_levels: int = setting(3, "scales that are trained as an autoencoder, without a critic", minimum=1)
    batch: int = setting(2, "pictures of a step", minimum=1)
    divergence: float = setting(1.0, "weight of the divergence of codes from noise", minimum=0, symbol="KL")
    clip: float = setting(5.0, "largest norm of a gradient", above=0, is_advanced=True)
