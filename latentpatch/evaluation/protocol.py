"""The evaluation protocol: compares the images of each row with held-out images and with their sources."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..autoencoders.weights import sha256_of
from ..errors import FileError, SettingError
from ..io import images
from ..model import LatentPatch
from ..validation import check_integer
from . import metrics
from .experiments import COPIER, Row, RowError, drawn_positions
from .features import Extractor, read_features
from .figures import is_copying, leading_basis, measure
from .identity import Identity, checked_limits
from .log import LOG, EvaluationLog, read_log
from .memorization import measure_memorization
from .sample_set import SampleSet, copying_figures, most_alike, nearest_distances

__all__ = ["Evaluation", "Protocol", "with_copier"]

#: Increase it when a figure is added or redefined: rows of earlier revisions are then evaluated again.
REVISION = 2

_BATCH = 32  # images generated, read or decoded together
_MIN_HELD_OUT = metrics.DENSITY_NEIGHBORS + 1  # images, so that each has the neighbors of density and coverage
_MIN_SOURCES = 6  # sources in the rows that show sources


@dataclass(frozen=True)
class Protocol:
    """Sample sizes of an evaluation.

    Attributes:
        samples: images in a set.
        seeds: number of sets; set s has the seeds from ``s * samples`` on.
        pairs: random pairs of images whose mean distance is the diversity.
        directions: leading directions of the reference that features are projected on for the Frechet distance. 0 is
            for all dimensions. None is for all dimensions where both sets have more images than features have
            dimensions, else for 64.
        resamples: of the bootstrap; 0 for no intervals.
    """

    samples: int = 160
    seeds: int = 3
    pairs: int = 700
    directions: int | None = None
    resamples: int = 200

    def __post_init__(self) -> None:
        for name, least in (("samples", 6), ("seeds", 1), ("pairs", 1), ("directions", 0), ("resamples", 0)):
            value = getattr(self, name)
            if name != "directions" or value is not None:
                check_integer(name, value, least)
        if self.resamples == 1:
            raise SettingError("resamples", 1, "0 or at least 2")


class Evaluation:
    """An evaluation of rows under the same conditions, in a folder; rows that are there are not evaluated again.

    ``evaluation.jsonl`` has a line for each row with all figures, ``sheets/`` a contact sheet of each row's first
    images and one of those with the costliest seams. With a descriptor of identity there is a third, of the images most
    alike a source, each left of that source.

    Args:
        model: a fitted model.
        held_out: files of images that are not sources; or one file of their features, see :func:`.read_features`, which
            excludes the rows and tests that need the images.
        output: the folder.
        features: extractor that compares sets of images.
        perceptual: extractor that compares pairs of images; by default ``features``.
        sources: files of the sources in the bank's order; without them decoded sources stand for them.
        protocol: sample sizes.
        identity: descriptor of identity, see :mod:`.descriptors`; without it there are no figures of identity.
        identity_below: distances of descriptors; the share of images nearer to a source is a figure for each.

    Attributes:
        conditions: all that decides figures other than the row.

    Raises:
        FileError: for unusable files, held-out images that are sources, or a damaged log.
        SettingError: for too few held-out images, or another number of sources.
    """

    def __init__(
        self,
        model: LatentPatch,
        held_out: Sequence[Path] | Path,
        output: str | Path,
        features: Extractor,
        perceptual: Extractor | None = None,
        *,
        sources: Sequence[Path] | None = None,
        protocol: Protocol | None = None,
        identity: Extractor | None = None,
        identity_below: Sequence[float] = (),
    ) -> None:
        self.model, self.protocol = model, protocol or Protocol()
        self.features, self.perceptual = features, perceptual or features
        self.identity, self._below = identity, checked_limits(identity_below)
        if identity is not None and isinstance(held_out, Path):
            raise SettingError("held_out", "features", "images, which the descriptor of identity needs")
        read_log(Path(output) / LOG)  # raises for a damaged log before anything is computed
        self.sources = None if sources is None else list(sources)
        count = len(model.bank.sources)
        if self.sources is not None and len(self.sources) != count:
            raise SettingError("sources", len(self.sources), f"{count} files")
        self.held_out: list[Path] = [] if isinstance(held_out, Path) else list(held_out)
        if isinstance(held_out, Path):
            self.reference, digest = read_features(held_out), sha256_of(held_out)
            check_integer("held_out", len(self.reference), _MIN_HELD_OUT)
            metrics.frechet_distance(features.features(torch.zeros(2, 3, *model.image_size)), self.reference)
        else:
            check_integer("held_out", len(self.held_out), _MIN_HELD_OUT)
            digest = _digest(self.held_out, self.sources)
            self.reference = torch.cat([features.features(batch) for batch in self._read(self.held_out)])
        sizes = self.protocol
        self.basis = leading_basis(self.reference, sizes.samples, sizes.directions)
        self.conditions: dict[str, Any] = {
            "version": __version__,
            "revision": REVISION,
            "autoencoder": model.autoencoder.spec.name,
            "autoencoder_sha256": model.autoencoder.fingerprint(),
            "precision": model.precision,
            "sources": count,
            "sources_sha256": model.bank.digest(),
            "components": model.components,
            "originals": self.sources is not None,
            "held_out": len(self.reference),
            "held_out_sha256": digest,
            "features": features.name,
            "features_sha256": features.digest,
            "dimensions": self.reference.shape[1],
            "directions": 0 if self.basis is None else self.basis.shape[1],
            "perceptual": self.perceptual.name,
            "perceptual_sha256": self.perceptual.digest,
            **{name: getattr(sizes, name) for name in ("pairs", "samples", "seeds", "resamples")},
        }
        if identity is not None:  # rows without identity keep their conditions
            identity.features(next(self._read(self.held_out[:2])))  # raises before anything is computed
            facts = {"identity": identity.name, "identity_sha256": identity.digest, "identity_below": self._below}
            self.conditions |= {**facts, "identity_input": getattr(identity.function, "record", None)}
        self.log = EvaluationLog(Path(output), self.conditions)

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse rows that cannot be evaluated, before any is.

        Raises:
            RowError: naming the row.
        """
        count = len(self.model.bank.sources)
        for row in rows:
            if not row.is_control:
                row.settings_for(self.model)
            elif _is_held_out(row) and not self.held_out:
                raise RowError(row.name, "held_out", "features", "images, which this row shows")
            elif not _is_held_out(row) and count < _MIN_SOURCES:
                raise RowError(row.name, "sources", count, f"at least {_MIN_SOURCES}")

    def run(self, row: Row, progress: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
        """Return a row's entry in the log; evaluate the row where there is none.

        Args:
            row: the row.
            progress: called with the number of images in each finished batch.

        Raises:
            RowError: for a row that cannot be evaluated.
        """
        self.check([row])
        found = self.find(row)
        if found is not None:
            return found
        begin = time.perf_counter()
        seeds = 1 if _is_held_out(row) else self.protocol.seeds
        sets = [self._sample(row, seed, progress) for seed in range(seeds)]
        figures = measure(sets, self.reference, self.basis, self.source_distance, self.protocol.resamples)
        pairs, alike = self._identities(row, sets, figures)
        identity = row.identity(self.model)
        return self.log.append(
            {
                "name": row.name,
                "row": identity,
                **alike,
                "counts": [len(each.features) for each in sets],
                "figures": figures,
                "copies": is_copying(figures),
                "sheets": self.log.write_sheets(row.name, identity, sets, pairs),
                "seconds": round(time.perf_counter() - begin, 1),
            }
        )

    def memorization(self) -> list[dict[str, Any]]:
        """Return the results of :mod:`.memorization` for blocks of the raster sampler's stride and for whole sources.

        Without held-out images or with fewer than two sources there are none.
        """
        found = self.log.find(memorisation=...)
        if found is None:
            if not self.held_out or self.model.bank.num_groups < 2:
                return []
            sampler, settings = self.model.sampler_and_settings(None, None)
            settings = sampler.resolve(settings, self.model.context())
            sides = (getattr(settings, "step", 2), max(self.model.bank.grid))
            results = [measure_memorization(self.model, self._held_out_latents, side).record() for side in sides]
            found = self.log.append({"memorisation": results})
        return list(found["memorisation"])

    memorisation = memorization

    def identity_reference(self) -> dict[str, Any] | None:
        """Return what identities of rows are compared with, see :meth:`.Identity.record`; None without a descriptor."""
        if self.identity is None:
            return None
        found = self.log.find(identity=...)
        if found is None:
            found = self.log.append({"identity": self.people.record(self.protocol.resamples)})
        return dict(found["identity"])

    def find(self, row: Row) -> dict[str, Any] | None:
        """Return a row's entry in the log, by what decides its images; None where there is none."""
        found = self.log.find(row=row.identity(self.model))
        return None if found is None else {**found, "name": row.name}

    def entries(self) -> list[dict[str, Any]]:
        """Return all lines of the log, of other conditions too.

        Raises:
            FileError: where the log is damaged.
        """
        return read_log(self.log.folder / LOG)

    @cached_property
    def source_distance(self) -> float:
        """The mean perceptual distance of random pairs of sources."""
        first, second = metrics.random_pairs(len(self.model.bank.sources), self.protocol.pairs)
        used, positions = torch.cat([first, second]).unique(return_inverse=True)
        shown = torch.cat([batch for batch, _ in self._source_images(used, False)])
        first, second = positions.view(2, -1)
        return float(self.perceptual.pair_distances(shown, first, second).mean())

    @cached_property
    def typical_distance(self) -> float | None:
        """The median distance of held-out images to their nearest source; None without their files."""
        if not self.held_out:
            return None
        keys = self.model.bank.keys_of(self._held_out_latents.to(self.model.autoencoder.device), self.model.pca)
        return float(nearest_distances(self.model.bank, keys).median())

    @cached_property
    def people(self) -> Identity:
        """The descriptors of sources and held-out images."""
        assert self.identity is not None
        numbers = torch.arange(len(self.model.bank.sources))
        sources = torch.cat([self.identity.features(shown) for shown, _ in self._source_images(numbers, False)])
        held_out = torch.cat([self.identity.features(batch) for batch in self._read(self.held_out)])
        return Identity(sources, held_out, self._below, self.model.bank.group_numbers)

    @cached_property
    def _held_out_latents(self) -> Tensor:
        """Latents ``(M, L, h, w)``, rounded to half precision as those of the bank are."""
        latents = [self.model.latents_of(batch).cpu() for batch in self._read(self.held_out)]
        return torch.cat(latents).half().float()

    def _read(self, paths: Sequence[Path]) -> Iterator[Tensor]:
        for first in range(0, len(paths), _BATCH):
            batch = [images.read_image(path, self.model.image_size) for path in paths[first : first + _BATCH]]
            yield torch.stack(batch)

    def _sample(self, row: Row, seed: int, progress: Callable[[int], None]) -> SampleSet:
        """Generate and measure the images of one set."""
        size = self.protocol.samples
        if row.is_control:
            size = len(self.held_out) if _is_held_out(row) else min(size, len(self.model.bank.sources))
        result = SampleSet(size, self.protocol.pairs)
        for batch, values in self._images(row, seed):
            result.add(batch, self.features.features(batch), values)
            if self.identity is not None:
                descriptors = self.identity.features(batch)
                result.add_identities(batch, descriptors, *self.people.nearest(descriptors))
            progress(len(batch))
        result.distances = self.perceptual.pair_distances(*result.pairs())
        return result

    def _identities(
        self, row: Row, sets: Sequence[SampleSet], figures: dict[str, Any]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Add a row's figures of identity to the others.

        Returns:
            The images most alike a source, each with that source behind it; and their records, for the log.
        """
        if self.identity is None:
            return [], {}
        figures |= self.people.figures([torch.cat(each.descriptors) for each in sets], self.protocol.resamples)
        if _is_held_out(row):
            del figures["identity_attack"]  # these images are some of the people it tells apart
        found = most_alike(sets)
        (sources, _), *_ = self._source_images(torch.tensor([each.source for _, each in found]), False)
        pairs = [image for (_, each), source in zip(found, sources, strict=True) for image in (each.image, source)]
        return pairs, {"alike": [each.record(s, self.model.bank.sources) for s, each in found]}

    def _images(self, row: Row, seed: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield batches of a set's images ``(N, 3, H, W)`` with figures of each image ``(N,)`` by name."""
        bank, samples = self.model.bank, self.protocol.samples
        if _is_held_out(row):
            for batch in self._read(self.held_out):
                shown = self.model.reconstruct(batch, reduced=row.sampler == "held-out-reduced").cpu()
                yield shown, {"psnr": metrics.psnr(shown, batch)}
        elif row.is_control:
            rng = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(bank.sources), generator=rng)[:samples]
            for shown, index in self._source_images(chosen, row.sampler == "sources-decoded"):
                yield shown, copying_figures(bank, index, self.typical_distance)
        else:
            settings, seeds = row.settings_for(self.model), range(seed * samples, (seed + 1) * samples)
            positions = drawn_positions(self.model, row.bank, seed)
            for first in range(0, samples, _BATCH):
                generated = self.model.generate(
                    seeds=seeds[first : first + _BATCH],
                    settings=settings,
                    sampler=row.sampler,
                    where=positions,
                    decoding=row.decoding,
                )
                figures = copying_figures(bank, generated.index.cpu(), self.typical_distance)
                yield generated.images.cpu(), figures

    @torch.no_grad()
    def _source_images(self, chosen: Tensor, is_decoded: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of sources as images ``(N, 3, H, W)`` and as index maps ``(N, h, w)``."""
        bank, variants = self.model.bank, self.model.bank.variants.count
        for numbers in chosen.split(_BATCH):
            index = (numbers * variants)[:, None, None].expand(-1, *bank.grid).contiguous()
            if is_decoded:
                shown = self.model.decode(index.to(bank.keys.device)).cpu()
            elif self.sources is None:
                shown = torch.stack([self.model.source_picture(b * variants).cpu() for b in numbers.tolist()])
            else:
                (shown,) = self._read([self.sources[b] for b in numbers.tolist()])
            yield shown, index


def with_copier(rows: Sequence[Row]) -> list[Row]:
    """Return a table's rows, those of a generator that returns its sources first."""
    return list(rows) if any(row.sampler == COPIER.sampler for row in rows) else [COPIER, *rows]


def _is_held_out(row: Row) -> bool:
    return row.sampler.startswith("held-out")


def _digest(held_out: Sequence[Path], sources: Sequence[Path] | None) -> str:
    """Return the SHA-256 over the held-out files.

    Raises:
        FileError: for a held-out file that is a source.
    """
    try:
        source_of = {sha256_of(path): path for path in sources or ()}
        total = hashlib.sha256()
        for path in held_out:
            digest = sha256_of(path)
            if digest in source_of:
                raise FileError(path, f"held out, but also the source {source_of[digest]}; figures would favor copies")
            total.update(digest.encode())
    except OSError as error:
        raise FileError(error.filename, f"cannot be read: {error.strerror}") from error
    return total.hexdigest()
