"""The command line: ``latentpatch generate | edit | inpaint | reconstruct | fit | archive | bench | inspect``."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import __version__, files, images
from .attributes import parse_predicate, read_attributes
from .autoencoders import AUTOENCODERS, DEFAULT
from .autoencoders.weights import sha256_of
from .errors import FileError, ImageError, LatentPatchError
from .generation import Generation
from .model import LatentPatch
from .modelfile import ModelFile
from .processes import joined, rank
from .provenance import provenance_images
from .sampling import SAMPLERS, RasterSettings
from .sharding import ShardedBank
from .work import Work

__all__ = ["main"]

_BATCH = 16  # images sampled and decoded together, written before the next ones are made
_SHEET = 64  # images on a contact sheet, at most
_SETTINGS = ("patch_size", "stride", "neighbours", "scales", "start_size")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 where something is wrong, 2 for unusable arguments."""
    with redirect_stderr(io.StringIO()) if rank() else nullcontext():  # one process complains for all
        options = _parser().parse_args(arguments)
    try:
        with _terminable(), _joined(options):
            report = options.run(options)
    except (LatentPatchError, ValueError, TypeError) as error:
        return _failed(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _failed("out of memory; fewer sources, a smaller --size or another --device may fit")
    except KeyboardInterrupt:
        kept = getattr(options, "resume", False)
        print("latentpatch: interrupted,", "run it again to go on" if kept else "nothing was written", file=sys.stderr)
        return 130
    return _print(report) if options.json or options.run is _inspect else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a request to terminate end the command as Ctrl-C does, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _joined(options: argparse.Namespace) -> Iterator[None]:
    """The processes that torchrun started, as ``options.processes``; the first one speaks for all."""
    device = getattr(options, "device", "cpu")
    kind = "cuda" if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()) else "cpu"
    with joined(kind) as options.processes:
        if options.processes.count > 1:
            if not hasattr(options, "resume"):
                raise ValueError(f"{options.command}: one process is expected; torchrun is for generate and inpaint")
            options.resume = True
            if kind == "cuda" and ":" not in device:
                options.device = str(options.processes.device)
            if options.processes.rank:
                options.quiet, options.json = True, False
        yield


# --- commands ------------------------------------------------------------------------------------------


def _generate(options: argparse.Namespace) -> dict[str, Any]:
    with _staged(options) as staging:
        model = _model(options)
        settings = _settings(options, model)
        reference = None if options.reference is None else images.read_image(options.reference, model.image_size)
        with _book(staging, "generate", model, options, settings) as book:
            for seeds, part in book.batches(options.n, options.seed):
                book.take(
                    model.generate(
                        seeds=seeds,
                        settings=settings,
                        sampler=options.sampler,
                        reference=reference,
                        where=options.where,
                        decoding=options.decoding,
                        part=part,
                    )
                )
            return book.close()


def _inpaint(options: argparse.Namespace) -> dict[str, Any]:
    with _staged(options) as staging:
        model = _model(options)
        settings = _settings(options, model)
        picture = images.read_image(options.image, model.image_size)
        mask = _mask(options, model.image_size)
        before = [picture, torch.where(mask, 0.5, picture)]
        with _book(staging, "inpaint", model, options, settings, before) as book:
            for seeds, _ in book.batches(options.n, options.seed):
                book.take(
                    model.inpaint(
                        picture,
                        mask,
                        seeds=seeds,
                        settings=settings,
                        where=options.where,
                        composite=not options.reconstructed,
                    )
                )
            return book.close()


def _edit(options: argparse.Namespace) -> dict[str, Any]:
    with files.staged(options.output) as staging:
        model = _bare_model(options)
        size = _size(options, model)
        picture, donor = images.read_image(options.image, size), images.read_image(options.donor, size)
        book = _Book(staging, "edit", model, options, before=[picture, donor])
        book.take(model.edit(picture, donor, _mask(options, size), composite=options.composite))
        return book.close()


