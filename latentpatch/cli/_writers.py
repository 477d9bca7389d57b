"""Writers of the pictures of a command, with contact sheets and the JSON report.

Files are encoded by threads while the next pictures are made, and written in order by the command's own thread.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bank.sharded import ShardedBank
from ..io import atomic, images
from ..io.encoding import Encoding
from ..io.layouts import DatasetFolder, PictureFolder, Shards
from ..model import LatentPatch
from ..provenance.maps import provenance_images
from ..registry import settings_record
from ..results import Generation
from ..runs.ahead import Ahead
from ..runs.resume import ResumableRun
from ..runs.threads import num_threads
from ..settings import Settings
from ._formats import FormatOptions
from ._load import skipped_files
from ._options import RunContext, SampleOptions, plural
from ._output import IMAGES_FILE, SHEET_IMAGES, Facts, portable, write_json

__all__ = ["ResumableRunWriter", "RunWriter", "sample_writer", "staging_folder"]

Rows = Sequence[dict[str, Any]]
Levels = np.ndarray[Any, Any]  # (H, W, 3) uint8

_BATCH_IMAGES = 16  # sampled and decoded together
_IMAGES_AHEAD = 32  # encoded, or waiting for it, at most, before the next batch is made
_MOST_ROWS = 4000  # pictures whose records the report itself holds: it is read and written as a whole


@dataclass(frozen=True)
class _Batch:
    """Pictures that are being encoded.

    Attributes:
        first: number of the first picture.
        rows: their records.
        is_new: for each, whether it is not written yet.
        number: of the batch, in a resumable run.
        maps: of the pictures that the sheets have room for.
        shown: these pictures.
    """

    first: int
    rows: Rows
    is_new: list[bool]
    number: int | None
    maps: list[Levels]
    shown: list[Levels]


class _Records:
    """The records of all pictures, in the report or, where they are many, in a file of a line each.

    Args:
        stack: closes the files; after an error it removes them.
        layout: of the pictures; its table is written, too.
    """

    def __init__(self, stack: ExitStack, layout: PictureFolder) -> None:
        self.rows: list[dict[str, Any]] = []
        self.count, self.share, self.locals, self.local, self.most = 0, 0.0, 0, 0.0, 0.0
        self.failed = 0
        self.file = None if layout.total <= _MOST_ROWS else IMAGES_FILE
        self._layout = layout
        self._lines, self._table = (
            name and stack.enter_context(
                stack.enter_context(atomic.replacing(layout.folder / name)).open("w", encoding="utf-8")
            )
            for name in (self.file, layout.table)
        )  # fmt: skip

    def add(self, row: dict[str, Any]) -> None:
        """Add the record of the next picture."""
        self.count += 1
        self.share += max(row["shares"].values(), default=0.0)
        self.failed += not row.get("passes", True)
        if "local_share" in row:
            self.locals += 1
            self.local += row["local_share"]
            self.most = max(self.most, row["local_share"])
        if self._lines:
            _write_line(self._lines, row)
        else:
            self.rows.append(row)
        if self._table:
            _write_line(self._table, self._layout.describe(row))

    def summary(self) -> str:
        """Return how much the pictures copy, in words."""
        of_detail = f", of its detail {self.local / self.locals:.0%} and at most {self.most:.0%}" if self.locals else ""
        failed = f"; {self.failed} fail the audit after all attempts" if self.failed else ""
        share = f"{self.share / self.count:.0%} of a picture on average"
        return f"the largest share of one source is {share}{of_detail}{failed}"


class RunWriter:
    """Writes the images of one command, its contact sheets and its report; for use in a ``with`` block.

    Args:
        staging: folder to write to.
        output: folder where the files end up.
        model: whose images they are.
        context: of the run.
        facts: see :func:`~latentpatch.cli._output.run_facts`.
        before: images that come first on the sheet.
        layout: of the files; by default single files.
        encoding: their format.
    """

    def __init__(
        self,
        staging: Path,
        output: Path,
        model: LatentPatch,
        context: RunContext,
        facts: Facts,
        before: Sequence[Tensor] = (),
        layout: PictureFolder | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        self.staging, self.output, self.model, self.context = staging, output, model, context
        self.facts, self.sheet = dict(facts), [images.to_levels(picture[None])[0] for picture in before]
        self.layout, self.encoding = layout or PictureFolder(staging), encoding or Encoding()
        self.maps: list[Levels] = []
        self.ids: tuple[str, ...] = ()
        self.made = 0
        self._stack = ExitStack()
        self._encoded: Ahead[bytes] = self._stack.enter_context(Ahead(num_threads()))
        self._batches: deque[_Batch] = deque()
        self._records: _Records | None = None

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def batches(self, options: SampleOptions) -> Iterator[tuple[Sequence[int], slice]]:
        """Yield the seeds of each batch and the part of them to decode."""
        with self.context.progress(name=self.context.command, total=options.n) as bar:
            for seeds in _batches(options):
                yield seeds, slice(None)
                bar.update(len(seeds))

    def add(self, result: Generation, more: Sequence[Facts] = ()) -> None:
        """Write the images of a batch, sooner or later.

        Args:
            result: the images.
            more: further facts of each image.
        """
        self.ids = result.ids
        self._encode(result, self.made, more)
        self.made += len(result)

    def _encode(self, result: Generation, first: int, more: Sequence[Facts], number: int | None = None) -> None:
        """Begin to encode images, numbered from ``first``, except those that exist; write what is ready."""
        self.facts |= result.settings_record()
        facts, levels = portable(self.facts), images.to_levels(result.images)
        room = 0 if number is not None else max(0, SHEET_IMAGES - first)
        where = {"where": facts["where"]} if "where" in facts and self.layout.has_where else {}
        rows, is_new = [], []
        for i, record in enumerate(result.records()):
            extra = more[i] if more else {}
            is_new.append(not self.layout.has(first + i))
            if is_new[-1]:
                metadata = images.record_metadata({**facts, **extra, "seed": record["seed"]})
                self._encoded.submit(self.encoding.encode, levels[i], metadata)
            rows.append({"file": self.layout.file(first + i), **record, **where, **extra})
        maps = list(images.to_levels(result.provenance()[:room])) if room else []
        self._batches.append(_Batch(first, rows, is_new, number, maps, list(levels[:room])))
        self._drain(_IMAGES_AHEAD)

    def _drain(self, most: int = 0) -> None:
        """Write the oldest batches until at most some images are being encoded."""
        while self._batches and (len(self._encoded) > most or not most):
            batch = self._batches.popleft()
            files = [self._encoded.next() if is_new else None for is_new in batch.is_new]
            self.layout.put(batch.first, batch.rows, files)
            self._finished(batch, files)

    def _finished(self, batch: _Batch, files: Sequence[bytes | None]) -> None:
        """Take up the records of pictures that are written, and show some on the sheets."""
        self.maps += batch.maps
        is_exact = self.encoding.quality is None
        shown = zip(batch.shown, files, strict=False)
        self.sheet += [picture if is_exact or data is None else images.read_levels(data) for picture, data in shown]
        self._note(batch.rows)

    def _note(self, rows: Rows) -> None:
        """Add records of pictures, in order."""
        self._records = self._records or _Records(self._stack, self.layout)
        for row in rows:
            self._records.add(row)

    def close(self) -> dict[str, Any]:
        """Write sheets and report, and return the report."""
        self._drain()
        self.layout.finish()
        self._complete()
        records = self._records
        assert records is not None
        sheets = {"grid.png": self.sheet, "provenance.png": self.maps}
        for name, pictures in sheets.items():
            images.write_sheet(self.staging / name, pictures)
        report: dict[str, Any] = {**self.facts, "ids": list(self.ids), "skipped": skipped_files(self.model)}
        report |= {"images": records.rows} if records.file is None else {"images_file": records.file}
        report["sheets"] = list(sheets)
        if records.count > SHEET_IMAGES:
            report["sheet_images"] = SHEET_IMAGES
            self.context.say(f"grid.png and provenance.png show the first {SHEET_IMAGES} of {records.count} pictures")
        self._stack.close()  # completes the files of records
        write_json(self.staging / _report_file(self.context), report)
        older = self.layout.older(self.output)
        if older:
            self.context.say(f"pictures of an earlier run that stay in {self.output}: {len(older)}")
        self.context.say(f"{plural(records.count, 'picture')} in {self.output}; {records.summary()}")
        return report

    def _complete(self) -> None:
        """Take up what other processes and runs wrote."""


class ResumableRunWriter(RunWriter):
    """Writer for several processes or runs: finished images stay in a work folder until all are finished."""

    def __init__(self, work: ResumableRun, output: Path, model: LatentPatch, *others: Any) -> None:
        super().__init__(work.staging, output, model, *others)
        self.work = work
        self.ids = tuple(model.bank.ids)
        self.batch: int | None = None  # number of this process' batch
        self.num_batches = 0

    def batches(self, options: SampleOptions) -> Iterator[tuple[Sequence[int], slice]]:
        """Yield the seeds of each batch that this process takes part in, and the part of them to decode."""
        processes, batches = self.context.processes, _batches(options)
        self.num_batches = len(batches)
        todo = [batch for batch in range(len(batches)) if batch not in self.work.finished_batches]
        with self.context.progress(name=self.context.command, total=options.n) as bar:
            bar.update(sum(len(batches[batch]) for batch in self.work.finished_batches))
            for first in range(0, len(todo), processes.count):
                round_ = todo[first : first + processes.count]
                self.batch = round_[processes.rank] if processes.rank < len(round_) else None
                if isinstance(self.model.bank, ShardedBank):  # all processes search the whole round together
                    seeds = [seed for batch in round_ for seed in batches[batch]]
                    begin = sum(len(batches[batch]) for batch in round_[: processes.rank])
                    own = 0 if self.batch is None else len(batches[self.batch])
                    yield seeds, slice(begin, begin + own)
                elif self.batch is not None:
                    yield batches[self.batch], slice(None)
                bar.update(sum(len(batches[batch]) for batch in round_))

    def add(self, result: Generation, more: Sequence[Facts] = ()) -> None:
        """Write the images of this process' batch, sooner or later, and record it as finished."""
        if self.batch is not None:
            self._encode(result, self.batch * _BATCH_IMAGES, more, self.batch)

    def _finished(self, batch: _Batch, files: Sequence[bytes | None]) -> None:
        assert batch.number is not None
        self.work.write_record(batch.number, {"settings": self._settings(), "images": batch.rows})

    def _settings(self) -> dict[str, Any]:
        return {name: self.facts[name] for name in ("sampler", "settings")}

    def close(self) -> dict[str, Any]:
        """Write sheets and report once all processes are done, and move everything into place."""
        self._drain()
        self.context.processes.gather_objects(None)
        if self.context.processes.rank:
            return {}
        report = super().close()
        self.work.finish()
        return report

    def _complete(self) -> None:
        for record in self.work.read_records(self.num_batches):
            self.facts |= record["settings"]
            for number, row in enumerate(record["images"][: max(0, SHEET_IMAGES - len(self.maps))], len(self.maps)):
                picture = images.read_levels(self.layout.read(number, self.work.path))
                index = torch.tensor(row["index"])
                self.sheet.append(picture)
                maps = provenance_images(index[None], len(self.ids), picture.shape[0] // len(index))
                self.maps += list(images.to_levels(maps))
            self._note(record["images"])


def staging_folder(output: Path, context: RunContext) -> AbstractContextManager[Path | None]:
    """Return a staging folder for images, or None where a work folder keeps them."""
    return nullcontext() if context.is_resumable else atomic.staged(output)


@contextmanager
def sample_writer(
    staging: Path | None,
    options: SampleOptions,
    model: LatentPatch,
    context: RunContext,
    facts: Facts,
    settings: Settings,
    before: Sequence[Tensor] = (),
    formats: FormatOptions | None = None,
) -> Iterator[RunWriter]:
    """Open the writer of a command that draws images: resumable where there is no staging folder.

    Facts, settings, formats and number of images tell one resumable command from another.
    """
    formats = formats or FormatOptions()
    encoding = Encoding(formats.format, formats.encoded_quality)
    facts = {**facts, **encoding.record()}
    names = ("grid.png", "provenance.png", _report_file(context), IMAGES_FILE)
    if staging is not None:
        layout = _layout(staging, options, formats, encoding)
        layout.check(options.output, *names)
        with RunWriter(staging, options.output, model, context, facts, before, layout, encoding) as writer:
            yield writer
        return
    attributes = json.dumps(model.bank.attributes, sort_keys=True)
    decisive = {
        **portable(facts),
        "n": options.n,
        "seed": options.seed,
        "settings": settings_record(settings),
        "device": model.autoencoder.device.type,
        "attributes": hashlib.sha256(attributes.encode()).hexdigest(),
        **formats.changed(),
    }
    with ResumableRun(options.output, decisive, context.processes) as work:
        layout = _layout(work.staging, options, formats, encoding)
        layout.check(options.output, *names)
        with ResumableRunWriter(work, options.output, model, context, facts, before, layout, encoding) as resumable:
            yield resumable


def _report_file(context: RunContext) -> str:
    return f"{'generation' if context.command == 'generate' else context.command}.json"


def _layout(staging: Path, options: SampleOptions, formats: FormatOptions, encoding: Encoding) -> PictureFolder:
    """Return the layout that options choose."""
    if formats.shards is not None:
        return Shards(staging, options.n, encoding.suffix, formats.shards)
    return (DatasetFolder if formats.dataset else PictureFolder)(staging, options.n, encoding.suffix)


def _batches(options: SampleOptions) -> list[range]:
    """Return the seeds of the images that are sampled together."""
    end = options.seed + options.n
    return [range(first, min(first + _BATCH_IMAGES, end)) for first in range(options.seed, end, _BATCH_IMAGES)]


def _write_line(file: Any, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, sort_keys=True) + "\n")
