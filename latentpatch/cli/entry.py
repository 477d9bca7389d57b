"""The command line, ``latentpatch COMMAND``: parser, signals and exit status.

Help, the version and refusals of a command line import no torch: commands import what they need when they run.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import pairwise
from typing import Any

from .. import __version__
from ..errors import LatentPatchError, PictureWarning, SettingError, printable
from ..methods.latent.presets import PRESETS
from ..registry import import_plugins
from ..runs.interruption import checkpoint, end_by_signals, times_written
from ..runs.launch import num_processes, rank
from ..runs.system import is_out_of_memory, keep_freed_memory, on_compilation
from ..settings import declared
from ._options import Command, CommandOptions, RunContext
from ._parsing import Parser

__all__ = ["COMMANDS", "main"]

#: Commands and their summaries; each is a module of this package.
COMMANDS = {
    "generate": "make new images from sources",
    "inpaint": "fill a region of a picture, in several ways",
    "edit": "make an edited picture coherent, or copy a region from a donor in latent space",
    "reshuffle": "make new pictures from one picture, without other sources",
    "retarget": "make one picture in another size, its things undistorted",
    "analogy": "make a picture with the structure of one, from patches of another",
    "stylize": "paint a picture in the style of another",
    "texture": "make textures of any size from exemplars",
    "harmonize": "give a pasted thing the look of the picture",
    "train": "train networks on one picture or a few, for generate and the tasks above",
    "enlarge": "enlarge a picture by a model that was trained on it",
    "denoise": "take the noise from a picture",
    "invert": "find the inputs of a generator that give pictures",
    "interpolate": "make pictures between inverted ones",
    "reconstruct": "encode and decode pictures: what the autoencoder loses",
    "align": "register similar pictures to one another",
    "fit": "encode sources once and keep them in one file",
    "archive": "make the model archive that TorchServe serves",
    "export": "write graphs that run without this package",
    "explain": "find the sources of a picture, where and how much",
    "audit": "look for copies of sources among pictures (exit status 3 if there are some)",
    "unlearn": "remove sources from a model file, with a proof that nothing is left",
    "evaluate": "measure quality and novelty of samplers against held-out pictures",
    "bench": "measure the speed of this machine at every stage",
    "inspect": "describe a picture, a model file or a folder",
}

_START = """\
start here:
  latentpatch generate PICTURES -o out      16 images from a folder of similar pictures; see out/grid.png
  latentpatch align PICTURES -o aligned     first, if faces or things are not at the same place in all pictures
  latentpatch explain out/0003.png PICTURES -o why     which pictures an image comes from
  latentpatch COMMAND --help                options and examples of a command"""

_HEAD_START = 5  # seconds the first process has to report before others end: torchrun stops all when one ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return the exit status: 0, 1 for an error, 2 for unusable arguments, 3 for copies found."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_resumable, written = False, times_written()
    try:
        import_plugins()
        with _first_process_reports():
            name, command, options = _parse(words)
            options.check()
            if num_processes() > 1 and not command.is_parallel:
                raise ValueError(f"{name} must be one process; torchrun is for generate and inpaint --image")
        keep_freed_memory()
        is_resumable = command.is_resumable or options.run.resume or num_processes() > 1
        with end_by_signals(), _context(name, options, is_resumable) as context, context.saying(PictureWarning):
            report = command.run(options, context)
    except (LatentPatchError, ValueError, TypeError) as error:
        return _fail(_reason(error, words))
    except BrokenPipeError:  # nobody reads what is printed, as after `| head`
        raise
    except OSError as error:  # of a path that may not even be looked at, or of a name that is too long
        return _fail(str(error) if error.filename is None else f"{error.filename}: {error.strerror}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("out of memory; smaller settings, fewer sources, a smaller --size or another --device may fit")
    except KeyboardInterrupt:
        what = "nothing was written" if times_written() == written else "after files were written"
        what = "run it again to go on" if is_resumable else what
        print(f"latentpatch: interrupted, {what}", file=sys.stderr)
        return 130
    prints = not context.processes.rank and (options.run.json or command.always_prints)
    return (_print(report) if prints else 0) or command.exit_status(report)


def _parse(words: list[str]) -> tuple[str, Command[Any], CommandOptions]:
    """Return the command and its options; exit where the command line asks for help or is refused."""
    parser = Parser(
        prog="latentpatch",
        usage="latentpatch COMMAND ...",
        description="New images from a handful of registered examples, without training.\n\ncommands:\n"
        + "\n".join(f"  {name:12} {summary}" for name, summary in COMMANDS.items()),
        epilog=_START,
    )
    parser.add_argument("--version", action="version", version=f"latentpatch {__version__}")
    if not words:
        parser.error("COMMAND is missing")
    name = words[0]
    if name not in COMMANDS:
        if name.startswith("-"):
            parser.parse_args(words)
            parser.error("COMMAND must come first")
        near = [each for each in COMMANDS if each.startswith(name)] or difflib.get_close_matches(name, COMMANDS, 1)
        parser.error(f"no command {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    command: Command[Any] = importlib.import_module(f".{name}", __package__).run
    return name, command.chosen(words[1:]), command.parse(name, COMMANDS[name], words[1:])


@contextmanager
def _first_process_reports() -> Iterator[None]:
    """Refuse a command line in all processes of torchrun, and print the reason in the first one."""
    if rank() == 0:
        yield
        return
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except BaseException as error:
        time.sleep(_HEAD_START)
        raise SystemExit(1) from error


@contextmanager
def _context(name: str, options: CommandOptions, is_resumable: bool) -> Iterator[RunContext]:
    """Join the processes that torchrun started."""
    _import_torch()
    checkpoint()
    import torch

    from ..runs.processes import process_group

    device = options.run.device
    kind = "cuda" if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()) else "cpu"
    with process_group(kind) as processes:
        if processes.count > 1 and kind == "cuda" and ":" not in device:
            device = str(processes.device)
        context = RunContext(name, options.run, device, processes, is_resumable)
        on_compilation(lambda: context.say("compiling loops for this machine, once; this takes some ten seconds"))
        yield context


def _import_torch() -> None:
    """Import torch without the search for garbage among its objects, which takes a tenth of the time of a start."""
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        importlib.import_module("torch")
    finally:
        gc.freeze()
        gc.enable()


def _print(report: dict[str, Any]) -> int:
    try:
        print(json.dumps(report, indent=1, sort_keys=True), flush=True)
    except OSError as error:
        # The rest of the buffer goes nowhere, or Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(f"cannot write the report: {error.strerror or error}")
    return 0


def _reason(error: Exception, words: list[str]) -> str:
    """Return an error's message; a setting that is on the command line, or of a preset there, is named so."""
    if isinstance(error, SettingError):
        option = f"{'--' if len(error.name) > 1 else '-'}{error.name.replace('_', '-')}"
        if any(word.partition("=")[0] == option for word in words):
            return str(error).replace(error.name, option, 1)
        preset = next((following for word, following in pairwise(words) if word == "--preset"), None)
        preset = preset or next((word[9:] for word in words if word.startswith("--preset=")), None)
        if preset in PRESETS and error.name in declared(type(PRESETS[preset])):
            return f"{error}: it is of --preset {preset}, so choose another preset, or add {option}"
    return str(error)


def _fail(reason: str) -> int:
    print("latentpatch: error:", printable(" ".join(line.strip() for line in reason.splitlines())), file=sys.stderr)
    return 1
