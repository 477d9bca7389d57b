"""Images, contact sheets and the JSON report of a command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..autoencoders.weights import sha256_of
from ..bank.format import ModelFile
from ..bank.sharded import ShardedBank
from ..errors import FileError
from ..io import atomic, images
from ..model import LatentPatch
from ..provenance.maps import provenance_images
from ..registry import settings_record
from ..results import Generation
from ..runs.resume import ResumableRun
from ..settings import Settings
from ._load import skipped_files
from ._options import RunContext, SampleOptions, plural

__all__ = [
    "SHEET_IMAGES",
    "ResumableRunWriter",
    "RunWriter",
    "describe_model",
    "file_facts",
    "portable",
    "run_facts",
    "sample_writer",
    "staging_folder",
    "write_json",
]

Facts = Mapping[str, Any]
Images = Sequence[Tensor]

#: Images on a contact sheet, at most: as many as a screen can show.
SHEET_IMAGES = 64

_BATCH_IMAGES = 16  # sampled and decoded together, and written before the next batch


class RunWriter:
    """Writes the images of one command, its contact sheets and its report.

    Args:
        staging: folder to write to.
        output: folder where the files end up.
        model: whose images they are.
        context: of the run.
        facts: see :func:`run_facts`.
        before: images that come first on the sheet.
    """

    def __init__(
        self, staging: Path, output: Path, model: LatentPatch, context: RunContext, facts: Facts, before: Images
    ) -> None:
        self.staging, self.output, self.model, self.context = staging, output, model, context
        self.facts, self.sheet = dict(facts), list(before)
        self.maps: list[Tensor] = []
        self.rows: list[dict[str, Any]] = []
        self.ids: tuple[str, ...] = ()

    def batches(self, options: SampleOptions) -> Iterator[tuple[Sequence[int], slice]]:
        """Yield the seeds of each batch and the part of them to decode."""
        with self.context.progress(name=self.context.command, total=options.n) as bar:
            for seeds in _batches(options):
                yield seeds, slice(None)
                bar.update(len(seeds))

    def add(self, result: Generation) -> None:
        """Write the images of a batch."""
        self.ids = result.ids
        rows = self.write(result, len(self.rows))
        room = max(0, SHEET_IMAGES - len(self.rows))
        self.sheet += result.images[:room].cpu()
        self.maps += result.provenance()[:room]
        self.rows += rows

    def write(self, result: Generation, first: int) -> list[dict[str, Any]]:
        """Write images, numbered from ``first``, except those that exist, and return their records."""
        self.facts |= result.settings_record()
        pixels = result.images.cpu()
        rows = []
        for i, record in enumerate(result.records()):
            file = f"{first + i:04d}.png"
            metadata = images.record_metadata({**portable(self.facts), "seed": record["seed"]})
            if not (self.staging / file).exists():
                images.write_image(self.staging / file, pixels[i], metadata)
            rows.append({"file": file, **record})
        return rows

    def close(self) -> dict[str, Any]:
        """Write sheets and report, and return the report."""
        sheets = {"grid.png": self.sheet, "provenance.png": self.maps}
        for name, pictures in sheets.items():
            images.write_image(self.staging / name, images.contact_sheet(torch.stack(pictures)))
        report = {**self.facts, "ids": list(self.ids), "images": self.rows, "skipped": skipped_files(self.model)}
        report["sheets"] = list(sheets)
        if len(self.rows) > SHEET_IMAGES:
            report["sheet_images"] = SHEET_IMAGES
            self.context.say(f"grid.png and provenance.png show the first {SHEET_IMAGES} of {len(self.rows)} pictures")
        command = self.context.command
        write_json(self.staging / f"{'generation' if command == 'generate' else command}.json", report)
        written = {row["file"] for row in self.rows}
        older = [path for path in self.output.glob("[0-9]*.png") if path.name not in written]
        if older:
            self.context.say(f"pictures of an earlier run that stay in {self.output}: {len(older)}")
        share = sum(max(row["shares"].values(), default=0.0) for row in self.rows) / len(self.rows)
        local = [row["local_share"] for row in self.rows if "local_share" in row]
        of_detail = f", of its detail {sum(local) / len(local):.0%} and at most {max(local):.0%}" if local else ""
        self.context.say(
            f"{plural(len(self.rows), 'picture')} in {self.output}; "
            f"the largest share of one source is {share:.0%} of a picture on average{of_detail}"
        )
        return report


class ResumableRunWriter(RunWriter):
    """Writer for several processes or runs: finished images stay in a work folder until all are finished."""

    def __init__(
        self, work: ResumableRun, output: Path, model: LatentPatch, context: RunContext, facts: Facts, before: Images
    ) -> None:
        super().__init__(work.staging, output, model, context, facts, before)
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

    def add(self, result: Generation) -> None:
        """Write the images of this process' batch and record it as finished."""
        if self.batch is not None:
            rows = self.write(result, self.batch * _BATCH_IMAGES)
            self.work.write_record(self.batch, {"settings": result.settings_record(), "images": rows})

    def close(self) -> dict[str, Any]:
        """Write sheets and report once all processes are done, and move everything into place."""
        self.context.processes.gather_objects(None)
        if self.context.processes.rank:
            return {}
        for record in self.work.read_records(self.num_batches):
            self.facts |= record["settings"]
            self.rows += record["images"]
        for row in self.rows[:SHEET_IMAGES]:
            picture = images.read_image(self.work.path(row["file"]))
            index = torch.tensor(row["index"])
            self.sheet.append(picture)
            self.maps += provenance_images(index[None], len(self.ids), picture.shape[1] // len(index))
        report = super().close()
        self.work.finish()
        return report


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
    before: Images = (),
) -> Iterator[RunWriter]:
    """Open the writer of a command that draws images: resumable where there is no staging folder.

    Facts, settings and number of images tell one resumable command from another.
    """
    if staging is not None:
        yield RunWriter(staging, options.output, model, context, facts, before)
        return
    attributes = json.dumps(model.bank.attributes, sort_keys=True)
    decisive = {
        **portable(facts),
        "n": options.n,
        "seed": options.seed,
        "settings": settings_record(settings),
        "device": model.autoencoder.device.type,
        "attributes": hashlib.sha256(attributes.encode()).hexdigest(),
    }
    with ResumableRun(options.output, decisive, context.processes) as work:
        yield ResumableRunWriter(work, options.output, model, context, facts, before)


