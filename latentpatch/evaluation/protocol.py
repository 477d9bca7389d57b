"""The protocol: every row's pictures, compared with held-out ones and with the sources they are made of."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..autoencoders.weights import sha256_of
from ..errors import FileError
from ..io import atomic as files
from ..io import images
from ..model import LatentPatch
from . import metrics
from .bootstrap import bootstrap
from .experiments import COPIER, Row, drawn_positions
from .features import Extractor, read_features
from .memorization import memorisation
from .sample_set import ON_SHEET, PictureSet, copying_values, nearest_distances

__all__ = ["Evaluation", "Protocol", "read_log", "with_copier"]

LOG = "evaluation.jsonl"
SHEETS = "sheets"

#: To be raised where a figure is added or defined anew, so that rows are made again.
REVISION = 1
#: Rows are flagged where the largest share is such on average, or so many pictures are copies.
FLAG_SHARE, FLAG_COPIES = 0.5, 0.05
#: Directions of the reference that a Frechet distance is reduced to where there are no more pictures than dimensions.
DIRECTIONS = 64

_BATCH = 32  # pictures made together


@dataclass(frozen=True)
class Protocol:
    """How much is drawn.

    Attributes:
        samples: pictures a seed.
        seeds: sets of pictures; set s has the seeds ``s * samples`` and on.
        pairs: random pairs of pictures whose distances make the diversity.
        directions: leading directions of the reference that features are projected on for the Frechet distance; 0 for
            all of the features, None for all where both sets have more pictures than features have dimensions, else
            :data:`DIRECTIONS`.
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
            if value is None and name == "directions":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} {value!r}: an integer is expected")
            if value < least or (name == "resamples" and value == 1):
                raise ValueError(f"{name} {value}: at least {least} is expected" + (", not 1" if value == 1 else ""))


