"""MobileStyleGAN (Belousov, 2021), rebuilt from the constants of its OpenVINO files.

The package random-face carries them as ``MappingNetwork`` and ``SynthesisNetwork``, ``.xml`` and ``.bin`` each. Their
weights were distilled from NVIDIA's network of FFHQ, whose licence is for non-commercial use. Neither package nor
weights are part of latentpatch: install the package yourself.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import FileError, SettingError
from .generator import Generator, GeneratorSpec
from .wheels import wheel_file

__all__ = ["MobileStyleGAN", "load"]

_FILES = ("MappingNetwork", "SynthesisNetwork")
_NOT_A_GRAPH = "not the graph of MobileStyleGAN in random-face"
_TYPES = {"f32": np.float32, "i64": np.int64, "i32": np.int32}
_SLOPE = 0.2  # of the rectifiers below 0
_LAYERS = 7  # blocks from 8 to 512 pixels
_SIZES = (32, 64, 128, 256, 512, 1024)
_HALVED = ((0.5, 0.0, 0.0), (0.5, 1.0, 0.5), (0.0, 0.0, 0.5))  # kernel of 3 pixels on means of squares, by the kernel
_EPSILON = 1e-8  # of the normalization of vectors


class _Node(NamedTuple):
    kind: str
    name: str
    inputs: list[str]
    value: Tensor | None


class MobileStyleGAN(Generator):
    """MobileStyleGAN: 23 styles, 15 noise maps, 1024 pixels.

    Args:
        folder: of the four files.
        size: side of the pictures in pixels. 1024 is the whole network. 512 leaves out the last inverse wavelet: its
            pixels are means of 2 x 2 of those of 1024. 256, 128, 64 and 32 also leave out the details of the
            wavelets before, and take two fifths, a sixth, a thirteenth and a 26th of the time. The styles are the
            same for all.

    Raises:
        FileError: for files that are missing, damaged or of another layout.
    """

    has_layers = True

    def __init__(self, folder: Path, size: int = 1024) -> None:
        if size not in _SIZES:
            raise SettingError("size", size, f"one of {', '.join(map(str, _SIZES))} for mobile-stylegan")
        tensors: dict[str, Tensor] = {}
        for name, read in zip(_FILES, (_mapping, _synthesis), strict=True):
            path = folder / f"{name}.xml"
            try:
                tensors |= read(_nodes(path))
            except OSError as error:
                raise FileError(path, f"cannot be read: {error.strerror or error}") from error
            except (ET.ParseError, ValueError, KeyError, IndexError, RuntimeError, TypeError) as error:
                raise FileError(path, f"{_NOT_A_GRAPH}: {error}") from error
        maps = [tensors[f"noise.{i}"] for i in range(2 * _LAYERS + 1)]
        spec = GeneratorSpec(
            "mobile-stylegan", 3 * _LAYERS + 2, 512, 512, (1024, 1024), tuple((m.shape[2], m.shape[3]) for m in maps),
            "non-commercial: distilled from NVIDIA's FFHQ network", "FFHQ, photographs of faces", str(folder),
        )  # fmt: skip
        super().__init__(spec)
        self.strengths = []
        for i, each in enumerate(maps):
            self.strengths.append(float(each.std()))
            tensors[f"noise.{i}"] = each / (self.strengths[-1] or 1.0)
        for name, value in tensors.items():
            self.register_buffer(name.replace(".", "_"), value)
        self.freeze()
        try:
            self.check_tensors()
        except (RuntimeError, ValueError) as error:
            raise FileError(folder, f"{_NOT_A_GRAPH}: {' '.join(str(error).split())[:300]}") from error
        self.spec = replace(spec, image_size=(size, size))

    def map(self, vectors: Tensor) -> Tensor:
        x = vectors * (vectors.square().mean(1, keepdim=True) + _EPSILON).rsqrt()
        for i in range(8):
            x = F.leaky_relu(F.linear(x, self._get(f"map.{i}.weight"), self._get(f"map.{i}.bias")), _SLOPE)
            x = x * self._get("map.gain")
        return x[:, None].expand(-1, self.spec.num_styles, -1)

    def noise(self, seed: int) -> list[Tensor]:
        """Return the maps of the file, for every seed."""
        return [self._get(f"noise.{i}") for i in range(len(self.strengths))]

    def resized(self, side: int) -> MobileStyleGAN:
        sides = [each for each in _SIZES if each <= self.spec.image_size[0]]
        if side not in sides:
            raise SettingError("sides", side, f"one of {', '.join(map(str, sides))}")
        smaller = copy(self)  # shares the tensors
        smaller.spec = replace(self.spec, image_size=(side, side))
        return smaller

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        layer = iter(range(self.spec.num_styles))
        maps = iter([each * strength for each, strength in zip(noise, self.strengths, strict=True)])
        names = [
            "conv1",
            *(f"layers.{i}.{part}" for i in range(_LAYERS) for part in ("up", "conv1", "conv2")),
            "to_img",
        ]

        def modulated(x: Tensor) -> Tensor:
            i = next(layer)
            weight, bias = self._get(f"{names[i]}.style.weight"), self._get(f"{names[i]}.style.bias")
            return x * F.linear(styles[:, i], weight, bias)[:, :, None, None]

        x = F.conv2d(modulated(self._get("input")), self._get("conv1.weight"), padding=1)
        x = F.leaky_relu(x + next(maps) + self._get("conv1.bias"), _SLOPE)
        halved, halvings = styles.new_tensor(_HALVED), 0
        for i in range(_LAYERS):
            x = modulated(x)
            if 2 * x.shape[3] <= self.spec.image_size[0]:
                x = self._unwavelet(x)
            else:  # the first band of a Haar wavelet is twice the mean of a square
                x, halvings = x[:, : x.shape[1] // 4] / 2, halvings + 1
            for part in (f"layers.{i}.conv1", f"layers.{i}.conv2"):
                kernel = self._get(f"{part}.depthwise")
                for _ in range(halvings):
                    kernel = halved @ kernel @ halved.T
                x = F.conv2d(modulated(x), kernel, padding=1, groups=x.shape[1])
                pointwise = self._get(f"{part}.pointwise").flatten(1)  # a product: faster than a convolution
                x = (pointwise @ x.flatten(2)).unflatten(2, x.shape[2:])
                detail = F.avg_pool2d(next(maps), 2**halvings)
                x = F.leaky_relu(x + detail + self._get(f"{part}.bias"), _SLOPE)
        weight, bias = self._get("to_img.weight"), self._get("to_img.bias")
        if self.spec.image_size[0] == 1024:
            x = self._unwavelet(F.conv2d(modulated(x), weight, bias.flatten()))
        else:
            x = F.conv2d(modulated(x), weight[:3], bias.flatten()[:3]) / 2
        return x / 2 + 0.5

    def _unwavelet(self, x: Tensor) -> Tensor:
        """Return the inverse wavelet of ``(N, 4C, h, w)``: means, then three bands of each channel."""
        count = x.shape[1] // 4
        bands = torch.cat([x[:, :count, None], x[:, count:].unflatten(1, (count, 3))], 2)
        kernel = self._get("wavelet").flatten(1)  # 4 bands x 4 pixels
        return F.pixel_shuffle(torch.einsum("ncbhw,bp->ncphw", bands, kernel).flatten(1, 2), 2)

    def _get(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, name.replace(".", "_"))
        return tensor


def load(argument: str | None = None, *, pretrained: bool = True, size: int = 1024) -> MobileStyleGAN:
    """Build the generator.

    Args:
        argument: folder of the four files, perhaps followed by ``@SIDE`` of the pictures; None for those of
            the installed package random-face.
        pretrained: must be True: the graph's file is its layout, too.
        size: see :class:`MobileStyleGAN`.

    Raises:
        MissingDependencyError, FileError: for files that are missing or of another layout.
        SettingError: for random weights.
    """
    if not pretrained:
        raise SettingError("pretrained", False, "True for mobile-stylegan")
    place, _, side = (argument or "").partition("@")
    if side:
        size = int(side) if side.isdecimal() else 0
    if place:
        return MobileStyleGAN(Path(place), size)
    return MobileStyleGAN(wheel_file("random_face", "data/SynthesisNetwork.xml", "mobile-stylegan").parent, size)


def _nodes(path: Path) -> list[_Node]:
    """Return the nodes of an OpenVINO graph in order, constants with their values."""
    root, data = ET.parse(path).getroot(), path.with_suffix(".bin").read_bytes()
    layers, edges = root.find("layers"), root.find("edges")
    if layers is None or edges is None:
        raise ValueError("no layers")
    inputs: dict[str, dict[int, str]] = {}
    for edge in edges:
        inputs.setdefault(edge.attrib["to-layer"], {})[int(edge.attrib["to-port"])] = edge.attrib["from-layer"]
    ids = [layer.attrib["id"] for layer in layers]
    places = {each: i for i, each in enumerate(ids)}
    nodes = []
    for layer, each in zip(layers, ids, strict=True):
        value, facts = None, layer.find("data")
        if layer.attrib["type"] == "Const" and facts is not None:
            begin, length = int(facts.attrib["offset"]), int(facts.attrib["size"])
            shape = [int(side) for side in facts.attrib["shape"].split(",") if side.strip()]
            array = np.frombuffer(data[begin : begin + length], _TYPES[facts.attrib["element_type"]])
            value = torch.from_numpy(array.copy()).reshape(shape)
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise ValueError(f"{layer.attrib['name']} must be finite, got NaN or infinite values")
        sources = [str(places[source]) for _, source in sorted(inputs.get(each, {}).items())]
        nodes.append(_Node(layer.attrib["type"], layer.attrib["name"], sources, value))
    return nodes


def _constants(nodes: Sequence[_Node], kind: str) -> list[Tensor]:
    """Return the constant inputs of all nodes of a type, in order."""
    found = (nodes[int(source)].value for node in nodes if node.kind == kind for source in node.inputs)
    return [value for value in found if value is not None]


def _mapping(nodes: Sequence[_Node]) -> dict[str, Tensor]:
    """Return the tensors of the mapping network."""
    weights = _constants(nodes, "MatMul")
    biases = [value for value in _constants(nodes, "Reshape") if value.is_floating_point()]
    if len(weights) != 8 or len(biases) != 8:
        raise ValueError(f"{len(weights)} linear layers in place of 8")
    tensors = {"map.gain": _constants(nodes, "Multiply")[-1].flatten()}
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        tensors |= {f"map.{i}.weight": weight, f"map.{i}.bias": bias}
    return tensors


def _synthesis(nodes: Sequence[_Node]) -> dict[str, Tensor]:
    """Return the tensors of the synthesis network by plain names."""
    consumers: dict[str, list[_Node]] = {}
    for i, node in enumerate(nodes):
        for source in node.inputs:
            consumers.setdefault(source, []).append(nodes[i])
    place = {id(node): str(i) for i, node in enumerate(nodes)}
    named = {node.name: node.value for node in nodes if node.value is not None}
    tensors = {"input": named["m.input.input"]}
    for name in [name for name in named if name.endswith(".modulation.weight")]:
        weight, bias = named[name], named[name.removesuffix("weight") + "bias"]
        (matmul,) = (n for n in nodes if n.kind == "MatMul" and nodes[int(n.inputs[1])].name == name)
        node = matmul
        for _ in range(3):  # sum, reshape, product
            (node,) = (n for n in consumers[place[id(node)]] if n.kind != "ShapeOf")
        factor = next((v for v in (nodes[int(s)].value for s in node.inputs) if v is not None), None)
        scale = 1.0 if factor is None else float(factor)
        plain = name.removeprefix("m.").removesuffix(".modulation.weight").removesuffix(".conv")
        plain = "to_img" if plain.endswith("to_img") else plain
        tensors |= {f"{plain}.style.weight": weight * scale, f"{plain}.style.bias": bias.flatten() * scale}
    depthwise, convolutions = _constants(nodes, "GroupConvolution"), _constants(nodes, "Convolution")
    added = [value for value in _constants(nodes, "Add") if value.ndim == 4]
    maps = [value for value in added if value.shape[1] == 1]
    biases = [value for value in added if value.shape[2:] == (1, 1) and value.shape[1] > 1]
    parts = [f"layers.{i}.{part}" for i in range(_LAYERS) for part in ("conv1", "conv2")]
    counts = len(depthwise), len(convolutions), len(maps), len(biases)
    if counts != (len(parts), len(parts) + 2, len(parts) + 1, len(parts) + 2):
        raise ValueError(f"{counts} convolutions, noise maps and biases")
    for part, weight in zip(parts, depthwise, strict=True):
        tensors[f"{part}.depthwise"] = weight.flatten(1, 2)
    for part, weight, bias in zip(["conv1", *parts, "to_img"], convolutions, biases, strict=True):
        tensors[f"{part}.{'pointwise' if part in parts else 'weight'}"] = weight
        tensors[f"{part}.bias"] = bias
    tensors |= {f"noise.{i}": value for i, value in enumerate(maps)}
    filters = _constants(nodes, "GroupConvolutionBackpropData")[:6]
    low, high = (each[0].flatten() for each in filters[:2])
    if any(not math.isclose(float(each.square().sum()), 1, abs_tol=1e-3) for each in (low, high)):
        raise ValueError("wavelets other than Haar's")
    bands = [torch.outer(down, right) for right in (low, high) for down in (low, high)]
    return {**tensors, "wavelet": torch.stack(bands)}
