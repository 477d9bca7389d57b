"""StyleGAN2 (Karras et al., CVPR 2020) for state dicts in two layouts.

Rosinality's layout has ``g_ema`` with ``style.1.weight``, ``conv1.conv.weight``, ``convs.0.conv.weight`` and so on.
NVIDIA's layout (stylegan2-ada-pytorch and stylegan3 with the configuration ``stylegan2``) has
``mapping.fc0.weight``, ``synthesis.b4.conv1.weight`` and so on. The whole network is computed here in plain torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runs.defaults import plain_torch
from .generator import MOST_SIDE, Generator, GeneratorSpec
from .state_files import built_from_file

__all__ = ["StyleGAN2", "load", "random_state"]

_GAIN, _SLOPE = math.sqrt(2), 0.2  # of rectifiers
_EPSILON = 1e-8  # of normalizations
_MAPPING_RATE = 0.01  # factor of the mapping network's learning rate, by which its weights are divided
_FILTER = (1.0, 3.0, 3.0, 1.0)  # of the upsampling


class StyleGAN2(Generator):
    """StyleGAN2 of any size, from the tensors of a state dict.

    Args:
        state: in rosinality's layout or NVIDIA's.
        mean: ``(D,)``, the mean style, where the state dict has none.
        argument: text after the name's colon.

    Raises:
        KeyError, ValueError: naming a tensor that is missing or of another shape.
    """

    has_layers = True

    def __init__(self, state: Mapping[str, Tensor], mean: Tensor | None = None, argument: str | None = None) -> None:
        read = _from_nvidia if "synthesis.b4.const" in state else _from_rosinality
        tensors, maps = read(state)
        num_blocks = (len(maps) - 1) // 2
        width, side = tensors["conv.0.style.weight"].shape[1], 2 ** (num_blocks + 2)
        sizes = tuple((m.shape[2], m.shape[3]) for m in maps)
        spec = GeneratorSpec(
            "stylegan2", 2 * num_blocks + 2, width, tensors["map.0.weight"].shape[1], (side, side), sizes,
            argument=argument,
        )  # fmt: skip
        super().__init__(spec)
        self.num_mapping = sum(name.startswith("map.") for name in tensors) // 2
        for name, value in tensors.items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite, got NaN or infinite values")
            self.register_buffer(name.replace(".", "_"), value.detach().float().clone())
        self.has_maps = all(bool(each.any()) for each in maps)
        for i, each in enumerate(maps):
            self.register_buffer(f"noise_{i}", each.detach().float().clone())
        average = state.get("mapping.w_avg") if mean is None else mean
        if average is not None:
            self._mean = average.detach().float()[None].expand(spec.num_styles, -1)
        kernel = torch.tensor(_FILTER, dtype=torch.float32)
        self.register_buffer("kernel", torch.outer(kernel, kernel) / kernel.sum() ** 2 * 4, persistent=False)
        self.freeze()

    def map(self, vectors: Tensor) -> Tensor:
        x = vectors * (vectors.square().mean(1, keepdim=True) + _EPSILON).rsqrt()
        for i in range(self.num_mapping):
            weight = self._get(f"map.{i}.weight") * (_MAPPING_RATE / math.sqrt(x.shape[1]))
            x = F.leaky_relu(F.linear(x, weight, self._get(f"map.{i}.bias") * _MAPPING_RATE), _SLOPE) * _GAIN
        return x[:, None].expand(-1, self.spec.num_styles, -1)

    def noise(self, seed: int) -> list[Tensor]:
        """Return the maps of the file for every seed; those of the seed where the file has none."""
        if not self.has_maps:
            return super().noise(seed)
        return [self._get(f"noise.{i}") for i in range(len(self.spec.noise_sizes))]

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        x = self._styled(self._get("input").expand(len(styles), -1, -1, -1), 0, styles[:, 0], noise[0], False)
        picture = self._to_rgb(x, 0, styles[:, 1])
        for block in range(1, len(noise) // 2 + 1):
            layer = 2 * block - 1
            x = self._styled(x, layer, styles[:, layer], noise[layer], True)
            x = self._styled(x, layer + 1, styles[:, layer + 1], noise[layer + 1], False)
            picture = self._upsampled(picture) + self._to_rgb(x, block, styles[:, layer + 2])
        return picture / 2 + 0.5

    def _styled(self, x: Tensor, layer: int, style: Tensor, noise: Tensor, is_up: bool) -> Tensor:
        """Return the output of a modulated convolution, with noise, bias and rectifier."""
        weight = self._get(f"conv.{layer}.weight")
        weight = weight / math.sqrt(weight[0].numel())
        scale = self._scale(f"conv.{layer}", style)
        norm = torch.einsum("oikl,ni->no", weight.square(), scale.square()).add(_EPSILON).rsqrt()
        x = x * scale[:, :, None, None]
        if is_up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = self._filtered(x, 1)
        else:
            x = F.conv2d(x, weight, padding=1)
        x = x * norm[:, :, None, None] + noise * self._get(f"conv.{layer}.strength")
        return F.leaky_relu(x + self._get(f"conv.{layer}.bias")[:, None, None], _SLOPE) * _GAIN

    def _to_rgb(self, x: Tensor, block: int, style: Tensor) -> Tensor:
        weight = self._get(f"rgb.{block}.weight")
        x = x * (self._scale(f"rgb.{block}", style) / math.sqrt(x.shape[1]))[:, :, None, None]
        return F.conv2d(x, weight, self._get(f"rgb.{block}.bias"))

    def _scale(self, name: str, style: Tensor) -> Tensor:
        """Return the factors ``(N, channels)`` of a layer's input."""
        weight = self._get(f"{name}.style.weight") / math.sqrt(style.shape[1])
        return F.linear(style, weight, self._get(f"{name}.style.bias"))

    def _filtered(self, x: Tensor, padding: int) -> Tensor:
        channels = x.shape[1]
        kernel = self._get("kernel").expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, padding=padding, groups=channels)

    def _upsampled(self, picture: Tensor) -> Tensor:
        """Return a picture of twice the size, through the filter."""
        kernel = self._get("kernel").expand(picture.shape[1], 1, -1, -1)
        return F.conv_transpose2d(picture, kernel, stride=2, padding=1, groups=picture.shape[1])

    def _get(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, name.replace(".", "_"))
        return tensor