def _reconstruct(options: argparse.Namespace) -> dict[str, Any]:
    with files.staged(options.output) as staging:
        model = _bare_model(options)
        size = _size(options, model)
        paths = images.list_images(*options.images)
        facts = _facts("reconstruct", model, options)
        metadata = {"latentpatch": json.dumps(_portable(facts), sort_keys=True)}
        rows: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        sheet: list[Tensor] = []
        names = images.identifiers(paths)
        bar = tqdm(paths, desc="reconstruct", unit="img", disable=not _progress(options), leave=False)
        for path, name in zip(bar, names, strict=True):
            try:
                picture = images.read_image(path, size)
            except ImageError as error:
                if not options.skip_bad:
                    raise
                skipped.append({"file": str(path), "reason": str(error)})
                _say(options, f"skipped: {error}")
                continue
            result = model.reconstruct(picture)[0].cpu()
            file = f"{len(rows):04d}.png"
            images.write_image(staging / file, result, metadata)
            psnr = -10 * torch.log10((result - picture).square().mean().clamp(min=1e-10))
            rows.append({"file": file, "id": name, "psnr": round(float(psnr), 3)})
            if len(sheet) < _SHEET:
                sheet += [picture, result]
        if not rows:
            raise FileError(f"none of the {len(paths)} pictures could be used; the first: {skipped[0]['reason']}")
        images.write_image(staging / "grid.png", images.contact_sheet(torch.stack(sheet)))
        report = {**facts, "images": rows, "skipped": skipped}
        _write_json(staging / "reconstruct.json", report)
    mean = sum(float(row["psnr"]) for row in rows) / len(rows)
    _say(options, f"{_count(len(rows), 'reconstruction')} in {options.output}, mean PSNR {mean:.2f} dB")
    return report


def _fit(options: argparse.Namespace) -> dict[str, Any]:
    path = Path(options.output)
    if path.suffix != ".safetensors":  # by which the other commands know a model file
        raise ValueError(f"--output {path}: a name ending in .safetensors is expected")
    with files.staged(path.parent) as staging:
        model = _model(options, scratch=staging)
        model.save(staging / path.name)
        report = _describe(ModelFile.read(staging / path.name)) | {"skipped": _skipped(model)}
    _say(options, f"{options.output}: {_count(len(model.bank), 'source')}")
    return report


