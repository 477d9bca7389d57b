"""Run the blocks of the README and the guides, check their links, and build the site."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.pages import FENCE, PAGES, README, RUN, Block, blocks_of, fill_folder, name_of, runnable
from helpers.paths import ROOT

from latentpatch.cli.entry import main
from latentpatch.settings import main as print_settings

PACKAGE = ROOT / "latentpatch"

#: Languages of blocks that are no programs.
SHOWN = {"json", "text", "bibtex"}
MAX_README_WORDS = 900

_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_COMMAND = re.compile(
    r"^(?: {4}|\t)(?:\$ )?(?:latentpatch|python|pip|curl|make|torchrun|npm|import|from) ", re.MULTILINE
)


# --- the folder that blocks are run in -----------------------------------------------------------------


@pytest.fixture
def folder(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with the files that a page names."""
    fill_folder(tmp_path, 2 if name_of(page) in SMALL else 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def commands_of(code: str) -> list[list[str]] | None:
    """Return the words of each line where all are plain calls of latentpatch, or None for the shell."""
    lines = [line for line in code.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)]
    words = [shlex.split(line, comments=True) for line in lines]
    plain = all(line[0] == "latentpatch" and not any(set(word) & set("|<$`*") for word in line) for line in words)
    return words if plain else None


def run(block: Block, page: Path, names: dict[str, object]) -> None:
    """Run one block in the current folder."""
    if block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
        return
    commands = commands_of(block.code)
    if commands is None:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], capture_output=True, text=True)
        assert done.returncode == 0, f"{name_of(page)}:{block.line}\n{done.stdout}{done.stderr}"
        return
    for words in commands:  # in this process: importing torch takes longer than most of them
        assert main(words[1:]) == 0, f"{name_of(page)}:{block.line}: {shlex.join(words)}"


def check(page: Path) -> None:
    """Run all blocks of a page in order; those of Python share their names, as in one session."""
    names: dict[str, object] = {"__name__": "page"}
    for block in runnable(page):
        run(block, page, names)


#: Pages that take more than a few seconds, and how many.
SLOW = {
    "docs/alignment.md": 5,
    "docs/edit.md": 5,
    "docs/embedding.md": 4,
    "docs/evaluation.md": 5,
    "docs/export.md": 15,
    "docs/fewgan.md": 8,
    "docs/inversion.md": 8,
    "docs/one-picture.md": 20,
    "docs/pictures.md": 10,
    "docs/provenance.md": 6,
    "docs/python.md": 6,
    "docs/reproduce.md": 7,
    "docs/scale.md": 10,
    "docs/start.md": 5,
}
#: Slow pages whose commands run on pictures of half the size: they are right for any size.
SMALL = {
    "docs/alignment.md",
    "docs/evaluation.md",
    "docs/one-picture.md",
    "docs/pictures.md",
    "docs/provenance.md",
    "docs/scale.md",
    "docs/start.md",
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=pytest.mark.slow(SLOW.get(name_of(page), 0)))
        for page in PAGES
        if runnable(page) and page != README  # test_install.py runs its blocks, from an installed wheel
    ],
)
def test_blocks_run(page: Path, folder: Path) -> None:
    if page.name == "export.md":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason=f"{package} is not installed")
    if page.name == "serving.md":
        pytest.importorskip("starlette", reason="Starlette is not installed")
    check(page)


