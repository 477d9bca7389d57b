"""The TAESD family: tiny distilled autoencoders with the latents of large ones (MIT).

Written from the description at https://github.com/madebyollin/taesd: 3x3 convolutions of 64 channels,
ReLU residual blocks, strided convolutions down, nearest-neighbour upsampling, images in [0, 1].
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..validation import check_choice, check_integer
from .base import Autoencoder, AutoencoderSpec
from .weights import WeightFile, located, read_checkpoint

__all__ = ["TinyAutoencoder", "load"]

_WIDTH = 64
_CHANNELS = {"taesd": 4, "taesdxl": 4, "taesd3": 16, "taef1": 16, "taef2": 32}
_URL = "https://github.com/madebyollin/taesd/raw/main/"
_SHA256 = {
    "taef2_encoder.pth": "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
    "taef2_decoder.pth": "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
}


class _Block(nn.Module):
    """A residual block of three convolutions.

    A pooled block first adds a wide group-normed branch, by which distant cells see each other's statistics.
    """

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        width = _WIDTH
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        if pooled:
            self.pool: nn.Sequential | None = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )
        else:
            self.pool = None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _SoftClamp(nn.Module):
    """3 tanh(x / 3), which keeps stray latents within the range that the decoder was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _encoder(channels: int, pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, _WIDTH, 3, padding=1), _Block()]
    for stage in range(3):
        layers.append(nn.Conv2d(_WIDTH, _WIDTH, 3, stride=2, padding=1, bias=False))
        layers += [_Block(pooled and stage == 2) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(_WIDTH, channels, 3, padding=1))


def _decoder(channels: int, pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [_SoftClamp(), nn.Conv2d(channels, _WIDTH, 3, padding=1), nn.ReLU()]
    for stage in range(3):
        layers += [_Block(pooled and stage == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, _Block(), nn.Conv2d(_WIDTH, 3, 3, padding=1))


class TinyAutoencoder(Autoencoder):
    """A TAESD autoencoder: f8, folded to f16 so that the grid is 16x16 at 256 pixels.

    Args:
        name: ``taesd``, ``taesdxl`` (4 channels), ``taesd3``, ``taef1`` (16) or ``taef2`` (32).
        fold: 2 gives f16 and four times the channels; 1 keeps f8.
    """

    def __init__(self, name: str = "taef2", fold: int = 2) -> None:
        check_choice("name", name, _CHANNELS)
        check_integer("fold", fold, 1, 2)
        channels, pooled = _CHANNELS[name], name == "taef2"
        spec = AutoencoderSpec(name, "tiny", channels * fold**2, 8 * fold, 256, "MIT")
        super().__init__(spec, fold)
        self.encoder = _encoder(channels, pooled)
        self.decoder = _decoder(channels, pooled)
        self.freeze()

    def encode_raw(self, images: Tensor) -> Tensor:
        latents: Tensor = self.encoder(images)
        return latents

    def decode_raw(self, latents: Tensor) -> Tensor:
        images: Tensor = self.decoder(latents)
        return images


def load(name: str, argument: str | None = None, *, pretrained: bool = True) -> TinyAutoencoder:
    """Build a member of the family.

    Args:
        name: see :class:`TinyAutoencoder`.
        argument: folder that holds ``NAME_encoder.pth`` and ``NAME_decoder.pth``, or one of the two files; None
            to use the cache or download.
        pretrained: False for random weights and no access to files or network.

    Raises:
        WeightsError: for files that are missing, altered or malformed.
    """
    model = TinyAutoencoder(name)
    if pretrained:
        weights: dict[str, Tensor] = {}
        folder = None if argument is None else Path(argument).expanduser()
        if folder is not None and folder.is_file():
            folder = folder.parent  # the other one of the two files lies beside it
        elif folder is not None and not folder.is_dir():
            raise WeightsError(f"{folder} must be a folder with {name}_encoder.pth and {name}_decoder.pth")
        with ExitStack() as files:
            for half in ("encoder", "decoder"):
                file = WeightFile(f"{name}_{half}.pth", f"{_URL}{name}_{half}.pth", _SHA256.get(f"{name}_{half}.pth"))
                path = files.enter_context(located(file, folder))
                state = read_checkpoint(path)
                if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
                    raise WeightsError(f"{path} must hold a flat state dict of tensors")
                weights |= {f"{half}.{key}": value.float() for key, value in state.items()}
            model.load_weights(weights, str(folder or name))
    return model
