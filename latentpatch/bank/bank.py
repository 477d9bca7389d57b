"""The sources: what new images are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError, SettingError
from ..io.atomic import tensor_bytes
from ..io.mmap import Rows
from ..methods.base import Sampler
from ..methods.latent.search.keys import KEY_NORM, to_keys
from ..methods.latent.search.prepared import MAX_KEPT, Groups, PreparedSources
from ..settings import Settings
from .augmentation import Variants
from .fitted_module import FittedModule, pack, unpack
from .pca import PCA

__all__ = ["SourceBank"]

_CHUNK = 1 << 21  # elements handled at a time, so that temporaries stay small beside the bank


class SourceBank(FittedModule):
    """B sources: the reduced latents that are searched and the full ones that are decoded.

    Tensors, which move with the module and are in its state dict:
        keys: ``(B, h, w, r)`` int16, PCA-reduced latents in units of ``key_step``: see
            :mod:`latentpatch.methods.latent.search.keys` for why the search works on integers.
        key_step: scalar float32, size of a unit of ``keys`` in the latents' own units.
        latents: ``(B, h, w, L)`` float16 full latents, or where the autoencoder has a codebook
            ``(B, h, w, q)`` int16 code indices, q of them a cell (with q = 1 on a 16x16 grid, 512 bytes a source).
        details: ``(B, h, w, d)`` int8, what the autoencoder loses of each cell's picture, see
            :mod:`latentpatch.bank.residuals`; without elements where that is not kept.

    Attributes:
        ids: one stable name a source, unique.
        attributes: one mapping of attribute names to text a source; empty where nothing is known.
        variants: how pictures entered: those of one are B sources side by side, :attr:`Variants.count` of them, itself
            first, with the same attributes.
        mapped: whether keys and latents are in a file (:mod:`latentpatch.io.mmap`) and too large to be read
            beforehand. Values are then checked when they are used, :meth:`digest` is what the file says, and
            latents stay where they are when the module moves to another device.
    """

    keys: Tensor
    key_step: Tensor
    latents: Tensor
    details: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_fitted("keys", torch.zeros(0, 0, 0, 0, dtype=torch.int16))
        self.register_fitted("key_step", torch.ones(()))
        self.register_fitted("latents", torch.zeros(0, 0, 0, 0, dtype=torch.float16))
        self.register_fitted("details", torch.zeros(0, 0, 0, 0, dtype=torch.int8), optional=True)
        self.ids: list[str] = []
        self.attributes: list[dict[str, str]] = []
        self.variants = Variants()
        self._prepared: PreparedSources | None = None
        self._subset: tuple[Tensor, PreparedSources] | None = None
        self.mapped = False
        self._keys_unchecked = False
        self._claimed_digest: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Copies prepare their own.
        return {**self.__dict__, "_prepared": None, "_subset": None}

    @classmethod
    def over(cls, tensors: Mapping[str, Tensor], digest: str | None = None) -> SourceBank:
        """A mapped bank over the tensors of its state dict, whose file says that ``digest`` is theirs.

        Raises:
            RuntimeError, ValueError: where names, types or shapes are not those of a bank.
        """
        bank = cls()
        bank.mapped = True
        bank.load_state_dict(dict(tensors), assign=True)
        bank._claimed_digest = digest
        return bank

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sources(self) -> list[str]:
        """Ids of the pictures, without those of their variants."""
        return self.ids[:: self.variants.count]

    @property
    def groups(self) -> Tensor:
        """Which of :attr:`sources` each position is a variant of: ``(B,)`` int64."""
        return self.variants.sources_of(torch.arange(len(self), device=self.keys.device))

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w) of every source."""
        return self.keys.shape[1], self.keys.shape[2]

    @property
    def coded(self) -> bool:
        """Whether :attr:`latents` are code indices."""
        return self.latents.dtype == torch.int16

    @property
    def detailed(self) -> bool:
        """Whether there are :attr:`details`."""
        return self.details.numel() > 0

    def fill(
        self,
        latents: Tensor,
        ids: Sequence[str],
        pca: PCA,
        attributes: Mapping[str, Mapping[str, str]] | None = None,
        codebook: Tensor | None = None,
        scratch: str | Path | None = None,
        variants: Variants | None = None,
        details: Tensor | None = None,
    ) -> SourceBank:
        """Replace the sources. Returns itself.

        Args:
            latents: ``(B, h, w, L)`` float16, or ``(B, h, w, q)`` int16 code indices.
            ids: unique names of the pictures: B, where there are no variants.
            pca: fitted on these latents.
            attributes: attributes by id; ids that are missing have none.
            codebook: ``(codes, L)``, where ``latents`` are indices.
            scratch: folder for a file the keys are kept in, where ``latents`` are in one: the bank is then
                :attr:`mapped`.
            variants: how the pictures entered; by default as they are.
            details: ``(B, h, w, d)`` int8, where they are kept.

        Raises:
            ValueError: for repeated ids or counts that do not agree.
        """
        variants = variants or Variants()
        _check_ids(variants.ids(ids), len(latents))
        largest = max(
            (float(reduced.norm(dim=1).max()) for reduced in _reduced(latents, pca, codebook)),
            default=0.0,
        )
        # Half the range is left free for sources and references that lie farther out.
        step = 2 * largest / KEY_NORM or 1.0
        self.key_step = torch.tensor(step, dtype=torch.float32, device=self.keys.device)
        details = self.details.new_zeros(0, 0, 0, 0) if details is None else details
        self.latents, self.details = (
            each if scratch is not None else each.to(self.keys.device) for each in (latents, details)
        )
        self.keys = self._keys_of(latents, pca, codebook, scratch)
        self.variants, self.ids = variants, variants.ids(ids)
        self.attributes = _aligned(attributes, ids, variants.count)
        self.mapped, self._keys_unchecked, self._claimed_digest = scratch is not None, False, None
        self._forget()
        return self

    def add(
        self,
        latents: Tensor,
        ids: Sequence[str],
        pca: PCA,
        attributes: Mapping[str, Mapping[str, str]] | None = None,
        codebook: Tensor | None = None,
        details: Tensor | None = None,
    ) -> None:
        """Append sources, projected by the PCA as it is; those already here do not change.

        Arguments and errors are those of :meth:`fill`; variants are as those already here, and so is whether there are
        details.
        """
        added = self.variants.ids(ids)
        _check_ids([*self.ids, *added], len(self) + len(latents))
        if latents.shape[1:] != self.latents.shape[1:]:
            wanted = ", ".join(map(str, self.latents.shape[1:]))
            raise ValueError(f"latents: shape (B, {wanted}) is expected, got {tuple(latents.shape)}")
        details = self.details[:0] if details is None else details
        if self.detailed and details.shape != (len(latents), *self.details.shape[1:]):
            wanted = ", ".join(map(str, (len(latents), *self.details.shape[1:])))
            raise ValueError(f"details: shape ({wanted}) is expected, got {tuple(details.shape)}")
        self._hold()
        keys = self._keys_of(latents, pca, codebook)
        self.keys = torch.cat([self.keys, keys])
        self.latents = torch.cat([self.latents, latents.to(self.latents)])
        if self.detailed:
            self.details = torch.cat([self.details, details.to(self.details)])
        self.ids = [*self.ids, *added]
        self.attributes = [*self.attributes, *_aligned(attributes, ids, self.variants.count)]

    def remove(self, ids: Sequence[str]) -> None:
        """Remove pictures by id, with all variants: their latents leave every buffer; the others do not change.

        Raises:
            ValueError: for an id that is not here, or of a variant.
        """
        positions = set(self.members(ids))
        self._hold()
        keep = [b for b in range(len(self)) if b not in positions]
        index = torch.tensor(keep, dtype=torch.int64, device=self.keys.device)
        self.keys = self.keys[index]
        self.latents = self.latents[index]
        self.details = self.details[index] if self.detailed else self.details
        self.ids = [self.ids[b] for b in keep]
        self.attributes = [self.attributes[b] for b in keep]
        self._forget()

    def subset(self, positions: Sequence[int] | Tensor) -> SourceBank:
        """Return a bank of some sources, whose keys keep their values and unit.

        Args:
            positions: ascending; variants of a source are there together, or none is.

        Raises:
            SettingError: for no positions, or only some of a source's variants.
            FileError: where this bank is mapped, and its file holds something else there.
        """
        rows = torch.as_tensor(positions, dtype=torch.int64)
        part = SourceBank()
        part._copy_rows(self, rows)
        part.ids, part.attributes = ([every[b] for b in rows.tolist()] for every in (self.ids, self.attributes))
        if not part.ids or part.ids != part.variants.ids(part.sources):
            raise SettingError("positions", rows.tolist(), "those of sources with all of their variants, at least one")
        if self.mapped:
            try:
                part.check()
            except ValueError as error:
                raise FileError(f"malformed model file: {error}") from error
        return part

    def _copy_rows(self, bank: SourceBank, rows: slice | Tensor) -> None:
        """Take over some rows of a bank's tensors; a slice of a mapped bank stays mapped."""
        self.variants, self.key_step = bank.variants, bank.key_step
        self.mapped = bank.mapped and isinstance(rows, slice)
        self._keys_unchecked = self.mapped and bank._keys_unchecked
        for name in ("keys", "latents", "details"):
            stored = getattr(bank, name)
            if name == "details" and not bank.detailed:
                part = stored
            elif isinstance(rows, Tensor):
                part = stored[rows.to(stored.device)]
            else:  # a view would keep all of what is in memory
                part = stored[rows] if bank.mapped else stored[rows].clone()
            setattr(self, name, part.to(bank.keys.device) if not self.mapped else part)

    def positions(self, ids: Sequence[str]) -> list[int]:
        """Index of each id in the bank.

        Raises:
            ValueError: for an id that is not here.
        """
        where = {name: b for b, name in enumerate(self.ids)}
        unknown = [name for name in ids if name not in where]
        if unknown:
            raise ValueError(f"source {unknown[0]!r} is not in the bank of {len(self)} sources")
        return [where[name] for name in ids]

    def members(self, ids: Sequence[str]) -> list[int]:
        """Positions of pictures and of all their variants.

        Raises:
            ValueError: for an id that is not here, or of a variant.
        """
        count, found = self.variants.count, self.positions(ids)
        for name, b in zip(ids, found, strict=True):
            if b % count:
                picture = self.ids[b - b % count]
                raise ValueError(
                    f"source {name!r}: a variant of {picture!r}, whose id is expected: all of its variants go together"
                )
        return [b + variant for b in found for variant in range(count)]

    def select(self, predicate: Callable[[Mapping[str, str]], bool]) -> Tensor:
        """Positions of the sources whose attributes satisfy a predicate: ``(B',)`` int64, ascending. A picture's
        variants are there together, or none is.
        """
        count = self.variants.count
        chosen = [count * s for s, known in enumerate(self.attributes[::count]) if predicate(known)]
        first = torch.tensor(chosen, dtype=torch.int64, device=self.keys.device)
        return (first[:, None] + torch.arange(count, device=first.device)).flatten()

    def check(self) -> None:
        """Refuse contents that do not fit together, as a file may hold them.

        Raises:
            ValueError: saying what is wrong.
        """
        self._check_layout()
        self._check_keys()
        for latents in chunks(self.latents):
            self._check_latents(latents)

    def _check_layout(self) -> None:
        _check_ids(self.ids, self.keys.shape[0])
        if self.keys.ndim != 4 or self.keys.dtype != torch.int16 or not self.keys.numel():
            raise ValueError(
                f"keys are {self.keys.dtype} of shape {tuple(self.keys.shape)}, int16 (B, h, w, r) is expected"
            )
        if self.latents.shape[:3] != self.keys.shape[:3] or self.latents.ndim != 4:
            raise ValueError(f"latents of shape {tuple(self.latents.shape)} for keys of {tuple(self.keys.shape)}")
        if self.latents.dtype not in (torch.float16, torch.int16) or not self.latents.numel():
            raise ValueError(f"latents are {self.latents.dtype}, float16 or int16 is expected")
        if self.details.dtype != torch.int8 or self.details.ndim != 4:
            raise ValueError(
                f"details are {self.details.dtype} {tuple(self.details.shape)}, int8 of 4 axes is expected"
            )
        if self.detailed and (self.details.shape[:3] != self.keys.shape[:3] or self.details.shape[3] % 12):
            raise ValueError(f"details of shape {tuple(self.details.shape)} for keys of {tuple(self.keys.shape)}")
        if len(self.attributes) != len(self.ids):
            raise ValueError(f"{len(self.attributes)} rows of attributes for {len(self.ids)} sources")
        if self.ids != self.variants.ids(self.sources):
            raise ValueError(f"ids are not those of sources with {self.variants.count} variants each")
        if self.key_step.shape != () or not (float(self.key_step) > 0 and float(self.key_step) < float("inf")):
            raise ValueError("key_step is not a positive number")

    def _check_keys(self) -> None:
        for keys in chunks(self.keys):
            # Single precision is exact up to 2^24, and KEY_NORM squared is below.
            if keys.numel() and float(keys.float().square().sum(3).max()) > KEY_NORM**2:
                raise ValueError(f"keys are longer than {KEY_NORM}")
        self._keys_unchecked = False

    def _check_latents(self, latents: Tensor) -> None:
        if not bool(torch.isfinite(latents).all()) or (self.coded and int(latents.min()) < 0):
            raise ValueError("latents hold NaN or infinite values or negative codes")

    def searchable(self) -> Tensor:
        """:attr:`keys`, which the first search of a mapped bank checks.

        Raises:
            FileError: where the file they are in holds something else.
        """
        if self._keys_unchecked:
            try:
                self._check_keys()
            except ValueError as error:
                raise FileError(f"malformed model file: {error}") from error
        return self.keys

    def _hold(self) -> None:
        """Bring what is mapped into memory, checked."""
        if self.mapped:
            self.check()
            self.mapped, self._claimed_digest = False, None
            self.latents, self.details = self.latents.to(self.keys.device), self.details.to(self.keys.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SourceBank:
        latents, details = self.latents, self.details
        if self.mapped:
            self.latents, self.details = latents[:0], details[:0]  # a move would read all of them
        self._forget()
        try:
            super()._apply(fn, recurse)
        finally:
            if self.mapped:
                self.latents, self.details = latents, details
        return self

    def prepared(self, candidates: Tensor | None = None) -> PreparedSources:
        """The keys with what searches prepare of them, which is kept until the keys change.

        Args:
            candidates: ``(C,)`` int64 positions of the sources to be searched, ascending; None for all. Of the last
                such choice it is kept too, if the keys take no more than
                :data:`~latentpatch.methods.latent.search.prepared.MAX_KEPT`.
        """
        keys = self._counted_keys()
        if candidates is None:
            if self._prepared is None or not self._prepared.holds(keys):
                self._prepared = self._prepare(keys, None)
            return self._prepared
        last = self._subset
        if last is not None and torch.equal(last[0], candidates) and last[1].holds(keys):
            return last[1]
        found = self._prepare(keys, candidates)
        small = len(candidates) * keys[:1].nbytes <= MAX_KEPT
        self._subset = (candidates, found) if small else None
        return found

    def _prepare(self, keys: Tensor, candidates: Tensor | None) -> PreparedSources:
        groups = self._groups(candidates)
        if candidates is None:
            return PreparedSources(keys, groups=groups)
        return PreparedSources(keys[candidates], of=keys, groups=groups)

    def _groups(self, candidates: Tensor | None) -> Groups | None:
        """The pictures that sources are variants of, as searches want them."""
        if self.variants.count == 1:
            return None
        numbers, ways = self.groups, self.variants.squared_offsets().to(self.keys.device)
        ways = ways.repeat(len(self) // len(ways))
        if candidates is not None:
            numbers, ways = numbers[candidates].unique(return_inverse=True)[1], ways[candidates]
        return Groups(numbers, ways, self.variants.offset_cost)

    def _counted_keys(self) -> Tensor:
        """:meth:`searchable`, as a tensor that counts how often it is written to: those of inference mode do not."""
        keys = self.searchable()
        if keys.is_inference() and not self.mapped:
            with torch.inference_mode(False):
                self.keys = keys = keys.clone()
        return keys

    def _forget(self) -> None:
        """Drop what was prepared: it holds keys."""
        self._prepared = self._subset = None

    def digest(self) -> str:
        """SHA-256 over ids, keys, full latents and details, as lower-case hex: what a picture was made from."""
        return self._claimed_digest or self.computed_digest()

    def computed_digest(self) -> str:
        """:meth:`digest` of what is there, all of which is read."""
        named: Any = self.ids if self.variants.count == 1 else [self.ids, self.variants.record()]
        total = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
        for stored in (self.keys, self.latents, self.details):
            for chunk in chunks(stored):
                total.update(tensor_bytes(chunk))
        return total.hexdigest()

    def keys_of(self, latents: Tensor, pca: PCA) -> Tensor:
        """Search keys of other images' latents: ``(N, L, h, w)`` -> ``(N, h, w, r)`` int16."""
        return to_keys(pca.project(latents), self.key_step).movedim(1, -1)

    def sample(
        self,
        sampler: Sampler,
        noise: Tensor,
        settings: Settings,
        candidates: Tensor | None = None,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Index maps by a sampler.

        Args:
            sampler: the sampler.
            noise: ``(N, noise_dim)``.
            settings: of the sampler.
            candidates: ``(C,)`` int64 positions of the sources it may use, ascending; None for all.
            reference, mask: see :meth:`~latentpatch.methods.base.Sampler.__call__`.

        Returns:
            ``(N, h, w)`` int64 positions, -1 for the cells of the picture that was given.
        """
        index = sampler(self.prepared(candidates), noise, settings, reference=reference, mask=mask)
        if candidates is None:
            return index
        return torch.where(index < 0, index, candidates[index.clamp(min=0)])

    def gather(self, index: Tensor, codes: int | None = None) -> Tensor:
        """What the sources hold where an index map points.

        Args:
            index: ``(N, h, w)`` int64 positions in the bank.
            codes: how many codes there are, where latents are code indices.

        Returns:
            ``(N, L, h, w)`` float16 latents, or ``(N, q, h, w)`` int16 code indices.

        Raises:
            FileError: where the bank is mapped, and its file holds something else there.
        """
        device = self.latents.device
        rows, columns = _cells(self.grid, device)
        found = self.latents[index.to(device), rows, columns]
        self._check_gathered(found, codes)
        return found.to(index.device).movedim(-1, 1)

    def _check_gathered(self, found: Tensor, codes: int | None) -> None:
        if not self.mapped or not found.numel():
            return
        try:
            self._check_latents(found)
            if codes is not None and int(found.max()) >= codes:
                raise ValueError(f"codes beyond the {codes} of the autoencoder")
        except ValueError as error:
            raise FileError(f"malformed model file: {error}") from error

    def gather_details(self, index: Tensor) -> Tensor:
        """Details of the sources in the quarters of cells.

        Args:
            index: ``(N, h, w, 4)`` int64 positions in the bank, those of no source -1.

        Returns:
            ``(N, h, w, 4, d / 4)`` int8, zero where there is no source.
        """
        device, (rows, columns) = self.details.device, self.grid
        places = torch.arange(4 * rows * columns, device=device).view(rows, columns, 4)
        flat = (index.to(device).clamp(min=0) * places.numel() + places).flatten()
        found = self.details.view(-1, self.details.shape[3] // 4).index_select(0, flat).view(*index.shape, -1)
        return found.to(index.device) * (index >= 0)[..., None]

    def blend(self, weights: Tensor, codebook: Tensor | None = None) -> Tensor:
        """What the sources hold, weighted.

        Args:
            weights: ``(N, B, h, w)`` floating point.
            codebook: ``(codes, L / q)``, where latents are code indices.

        Returns:
            ``(N, L, h, w)`` of the weights' type.
        """
        groups = chunks(self.latents, codebook)
        total = weights.new_zeros(())
        for held, shares in zip(groups, weights.split(len(groups[0]), 1), strict=True):
            if self.mapped:
                self._check_gathered(held, None if codebook is None else len(codebook))
            latents = look_up(held.to(weights.device), codebook).to(weights.dtype)
            total = total + torch.einsum("nbhw,bhwl->nlhw", shares, latents)
        return total

    def keys_at(self, index: Tensor) -> Tensor:
        """Keys where an index map points: ``(N, h, w)`` -> ``(N, h, w, r)`` int16."""
        rows, columns = _cells(self.grid, index.device)
        return self.keys[index, rows, columns]

    def gather_reduced(self, index: Tensor) -> Tensor:
        """Reduced latents where an index map points: ``(N, h, w)`` -> ``(N, r, h, w)`` float64."""
        return self.keys_at(index).movedim(-1, 1).double() * self.key_step.double()

    def _keys_of(self, latents: Tensor, pca: PCA, codebook: Tensor | None, scratch: str | Path | None = None) -> Tensor:
        shape, device = (*latents.shape[1:3], pca.components), self.keys.device
        with Rows(len(latents), shape, torch.int16, device, scratch) as keys:
            for reduced in _reduced(latents, pca, codebook):
                keys.append(to_keys(reduced, self.key_step).movedim(1, -1))
            return keys.tensor().to(device)

    def get_extra_state(self) -> Tensor:
        varied = {} if self.variants.count == 1 else {"variants": self.variants.record()}
        return pack({"ids": self.ids, "attributes": self.attributes, **varied})

    def set_extra_state(self, state: Any) -> None:
        self._forget()
        fields = unpack(state)
        self.ids = [str(name) for name in fields["ids"]]
        self.attributes = [{str(k): str(v) for k, v in known.items()} for known in fields["attributes"]]
        self.variants = Variants(**fields.get("variants", {}))
        self._claimed_digest, self._keys_unchecked = None, self.mapped
        if self.mapped:
            self._check_layout()
        elif self.ids or self.keys.numel():
            self.check()


def look_up(latents: Tensor, codebook: Tensor | None) -> Tensor:
    """Stored latents ``(B, h, w, L)``, or codes ``(B, h, w, q)`` looked up and folded as the autoencoder does."""
    return latents if codebook is None else codebook[latents.long()].transpose(-1, -2).flatten(-2)


def chunks(stored: Tensor, codebook: Tensor | None = None) -> tuple[Tensor, ...]:
    """Sources in groups of a bounded number of elements, once codes are looked up."""
    depth = 1 if codebook is None else codebook.shape[1]
    groups: tuple[Tensor, ...] = stored.split(max(1, _CHUNK // max(1, stored[:1].numel() * depth)))
    return groups


def _reduced(latents: Tensor, pca: PCA, codebook: Tensor | None) -> Iterator[Tensor]:
    for chunk in chunks(latents, codebook):
        yield pca.project(look_up(chunk.to(pca.mean.device), codebook).movedim(-1, 1))


def _cells(grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = grid
    return torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)[None, :]


def _check_ids(ids: Sequence[str], count: int) -> None:
    if len(ids) != count:
        raise ValueError(f"{len(ids)} ids for {count} sources; one each is expected")
    seen: set[str] = set()
    for name in ids:
        if not isinstance(name, str):
            raise TypeError(f"source id {name!r}: text is expected")
        if name in seen:
            raise ValueError(f"source id {name!r} occurs twice; ids must be unique")
        seen.add(name)


def _aligned(
    attributes: Mapping[str, Mapping[str, str]] | None, ids: Sequence[str], variants: int
) -> list[dict[str, str]]:
    return [dict((attributes or {}).get(name, {})) for name in ids for _ in range(variants)]
