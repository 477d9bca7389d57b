"""Autoencoders of the package ``diffusers``: AutoencoderKL, AutoencoderTiny and VQModel.

Given as ``diffusers:SOURCE`` or ``diffusers:SOURCE@SUBFOLDER``, where the source is a local folder or a
Hugging Face repository. Only safetensors files are read, never pickles.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import WeightsError
from .base import Autoencoder, AutoencoderSpec

__all__ = ["DiffusersAutoencoder", "load"]

_FILES = "config.json and diffusion_pytorch_model.safetensors"
_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
_DOWNSAMPLING = 16


class DiffusersAutoencoder(Autoencoder):
    """One of diffusers' autoencoders, folded to f16 where it is finer.

    Latents are unscaled (``scaling_factor`` is the business of diffusion models) and deterministic: the
    mode of AutoencoderKL's distribution, and VQModel's before quantisation; decoding does not quantise.
    Images are scaled to [-1, 1] inside.

    Args:
        network: an instance of one of the three classes, for images of three channels.
        argument: what followed the name's colon.

    Raises:
        WeightsError: where the network's images have not three channels.
    """

    def __init__(self, network: Any, argument: str | None = None) -> None:
        config = network.config
        if (config.in_channels, config.out_channels) != (3, 3):
            raise WeightsError(
                f"{argument}: {config.in_channels} image channels in, {config.out_channels} out; 3 and 3 are expected"
            )
        widths = getattr(config, "block_out_channels", None) or config.encoder_block_out_channels
        downsampling = 2 ** (len(widths) - 1)
        fold = max(1, _DOWNSAMPLING // downsampling)
        channels = getattr(config, "vq_embed_dim", None) or config.latent_channels
        size = getattr(config, "sample_size", None) or 256  # AutoencoderTiny does not tell
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
            self.network.register_to_config(lookup_from_codebook=False)  # else latents are taken for code indices
        self.freeze()

    @property
    def codebook(self) -> Tensor | None:
        """``(codes, L / fold^2)`` float32 of VQModel, None for the others."""
        return None if self.spec.codebook_size is None else self.network.get_parameter("quantize.embedding.weight")

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.network.encode(2 * images - 1)
        latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents

    def _decode(self, latents: Tensor) -> Tensor:
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
        ValueError: without an argument, and with ``pretrained=False`` without a local ``config.json``.
        WeightsError: for files that are missing, not downloadable or malformed, and without diffusers.
    """
    if argument is None:
        raise ValueError(
            f"{name}: a local folder or a Hugging Face repository is expected after a colon, e.g. "
            f"{name}:CompVis/ldm-celebahq-256@vqvae"
        )
    source, subfolder = _split(argument)
    folder = Path(source, subfolder).expanduser()
    if folder.is_dir():
        source, subfolder = str(folder), ""
        wanted = f"{_FILES} are expected there"
    else:
        wanted = (
            f"It is no local folder, so it was sought at https://huggingface.co/{source}: "
            f"fetch {_FILES}{f' of its folder {subfolder}' if subfolder else ''} there, "
            "and give the folder that holds them after the colon"
        )
    if not pretrained and not (folder / "config.json").is_file():
        raise ValueError(f"{name}:{argument}: pretrained=False needs a local folder with config.json to build from")
    try:
        network = _network(source, subfolder or None, pretrained)
    except ImportError as error:
        raise WeightsError(
            f"{name} needs the package diffusers ({error}): pip install latentpatch[diffusers]"
        ) from error
    except Exception as error:  # diffusers, huggingface_hub, safetensors and the HTTP client have types of their own
        # diffusers' message for a dead network reads as if the file did not exist: its cause is told too.
        causes = [error] if folder.is_dir() else [error, error.__context__]
        reasons = [str(cause).strip(" .\n") for cause in causes if cause]
        raise WeightsError(f"{name}:{argument} could not be loaded: {': '.join(reasons)}. {wanted}") from error
    model = DiffusersAutoencoder(network, argument)
    model.load_weights(model.state_dict(), argument)  # changes nothing, but refuses NaN and infinities
    return model


def _split(argument: str) -> tuple[str, str]:
    """``SOURCE@SUBFOLDER`` in two; a folder whose own name has an ``@`` is taken as it is."""
    source, at, subfolder = argument.rpartition("@")
    return (source, subfolder) if at and not Path(argument).expanduser().is_dir() else (argument, "")


def _network(source: str, subfolder: str | None, pretrained: bool) -> nn.Module:
    diffusers = importlib.import_module("diffusers")  # absolute: this module bears the same name
    config = diffusers.AutoencoderKL.load_config(source, subfolder=subfolder)  # reads it for any class
    class_name = config.get("_class_name") if isinstance(config, dict) else None
    if class_name not in _CLASSES:
        raise ValueError(f"config.json names the class {class_name!r}; one of {', '.join(_CLASSES)} is expected")
    cls = getattr(diffusers, class_name)
    network: nn.Module
    if not pretrained:
        network = cls.from_config(config)
        return network
    network, report = cls.from_pretrained(
        source, subfolder=subfolder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:  # diffusers only logs it, and leaves random values where weights are missing
            raise ValueError(f"{problem.replace('_', ' ')}: {', '.join(map(str, report[problem][:5]))}")
    return network