def _batches(options: SampleOptions) -> list[range]:
    """Return the seeds of the images that are sampled together."""
    end = options.seed + options.n
    return [range(first, min(first + _BATCH_IMAGES, end)) for first in range(options.seed, end, _BATCH_IMAGES)]


def run_facts(
    model: LatentPatch, context: RunContext, options: Facts = MappingProxyType({}), files: Facts = MappingProxyType({})
) -> dict[str, Any]:
    """Return everything that, with a seed, determines a command's images.

    Args:
        options: further options of the command; None leaves one out.
        files: input files, of which name and SHA-256 are recorded.
    """
    facts: dict[str, Any] = {
        "command": context.command,
        "version": __version__,
        "autoencoder": model.identity(),
        "precision": context.options.precision,
    }
    if len(model.bank):
        facts |= {
            "sources": len(model.bank.sources),
            "sources_sha256": model.bank.digest(),
            "components": model.components,
            "fit": model.bank.fit_record(),
        }
    facts |= {name: value for name, value in options.items() if value is not None}
    return facts | {name: file_facts(path) for name, path in files.items() if path is not None}


def portable(facts: Facts) -> dict[str, Any]:
    """Return facts for the metadata of images, which travel: they name the weights, but not their folder."""
    public = ("name", "downsampling", "sha256", "license")
    return {**facts, "autoencoder": {key: facts["autoencoder"][key] for key in public}}


def file_facts(path: Path) -> dict[str, str]:
    """Return name and SHA-256 of an input file."""
    try:
        return {"file": path.name, "sha256": sha256_of(path)}
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error


def describe_model(stored: ModelFile) -> dict[str, Any]:
    """Return the contents of a model file, for a report."""
    bank, pca = stored.bank, stored.pca
    variance = float(pca.explained_variance.sum() / pca.total_variance.clamp(min=1e-30))
    return {
        "autoencoder": stored.autoencoder,
        "sources": len(bank.sources),
        "variants": bank.variants.record(),
        "details": bank.has_residuals,
        "sources_sha256": bank.digest(),
        "grid": list(bank.grid),
        "image_size": [side * stored.autoencoder["downsampling"] for side in bank.grid],
        "components": stored.components,
        "settings": settings_record(stored.settings),
        "explained_variance": round(variance, 4),
        "attributes": sorted({name for attributes in bank.attributes for name in attributes}),
        "ids": bank.sources,
        "grouping": bank.grouping.record(),
        "groups": bank.shared_groups,
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report; file names in it need not be UTF-8."""
    text = json.dumps(report, sort_keys=True, ensure_ascii=False) + "\n"
    atomic.write_bytes(path, text.encode(errors="backslashreplace"))
