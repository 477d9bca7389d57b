"""The parser: help, wrong values, and what is imported."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import (
    contents,
    misused,
)
from helpers.paths import ROOT

from latentpatch import LatentPatch
from latentpatch.autoencoders.base import PRECISIONS
from latentpatch.bank.augmentation import DEFAULT_OFFSET_COST
from latentpatch.cli._options import RunOptions, SourceOptions
from latentpatch.cli.align import AlignOptions
from latentpatch.cli.audit import AuditOptions
from latentpatch.cli.entry import COMMANDS, main
from latentpatch.cli.evaluate import EvaluateOptions
from latentpatch.cli.export import ExportOptions
from latentpatch.evaluation.features import BUILT_IN
from latentpatch.export.formats import FORMATS
from latentpatch.provenance.audit import CopyLimits
from latentpatch.registration.alignment import MIN_AGREEMENT

OUT = ["generate", "faces", "-o", "out"]

#: Command lines that are refused with status 2, and words that the one line about them holds.
MISUSES: dict[str, tuple[list[str], list[str]]] = {
    "no command": ([], ["COMMAND"]),
    "unknown command": (["paint"], ["'paint'"]),
    "part of a command": (["gen", "faces"], ["'gen'", "did you mean generate?"]),
    "misspelt command": (["exlpain", "faces"], ["'exlpain'", "did you mean explain?"]),
    "option before the command": (["-q", "generate"], ["-q"]),
    "no sources": (["generate", "-o", "out"], ["SOURCES"]),
    "no output": (["generate", "faces"], ["-o/--output"]),
    "no images": ([*OUT, "-n", "0"], ["-n", "from 1 to 10000000", "'0'"]),
    "too many images": ([*OUT, "-n", "1000000000"], ["-n", "from 1 to 10000000", "'1000000000'"]),
    "a word for a number": ([*OUT, "-n", "many"], ["-n", "'many'"]),
    "negative seed": ([*OUT, "--seed", "-1"], ["--seed", "'-1'"]),
    "broken seed": ([*OUT, "--seed", "1.5"], ["--seed", "'1.5'"]),
    "no components": ([*OUT, "--components", "0"], ["--components", "'0'"]),
    "a word for a setting": ([*OUT, "--patch-size", "big"], ["--patch-size", "a number", "'big'"]),
    "setting out of range": ([*OUT, "--patch-size", "0"], ["--patch-size", "above 0", "'0'"]),
    "former name out of range": ([*OUT, "--neighbours", "0"], ["--neighbours", "at least 1", "'0'"]),
    "share out of range": ([*OUT, "--max-share", "1.5"], ["--max-share", " 1", "'1.5'"]),
    "no number": ([*OUT, "--switch-cost", "nan"], ["--switch-cost", "100", "'nan'"]),
    "no windows": ([*OUT, "--windows", "3,x"], ["--windows", "'3,x'"]),
    "unknown sampler": ([*OUT, "--sampler", "magic"], ["--sampler", "raster", "magic"]),
    "unknown preset": ([*OUT, "--preset", "fw"], ["--preset", "few", "fw"]),
    "preset and sampler": ([*OUT, "--preset", "few", "--sampler", "raster"], ["--sampler", "--preset"]),
    "unknown decoding": ([*OUT, "--decoding", "magic"], ["--decoding", "unproject"]),
    "unknown precision": ([*OUT, "--precision", "double"], ["--precision", "bfloat16"]),
    "unknown option": ([*OUT, "--colour", "red"], ["--colour"]),
    "no size": ([*OUT, "--size", "64x"], ["--size", "SIDE", "'64x'"]),
    "unknown device": ([*OUT, "--device", "abacus"], ["--device", "cuda", "'abacus'"]),
    "unknown autoencoder": ([*OUT, "--autoencoder", "vae"], ["--autoencoder", "taesd", "vae"]),
    "no weights": ([*OUT, "--autoencoder", "taesd:"], ["--autoencoder", "taesd:"]),
    "no region": (["inpaint", "faces", "-o", "out", "--image", "a.png"], ["--mask", "--box"]),
    "two regions": (["edit", "a", "--donor", "b", "-o", "out", "--mask", "m", "--box", "0"], ["--mask", "--box"]),
    "no region of an edit": (["edit", "a.png", "-o", "out"], ["--mask", "--box"]),
    "sampler without masks": (
        ["inpaint", "faces", "-o", "out", "--image", "a", "--box", "0", "--sampler", "resynthesis"],
        ["--sampler", "raster", "diffusion"],
    ),
    "zoom out of range": (["align", "faces", "-o", "out", "--zoom", "0.9"], ["--zoom", "from 1 to 4", "'0.9'"]),
    "limit out of range": (["audit", "faces", "out", "-o", "o", "--max-share", "1.5"], ["--max-share", "'1.5'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSES)
def test_wrong_values_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, words = MISUSES[name]
    line = misused(capsys, *arguments)
    assert all(word in line for word in words), line
    assert line.endswith(f"(see latentpatch {arguments[0]} --help)" if arguments[0:1] and arguments[0] in COMMANDS
                         else "(see latentpatch --help)")  # fmt: skip
    assert contents(tmp_path) == {}


OPTIONS = {
    "reshuffle": "-n --seed --output --method --preset --patch-size --alpha --trace --json",
    "retarget": "-n --seed --output --size --method --preset --patch-size --alpha --trace --json",
    "analogy": "STRUCTURE PATCHES -n --seed --output --method --preset --patch-size --alpha --coarsest --trace --json",
    "stylize": "CONTENT STYLE -n --seed --output --method --strength --palette --variety --patch-size --trace --json",
    "texture": "-n --seed --output --size --weights --map --symmetric --method --preset --tileable --block --window "
    "--offsets --trace --json",
    "denoise": "--output --method --sigma --guide --spread --tolerance --radius --patch-size --window --bandwidth "
    "--neighbors --passes --trace --json --quiet",
    "train": "METHOD PICTURES --output --side --size --seed --steps --ratio --width --vae-levels --codes --precision "
    "--device --json",
    "enlarge": "PICTURE MODEL --output --factor --json --quiet",
    "generate": "-n --seed --output --autoencoder --patch-size --stride --neighbors --scales --start-size --reference "
    "--attributes --where --sampler --preset --decoding --skip-bad --json --device --size --components --resume "
    "--shard-bank --residuals --levels --start-noise --end-noise --windows --strength --donors --best-of --mirrored "
    "--unregistered --structure --continuity --position --mixed --format --quality --shards --dataset --labels "
    "--audited --identity --identity-limit",
    "harmonize": "PICTURE -n --seed --output --mask --box --from --method --fidelity --palette --trace --json",
    "inpaint": "PICTURE --from --method --noise --texture --window --offsets -n --seed --image --mask --box "
    "--reconstructed --where --patch-size --json --sampler --levels --resume",
    "edit": "PICTURE --from --method --margin --fade --coarsest --donor --mask --box --composite --json",
    "invert": "PICTURES --generator --size --degrade --perceptual --detector --unaligned --seed --trace --steps "
    "--learning-rate --noise-maps --arc --loss --start --starts --noise-regularization --identity --output --device",
    "interpolate": "LATENTS -n --by --weights --inputs --seed --generator --animation --originals --strangers "
    "--held-out --features --identity --output",
    "reconstruct": "--skip-bad --json",
    "align": "--size --landmarks --to --rotation --zoom --focus --min-agreement --closer --crop --mean --skip-bad",
    "fit": "--attributes --components --skip-bad --residuals --offsets",
    "archive": "--sources --graphs --trained --workers --batch-size --max-batch-delay --config --handler --output",
    "export": "--format --graphs --where --external-data --preset --sampler --mirrored",
    "explain": "--reference --mirrored --output",
    "audit": "--held-out --max-mean-share --max-share --min-relative --min-registered --identity --identity-input "
    "--identity-limit",
    "unlearn": "--id --output --report --pictures --seeds --seed --sampler",
    "evaluate": "--held-out --originals --row --table --samples --seeds --pairs --features --perceptual --directions "
    "--resamples --identity --identity-input --identity-below",
    "bench": "--sizes -n --autoencoder --device --precision --patch-size --components --json",
    "inspect": "--json --quiet --verify",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_ends_in_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in OPTIONS[command].split():
        assert f"{option} " in text or f"{option}," in text or f"{option}\n" in text, option
    _, _, examples = text.partition("\nexamples:\n")
    assert f"  latentpatch {command} " in examples


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_parsed(command: str) -> None:
    declared = importlib.import_module(f"latentpatch.cli.{command}").run
    for example in declared.examples:
        name, *words = shlex.split(example, comments=True)
        other = importlib.import_module(f"latentpatch.cli.{name}").run
        other.parse(name, COMMANDS[name], words).check()


def test_help_lists_all_commands_and_where_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and summary in text for name, summary in COMMANDS.items())
    assert "start here:" in text
    assert {path.stem for path in (ROOT / "latentpatch" / "cli").glob("[a-z]*.py")} == {*COMMANDS, "entry"}


def test_defaults_in_help_are_those_of_the_program() -> None:
    """Constants of modules that help may not import."""
    limits, sources, align = fields_of(AuditOptions), fields_of(SourceOptions), fields_of(AlignOptions)
    assert limits["max_mean_share"].default == CopyLimits.mean_share
    assert limits["max_share"].default == CopyLimits.share
    assert limits["min_relative"].default == CopyLimits.relative
    assert limits["min_registered"].default == CopyLimits.registered
    for declared, value in (
        (sources["offset_cost"], DEFAULT_OFFSET_COST),
        (sources["components"], LatentPatch("pixels").components),
        (align["min_agreement"], MIN_AGREEMENT),
    ):
        assert f"({value:g})" in declared.metadata["option"]["help"]
    assert fields_of(RunOptions)["precision"].metadata["option"]["choices"] == tuple(PRECISIONS)
    assert fields_of(ExportOptions)["format"].metadata["option"]["choices"] == FORMATS
    features = fields_of(EvaluateOptions)["features"].metadata["option"]["help"]
    assert all(name in features for name in BUILT_IN)


def fields_of(kind: Any) -> dict[str, Field[Any]]:
    return {each.name: each for each in fields(kind)}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in COMMANDS),
        ["gen"],
        ["generate", "faces"],
        ["generate", "faces", "-o", "out", "--patch-size", "0"],
        ["generate", "faces", "-o", "out", "--scales", "2"],
        ["generate", "faces", "-o", "out", "--shard-bank"],
        ["generate", "model.safetensors", "-o", "out", "--size", "64"],
        ["generate", "model.safetensors", "-o", "out", "--sampler", "resynthesis", "--shard-bank"],
        ["fit", "faces", "-o", "model"],
    ],
    ids=" ".join,
)
def test_help_and_refusals_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    program = f"""if True:
        import sys
        from latentpatch.cli.entry import main
        try:
            main({arguments!r})
        except SystemExit:
            pass
        assert "torch" not in sys.modules
        assert "numpy" not in sys.modules
        """
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout or result.stderr.startswith("latentpatch: error: ")
    assert contents(tmp_path) == {}


def test_the_version_needs_no_torch() -> None:
    program = "import sys, latentpatch; from latentpatch import __version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "faces"],
        ["generate", "faces", "-o", "out", "--shard-bank"],
        ["fit", "faces", "-o", "a.safetensors"],
    ],
    ids=" ".join,
)
def test_the_first_of_several_processes_refuses_for_all(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others wait for it, or torchrun would stop it before it has said why."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    waits: list[float] = []
    monkeypatch.setattr("latentpatch.cli.entry.time.sleep", waits.append)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(str(end.code))
        assert status in (1, 2)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == (rank == "0"), err
    assert len(waits) == 1


@pytest.mark.skipif(os.name != "posix", reason="a pipe of POSIX")
def test_output_that_nobody_reads_ends_a_command_quietly() -> None:
    """`latentpatch generate --help | true` ended with "[Errno 32] Broken pipe"."""
    command = [sys.executable, "-m", "latentpatch", "generate", "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"")
