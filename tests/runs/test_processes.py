"""Several processes make the pictures of one, through torchrun; interrupted runs resume."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from helpers.command_line import contents, record, run
from helpers.errors import refuses_file
from helpers.paths import ROOT
from torch import Tensor

from latentpatch import Generation, LatentPatch, RandomCellsSettings, RasterSettings
from latentpatch.bank.sharded import ShardedBank
from latentpatch.cli.entry import main
from latentpatch.methods.base import Context
from latentpatch.methods.latent.raster import raster
from latentpatch.methods.latent.search import torch_loops
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.registry import SAMPLERS
from latentpatch.runs.processes import ALONE, Processes
from latentpatch.runs.resume import ResumableRun

T = TypeVar("T")
PIXELS = ["--autoencoder", "pixels:4", "--size", "64"]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch built without distributed")


def start(*arguments: object, threads: int = 1, of: Sequence[str] = ("-m", "latentpatch")) -> subprocess.Popen[str]:
    """Start two processes, of the package or of a script, which is then the first argument."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *of]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment["OMP_NUM_THREADS"] = str(threads)
    return subprocess.Popen(
        [*launcher, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


@pytest.fixture(scope="module")
def fitted(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve faces as a model file, with moods."""
    folder = tmp_path_factory.mktemp("fitted")
    table = [f"face{i:02d}.png,{'glad' if i % 3 else 'calm'}" for i in range(12)]
    (folder / "known.csv").write_text("\n".join(["file,mood", *table]))
    run("fit", faces, *PIXELS, "--attributes", folder / "known.csv", "-q", "-o", folder / "model.safetensors")
    return folder / "model.safetensors"


# --- torchrun ------------------------------------------------------------------------------------------

#: Commands in turn in the same two processes, which saves starting them for each. The number of restarts is part of
#: the names by which the processes meet, so that no command meets the one before.
IN_TURN = """
import json, os, sys
from latentpatch.cli.entry import main
for number, words in enumerate(json.loads(sys.argv[1])):
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)
    assert main(words) == 0, words
"""


@pytest.fixture(scope="module")
def commands(faces: Path, fitted: Path) -> dict[str, list[object]]:
    """Arguments of ``generate``, without an output."""
    data_set = [fitted, "-n", 37, "-q", "--sampler", "random-patches"]
    bank = [fitted, "-n", 50, "-q", "--where", "mood=glad", "--sampler", "raster", "--scales", 2]
    return {
        "pictures": [faces, *PIXELS, "-n", 37, "--seed", 5],
        "networks": [faces, "--size", 64, "-n", 5, "-q"],
        "shards": [*data_set, "--shards", 10, "--labels", "mood"],
        "dataset": [*data_set, "--dataset", "--format", "webp"],
        "sharded bank": [*bank, "--reference", sorted(faces.iterdir())[4]],
    }


@pytest.fixture(scope="module")
def two(commands: dict[str, list[object]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder with what two processes made by each command, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    more = {"pictures": ["--json"], "sharded bank": ["--shard-bank"]}
    lines = [
        ["generate", *map(str, [*words, *more.get(name, []), "-o", folder / name])] for name, words in commands.items()
    ]
    (folder / "in_turn.py").write_text(IN_TURN)
    status, out, err = finished(start(folder / "in_turn.py", json.dumps(lines), threads=3, of=[]), 120)
    assert status == 0, err
    return folder, out, err


def test_two_processes_make_the_pictures_of_one(
    two: tuple[Path, str, str], commands: dict[str, list[object]], tmp_path: Path
) -> None:
    """Encoding and seeds are split; every file is the same."""
    folder, out, err = two
    run("generate", *commands["pictures"], "-q", "-o", tmp_path / "one")
    assert json.loads(out) == record(tmp_path / "one")
    assert err.count("37 pictures in") == 1
    assert contents(folder / "pictures") == contents(tmp_path / "one")


def test_processes_of_other_threads_make_the_pictures_of_one(
    two: tuple[Path, str, str], commands: dict[str, list[object]], tmp_path: Path
) -> None:
    """Defect H3: pictures of networks depended on the number of threads, of which torchrun has another."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run("generate", *commands["networks"], "-o", tmp_path / "one")
    finally:
        torch.set_num_threads(before)
    assert contents(two[0] / "networks") == contents(tmp_path / "one")


@pytest.mark.parametrize("name", ["shards", "dataset", "sharded bank"])
def test_two_processes_make_the_files_of_one(
    name: str, two: tuple[Path, str, str], commands: dict[str, list[object]], tmp_path: Path
) -> None:
    run("generate", *commands[name], "-o", tmp_path / "one")
    assert contents(two[0] / name) == contents(tmp_path / "one")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes where Linux lists them")
def test_killed_and_restarted_it_goes_on(fitted: Path, tmp_path: Path) -> None:
    """Two processes, one of which is killed, then one alone. No picture is written twice."""
    arguments = ["generate", fitted, "-n", 240, "-q", "--stride", 1]
    out = tmp_path / "out"
    process = start(*arguments, "-o", out)
    until = time.monotonic() + 60
    while len(list(out.glob(".unfinished/batches/*"))) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    status, _, err = finished(process, 40)
    assert status != 0
    assert sum(line.startswith("latentpatch:") for line in err.splitlines()) == 1, err
    assert [path.name for path in out.iterdir()] == [".unfinished"], "nothing is in place before all is made"
    before = {path.name: path.stat() for path in out.glob(".unfinished/files/[0-9]*.png")}
    assert 48 <= len(before) < 240
    assert main([*map(str, arguments), "--resume", "--seed", "1", "-o", str(out)]) == 1, "another command"
    run(*arguments, "--resume", "-o", out)
    after = {name: (out / name).stat() for name in before}
    assert {name: (s.st_ino, s.st_mtime_ns) for name, s in after.items()} == {
        name: (s.st_ino, s.st_mtime_ns) for name, s in before.items()
    }
    run(*arguments, "-o", tmp_path / "one")
    assert contents(out) == contents(tmp_path / "one")


def test_an_error_of_one_ends_all(faces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for path in faces.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "face09.png").write_text("no picture")  # in the share of the second
    begin = time.monotonic()
    status, out, err = finished(start("generate", folder, *PIXELS, "-o", tmp_path / "out"))
    assert status == 1
    assert [line for line in err.splitlines() if line.startswith("latentpatch:")] == [
        f"latentpatch: error: {folder / 'face09.png'}: not recognised as a picture; accepted: still JPEG, PNG, WebP, "
        "BMP, TIFF and GIF pictures, AVIF, and HEIC with the package pillow-heif"
    ]
    assert out == ""
    assert not (tmp_path / "out").exists()
    assert time.monotonic() - begin < 40


# --- one process ---------------------------------------------------------------------------------------


def test_one_process_may_resume_too(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", faces, *PIXELS, "-n", 2, "-q", "--resume", "-o", tmp_path / "a")
    run("generate", faces, *PIXELS, "-n", 2, "-q", "-o", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    run("inpaint", faces, *PIXELS, "--image", faces / "face00.png", "--box", "8,8,32,32", "-n", 2, "-q", "--resume",
        "-o", tmp_path / "c")  # fmt: skip
    run("inpaint", faces, *PIXELS, "--image", faces / "face00.png", "--box", "8,8,32,32", "-n", 2, "-q",
        "-o", tmp_path / "d")  # fmt: skip
    assert contents(tmp_path / "c") == contents(tmp_path / "d")
    arguments = ["generate", str(faces), *PIXELS, "-q", "--shard-bank", "-o", str(tmp_path / "e")]
    assert main(arguments) == 1
    assert "--shard-bank needs a fitted model file" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_an_interrupted_move_is_taken_up(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["generate", faces, *PIXELS, "-n", 20, "-q"]
    out = tmp_path / "out"

    def moves_one(staging: Path, folder: Path) -> None:
        (staging / "0000.png").replace(folder / "0000.png")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("latentpatch.io.atomic.move_into", moves_one)
        assert main([*map(str, arguments), "--resume", "-o", str(out)]) == 130
    assert {path.name for path in out.iterdir()} == {".unfinished", "0000.png"}
    first = (out / "0000.png").stat().st_mtime_ns
    run(*arguments, "--resume", "-o", out)
    assert (out / "0000.png").stat().st_mtime_ns == first
    run(*arguments, "-o", tmp_path / "one")
    assert contents(out) == contents(tmp_path / "one")


def test_pictures_without_a_record_are_not_written_again(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["generate", faces, *PIXELS, "-n", 20, "-q"]
    out = tmp_path / "out"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumableRun, "write_record", interrupted)
        assert main([*map(str, arguments), "--resume", "-o", str(out)]) == 130
    before = {path.name: path.stat().st_mtime_ns for path in out.glob(".unfinished/files/*")}
    assert len(before) == 16
    run(*arguments, "--resume", "-o", out)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_runs_of_other_commands_are_refused(tmp_path: Path) -> None:
    first = ResumableRun(tmp_path, {"seed": 1}, ALONE)
    with refuses_file(".unfinished", "another command is at work there"):
        ResumableRun(tmp_path, {"seed": 1}, ALONE)
    first.write_record(0, {})
    first._lock.close()
    with refuses_file(".unfinished", "another command (seed was 1, not 2); run that command again"):
        ResumableRun(tmp_path, {"seed": 2}, ALONE)
    again = ResumableRun(tmp_path, {"seed": 1}, ALONE)
    assert again.finished_batches == {0}
    (again.folder / "batches" / "0.json").write_text("{")
    with refuses_file("batches/0.json", "not a readable record"):
        list(again.read_records(1))
    again._lock.close()


def test_shares_cover_everything_in_order() -> None:
    for count in (1, 2, 3, 7):
        for size in (0, 1, 5, 12):
            parts = [list(range(size))[Processes(r, count).share(size)] for r in range(count)]
            assert [i for part in parts for i in part] == list(range(size))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_sharded_bank_of_one_process_is_the_bank(model: LatentPatch, face_images: Tensor) -> None:
    bank, sharded = model.bank, ShardedBank(model.bank, ALONE)
    assert len(sharded) == 12
    assert sharded.digest() == bank.digest()
    index = torch.randint(0, 12, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sharded.gather(index), bank.gather(index))
    assert torch.equal(sharded.gather_reduced(index), bank.gather_reduced(index))
    for settings in (RasterSettings(), RasterSettings(4, 3, 12, scales=1), RandomCellsSettings()):
        name = "raster" if isinstance(settings, RasterSettings) else "random-cells"
        method = SAMPLERS[name]
        noise = noise_from_seeds(range(3), method.noise_dim(settings, Context((16, 16), len(bank))))
        for candidates in (None, torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 3]).sort().values):
            expected = bank.sample(method, noise, settings, candidates)
            assert torch.equal(sharded.sample(method, noise, settings, candidates), expected)
    with pytest.raises(RuntimeError, match="cannot be changed"):
        sharded.remove(["1"])


@dataclass(frozen=True)
class Threads(Processes):
    """Threads that talk like processes."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    board: list[Any] = field(default_factory=list)

    def gather_objects(self, value: Any) -> list[Any]:
        self.board[self.rank] = value
        self.barrier.wait(30)
        values = list(self.board)
        self.barrier.wait(30)
        return values

    def gather(self, value: Tensor) -> list[Tensor]:
        return self.gather_objects(value)

    def sum(self, value: Tensor) -> Tensor:
        return torch.stack(self.gather_objects(value)).sum(0).to(value.dtype)


def in_threads(count: int, task: Callable[[Processes], T]) -> list[T]:
    barrier, board = threading.Barrier(count), [None] * count
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda r: task(Threads(r, count, None, barrier, board)), range(count)))


@pytest.mark.parametrize("count", [2, 14])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("where", [None, "mood=glad"])
@pytest.mark.parametrize(
    "settings",
    [RasterSettings(), RasterSettings(4, 3, 4, scales=2), RasterSettings(5, 1, 1, scales=1, start_size=9)],
    ids=str,
)
def test_shards_give_the_maps_of_the_whole(
    fitted: Path,
    face_images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    guided: bool,
    where: str | None,
    settings: RasterSettings,
) -> None:
    """Also where a process has fewer sources than neighbours, or none, and where images go in groups."""
    plain: Any = inspect.unwrap(raster)
    monkeypatch.setattr(plain, "__kwdefaults__", {**plain.__kwdefaults__, "memory": 256 * 12})
    monkeypatch.setattr(torch_loops, "_TOGETHER", 13)  # places of a level in parts, though shares are of unlike sizes
    model = LatentPatch.load(fitted)
    arguments: dict[str, Any] = {"settings": settings, "where": where, "reference": face_images[2] if guided else None}
    whole = model.generate(3, **arguments)

    def one(processes: Processes) -> Generation:
        own = LatentPatch.load(fitted)
        own.bank = ShardedBank(own.bank, processes)
        return own.generate(3, **arguments, part=processes.share(3))

    parts = in_threads(count, one)
    assert torch.equal(torch.cat([part.index for part in parts]), whole.index)
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_shards_inpaint_as_the_whole(fitted: Path, face_images: Tensor) -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[8:40, 12:44] = True
    whole = LatentPatch.load(fitted).inpaint(face_images[2], mask, 2)

    def one(processes: Processes) -> Generation:
        own = LatentPatch.load(fitted)
        own.bank = ShardedBank(own.bank, processes)
        return own.inpaint(face_images[2], mask, 2)

    for part in in_threads(3, one):
        assert torch.equal(part.index, whole.index)
        assert torch.equal(part.images, whole.images)


def test_processes_fit_what_one_fits(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    paths = [tmp_path / "bad.png", *sorted(faces.iterdir())]
    whole = LatentPatch("pixels:4", 8).fit(paths, size=64, skip_bad=True)

    def one(processes: Processes) -> LatentPatch:
        processes = replace(processes)
        object.__setattr__(processes, "broadcast", lambda value: value)
        object.__setattr__(processes, "concatenate", lambda rows, _: torch.cat(processes.gather_objects(rows)))
        return LatentPatch("pixels:4", 8).fit(paths, size=64, skip_bad=True, processes=processes)

    for model in in_threads(3, one):
        assert model.bank.digest() == whole.bank.digest()
        assert model.skipped == whole.skipped
        assert model.bank.ids == whole.bank.ids
