"""Golden tests: what version 0.1.0 computed and wrote, which later ones compute and read alike.

Index maps come from integer keys and are compared by digest everywhere; but for the sampler diffusion, whose weights
are floating point: its maps, on models of the autoencoder ``pixels``, and the bytes of pictures are compared exactly
only on the processor that ``digests.json`` was made on. Elsewhere pictures may differ by one level from stored ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import golden_cases as golden
from golden.golden_cases import FIXTURES, SAMPLERS
from safetensors import safe_open
from safetensors.torch import load_file

from latentpatch import LatentPatch, explain
from latentpatch.settings import declared

GOLDEN: dict[str, Any] = json.loads((FIXTURES.parent / "digests.json").read_text())
SETTINGS: dict[str, Any] = json.loads((FIXTURES / "settings.json").read_text())
MODELS = sorted(path.stem for path in FIXTURES.glob("*.safetensors"))
SEARCHES = golden.search_cases()
GENERATED = golden.generate_cases()
PICTURES = golden.picture_cases()
MADE = [name for name, arguments in golden.COMMANDS.items() if arguments[0] == "generate"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Set the number of threads the digests were made with: sums of floating-point numbers depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(golden.NUM_THREADS)
    yield
    torch.set_num_threads(threads)


def is_same_processor() -> bool:
    """Return whether floating-point results are those of the processor of the digests to the last bit."""
    return golden.processor() == GOLDEN["processor"]


def skip_on_other_processors() -> None:
    """Skip what is floating point and has no tolerance, and say why."""
    if not is_same_processor():
        pytest.skip(f"digests are of the processor {GOLDEN['processor']}, this is {golden.processor()}")


# --- Index maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, id=f"{name}-{backend or 'default'}")
        for name, case in SEARCHES.items()
        for backend in golden.backends_of(case)
    ],
)
def test_search(name: str, backend: str | None) -> None:
    case = SEARCHES[name]
    if backend == "numba" and find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    if not golden.is_exact_everywhere(case):
        skip_on_other_processors()
    assert golden.digest(golden.found_index(case, backend)) == GOLDEN["index"][name]


@pytest.mark.parametrize("name", GENERATED)
def test_public_methods(name: str) -> None:
    assert golden.digest(GENERATED[name]()) == GOLDEN["index"][name]


def test_every_digest_has_its_case() -> None:
    # Those of exported graphs are compared where they are exported, in tests/export.
    exported = {f"export/{sampler}/{graph}" for sampler in golden.EXPORTED for graph in ("generate", "reference")}
    assert set(GOLDEN["index"]) == {*SEARCHES, *GENERATED, *exported}
    assert set(GOLDEN["pictures"]) == set(PICTURES)
    assert set(GOLDEN["banks"]) == set(MODELS)
    assert {case["record"]["sampler"] for case in SEARCHES.values() if isinstance(case["record"], dict)} == set(
        SAMPLERS
    )


# --- Pictures and weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str) -> None:
    images = golden.levels(PICTURES[name]())
    if is_same_processor():
        assert golden.digest(images) == GOLDEN["pictures"][name]
    stored = golden.levels(golden.read_png(golden.picture_file(name)))
    assert int((images[0].int() - stored.int()).abs().max()) <= 1


@pytest.mark.parametrize("name", golden.SOFT)
def test_soft_weights(name: str) -> None:
    stored = torch.from_numpy(np.load(FIXTURES / "soft.npz")[name])
    torch.testing.assert_close(golden.soft_weights(name), stored, atol=1e-5, rtol=1e-4)


# --- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_read(name: str) -> None:
    record = SETTINGS[name]
    settings = golden.settings_of(record)
    values = [value for key, value in record.items() if key != "sampler"]
    since = {key: each.before for key, each in list(declared(type(settings)).items())[len(values) :]}
    assert settings == SAMPLERS.settings_class(name)(*values, **since)
    again = {"sampler": name, **asdict(settings)}
    assert golden.settings_of(json.loads(json.dumps(again))) == settings
    read = [list(v) if isinstance(v, tuple) else v for v in asdict(settings).values()]
    assert read == [*values, *since.values()]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_changed_by_name(name: str) -> None:
    changes = {key: value for key, value in SETTINGS[name].items() if key != "sampler"}
    found, expected = golden.load("tiny").with_settings(name, **changes), golden.settings_of(SETTINGS[name])
    assert all(getattr(found, key) == getattr(expected, key) for key in changes)


def test_numbers_of_uniforms() -> None:
    assert golden.load("plain").steps == 131
    assert golden.load("mirrored").steps == 132


# --- Model files ------------------------------------------------------------------------------------------------------


def header_of(path: Path) -> dict[str, Any]:
    """Read the header of a model file."""
    with safe_open(path, framework="np") as stored:
        header: dict[str, Any] = json.loads(stored.metadata()["latentpatch"])
    return header


@pytest.mark.parametrize("name", MODELS)
def test_model_file_is_read(name: str) -> None:
    model, header = LatentPatch.load(FIXTURES / f"{name}.safetensors"), header_of(FIXTURES / f"{name}.safetensors")
    assert model.bank.digest() == header["sources_sha256"] == GOLDEN["banks"][name]
    assert model.bank.computed_digest() == model.bank.digest()
    assert model.settings == golden.settings_of(header["settings"])
    assert (model.components, model.origin()["name"]) == (header["components"], header["autoencoder"]["name"])


@pytest.mark.parametrize("name", MODELS)
def test_model_file_is_written_alike(name: str, tmp_path: Path) -> None:
    golden.load(name).save(tmp_path / "again.safetensors")
    stored, again = load_file(FIXTURES / f"{name}.safetensors"), load_file(tmp_path / "again.safetensors")
    assert list(stored) == list(again)
    assert all(torch.equal(stored[key], again[key]) and stored[key].dtype == again[key].dtype for key in stored)
    old, new = header_of(FIXTURES / f"{name}.safetensors"), header_of(tmp_path / "again.safetensors")
    assert golden.settings_of(old.pop("settings")) == golden.settings_of(new.pop("settings"))
    assert old == new


@pytest.mark.parametrize("name", ["plain", "mirrored", "embedded", "vq"])
def test_fit_gives_the_same_file(name: str) -> None:
    model, stored = golden.fitted(name), golden.load(name)
    assert model.bank.ids == stored.bank.ids
    assert model.bank.attributes == stored.bank.attributes
    if name in ("plain", "mirrored"):
        assert torch.equal(model.bank.latents, stored.bank.latents)
    skip_on_other_processors()
    assert model.bank.digest() == GOLDEN["banks"][name]


def test_fit_command_gives_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    size = ["--size", "128", "--components", "8", "--autoencoder", "embedded"]
    golden.run_command(
        ["fit", str(FIXTURES / "faces128"), *size, "--details", "--device", "cpu", "-q", "-o", str(path)]
    )
    model = LatentPatch.load(path)
    assert model.bank.ids == golden.load("embedded").bank.ids
    assert model.bank.details.shape == golden.load("embedded").bank.details.shape
    skip_on_other_processors()
    assert model.bank.digest() == GOLDEN["banks"]["embedded"]


# --- Pictures of the command line -------------------------------------------------------------------------------------


def settings_in(record: dict[str, Any]) -> Any:
    """Take sampler and settings out of a report or a picture's metadata."""
    record.pop("fit", None)  # golden records are older
    name, values = record.pop("sampler", None), record.pop("settings", None)
    return None if name is None else golden.settings_of({"sampler": name, **(values or {})})


