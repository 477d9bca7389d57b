"""The pictures of a command and the record of them."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..autoencoders.weights import sha256_of
from ..bank.sharded import ShardedBank
from ..errors import FileError
from ..io import atomic as files
from ..io import images
from ..model import LatentPatch
from ..provenance.maps import provenance_images
from ..registry import settings_record
from ..results import Generation
from ..runs.resume import ResumableRun
from .common import counted, say, shows_progress, skipped_files, write_json

__all__ = ["SHEET", "Book", "SharedBook", "facts_of", "opened_book", "portable", "staged"]

#: Images on a contact sheet, at most.
SHEET = 64

_BATCH = 16  # images sampled and decoded together, written before the next ones are made


class Book:
    """Numbers, writes and records the pictures of one command."""

    def __init__(
        self,
        staging: Path,
        command: str,
        model: LatentPatch,
        options: argparse.Namespace,
        before: Sequence[Tensor] = (),
    ) -> None:
        self.staging, self.command, self.model, self.options = staging, command, model, options
        self.sheet: list[Tensor] = list(before)
        self.maps: list[Tensor] = []
        self.rows: list[dict[str, Any]] = []
        self.ids: tuple[str, ...] = ()
        self.facts = facts_of(command, model, options)

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def batches(self, n: int, seed: int) -> Iterator[tuple[Sequence[int], slice]]:
        """Seeds of each batch and which of them to decode, with a progress bar."""
        with self.progress(n) as bar:
            for seeds in _batches(n, seed):
                yield seeds, slice(None)
                bar.update(len(seeds))

    def progress(self, n: int) -> Any:
        """A bar of n pictures."""
        return tqdm(total=n, desc=self.command, unit="img", disable=not shows_progress(self.options), leave=False)

    def take(self, result: Generation) -> None:
        """Write the images of a batch."""
        self.ids = result.ids
        rows = self.write(result, len(self.rows))
        room = max(0, SHEET - len(self.rows))
        self.sheet += result.images[:room].cpu()
        self.maps += result.provenance()[:room]
        self.rows += rows

    def write(self, result: Generation, first: int) -> list[dict[str, Any]]:
        """Write images, numbered from ``first`` on, where they are not there already. -> their records"""
        self.facts |= result.settings_record()
        pictures = result.images.cpu()
        rows = []
        for i, record in enumerate(result.records()):
            file = f"{first + i:04d}.png"
            facts = {**portable(self.facts), "seed": record["seed"]}
            metadata = {"latentpatch": json.dumps(facts, sort_keys=True)}
            if not (self.staging / file).exists():
                images.write_image(self.staging / file, pictures[i], metadata)
            rows.append({"file": file, **record})
        return rows

    def close(self) -> dict[str, Any]:
        """Write the sheets and the record of everything."""
        # At most so many that a screen can show them.
        images.write_image(self.staging / "grid.png", images.contact_sheet(torch.stack(self.sheet)))
        images.write_image(self.staging / "provenance.png", images.contact_sheet(torch.stack(self.maps)))
        report = {**self.facts, "ids": list(self.ids), "images": self.rows}
        report["skipped"] = skipped_files(self.model)
        name = {"generate": "generation"}.get(self.command, self.command)
        write_json(self.staging / f"{name}.json", report)
        written = {row["file"] for row in self.rows}
        older = [path for path in Path(self.options.output).glob("[0-9]*.png") if path.name not in written]
        if older:
            say(self.options, f"pictures of an earlier run that stay in {self.options.output}: {len(older)}")
        share = sum(max(row["shares"].values(), default=0.0) for row in self.rows) / len(self.rows)
        say(
            self.options,
            f"{counted(len(self.rows), 'picture')} in {self.options.output}; "
            f"the largest share of one source is {share:.0%} of a picture on average",
        )
        return report


class SharedBook(Book):
    """The same for several processes or runs: what is made stays in a work folder until all is."""

    def __init__(
        self, command: str, model: LatentPatch, options: argparse.Namespace, settings: Any, before: Sequence[Tensor]
    ) -> None:
        super().__init__(Path(), command, model, options, before)
        decisive = {
            **portable(self.facts),
            "n": options.n,
            "seed": options.seed,
            "settings": settings_record(settings),
            "device": model.autoencoder.device.type,
            "attributes": hashlib.sha256(json.dumps(model.bank.attributes, sort_keys=True).encode()).hexdigest(),
        }
        self.work = ResumableRun(options.output, decisive, options.processes)
        self.staging = self.work.staging
        self.ids = tuple(model.bank.ids)
        self.batch: int | None = None
        self.count = 0

    def __exit__(self, *error: object) -> None:
        self.work.__exit__(*error)

    def batches(self, n: int, seed: int) -> Iterator[tuple[Sequence[int], slice]]:
        """Seeds of each batch this process takes part in, and which of them it is to decode."""
        processes, batches = self.options.processes, _batches(n, seed)
        self.count = len(batches)
        todo = [batch for batch in range(self.count) if batch not in self.work.finished_batches]
        with self.progress(n) as bar:
            bar.update(sum(len(batches[batch]) for batch in self.work.finished_batches))
            for first in range(0, len(todo), processes.count):
                group = todo[first : first + processes.count]
                self.batch = group[processes.rank] if processes.rank < len(group) else None
                if isinstance(self.model.bank, ShardedBank):  # the whole group is searched together
                    seeds = [seed for batch in group for seed in batches[batch]]
                    begin = sum(len(batches[batch]) for batch in group[: processes.rank])
                    own = 0 if self.batch is None else len(batches[self.batch])
                    yield seeds, slice(begin, begin + own)
                elif self.batch is not None:
                    yield batches[self.batch], slice(None)
                bar.update(sum(len(batches[batch]) for batch in group))

    def take(self, result: Generation) -> None:
        if self.batch is not None:
            rows = self.write(result, self.batch * _BATCH)
            self.work.write_record(self.batch, {"settings": result.settings_record(), "images": rows})

    def close(self) -> dict[str, Any]:
        self.options.processes.gather_objects(None)  # all is made
        if self.options.processes.rank:
            return {}
        for record in self.work.read_records(self.count):
            self.facts |= record["settings"]
            self.rows += record["images"]
        for row in self.rows[:SHEET]:
            picture = images.read_image(self.work.path(row["file"]))
            index = torch.tensor(row["index"])
            self.sheet.append(picture)
            self.maps += provenance_images(index[None], len(self.ids), picture.shape[1] // len(index))
        report = super().close()
        self.work.finish()
        return report


def staged(options: argparse.Namespace) -> AbstractContextManager[Path | None]:
    """Where pictures are written: a staging folder, or None where a work folder is to keep them."""
    return nullcontext() if options.resume else files.staged(options.output)


def opened_book(
    staging: Path | None,
    command: str,
    model: LatentPatch,
    options: argparse.Namespace,
    settings: Any,
    before: Sequence[Tensor] = (),
) -> Book:
    if staging is None:
        return SharedBook(command, model, options, settings, before)
    return Book(staging, command, model, options, before)


def _batches(n: int, seed: int) -> list[range]:
    """Seeds of the pictures made together."""
    return [range(seed + first, seed + min(first + _BATCH, n)) for first in range(0, n, _BATCH)]


def facts_of(command: str, model: LatentPatch, options: argparse.Namespace) -> dict[str, Any]:
    """What, with a seed, decides a command's pictures."""
    facts: dict[str, Any] = {
        "command": command,
        "version": __version__,
        "autoencoder": model.identity(),
        "precision": options.precision,
    }
    if len(model.bank):
        facts |= {
            "sources": len(model.bank.sources),
            "sources_sha256": model.bank.digest(),
            "components": model.components,
        }
    for name in ("where", "decoding", "box", "composite", "reconstructed"):
        if getattr(options, name, None) is not None:
            facts[name] = getattr(options, name)
    for name in ("reference", "image", "donor", "mask"):
        if getattr(options, name, None) is not None:
            facts[name] = _file_facts(Path(getattr(options, name)))
    return facts


def portable(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts for a picture, which travels: they name the weights, but not the folder they were in."""
    kept = ("name", "downsampling", "sha256", "license")
    return {**facts, "autoencoder": {key: facts["autoencoder"][key] for key in kept}}


def _file_facts(path: Path) -> dict[str, str]:
    try:
        return {"file": path.name, "sha256": sha256_of(path)}
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