def _archive(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from .serving.archive import PORTRAITS, build_archive, check_archive
    except ImportError as error:  # the other commands do without what serving needs
        raise LatentPatchError(f"archive needs {error.name}: pip install 'latentpatch[serve]'") from error
    options.sources = [*options.sources, *(options.named or ())] or [PORTRAITS]
    if options.sources == [PORTRAITS] and not PORTRAITS.is_dir():  # an installed package
        raise ValueError("SOURCES: a folder of pictures is expected; examples/portraits are only in the repository")
    settings = {
        "minWorkers": options.workers,
        "maxWorkers": options.workers,
        "batchSize": options.batch_size,
        "maxBatchDelay": options.max_batch_delay,
    }
    path = Path(options.output)
    parts = {
        "handler": options.handler,
        "config": options.config,
        "settings": {key: value for key, value in settings.items() if value is not None},
    }
    check_archive(path, **parts)
    model = _model(options)
    build_archive(model, path, **parts)
    report: dict[str, Any] = {"sha256": sha256_of(path), "bytes": path.stat().st_size, "autoencoder": model.identity()}
    report |= {"sources": len(model.bank), "sources_sha256": model.bank.digest(), "skipped": _skipped(model)}
    _say(options, f"{path}: {_count(len(model.bank), 'source')}, {report['bytes'] / 1e6:.0f} MB")
    return report


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    path = Path(options.path)
    report: dict[str, Any]
    if options.verify and path.suffix != ".safetensors":
        raise ValueError(f"--verify: a model file ending in .safetensors is expected, got {path}")
    if path.suffix == ".safetensors":
        stored = ModelFile.read(path, whole=options.verify)
        if options.verify:
            stored.verify(path)
        report = _describe(stored) | ({"verified": True} if options.verify else {})
    elif path.is_file() and path.suffix.lower() in images.SUFFIXES:
        picture = images.read_image(path)
        report = _parsed(images.read_metadata(path)) | {"size": list(picture.shape[1:])}
    else:
        paths = images.list_images(path)
        bad = {}
        for file in tqdm(paths, desc="reading", unit="img", disable=not _progress(options), leave=False):
            try:
                images.read_image(file)
            except ImageError as error:
                bad[str(file)] = str(error)
        report = {"pictures": len(paths), "unusable": bad}
    return report


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    from .bench import bench, table

    model = _bare_model(options)
    report = bench(
        model.autoencoder,
        options.sizes,
        n=options.n,
        components=16 if options.components is None else options.components,
        settings=_settings(options, model),
    )
    if not options.json:
        print(table(report))
    return report


# --- what the commands share ---------------------------------------------------------------------------


class _Book:
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
        self.facts = _facts(command, model, options)

    def __enter__(self) -> _Book:
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
        return tqdm(total=n, desc=self.command, unit="img", disable=not _progress(self.options), leave=False)

    def take(self, result: Generation) -> None:
        """Write the images of a batch."""
        self.ids = result.ids
        rows = self.write(result, len(self.rows))
        room = max(0, _SHEET - len(self.rows))
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
            facts = {**_portable(self.facts), "seed": record["seed"]}
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
        report["skipped"] = _skipped(self.model)
        name = {"generate": "generation"}.get(self.command, self.command)
        _write_json(self.staging / f"{name}.json", report)
        written = {row["file"] for row in self.rows}
        older = [path for path in Path(self.options.output).glob("[0-9]*.png") if path.name not in written]
        if older:
            _say(self.options, f"pictures of an earlier run that stay in {self.options.output}: {len(older)}")
        share = sum(max(row["shares"].values(), default=0.0) for row in self.rows) / len(self.rows)
        _say(
            self.options,
            f"{_count(len(self.rows), 'picture')} in {self.options.output}; "
            f"the largest share of one source is {share:.0%} of a picture on average",
        )
        return report


class _SharedBook(_Book):
    """The same for several processes or runs: what is made stays in a work folder until all is."""

    def __init__(
        self, command: str, model: LatentPatch, options: argparse.Namespace, settings: Any, before: Sequence[Tensor]
    ) -> None:
        super().__init__(Path(), command, model, options, before)
        decisive = {
            **_portable(self.facts),
            "n": options.n,
            "seed": options.seed,
            "sampler": getattr(options, "sampler", "raster"),
            "settings": asdict(settings or model.settings),
            "device": model.autoencoder.device.type,
            "attributes": hashlib.sha256(json.dumps(model.bank.attributes, sort_keys=True).encode()).hexdigest(),
        }
        self.work = Work(options.output, decisive, options.processes)
        self.staging = self.work.files
        self.ids = tuple(model.bank.ids)
        self.batch: int | None = None
        self.count = 0

    def __exit__(self, *error: object) -> None:
        self.work.__exit__(*error)

    def batches(self, n: int, seed: int) -> Iterator[tuple[Sequence[int], slice]]:
        """Seeds of each batch this process takes part in, and which of them it is to decode."""
        processes, batches = self.options.processes, _batches(n, seed)
        self.count = len(batches)
        todo = [batch for batch in range(self.count) if batch not in self.work.done]
        with self.progress(n) as bar:
            bar.update(sum(len(batches[batch]) for batch in self.work.done))
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
            self.work.record(self.batch, {"settings": result.settings_record(), "images": rows})

    def close(self) -> dict[str, Any]:
        self.options.processes.every(None)  # all is made
        if self.options.processes.rank:
            return {}
        for record in self.work.records(self.count):
            self.facts |= record["settings"]
            self.rows += record["images"]
        for row in self.rows[:_SHEET]:
            picture = images.read_image(self.work.path(row["file"]))
            index = torch.tensor(row["index"])
            self.sheet.append(picture)
            self.maps += provenance_images(index[None], len(self.ids), picture.shape[1] // len(index))
        report = super().close()
        self.work.finish()
        return report


def _staged(options: argparse.Namespace) -> AbstractContextManager[Path | None]:
    """Where pictures are written: a staging folder, or None where a work folder is to keep them."""
    return nullcontext() if options.resume else files.staged(options.output)


def _book(
    staging: Path | None,
    command: str,
    model: LatentPatch,
    options: argparse.Namespace,
    settings: Any,
    before: Sequence[Tensor] = (),
) -> _Book:
    if staging is None:
        return _SharedBook(command, model, options, settings, before)
    return _Book(staging, command, model, options, before)


def _batches(n: int, seed: int) -> list[range]:
    """Seeds of the pictures made together."""
    return [range(seed + first, seed + min(first + _BATCH, n)) for first in range(0, n, _BATCH)]


def _facts(command: str, model: LatentPatch, options: argparse.Namespace) -> dict[str, Any]:
    """What, with a seed, decides a command's pictures."""
    facts: dict[str, Any] = {
        "command": command,
        "version": __version__,
        "autoencoder": model.identity(),
        "precision": options.precision,
    }
    if len(model.bank):
        facts |= {
            "sources": len(model.bank),
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


def _portable(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts for a picture, which travels: they name the weights, but not the folder they were in."""
    kept = ("name", "downsampling", "sha256", "license")
    return {**facts, "autoencoder": {key: facts["autoencoder"][key] for key in kept}}


def _file_facts(path: Path) -> dict[str, str]:
    try:
        return {"file": path.name, "sha256": sha256_of(path)}
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _bare_model(options: argparse.Namespace) -> LatentPatch:
    """The autoencoder on its device, without sources."""
    model = LatentPatch(options.autoencoder or DEFAULT)
    return _placed(model, options)


def _model(options: argparse.Namespace, scratch: Path | None = None) -> LatentPatch:
    """The sources named on the command line, fitted or loaded."""
    sources = [Path(source) for source in options.sources]
    sharded = getattr(options, "shard_bank", False)
    if len(sources) == 1 and sources[0].suffix == ".safetensors":
        for name in ("components", "size", "attributes"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name}: {sources[0]} is fitted already; give it to the command that fits")
        model = LatentPatch.load(sources[0], options.autoencoder)
        if sharded:
            model.bank = ShardedBank(model.bank, options.processes)
        return _placed(model, options)
    if sharded:
        raise ValueError("--shard-bank: a fitted model file is expected; fit the sources first")
    # What can be wrong without having encoded anything is found first: encoding may take minutes.
    paths = images.list_images(*sources)
    inside = [source for source in sources if source.is_dir() and _contains(source, Path(options.output))]
    if inside:
        raise ValueError(
            f"--output {options.output} lies within the sources {inside[0]}: its pictures would become sources"
        )
    known = None if options.attributes is None else read_attributes(options.attributes)
    if getattr(options, "where", None) is not None:
        parse_predicate(options.where)
    model = LatentPatch(options.autoencoder or DEFAULT, 16 if options.components is None else options.components)
    _placed(model, options)
    _check_settings(options, model, len(paths))
    model.fit(
        paths,
        attributes=known,
        size=_size(options, model),
        skip_bad=options.skip_bad,
        progress=_progress(options),
        scratch=scratch,
        processes=options.processes,
    )
    for _, reason in model.skipped:
        _say(options, f"skipped: {reason}")
    if options.attributes is not None and not any(model.bank.attributes):
        raise ValueError(f"--attributes {options.attributes}: names none of the sources, such as {model.bank.ids[0]!r}")
    return model


def _contains(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve()) and path.resolve() != folder.resolve()


def _check_settings(options: argparse.Namespace, model: LatentPatch, count: int) -> None:
    """Refuse settings that do not go together with the grid or the number of sources."""
    if not hasattr(options, "neighbours"):
        return
    method = SAMPLERS[getattr(options, "sampler", "raster")]
    settings = _settings(options, model) or method.settings()
    guided = getattr(options, "reference", None) is not None or options.command == "inpaint"
    method.steps(model.autoencoder.grid(*_size(options, model)), settings, guided, None)
    if isinstance(settings, RasterSettings):
        settings.check_sources(count)


def _placed(model: LatentPatch, options: argparse.Namespace) -> LatentPatch:
    device = options.device
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise ValueError(f"--device {device!r}: auto, cpu, cuda or cuda:NUMBER is expected")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: not usable here: {str(error).splitlines()[0]}") from error
    model.autoencoder.decode_dtype = getattr(torch, options.precision)
    return model


def _settings(options: argparse.Namespace, model: LatentPatch) -> Any:
    """The model's settings with those given on the command line; None where none are."""
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    kind = SAMPLERS[getattr(options, "sampler", "raster")].settings
    foreign = sorted(set(given) - {field.name for field in fields(kind)})
    if foreign:
        raise ValueError(f"--{foreign[0].replace('_', '-')}: not a setting of the sampler {options.sampler!r}")
    if not given:
        return None
    return model.with_settings(**given) if isinstance(model.settings, kind) else kind(**given)


def _size(options: argparse.Namespace, model: LatentPatch) -> tuple[int, int]:
    if options.size is None:
        side = model.autoencoder.spec.image_size
        return side, side
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", options.size)
    if match is None:
        raise ValueError(f"--size {options.size!r}: pixels are expected, as SIDE or HEIGHTxWIDTH")
    size = int(match[1]), int(match[2] or match[1])
    if size[0] * size[1] > images.MAX_PIXELS:
        raise ValueError(f"--size {options.size}: at most {images.MAX_PIXELS} pixels are expected")
    model.autoencoder.grid(*size)
    return size


def _mask(options: argparse.Namespace, size: tuple[int, int]) -> Tensor:
    return images.parse_box(options.box, size) if options.box else images.read_mask(options.mask, size)


def _describe(stored: ModelFile) -> dict[str, Any]:
    bank, pca = stored.bank, stored.pca
    variance = float(pca.explained_variance.sum() / pca.total_variance.clamp(min=1e-30))
    return {
        "autoencoder": stored.autoencoder,
        "sources": len(bank),
        "sources_sha256": bank.digest(),
        "grid": list(bank.grid),
        "image_size": [side * stored.autoencoder["downsampling"] for side in bank.grid],
        "components": stored.components,
        "settings": asdict(stored.settings),
        "explained_variance": round(variance, 4),
        "attributes": sorted({name for known in bank.attributes for name in known}),
        "ids": bank.ids,
    }


def _parsed(metadata: dict[str, str]) -> dict[str, Any]:
    """A picture's text chunks, ours taken apart; anyone may have written them."""
    try:
        return {**metadata, "latentpatch": json.loads(metadata["latentpatch"], parse_constant=str)}
    except (KeyError, ValueError, RecursionError):
        return dict(metadata)


def _write_json(path: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, sort_keys=True, ensure_ascii=False) + "\n"
    files.write_bytes(path, text.encode(errors="backslashreplace"))  # file names need not be UTF-8


def _print(report: dict[str, Any]) -> int:
    try:
        print(json.dumps(report, indent=1, sort_keys=True), flush=True)
    except OSError as error:
        # What is left in the buffer goes nowhere, or Python would complain again on leaving.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _failed(f"cannot write the report: {error.strerror or error}")
    return 0


def _failed(reason: str) -> int:
    print("latentpatch: error:", " ".join(line.strip() for line in reason.splitlines()), file=sys.stderr)
    return 1


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _skipped(model: LatentPatch) -> list[dict[str, str]]:
    return [{"file": str(path), "reason": reason} for path, reason in model.skipped]


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(text, file=sys.stderr)


def _progress(options: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not options.quiet


# --- arguments -----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="latentpatch",
        description="New images from a handful of registered examples, without training.",
        allow_abbrev=False,  # an abbreviation would change its meaning with the next option
    )
    parser.add_argument("--version", action="version", version=f"latentpatch {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    generate = commands.add_parser("generate", help="make new images from sources", allow_abbrev=False)
    _add_sources(generate)
    _add_sampling(generate)
    generate.add_argument(
        "--reference", metavar="IMAGE", help="picture the new ones are to resemble, cropped and resized as sources are"
    )
    generate.add_argument("--sampler", choices=sorted(SAMPLERS), default="raster")
    generate.add_argument(
        "--decoding",
        choices=("gather", "unproject"),
        default="gather",
        help="decode the sources' full latents, or the reduced ones (the paper's way)",
    )
    generate.add_argument(
        "--shard-bank", action="store_true", help="with torchrun: each process searches its share of a model file"
    )
    _add_resume(generate)
    _add_common(generate, _generate)

    inpaint = commands.add_parser("inpaint", help="fill a region of a picture, in several ways", allow_abbrev=False)
    _add_sources(inpaint)
    inpaint.add_argument("--image", required=True, help="the picture")
    _add_mask(inpaint)
    _add_sampling(inpaint)
    inpaint.add_argument(
        "--reconstructed", action="store_true", help="show the decoder's own pixels outside the mask, not the picture's"
    )
    _add_resume(inpaint)
    _add_common(inpaint, _inpaint)

    edit = commands.add_parser(
        "edit", help="copy a region of one picture into another, in latent space", allow_abbrev=False
    )
    edit.add_argument("image", help="the picture to edit")
    edit.add_argument("--donor", required=True, metavar="IMAGE", help="the picture to copy from")
    _add_mask(edit)
    edit.add_argument("--composite", action="store_true", help="keep the picture's own pixels outside the region")
    _add_size(edit)
    _add_common(edit, _edit)

    reconstruct = commands.add_parser(
        "reconstruct", help="pictures through the autoencoder and back", allow_abbrev=False
    )
    reconstruct.add_argument("images", nargs="+", help="a folder, pictures, or a text file that lists pictures")
    reconstruct.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used")
    _add_size(reconstruct)
    _add_common(reconstruct, _reconstruct)

    fit = commands.add_parser("fit", help="encode sources once and keep them in one file", allow_abbrev=False)
    _add_sources(fit)
    _add_common(fit, _fit, output="MODEL.safetensors")

    archive = commands.add_parser("archive", help="make the model archive that TorchServe serves", allow_abbrev=False)
    _add_sources(archive, required=False)
    archive.add_argument("--sources", nargs="+", dest="named", metavar="SOURCE", help="another way to name them")
    group = archive.add_argument_group("what TorchServe is told")
    group.add_argument("--workers", type=_positive, help="processes, each with the model")
    group.add_argument("--batch-size", type=_positive, help="requests handled together, at most")
    group.add_argument("--max-batch-delay", type=_natural, metavar="MS", help="wait for a batch to fill")
    group.add_argument("--config", metavar="YAML", help="all of it (handlers/model-config.yaml)")
    group.add_argument("--handler", metavar="FILE", help="its entry point (handlers/latentpatch_handler.py)")
    archive.add_argument(
        "-o",
        "--output",
        default="model_store/latentpatch.mar",
        metavar="NAME.mar",
        help="where to write; NAME is the model's (model_store/latentpatch.mar)",
    )
    _add_network(archive)
    _add_report(archive, _archive)
    archive.set_defaults(precision="float32")  # of the decoder, which archiving does not use; the handler has its own

    bench = commands.add_parser("bench", help="how fast this machine is at every stage", allow_abbrev=False)
    bench.add_argument(
        "--sizes", type=_sizes, default=(16, 64, 1000, 10000), metavar="B,B,…", help="sources (16,64,1000,10000)"
    )
    bench.add_argument("-n", type=_positive, default=16, help="images made together (16)")
    bench.add_argument("--components", type=int, metavar="R", help="principal components searched (16)")
    _add_settings(bench)
    _add_network(bench)
    _add_precision(bench)
    _add_report(bench, _bench)

    inspect = commands.add_parser(
        "inspect", help="what a picture was made with, a model or a folder holds", allow_abbrev=False
    )
    inspect.add_argument("path", help="a picture, a model file, or a folder or list of pictures")
    inspect.add_argument(
        "--verify", action="store_true", help="read all of a model file and compare its sources with their SHA-256"
    )
    _add_report(inspect, _inspect)
    return parser


def _add_sources(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "sources",
        nargs="+" if required else "*",
        help="a folder, pictures, a text file that lists pictures, or a fitted model file"
        + ("" if required else " (examples/portraits)"),
    )
    parser.add_argument("--attributes", metavar="CSV", help="attributes of the sources, for --where")
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used, and list them")
    parser.add_argument("--components", type=int, metavar="R", help="principal components searched (16)")
    _add_size(parser)


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", metavar="SIDE|HxW", help="pixels pictures are cropped and resized to (256)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=_positive, default=16, help="number of pictures (16)")
    parser.add_argument("--seed", type=_natural, default=0, help="seed of the first picture; the next has the next (0)")
    parser.add_argument("--where", metavar="PREDICATE", help='sources to use, e.g. "gender=female and birth_year>1960"')
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings of the sampler")
    group.add_argument("--patch-size", type=int, help="side of the compared patches in latent cells, omega (6)")
    group.add_argument("--stride", type=int, help="side of the copied blocks, w (patch size / 3)")
    group.add_argument("--neighbours", type=int, help="nearest sources drawn from, k (3)")
    group.add_argument("--scales", type=int, help="grid sizes, S (5; 1 with a reference, 3 to inpaint)")
    group.add_argument("--start-size", type=int, help="side of the coarsest grid (10 of 16)")


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep pictures as they are made, and go on where this command was interrupted; implied by torchrun",
    )


def _add_mask(parser: argparse.ArgumentParser) -> None:
    region = parser.add_mutually_exclusive_group(required=True)
    region.add_argument(
        "--mask",
        metavar="IMAGE",
        help="picture that is white where the region is, cropped and resized as the picture is",
    )
    region.add_argument(
        "--box", metavar="LEFT,TOP,RIGHT,BOTTOM", help="the region, in pixels of the cropped and resized picture"
    )


def _add_common(parser: argparse.ArgumentParser, run: Any, output: str = "FOLDER") -> None:
    parser.add_argument(
        "-o", "--output", required=True, metavar=output, help="where to write; files of the same names are replaced"
    )
    _add_network(parser)
    _add_precision(parser)
    _add_report(parser, run)


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="arithmetic of the decoder; bfloat16 is faster where the processor has it",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--autoencoder",
        metavar="NAME[:PATH]",
        help=f"one of {', '.join(AUTOENCODERS)}, and after a colon its local weights ({DEFAULT})",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (a GPU where there is one)")


def _add_report(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print a report as JSON on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no closing line")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: an integer of at least 1 is expected")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: an integer of at least 0 is expected")
    return int(text)
