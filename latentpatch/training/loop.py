"""Train networks stage by stage, from the last checkpoint on.

A training has a folder with these files, each written in one step:

- ``training.json``: the configuration; a folder of another one is refused.
- ``stage-NN.safetensors``: the networks of each finished stage.
- ``checkpoint.safetensors``: networks, optimizers and step of the stage at work.
- ``losses.csv`` and ``losses.png``: the mean losses so far, and their curves.

Random numbers of a step depend on seed, stage and step alone. A training that was interrupted at any moment and
started again therefore ends with the same bytes, on the same machine with the same number of threads.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import FileError, TrainingError
from ..io.atomic import write_bytes
from ..io.notes import open_regular, read_json
from ..io.stored import read_stored, write_stored
from ..runs.interruption import checkpoint as check_interruption
from ..runs.progress import progress
from ..runs.resume import difference, locked
from ..runs.system import check_memory
from ..validation import check_choice, check_integer
from .plot import Row, plot_losses

__all__ = ["PRECISIONS", "Stage", "Work", "train"]

PRECISIONS = ("float32", "bfloat16")

_FORMAT = "latentpatch-checkpoint/1"


@dataclass(frozen=True)
class Work:
    """The networks of a stage and its step.

    Attributes:
        modules: networks by name, trained in the stage and frozen after it; their state is stored, buffers too.
        optimizers: by name; a step may set learning rates, as a function of its number alone.
        step: does the step of a number, from 0 on, with a generator on the CPU for random numbers; returns losses by
            name, scalars, the same names at each step.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    step: Callable[[int, torch.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Stage:
    """A stage of a training.

    Attributes:
        name: for the log.
        steps: number of steps, at least 1.
        build: makes the networks, when all earlier stages are finished; its random numbers are seeded.
        cost: relative time of a step, by which the time left is estimated.
    """

    name: str
    steps: int
    build: Callable[[], Work]
    cost: float = 1.0


def train(
    stages: Sequence[Stage],
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    memory: int = 0,
    log_every: int = 50,
    checkpoint_seconds: float = 60.0,
    show_progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train the networks of the stages in order; go on where an earlier call was interrupted.

    Args:
        stages: the stages; each ``build`` is called, for finished stages too, whose networks are then loaded.
        folder: of checkpoints and log; made if missing.
        config: all that decides the networks beside what is named here, as JSON: method, settings, digests of data.
        seed: of all random numbers.
        device: of the networks; for the precision and the memory.
        precision: ``bfloat16`` runs the steps under autocast.
        memory: estimate of the bytes needed on the device; 0 where there is none.
        log_every: steps between rows of the log; a checkpoint can be written after each row.
        checkpoint_seconds: least time between checkpoints.
        show_progress: whether to show a bar with the time left.
        say: prints a line for people.

    Raises:
        FileError: where the folder has another configuration, is in use, or cannot be written; the last checkpoint
            stays.
        SettingError: for arguments out of range, and where ``memory`` is more than there is; before the first step.
        TrainingError: where a loss or a weight is not finite; the last checkpoint stays.
    """
    folder, device = Path(folder), torch.device(device)
    check_choice("precision", precision, PRECISIONS)
    check_integer("log_every", log_every, 1)
    for stage in stages:
        check_integer(f"steps of {stage.name}", stage.steps, 1)
    _check_memory(memory, device, say)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder / "lock")
    except OSError as error:
        raise FileError(folder, f"cannot be written: {error.strerror or error}") from error
    facts = {
        "config": dict(config), "seed": check_integer("seed", seed, 0), "precision": precision,
        "log_every": log_every, "stages": [[stage.name, stage.steps] for stage in stages],
    }  # fmt: skip
    with lock, torch.random.fork_rng(_cuda_devices(device)):
        _check_configuration(folder / "training.json", facts)
        total = sum(stage.steps * stage.cost for stage in stages)
        bar = progress("training", total=total, shown=show_progress, unit="", bar_format=_BAR, leave=True)
        with bar:
            log = _Log(folder)
            for number, stage in enumerate(stages):
                bar.set_description_str(f"{stage.name} ({number + 1} of {len(stages)})", refresh=False)
                torch.manual_seed(_mix(seed, number))
                work = stage.build()
                _run_stage(_Files(folder, number), stage, work, log, facts, device, checkpoint_seconds, bar)
                for module in work.modules.values():
                    module.eval().requires_grad_(False)


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class _Files:
    """The files of a stage: its state when finished, and its checkpoint."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.finished, self.unfinished = folder / f"stage-{number:02d}.safetensors", folder / "checkpoint.safetensors"

    def load(self, work: Work, stage: Stage) -> int:
        """Load the newest state of the stage; return the number of steps that it has done."""
        if self.finished.exists():
            path, optimizers = self.finished, {}
        elif self.unfinished.exists():
            path, optimizers = self.unfinished, dict(work.optimizers)
        else:
            return 0
        header, tensors = read_stored(path, _FORMAT)
        if header.get("stage") != self.number:  # the checkpoint of an earlier stage, which is finished
            return 0
        try:
            for name, module in work.modules.items():
                module.load_state_dict(_part(tensors, f"module.{name}."))
            for name, optimizer in optimizers.items():
                _load_optimizer(optimizer, _part(tensors, f"optimizer.{name}."))
            return check_integer("step", header["step"], 0, stage.steps)
        except (KeyError, RuntimeError, ValueError) as error:
            raise FileError(path, f"malformed: {' '.join(str(error).split())}; delete the file") from error

    def write(self, work: Work, step: int, is_finished: bool) -> None:
        """Write the state after a number of steps."""
        tensors = {
            f"module.{name}.{key}": value
            for name, module in work.modules.items()
            for key, value in module.state_dict().items()
        }
        if not is_finished:
            for name, optimizer in work.optimizers.items():
                for number, state in optimizer.state_dict()["state"].items():
                    tensors |= {f"optimizer.{name}.{number}.{key}": v for key, v in state.items() if v is not None}
        path = self.finished if is_finished else self.unfinished
        write_stored(path, _FORMAT, {"stage": self.number, "step": step}, tensors)


def _run_stage(
    files: _Files, stage: Stage, work: Work, log: _Log, facts: dict[str, Any], device: torch.device,
    checkpoint_seconds: float, bar: Any,
) -> None:  # fmt: skip
    """Do the steps of a stage that are not done yet."""
    first = files.load(work, stage)
    log.drop_after(files.number, first)
    bar.update(first * stage.cost)
    generator, saved = torch.Generator(), time.monotonic()
    sums: dict[str, Tensor] = {}
    since = first
    for i in range(first, stage.steps):
        check_interruption()
        torch.manual_seed(_mix(facts["seed"], files.number, i))
        generator.manual_seed(_mix(facts["seed"], files.number, i, "step"))
        with torch.autocast(device.type, torch.bfloat16, enabled=facts["precision"] == "bfloat16"):
            losses = work.step(i, generator)
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + loss.detach().cpu().double()
        bar.update(stage.cost)
        done = i + 1
        if done % facts["log_every"] and done < stage.steps:
            continue
        means = {name: float(total) / (done - since) for name, total in sums.items()}
        _check_finite(stage, done, means, work)
        log.rows.append((files.number, stage.name, done, means))
        bar.set_postfix({name: f"{mean:.3g}" for name, mean in means.items()}, refresh=False)
        sums, since = {}, done
        if done == stage.steps or time.monotonic() - saved >= checkpoint_seconds:
            log.write()  # first, because rows after the checkpoint are dropped
            files.write(work, done, done == stage.steps)
            saved = time.monotonic()


class _Log:
    """The rows of ``losses.csv`` and their curves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        path = folder / "losses.csv"
        if path.exists():
            try:
                with open_regular(path, newline="", encoding="utf-8") as file:
                    for row in csv.DictReader(file):
                        number, name, step = int(row.pop("number")), row.pop("stage"), int(row.pop("step"))
                        losses = {key: float(value) for key, value in row.items() if value}
                        self.rows.append((number, name, step, losses))
            except (csv.Error, KeyError, OSError, TypeError, ValueError) as error:
                raise FileError(path, f"damaged ({error}); delete the file") from error

    def drop_after(self, number: int, step: int) -> None:
        """Drop rows that are newer than the state of a stage; those of later stages are dropped in their turn."""
        self.rows = [row for row in self.rows if row[0] != number or row[2] <= step]

    def write(self) -> None:
        """Write rows and curves."""
        names = list(dict.fromkeys(name for row in self.rows for name in row[3]))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["number", "stage", "step", *names])
        for number, stage, step, losses in self.rows:
            writer.writerow([number, stage, step, *(repr(losses[name]) if name in losses else "" for name in names)])
        write_bytes(self.folder / "losses.csv", text.getvalue().encode())
        write_bytes(self.folder / "losses.png", plot_losses(self.rows))


def _check_configuration(path: Path, facts: dict[str, Any]) -> None:
    """Write the configuration of a new training, or compare that of an earlier one."""
    text = json.dumps(facts, sort_keys=True, indent=1)
    try:
        theirs = read_json(path) if path.exists() else None
    except (OSError, ValueError) as error:
        raise FileError(path, f"cannot be read: {error}") from error
    if theirs is None:
        write_bytes(path, text.encode())
    elif theirs != json.loads(text):
        theirs = theirs if isinstance(theirs, dict) else {}
        old, new = theirs.pop("config", {}), facts["config"]
        if old == new:  # the names of settings say more than the stages that follow from them
            old, new = theirs, {key: value for key, value in facts.items() if key != "config"}
        reason = difference(old, new)
        raise FileError(
            path.parent,
            f"holds the training of another configuration ({reason}); train with that one again, or delete the folder",
        )


def _check_memory(memory: int, device: torch.device, say: Callable[[str], None]) -> None:
    """Say the memory of a training; refuse one that does not fit."""
    if not memory:
        return
    say(f"training needs up to {memory / 2**30:.2f} GiB of memory")
    check_memory("size", "this size", memory, device)


def _check_finite(stage: Stage, step: int, means: dict[str, float], work: Work) -> None:
    """Refuse losses and weights that are not finite, before they get into a checkpoint."""
    broken = [name for name, mean in means.items() if not torch.tensor(mean).isfinite()]
    for key, module in work.modules.items():
        broken += [f"{key}.{name}" for name, value in module.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise TrainingError(stage.name, step, broken)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _mix(*parts: int | str) -> int:
    """Return a seed that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "little")


def _cuda_devices(device: torch.device) -> list[int]:
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
