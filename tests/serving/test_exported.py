"""Exported graphs behind limits: archives of them, and the TorchServe handler with such an archive."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import refuses_file
from helpers.traced_once import traced_once
from helpers.traffic import unpacked
from PIL import Image
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.cli.entry import main
from latentpatch.export.formats import export
from latentpatch.methods.latent.settings import RasterSettings

archive = pytest.importorskip("latentpatch.serving.archive", reason="serving needs pip install '.[serve]'")


class Context:
    """The context that TorchServe passes to a handler."""

    def __init__(self, folder: Path, count: int = 1) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None, "batch_size": 16}
        self.model_yaml_config = {"handler": {"threads": 1, "limits": {"max_images": 3}}}
        self.statuses, self.types, self.headers = [0] * count, [""] * count, {}

    def get_all_request_header(self, i: int) -> dict[str, str]:
        return {"Content-Type": "application/json", "Accept": "application/json"}

    def set_response_status(self, status: int, phrase: str, i: int) -> None:
        self.statuses[i] = status

    def set_response_content_type(self, i: int, kind: str) -> None:
        self.types[i] = kind

    def set_response_header(self, i: int, name: str, value: str) -> None:
        self.headers[name] = value


def served(folder: Path, requests: list[dict[str, Any]]) -> tuple[list[int], list[Any]]:
    """Return the statuses and bodies that the repository's handler answers, with an unpacked archive."""
    spec = spec_from_file_location("handler", folder / "latentpatch_handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    handler, context = module.LatentPatchHandler(), Context(folder, len(requests))
    handler.initialize(context)
    bodies = handler.handle([{"body": json.dumps(request).encode()} for request in requests], context)
    return context.statuses, [json.loads(body) for body in bodies]


def as_answered(answer: dict[str, Any], i: int) -> tuple[Any, np.ndarray]:
    """Return an index map of ids, and levels (H, W, 3)."""
    image = answer["images"][i]
    index = [[answer["ids"][b] for b in row] for row in image["index"]]
    return index, np.asarray(Image.open(io.BytesIO(base64.b64decode(image["image"]))), dtype=int)


@pytest.fixture(autouse=True)
def _threads_of_a_worker() -> Iterator[None]:
    """The handler sets those of its process, which is a worker's otherwise."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(face_images: Tensor) -> LatentPatch:
    """Six sources and their mirrored copies."""
    return LatentPatch("pixels:8", 8, RasterSettings(4, neighbors=2, scales=1)).fit(face_images[:6], mirrored=True)


@pytest.fixture(scope="module")
def traces() -> dict[str, Any]:
    """Traces of the model's graphs, which both formats share."""
    return {}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TorchServe leaves a file open
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_an_exported_graph_is_served(format: str, model: LatentPatch, traces: dict[str, Any], tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: an archive of ONNX was not served")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: an archive of ONNX was not served")
    with traced_once(traces):
        export(model, tmp_path / "graphs", format, only=("generate",))
    output = tmp_path / "store" / "faces.mar"
    assert main(["archive", "--graphs", str(tmp_path / "graphs"), "-q", "-o", str(output)]) == 0
    folder = unpacked(output, tmp_path / "unpacked")
    assert not list(folder.rglob("*.safetensors"))
    suffix = "onnx" if format == "onnx" else "pt2"
    assert (
        json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["serializedFile"]
        == f"generate.{suffix}"
    )
    requests = [
        {"seed": 4, "n": 2},
        {"operation": "provenance", "seed": 4},
        {"operation": "info"},
        {"n": 4},
        {"settings": {"neighbours": 1}},
        {"preset": "paper"},
        {"operation": "reconstruct", "image": base64.b64encode(b"x").decode()},
        {"seed": -1},
    ]
    statuses, (drawn, maps, info, many, *refused) = served(folder, requests)
    assert statuses == [200, 200, 200, 413, 422, 422, 422, 422]
    expected = model.generate(2, seed=4)
    for i in range(2):
        index, levels = as_answered(drawn, i)
        assert index == [[model.bank.ids[b] for b in row] for row in expected.index[i].tolist()]
        assert np.abs(levels - 255 * expected.images[i].movedim(0, -1).numpy()).max() <= 1.01
    assert drawn["settings"] == {"patch_size": 4, "stride": 1, "neighbors": 2, "scales": 1, "start_size": None}
    # Defect L3: a graph of 6 mirrored sources said 12, and gave shares of each copy.
    assert [set(image["shares"]) for image in drawn["images"]] == [set(each) for each in expected.shares()]
    index, levels = as_answered(maps, 0)
    assert np.abs(levels - 255 * expected.provenance()[0].movedim(0, -1).numpy()).max() <= 1.01
    assert (info["graph"], info["sources"], info["sources_sha256"]) == (format, 6, model.bank.digest())
    assert many["error"]["code"] == "too_many_images"
    assert [answer["error"]["field"] for answer in refused] == ["settings", "preset", "operation", "seed"]


def test_graph_archives_that_cannot_be_made(model: LatentPatch, tmp_path: Path) -> None:
    graphs, output = tmp_path / "graphs", tmp_path / "faces.mar"
    with refuses_file("export.json", "not a readable"):
        archive.build_archive(graphs, output)
    export(model, graphs, "pt2", only=("decoder",))
    with refuses_file("export.json", "generate"):
        archive.build_graph_archive(graphs, output)
    (graphs / "export.json").write_text("{}")
    with refuses_file("export.json", "autoencoder"):
        archive.build_graph_archive(graphs, output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "words"), [(["pictures"], "leave out pictures"), (["--size", "64"], "leave it out with --graphs")]
)
def test_graphs_go_without_sources(more: list[str], words: str, tmp_path: Path, capsys) -> None:
    arguments = ["archive", *more, "--graphs", str(tmp_path), "-q", "-o", str(tmp_path / "a.mar")]
    assert main(arguments) == 1
    assert words in capsys.readouterr().err
