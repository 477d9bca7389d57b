"""The command line, ``latentpatch COMMAND``: see :data:`_COMMANDS`."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

import torch

from .. import __version__
from ..errors import LatentPatchError
from ..runs.processes import process_group, rank
from ..runs.system import is_out_of_memory, keep_freed_memory
from . import align, audit, bench, evaluate, explain, exporting, making, models, unlearn

__all__ = ["main"]

#: Each adds a command's parser, which holds the function that runs it; in the order of the help.
_COMMANDS = (
    making.add_generate,
    making.add_inpaint,
    making.add_edit,
    making.add_reconstruct,
    align.add_align,
    models.add_fit,
    models.add_archive,
    exporting.add_export,
    explain.add_explain,
    audit.add_audit,
    unlearn.add_unlearn,
    evaluate.add_evaluate,
    bench.add_bench,
    models.add_inspect,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 for an error, 2 for unusable arguments, 3 for copies found."""
    with redirect_stderr(io.StringIO()) if rank() else nullcontext():  # one process complains for all
        options = _parser().parse_args(arguments)
    keep_freed_memory()
    try:
        with _terminable(), _joined(options):
            report = options.run(options)
    except (LatentPatchError, ValueError, TypeError) as error:
        return _failed(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _failed("out of memory; fewer sources, a smaller --size or another --device may fit")
    except KeyboardInterrupt:
        kept = getattr(options, "resume", False)
        print("latentpatch: interrupted,", "run it again to go on" if kept else "nothing was written", file=sys.stderr)
        return 130
    status: int = options.status
    return (_print(report) if options.json else 0) or status


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a request to terminate end the command as Ctrl-C does, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _joined(options: argparse.Namespace) -> Iterator[None]:
    """The processes that torchrun started, as ``options.processes``; the first one speaks for all."""
    device = getattr(options, "device", "cpu")
    kind = "cuda" if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()) else "cpu"
    with process_group(kind) as options.processes:
        if options.processes.count > 1:
            if not hasattr(options, "resume"):
                raise ValueError(f"{options.command}: one process is expected; torchrun is for generate and inpaint")
            options.resume = True
            if kind == "cuda" and ":" not in device:
                options.device = str(options.processes.device)
            if options.processes.rank:
                options.quiet, options.json = True, False
        yield


def _print(report: dict[str, Any]) -> int:
    try:
        print(json.dumps(report, indent=1, sort_keys=True), flush=True)
    except OSError as error:
        # What is left in the buffer goes nowhere, or Python would complain again on leaving.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _failed(f"cannot write the report: {error.strerror or error}")
    return 0


def _failed(reason: str) -> int:
    print("latentpatch: error:", " ".join(line.strip() for line in reason.splitlines()), file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="latentpatch",
        description="New images from a handful of registered examples, without training.",
        allow_abbrev=False,  # an abbreviation would change its meaning with the next option
    )
    parser.add_argument("--version", action="version", version=f"latentpatch {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in _COMMANDS:
        add(commands)
    return parser
