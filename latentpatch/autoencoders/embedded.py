"""The autoencoders in the package: small, fast, and trained to blend.

``embedded`` is a student of taef2 (https://github.com/madebyollin/taesd, MIT) and shares its latent space,
folded to f16: a bank made with one can be decoded by the other. ``embedded-vq`` has a codebook of 1024 codes
with 256 channels, the shape of LatentPatch's own VQGAN. Nearly all work is done at 1/16 of the resolution, where
a wide network sees the surroundings of each cell, so that a mosaic of latents from many sources becomes one
image. :mod:`latentpatch.training` is the recipe.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import WeightsError
from ..io.mmap import read_tensors
from .base import Autoencoder, AutoencoderSpec
from .onednn import PackedConvolution, works
from .weights import sha256_of

__all__ = ["EmbeddedAutoencoder", "QuantizedAutoencoder", "load", "read_halves"]

_FOLDER = Path(__file__).parent / "embedded_weights"
_SHA256 = {
    "embedded-vq_decoder.safetensors": "65a1635b9551099bd4ae1fb7ecf4e4b18909ce481522f6f737374597b014a449",
    "embedded-vq_encoder.safetensors": "fcb0c4a610c3603acef9533b3860411d3fdd232b77da5422fdfee8c5f54085cb",
    "embedded_decoder.safetensors": "b5bb45e424f3df09efb4a6ac4b5e46e5c4460f55deed4a391762314dc79a22c5",
    "embedded_encoder.safetensors": "e6537a97d15e0f652867a5b1e5044ab650cab5b0db37552c9806d856ea7c0a0b",
}


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, with their own number of channels between them."""

    def __init__(self, width: int, between: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, between or width, 3, padding=1)
        self.second = nn.Conv2d(between or width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(torch.relu(self.first(x)))
        return x + change


class _PackedResidual(nn.Module):
    """A residual block for inference on a CPU."""

    def __init__(self, plain: _Residual, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first = PackedConvolution(plain.first, shape, relu=True)
        self.second = PackedConvolution(plain.second, shape)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x), plus=x)
        return result


