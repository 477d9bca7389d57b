"""The contract of autoencoder families."""

from __future__ import annotations

import hashlib
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError, SettingTypeError, WeightsError
from ..io.atomic import tensor_bytes
from ..runs.threads import map_in_threads

__all__ = ["PRECISIONS", "Autoencoder", "AutoencoderSpec"]

#: Types that encoders and decoders compute in, by the name users give them.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AutoencoderSpec:
    """Facts about an autoencoder.

    Attributes:
        name: its name for ``--autoencoder`` and :func:`~latentpatch.autoencoders.load_autoencoder`.
        family: name of its family, as model files have it.
        latent_channels: channels L of the latents, after folding.
        downsampling: pixels a latent cell covers along each side, after folding.
        image_size: side in pixels of the images it was trained on.
        license: licence of the weights, as an SPDX identifier where there is one.
        codebook_size: number of codes, or None where latents are continuous.
        argument: the text after the name's colon, where it decides which autoencoder is built.
        latent_space: name of the autoencoder whose latent space this one shares: a bank made with one of them can be
            decoded by the other. None where it is its own.
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

    A family implements :meth:`encode_raw` and :meth:`decode_raw`, with its own scaling
    inside; one with a codebook overrides :attr:`codebook`. Latents of a grid that is too fine
    are folded: ``fold x fold`` neighbouring cells become channels of one cell.

    Weights are frozen and in evaluation mode. :meth:`encode` and :meth:`decode` work through chunks of
    one fixed shape (padded where the batch does not fill it), because convolution libraries choose
    kernels by shape: so a result does not depend on the batch an image is in.

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
        self.register_state_dict_post_hook(_make_contiguous)

    @abstractmethod
    def encode_raw(self, images: Tensor) -> Tensor:
        """Return latents before folding of one batch, with gradients: ``(N, L / fold^2, h * fold, w * fold)``.

        Args:
            images: ``(N, 3, H, W)`` in [0, 1].
        """

    @abstractmethod
    def decode_raw(self, latents: Tensor) -> Tensor:
        """Return images ``(N, 3, H, W)`` of one batch, with gradients; values may lie beyond [0, 1].

        Args:
            latents: ``(N, L / fold^2, h * fold, w * fold)``, unfolded.
        """

    @property
    def lossless(self) -> bool:
        """True if decoding restores encoded images, but for the precision of numbers."""
        return False

    @property
    def stores_residuals_by_default(self) -> bool:
        """True if banks store residuals by default, because the decoder loses much fine detail."""
        return False

    @property
    def codebook(self) -> Tensor | None:
        """``(codes, L / fold^2)`` float32, or None where latents are continuous."""
        return None

    def freeze(self) -> Autoencoder:
        """Set evaluation mode, no gradients for weights, and convolutions in channels-last. Returns itself."""
        super().train(False)
        self.requires_grad_(False)
        self._lay_out()
        return self

    def _lay_out(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._reference.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._reference.dtype

    def materialize_buffers(self, device: torch.device) -> None:
        """Leave the meta device, and lay out weights, after ``load_state_dict(assign=True)``."""
        if self._anchor.is_meta:
            self._anchor = torch.zeros((), dtype=self._anchor.dtype, device=device)
        self._lay_out()

    @property
    def _reference(self) -> Tensor:
        """A tensor of the weights' type and device; a buffer where there are no weights."""
        return next(self.parameters(), self._anchor)

    def train(self, mode: bool = True) -> Autoencoder:
        """Change nothing: weights stay in evaluation mode within a model that is trained."""
        return self

    @property
    def chunk_size(self) -> int:
        """Images in a chunk: one on a CPU, where larger ones leave the caches and are slower, elsewhere sixteen."""
        return 1 if self.device.type == "cpu" else 16

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the cells ``(h, w)`` of the latents of an image of ``height x width`` pixels.

        Raises:
            SettingError: where a side is not a positive multiple of the downsampling.
        """
        step = self.spec.downsampling
        if height < step or width < step or height % step or width % step:
            constraint = f"of sides that are positive multiples of {step} for {self.spec.name}"
            raise SettingError("size", f"{height}x{width}", constraint)
        return height // step, width // step

    def encode(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the latents of images.

        Args:
            images: ``(N, 3, H, W)`` floating point in [0, 1]; H and W multiples of the downsampling.
            dtype: type to compute in, float32 by default; bfloat16 moves latents by some 2 %.

        Returns:
            ``(N, L, h, w)`` float32, before quantisation where there is a codebook.

        Raises:
            SettingTypeError, SettingError: for other images.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = getattr(images, "dtype", type(images).__name__)
            raise SettingTypeError("images", str(kind), "a floating-point tensor")
        if images.ndim != 4 or images.shape[1] != 3:
            raise SettingError("images", tuple(images.shape), "of shape (N, 3, H, W)")
        h, w = self.grid(images.shape[2], images.shape[3])
        if not len(images):
            return images.new_zeros((0, self.spec.latent_channels, h, w), dtype=torch.float32)

        def encode_chunk(chunk: Tensor) -> Tensor:
            with self._arithmetic(dtype):
                return F.pixel_unshuffle(self.encode_raw(chunk).float(), self.fold)

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
            SettingError: where the latents have another shape.
        """
        channels, step = self.spec.latent_channels, self.spec.downsampling
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise SettingError("latents", tuple(latents.shape), f"of shape (N, {channels}, h, w)")
        if not len(latents):
            return latents.new_zeros((0, 3, latents.shape[2] * step, latents.shape[3] * step), dtype=torch.float32)

        def decode_chunk(chunk: Tensor) -> Tensor:
            with self._arithmetic(dtype):
                return self.decode_raw(F.pixel_shuffle(chunk, self.fold)).float().clamp(0, 1)

        return self._in_chunks(decode_chunk, latents.to(self._reference))

    def codes(self, latents: Tensor) -> Tensor:
        """Return the index of the nearest code of each latent ``(N, L, h, w)``: ``(N, fold^2, h, w)`` int64.

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
        """Return the latents ``(N, L, h, w)`` of code indices ``(N, fold^2, h, w)``."""
        if self.codebook is None:
            raise ValueError(f"{self.spec.name} has no codebook")
        unfolded = F.pixel_shuffle(codes.long(), self.fold)[:, 0]
        return F.pixel_unshuffle(F.embedding(unfolded, self.codebook).movedim(-1, 1), self.fold)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return the nearest codes of latents; the latents themselves where there is no codebook."""
        return latents if self.codebook is None else self.lookup(self.codes(latents))

    def dequantize(self, stored: Tensor) -> Tensor:
        """Return the latents ``(N, L, h, w)`` float32 of stored ones: of code indices, or in half precision."""
        return stored.float() if self.codebook is None else self.lookup(stored)

    def identity(self) -> dict[str, Any]:
        """Return the facts and the :meth:`fingerprint` as a record, for files that must be repeatable."""
        return {**asdict(self.spec), "fold": self.fold, "sha256": self.fingerprint()}

    def fingerprint(self) -> str:
        """Return the SHA-256, in lower-case hex, of family, fold, and names, types, shapes and bytes of the weights."""
        spec = self.spec
        digest = hashlib.sha256(f"{spec.family} {spec.latent_channels} {spec.downsampling} {self.fold}".encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(tensor_bytes(value))
        return digest.hexdigest()

    def load_weights(self, weights: dict[str, Tensor], origin: str) -> None:
        """Load a state dict strictly, refusing missing, unknown, misshapen or non-finite tensors.

        Raises:
            WeightsError: with ``origin`` and the first offending tensors.
        """
        for name, value in weights.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise WeightsError(f"{origin}: tensor {name!r} must be finite, got NaN or infinite values")
        try:
            self.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            reason = textwrap.shorten(str(error), 300, placeholder=" …")  # one sentence, not a line a tensor
            raise WeightsError(f"{origin} does not fit {self.spec.name}: {reason}") from error

    def _arithmetic(self, dtype: torch.dtype | None) -> torch.autocast:
        """Return autocast to a type; to float32 it is off, within a caller's autocast too."""
        dtype = dtype or torch.float32
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        size = self.chunk_size
        chunks = list(batch.split(size))
        chunks[-1] = torch.cat([chunks[-1], batch[-1:].expand(size - len(chunks[-1]), -1, -1, -1)])
        chunks = [chunk.contiguous(memory_format=torch.channels_last) for chunk in chunks]
        # A convolution's sums depend on the number of its threads: on a CPU each chunk has one.
        is_plain = batch.device.type != "cpu" or torch.compiler.is_compiling() or type(batch) is not Tensor
        outputs = list(map(function, chunks)) if is_plain else map_in_threads(function, chunks)
        return torch.cat(outputs)[: len(batch)].contiguous()


def _make_contiguous(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Give weights in channels-last, which files do not hold, in the order of their axes; parameters stay."""
    for name in [name for name in state if name.startswith(prefix)]:
        if not isinstance(state[name], nn.Parameter):
            state[name] = state[name].contiguous()