def load(argument: str | None = None, *, pretrained: bool = True) -> StyleGAN2:
    """Build the generator from a file of tensors.

    Args:
        argument: a ``.safetensors`` file, or a PyTorch file of tensors and plain containers: rosinality's checkpoint,
            whose ``g_ema`` is used with its ``latent_avg``, or the state dict of NVIDIA's ``G_ema``.
        pretrained: False for a small random network.

    Raises:
        WeightsError: for files that are missing or malformed, that would run code (NVIDIA's ``.pkl``), or that have
            another layout.
    """
    if not pretrained:
        return StyleGAN2(random_state(32))
    return built_from_file(
        "stylegan2",
        argument,
        "a StyleGAN2 state dict in rosinality's layout (conv1.conv.weight) or NVIDIA's (synthesis.b4.const)",
        lambda state, content: StyleGAN2(state, content.get("latent_avg"), argument),
    )


def _from_rosinality(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return tensors by plain names, and noise maps."""
    count = len([name for name in state if re.fullmatch(r"convs\.\d+\.conv\.weight", name)])
    sides = [2 ** ((i + 5) // 2) for i in range(count + 1)]
    if sides[-1] > MOST_SIDE:  # before memory is taken for noise maps that the file lacks
        raise ValueError(f"pictures must have at most {MOST_SIDE} pixels a side, got {sides[-1]}")
    tensors = {"input": state["input.input"]}
    for i in range(len([name for name in state if re.fullmatch(r"style\.\d+\.weight", name)])):
        tensors |= {f"map.{i}.{part}": state[f"style.{i + 1}.{part}"] for part in ("weight", "bias")}
    for i, name in enumerate(["conv1", *(f"convs.{i}" for i in range(count))]):
        tensors |= _modulated(state, f"conv.{i}", f"{name}.conv") | {
            f"conv.{i}.strength": state[f"{name}.noise.weight"],
            f"conv.{i}.bias": state[f"{name}.activate.bias"],
        }
    for i, name in enumerate(["to_rgb1", *(f"to_rgbs.{i}" for i in range(count // 2))]):
        tensors |= _modulated(state, f"rgb.{i}", f"{name}.conv") | {f"rgb.{i}.bias": state[f"{name}.bias"].flatten()}
    maps = [state.get(f"noises.noise_{i}", torch.zeros(1, 1, side, side)) for i, side in enumerate(sides)]
    return tensors, maps


def _modulated(state: Mapping[str, Tensor], name: str, origin: str) -> dict[str, Tensor]:
    return {
        f"{name}.weight": state[f"{origin}.weight"][0],
        f"{name}.style.weight": state[f"{origin}.modulation.weight"],
        f"{name}.style.bias": state[f"{origin}.modulation.bias"],
    }


def _from_nvidia(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return tensors by plain names, and noise maps."""
    tensors = {"input": state["synthesis.b4.const"][None]}
    for i in range(len([name for name in state if re.fullmatch(r"mapping\.fc\d+\.weight", name)])):
        tensors |= {f"map.{i}.{part}": state[f"mapping.fc{i}.{part}"] for part in ("weight", "bias")}
    maps, side, layer = [], 4, 0
    while f"synthesis.b{side}.conv1.weight" in state:
        block = f"synthesis.b{side}"
        for part in ("conv1",) if side == 4 else ("conv0", "conv1"):
            tensors |= {
                f"conv.{layer}.weight": state[f"{block}.{part}.weight"],
                f"conv.{layer}.style.weight": state[f"{block}.{part}.affine.weight"],
                f"conv.{layer}.style.bias": state[f"{block}.{part}.affine.bias"],
                f"conv.{layer}.strength": state[f"{block}.{part}.noise_strength"],
                f"conv.{layer}.bias": state[f"{block}.{part}.bias"],
            }
            maps.append(state[f"{block}.{part}.noise_const"][None, None])
            layer += 1
        number = int(math.log2(side)) - 2
        tensors |= {
            f"rgb.{number}.weight": state[f"{block}.torgb.weight"],
            f"rgb.{number}.style.weight": state[f"{block}.torgb.affine.weight"],
            f"rgb.{number}.style.bias": state[f"{block}.torgb.affine.bias"],
            f"rgb.{number}.bias": state[f"{block}.torgb.bias"],
        }
        side *= 2
    return tensors, maps


@plain_torch()
def random_state(size: int, width: int = 32, channels: int = 16, seed: int = 0) -> dict[str, Tensor]:
    """Return a random state dict in rosinality's layout, for tests and trials.

    Args:
        size: side of the pictures, a power of two from 8.
        width: of the styles.
        channels: of every layer.
        seed: of the tensors.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    state = {"input.input": draw(1, channels, 4, 4)}
    for i in range(1, 9):
        state |= {f"style.{i}.weight": draw(width, width) / _MAPPING_RATE, f"style.{i}.bias": draw(width)}

    def modulated(name: str, outputs: int, side: int) -> None:
        state[f"{name}.conv.weight"] = draw(1, outputs, channels, side, side)
        state[f"{name}.conv.modulation.weight"] = draw(channels, width)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.1 * draw(channels)

    count = int(math.log2(size)) - 2
    for i, name in enumerate(["conv1", *(f"convs.{i}" for i in range(2 * count))]):
        modulated(name, channels, 3)
        side = 2 ** ((i + 5) // 2)
        state |= {f"{name}.noise.weight": 0.1 * draw(1), f"{name}.activate.bias": 0.1 * draw(channels)}
        state[f"noises.noise_{i}"] = draw(1, 1, side, side)
    for name in ["to_rgb1", *(f"to_rgbs.{i}" for i in range(count))]:
        modulated(name, 3, 1)
        state[f"{name}.bias"] = 0.1 * draw(1, 3, 1, 1)
    return state
