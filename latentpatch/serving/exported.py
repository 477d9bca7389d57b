"""An exported graph behind limits: pictures and provenance of seeds, with the settings of its export."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bank.augmentation import Variants
from ..batching import Costs
from ..errors import FileError, MissingDependencyError, SettingError
from ..ops.noise import noise_from_seeds
from ..provenance.maps import provenance_images
from ..registry import settings_from_record
from ..results import Generation
from .failures import BUSY, Failure, Refusal, failure_of
from .limits import Limits, check_count, check_operation, check_seconds
from .schema import GenerateRequest, InfoRequest, ProvenanceRequest, Request, json_schema
from .service import Result, drawn_result

__all__ = ["GraphService", "graph_files", "read_facts"]

_FACTS = "export.json"
_FIXED = ("sampler", "preset", "reference", "where", "settings", "decoding")  # fields that an export settles


class GraphService:
    """The graph ``generate`` of an export behind limits, in place of :class:`~latentpatch.serving.Service`.

    Args:
        folder: the output of ``latentpatch export``.
        limits: bounds on the cost of requests and batches.
        threads: of ONNX Runtime; those of torch are set elsewhere.

    Attributes:
        costs: seconds and images of the last :meth:`run`; all of a graph counts as decoding.

    Raises:
        FileError: for files that are missing or malformed.
        MissingDependencyError: without the package that runs the graph.
    """

    def __init__(self, folder: str | Path, limits: Limits | None = None, threads: int = 1) -> None:
        self.limits, self.costs = limits or Limits(), Costs()
        self.export = read_facts(folder)
        self._graph = _loaded(Path(folder), self.export["format"], threads)
        self._noise_dim = int(self.export["graphs"]["generate"]["inputs"]["noise"]["shape"][1])
        self._settings = settings_from_record(
            {"sampler": self.export["sampler"], **self.export["settings"]["generate"]}
        )
        identity = self.export["autoencoder"]
        self.facts: dict[str, Any] = {
            "version": self.export["version"],
            "graph": self.export["format"],
            "autoencoder": {key: identity[key] for key in ("name", "downsampling", "sha256", "license")},
            "precision": "float32",
            "components": self.export["components"],
            "sources": len(self.export["sources"]) // Variants(**self.export.get("variants", {})).count,
            "sources_sha256": self.export["sources_sha256"],
        }
        self._draw([0], math.inf)  # warms up
        self._seconds = self._timed()

    def run(self, requests: Sequence[Request]) -> list[Result | Failure]:
        """Return the result of each request; no other request changes it, but time may run out for it."""
        self.costs = Costs()
        deadline = time.monotonic() + self.limits.max_seconds
        outcomes: list[Result | Failure] = []
        for request in requests:
            try:
                outcomes.append(self._answer(request, deadline))
            except Exception as error:
                outcomes.append(failure_of(error))
        return outcomes

    def _answer(self, request: Request, deadline: float) -> Result:
        check_operation(request, self.limits)
        if isinstance(request, InfoRequest):
            return self._info()
        if not isinstance(request, (GenerateRequest, ProvenanceRequest)):
            raise SettingError("operation", request.operation, "generate or provenance: a graph was exported for these")
        _check_fixed(request)
        seconds = check_count(request, self.limits) * self._seconds
        check_seconds(seconds, self.limits, deadline - time.monotonic())
        images, index = self._draw(request.all_seeds, deadline)
        sampler, ids = self.export["sampler"], tuple(self.export["sources"])
        groups = None if "groups" not in self.export else torch.tensor(self.export["groups"])
        result = Generation(images, index, ids, tuple(request.all_seeds), sampler, self._settings, groups=groups)
        shown = None
        if isinstance(request, ProvenanceRequest):
            shown = provenance_images(index, len(ids), images.shape[2] // index.shape[1])
        return drawn_result(self.facts, request.operation, result, shown)

    def _draw(self, seeds: Sequence[int], deadline: float) -> tuple[Tensor, Tensor]:
        """Return images and index maps, made one at a time: beside others their last bits could differ."""
        drawn = []
        for seed in seeds:
            if time.monotonic() > deadline:
                raise Refusal(BUSY)
            start = time.perf_counter()
            drawn.append(self._graph(noise_from_seeds([seed], self._noise_dim)))
            self.costs.seconds["decode"] += time.perf_counter() - start
            self.costs.images["decode"] += 1
        images, index = zip(*drawn, strict=True)
        return torch.cat(images), torch.cat(index)

    def _timed(self) -> float:
        start = time.monotonic()
        self._draw([1, 2], math.inf)
        return (time.monotonic() - start) / 2

    def _info(self) -> Result:
        names = ("grid", "image_size", "sampler")
        report = {name: self.export[name] for name in names} | {"settings": self._settings.record()}
        return Result("info", None, {**self.facts, **report, "limits": asdict(self.limits), "schema": json_schema()})


def _check_fixed(request: GenerateRequest | ProvenanceRequest) -> None:
    """Refuse fields that were settled when the graph was exported."""
    for name in _FIXED:
        value = getattr(request, name, None)
        if isinstance(value, dict):
            value = {key: setting for key, setting in value.items() if setting is not None} or None
        if value is not None:
            raise SettingError(name, "a value", "absent: it was settled when the graph was exported")


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``export.json`` in a folder that has the graph ``generate``.

    Raises:
        FileError: where it is missing or describes something else.
    """
    path = Path(folder) / _FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "graphs", "sampler", "settings", "autoencoder", "sources"} - set(facts)
    except (OSError, ValueError, TypeError) as error:
        raise FileError(path, f"not a readable description of exported graphs: {error}") from error
    if missing or "generate" not in facts["graphs"]:
        lacking = min(missing) if missing else "the graph generate"
        raise FileError(path, f"{lacking} is missing; `latentpatch export` writes it")
    return facts


def graph_files(folder: str | Path) -> list[Path]:
    """Return the files of the graph ``generate``, ``export.json`` and the graph first.

    Raises:
        FileError: where they are missing.
    """
    folder = Path(folder)
    suffix = "onnx" if read_facts(folder)["format"] == "onnx" else "pt2"
    graph = folder / f"generate.{suffix}"
    if not graph.is_file():
        raise FileError(graph, "no such file")
    weights = folder / f"{graph.name}.data"  # where a graph is large
    return [folder / _FACTS, graph, *([weights] if weights.is_file() else [])]


def _loaded(folder: Path, format: str, threads: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function from noise ``(N, noise_dim)`` to images and index maps, on the CPU."""
    path = graph_files(folder)[1]
    if format == "onnx":
        return _onnx(path, threads)
    compiled = format == "aoti"
    module: Any = torch._inductor.aoti_load_package(str(path)) if compiled else torch.export.load(path).module()

    def run(noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            images, index = module(noise)
        return images, index

    return run


def _onnx(path: Path, threads: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "onnx", "an ONNX graph") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(noise: Tensor) -> tuple[Tensor, Tensor]:
        images, index = (torch.from_numpy(np.asarray(out)) for out in session.run(None, {"noise": noise.numpy()}))
        return images, index

    return run