class _Fold(nn.Module):
    """``nn.PixelUnshuffle`` that leaves the channels of a pixel side by side, as they are in channels-last memory."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        images, channels, height = x.shape[:3]
        rows = x.permute(0, 2, 3, 1).reshape(images, height // self.side, self.side, -1, self.side * channels)
        return rows.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)

    def before(self, plain: nn.Conv2d) -> nn.Conv2d:
        """Return a convolution that does after this what ``plain`` does after ``nn.PixelUnshuffle``."""
        moved = copy.deepcopy(plain)
        blocks = plain.weight.detach().unflatten(1, (-1, self.side, self.side))
        moved.weight = nn.Parameter(blocks.permute(0, 2, 3, 1, 4, 5).flatten(1, 3), requires_grad=False)
        return moved


def _packed(network: nn.Sequential, example: Tensor) -> nn.Sequential:
    """Return a network that computes the same faster on a CPU; the network itself where that does not work.

    Args:
        network: with weights of the type it is to compute in.
        example: ``(N, C, h, w)`` of the usual size.
    """
    layers: list[nn.Module] = []
    x = example
    try:
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                fold = layers[-1] if layers else None
                plain = fold.before(layer) if isinstance(fold, _Fold) else layer
                layers.append(PackedConvolution(plain, tuple(x.shape)))
            elif isinstance(layer, nn.PixelUnshuffle):  # always before a convolution
                layers.append(_Fold(layer.downscale_factor))
            elif isinstance(layer, _Residual):
                layers.append(_PackedResidual(layer, tuple(x.shape)))
            else:
                layers.append(layer)
            x = layer(x)
    except (AttributeError, RuntimeError, TypeError):  # no such operators in this PyTorch
        return network
    quick = nn.Sequential(*layers)
    return quick if works(quick, example, x) else network


def _decoder(
    channels: int, coarse: int = 224, middle: int = 128, fine: int = 48, between: tuple[int, int, int] | None = None
) -> nn.Sequential:
    """(N, channels, h, w) -> (N, 3, 16 h, 16 w); the widths are those at 1/16, 1/8 and 1/4 of the resolution, as are
    those within residual blocks, where they differ.
    """
    inner = between or (coarse, middle, fine)
    return nn.Sequential(
        nn.Conv2d(channels, coarse, 3, padding=1),
        *(_Residual(coarse, inner[0]) for _ in range(3)),
        nn.Conv2d(coarse, 4 * middle, 1),
        nn.PixelShuffle(2),
        _Residual(middle, inner[1]),
        nn.Conv2d(middle, 4 * fine, 1),
        nn.PixelShuffle(2),
        _Residual(fine, inner[2]),
        nn.Conv2d(fine, 48, 3, padding=1),
        nn.PixelShuffle(4),
    )


def _encoder(channels: int, fine: int = 48, middle: int = 128, coarse: int = 192) -> nn.Sequential:
    """Return a network of images ``(N, 3, 16 h, 16 w)`` to latents ``(N, channels, h, w)``."""
    return nn.Sequential(
        nn.PixelUnshuffle(4),
        nn.Conv2d(48, fine, 3, padding=1),
        _Residual(fine),
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * fine, middle, 1),
        _Residual(middle),
        _Residual(middle),
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * middle, coarse, 1),
        _Residual(coarse),
        _Residual(coarse),
        nn.Conv2d(coarse, channels, 3, padding=1),
    )


class _Small(Autoencoder):
    """Base of both autoencoders: f16 encoder and decoder, which are quick in lower precision."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__(spec)
        # Of each network, versions of the weights that were cast, and the cast network; not in the state.
        self._lowered: dict[str, tuple[list[Any], nn.Sequential]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lowered": {}}  # cast networks are neither copied nor saved

    def _network(self, name: str, x: Tensor) -> tuple[nn.Sequential, Tensor]:
        """Return the encoder or decoder, and its input ``x``, in the type to compute in.

        In autocast that is a network with weights of that type, on a CPU with weights laid out for it: casting and
        laying out at each call would take a tenth to a third of the network's time.
        """
        network: nn.Sequential = getattr(self, name)
        kind = self.device.type
        if not torch.is_autocast_enabled(kind) or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return network, x
        dtype = torch.get_autocast_dtype(kind)
        x = x.to(dtype)
        versions = [dtype, *((weight.data_ptr(), _version(weight)) for weight in network.parameters())]
        kept = self._lowered.get(name)
        if kept is None or kept[0] != versions:
            quick = copy.deepcopy(network).to(dtype)
            with torch.autocast(kind, enabled=False):
                kept = versions, _packed(quick, x) if kind == "cpu" else quick
            self._lowered[name] = kept
        return kept[1], x

    def _run_decoder(self, latents: Tensor) -> Tensor:
        """Return the decoder's output ``(N, 3, 16 h, 16 w)`` float32 for latents ``(N, C, h, w)``."""
        (*layers, shuffle), latents = self._network("decoder", latents)
        for layer in layers:
            latents = layer(latents)
        # To float32 before the 0.5 is added: bfloat16 has too few digits for shades near white. And before pixels are
        # shuffled, which is quicker than after.
        images: Tensor = shuffle(latents.float())
        return images

    @property
    def stores_residuals_by_default(self) -> bool:
        """True: the decoders are small."""
        return True

    @property
    def chunk_size(self) -> int:
        """Images in a chunk: more than one, because the network is small."""
        return 2 if self.device.type == "cpu" else 16

    def encode_raw(self, images: Tensor) -> Tensor:
        encoder, images = self._network("encoder", images - 0.5)
        latents: Tensor = encoder(images)
        return latents


class EmbeddedAutoencoder(_Small):
    """A compact student of taef2: f16, 128 channels.

    Args:
        between: channels within the decoder's residual blocks at 1/16, 1/8 and 1/4 of the resolution; None for as many
            as outside them, with which training begins.
    """

    def __init__(self, between: tuple[int, int, int] | None = (96, 64, 32)) -> None:
        super().__init__(AutoencoderSpec("embedded", "embedded", 128, 16, 256, "MIT", latent_space="taef2"))
        self.encoder = _encoder(128)
        self.decoder = _decoder(128, between=between)
        self.freeze()

    @torch.no_grad()
    def prune_from(self, wide: EmbeddedAutoencoder, latents: Tensor) -> EmbeddedAutoencoder:
        """Copy a wider autoencoder without the least important channels within residual blocks. Returns itself.

        A channel's importance is its mean contribution to its block's output (Li et al. 2017, "Pruning filters for
        efficient ConvNets", with activations counted in).

        Args:
            wide: with weights.
            latents: ``(N, 128, h, w)`` examples.
        """
        self.encoder.load_state_dict(wide.encoder.state_dict())
        x = torch.tanh(latents / 3) * 3
        for mine, theirs in zip(self.decoder, wide.decoder, strict=True):
            if isinstance(mine, _Residual) and isinstance(theirs, _Residual):
                activations = torch.relu(theirs.first(x)).mean((0, 2, 3))
                importance = activations * theirs.second.weight.flatten(2).norm(dim=2).norm(dim=0)
                channels = importance.topk(mine.first.out_channels).indices.sort().values
                first, second = (layer.state_dict() for layer in (theirs.first, theirs.second))
                mine.first.load_state_dict({name: value[channels] for name, value in first.items()})
                mine.second.load_state_dict({**second, "weight": second["weight"][:, channels]})
            else:
                mine.load_state_dict(theirs.state_dict())
            x = theirs(x)
        return self

    def decode_raw(self, latents: Tensor) -> Tensor:
        # taef2 bounds its latents the same way.
        return self._run_decoder(torch.tanh(latents / 3) * 3) + 0.5


class QuantizedAutoencoder(_Small):
    """A vector-quantised autoencoder: f16, 1024 codes of 256 channels."""

    def __init__(self) -> None:
        super().__init__(AutoencoderSpec("embedded-vq", "embedded", 256, 16, 256, "MIT", codebook_size=1024))
        self.encoder = _encoder(256)
        self.decoder = _decoder(256)
        self.codes_table = nn.Parameter(torch.randn(1024, 256))
        self.freeze()

    @property
    def codebook(self) -> Tensor:
        """``(1024, 256)`` float32."""
        return self.codes_table

    def decode_raw(self, latents: Tensor) -> Tensor:
        return self._run_decoder(latents) + 0.5


def _version(weight: Tensor) -> int:
    """Return the count of writes to a tensor; 0 for tensors of inference mode, which do not count."""
    return 0 if weight.is_inference() else weight._version


_CLASSES: dict[str, Callable[[], Autoencoder]] = {"embedded": EmbeddedAutoencoder, "embedded-vq": QuantizedAutoencoder}


def load(name: str, argument: str | None = None, *, pretrained: bool = True) -> Autoencoder:
    """Build one of the two.

    Args:
        name: ``embedded`` or ``embedded-vq``.
        argument: folder with ``NAME_encoder.safetensors`` and ``NAME_decoder.safetensors`` of your own
            training; None for those in the package.
        pretrained: False for random weights.

    Raises:
        WeightsError: for files that are missing, altered or malformed.
    """
    model = _CLASSES[name]()
    if pretrained:
        folder = _FOLDER if argument is None else Path(argument).expanduser()
        model.load_weights(read_halves(folder, name), str(folder))
    return model


def read_halves(folder: Path, name: str) -> dict[str, Tensor]:
    """Read the weights of encoder and decoder from a file each; those in the package are checked.

    Raises:
        WeightsError: for files that are missing, altered or malformed.
    """
    weights: dict[str, Tensor] = {}
    for half in ("encoder", "decoder"):
        path = folder / f"{name}_{half}.safetensors"
        try:
            if folder == _FOLDER and sha256_of(path) != _SHA256[path.name]:
                raise WeightsError(f"{path}: not the file of this version of the package; install it again")
            weights |= {key: value.float() for key, value in read_tensors(path).items()}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
    return weights
