"""Settings of the training of FewGAN; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import Settings, setting

__all__ = ["FewGANSettings"]


@dataclass(frozen=True)
class FewGANSettings(Settings):
    """Settings of the training of FewGAN (Ben-Moshe et al., ICIP 2022).

    Defaults that its paper leaves open are those of SinGAN and HP-VAE-GAN, or of our own trials.
    """

    steps: int = setting(2000, "steps a scale", minimum=1)
    prior_steps: int = setting(5000, "steps of the PixelCNN", minimum=1)
    coarsest: int = setting(25, "shorter side of the coarsest scale", minimum=8, metavar="PIXELS")
    ratio: float = setting(
        0.75, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95, symbol="1/r"
    )
    codes: int = setting(256, "entries of the codebook", minimum=2, limit=8192, symbol="K")
    code_size: int = setting(64, "channels of an entry besides its coordinates", minimum=1, limit=1024, symbol="n_z")
    position: int = setting(
        4,
        "repetitions of the coordinates in an entry; the more, the more an entry keeps to its place",
        minimum=0,
        limit=64,
        symbol="lambda_pos",
        metavar="TIMES",
    )
    width: int = setting(64, "channels of all scales", minimum=1, limit=512)
    layers: int = setting(5, "convolutions of decoder, generators and critics", minimum=2, limit=16, is_advanced=True)
    prior_layers: int = setting(7, "layers of the PixelCNN after its first one", minimum=1, limit=64, is_advanced=True)
    critic_steps: int = setting(3, "updates of the critic in a step", minimum=1, is_advanced=True)
    generator_steps: int = setting(3, "updates of the generator in a step", minimum=1, is_advanced=True)
    batch: int = setting(2, "sources, and as many side pictures, of an update", minimum=1)
    rate: float = setting(5e-4, "learning rate of Adam", above=0, maximum=1)
    reconstruction: float = setting(10.0, "weight of the reconstruction of sources", minimum=0, symbol="alpha")
    penalty: float = setting(0.1, "weight of the gradient penalty", minimum=0, symbol="lambda_gp")
    commitment: float = setting(0.25, "weight of the commitment loss", minimum=0, symbol="beta", is_advanced=True)
    ssim: float = setting(1.0, "weight of the structural similarity to side pictures", minimum=0)
    side_adversarial: float = setting(1.0, "weight of the adversarial loss of side pictures", minimum=0)
    side_fakes: bool = setting(True, "whether the critic is also shown what is made from side pictures, as fakes")
    continuity: float = setting(1.0, "weight of the continuity of the encoder's output", minimum=0)
    drawn: int = setting(64, "drawn landscapes that are the side pictures where there are no others", minimum=1)
