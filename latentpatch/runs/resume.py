"""Unfinished work: pictures that stay where they are until all of a command's are made.

A command that may be interrupted keeps what it made in ``OUTPUT/.unfinished``: its facts, the pictures, and one
record for each batch, written after the batch's pictures. Every file is written in one step, so that the same
command, run again by any number of processes, goes on where it was; at the end everything moves into place.
"""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..io import atomic as files
from .processes import Processes

__all__ = ["Work"]

try:
    import fcntl
except ImportError:  # not on Windows, where two commands at one folder go unnoticed
    fcntl = None  # type: ignore[assignment]


class Work:
    """The work folder of a command.

    Args:
        output: where the pictures go at the end.
        facts: all that decides them, as JSON; another command's work is refused.
        processes: who works here.

    Raises:
        FileError: where the folder holds another command's work, another one works there, or it cannot be
            written.
    """

    def __init__(self, output: str | Path, facts: dict[str, Any], processes: Processes) -> None:
        self.output, self.processes = Path(output), processes
        self.folder = self.output / ".unfinished"
        #: where pictures are written.
        self.files = self.folder / "files"
        if processes.rank == 0:
            self._open(facts)
        processes.every(None)
        #: numbers of the batches that were finished before.
        self.done: set[int] = set(processes.every(self._recorded() if processes.rank == 0 else [])[0])

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self.processes.rank == 0:
            self._lock.close()
            if not any(self.files.glob("*")):  # nothing to go on with
                shutil.rmtree(self.folder, ignore_errors=True)
                with suppress(OSError):
                    self.output.rmdir()

    def _open(self, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True, indent=1)
        note = self.folder / "command.json"
        try:
            for folder in (self.files, self.folder / "batches"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = self.folder.joinpath("lock").open("w")  # held until this process ends, however it does
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = note.read_text(encoding="utf-8") if note.exists() else None
        except BlockingIOError as error:
            self._lock.close()
            raise FileError(f"{self.folder}: another command is at work there") from error
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{self.folder}: cannot be used: {error}") from error
        if there is None:
            files.write_bytes(note, text.encode())
        elif there != text:
            self._lock.close()
            raise FileError(
                f"{self.folder}: unfinished pictures of another command ({_difference(there, facts)}); run that one "
                "again to finish them, or delete the folder"
            )

    def _recorded(self) -> list[int]:
        return [int(path.stem) for path in self.folder.glob("batches/[0-9]*.json")]

    def record(self, batch: int, rows: dict[str, Any]) -> None:
        """Note that a batch is finished, with what is to be known of it; its pictures are written."""
        files.write_bytes(self.folder / "batches" / f"{batch}.json", json.dumps(rows).encode())

    def records(self, count: int) -> list[dict[str, Any]]:
        """What :meth:`record` noted of each of ``count`` batches.

        Raises:
            FileError: where one is missing or damaged.
        """
        found = []
        for batch in range(count):
            path = self.folder / "batches" / f"{batch}.json"
            try:
                found.append(json.loads(path.read_bytes()))
            except (OSError, ValueError) as error:
                raise FileError(
                    f"{path}: not a readable record: {error}; delete it to make its pictures again"
                ) from error
        return found

    @property
    def complete(self) -> bool:
        """Whether everything was made, and a move into place was interrupted."""
        return (self.folder / "complete").exists()

    def finish(self) -> None:
        """Move everything into place; an interruption of this can be taken up too."""
        files.write_bytes(self.folder / "complete", b"")
        files.move_into(self.files, self.output)
        self._lock.close()
        # In one step: half removed, it would look like work that goes on.
        gone = self.folder.with_name(f".finished-{secrets.token_hex(4)}")
        self.folder.rename(gone)
        shutil.rmtree(gone)

    def path(self, name: str) -> Path:
        """Where a picture is: in the work folder, or already in place."""
        path = self.files / name
        return path if path.exists() or not self.complete else self.output / name


def _difference(there: str, facts: dict[str, Any]) -> str:
    """The first fact that differs, for a message."""
    try:
        theirs = json.loads(there)
        name = next(name for name in sorted({*theirs, *facts}) if theirs.get(name) != facts.get(name))
    except (ValueError, TypeError, StopIteration):
        return "its note is damaged"
    return f"{name} was {json.dumps(theirs.get(name))}, not {json.dumps(facts.get(name))}"
