"""Settings of the inversion of generators; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SettingError
from ...settings import Settings, setting

__all__ = ["InversionSettings"]


@dataclass(frozen=True)
class InversionSettings(Settings):
    """Settings of the search for the styles and noise maps of a picture (GAN inversion, section 4)."""

    steps: int = setting(3000, "steps of the optimizer", minimum=10, limit=20000)
    optimizer: str = setting(
        "adam",
        "adam as in the paper; lbfgs finds its own step lengths, and comes nearer in as many steps",
        choices=("adam", "lbfgs"),
    )
    learning_rate: float = setting(
        0.1, "step length of adam at the start, which falls to 0 along a cosine", above=0, maximum=10
    )
    sides: tuple[int, ...] | None = setting(
        None,
        "sides in pixels of the pictures that are compared, coarse to fine, each for an equal part of the steps; a "
        "side that is repeated has more",
        minimum=8,
        default_help="that of the generator",
        metavar="SIDE,...",
    )
    noise_maps: int = setting(5, "first noise maps that are searched for, too; the others stay", minimum=0, symbol="k")
    arc: float = setting(
        0.004,
        "weight of the mean squared angle between the styles of two layers, in radians",
        minimum=0,
        symbol="α",  # noqa: RUF001
    )
    loss: str = setting(
        "mse", "difference of pictures: at their size, or the mean over sizes", choices=("mse", "pyramid")
    )
    perceptual_weight: float = setting(1.0, "weight of the perceptual loss, where there is one", minimum=0)
    start: str | None = setting(
        None,
        "first styles: the generator's mean, random ones, or those of its encoder",
        choices=("mean", "random", "encoder"),
        default_help="mean for StyleGAN, random for DCGAN, encoder for decoders",
    )
    starts: int = setting(1, "random starts, of which the best result is kept", minimum=1, limit=16)
    precision: str = setting(
        "float32",
        "numbers of the search; bfloat16 is faster where the processor has instructions for it",
        choices=("float32", "bfloat16"),
        is_advanced=True,
    )
    noise_regularization: float = setting(
        0.0,
        "weight of the correlation within noise maps, which are then kept at mean 0 and deviation 1 (1e5 in StyleGAN2)",
        minimum=0,
        is_advanced=True,
    )

    def check_together(self) -> None:
        if self.sides is not None and (list(self.sides) != sorted(self.sides) or len(self.sides) > self.steps):
            raise SettingError("sides", self.sides, "in ascending order, not more than there are steps")
        if self.starts > 1 and self.start not in (None, "random"):
            raise SettingError("starts", self.starts, "1 where the start is not random")
        if self.optimizer == "lbfgs" and self.noise_regularization:
            raise SettingError("noise_regularization", self.noise_regularization, "0 with lbfgs")
