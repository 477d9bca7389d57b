"""StyleGAN (Karras et al., CVPR 2019) for state dicts in two layouts.

Rosinality's layout has ``generator.progression.0.conv1.input`` and so on. Lernapparat's layout, to which NVIDIA's files
are converted, has ``g_synthesis.blocks.4x4.const`` and so on. Weights are scaled once, when they are read. The network
is computed here in plain torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runs.defaults import plain_torch
from .generator import Generator, GeneratorSpec
from .state_files import built_from_file

__all__ = ["StyleGAN1", "load", "random_state"]

_SLOPE = 0.2  # slope of the rectifiers
_EPSILON, _NORM_EPSILON = 1e-8, 1e-5  # least variances in the normalization of vectors, and of channels
_MAPPING_RATE = 0.01  # factor of the mapping network's learning rate in NVIDIA's training
_FILTER = (1.0, 2.0, 1.0)  # weights of the upsampling
_FUSED_FROM = 128  # pixels from which upsampling is part of the convolution


class StyleGAN1(Generator):
    """StyleGAN of any size, from the tensors of a state dict.

    Args:
        state: in rosinality's layout or lernapparat's.
        side: of the pictures in pixels, for checkpoints of rosinality's, which have layers that were not trained; all
            layers where None.
        argument: text after the name's colon.

    Raises:
        KeyError, ValueError: naming a tensor that is missing or of another shape.
    """

    has_layers = True

    def __init__(self, state: Mapping[str, Tensor], side: int | None = None, argument: str | None = None) -> None:
        read = _from_lernapparat if any(name.startswith("g_synthesis.") for name in state) else _from_rosinality
        tensors = read(state, side)
        num_layers = sum(name.endswith(".strength") for name in tensors)
        sizes = tuple((4 * 2 ** (i // 2),) * 2 for i in range(num_layers))
        width, latent = tensors["style.0.weight"].shape[1], tensors["map.0.weight"].shape[1]
        super().__init__(GeneratorSpec("stylegan1", num_layers, width, latent, sizes[-1], sizes, argument=argument))
        self.num_mapping = sum(name.startswith("map.") for name in tensors) // 2
        for name, value in tensors.items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite, got NaN or infinite values")
            self.register_buffer(name.replace(".", "_"), value.detach().float().clone())
        kernel = torch.tensor(_FILTER, dtype=torch.float32)
        self.register_buffer("kernel", torch.outer(kernel, kernel) / kernel.sum() ** 2, persistent=False)
        self.freeze()

    def map(self, vectors: Tensor) -> Tensor:
        x = vectors * (vectors.square().mean(1, keepdim=True) + _EPSILON).rsqrt()
        for i in range(self.num_mapping):
            x = F.leaky_relu(F.linear(x, self._get(f"map.{i}.weight"), self._get(f"map.{i}.bias")), _SLOPE)
        return x[:, None].expand(-1, self.spec.num_styles, -1)

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        x = self._get("input").expand(len(styles), -1, -1, -1)
        for i in range(self.spec.num_styles):
            if i % 2:
                x = F.conv2d(x, self._get(f"conv.{i}.weight"), self._get(f"conv.{i}.bias"), padding=1)
            elif i:
                x = F.conv_transpose2d(x, self._get(f"conv.{i}.weight"), self._get(f"conv.{i}.bias"), 2, 1)
                kernel = self._get("kernel").expand(x.shape[1], 1, -1, -1)
                x = F.conv2d(x, kernel, self._get(f"conv.{i}.late"), padding=1, groups=x.shape[1])
            x = F.leaky_relu(x + self._get(f"noise.{i}.strength") * noise[i], _SLOPE)
            style = F.linear(styles[:, i], self._get(f"style.{i}.weight"), self._get(f"style.{i}.bias"))
            scale, shift = style[:, :, None, None].chunk(2, 1)
            x = F.instance_norm(x, eps=_NORM_EPSILON) * scale + shift
        return F.conv2d(x, self._get("rgb.weight"), self._get("rgb.bias")) / 2 + 0.5

    def _get(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, name.replace(".", "_"))
        return tensor


def load(argument: str | None = None, *, pretrained: bool = True) -> StyleGAN1:
    """Build the generator from a file of tensors.

    Args:
        argument: a ``.safetensors`` file, or a PyTorch file of tensors and plain containers: rosinality's checkpoint,
            whose ``g_running`` is used, or lernapparat's state dict; perhaps followed by ``@SIDE`` of the pictures.
        pretrained: False for a small random network.

    Raises:
        WeightsError: for files that are missing or malformed, that would run code (NVIDIA's ``.pkl``), or that have
            another layout.
    """
    if not pretrained:
        return StyleGAN1(random_state(32))
    path, side = argument, None
    if found := re.fullmatch(r"(.+)@(\d+)", argument or ""):
        path, side = found[1], int(found[2])
    return built_from_file(
        "stylegan1",
        path,
        "a StyleGAN state dict in rosinality's layout (generator.progression.0.conv1.input) or lernapparat's "
        "(g_synthesis.blocks.4x4.const)",
        lambda state, _: StyleGAN1(state, side, argument),
    )


def _doubled(weight: Tensor, is_fused: bool) -> Tensor:
    """Return the kernel ``(inputs, outputs, 4, 4)`` of a transposed convolution that doubles the size.

    Args:
        weight: ``(outputs, inputs, 3, 3)``, for pictures whose pixels are repeated.
        is_fused: whether the weight is already that of a transposed convolution, whose kernel is not mirrored.
    """
    kernel = F.pad((weight if is_fused else weight.flip(2, 3)).transpose(0, 1), (1, 1, 1, 1))
    return kernel[:, :, 1:, 1:] + kernel[:, :, :-1, 1:] + kernel[:, :, 1:, :-1] + kernel[:, :, :-1, :-1]


def _scaled(weight: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """Return a weight with the deviation of He's initialization, which training had divided out."""
    return weight * (gain / math.sqrt(weight[0].numel()))


def _from_rosinality(state: Mapping[str, Tensor], side: int | None) -> dict[str, Tensor]:
    blocks = len([name for name in state if re.fullmatch(r"generator\.progression\.\d+\.noise1\.weight_orig", name)])
    if side is not None:
        if side not in [4 * 2**i for i in range(blocks)]:
            raise ValueError(f"{side} pixels in place of {', '.join(str(4 * 2**i) for i in range(blocks))}")
        blocks = int(math.log2(side)) - 1
    tensors = {"input": state["generator.progression.0.conv1.input"]}
    for i in range(len([name for name in state if re.fullmatch(r"style\.\d+\.linear\.bias", name)])):
        name = f"style.{2 * i + 1}.linear"
        tensors |= {f"map.{i}.weight": _scaled(state[f"{name}.weight_orig"]), f"map.{i}.bias": state[f"{name}.bias"]}
    for layer in range(2 * blocks):
        block, part = f"generator.progression.{layer // 2}", layer % 2 + 1
        strength, style = state[f"{block}.noise{part}.weight_orig"], f"{block}.adain{part}.style.linear"
        tensors |= {
            f"noise.{layer}.strength": strength * math.sqrt(2 / strength.shape[1]),
            f"style.{layer}.weight": _scaled(state[f"{style}.weight_orig"]),
            f"style.{layer}.bias": state[f"{style}.bias"],
        }
        if layer % 2:
            name = f"{block}.conv2.conv"
            tensors |= {f"conv.{layer}.weight": _scaled(state[f"{name}.weight_orig"])}
            tensors |= {f"conv.{layer}.bias": state[f"{name}.bias"]}
        elif layer:
            fused, name = f"{block}.conv1.0.weight", f"{block}.conv1.1.conv"
            if fused in state:  # its factor counts inputs, and four taps have their mean, not their sum
                weight = _scaled(state[fused].transpose(0, 1)) / 4
                tensors[f"conv.{layer}.bias"] = state[f"{block}.conv1.0.bias"]
            else:
                weight = _scaled(state[f"{name}.weight_orig"])
                tensors[f"conv.{layer}.bias"] = state[f"{name}.bias"]
            tensors[f"conv.{layer}.weight"] = _doubled(weight, fused in state)
            tensors[f"conv.{layer}.late"] = torch.zeros(weight.shape[0])
    name = f"generator.to_rgb.{blocks - 1}.conv"
    return tensors | {"rgb.weight": _scaled(state[f"{name}.weight_orig"]), "rgb.bias": state[f"{name}.bias"]}


def _from_lernapparat(state: Mapping[str, Tensor], side: int | None) -> dict[str, Tensor]:
    blocks = len([name for name in state if re.fullmatch(r"g_synthesis\.blocks\.\d+x\d+\.epi1\..*noise\.weight", name)])
    if side not in (None, 2 ** (blocks + 1)):
        raise ValueError(f"{side} pixels in place of {2 ** (blocks + 1)}")
    const = "g_synthesis.blocks.4x4"
    tensors = {"input": state[f"{const}.const"] + state[f"{const}.bias"][:, None, None]}
    for i in range(len([name for name in state if re.fullmatch(r"g_mapping\.dense\d+\.bias", name)])):
        for part, scale in (("weight", _scaled), ("bias", torch.clone)):
            tensors[f"map.{i}.{part}"] = scale(state[f"g_mapping.dense{i}.{part}"]) * _MAPPING_RATE
    for layer in range(2 * blocks):
        at = 4 * 2 ** (layer // 2)
        block, style = f"g_synthesis.blocks.{at}x{at}", f"epi{layer % 2 + 1}.style_mod.lin"
        bias = state[f"{block}.{style}.bias"]
        tensors |= {
            f"noise.{layer}.strength": state[f"{block}.epi{layer % 2 + 1}.top_epi.noise.weight"][:, None, None],
            f"style.{layer}.weight": _scaled(state[f"{block}.{style}.weight"], 1),
            f"style.{layer}.bias": bias + (torch.arange(len(bias)) < len(bias) // 2),  # scales are relative to 1
        }
        if layer:
            name = f"{block}.{'conv0_up' if layer % 2 == 0 else 'conv' if layer == 1 else 'conv1'}"
            weight, bias = _scaled(state[f"{name}.weight"]), state[f"{name}.bias"]
            if layer % 2:
                tensors |= {f"conv.{layer}.weight": weight, f"conv.{layer}.bias": bias}
            else:  # the bias comes after the filter
                tensors |= {
                    f"conv.{layer}.weight": _doubled(weight, at >= _FUSED_FROM),
                    f"conv.{layer}.bias": torch.zeros_like(bias),
                    f"conv.{layer}.late": bias,
                }
    weight, bias = state["g_synthesis.torgb.weight"], state["g_synthesis.torgb.bias"]
    return tensors | {"rgb.weight": _scaled(weight, 1), "rgb.bias": bias}


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

    state = {"generator.progression.0.conv1.input": draw(1, channels, 4, 4)}
    for i in range(1, 17, 2):
        state |= {f"style.{i}.linear.weight_orig": draw(width, width), f"style.{i}.linear.bias": 0.1 * draw(width)}
    for i in range(int(math.log2(size)) - 1):
        block = f"generator.progression.{i}"
        for part in (1, 2):
            shift = 0.1 * draw(2 * channels)
            state |= {
                f"{block}.noise{part}.weight_orig": 0.1 * draw(1, channels, 1, 1),
                f"{block}.adain{part}.style.linear.weight_orig": draw(2 * channels, width),
                f"{block}.adain{part}.style.linear.bias": shift + (torch.arange(2 * channels) < channels),
            }
        if 4 * 2**i >= _FUSED_FROM:
            names, weight = ("conv1.0.weight", "conv1.0.bias"), draw(channels, channels, 3, 3)
            state |= {
                f"{block}.{name}": value for name, value in zip(names, (weight, 0.1 * draw(channels)), strict=True)
            }
        elif i:
            state[f"{block}.conv1.1.conv.weight_orig"] = draw(channels, channels, 3, 3)
            state[f"{block}.conv1.1.conv.bias"] = 0.1 * draw(channels)
        state[f"{block}.conv2.conv.weight_orig"] = draw(channels, channels, 3, 3)
        state[f"{block}.conv2.conv.bias"] = 0.1 * draw(channels)
        state[f"generator.to_rgb.{i}.conv.weight_orig"] = draw(3, channels, 1, 1)
        state[f"generator.to_rgb.{i}.conv.bias"] = 0.1 * draw(3)
    return state