@pytest.mark.parametrize("name", golden.COMMANDS)
def test_commands_write_the_same(name: str, tmp_path: Path) -> None:
    golden.run_command(golden.arguments_of(name, tmp_path / "out"))
    old, new = golden.report_of(FIXTURES / name), golden.report_of(tmp_path / "out")
    assert settings_in(old) == settings_in(new)
    new["images"] = [{key: row[key] for key in old["images"][0]} for row in new["images"]]
    assert {**old, "version": None} == {**{key: new[key] for key in old}, "version": None}
    for row in old["images"]:
        stored, made = FIXTURES / name / row["file"], tmp_path / "out" / row["file"]
        was, now = golden.metadata_of(stored), golden.metadata_of(made)
        assert settings_in(was) == settings_in(now)
        assert {**was, "version": None} == {**now, "version": None}
        apart = (golden.levels(golden.read_png(stored)).int() - golden.levels(golden.read_png(made)).int()).abs().max()
        assert int(apart) <= (0 if is_same_processor() else 1)


@pytest.mark.parametrize("name", MADE)
def test_pictures_are_explained_exactly(name: str) -> None:
    model = golden.load("mirrored" if name == "mirrored" else "plain")
    reference = FIXTURES / "reference.png" if name == "reference" else None
    for row in golden.report_of(FIXTURES / name)["images"]:
        found = explain(model, FIXTURES / name / row["file"], reference=reference)
        assert found.exact, found.note
        places = torch.tensor([model.bank.ids.index(part.id) for part in found.sources])
        assert places[found.index].tolist() == row["index"]


@pytest.mark.parametrize("name", ["inpaint", "edit"])
def test_other_pictures_are_estimated(name: str) -> None:
    found = explain(golden.load("plain"), FIXTURES / name / "0000.png")
    assert not found.exact
    assert found.distance is not None
