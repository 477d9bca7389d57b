"""Removing sources from a fitted model, and the proof that nothing of them is left.

A model holds its sources in the open: latents and keys row by row, and a PCA fitted on all of them. So forgetting can
be exact, and be checked on the file that is written, without trust in the code that removed: the file is read back and
compared, bit for bit, with a model fitted on what remains; its bytes are searched for the removed latents; and seeds
are run with both models.
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
from ..bank.latents import fit_pca
from ..bank.pca import PCA
from ..errors import LatentPatchError
from ..methods.base import Context
from ..model import LatentPatch
from ..ops.noise import noise_from_seeds
from ..registry import SAMPLERS
from ..settings import Settings

__all__ = ["Check", "UnlearningError", "check_removable", "unlearned", "verify_unlearning"]

_BATCH = 64  # seeds searched together


class UnlearningError(LatentPatchError):
    """A removal could not be proved."""


@dataclass(frozen=True)
class Check:
    """One part of the proof.

    Attributes:
        name: what was checked.
        passed: whether it holds.
        facts: what was found.
    """

    name: str
    passed: bool
    facts: dict[str, Any]

    def record(self) -> dict[str, Any]:
        return {"check": self.name, "passed": self.passed, **self.facts}


def check_removable(model: LatentPatch, ids: Sequence[str], settings: Settings | None = None) -> None:
    """Refuse what cannot be removed.

    Raises:
        ValueError: for an id that is unknown or given twice, where fewer sources would remain than the settings (the
            model's by default) draw from, and for settings that do not fit its grid.
    """
    repeated = [name for name in ids if ids.count(name) > 1]
    if not ids or repeated:
        raise ValueError(f"ids {list(ids)!r}: different ones, at least one, are expected")
    model.bank.members(ids)
    remaining = len(model.bank.sources) - len(ids)
    if remaining < 1:
        raise ValueError(f"removing {len(ids)} of {len(model.bank.sources)} sources would leave none")
    settings = settings or model.settings
    SAMPLERS.of(settings).validate(settings, Context(model.bank.grid, remaining))


def unlearned(path: str | Path, ids: Sequence[str], autoencoder: str | None = None) -> LatentPatch:
    """The model of a file without some of its sources.

    Raises:
        FileError, WeightsError: as :meth:`LatentPatch.load`.
        ValueError: as :meth:`LatentPatch.remove`.
    """
    model = LatentPatch.load(path, autoencoder)
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
    """The proof that a file holds nothing of removed sources.

    Args:
        before: the model with them.
        after: the model without them, as read back from the file.
        path: the file.
        ids: of the removed sources.
        seeds: to generate with both models.
        pictures: files of the sources that remain, in the bank's order, to fit a model anew from; none to fit it from
            the latents that remain in ``before``.
        settings: of the sampler; by default the model's.
    """
    settings = settings or before.settings
    checks = [_names(before, after, ids), _refit(before, after, ids)]
    if pictures:
        checks.append(_encoded_again(before, after, pictures))
    return [*checks, _bytes(before, path, ids), _seeds(before, after, ids, seeds, settings)]


def _names(before: LatentPatch, after: LatentPatch, ids: Sequence[str]) -> Check:
    gone = set(before.bank.members(ids))
    named = enumerate(zip(before.bank.ids, before.bank.attributes, strict=True))
    kept = [known for b, known in named if b not in gone]
    same = kept == list(zip(after.bank.ids, after.bank.attributes, strict=True))
    same &= before.bank.variants == after.bank.variants
    facts = {"sources_before": len(before.bank.sources), "sources_after": len(after.bank.sources)}
    return Check("ids and attributes are those of the others", same, facts)


def _refit(before: LatentPatch, after: LatentPatch, ids: Sequence[str]) -> Check:
    """Fit PCA and bank anew, by other objects than those that removed."""
    gone = set(before.bank.members(ids))
    kept = [b for b in range(len(before.bank)) if b not in gone]
    latents, codebook = before.bank.latents[kept], before.autoencoder.codebook
    residuals = before.bank.residuals[kept] if before.bank.has_residuals else None
    pca = PCA().to(before.bank.keys.device)
    fit_pca(pca, latents, codebook, before.components)
    bank = SourceBank().to(before.bank.keys.device)
    known = {before.bank.ids[b]: before.bank.attributes[b] for b in kept}
    names = [name for name in before.bank.sources if name in known]
    bank.fill(latents, names, pca, known, codebook, variants=before.bank.variants, residuals=residuals)
    return _equal("equal, bit for bit, to a model fitted on the remaining latents", pca, bank, after)


def _encoded_again(before: LatentPatch, after: LatentPatch, pictures: Sequence[Path]) -> Check:
    model = LatentPatch(before.autoencoder, before.components, before.settings)
    bank, variants = after.bank, after.bank.variants
    known = dict(zip(bank.ids, bank.attributes, strict=True))
    model.fit(
        pictures,
        ids=bank.sources,
        attributes=known,
        size=after.image_size,
        residuals=bank.has_residuals,
        **variants.record(),
    )
    check = _equal("equal, bit for bit, to a model fitted on the remaining pictures", model.pca, model.bank, after)
    return Check(check.name, check.passed, {**check.facts, "pictures": len(pictures)})


def _equal(name: str, pca: PCA, bank: SourceBank, after: LatentPatch) -> Check:
    differing = [
        f"{part}.{key}"
        for part, ours, theirs in (("pca", pca, after.pca), ("bank", bank, after.bank))
        for key, value in ours.fitted().items()
        if not _same(value, theirs.fitted()[key])
    ]
    same_digest = bank.computed_digest() == after.bank.computed_digest()
    return Check(name, not differing and same_digest, {"differing": differing, "sources_sha256": bank.digest()})


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other.to(one.device))


def _bytes(before: LatentPatch, path: str | Path, ids: Sequence[str]) -> Check:
    """Search the file for every row of cells of the removed latents and details, wherever it might lie.

    Rows that a source that remains holds too (a plain background) are its own. Where it holds all of them, it is the
    same picture under another id, and the check fails.
    """
    gone = before.bank.members(ids)
    kept = [b for b in range(len(before.bank)) if b not in set(gone)]
    bank = before.bank
    parts = [bank.latents, bank.residuals] if bank.has_residuals else [bank.latents]
    wanted = {row for b in gone for stored in parts for row in _rows(stored[b])}
    shared: set[bytes] = set()
    for first in range(0, len(kept), _BATCH):
        for stored in parts:
            shared |= wanted.intersection(_rows(stored[kept[first : first + _BATCH]].flatten(0, 1)))
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = sum(data.find(row) >= 0 for row in wanted - shared)
        size = len(data)
    facts = {"bytes": size, "rows_searched": len(wanted - shared), "rows_found": found, "rows_others_have": len(shared)}
    return Check("no row of the removed latents and details is in the file", not found and shared != wanted, facts)


def _rows(latents: Tensor) -> list[bytes]:
    """Rows of cells ``(rows, w, L)`` as the file holds them."""
    return [row.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for row in latents]


def _seeds(
    before: LatentPatch, after: LatentPatch, ids: Sequence[str], seeds: Sequence[int], settings: Settings
) -> Check:
    """Run seeds with both models: how many pictures the removed sources are in."""
    removed = {before.bank.ids[b] for b in before.bank.members(ids)}
    occurred = [_occurrences(model, removed, seeds, settings) for model in (before, after)]
    facts = {"seeds": len(seeds), "first_seed": seeds[0], "pictures_before": occurred[0], "pictures_after": occurred[1]}
    return Check("no seed gives a picture with a removed source", occurred[1] == 0, facts)


@torch.no_grad()
def _occurrences(model: LatentPatch, ids: set[str], seeds: Sequence[int], settings: Settings) -> int:
    gone = torch.tensor([b for b, name in enumerate(model.bank.ids) if name in ids], device=model.bank.keys.device)
    sampler, total = SAMPLERS.of(settings), 0
    context = Context(model.bank.grid, len(model.bank.sources))
    settings = sampler.resolve(settings, context)
    noise_dim = sampler.noise_dim(settings, context)
    for first in range(0, len(seeds), _BATCH):
        noise = noise_from_seeds(seeds[first : first + _BATCH], noise_dim, model.bank.keys.device)
        index = model.bank.sample(sampler, noise, settings)
        total += int(torch.isin(index, gone).flatten(1).any(1).sum())
    return total
