"""Removal of sources from a fitted model, and a proof that nothing of them remains.

A model stores its sources explicitly: latents and keys row by row, and a PCA fitted on all of them. So removal can be
exact, and be verified on the new file without trust in the code that removed them: the file is read back and compared,
bit for bit, with a model fitted on the remaining sources; its bytes are searched for the removed latents; and both
models generate images of the same seeds.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bank.bank import SourceBank
from ..bank.common import Common
from ..bank.latents import fit_pca
from ..bank.pca import PCA
from ..errors import SettingError
from ..fitting import cell_colors
from ..io.atomic import tensor_bytes
from ..methods.base import Context
from ..model import LatentPatch
from ..ops.noise import noise_from_seeds
from ..registry import SAMPLERS
from ..settings import Settings
from .audit import CopyLimits
from .copying import nearest_groups, source_distances

__all__ = [
    "Check",
    "Similar",
    "check_removable",
    "nearest_remaining",
    "refuse_similar",
    "unlearned",
    "verify_unlearning",
]

_BATCH = 64  # images generated, or sources compared, together


@dataclass(frozen=True)
class Check:
    """One part of the proof.

    Attributes:
        name: the statement that was checked.
        passed: whether it holds.
        facts: numbers and names to report.
    """

    name: str
    passed: bool
    facts: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the check as JSON holds it."""
        return {"check": self.name, "passed": self.passed, **self.facts}


