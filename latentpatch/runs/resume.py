"""Resume interrupted commands.

An interrupted command leaves its pictures in ``OUTPUT/.unfinished``, with the facts that decide them and one record
a batch, written after the pictures of that batch. Every file is written in one step, so the same command, run again
by any number of processes, continues there. At the end all files move into place.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..errors import FileError
from ..io import atomic
from ..io.notes import open_regular, read_json
from .processes import Processes

__all__ = ["ResumableRun", "difference", "locked"]

try:
    import fcntl
except ImportError:  # Windows has none: two commands that write to one folder go unnoticed
    fcntl = None  # type: ignore[assignment]


class ResumableRun:
    """Staging folder that lets an interrupted command resume.

    Args:
        output: final folder of the pictures.
        facts: all that decides the pictures, as JSON; the run of a command with other facts is refused.
        processes: the processes of this run.

    Attributes:
        staging: folder to write pictures to.
        finished_batches: numbers of the batches that earlier runs finished.

    Raises:
        FileError: where the folder holds the run of another command, another process uses it, or it cannot be
            written.
    """

    def __init__(self, output: str | Path, facts: dict[str, Any], processes: Processes) -> None:
        self.output, self.processes = Path(output), processes
        self.folder = self.output / ".unfinished"
        self.staging = self.folder / "files"
        if processes.rank == 0:
            self._open(facts)
        processes.gather_objects(None)
        stems = [path.stem for path in self.folder.glob("batches/*.json")] if processes.rank == 0 else []
        numbers = [int(stem) for stem in stems if re.fullmatch(r"[0-9]{1,18}", stem)]
        self.finished_batches: set[int] = set(processes.gather_objects(numbers)[0])

    def __enter__(self) -> ResumableRun:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self.processes.rank == 0:
            self._lock.close()
            if not any(path.is_file() for path in self.staging.rglob("*")):  # there is nothing to resume
                shutil.rmtree(self.folder, ignore_errors=True)
                with suppress(OSError):
                    self.output.rmdir()

    def _open(self, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True, indent=1)
        note = self.folder / "command.json"
        try:
            for folder in (self.folder, self.staging, self.folder / "batches", self.folder / "lock"):
                if folder.is_symlink():  # in a folder that others can write to, it could lead anywhere
                    raise OSError(f"{folder.name} is a link")
                if folder.name != "lock":
                    folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.folder / "lock")
            earlier = read_json(note) if note.exists() else None
            for path in self.staging.rglob(f"{atomic.TEMPORARY}*"):  # of a process that was killed as it wrote
                path.unlink()
        except (OSError, ValueError) as error:
            raise FileError(self.folder, f"cannot be used: {error}") from error
        if earlier is None:
            atomic.write_bytes(note, text.encode())
        elif earlier != json.loads(text):
            self._lock.close()
            raise FileError(
                self.folder,
                f"holds unfinished pictures of another command ({difference(earlier, facts)}); run that command again "
                "to finish them, or delete the folder",
            )

    def write_record(self, batch: int, record: dict[str, Any]) -> None:
        """Mark a batch, whose pictures are written, as finished, with a record of it."""
        atomic.write_bytes(self.folder / "batches" / f"{batch}.json", json.dumps(record).encode())

    def read_records(self, num_batches: int) -> Iterator[dict[str, Any]]:
        """Yield the records of all batches.

        Raises:
            FileError: where a record is missing or damaged.
        """
        for batch in range(num_batches):
            path = self.folder / "batches" / f"{batch}.json"
            try:
                record = read_json(path)
            except (OSError, ValueError) as error:
                raise FileError(
                    path, f"not a readable record: {error}; delete the file to make its pictures again"
                ) from error
            yield record

    @property
    def is_complete(self) -> bool:
        """True where all pictures are made, and moving them into place was interrupted."""
        return (self.folder / "complete").exists()

    def finish(self) -> None:
        """Move all files into place; this can be interrupted and resumed, too."""
        atomic.write_bytes(self.folder / "complete", b"")
        atomic.move_into(self.staging, self.output)
        self._lock.close()
        # Renamed in one step: half removed, the folder would look like an unfinished run.
        removed = self.folder.with_name(f".finished-{secrets.token_hex(4)}")
        self.folder.rename(removed)
        shutil.rmtree(removed)

    def path(self, name: str) -> Path:
        """Return the path of a picture: in the staging folder, or already in place."""
        path = self.staging / name
        return path if path.exists() or not self.is_complete else self.output / name


def locked(path: Path) -> IO[str]:
    """Open a lock file for this process alone, until the file is closed or the process ends, however it does.

    Raises:
        FileError: of the file's folder, where another process has it.
        OSError: where the file cannot be opened.
    """
    lock = open_regular(path, "a")
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise FileError(path.parent, "another command is at work there") from error
    return lock


def difference(theirs: Any, facts: dict[str, Any]) -> str:
    """Describe the first fact that differs from those of an earlier note."""
    try:
        name = next(name for name in sorted({*theirs, *facts}) if theirs.get(name) != facts.get(name))
    except (AttributeError, TypeError, StopIteration):
        return "its note is damaged"
    return f"{name} was {json.dumps(theirs.get(name))}, not {json.dumps(facts.get(name))}"