class Evaluation:
    """Rows evaluated under the same conditions, kept in a folder: what is there already is not made again.

    ``evaluation.jsonl`` has a line for each row with all figures, ``sheets/`` a contact sheet of each row's first
    pictures and one of those with the costliest seams.

    Args:
        model: with its sources.
        held_out: files of pictures that are not sources; or a file of their features, see :func:`.read_features`, and
            then rows and tests that need the pictures are refused or left out.
        output: the folder.
        features: compares sets of pictures.
        perceptual: compares pairs of pictures; by default ``features``.
        sources: the sources' files in the bank's order; None where only their latents are at hand, and decoded
            sources stand for them.
        protocol: how much is drawn.

    Raises:
        FileError: for files that cannot be used, held-out pictures that are sources, or a damaged log.
        ValueError: where there are too few held-out pictures.
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
    ) -> None:
        self.model, self.output, self.protocol = model, Path(output), protocol or Protocol()
        self.features, self.perceptual = features, perceptual or features
        self.entries()  # a damaged log is found before anything is made
        self.sources = None if sources is None else list(sources)
        count = len(model.bank.sources)
        if self.sources is not None and len(self.sources) != count:
            raise ValueError(f"sources: {count} files are expected, got {len(self.sources)}")
        self.held_out: list[Path] = [] if isinstance(held_out, Path) else list(held_out)
        if isinstance(held_out, Path):
            self.reference, digest = read_features(held_out), sha256_of(held_out)
            self._check_count(len(self.reference))
            metrics.frechet_distance(features.features(torch.zeros(2, 3, *model.image_size)), self.reference)
        else:
            self._check_count(len(self.held_out))
            digest = _digest(self.held_out, self.sources)
            self.reference = torch.cat([features.features(batch) for batch in self._read(self.held_out)])
        self.basis = self._basis()
        #: all that decides figures but the row.
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
            **{name: getattr(self.protocol, name) for name in ("pairs", "samples", "seeds", "resamples")},
        }

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse rows that this model cannot make, before any is made.

        Raises:
            TypeError, ValueError: naming the row.
        """
        for row in rows:
            if not row.control:
                row.settings_for(self.model)
            elif row.sampler.startswith("held-out") and not self.held_out:
                raise ValueError(f"row {row.name!r}: held-out pictures are expected, not their features alone")
            count = len(self.model.bank.sources)
            if row.sampler in ("sources", "sources-decoded") and count < 6:
                raise ValueError(f"row {row.name!r}: at least 6 sources are expected, got {count}")

    def run(self, row: Row, progress: Callable[[int], None] = lambda made: None) -> dict[str, Any]:
        """A row's entry in the log, which is made where it is not there yet.

        Args:
            row: what to evaluate.
            progress: called with the number of pictures made.
        """
        self.check([row])
        identity = row.identity(self.model)
        found = self.find(row)
        if found is not None:
            return found
        begin = time.perf_counter()
        seeds = 1 if row.sampler.startswith("held-out") else self.protocol.seeds
        sets = [self._set(row, seed, progress) for seed in range(seeds)]
        figures = self._figures(sets)
        entry = {
            "name": row.name,
            "row": identity,
            "conditions": self.conditions,
            "counts": [len(each.features) for each in sets],
            "figures": figures,
            "copies": _is_copying(figures),
            "sheets": self._sheets(row.name, identity, sets),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        self._append(entry)
        return entry

    def memorisation(self) -> list[dict[str, Any]]:
        """The test of :mod:`.memorisation` with blocks of the raster sampler's stride and with whole sources."""
        for entry in self.entries():
            if "memorisation" in entry and entry["conditions"] == self.conditions:
                return list(entry["memorisation"])
        if not self.held_out or len(self.model.bank.sources) < 2:
            return []
        sides = (getattr(self.model.settings, "step", 2), max(self.model.bank.grid))
        entry = {
            "conditions": self.conditions,
            "memorisation": [memorisation(self.model, self._held_out_latents, side).record() for side in sides],
        }
        self._append(entry)
        return list(json.loads(json.dumps(entry["memorisation"])))

    def find(self, row: Row) -> dict[str, Any] | None:
        """A row's entry in the log, by what decides its pictures; None where there is none."""
        identity = row.identity(self.model)
        for entry in self.entries():
            if entry.get("row") == identity and entry["conditions"] == self.conditions:
                return {**entry, "name": row.name}
        return None

    def entries(self) -> list[dict[str, Any]]:
        """All lines of the log, of other conditions too.

        Raises:
            FileError: where it is damaged.
        """
        return read_log(self.output / LOG)

    @staticmethod
    def _check_count(held_out: int) -> None:
        least = metrics.DENSITY_NEIGHBOURS + 1
        if held_out < least:
            raise ValueError(f"held-out: at least {least} pictures are expected, got {held_out}")

    # --- pictures ----------------------------------------------------------------------------------

    def _read(self, paths: Sequence[Path]) -> Iterator[Tensor]:
        for first in range(0, len(paths), _BATCH):
            batch = [images.read_image(path, self.model.image_size) for path in paths[first : first + _BATCH]]
            yield torch.stack(batch)

    def _pictures(self, row: Row, seed: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """-> pictures (N, 3, H, W), figures of each (N,) by name"""
        if row.sampler.startswith("held-out"):
            for batch in self._read(self.held_out):
                made = self.model.reconstruct(batch, reduced=row.sampler == "held-out-reduced").cpu()
                error = (made - batch).square().mean((1, 2, 3)).clamp(min=1e-10)
                yield made, {"psnr": -10 * error.log10()}
        elif row.control:
            chance = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(self.model.bank.sources), generator=chance)[: self.protocol.samples]
            for pictures, index in self._source_pictures(chosen, row.sampler == "sources-decoded"):
                yield pictures, copying_values(self.model.bank, index, self.usual)
        else:
            settings, samples = row.settings_for(self.model), self.protocol.samples
            positions = drawn_positions(self.model, row.bank, seed)
            for first in range(0, samples, _BATCH):
                generated = self.model.generate(
                    seeds=range(seed * samples + first, seed * samples + min(first + _BATCH, samples)),
                    settings=settings,
                    sampler=row.sampler,
                    where=positions,
                    decoding=row.decoding,
                )
                yield generated.images.cpu(), copying_values(self.model.bank, generated.index.cpu(), self.usual)

    @torch.no_grad()
    def _source_pictures(self, chosen: Tensor, decoded: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """-> pictures (N, 3, H, W), index maps (N, h, w)"""
        variants = self.model.bank.variants.count
        for numbers in chosen.split(_BATCH):
            index = (numbers * variants)[:, None, None].expand(-1, *self.model.bank.grid).contiguous()
            if decoded:
                pictures = self.model.decode(index.to(self.model.bank.keys.device)).cpu()
            elif self.sources is None:
                pictures = torch.stack([self.model.source_picture(b * variants).cpu() for b in numbers.tolist()])
            else:
                (pictures,) = self._read([self.sources[b] for b in numbers.tolist()])
            yield pictures, index

    def _set(self, row: Row, seed: int, progress: Callable[[int], None]) -> PictureSet:
        result = PictureSet(self._set_size(row), self.protocol.pairs)
        for pictures, values in self._pictures(row, seed):
            result.take(pictures, self.features.features(pictures), values)
            progress(len(pictures))
        result.distances = self.perceptual.pair_distances(*result.pair_pictures())
        return result

    def _set_size(self, row: Row) -> int:
        if row.sampler.startswith("held-out"):
            return len(self.held_out)
        return min(self.protocol.samples, len(self.model.bank.sources)) if row.control else self.protocol.samples

    # --- figures -----------------------------------------------------------------------------------

    def _basis(self) -> Tensor | None:
        """Directions features are projected on for the Frechet distance. -> (D, directions)"""
        count, dimensions = self.reference.shape
        wanted = self.protocol.directions
        if wanted is None:
            wanted = DIRECTIONS if min(count, self.protocol.samples) <= dimensions else 0
        return metrics.leading_directions(self.reference, wanted) if 0 < wanted < dimensions else None

    @cached_property
    def spread(self) -> float:
        """Mean distance of random pairs of sources."""
        first, second = metrics.random_pairs(len(self.model.bank.sources), self.protocol.pairs)
        used, where = torch.cat([first, second]).unique(return_inverse=True)
        pictures = torch.cat([pictures for pictures, _ in self._source_pictures(used, False)])
        first, second = where.view(2, -1)
        return float(self.perceptual.pair_distances(pictures, first, second).mean())

    @cached_property
    def usual(self) -> float | None:
        """Median distance of held-out pictures to their nearest source; None where the pictures are not at hand."""
        if not self.held_out:
            return None
        keys = self.model.bank.keys_of(self._held_out_latents.to(self.model.autoencoder.device), self.model.pca)
        return float(nearest_distances(self.model.bank, keys).median())

    @cached_property
    def _held_out_latents(self) -> Tensor:
        """(M, L, h, w), as the bank keeps its own."""
        latents = [self.model.latents_of(batch).cpu() for batch in self._read(self.held_out)]
        return torch.cat(latents).half().float()

    def _figures(self, sets: Sequence[PictureSet]) -> dict[str, dict[str, Any]]:
        reference = self.reference
        projected = reference if self.basis is None else reference @ self.basis
        reduced = [each.features if self.basis is None else each.features @ self.basis for each in sets]
        kernels = [metrics.kernel_statistic(each.features, reference) for each in sets]

        def distance(s: int, weights: Tensor) -> float:
            return metrics.frechet_distance(reduced[s], projected, weights=weights)

        def diversity(s: int, weights: Tensor) -> float:
            each = sets[s]
            return metrics.weighted_pair_mean(each.distances, each.first, each.second, weights) / self.spread

        sizes = [len(each.features) for each in sets]
        figures = {
            "distance": self._figure(distance, sizes, least=0),
            "kernel": self._figure(lambda s, weights: kernels[s](weights), sizes),
            "precision": self._mean([metrics.precisions(each.features, reference) for each in sets]),
            "recall": self._mean([metrics.recalls(each.features, reference) for each in sets], shared=True),
            "density": self._mean([metrics.densities(each.features, reference) for each in sets]),
            "coverage": self._mean([metrics.coverages(each.features, reference) for each in sets], shared=True),
            "diversity": self._figure(diversity, sizes, least=0),
        }
        for name in sets[0].values:
            figures[name] = self._mean([torch.cat(each.values[name]) for each in sets])
        return figures

    def _mean(self, values: Sequence[Tensor], shared: bool = False) -> dict[str, Any]:
        """A figure that is the mean over pictures of each set, or of the reference, which all sets share."""

        def mean(s: int, weights: Tensor) -> float:
            return float(weights @ values[s].double() / weights.sum())

        low, high = (float(bound) for bound in torch.cat(list(values)).aminmax())
        return self._figure(mean, [len(each) for each in values], shared, low, high)

    def _figure(
        self,
        statistic: Callable[[int, Tensor], float],
        sizes: Sequence[int],
        shared: bool = False,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> dict[str, Any]:
        """Value, interval within what is possible, and the value of each set; ``statistic`` takes the set and its
        pictures' weights.
        """
        each = [statistic(s, torch.ones(n, dtype=torch.float64)) for s, n in enumerate(sizes)]

        def average(weights: Sequence[Tensor]) -> float:
            return sum(statistic(s, weights[0 if shared else s]) for s in range(len(sizes))) / len(sizes)

        drawn = sizes[:1] if shared else sizes
        interval = None
        if self.protocol.resamples:
            interval = [min(max(end, least), most) for end in bootstrap(average, drawn, self.protocol.resamples)]
        return {"value": sum(each) / len(each), "interval": interval, "sets": each}

    # --- files -------------------------------------------------------------------------------------

    def _append(self, entry: Mapping[str, Any]) -> None:
        lines = [json.dumps(each, sort_keys=True) for each in [*self.entries(), entry]]
        with files.staged(self.output) as staging:
            (staging / LOG).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _sheets(self, name: str, identity: Mapping[str, Any], sets: Sequence[PictureSet]) -> dict[str, str]:
        text = json.dumps([identity, self.conditions], sort_keys=True)
        slug = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:60].strip("-")
        stem = f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        worst = sorted((pair for each in sets for pair in each.worst), key=lambda pair: -pair[0])[:ON_SHEET]
        sheets = {"first": sets[0].opening}
        if worst and worst[0][0] > 0:
            sheets["worst"] = [picture for _, picture in worst]
        paths = {}
        with files.staged(self.output / SHEETS) as staging:
            for kind, pictures in sheets.items():
                file = f"{stem}-{kind}.png"
                images.write_image(staging / file, images.contact_sheet(torch.stack(pictures)))
                paths[kind] = f"{SHEETS}/{file}"
        return paths


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a log; none where it is not there.

    Raises:
        FileError: where a line is damaged.
    """
    if not path.exists():
        return []
    entries = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not isinstance(entry.get("conditions"), dict):
                raise ValueError("no entry of an evaluation")
        except (ValueError, RecursionError) as error:
            raise FileError(f"{path}, line {number}: damaged ({error}); delete the line to make it again") from error
        entries.append(entry)
    return entries


def with_copier(rows: Sequence[Row]) -> list[Row]:
    """A table's rows, the copier first: what wins on distance by copying stands beside what is evaluated."""
    return list(rows) if any(row.sampler == COPIER.sampler for row in rows) else [COPIER, *rows]


def _is_copying(figures: Mapping[str, Any]) -> bool:
    if "largest_share" not in figures:
        return False
    return bool(figures["largest_share"]["value"] >= FLAG_SHARE or figures["copied"]["value"] >= FLAG_COPIES)


def _digest(held_out: Sequence[Path], sources: Sequence[Path] | None) -> str:
    """SHA-256 over the held-out files.

    Raises:
        FileError: where one of them is a source.
    """
    try:
        known = {sha256_of(path): path for path in sources or ()}
        total = hashlib.sha256()
        for path in held_out:
            digest = sha256_of(path)
            if digest in known:
                raise FileError(f"{path}: held out, and a source as {known[digest]}; figures would reward copying")
            total.update(digest.encode())
    except OSError as error:
        raise FileError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return total.hexdigest()
