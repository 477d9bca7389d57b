"""Identity descriptors: functions that turn pictures into vectors, which are near for the same person or object.

A descriptor is any callable that takes images ``(N, 3, H, W)``, float32 in [0, 1] on the CPU, and returns ``(N, D)``, a
tensor or an array. Descriptors are compared by their Euclidean distance. An ONNX file of an embedder is one, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders.weights import sha256_of
from ..errors import FileError, MissingDependencyError, SettingError
from ..validation import check_choice, check_flag, check_integer, check_number
from .features import Extractor, import_extractor

__all__ = ["OnnxDescriptor", "OnnxInput", "find_descriptor", "parse_onnx_input"]

_DEFAULT_NAME = "descriptor"  # the callable in a user's file
_SIDE = 112  # pixels, where a graph names none: the side of ArcFace's input
_CENTER = 127.5  # levels; mean and scale of most face embedders
_LEVELS = 255
_MAX_SIDE = 4096  # pixels
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
#: Operations that normalize, and those that may stand between the input of a graph and them.
_NORMALIZING = ("Sub", "Add", "Mul", "Div", "BatchNormalization", "InstanceNormalization")
_TRANSPARENT = ("Cast", "Clip", "Gather", "Identity", "Pad", "Reshape", "Resize", "Slice", "Transpose")

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class OnnxInput:
    """The input of an ONNX embedder; None is for what the graph says, or else for the convention of face embedders.

    Attributes:
        layout: ``nchw`` or ``nhwc``; by default from the graph's shape, else ``nchw``.
        height, width: pixels; by default from the graph's shape, else 112.
        order: order of the channels, ``rgb`` or ``bgr``; a graph does not say it.
        mean, std: a level v of 0 to 255 becomes ``(v - mean) / std``, in the channels' order. By default 0 and 1 for a
            graph of bytes or one that begins with a normalization, else 127.5 and 127.5, for [-1, 1].
        crop: part of the picture's sides cut off at each edge, below 0.5.
        unit: whether descriptors are scaled to length 1, so that distances are those of cosine similarities.
    """

    layout: str | None = None
    height: int | None = None
    width: int | None = None
    order: str = "rgb"
    mean: Channels | None = None
    std: Channels | None = None
    crop: float = 0.0
    unit: bool = True

    def __post_init__(self) -> None:
        if self.layout is not None:
            check_choice("layout", self.layout, ("nchw", "nhwc"))
        check_choice("order", self.order, ("rgb", "bgr"))
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1, _MAX_SIDE)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and not (len(values) == 3 and all(isfinite(each) for each in values)):
                raise SettingError(name, values, "one finite number or three")
        if self.std is not None and min(self.std) <= 0:
            raise SettingError("std", self.std, "above 0")
        check_number("crop", self.crop, 0, 0.45)
        check_flag("unit", self.unit)


def parse_onnx_input(words: Sequence[str]) -> OnnxInput:
    """Return the input that words ``KEY=VALUE`` describe, such as ``size=112 order=bgr mean=127.5 std=128``.

    Keys are those of :class:`OnnxInput`, with ``size`` as SIDE or HEIGHTxWIDTH in place of height and width. ``mean``
    and ``std`` are a number, or three with commas between.

    Raises:
        SettingError: for other words, or values out of range.
    """
    values: dict[str, Any] = {}
    keys = ["size", *(each.name for each in fields(OnnxInput) if each.name not in ("height", "width"))]
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key in values:
            raise SettingError("identity_input", word, "KEY=VALUE, each key once")
        values[check_choice("identity_input", key, keys)] = _value(key, text)
    if "size" in values:
        values["height"], values["width"] = values.pop("size")
    return OnnxInput(**values)


def _value(key: str, text: str) -> Any:
    try:
        if key == "size":
            height, _, width = text.partition("x")
            return int(height), int(width or height)
        if key in ("mean", "std"):
            numbers = tuple(float(each) for each in text.split(","))
            return numbers * 3 if len(numbers) == 1 else numbers
        if key == "unit":
            return {"true": True, "false": False}[text]
        return float(text) if key == "crop" else text
    except (ValueError, KeyError) as error:
        forms = {"size": "SIDE or HEIGHTxWIDTH", "unit": "true or false", "crop": "a number"}
        raise SettingError(key, text, forms.get(key, "one number or three")) from error


class OnnxDescriptor:
    """An ONNX graph from one batch of pictures to descriptors, run by onnxruntime on the CPU.

    Args:
        path: the file.
        settings: the input; what it leaves open is read from the graph.

    Attributes:
        settings: the input in force, with nothing left open.

    Raises:
        FileError: for a file that is no such graph.
        SettingError: for settings that contradict the graph.
        MissingDependencyError: without onnxruntime; without onnx where the normalization has to be read.
    """

    def __init__(self, path: str | Path, settings: OnnxInput | None = None) -> None:
        self.path, settings = Path(path), settings or OnnxInput()
        if not self.path.is_file():
            raise FileError(path, "no such file")
        self._session = _session(self.path)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
            found = ", ".join(f"{each.type} {each.shape}" for each in inputs)
            raise FileError(path, f"must take one batch of pictures, a tensor of four dimensions; it takes {found}")
        self._name, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]
        batch, *shape = (each if isinstance(each, int) and each > 0 else None for each in inputs[0].shape)
        self._batch = batch
        is_last = settings.layout == "nhwc" if settings.layout else shape[0] != 3 and shape[2] == 3
        channels, height, width = (shape[2], shape[0], shape[1]) if is_last else shape
        if channels not in (3, None):
            raise FileError(path, f"must take pictures of 3 channels, got {inputs[0].shape}")
        self._check_side("height", settings.height, height)
        self._check_side("width", settings.width, width)
        mean, std = settings.mean, settings.std
        if mean is None or std is None:
            is_raw = self._dtype is np.uint8 or _has_normalization(self.path, self._name)
            mean, std = mean or ((0.0 if is_raw else _CENTER),) * 3, std or ((1.0 if is_raw else _CENTER),) * 3
        self.settings = replace(
            settings,
            layout="nhwc" if is_last else "nchw",
            height=settings.height or height or _SIDE,
            width=settings.width or width or _SIDE,
            mean=mean,
            std=std,
        )

    @property
    def record(self) -> dict[str, Any]:
        """The input in force, as JSON holds it."""
        found = asdict(self.settings)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the descriptors of images ``(N, 3, H, W)`` in [0, 1]: ``(N, D)`` float32."""
        values = self._prepared(images)
        size = self._batch or len(values)
        parts = []
        for first in range(0, len(values), size):
            chunk = values[first : first + size]
            missing = size - len(chunk)  # a graph of a fixed batch wants it full
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], missing, 0)]) if missing else chunk
            parts.append(self._run(filled)[: len(chunk)])
        descriptors = torch.from_numpy(np.concatenate(parts).astype(np.float32))
        return F.normalize(descriptors) if self.settings.unit else descriptors

    def _prepared(self, images: Tensor) -> np.ndarray[Any, Any]:
        """Return images as the graph takes them."""
        settings = self.settings
        assert settings.height is not None and settings.width is not None  # noqa: PT018  # for the type checker
        top, left = (int(side * settings.crop) for side in images.shape[2:])
        cut = images[:, :, top : images.shape[2] - top, left : images.shape[3] - left].float()
        size = (settings.height, settings.width)
        if cut.shape[2:] != size:
            cut = F.interpolate(cut, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        levels = cut.flip(1) if settings.order == "bgr" else cut
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (settings.mean, settings.std))
        values = (levels * _LEVELS - mean) / std
        if self._dtype is np.uint8:
            values = values.round()
        values = values.permute(0, 2, 3, 1) if settings.layout == "nhwc" else values
        return values.contiguous().numpy().astype(self._dtype)

    def _run(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        try:
            found = np.asarray(self._session.run(None, {self._name: values})[0])
        except Exception as error:  # the runtime raises classes of its own
            raise FileError(self.path, f"cannot be run on an input of shape {values.shape}: {error}") from error
        if len(found) != len(values) or found.ndim < 2 or found.dtype.kind != "f":
            reason = f"must give one vector a picture, got {found.dtype} {found.shape} for {len(values)} pictures"
            raise FileError(self.path, reason)
        return found.reshape(len(found), -1)

    def _check_side(self, name: str, wanted: int | None, fixed: int | None) -> None:
        if wanted is not None and fixed is not None and wanted != fixed:
            raise SettingError(name, wanted, f"{fixed}, as the graph {self.path.name} has it")


def find_descriptor(text: str, settings: OnnxInput | None = None) -> Extractor:
    """Return the descriptor of ``MODULE:CALLABLE``, of ``FILE.py[:CALLABLE]``, or of an ONNX file.

    A Python file or module is code, and is run. A class is instantiated without arguments. The default name of a file's
    callable is ``descriptor``.

    Args:
        text: the text.
        settings: input of the ONNX file.

    Raises:
        SettingError: for another text, or settings without an ONNX file.
        FileError: for a file that cannot be used.
        MissingDependencyError: for an ONNX file without onnxruntime.
    """
    if text.endswith(".onnx"):
        return Extractor(Path(text).stem, OnnxDescriptor(text, settings), sha256_of(Path(text)), "identity")
    if settings is not None:
        raise SettingError("identity_input", asdict(settings), "absent where --identity is no ONNX file")
    return import_extractor(text, "identity", _DEFAULT_NAME, "FILE.onnx")


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "onnx", "an identity descriptor in ONNX") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; they are raised anyway
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises classes of its own
        raise FileError(path, f"not a readable ONNX graph: {error}") from error


def _has_normalization(path: Path, name: str) -> bool:
    """Return whether a graph normalizes its input before it does anything else.

    Args:
        path: an ONNX file.
        name: name of the input.
    """
    try:
        import onnx
    except ImportError as error:
        feature = "an identity descriptor in ONNX whose mean and std are not both set"
        raise MissingDependencyError("onnx", "onnx", feature) from error
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    while True:
        users = [node for node in nodes if name in node.input]
        if len(users) != 1:
            return False
        if users[0].op_type in _NORMALIZING:
            return True
        if users[0].op_type not in _TRANSPARENT:
            return False
        name = users[0].output[0]
