"""Memory of the machine is found, freed memory is kept, and errors of memory are recognized."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command_line import contents, run
from helpers.paths import ROOT

from latentpatch.runs import system
from latentpatch.runs.system import is_out_of_memory, machine_memory

#: Script that counts page faults of allocating and freeing 128 MiB ten times, and says whether freed memory is kept.
CHURN = """
import resource, torch
from latentpatch.runs.system import keep_freed_memory
done = keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(11):
    if turn == 1:
        first = faults()
    layers = [torch.ones(2 << 20) for _ in range(16)]
    del layers
print(done, faults() - first)
"""


def churn(**environment: str) -> tuple[str, int]:
    """Return whether freed memory is kept, and the number of page faults."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CHURN]
    answer = subprocess.run(command, env=variables | environment, check=True, capture_output=True, text=True).stdout
    done, faults = answer.split()
    return done, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="not Linux: there is no /proc")
def test_memory_of_the_machine():
    assert machine_memory() > 1 << 28
    with Path("/proc/meminfo").open(encoding="ascii") as lines:
        assert machine_memory() <= 1024 * int(next(lines).split()[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    done, kept = churn()
    assert done == "True"
    # The threshold glibc starts with; where it adapts, a small block at the top of the heap keeps memory by chance.
    done, faults = churn(MALLOC_MMAP_THRESHOLD_="131072")
    assert done == "False"
    assert kept < faults / 5


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_says_of_memory_stands(name, monkeypatch):
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=1000000" if name == "GLIBC_TUNABLES" else "1000000")
    assert not system.keep_freed_memory()


def test_errors_of_memory():
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not agree"))
    for count in (1 << 58, 1 << 62):  # the second is of more bytes than an integer holds
        with pytest.raises(RuntimeError) as caught:
            torch.empty(count)
        assert is_out_of_memory(caught.value)


def test_compilation_is_told_of_once() -> None:
    numba = pytest.importorskip("numba", reason="Numba is not installed")
    told: list[str] = []
    system._listen()
    system.on_compilation(lambda: told.append("told"))
    for number in (1, 2):
        assert numba.njit(lambda x, number=number: x + number)(1) == 1 + number
    assert told == ["told"]


def test_few_pictures_are_made_without_loading_numba(faces: Path, tmp_path: Path) -> None:
    """The files are those of Numba's search, for which it is loaded here."""
    pytest.importorskip("numba", reason="Numba is not installed")
    arguments = ["generate", str(faces), "--autoencoder", "pixels:4", "--size", "64", "-n", "3", "-q", "-o"]
    script = (
        "import sys\nfrom latentpatch.cli.entry import main\n"
        f"assert main({[*arguments, str(tmp_path / 'torch')]}) == 0\nassert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    run(*arguments, tmp_path / "numba")
    assert contents(tmp_path / "torch") == contents(tmp_path / "numba")
