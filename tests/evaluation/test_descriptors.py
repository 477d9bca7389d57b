"""Descriptors from Python files and ONNX graphs that are made here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses, refuses_file

from latentpatch.errors import MissingDependencyError, SettingTypeError
from latentpatch.evaluation import OnnxDescriptor, OnnxInput, find_descriptor
from latentpatch.evaluation.descriptors import parse_onnx_input

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

PICTURES = torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def graph(path: Path, shape: list[Any], first: str | None = None, kind: str = "FLOAT", is_last: bool = False) -> str:
    """Write an embedder that returns the mean of each channel of what it takes; ``first`` is an operation before."""
    helper, types = onnx.helper, onnx.TensorProto
    nodes, name = [], "picture"
    if kind != "FLOAT":
        nodes.append(helper.make_node("Cast", [name], ["cast"], to=types.FLOAT))
        name = "cast"
    if first is not None:
        nodes.append(helper.make_node(first, [name, "constant"], ["normal"]))
        name = "normal"
    axes = [1, 2] if is_last else [2, 3]
    nodes.append(helper.make_node("ReduceMean", [name, "axes"], ["means"], keepdims=0))
    constants = [helper.make_tensor("axes", types.INT64, [2], axes)]
    if first is not None:
        constants.append(helper.make_tensor("constant", types.FLOAT, [1], [2.0]))
    made = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("picture", getattr(types, kind), shape)],
        [helper.make_tensor_value_info("means", types.FLOAT, [shape[0], 3])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return str(path)


def means(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.mean((2, 3))


@pytest.mark.usefixtures("float32")
def test_the_convention_of_face_embedders_is_the_default(tmp_path: Path) -> None:
    descriptor = OnnxDescriptor(graph(tmp_path / "face.onnx", ["N", 3, "H", "W"]), OnnxInput(unit=False))
    settings = descriptor.settings
    assert (settings.layout, settings.height, settings.width) == ("nchw", 112, 112)
    assert (settings.mean, settings.std, settings.order) == ((127.5,) * 3, (127.5,) * 3, "rgb")
    torch.testing.assert_close(descriptor(PICTURES), means(PICTURES) * 2 - 1, atol=5e-3, rtol=0)
    found = OnnxDescriptor(tmp_path / "face.onnx")(PICTURES)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(found, torch.nn.functional.normalize(descriptor(PICTURES)))


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_a_graph_of_bytes_says_its_layout_and_size(tmp_path: Path, batch: int | str) -> None:
    path = graph(tmp_path / "face.onnx", [batch, 40, 40, 3], kind="UINT8", is_last=True)
    descriptor = OnnxDescriptor(path, OnnxInput(unit=False))
    settings = descriptor.settings
    assert (settings.layout, settings.height, settings.width) == ("nhwc", 40, 40)
    torch.testing.assert_close(descriptor(PICTURES), means((PICTURES * 255).round()), atol=1e-2, rtol=0)


@pytest.mark.parametrize("first", ["Sub", "Div", None])
def test_a_graph_that_normalizes_gets_levels(tmp_path: Path, first: str | None) -> None:
    descriptor = OnnxDescriptor(graph(tmp_path / "face.onnx", ["N", 3, 40, 40], first), OnnxInput(unit=False))
    assert descriptor.settings.mean == (127.5 if first is None else 0.0,) * 3
    levels = means(PICTURES) * 255
    expected = {"Sub": levels - 2, "Div": levels / 2, None: levels / 127.5 - 1}[first]
    torch.testing.assert_close(descriptor(PICTURES), expected, atol=1e-3, rtol=1e-5)


@pytest.mark.usefixtures("float32")
def test_settings_replace_what_the_graph_says(tmp_path: Path) -> None:
    path = graph(tmp_path / "face.onnx", ["N", 3, None, None], "Sub")
    settings = parse_onnx_input(["size=20x10", "order=bgr", "mean=10,20,30", "std=2", "crop=0.25", "unit=false"])
    assert settings == OnnxInput(None, 20, 10, "bgr", (10.0, 20.0, 30.0), (2.0, 2.0, 2.0), 0.25, False)
    descriptor = OnnxDescriptor(path, settings)
    inner = means(PICTURES[:, :, 10:30, 10:30]).flip(1) * 255
    expected = (inner - torch.tensor([10.0, 20, 30])) / 2 - 2
    torch.testing.assert_close(descriptor(PICTURES), expected, atol=0.5, rtol=0)
    assert descriptor.record["mean"] == [10, 20, 30]
    assert (descriptor.record["height"], descriptor.record["width"]) == (20, 10)
    assert OnnxDescriptor(path, parse_onnx_input(["size=20"])).settings.width == 20


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("size", "identity_input"),
        ("depth=3", "identity_input"),
        ("size=1x2x3", "size"),
        ("size=big", "size"),
        ("size=0", "height"),
        ("layout=chw", "layout"),
        ("order=rbg", "order"),
        ("mean=1,2", "mean"),
        ("mean=nan", "mean"),
        ("std=0", "std"),
        ("crop=0.5", "crop"),
        ("crop=much", "crop"),
        ("unit=yes", "unit"),
    ],
)
def test_other_words_are_refused(word: str, name: str) -> None:
    with refuses(name):
        parse_onnx_input([word])
    with refuses("identity_input"):
        parse_onnx_input(["size=9", "size=9"])


def test_files_that_are_no_embedders_are_refused(tmp_path: Path) -> None:
    with refuses_file("none.onnx", "no such file"):
        find_descriptor("none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with refuses_file("text.onnx", "not a readable ONNX graph"):
        find_descriptor(str(tmp_path / "text.onnx"))
    with refuses_file("grey.onnx", "3 channels"):
        find_descriptor(graph(tmp_path / "grey.onnx", ["N", 1, 40, 40]))
    with refuses_file("flat.onnx", "four dimensions"):
        find_descriptor(graph(tmp_path / "flat.onnx", ["N", 3, 40, 40, 1]))
    path = graph(tmp_path / "fixed.onnx", ["N", 3, 40, 40])
    with refuses("width"):
        find_descriptor(path, OnnxInput(width=50))


def test_a_descriptor_is_an_onnx_file_or_python(tmp_path: Path) -> None:
    path = graph(tmp_path / "face.onnx", ["N", 3, "H", "W"])
    found = find_descriptor(path)
    assert (found.name, len(found.digest)) == ("face", 64)
    assert found.features(PICTURES).shape == (5, 3)
    mine = tmp_path / "mine.py"
    mine.write_text("def descriptor(x):\n    return x.mean((2, 3))\n\nnumber = 3\n")
    torch.testing.assert_close(find_descriptor(str(mine)).features(PICTURES), means(PICTURES).double())
    with refuses("identity 'mine'", SettingTypeError):
        find_descriptor(f"{mine}:number")
    with refuses("identity"):
        find_descriptor("latents")
    with refuses("identity_input"):
        find_descriptor(str(mine), OnnxInput())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graph(tmp_path / "face.onnx", ["N", 3, "H", "W"])
    both = OnnxInput(mean=(0.0,) * 3, std=(1.0,) * 3)
    monkeypatch.setitem(sys.modules, "onnx", None)
    find_descriptor(path, both)  # nothing to read from the graph
    for package, settings in (("onnx", None), ("onnxruntime", both)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError) as caught:
            find_descriptor(path, settings)
        assert (caught.value.package, caught.value.extra) == (package, "onnx")