@dataclass(frozen=True)
class Similar:
    """The sources that remain and are most like a removed one.

    Attributes:
        id: id of the removed source.
        nearest: id of the nearest remaining source.
        relative: its distance, relative to the mean distance to the next nearest of other groups; None where all
            sources count as one. An audit takes a picture so near to a source for a copy where it is below
            :attr:`~latentpatch.provenance.audit.CopyLimits.relative`.
        group: ids of the remaining sources that count as one with it.
    """

    id: str
    nearest: str
    relative: float | None
    group: tuple[str, ...]

    @property
    def is_copy(self) -> bool:
        """True if a source remains that an audit would call a copy of the removed one."""
        return bool(self.group) or (self.relative is not None and self.relative < CopyLimits().relative)

    def record(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        relative = None if self.relative is None else round(self.relative, 4)
        return {"id": self.id, "nearest": self.nearest, "relative": relative, "group": list(self.group)}


@torch.no_grad()
def nearest_remaining(model: LatentPatch, ids: Sequence[str]) -> list[Similar]:
    """Return, for each source to remove, those of the others that are most like it.

    Args:
        model: the model with all sources.
        ids: ids of the sources to remove, some but not all.

    Raises:
        SettingError: for an unknown id.
    """
    bank, count = model.bank, model.bank.variants.count
    rows = torch.tensor(bank.members(ids), device=bank.keys.device)[::count]
    distances = source_distances(bank.validated_keys()[rows], bank.keys).view(len(rows), -1, count).amin(2).cpu()
    numbers, removed = bank.group_numbers, rows.cpu() // count
    distances[:, removed] = float("inf")
    relative = nearest_groups(bank, distances).relative.tolist() if bank.num_groups > 1 else [None] * len(rows)
    found = []
    for name, row, own, ratio in zip(ids, removed.tolist(), distances, relative, strict=True):
        is_same = (numbers == numbers[row]) & own.isfinite()
        group = tuple(bank.sources[s] for s in is_same.nonzero()[:, 0].tolist())
        found.append(Similar(name, bank.sources[int(own.argmin())], ratio, group))
    return found


def check_removable(
    model: LatentPatch, ids: Sequence[str], settings: Settings | None = None, keep_similar: bool = False
) -> list[Similar]:
    """Refuse ids that cannot be removed, and return the remaining sources that are most like them.

    Args:
        model: the model to remove them from.
        ids: ids of sources.
        settings: settings that the remaining sources must suffice for; by default the model's.
        keep_similar: allow that a source remains that counts as one with a removed one, or that an audit would call
            a copy of it.

    Raises:
        ValueError: for an id that is unknown or repeated, where fewer sources would remain than the settings draw from,
            for settings that do not fit the grid, and where a similar source remains.
    """
    if not ids or len(set(ids)) < len(ids):
        raise SettingError("ids", list(ids), "at least one id, each once")
    model.bank.members(ids)
    bank = model.bank
    if len(bank.sources) <= len(ids):
        raise SettingError("ids", len(ids), f"fewer than the {len(bank.sources)} sources")
    settings = settings or model.settings
    remaining = torch.tensor(_remaining(bank, ids), device=bank.keys.device)
    SAMPLERS.of(settings).validate(settings, Context(bank.grid, bank.count_groups(remaining)))
    similar = nearest_remaining(model, ids)
    if not keep_similar:
        refuse_similar(similar)
    return similar


def refuse_similar(similar: Sequence[Similar], option: str = "keep_similar") -> None:
    """Refuse to leave sources that count as one with a removed one, or that an audit would call a copy of it.

    Args:
        similar: what :func:`nearest_remaining` found.
        option: name of the option that allows it, for the message.

    Raises:
        SettingError: about that option.
    """
    for each in similar:
        if each.group:
            reason = f"{', '.join(each.group)}, which count as one source with it"
        elif each.is_copy:
            reason = f"{each.nearest}, which is at {each.relative:.2f} of the distance to the next ones"
        else:
            continue
        raise SettingError(option, False, f"set to remove {each.id} without {reason}")


def unlearned(
    path: str | Path, ids: Sequence[str], autoencoder: str | None = None, keep_similar: bool = False
) -> LatentPatch:
    """Load the model of a file without some of its sources.

    Args:
        path: the file.
        ids: ids of the sources to remove.
        autoencoder: see :meth:`LatentPatch.load`.
        keep_similar: see :func:`check_removable`.

    Raises:
        FileError, WeightsError: as :meth:`LatentPatch.load`.
        ValueError: as :meth:`LatentPatch.remove`, and where a similar source would remain.
    """
    model = LatentPatch.load(path, autoencoder)
    model.bank.members(ids)
    if not keep_similar and len(set(ids)) < len(model.bank.sources):
        refuse_similar(nearest_remaining(model, ids))
    model.remove(ids, refit=True)
    return model


def verify_unlearning(
    before: LatentPatch,
    after: LatentPatch,
    path: str | Path,
    ids: Sequence[str],
    seeds: Sequence[int],
    pictures: Sequence[Path] = (),
    settings: Settings | None = None,
) -> list[Check]:
    """Check that a file holds nothing of removed sources.

    Args:
        before: the model with them.
        after: the model without them, as read back from the file.
        path: the file.
        ids: ids of the removed sources.
        seeds: seeds to generate with both models.
        pictures: files of the remaining sources in the bank's order, for a check that also encodes them again.
        settings: settings of the sampler; by default the model's.
    """
    settings = settings or before.settings
    checks = [_check_names(before, after, ids), _check_refit(before, after, ids)]
    if pictures:
        checks.append(_check_encoding(before, after, pictures))
    return [*checks, _check_bytes(before, path, ids), _check_seeds(before, after, ids, seeds, settings)]


def _check_names(before: LatentPatch, after: LatentPatch, ids: Sequence[str]) -> Check:
    expected = [(before.bank.ids[b], before.bank.attributes[b]) for b in _remaining(before.bank, ids)]
    is_same = expected == list(zip(after.bank.ids, after.bank.attributes, strict=True))
    is_same &= before.bank.variants == after.bank.variants
    facts = {"sources_before": len(before.bank.sources), "sources_after": len(after.bank.sources)}
    return Check("ids and attributes are those of the others", is_same, facts)


def _remaining(bank: SourceBank, ids: Sequence[str]) -> list[int]:
    """Return the positions of all sources but those of ids."""
    removed = set(bank.members(ids))
    return [b for b in range(len(bank)) if b not in removed]


def _check_refit(before: LatentPatch, after: LatentPatch, ids: Sequence[str]) -> Check:
    """Compare with PCA and bank fitted on the remaining latents, by other objects than those that removed."""
    kept = _remaining(before.bank, ids)
    latents, codebook = before.bank.latents[kept], before.autoencoder.codebook
    residuals = before.bank.residuals[kept] if before.bank.has_residuals else None
    pca = PCA().to(before.bank.keys.device)
    fit_pca(pca, latents, codebook, before.components)
    bank = SourceBank().to(before.bank.keys.device)
    attributes = {before.bank.ids[b]: before.bank.attributes[b] for b in kept}
    names = [name for name in before.bank.sources if name in attributes]
    variants, grouping = before.bank.variants, before.bank.grouping
    rows = [b // variants.count for b in kept[:: variants.count]]
    was = before.bank.common
    grounds, masks = (was.grounds[rows], was.masks[kept]) if len(was.grounds) else (was.grounds, was.masks)
    common = Common(was.grey[rows], grounds, masks)
    bank.fill(latents, names, pca, attributes, codebook, None, variants, residuals, grouping, common)
    bank.find_groups(cell_colors(before.autoencoder, bank))
    return _compare("equal, bit for bit, to a model fitted on the remaining latents", pca, bank, after)


def _check_encoding(before: LatentPatch, after: LatentPatch, pictures: Sequence[Path]) -> Check:
    """Compare with a model fitted on the remaining sources' files."""
    model = LatentPatch(before.autoencoder, before.components, before.settings)
    model.precision = after.bank.precision
    bank, variants = after.bank, after.bank.variants
    attributes = dict(zip(bank.ids, bank.attributes, strict=True))
    model.fit(
        pictures,
        ids=bank.sources,
        attributes=attributes,
        size=after.image_size,
        residuals=bank.residual_choice,
        **variants.record(),
        **bank.grouping.record(),
    )
    if not len(bank.grounds):  # others may share what the removed ones did not; that is not in the file
        model.bank.grounds, model.bank.masks = bank.grounds, bank.masks
    check = _compare("equal, bit for bit, to a model fitted on the remaining pictures", model.pca, model.bank, after)
    return Check(check.name, check.passed, {**check.facts, "pictures": len(pictures)})


def _compare(name: str, pca: PCA, bank: SourceBank, after: LatentPatch) -> Check:
    """Check that a model's PCA and bank are these, bit for bit."""
    differing = [
        f"{part}.{key}"
        for part, expected, actual in (("pca", pca, after.pca), ("bank", bank, after.bank))
        for key, value in expected.fitted().items()
        if not _is_same(value, actual.fitted()[key])
    ]
    is_same = not differing and bank.computed_digest() == after.bank.computed_digest()
    return Check(name, is_same, {"differing": differing, "sources_sha256": bank.digest()})


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other.to(one.device))


def _check_bytes(before: LatentPatch, path: str | Path, ids: Sequence[str]) -> Check:
    """Search the file, at every offset, for each row of cells of the removed latents and residuals.

    Rows that a remaining source also has (a plain background) are left out. Where it has all of them, it is the same
    image under another id, and the check fails.
    """
    bank, kept = before.bank, _remaining(before.bank, ids)
    parts = [stored for stored in (bank.latents, bank.residuals, bank.masks) if stored.numel()]
    removed = {bytes(tensor_bytes(row)) for b in bank.members(ids) for stored in parts for row in stored[b]}
    shared: set[bytes] = set()
    for first in range(0, len(kept), _BATCH):
        for stored in parts:
            rows = stored[kept[first : first + _BATCH]].flatten(0, 1)
            shared |= removed.intersection(bytes(tensor_bytes(row)) for row in rows)
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = sum(data.find(row) >= 0 for row in removed - shared)
        size = len(data)
    searched = len(removed - shared)
    facts = {"bytes": size, "rows_searched": searched, "rows_found": found, "rows_others_have": len(shared)}
    return Check("no row of the removed latents and residuals is in the file", not found and shared != removed, facts)


def _check_seeds(
    before: LatentPatch, after: LatentPatch, ids: Sequence[str], seeds: Sequence[int], settings: Settings
) -> Check:
    """Count the images with cells of removed sources, of the same seeds with both models."""
    removed = {before.bank.ids[b] for b in before.bank.members(ids)}
    first, second = (_count_images_with(removed, model, seeds, settings) for model in (before, after))
    facts = {"seeds": len(seeds), "first_seed": seeds[0], "pictures_before": first, "pictures_after": second}
    return Check("no seed gives a picture with a removed source", second == 0, facts)


@torch.no_grad()
def _count_images_with(ids: set[str], model: LatentPatch, seeds: Sequence[int], settings: Settings) -> int:
    """Return the number of seeds whose image has cells of some sources."""
    searched = torch.tensor([b for b, name in enumerate(model.bank.ids) if name in ids], device=model.bank.keys.device)
    sampler, total = SAMPLERS.of(settings), 0
    context = model.context()
    settings = sampler.resolve(settings, context)
    noise_dim = sampler.noise_dim(settings, context)
    for first in range(0, len(seeds), _BATCH):
        noise = noise_from_seeds(seeds[first : first + _BATCH], noise_dim, model.bank.keys.device)
        index = model.bank.sample(sampler, noise, settings)
        total += int(torch.isin(index, searched).flatten(1).any(1).sum())
    return total
