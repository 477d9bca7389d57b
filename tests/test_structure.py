"""The package's structure: import directions, lengths of files, forms of docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "latentpatch"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in MODULES]

#: Rooms from the ways in down to the arithmetic; a module imports from its own line or from lines below.
LAYERS = [
    {"__main__", "cli", "serving", "training", "data"},
    {"export", "evaluation", "runs.benchmark", "datasets"}
    | {
        f"provenance.{name}"
        for name in ("audit", "beside", "copying", "explanation", "registered", "rejection", "trace", "unlearning")
    },
    {
        "model",
        "default_settings",
        "tasks",
        "picture_tasks",
        "scene_tasks",
        "trained_tasks",
        "fitting",
        "hub",
        "generators",
        "model_card",
        "provenance",
        "registration",
        "results",
        "batching",
        "search_op",
    },
    {"bank"},
    {"methods", "registry", "inputs"},
    {"autoencoders", "ops", "io", "runs"},
    {"settings", "validation", "errors", "lazy"},
]
#: Words that docstrings do not begin with: a verb, or a noun of the field, does better.
VAGUE = ("What ", "Whether ", "Of ", "How ", "Those ", "As ", "To be ", "Where ", "-> ")
MOST_LINES = 400


def module_of(path: Path) -> str:
    """Return a module's dotted name below the package; packages by their own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> set[str]:
    """Return the package's modules that a module imports when it is imported itself."""
    package = path.relative_to(PACKAGE).parent.parts
    known = {module_of(each) for each in MODULES}
    found = set()
    for node in tree_of(path).body:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - (node.level - 1)]
        target = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
        for alias in node.names:
            full = f"{target}.{alias.name}" if target else alias.name
            found.add(full if full in known else target)
    return found - {""}


def layer_of(module: str) -> int:
    """Return the layer of the longest prefix of a module's name."""
    prefixes = [module.rsplit(".", cut)[0] for cut in range(module.count(".") + 1)]
    for prefix in prefixes:
        for number, rooms in enumerate(LAYERS):
            if prefix in rooms:
                return number
    raise AssertionError(f"{module} is in no layer")


def test_imports_have_no_cycle() -> None:
    graph = {module_of(path): imports_of(path) for path in MODULES if module_of(path)}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError with the cycle


@pytest.mark.parametrize("path", [path for path in MODULES if module_of(path)], ids=module_of)
def test_imports_go_down(path: Path) -> None:
    own = layer_of(module_of(path))
    upward = sorted(name for name in imports_of(path) if layer_of(name) < own)
    assert not upward, f"{module_of(path)} imports {upward} from a layer above"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_docstrings_begin_plainly(path: Path) -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    wrong = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            first = text.splitlines()[0]
            if first.startswith(VAGUE) or len(first) > 120:
                wrong.append(f"{getattr(node, 'name', 'module')}: {first}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=str)
def test_packages_only_reexport(path: Path) -> None:
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)
    assert all(isinstance(node, allowed) for node in tree_of(path).body)


@pytest.mark.parametrize(
    "statement", ["import latentpatch", "import latentpatch.registry", "import latentpatch.cli.entry"]
)
def test_the_registry_and_the_command_line_import_no_torch(statement: str) -> None:
    script = f"{statement}\nimport sys\nassert not {{'torch', 'numpy', 'PIL'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
