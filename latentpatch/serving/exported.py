"""An exported graph behind limits, in place of a model: pictures and provenance of seeds, with its own settings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batching import Costs
from ..errors import FileError, LatentPatchError
from ..ops.noise import noise_from_seeds
from ..provenance.maps import provenance_images
from ..registry import settings_from_record
from ..results import Generation
from .schema import GenerateRequest, InfoRequest, ProvenanceRequest, Request, json_schema
from .service import BUSY, Failure, Limits, Refusal, Result, check_count, drawn_result, failure_of

__all__ = ["GraphService", "graph_files", "read_facts"]

_FACTS = "export.json"
_UNUSED = ("sampler", "preset", "reference", "where")


class GraphService:
    """The graph ``generate`` of an export behind limits: what :class:`~latentpatch.serving.Service` is to a model.

    Args:
        folder: of the files that ``latentpatch export`` wrote.
        limits: what it may cost.
        threads: that ONNX Runtime may use; torch's are set elsewhere.

    Attributes:
        costs: seconds and images of the last :meth:`run`, by stage; a graph has one, which counts as decoding.

    Raises:
        FileError: for files that are missing or not right.
        LatentPatchError: without the package that runs the graph.
    """

    def __init__(self, folder: str | Path, limits: Limits | None = None, threads: int = 1) -> None:
        self.limits, self.costs = limits or Limits(), Costs()
        self.export = read_facts(folder)
        self._graph = _loaded(Path(folder), self.export["format"], threads)
        self._steps = int(self.export["graphs"]["generate"]["inputs"]["noise"]["shape"][1])
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
            "sources": len(self.export["sources"]),
            "sources_sha256": self.export["sources_sha256"],
        }
        self._draw([0], float("inf"))  # warms up
        self._seconds = self._timed()

    def run(self, requests: Sequence[Request]) -> list[Result | Failure]:
        """The result of each request: the same alone and in any company, unless it is refused for want of time."""
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
        if isinstance(request, InfoRequest):
            return self._info()
        if not isinstance(request, (GenerateRequest, ProvenanceRequest)):
            raise ValueError(f"operation {request.operation!r}: the exported graph does generate and provenance alone")
        _check_fixed(request)
        seconds = check_count(request, self.limits) * self._seconds
        if seconds > self.limits.max_seconds:
            most = f"at most {self.limits.max_seconds:g} are given"
            raise Refusal(Failure(413, "too_much_work", f"this would take some {seconds:.0f} s; {most}"))
        if time.monotonic() + seconds > deadline:
            raise Refusal(BUSY)
        images, index = self._draw(request.all_seeds, deadline)
        sampler, ids = self.export["sampler"], tuple(self.export["sources"])
        result = Generation(images, index, ids, tuple(request.all_seeds), sampler, self._settings)
        shown = None
        if isinstance(request, ProvenanceRequest):
            shown = provenance_images(index, len(ids), images.shape[2] // index.shape[1])
        return drawn_result(self.facts, request.operation, result, shown)

    def _draw(self, seeds: Sequence[int], deadline: float) -> tuple[Tensor, Tensor]:
        """Picture by picture, so that none depends in its last bits on those beside it."""
        made = []
        for seed in seeds:
            if time.monotonic() > deadline:
                raise Refusal(BUSY)
            begun = time.perf_counter()
            made.append(self._graph(noise_from_seeds([seed], self._steps)))
            self.costs.seconds["decode"] += time.perf_counter() - begun
            self.costs.images["decode"] += 1
        images, index = zip(*made, strict=True)
        return torch.cat(images), torch.cat(index)

    def _timed(self) -> float:
        begun = time.monotonic()
        self._draw([1, 2], float("inf"))
        return (time.monotonic() - begun) / 2

    def _info(self) -> Result:
        names = ("grid", "image_size", "sampler")
        report = {name: self.export[name] for name in names} | {"settings": self._settings.record()}
        return Result("info", None, {**self.facts, **report, "limits": asdict(self.limits), "schema": json_schema()})


def _check_fixed(request: GenerateRequest | ProvenanceRequest) -> None:
    """Refuse what a graph has fixed when it was exported."""
    given = [name for name in _UNUSED if getattr(request, name) is not None]
    given += ["settings"] if request.settings.model_dump(exclude_none=True) else []
    given += ["decoding"] if getattr(request, "decoding", None) is not None else []
    if given:
        raise ValueError(f"{given[0]}: the exported graph has its own; the request goes without it")


def read_facts(folder: str | Path) -> dict[str, Any]:
    """What ``export.json`` says of a folder that has the graph ``generate``.

    Raises:
        FileError: where it is missing or not that.
    """
    path = Path(folder) / _FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "graphs", "sampler", "settings", "autoencoder", "sources"} - set(facts)
    except (OSError, ValueError, TypeError) as error:
        raise FileError(f"{path}: not a readable description of exported graphs: {error}") from error
    if missing or "generate" not in facts["graphs"]:
        lacking = min(missing) if missing else "the graph generate"
        raise FileError(f"{path}: what `latentpatch export` writes is expected; {lacking} is missing")
    return facts


def graph_files(folder: str | Path) -> list[Path]:
    """The files the graph ``generate`` needs.

    Raises:
        FileError: where they are missing.
    """
    folder = Path(folder)
    suffix = "onnx" if read_facts(folder)["format"] == "onnx" else "pt2"
    graph = folder / f"generate.{suffix}"
    if not graph.is_file():
        raise FileError(f"{graph}: no such file")
    beside = folder / f"{graph.name}.data"  # the weights of a large one
    return [folder / _FACTS, graph, *([beside] if beside.is_file() else [])]


def _loaded(folder: Path, format: str, threads: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """``noise (N, steps) -> images, index map`` on the CPU."""
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
        raise LatentPatchError("an ONNX graph needs the package onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(noise: Tensor) -> tuple[Tensor, Tensor]:
        images, index = (torch.from_numpy(np.asarray(out)) for out in session.run(None, {"noise": noise.numpy()}))
        return images, index

    return run
