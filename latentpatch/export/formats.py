"""Fitted models as graphs that run without this package: ONNX, and programs of ``torch.export``."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import LatentPatchError
from ..io.atomic import staged
from ..model import LatentPatch
from ..registry import SAMPLERS
from ..settings import Settings
from .graphs import Graph, graphs

__all__ = ["EXTERNAL_FROM", "FORMATS", "export"]

#: What :func:`export` writes: ONNX; programs of ``torch.export``; those compiled to machine code by AOTInductor.
FORMATS = ("onnx", "pt2", "aoti")

#: Bytes of weights and sources from which an ONNX file has them in another one beside it. 2^31 is the format's limit.
EXTERNAL_FROM = 1 << 30

_OPSET = 18
_SEEDS = (
    "noise: uniforms in [0, 1), float32, one row an image; those of seed s are "
    "numpy.random.default_rng(s).random(steps, dtype=numpy.float32); numbers outside count as the nearest inside"
)


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
    """Write a model's graphs, and ``export.json``, what they were made from.

    The graphs are ``generate``, ``encoder``, ``decoder``, ``reference`` and ``edit``; their inputs and outputs are in
    ``docs/export.md``. Batches may be of any length.

    Args:
        model: fitted.
        folder: where; files of the same names are replaced, all of them or none.
        format: one of :data:`FORMATS`.
        sampler: its name, of a sampler that is exportable; by default the one the settings are for.
        settings: of the sampler; by default the model's.
        where: predicate on attributes: the files then hold no other sources.
        only: names of the graphs that are wanted; None for all.
        external_from: see :data:`EXTERNAL_FROM`.

    Returns:
        What is in ``export.json``.

    Raises:
        ValueError: for what the graphs cannot represent, by name.
        LatentPatchError: without the packages or the compiler that a format needs.
        FileError: where files cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r}: one of {', '.join(FORMATS)} is expected")
    _check_tools(format)
    method, chosen = model.sampler_and_settings(sampler, settings)
    model, sampler = _subset(model, where), SAMPLERS.name_of(chosen)
    free, guided = (method.resolve(chosen, model.context(has_reference=has)) for has in (False, True))
    made = graphs(model, sampler, free, guided)
    names = [graph.name for graph in made]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise ValueError(f"graph {unknown[0]!r}: one of {', '.join(names)} is expected")
    facts = _facts(model, sampler, free, guided, format)
    facts["graphs"] = {graph.name: _describe(graph) for graph in made if graph.name in (only or names)}
    with staged(folder) as staging, torch.no_grad(), _quiet():
        for graph in made:
            if graph.name in facts["graphs"]:
                _write(graph, staging, format, facts, external_from)
        (staging / "export.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return facts


def _write(graph: Graph, folder: Path, format: str, facts: dict[str, Any], external_from: int) -> None:
    batch = torch.export.Dim("N", min=1, max=1 << 16)
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
    made.model.metadata_props.update(
        {"latentpatch": text, "license": facts["autoencoder"]["license"], "seeds": facts["seeds"]}
    )
    values = [
        value for value in (*program.state_dict.values(), *program.constants.values()) if hasattr(value, "nbytes")
    ]
    made.save(str(path), external_data=sum(value.nbytes for value in values) >= external_from)
    onnx.checker.check_model(str(path), full_check=True)


def _repair(graph: Any) -> None:
    """Repair what the exporter leaves: other values that are named as outputs are, and empty lists of a ``Scan``."""
    names = {value.name for value in graph.outputs}
    for value in [value for name, value in graph.initializers.items() if name in names]:
        del graph.initializers[value.name]
        value.name += "_constant"
        graph.initializers[value.name] = value
    for node in graph:
        for value in node.outputs:
            if value.name in names and not any(value is output for output in graph.outputs):
                value.name += "_within"
        # quantize_dynamic of ONNX Runtime refuses a list without elements, which has no type.
        empty = [name for name, held in node.attributes.items() if held.type.name == "INTS" and not held.value]
        for name in empty if node.op_type == "Scan" else ():
            del node.attributes[name]


def _subset(model: LatentPatch, where: str | None) -> LatentPatch:
    """A model on the CPU of the sources that satisfy a predicate alone; the PCA is that of all."""
    part = model if where is None else model.subset(where)
    return part if part.bank.keys.device.type == "cpu" else copy.deepcopy(part).cpu()


def _facts(model: LatentPatch, sampler: str, free: Any, guided: Any, format: str) -> dict[str, Any]:
    return {
        "version": __version__,
        "format": format,
        "autoencoder": model.identity(),
        "sampler": sampler,
        "settings": {"generate": free.record(), "reference": guided.record()},
        "seeds": _SEEDS,
        "sources": list(model.bank.ids),
        "sources_sha256": model.bank.digest(),
        "components": model.pca.components,
        "grid": list(model.bank.grid),
        "image_size": list(model.image_size),
    }


def _describe(graph: Graph) -> dict[str, Any]:
    return {
        "inputs": {
            name: {"type": str(value.dtype).removeprefix("torch."), "shape": ["N", *value.shape[1:]]}
            for name, value in graph.inputs.items()
        },
        "outputs": list(graph.outputs),
    }


def _check_tools(format: str) -> None:
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise LatentPatchError(f"ONNX needs the package {error.name}: pip install 'latentpatch[onnx]'") from error
    elif format == "aoti" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise LatentPatchError("AOTInductor needs a C++ compiler: none is found as $CXX or g++; pt2 needs none")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks are about its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
