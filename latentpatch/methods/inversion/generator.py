"""The contract of generators: styles and noise maps to pictures.

A style is a vector that controls one layer, or one cell where the generator is a decoder. Every layer may have a style
of its own (W+ in StyleGAN). Noise maps add detail that the styles do not control.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import SettingError, WeightsError
from ...inputs import image_seeds
from ...io.atomic import tensor_bytes
from ...runs.defaults import plain_torch
from ...validation import check_integer, check_number

__all__ = ["MOST_SIDE", "Generator", "GeneratorSpec", "load_state"]

_TRUNCATIONS = (-10.0, 10.0)  # smallest and largest
MOST_SIDE = 4096  # pixels of pictures by networks with layers for each size
_MEAN_SAMPLES = 4096  # vectors whose mapped styles are averaged


@dataclass(frozen=True)
class GeneratorSpec:
    """Facts about a generator.

    Attributes:
        name: its name for ``--generator``.
        num_styles: style inputs L.
        style_dim: length D of a style.
        latent_dim: length of the vectors that :meth:`Generator.map` takes; 0 where it has none.
        image_size: height and width of its pictures.
        noise_sizes: heights and widths of its noise maps, coarse to fine.
        license: licence of the weights, or where to look for it.
        trained_on: pictures that it was trained on.
        argument: the text after the name's colon.
    """

    name: str
    num_styles: int
    style_dim: int
    latent_dim: int
    image_size: tuple[int, int]
    noise_sizes: tuple[tuple[int, int], ...] = ()
    license: str = "that of the weights' publisher"
    trained_on: str = "unknown"
    argument: str | None = None


class Generator(nn.Module, ABC):
    """A frozen network from styles ``(N, L, D)`` and noise maps to pictures ``(N, 3, H, W)``.

    Attributes:
        default_start: first styles of an inversion: ``mean``, ``random`` or ``encoder``.
        has_layers: whether styles are those of layers that share one space, so that their angles mean something.
    """

    default_start: ClassVar[str] = "mean"
    has_layers: ClassVar[bool] = False

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        if spec.latent_dim and max(spec.image_size) > MOST_SIDE:
            raise SettingError("image_size", spec.image_size, f"at most {MOST_SIDE} pixels a side")
        self.spec = spec
        self._mean: Tensor | None = None

    @abstractmethod
    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Return pictures with gradients to styles and noise; values may lie beyond [0, 1].

        Args:
            styles: ``(N, L, D)``.
            noise: for each of the spec's sizes a map ``(N or 1, 1, h, w)`` of mean 0 and deviation 1.

        Returns:
            ``(N, 3, H, W)`` of about [0, 1].
        """

    def map(self, vectors: Tensor) -> Tensor:
        """Return the styles ``(N, L, D)`` of normal vectors ``(N, latent_dim)``: the mapping network."""
        return vectors[:, None].expand(-1, self.spec.num_styles, -1)

    def encode(self, images: Tensor) -> Tensor:
        """Return styles ``(N, L, D)`` of pictures ``(N, 3, H, W)``, where there is an encoder."""
        raise SettingError("start", "encoder", f"mean or random: {self.spec.name} has no encoder")

    def resized(self, side: int) -> Generator:
        """Return the generator of smaller pictures of the same styles and noise maps, with the same weights.

        Args:
            side: of its pictures in pixels.

        Raises:
            SettingError: for a side that it does not have.
        """
        raise SettingError("sides", side, f"absent: {self.spec.name} makes pictures of one size")

    @plain_torch()
    def random_styles(self, seeds: Sequence[int]) -> Tensor:
        """Return the styles ``(N, L, D)`` of the generator's own pictures of some seeds."""
        vectors = [torch.randn(self.spec.latent_dim, generator=_random(seed)) for seed in seeds]
        return self.map(torch.stack(vectors).to(self.device))

    @plain_torch()
    def mean_styles(self) -> Tensor:
        """Return the mean of the mapped styles, ``(L, D)``."""
        if self._mean is None:
            vectors = torch.randn(_MEAN_SAMPLES, self.spec.latent_dim, generator=_random(0))
            with torch.no_grad():
                self._mean = torch.cat([self.map(part.to(self.device)) for part in vectors.split(256)]).mean(0)
        return self._mean.to(self.device)

    @plain_torch()
    def noise(self, seed: int) -> list[Tensor]:
        """Return noise maps ``(1, 1, h, w)`` of a seed; generators with maps of their own return these."""
        random = _random(seed)
        return [torch.randn(1, 1, *size, generator=random).to(self.device) for size in self.spec.noise_sizes]

    @torch.no_grad()
    @plain_torch()
    def sample(self, seeds: Sequence[int], truncation: float = 1.0) -> Tensor:
        """Return pictures of the generator's own: ``(N, 3, H, W)`` in [0, 1].

        Args:
            seeds: of the pictures.
            truncation: 1 for styles as they are drawn, 0 for the mean.

        Raises:
            SettingError: for arguments out of range.
        """
        truncation = check_number("truncation", truncation, *_TRUNCATIONS)
        pictures = [torch.zeros(0, 3, *self.spec.image_size, device=self.device)]
        for seed in image_seeds(1, 0, seeds):
            styles = self.random_styles([seed])
            styles = styles if truncation == 1 else self.mean_styles().lerp(styles, truncation)
            pictures.append(self.synthesize(styles, self.noise(seed)).clamp(0, 1))
        return torch.cat(pictures)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(chain(self.parameters(), self.buffers())).device

    def freeze(self) -> Generator:
        """Set evaluation mode, and no gradients for weights. Returns itself."""
        self.requires_grad_(False)
        return self.train(False)

    def fingerprint(self) -> str:
        """Return the SHA-256, in lower-case hex, of names, shapes and bytes of the weights."""
        digest = hashlib.sha256(self.spec.name.encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(tensor_bytes(value))
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return the facts and the :meth:`fingerprint` as a record, without the user's path."""
        return {**asdict(replace(self.spec, argument=None)), "sha256": self.fingerprint()}

    @torch.no_grad()
    def check_tensors(self) -> None:
        """Refuse tensors of a file that do not fit one another: a picture of half the size is made.

        For networks whose tensors are all buffers of their own, and grow a constant ``input`` of 4 x 4.

        Raises:
            RuntimeError, ValueError: naming what does not fit.
        """
        probe, spec, maps = copy(self), self.spec, self.noise(0)
        first, wanted = self.get_buffer("input"), [(1, 1, *each) for each in spec.noise_sizes]
        if first.shape[2:] != (4, 4) or [tuple(each.shape) for each in maps] != wanted:
            raise ValueError("input must be of 4 x 4, and noise maps of the sizes of layers")
        probe._buffers = {**self._buffers, "input": first[..., :2, :2]}
        styles, mean = probe.map(torch.zeros(1, spec.latent_dim)), self._mean
        if any(
            each.shape[-2:] != (spec.num_styles, spec.style_dim) for each in (styles, styles if mean is None else mean)
        ):
            raise ValueError(f"styles must have {spec.style_dim} numbers")
        made = probe.synthesize(styles, [each[..., : each.shape[2] // 2, : each.shape[3] // 2] for each in maps])
        if made.shape != (1, 3, *(side // 2 for side in spec.image_size)) or not bool(made.isfinite().all()):
            raise ValueError(f"pictures must have 3 channels, {spec.image_size} pixels and finite values")

    def check_styles(self, styles: Tensor, noise: Sequence[Tensor]) -> None:
        """Refuse styles and noise maps of other shapes, or that are not finite.

        Raises:
            SettingError: naming them.
        """
        shape = (self.spec.num_styles, self.spec.style_dim)
        if styles.ndim != 3 or tuple(styles.shape[1:]) != shape:
            raise SettingError("styles", tuple(styles.shape), f"of shape (N, {shape[0]}, {shape[1]})")
        for each, size in zip(noise, self.spec.noise_sizes, strict=False):
            if tuple(each.shape[1:]) != (1, *size) or len(each) not in (1, len(styles)):
                raise SettingError("noise", tuple(each.shape), f"of shape (N, 1, {size[0]}, {size[1]})")
        if not all(bool(each.isfinite().all()) for each in (styles, *noise)):
            raise SettingError("styles", float("nan"), "finite, as are noise maps")


def load_state(module: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load a state dict strictly, refusing missing, unknown, misshapen or non-finite tensors.

    Raises:
        WeightsError: with ``origin``.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{origin}: tensor {name!r} must be finite, got NaN or infinite values")
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{origin} does not fit: {' '.join(str(error).split())[:300]}") from error


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(check_integer("seed", seed, 0, 2**63 - 1))
