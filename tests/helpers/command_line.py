"""Commands run in this process, and what they wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentpatch.cli.main import main

__all__ = ["contents", "pictures", "record", "run"]


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too; folders are listed as empty with a slash."""
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def record(folder: Path, name: str = "generation.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def pictures(folder: Path) -> list[bytes]:
    """The single pictures, in order."""
    return [path.read_bytes() for path in sorted(folder.glob("[0-9]*.png"))]
