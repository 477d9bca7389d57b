"""VQGAN: a convolutional autoencoder with a learned codebook (Esser et al., 2021, arXiv:2012.09841).

The networks come from the package ``taming-transformers``, whose modules used here need neither
Lightning nor torchvision. The published checkpoints were not at hand when this was written: tests
show that files of their layout load, and that the result equals the package's own modules.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import MissingDependencyError, WeightsError
from ..validation import check_choice
from .base import Autoencoder, AutoencoderSpec
from .weights import WeightFile, located, read_checkpoint

__all__ = ["VQGAN", "VQGANConfig", "load"]


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes of a VQGAN, under the names of the package's own configuration files."""

    n_embed: int = 1024
    embed_dim: int = 256
    z_channels: int = 256
    resolution: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)


_CONFIGS = {
    "vqgan-ffhq": VQGANConfig(),
    "vqgan-celebahq": VQGANConfig(),
    "vqgan-faceshq": VQGANConfig(),
    "vqgan-imagenet-1024": VQGANConfig(n_embed=1024),
    "vqgan-imagenet-16384": VQGANConfig(n_embed=16384),
}

_HEIBOX = "https://heibox.uni-heidelberg.de/d/{}/files/?p=%2Fckpts%2Flast.ckpt&dl=1"
_TRANSFORMER = "It is the checkpoint of the {} transformer, about 3.5 GB, which holds the VQGAN: see https://k00.fr/{}."
_FILES = {
    file.name.removesuffix(".ckpt"): file
    for file in (
        WeightFile("vqgan-ffhq.ckpt", hint=_TRANSFORMER.format("FFHQ", "yndvfu95")),
        WeightFile("vqgan-celebahq.ckpt", hint=_TRANSFORMER.format("CelebA-HQ", "2xkmielf")),
        WeightFile(
            "vqgan-faceshq.ckpt",
            hint="It is checkpoints/last.ckpt of 2020-11-09T13-33-36_faceshq_vqgan: see https://k00.fr/uxy5usa9.",
        ),
        WeightFile("vqgan-imagenet-1024.ckpt", _HEIBOX.format("8088892a516d4e3baf92")),
        WeightFile("vqgan-imagenet-16384.ckpt", _HEIBOX.format("a7530b09fed84f80a887")),
    )
}


class _Inert:
    """A stand-in for classes whose contents do not matter: it accepts any arguments and stores none."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


#: Globals that Lightning writes into checkpoints besides tensors and containers.
_INERT = dict.fromkeys(
    [
        *(
            f"{package}.callbacks.{callback}"
            for package in ("pytorch_lightning", "lightning.pytorch")
            for callback in (
                "model_checkpoint.ModelCheckpoint",
                "early_stopping.EarlyStopping",
                "lr_monitor.LearningRateMonitor",
                "lr_logger.LearningRateLogger",
            )
        ),
        "argparse.Namespace",
        # Learning rates and scores are NumPy scalars.
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
    ],
    _Inert,
)


class VQGAN(Autoencoder):
    """A VQGAN, f16 with 256 channels where published.

    Latents are those before quantisation, ``quant_conv(encoder(images))``; decoding does not quantise.

    Args:
        spec: facts about this autoencoder.
        network: ``encoder``, ``quant_conv``, ``quantize``, ``post_quant_conv`` and ``decoder``, named as in
            ``taming.models.vqgan.VQModel``, so that its state dicts fit. A module of its own, because
            ``quantize`` is a method here.
    """

    def __init__(self, spec: AutoencoderSpec, network: nn.ModuleDict) -> None:
        super().__init__(spec)
        self.network = network
        self.freeze()

    @property
    def codebook(self) -> Tensor:
        """``(codes, L)`` float32."""
        return self.network.get_parameter("quantize.embedding.weight")

    def encode_raw(self, images: Tensor) -> Tensor:
        latents: Tensor = self.network["quant_conv"](self.network["encoder"](2 * images - 1))
        return latents

    def decode_raw(self, latents: Tensor) -> Tensor:
        images: Tensor = self.network["decoder"](self.network["post_quant_conv"](latents))
        return (images + 1) / 2


def _build(*, name: str, config: VQGANConfig) -> VQGAN:
    try:
        from taming.modules.diffusionmodules.model import Decoder, Encoder
        from taming.modules.vqvae.quantize import VectorQuantizer
    except ImportError as error:
        raise MissingDependencyError("taming-transformers", "taming", f"the autoencoder {name}") from error
    spec = AutoencoderSpec(
        name,
        family="taming",
        latent_channels=config.embed_dim,
        downsampling=2 ** (len(config.ch_mult) - 1),
        image_size=config.resolution,
        license="MIT",
        codebook_size=config.n_embed,
    )
    sizes = asdict(config) | {"in_channels": 3, "out_ch": 3, "double_z": False}  # each class ignores other sizes
    with contextlib.redirect_stdout(io.StringIO()):  # the decoder prints its latents' shape
        network = nn.ModuleDict(
            {
                "encoder": Encoder(**sizes),
                "decoder": Decoder(**sizes),
                "quantize": VectorQuantizer(config.n_embed, config.embed_dim, beta=0.25),
                "quant_conv": nn.Conv2d(config.z_channels, config.embed_dim, 1),
                "post_quant_conv": nn.Conv2d(config.embed_dim, config.z_channels, 1),
            }
        )
    return VQGAN(spec, network)


def _first_stage(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict of the VQGAN in its own checkpoint, or in a transformer's that contains it."""
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(f"{path} must hold a state dict, or a checkpoint with one as 'state_dict'")
    prefix = "first_stage_model."
    nested = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    # The loss (a perceptual network and a discriminator) is of use in training only.
    weights = {key: value for key, value in (nested or state).items() if not key.startswith("loss.")}
    if "quantize.embed.weight" in weights:
        raise WeightsError(f"{path} must hold a VQGAN with nearest-code quantisation, got Gumbel quantisation")
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {key!r} must be a tensor, got {type(value).__name__}")
    return {key: value.float() for key, value in weights.items()}


def load(name: str, argument: str | None = None, *, pretrained: bool = True) -> VQGAN:
    """Build a member of the family.

    Args:
        name: ``vqgan-ffhq``, ``vqgan-celebahq``, ``vqgan-faceshq``, ``vqgan-imagenet-1024`` or
            ``vqgan-imagenet-16384``.
        argument: checkpoint file of the VQGAN or of a transformer that contains it, or the folder with
            ``NAME.ckpt``; None to use the cache, then to download where there is an address.
        pretrained: False for random weights and no access to files or network.

    Raises:
        SettingError: for an unknown name.
        MissingDependencyError: without taming-transformers.
        WeightsError: for files that are missing, altered or malformed.
    """
    check_choice("name", name, _CONFIGS)
    model = _build(name=name, config=_CONFIGS[name])
    if pretrained:
        with located(_FILES[name], argument) as path:
            weights = _first_stage(read_checkpoint(path, _INERT), path)
            model.load_weights({f"network.{key}": value for key, value in weights.items()}, str(path))
    return model
