"""Installs that are not editable: what is built from the sources holds all that the commands and the tests need."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.pages import README, fill_folder, runnable
from helpers.paths import ROOT

from latentpatch.errors import EXTRAS

_PLACES = ("benchmarks", "docs", "examples", "handlers", "latentpatch")
setuptools = pytest.importorskip("setuptools", "77", reason="no setuptools 77 to build with")
pytest.importorskip("pip", reason="no pip to install with")

_ELSEWHERE = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "out", "site", "*.mar", ".made-of"
)


def _run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run a command that sees no package of this checkout but what is installed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=kept | environment, capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in a folder whose name has a space."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("a checkout") / "the sources", ignore=_ELSEWHERE)


@pytest.fixture(scope="module")
def unpacked(sources: Path) -> Path:
    """The source distribution, unpacked."""
    built = sources.parent / "built"
    built.mkdir()
    _run(sys.executable, "-c", f"from setuptools.build_meta import *; build_sdist({str(built)!r})", folder=sources)
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(built, filter="data")
    return built / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> Path:
    """A wheel, built from the source distribution without a network."""
    options = ("--no-build-isolation", "--no-deps", "--no-index", "-w", "dist")
    _run(sys.executable, "-m", "pip", "wheel", *options, ".", folder=unpacked)
    (path,) = (unpacked / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which sees the packages that this one needs but not its checkout."""
    folder = tmp_path_factory.mktemp("an environment") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    (site,) = folder.glob("lib/*/site-packages")
    # Files .pth there, such as one of an editable install, do not count.
    (site / "packages.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    # As installed without extras: Numba would compile every search anew for this place.
    (site / "without_numba.pth").write_text("import sys; sys.modules['numba'] = None\n")
    python = folder / "bin" / "python"
    pip = ("--python", python, "install", "--no-deps", "--no-index", "--quiet")
    _run(sys.executable, "-m", "pip", *pip, wheel, folder=folder.parent)
    place = _run(python, "-c", "import latentpatch; print(latentpatch.__file__)", folder=folder.parent)
    assert Path(place.strip()).is_relative_to(folder)
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_source_distribution_holds_the_checkout(sources: Path, unpacked: Path) -> None:
    """Defect M2: handlers, examples, hubconf.py and most tests were missing."""
    left_out = {".gitignore"} | {name for name in _files(sources) if ".egg-info" in name}
    assert _files(sources) - _files(unpacked) <= left_out


def test_a_wheel_holds_the_package_and_the_handlers(wheel: Path) -> None:
    """Defect M2: a wheel had no handler for archives."""
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    package = {f"latentpatch/{name}" for name in _files(ROOT / "latentpatch") if "__pycache__" not in name}
    handlers = {f"latentpatch/handlers/{name}" for name in _files(ROOT / "handlers") if "__pycache__" not in name}
    assert {name for name in names if name.startswith("latentpatch/")} == package | handlers


@pytest.mark.slow(18)
@pytest.mark.skipif(os.name != "posix", reason="the commands of the README are for a shell of POSIX")
def test_the_readme_runs_from_an_installed_wheel(environment: Path, tmp_path: Path) -> None:
    """All commands and programs of the README, in another folder; and an archive, defect M2."""
    fill_folder(tmp_path)
    blocks = runnable(README)
    shell = "\n".join(block.code for block in blocks if block.language == "sh")
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    _run("bash", "-euo", "pipefail", "-c", shell, folder=tmp_path, PATH=path)
    program = "\n".join(block.code for block in blocks if block.language == "python")
    place = "\nimport latentpatch; print(latentpatch.__file__)"
    printed = _run(environment / "bin" / "python", "-c", program + place, folder=tmp_path, PATH=path)
    assert Path(printed.splitlines()[-1]).is_relative_to(environment)
    assert {"out", "edited", "filled", "why", "audit", "portraits.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }


@pytest.mark.slow(6)
def test_an_installed_wheel_makes_archives(environment: Path, tmp_path: Path) -> None:
    """Defect M2: ``latentpatch archive`` named a handler in site-packages that was not there."""
    fill_folder(tmp_path)
    _run(environment / "bin" / "latentpatch", "archive", "portraits", "-o", "w.mar", "--size", "64", folder=tmp_path)
    with zipfile.ZipFile(tmp_path / "w.mar") as file:
        names = file.namelist()
    assert {"latentpatch_handler.py", "model-config.yaml", "latentpatch/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith("latentpatch/handlers/")]


def test_hints_to_install_name_packages_that_exist() -> None:
    """The package is on no index: ``pip install latentpatch[EXTRA]`` finds nothing there."""
    for path in [*ROOT.glob("*.*"), *(each for name in _PLACES for each in (ROOT / name).rglob("*"))]:
        if path.suffix in (".py", ".md", ".cfg", ".toml", ".sh", ".yaml", ".html"):
            assert not re.search(r"pip install [^\n]*\blatentpatch\b", path.read_text(encoding="utf-8")), path


def test_extras_of_hints_are_those_of_the_package() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = parser["options.extras_require"]
    for extra, packages in EXTRAS.items():
        lines = extras[extra].strip().splitlines()
        listed = [re.split(r"[>=\[; ]", line)[0] for line in lines]
        assert list(packages) == listed, extra


@pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="no make")
@pytest.mark.parametrize("target", ["demo", "archive"])
def test_make_takes_folders_with_spaces(tmp_path: Path, target: str) -> None:
    """``make demo SOURCES="My Pictures"`` took two folders."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("My sister's Pictures", "latentpatch", "handlers", "model_store", "venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "venv/.installed", "venv/.serving"):
        (tmp_path / name).touch()
    command = tmp_path / "venv" / "bin" / "latentpatch"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > words\n')
    command.chmod(0o755)
    chosen = ["SOURCES=My sister's Pictures", "AUTOENCODER=taef2:my weights"]
    _run("make", "-s", target, "VENV=venv", *chosen, folder=tmp_path)
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:2] == [{"demo": "generate"}.get(target, target), "My sister's Pictures"]
    assert words[words.index("--autoencoder") + 1] == "taef2:my weights"


def _python(minor: int) -> str | None:
    """Return a Python 3 of a minor version on this machine, from the path or from pyenv."""
    found = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
    return str(found[-1]) if found else shutil.which(f"python3.{minor}")  # pyenv puts a stand-in on the path


@pytest.mark.parametrize("minor", range(10, 14))
def test_every_python_reads_it(minor: int, tmp_path: Path) -> None:
    """Help and refusals need no package, so they run with any Python; all files are of its syntax."""
    python = _python(minor)
    if python is None:
        pytest.skip(f"Python 3.{minor} is not on this machine")
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    program = """
import pathlib, sys
for name in ("latentpatch", "handlers", "tests"):
    for path in pathlib.Path(sys.argv[1], name).rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
"""
    _run(python, "-W", "error", "-c", program, ROOT, folder=tmp_path, **environment)
    shown = _run(python, "-W", "error", "-m", "latentpatch", "generate", "--help", folder=tmp_path, **environment)
    assert "--preset" in shown
