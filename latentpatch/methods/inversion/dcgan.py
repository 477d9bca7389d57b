"""DCGAN of 64 pixels (Radford et al., 2015; sizes of PyTorch's tutorial)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

from ...autoencoders.weights import read_checkpoint
from ...errors import SettingError, WeightsError
from .generator import Generator, GeneratorSpec, load_state
from .wheels import wheel_file

__all__ = ["DCGAN", "load"]

_LATENT, _WIDTH = 100, 64


class DCGAN(Generator):
    """A DCGAN of 64 pixels: one style of 100 numbers, no noise maps."""

    default_start = "random"

    def __init__(self, argument: str | None = None) -> None:
        spec = GeneratorSpec(
            "dcgan",
            1,
            _LATENT,
            _LATENT,
            (64, 64),
            license="MIT for gan-face-generate",
            trained_on="DigiFace-1M, rendered faces",
            argument=argument,
        )
        super().__init__(spec)
        widths = [_LATENT, *(_WIDTH * 2**k for k in (3, 2, 1, 0)), 3]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.ConvTranspose2d(before, after, 4, 2 if i else 1, 1 if i else 0, bias=False))
            layers += [nn.Tanh()] if after == 3 else [nn.BatchNorm2d(after), nn.ReLU()]
        self.main = nn.Sequential(*layers)

    def mean_styles(self) -> Tensor:
        """Refuse: at the mean, 0, rectifiers let nothing through, and no gradient either."""
        raise SettingError("start", "mean", "random for a DCGAN, which has no slope at its mean")

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        pictures: Tensor = self.main(styles[:, 0, :, None, None])
        return pictures / 2 + 0.5


def load(argument: str | None = None, *, pretrained: bool = True) -> DCGAN:
    """Build the generator.

    Args:
        argument: a file of weights, as the tutorial's ``Generator`` or the package's ``weights.tar`` has them; None
            for those of the installed package gan-face-generate.
        pretrained: False for random weights.

    Raises:
        MissingDependencyError, WeightsError: for weights that are missing or malformed.
    """
    model = DCGAN(argument)
    if pretrained:
        path = wheel_file("gan_face_generate", "weights.tar", "dcgan") if argument is None else Path(argument)
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
        state = read_checkpoint(path)
        state = state.get("netG_state_dict", state) if isinstance(state, dict) else state
        if not isinstance(state, dict) or not all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
        ):
            raise WeightsError(f"{path} must hold a state dict of a DCGAN of 64 pixels (main.0.weight and so on)")
        load_state(model, {key.removeprefix("module."): value for key, value in state.items()}, str(path))
    else:
        for module in model.modules():
            if isinstance(module, nn.ConvTranspose2d):  # so that pictures have contrast
                nn.init.kaiming_normal_(module.weight.transpose(0, 1), nonlinearity="relu")
                module.weight.data.mul_(2.0)
    model.freeze()
    return model
