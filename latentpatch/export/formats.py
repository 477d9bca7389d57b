"""Files of exported models: ONNX, programs of ``torch.export`` and packages of AOTInductor."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import LatentPatchError, MissingDependencyError, SettingError
from ..io.atomic import staged
from ..model import LatentPatch
from ..registry import SAMPLERS
from ..runs.defaults import plain_torch
from ..settings import Settings
from .graphs import Graph, graphs

__all__ = ["EXTERNAL_FROM", "FORMATS", "export"]

#: File formats: ONNX, programs of ``torch.export``, and programs that AOTInductor compiles to machine code.
FORMATS = ("onnx", "pt2", "aoti")

#: Bytes of weights and sources from which an ONNX file stores them in a second file. The format's limit is 2^31.
EXTERNAL_FROM = 1 << 30

#: Operator set of ONNX files.
_OPSET = 18
#: Description of the input ``noise`` in the files; part of the format.
_SEEDS = (
    "noise: uniforms in [0, 1), float32, one row an image; those of seed s are "
    "numpy.random.default_rng(s).random(steps, dtype=numpy.float32); numbers outside count as the nearest inside"
)


@plain_torch()
def export(
    model: LatentPatch,
    folder: str | Path,
    format: str = "onnx",
    *,
    sampler: str | None = None,
    settings: Settings | None = None,
    where: str | None = None,
    only: tuple[str, ...] | None = None,
    external_from: int = EXTERNAL_FROM,
) -> dict[str, Any]:
    """Write the graphs of a model, and ``export.json`` with the facts they were made from.

    The graphs are ``generate``, ``encoder``, ``decoder``, ``reference`` and ``edit``; their inputs and outputs are in
    ``docs/export.md``. Batches may be of any length.

    Args:
        model: fitted model.
        folder: output folder; files of the same names are replaced, all of them or none.
        format: one of :data:`FORMATS`.
        sampler: name of an exportable sampler; None for the sampler of the settings.
        settings: settings of the sampler; None for the model's.
        where: predicate on attributes; the files then contain only the sources that satisfy it.
        only: names of the graphs to write; None for all.
        external_from: see :data:`EXTERNAL_FROM`.

    Returns:
        The content of ``export.json``.

    Raises:
        SettingError: for an argument or setting that the graphs do not support.
        MissingDependencyError: where packages of the format are missing.
        LatentPatchError: where the compiler of the format is missing.
        FileError: where files cannot be written.
    """
    if format not in FORMATS:
        raise SettingError("format", format, f"one of {', '.join(FORMATS)}")
    _check_tools(format)
    method, chosen = model.sampler_and_settings(sampler, settings)
    model, sampler = _subset(model, where), SAMPLERS.name_of(chosen)
    free, guided = (method.resolve(chosen, model.context(has_reference=has)) for has in (False, True))
    made = graphs(model, sampler, free, guided)
    names = [graph.name for graph in made]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise SettingError("only", unknown[0], f"one of {', '.join(names)}")
    facts = _facts(model, sampler, free, guided, format)
    facts["graphs"] = {graph.name: _describe(graph) for graph in made if graph.name in (only or names)}
    with staged(folder) as staging, torch.no_grad(), _quiet():
        for graph in made:
            if graph.name in facts["graphs"]:
                _write(graph, staging, format, facts, external_from)
        (staging / "export.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return facts


def _write(graph: Graph, folder: Path, format: str, facts: dict[str, Any], external_from: int) -> None:
    """Trace a graph for batches of any length and write its file."""
    batch = torch.export.Dim("N", max=1 << 16)
    program = torch.export.export(
        graph.module.eval(),
        tuple(graph.inputs.values()),
        dynamic_shapes=tuple({0: batch} for _ in graph.inputs),
        strict=False,
    )
    text = json.dumps({**facts, "graph": graph.name}, sort_keys=True)
    path = folder / f"{graph.name}.{'onnx' if format == 'onnx' else 'pt2'}"
    if format == "onnx":
        _write_onnx(program, graph, path, facts, text, external_from)
    elif format == "pt2":
        torch.export.save(program, path, extra_files={"latentpatch.json": text})
    else:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def _write_onnx(
    program: torch.export.ExportedProgram,
    graph: Graph,
    path: Path,
    facts: dict[str, Any],
    text: str,
    external_from: int,
) -> None:
    """Write a program as an ONNX file and check the file."""
    import onnx

    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=_OPSET,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        verbose=False,
    )
    assert made is not None
    _repair(made.model.graph)
    _name_axes(made.model.graph)
    made.model.metadata_props.update(
        {"latentpatch": text, "license": facts["autoencoder"]["license"], "seeds": facts["seeds"]}
    )
    values = [
        value for value in (*program.state_dict.values(), *program.constants.values()) if hasattr(value, "nbytes")
    ]
    made.save(str(path), external_data=sum(value.nbytes for value in values) >= external_from)
    onnx.checker.check_model(str(path), full_check=True)


def _repair(graph: Any) -> None:
    """Repair faults of the exporter: values with the name of an output, and empty lists of ``Scan``."""
    names = {value.name for value in graph.outputs}
    for value in [value for name, value in graph.initializers.items() if name in names]:
        del graph.initializers[value.name]
        value.name += "_constant"
        graph.initializers[value.name] = value
    for node in graph:
        for value in node.outputs:
            if value.name in names and not any(value is output for output in graph.outputs):
                value.name += "_within"
        # quantize_dynamic of ONNX Runtime rejects an empty list, because it has no type.
        empty = [name for name, item in node.attributes.items() if item.type.name == "INTS" and not item.value]
        for name in empty if node.op_type == "Scan" else ():
            del node.attributes[name]


def _name_axes(graph: Any) -> None:
    """Name the axis of images N, which the exporter calls otherwise in every graph."""
    import onnx_ir

    name = str(graph.inputs[0].shape[0])
    for part in _nested(graph):
        for value in (*part.inputs, *part.initializers.values(), *(value for node in part for value in node.outputs)):
            if value.shape is not None:
                sizes = [getattr(size, "value", size) for size in value.shape]  # numbers, text, or None
                renamed = [re.sub(rf"\b{name}\b", "N", size) if isinstance(size, str) else size for size in sizes]
                value.shape = onnx_ir.Shape(renamed)


def _nested(graph: Any) -> Iterator[Any]:
    """Yield a graph and the graphs that its nodes hold."""
    yield graph
    for node in graph:
        for item in node.attributes.values():
            if item.type.name == "GRAPH":
                yield from _nested(item.value)


def _subset(model: LatentPatch, where: str | None) -> LatentPatch:
    """Return a model on the CPU with only the sources that satisfy a predicate; the PCA stays the same."""
    part = model if where is None else model.subset(where)
    return part if part.bank.keys.device.type == "cpu" else copy.deepcopy(part).cpu()


def _facts(model: LatentPatch, sampler: str, free: Any, guided: Any, format: str) -> dict[str, Any]:
    """Return the facts of ``export.json`` that all graphs share."""
    return {
        "version": __version__,
        "format": format,
        "autoencoder": model.identity(),
        "sampler": sampler,
        "settings": {"generate": free.record(), "reference": guided.record()},
        "seeds": _SEEDS,
        "sources": list(model.bank.ids),
        "variants": model.bank.variants.record(),
        # Positions of one group, such as copies of an image, count as one source.
        **({} if model.bank.num_groups == len(model.bank) else {"groups": model.bank.groups.tolist()}),
        "sources_sha256": model.bank.digest(),
        "components": model.pca.components,
        "grid": list(model.bank.grid),
        "image_size": list(model.image_size),
    }


def _describe(graph: Graph) -> dict[str, Any]:
    """Return the inputs and outputs of a graph as a JSON record."""
    return {
        "inputs": {
            name: {"type": str(value.dtype).removeprefix("torch."), "shape": ["N", *value.shape[1:]]}
            for name, value in graph.inputs.items()
        },
        "outputs": list(graph.outputs),
    }


def _check_tools(format: str) -> None:
    """Raise an error where packages or the compiler of a format are missing."""
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(error.name or "onnx", "onnx", "ONNX export") from error
    elif format == "aoti" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise LatentPatchError("The format aoti needs a C++ compiler, and neither $CXX nor g++ is one; pt2 needs none")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of the exporter, which concern its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
