"""Autoencoders of the package ``diffusers``: AutoencoderKL, AutoencoderTiny and VQModel.

Their names are ``diffusers:SOURCE`` or ``diffusers:SOURCE@SUBFOLDER``, where the source is a local folder or a
Hugging Face repository. Only safetensors files are read, never pickles.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import MissingDependencyError, SettingError, WeightsError
from .base import Autoencoder, AutoencoderSpec

__all__ = ["DiffusersAutoencoder", "load"]

_FILES = "config.json and diffusion_pytorch_model.safetensors"
_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
_DOWNSAMPLING = 16


class DiffusersAutoencoder(Autoencoder):
    """An autoencoder of diffusers, folded to f16 where its grid is finer.

    Latents are unscaled (``scaling_factor`` is for diffusion models) and deterministic: the
    mode of AutoencoderKL's distribution, and VQModel's before quantisation; decoding does not quantise.
    Images are scaled to [-1, 1] inside.

    Args:
        network: an instance of one of the three classes, for images of three channels.
        argument: the text after the name's colon.

    Raises:
        WeightsError: where the network's images do not have three channels.
    """

    def __init__(self, network: Any, argument: str | None = None) -> None:
        config = network.config
        if (config.in_channels, config.out_channels) != (3, 3):
            raise WeightsError(
                f"{argument}: image channels must be 3, got {config.in_channels} in and {config.out_channels} out"
            )
        widths = getattr(config, "block_out_channels", None) or config.encoder_block_out_channels
        downsampling = 2 ** (len(widths) - 1)
        fold = max(1, _DOWNSAMPLING // downsampling)
        channels = getattr(config, "vq_embed_dim", None) or config.latent_channels
        size = getattr(config, "sample_size", None) or 256  # AutoencoderTiny does not say
        spec = AutoencoderSpec(
            "diffusers",
            family="diffusers",
            latent_channels=channels * fold**2,
            downsampling=downsampling * fold,
            image_size=size if isinstance(size, int) else size[0],
            license="unknown",
            codebook_size=getattr(config, "num_vq_embeddings", None),
            argument=argument,
        )
        super().__init__(spec, fold)
        self.network: Any = network.float()
        if spec.codebook_size is not None:
            self.network.register_to_config(lookup_from_codebook=False)  # else it reads latents as code indices
        self.freeze()

    @property
    def codebook(self) -> Tensor | None:
        """``(codes, L / fold^2)`` float32 of VQModel, None for the others."""
        return None if self.spec.codebook_size is None else self.network.get_parameter("quantize.embedding.weight")

    def encode_raw(self, images: Tensor) -> Tensor:
        encoded = self.network.encode(2 * images - 1)
        latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents

    def decode_raw(self, latents: Tensor) -> Tensor:
        options = {} if self.codebook is None else {"force_not_quantize": True}
        images: Tensor = self.network.decode(latents, **options).sample
        return (images + 1) / 2


def load(name: str, argument: str | None = None, *, pretrained: bool = True) -> DiffusersAutoencoder:
    """Build an autoencoder of the class that its ``config.json`` names.

    Args:
        name: ``diffusers``.
        argument: ``SOURCE`` or ``SOURCE@SUBFOLDER``: a local folder with ``config.json`` and
            ``diffusion_pytorch_model.safetensors``, or a Hugging Face repository, which is downloaded
            into the cache of huggingface_hub.
        pretrained: False for random weights by the ``config.json`` of a local folder, without the network.

    Raises:
        SettingError: without an argument, and with ``pretrained=False`` without a local ``config.json``.
        MissingDependencyError: without diffusers.
        WeightsError: for files that are missing, not downloadable or malformed.
    """
    if argument is None:
        example = f"{name}:CompVis/ldm-celebahq-256@vqvae"
        raise SettingError("autoencoder", name, f"{name}:FOLDER or {name}:REPOSITORY, such as {example}")
    source, subfolder = _split(argument)
    folder = Path(source, subfolder).expanduser()
    if folder.is_dir():
        source, subfolder = str(folder), ""
        remedy = f"The folder must hold {_FILES}"
    else:
        remedy = (
            f"It is no local folder, so the repository https://huggingface.co/{source} was tried: "
            f"fetch {_FILES}{f' of its folder {subfolder}' if subfolder else ''} there, "
            "and name the folder that holds them after the colon"
        )
    if not pretrained and not (folder / "config.json").is_file():
        raise SettingError("autoencoder", f"{name}:{argument}", "a local folder with config.json without weights")
    try:
        network = _network(source, subfolder or None, pretrained)
    except ImportError as error:
        raise MissingDependencyError("diffusers", "diffusers", f"the autoencoder {name}:{argument}") from error
    except Exception as error:  # diffusers, huggingface_hub, safetensors and the HTTP client have types of their own
        # diffusers' message for a dead network reads as if the file did not exist: the cause is added.
        causes = [error] if folder.is_dir() else [error, error.__context__]
        reasons = [str(cause).strip(" .\n") for cause in causes if cause]
        raise WeightsError(f"{name}:{argument} could not be loaded: {': '.join(reasons)}. {remedy}") from error
    model = DiffusersAutoencoder(network, argument)
    model.load_weights(model.state_dict(), argument)  # changes nothing, but refuses NaN and infinities
    return model


def _split(argument: str) -> tuple[str, str]:
    """Split ``SOURCE@SUBFOLDER``, unless it is a folder with an ``@`` in its name."""
    source, at, subfolder = argument.rpartition("@")
    return (source, subfolder) if at and not Path(argument).expanduser().is_dir() else (argument, "")


def _network(source: str, subfolder: str | None, pretrained: bool) -> nn.Module:
    diffusers = importlib.import_module("diffusers")
    config = diffusers.AutoencoderKL.load_config(source, subfolder=subfolder)  # for any class
    class_name = config.get("_class_name") if isinstance(config, dict) else None
    if class_name not in _CLASSES:
        raise ValueError(f"the class in config.json must be one of {', '.join(_CLASSES)}, got {class_name!r}")
    cls = getattr(diffusers, class_name)
    network: nn.Module
    if not pretrained:
        network = cls.from_config(config)
        return network
    network, report = cls.from_pretrained(
        source, subfolder=subfolder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:  # diffusers logs only, and leaves random values where weights are missing
            raise ValueError(f"{problem.replace('_', ' ')}: {', '.join(map(str, report[problem][:5]))}")
    return network
