"""The Open Inference Protocol (KServe v2): tensors of requests to fields, results to tensors."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

from .failures import malformed, truncate_for_message
from .schema import json_schema
from .service import Result

__all__ = ["MODEL_NAME", "encode_kserve", "model_metadata", "parse_kserve"]

MODEL_NAME = "latentpatch"

_KEYS = {"id", "inputs", "outputs", "parameters"}
_LIST_FIELDS = ("seeds", "box", "pictures", "size", "weights")  # all other fields are tensors of one element
MAX_DIMENSIONS = 8  # sides of a shape: multiplying millions of them takes minutes


def parse_kserve(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a request, which are its inputs and parameters, and what the answer repeats: its id.

    Raises:
        Refusal: 400 for a body that is no request of the protocol.
    """
    unknown = sorted(set(body) - _KEYS)
    inputs, parameters = body["inputs"], body.get("parameters", {})
    if unknown or not isinstance(inputs, list) or not isinstance(parameters, dict):
        raise malformed('an Open Inference request must be {"inputs": [...], "parameters": {...}}')
    fields = {name: value for name, value in parameters.items() if name != "binary_data_output"}
    for tensor in inputs:
        name, data = _read_tensor(tensor)
        is_list = name in _LIST_FIELDS
        if not is_list and len(data) != 1:
            raise malformed(f"inputs: {truncate_for_message(name)} must be one value, got {len(data)}")
        fields[name] = data if is_list else data[0]
        if name == "settings" and isinstance(fields[name], str):
            try:
                fields[name] = json.loads(fields[name])
            except (ValueError, RecursionError) as error:
                raise malformed(f"settings must be JSON: {error}") from error
    identifier = body.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise malformed(f"id must be text, got {truncate_for_message(identifier)}")
    return fields, {} if identifier is None else {"id": identifier}


def _read_tensor(tensor: Any) -> tuple[str, list[Any]]:
    """Return the name and the values of an input tensor."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise malformed("inputs: each must have a name, a shape, a datatype and data")
    name, shape, data = tensor["name"], tensor.get("shape"), _flatten(tensor.get("data"))
    sides = shape if isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS else [-1]
    if not all(type(side) is int and side >= 0 for side in sides) or not data:
        raise malformed(f"inputs: {truncate_for_message(name)} must have a shape and data (no binary extension)")
    if math.prod(sides) != len(data):
        shown = truncate_for_message(shape)
        raise malformed(f"inputs: {truncate_for_message(name)}: shape {shown} does not fit {len(data)} values")
    return name, data


def _flatten(data: Any) -> list[Any]:
    """Return the values of a possibly nested list, in order."""
    values: list[Any] = []
    stack = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += reversed(value)
        else:
            values.append(value)
    return values


def encode_kserve(
    result: Result, files: Sequence[bytes], content_type: str, repeated: dict[str, Any]
) -> dict[str, Any]:
    """Return an answer of the protocol: ``images`` as base64, ``seeds``, ``index``, and ``report`` as JSON.

    Args:
        result: of the request.
        files: its pictures; none for ``info``.
        content_type: of the files.
        repeated: what the answer repeats of the request.
    """
    records = result.records
    outputs = []
    if files:
        data: list[Any] = [base64.b64encode(file).decode() for file in files]
        outputs.append(_tensor("images", "BYTES", [len(files)], data, content_type))
    if records and records[0].get("seed") is not None:
        outputs.append(_tensor("seeds", "INT64", [len(records)], [record["seed"] for record in records]))
    if records and "index" in records[0]:
        grid = records[0]["index"]
        data = [b for record in records for row in record["index"] for b in row]
        outputs.append(_tensor("index", "INT64", [len(records), len(grid), len(grid[0])], data))
    facts = [{name: value for name, value in record.items() if name != "index"} for record in records]
    report = {"operation": result.operation, **result.report, "images": facts}
    outputs.append(_tensor("report", "BYTES", [1], [json.dumps(report)], "application/json"))
    version = str(result.report["version"])
    return {"model_name": MODEL_NAME, "model_version": version, **repeated, "outputs": outputs}


def _tensor(
    name: str, datatype: str, shape: list[int], data: list[Any], content_type: str | None = None
) -> dict[str, Any]:
    tensor = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return tensor if content_type is None else tensor | {"parameters": {"content_type": content_type}}


def model_metadata(version: str, grid: tuple[int, int]) -> dict[str, Any]:
    """Return the metadata of the model: names, types and shapes of inputs and outputs."""
    outputs = {
        "images": ("BYTES", [-1]),
        "seeds": ("INT64", [-1]),
        "index": ("INT64", [-1, *grid]),
        "report": ("BYTES", [1]),
    }
    tensors = [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in outputs.items()]
    facts = {"name": MODEL_NAME, "versions": [version], "platform": "pytorch"}
    return {**facts, "inputs": _input_tensors(), "outputs": tensors}


def _input_tensors() -> list[dict[str, Any]]:
    """Return the fields of all operations as tensors."""
    schema = json_schema()
    kinds = [schema["$defs"][path.rpartition("/")[2]] for path in schema["discriminator"]["mapping"].values()]
    fields = {name: value for kind in kinds for name, value in kind["properties"].items()}
    tensors = []
    for name, value in sorted(fields.items()):
        by_type = {form["type"]: form for form in (value, *value.get("anyOf", ())) if "type" in form}
        datatype, shape = "BYTES", [1]
        if "array" in by_type:
            count = by_type["array"]
            kind = {"string": "BYTES", "number": "FP64"}.get(count.get("items", {}).get("type"))
            datatype, shape = (kind, [-1]) if kind else ("INT64", [count.get("maxItems", -1)])
        elif "integer" in by_type:
            datatype = "INT64"
        elif "boolean" in by_type:
            datatype = "BOOL"
        tensors.append({"name": name, "datatype": datatype, "shape": shape})
    return tensors
