"""The contract every autoencoder family keeps."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WeightsError
from ..io.atomic import tensor_bytes

__all__ = ["PRECISIONS", "Autoencoder", "AutoencoderSpec"]

#: Types that encoders and decoders compute in, by the name users give them.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AutoencoderSpec:
    """What there is to know about an autoencoder before it sees a picture.

    Attributes:
        name: what ``--autoencoder`` and :func:`~latentpatch.autoencoders.load_autoencoder` call it.
        family: the module of :mod:`latentpatch.autoencoders` that builds it.
        latent_channels: channels L of the latents, after folding.
        downsampling: pixels a latent cell covers along each side, after folding.
        image_size: side in pixels of the images it was trained on.
        license: licence of the weights, as an SPDX identifier where there is one.
        codebook_size: number of codes, or None where latents are continuous.
        argument: what followed the name's colon, where it decides what is built.
        latent_space: name of the autoencoder whose latents these are, where they are not its own: a bank
            made with one can be decoded by the other.
    """

    name: str
    family: str
    latent_channels: int
    downsampling: int
    image_size: int
    license: str
    codebook_size: int | None = None
    argument: str | None = None
    latent_space: str | None = None


class Autoencoder(nn.Module, ABC):
    """Images ``(N, 3, H, W)`` in [0, 1] to latents ``(N, L, h, w)`` and back.

    A family implements :meth:`_encode` and :meth:`_decode`, one batch each, with its own scaling
    inside; those with a codebook override :attr:`codebook`. Latents of a family finer than the wanted
    grid are folded: ``fold x fold`` neighbouring cells become channels of one cell.

    Weights are frozen and in evaluation mode. :meth:`encode` and :meth:`decode` work through chunks of
    one fixed shape (padded where the batch does not fill it), because convolution libraries choose
    kernels by shape: so what an image becomes does not depend on the batch it came in.

    Args:
        spec: facts about this autoencoder.
        fold: side of the blocks of latent cells that are stacked into channels.
    """

    _anchor: Tensor

    def __init__(self, spec: AutoencoderSpec, fold: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.fold = fold
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)

    @abstractmethod
    def _encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, L / fold^2, h * fold, w * fold)."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """(N, L / fold^2, h * fold, w * fold) -> (N, 3, H, W), about [0, 1]."""

    @property
    def lossless(self) -> bool:
        """Whether decoding gives back what was encoded, but for the precision of numbers."""
        return False

    @property
    def soft(self) -> bool:
        """Whether so much fine detail is lost that banks keep that of their sources, unless they are told otherwise."""
        return False

    @property
    def codebook(self) -> Tensor | None:
        """``(codes, L / fold^2)`` float32, or None where latents are continuous."""
        return None

    def freeze(self) -> Autoencoder:
        """Evaluation mode, no gradients for weights, convolutions in channels-last. Returns itself."""
        super().train(False)
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._reference.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._reference.dtype

    def settle(self, device: torch.device) -> None:
        """Leave the meta device, where weights were assigned or there are none."""
        if self._anchor.is_meta:
            self._anchor = torch.zeros((), dtype=self._anchor.dtype, device=device)

    @property
    def _reference(self) -> Tensor:
        """A tensor with the type and device of the weights; a buffer where there are none."""
        return next(self.parameters(), self._anchor)

    def train(self, mode: bool = True) -> Autoencoder:
        """Change nothing: pretrained weights stay in evaluation mode within a model that is trained."""
        return self

    @property
    def chunk_size(self) -> int:
        """Images that go through the network together: one on a CPU, where larger batches leave the
        caches and are slower, sixteen elsewhere.
        """
        return 1 if self.device.type == "cpu" else 16

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Cells ``(h, w)`` of the latents of an image of ``height x width`` pixels.

        Raises:
            ValueError: where a side is not a positive multiple of the downsampling.
        """
        step = self.spec.downsampling
        if height < step or width < step or height % step or width % step:
            raise ValueError(
                f"image size {height}x{width}: {self.spec.name} takes sides that are positive multiples of {step}"
            )
        return height // step, width // step

    def encode(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the latents of images.

        Args:
            images: ``(N, 3, H, W)`` floating point in [0, 1]; H and W multiples of the downsampling.
            dtype: type to compute in, float32 by default; bfloat16 moves latents by some 2 %.

        Returns:
            ``(N, L, h, w)`` float32, before quantisation where there is a codebook.

        Raises:
            TypeError, ValueError: where the images are not that.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            raise TypeError(
                f"images: a floating-point tensor is expected, got {getattr(images, 'dtype', type(images).__name__)}"
            )
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: shape (N, 3, H, W) is expected, got {tuple(images.shape)}")
        h, w = self.grid(images.shape[2], images.shape[3])
        if not len(images):
            return images.new_zeros((0, self.spec.latent_channels, h, w), dtype=torch.float32)

        def encode_chunk(chunk: Tensor) -> Tensor:
            with self._arithmetic(dtype):
                return F.pixel_unshuffle(self._encode(chunk).float(), self.fold)

        return self._in_chunks(encode_chunk, images.to(self._reference))

    def decode(self, latents: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the images of latents.

        Args:
            latents: ``(N, L, h, w)`` floating point.
            dtype: type to compute in, float32 by default; bfloat16 is several times faster where the processor has
                it, and moves pixels by about 1/255.

        Returns:
            ``(N, 3, H, W)`` float32 in [0, 1].

        Raises:
            ValueError: where the latents have another shape.
        """
        channels, step = self.spec.latent_channels, self.spec.downsampling
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(f"latents: shape (N, {channels}, h, w) is expected, got {tuple(latents.shape)}")
        if not len(latents):
            return latents.new_zeros((0, 3, latents.shape[2] * step, latents.shape[3] * step), dtype=torch.float32)

        def decode_chunk(chunk: Tensor) -> Tensor:
            with self._arithmetic(dtype):
                return self._decode(F.pixel_shuffle(chunk, self.fold)).float().clamp(0, 1)

        return self._in_chunks(decode_chunk, latents.to(self._reference))

    def codes(self, latents: Tensor) -> Tensor:
        """Index of the nearest code of each latent: ``(N, L, h, w)`` -> ``(N, fold^2, h, w)`` int64.

        Raises:
            ValueError: where this autoencoder has no codebook.
        """
        if self.codebook is None:
            raise ValueError(f"{self.spec.name} has no codebook")
        codebook = self.codebook.double()
        vectors = F.pixel_shuffle(latents.to(codebook.device, torch.float64), self.fold).movedim(1, -1)
        nearest = [torch.cdist(v.flatten(0, 1), codebook).argmin(1).view(v.shape[:2]) for v in vectors]
        if not nearest:
            return torch.zeros((0, self.fold**2, *latents.shape[2:]), dtype=torch.int64, device=codebook.device)
        return F.pixel_unshuffle(torch.stack(nearest)[:, None], self.fold)

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents of code indices: ``(N, fold^2, h, w)`` integers -> ``(N, L, h, w)``."""
        if self.codebook is None:
            raise ValueError(f"{self.spec.name} has no codebook")
        unfolded = F.pixel_shuffle(codes.long(), self.fold)[:, 0]
        return F.pixel_unshuffle(F.embedding(unfolded, self.codebook).movedim(-1, 1), self.fold)

    def quantize(self, latents: Tensor) -> Tensor:
        """Latents replaced by their nearest codes; unchanged where there is no codebook."""
        return latents if self.codebook is None else self.lookup(self.codes(latents))

    def fingerprint(self) -> str:
        """SHA-256 over the family, the fold, and the names, types, shapes and bytes of the weights: lower-case hex."""
        spec = self.spec
        digest = hashlib.sha256(f"{spec.family} {spec.latent_channels} {spec.downsampling} {self.fold}".encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(tensor_bytes(value))
        return digest.hexdigest()

    def load_weights(self, weights: dict[str, Tensor], origin: str) -> None:
        """Strictly load a state dict, refusing missing, unknown, misshapen or non-finite tensors.

        Raises:
            WeightsError: naming ``origin`` and the first offending tensors.
        """
        for name, value in weights.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise WeightsError(f"{origin}: tensor {name!r} holds NaN or infinite values; finite ones are expected")
        try:
            self.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise WeightsError(f"{origin} does not fit {self.spec.name}: {error}") from error

    def _arithmetic(self, dtype: torch.dtype | None) -> torch.autocast:
        """Return autocast to a type; to float32 it is off, within a caller's autocast too."""
        dtype = dtype or torch.float32
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        size = self.chunk_size
        outputs = []
        for chunk in batch.split(size):
            missing = size - len(chunk)
            padded = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)]) if missing else chunk
            outputs.append(function(padded.contiguous(memory_format=torch.channels_last))[: len(chunk)])
        return torch.cat(outputs).contiguous()