class _ParsedError(Exception):
    """Ends a command once its arguments are parsed."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_are_not_run_have_the_options_they_name(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
        parse(parser, arguments)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for block in blocks_of(page.read_text()):
        if block.language != "sh" or block.reason is None:
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "latentpatch":
                with pytest.raises(_ParsedError):
                    main(words[1:])


# --- form ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_run_or_say_why_not(page: Path) -> None:
    text = page.read_text()
    for block in blocks_of(text):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in RUN | SHOWN, f"{where}: language {block.language!r}"
        assert block.language in RUN or block.reason is None, f"{where}: a marker before what is never run"
    assert text.count("Not run by the tests") == sum(block.reason is not None for block in blocks_of(text))
    assert not _COMMAND.search(FENCE.sub("", text)), "commands belong into fenced blocks"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("Text.", None),
        ("*Not run by the tests: needs a GPU.*", "needs a GPU."),
        ("*Not run by the tests: needs\na GPU.*", "needs a GPU."),
        ("*Not run by the tests:*", None),
        ("*Not run by the tests: needs a GPU.*\n\nMore text.", None),
    ],
)
def test_markers(before: str, reason: str | None) -> None:
    assert blocks_of(f"{before}\n\n```sh\nexit 1\n```\n") == [
        Block(f"{before}\n\n```sh".count("\n") + 2, "sh", "exit 1\n", reason)
    ]


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    page = ROOT / "page.md"
    with pytest.raises(AssertionError, match=r"page\.md:3"):
        run(Block(3, "sh", "false\ntrue\n", None), page, {})
    with pytest.raises(ZeroDivisionError):
        run(Block(3, "python", "1 / 0\n", None), page, {})


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().split()) <= MAX_README_WORDS


# --- links ---------------------------------------------------------------------------------------------


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[ -]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(FENCE.sub("", page.read_text())):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name_of(page)}: {match['target']}"
        if anchor:
            assert anchor in anchors_of(path.read_text()), f"{name_of(page)}: {match['target']}"


def test_every_picture_is_shown() -> None:
    shown = {match["target"].rpartition("/")[2] for page in PAGES for match in _LINK.finditer(page.read_text())}
    assert {path.name for path in (ROOT / "docs" / "images").iterdir()} <= shown


# --- the architecture ----------------------------------------------------------------------------------


def test_the_tree_of_rooms_is_that_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = next(block.code for block in blocks_of(text) if block.code.startswith("latentpatch/\n"))
    named: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, phrase = line.strip().partition(" ")
        folders[depth:] = [name]
        assert phrase.strip() or depth == 0, f"{name}: a phrase says what it is"
        named.add("".join(folders))
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing, "rooms that do not exist"
    files = {f"latentpatch/{path.name}" for path in PACKAGE.glob("*.py") if path.name != "__main__.py"}
    rooms = {f"latentpatch/{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert files | rooms <= named, "rooms that the tree leaves out"


def imports_of(path: Path) -> Iterator[str]:
    """Yield what a module imports of the package when it is imported itself, such as ``io/images``."""
    folder = path.relative_to(PACKAGE).parent.parts

    def statements(nodes: list[ast.stmt]) -> Iterator[ast.ImportFrom]:
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.level:
                yield node
            elif isinstance(node, ast.Try) or (isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test)):
                yield from statements(node.body)

    for node in statements(ast.parse(path.read_text()).body):
        start = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
        for name in node.names:
            target = Path(*start, name.name)
            is_module = (PACKAGE / target).is_dir() or (PACKAGE / target).with_suffix(".py").exists()
            yield (target if is_module else Path(*start)).as_posix()


def test_imports_follow_the_order_that_is_documented() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## Order of imports")[2]
    lines = [line.split(", ") for line in blocks_of(text)[0].code.splitlines()]
    levels = {name: len(lines) - i for i, line in enumerate(lines) for name in line}

    def level(module: str) -> int:
        names = ["/".join(module.split("/")[:n]) for n in range(module.count("/") + 1, 0, -1)]
        return next(levels[name] for name in names if name in levels)

    upward = [
        f"{module} imports {target}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
        for module in [path.relative_to(PACKAGE).with_suffix("").as_posix()]
        for target in imports_of(path)
        if target != "." and level(target) > level(module)
    ]
    assert not upward


# --- the settings --------------------------------------------------------------------------------------


def test_the_tables_of_settings_are_those_of_the_declarations(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    print_settings()
    generated = re.search(r"<!-- settings: generated .*? -->\n(.*)<!-- end -->", page, re.DOTALL)
    assert generated
    assert generated[1].strip() == capsys.readouterr().out.strip(), "run python -m latentpatch.settings"


# --- the site ------------------------------------------------------------------------------------------


def test_roles_become_code() -> None:
    specification = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert specification is not None
    assert specification.loader is not None
    hooks = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(hooks)
    assert hooks.without_roles("see :class:`~a.b.C`, :meth:`fit` and :mod:`.raster`") == "see `C`, `fit` and `raster`"


@pytest.mark.slow(8)
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    for module, package in (("mkdocs", "mkdocs"), ("material", "mkdocs-material"), ("mkdocstrings", "mkdocstrings")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{package} is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # Material's notice of its successor
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LatentPatch" in (tmp_path / "site" / "api" / "model" / "index.html").read_text()
