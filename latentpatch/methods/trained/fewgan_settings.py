"""Settings of FewGAN; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import Settings, setting

__all__ = ["FewGANSettings"]


@dataclass(frozen=True)
class FewGANSettings(Settings):
    """Settings of FewGAN (Ben-Moshe et al., ICIP 2022); those of HP-VAE-GAN and SinGAN where its paper has none."""

    coarsest: int = setting(25, "shorter side of scale 0", minimum=8, limit=256, metavar="PIXELS")
    ratio: float = setting(
        0.75, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95, symbol="r"
    )
    codes: int = setting(256, "entries of the codebook", minimum=2, limit=8192, symbol="K")
    code_size: int = setting(
        64, "numbers of a code besides its coordinates", minimum=1, limit=1024, symbol="n_z", is_advanced=True
    )
    position: int = setting(
        4, "repetitions of the coordinates in a code; the more, the more a code keeps to its place", minimum=0,
        limit=64, symbol="lambda_pos", metavar="TIMES",
    )  # fmt: skip
    channels: int = setting(64, "channels of the layers", minimum=4, limit=512, is_advanced=True)
    layers: int = setting(
        5, "3x3 convolutions of the decoder, and of the generator and the discriminator of a scale", minimum=2,
        limit=16, is_advanced=True,
    )  # fmt: skip
    prior_layers: int = setting(
        7, "gated layers of the PixelCNN after its first one", minimum=1, limit=64, is_advanced=True
    )
    steps: int = setting(2000, "training steps of a scale", minimum=1, metavar="N")
    prior_steps: int = setting(2000, "training steps of the PixelCNN", minimum=1, metavar="N")
    repeats: int = setting(
        3, "updates of the discriminator, and then of the generator, in a step", minimum=1, metavar="N",
        is_advanced=True,
    )  # fmt: skip
    batch: int = setting(2, "sources, and side pictures, of an update", minimum=1, metavar="N")
    rate: float = setting(5e-4, "learning rate", above=0, maximum=1, is_advanced=True)
    gradient_penalty: float = setting(
        0.1, "weight of the gradient penalty", minimum=0, symbol="lambda_gp", is_advanced=True
    )
    reconstruction: float = setting(10.0, "weight of the squared error of the sources", minimum=0, is_advanced=True)
    commitment: float = setting(0.25, "weight of the commitment loss", minimum=0, symbol="beta", is_advanced=True)
    side_adversarial: float = setting(1.0, "weight of the adversarial loss of side pictures", minimum=0)
    side_fakes: bool = setting(
        False, "show pictures made from side pictures to the discriminator as generated ones, too"
    )
    ssim: float = setting(1.0, "weight of the structural similarity to side pictures", minimum=0)
    continuity: float = setting(1.0, "weight of the continuity of the encoder's output", minimum=0)
