"""Files that are found beside others: pipes, devices and JSON of any form end in one error, and never hang."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses_file

from latentpatch import LatentPatch
from latentpatch.cli._records import read_note
from latentpatch.errors import FileError
from latentpatch.io.mmap import map_tensors, read_tensors
from latentpatch.io.notes import open_regular, read_json
from latentpatch.io.stored import write_stored
from latentpatch.methods.trained.base import FORMAT, is_trained, load_trained
from latentpatch.methods.trained.singan import SinGAN
from latentpatch.runs.resume import locked

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe, which nobody writes to or reads from: opening it would wait for ever."""
    os.mkfifo(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_pipes_and_devices_are_refused(pipe: Path) -> None:
    for read in (open_regular, read_json, read_tensors, map_tensors, locked):
        for path in (pipe, Path("/dev/zero")):
            with pytest.raises(OSError, match=r"regular file|No such device"):
                read(path)
    assert not is_trained(pipe)
    with refuses_file(pipe, "not a regular file"):
        load_trained(pipe)
    with refuses_file(pipe, "not a readable model file"):
        LatentPatch.load(pipe)
    (pipe.parent / "generation.json").symlink_to(pipe)
    assert read_note(pipe.parent) == {}


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"\0", b"1" * 5000])
def test_what_is_no_json_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "note.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"line 1|deeply|digits"):
        read_json(tmp_path / "note.json")


def test_records_without_an_end_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "note.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="bytes"):
        read_json(tmp_path / "note.json")


def test_tensors_of_mixed_types_are_no_trained_model(tmp_path: Path) -> None:
    model = SinGAN("singan", [(20, 20)], width=4)
    model.save(tmp_path / "m.safetensors")
    load_trained(tmp_path / "m.safetensors")
    name = next(key for key, value in model.state_dict().items() if value.ndim == 4)
    for kind in (torch.float16, torch.int64):
        state = {key: value.to(kind) if key == name else value for key, value in model.state_dict().items()}
        write_stored(tmp_path / "n.safetensors", FORMAT, model.facts(), state)
        with pytest.raises(FileError, match="malformed"):
            load_trained(tmp_path / "n.safetensors")
