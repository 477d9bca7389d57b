"""The source bank: search keys, full latents, residuals, ids and attributes of the sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError, SettingTypeError
from ..io.listing import normalized
from ..io.mmap import Rows
from ..methods.base import Sampler
from ..methods.latent.search.keys import KEY_NORM, to_keys
from ..methods.latent.search.prepared import Groups, PreparedSources
from ..settings import Settings
from .augmentation import Variants
from .checks import check_ids, check_shape
from .common import Common, clamp_ground, is_shared, without_color
from .grouping import Colors, Grouping, renumbered
from .latents import projected
from .pca import PCA
from .predicate import Predicate, parse_predicate
from .residuals import gains, surrounding
from .stored import StoredSources

__all__ = ["SourceBank", "Where"]

#: A choice of sources: a predicate on attributes as text or callable, or ascending positions ``(C,)`` int64.
Where = str | Callable[[Mapping[str, str]], bool] | Tensor

Attributes = Mapping[str, Mapping[str, str]]


class SourceBank(StoredSources):
    """B sources: the reduced latents that are searched and the full ones that are decoded.

    Tensors and attributes are those of :class:`~latentpatch.bank.stored.StoredSources`.
    """

    # --- sources -----------------------------------------------------------------------------------

    def fill(
        self,
        latents: Tensor,
        ids: Sequence[str],
        pca: PCA,
        attributes: Attributes | None = None,
        codebook: Tensor | None = None,
        scratch: str | Path | None = None,
        variants: Variants | None = None,
        residuals: Tensor | None = None,
        grouping: Grouping | None = None,
        common: Common | None = None,
    ) -> SourceBank:
        """Replace the sources. Returns itself.

        Args:
            latents: ``(B, h, w, L)`` float16, or ``(B, h, w, q)`` int16 code indices.
            ids: unique names of the images: B, where there is no augmentation.
            pca: fitted on these latents.
            attributes: attributes by id; missing ids have none.
            codebook: ``(codes, L)``, where ``latents`` are indices.
            scratch: folder for a file of keys, where ``latents`` are in one: the bank is then :attr:`mapped`.
            variants: the augmentation that ``latents`` went through; by default none.
            residuals: ``(B, h, w, d)`` int8, where the bank is to keep them.
            grouping: the rule by which :meth:`find_groups` will tell which sources count as one; until then each is
                one.
            common: what is known of the sources, to keep what they have in common.

        Raises:
            SettingError: for repeated ids or counts that do not agree.
        """
        variants = variants or Variants()
        check_ids(variants.ids(ids), len(latents))
        norms = (float(reduced.norm(dim=1).max()) for reduced in projected(latents, pca, codebook))
        # Half the range is left free for sources and references that lie farther out.
        step = 2 * max(norms, default=0.0) / KEY_NORM or 1.0
        self.key_step = torch.tensor(step, dtype=torch.float32, device=self.keys.device)
        residuals = self.residuals.new_zeros(0, 0, 0, 0) if residuals is None else residuals
        self.latents, self.residuals = (
            each if scratch is not None else each.to(self.keys.device) for each in (latents, residuals)
        )
        self.keys = self._project(latents, pca, codebook, scratch)
        self.variants, self.ids = variants, variants.ids(ids)
        self.attributes = _aligned(attributes, ids, variants.count)
        self.mapped, self._keys_unchecked, self._claimed_digest = scratch is not None, False, None
        self.grouping, self.group_numbers = grouping or Grouping(), torch.arange(len(ids))
        self.grey = torch.zeros(len(ids), dtype=torch.bool) if common is None else common.grey
        self._set_ground(common)
        self._cache.clear()
        return self

    def _set_ground(self, common: Common | None) -> None:
        """Keep grounds and masks where all sources share some of it, and drop them where they do not."""
        if common is None or not is_shared(common.grounds, common.masks[:: self.variants.count]):
            self.grounds, self.masks = self.grounds.new_zeros(0, 2, 3), self.masks.new_zeros(0, 0, 0, 0)
        else:
            self.grounds = common.grounds
            self.masks = common.masks if self.mapped else common.masks.to(self.keys.device)

    def add(
        self,
        latents: Tensor,
        ids: Sequence[str],
        pca: PCA,
        attributes: Attributes | None = None,
        codebook: Tensor | None = None,
        residuals: Tensor | None = None,
        common: Common | None = None,
    ) -> None:
        """Append sources, augmented like the others, which stay as they are; the PCA does, too.

        Arguments and errors are those of :meth:`fill`.
        """
        added = self.variants.ids(ids)
        check_ids([*self.ids, *added], len(self) + len(latents))
        check_shape("latents", latents, self.latents.shape[1:])
        residuals = self.residuals[:0] if residuals is None else residuals
        if self.has_residuals:
            check_shape("residuals", residuals, self.residuals.shape[1:], len(latents))
        self._materialize()
        self.keys = torch.cat([self.keys, self._project(latents, pca, codebook)])
        self.latents = torch.cat([self.latents, latents.to(self.latents)])
        if self.has_residuals:
            self.residuals = torch.cat([self.residuals, residuals.to(self.residuals)])
        self.ids = [*self.ids, *added]
        self.attributes = [*self.attributes, *_aligned(attributes, ids, self.variants.count)]
        self.group_numbers = torch.cat([self.group_numbers, self.num_groups + torch.arange(len(ids))])
        self.grey = torch.cat([self.grey, torch.zeros(len(ids), dtype=torch.bool) if common is None else common.grey])
        if common is not None and self.masks.numel() and common.masks.numel():
            pairs = ((self.grounds, common.grounds), (self.masks, common.masks.to(self.masks)))
            self._set_ground(Common(self.grey, *(torch.cat(pair) for pair in pairs)))
        else:
            self._set_ground(None)
        self._cache.clear()

    def find_groups(self, colors: Colors) -> None:
        """Find anew which sources count as one, by the rule :attr:`grouping`.

        Args:
            colors: gives the mean colors of sources' cells, see :mod:`latentpatch.bank.grouping`.
        """
        attributes = self.attributes[:: self.variants.count]
        self.group_numbers = self.grouping(self.validated_keys(), attributes, self.variants, colors)
        self._cache.clear()

    def remove(self, ids: Sequence[str]) -> None:
        """Remove images by id, with all augmented copies: their latents leave every tensor.

        Raises:
            SettingError: for an unknown id, or that of a copy.
        """
        gone = set(self.members(ids))
        self._materialize()
        self._take_rows(self, torch.tensor([b for b in range(len(self)) if b not in gone], dtype=torch.int64))
        self._set_ground(self.common)
        self._cache.clear()

    def subset(self, positions: Sequence[int] | Tensor) -> SourceBank:
        """Return a bank of some sources, whose keys keep their values and unit, and which stay in their groups.

        Args:
            positions: ascending; copies of an image are there together, or none is.

        Raises:
            SettingError: for no positions, or some but not all copies of an image.
            FileError: where this bank is mapped, and its file holds something else there.
        """
        rows = torch.as_tensor(positions, dtype=torch.int64)
        part = SourceBank()
        part._take_rows(self, rows)
        if not part.ids or part.ids != part.variants.ids(part.sources):
            raise SettingError("positions", rows.tolist(), "those of sources with all of their copies, at least one")
        if self.mapped:
            with self._file_errors():
                part.check()
        return part

    def _take_rows(self, bank: SourceBank, rows: slice | Tensor) -> None:
        """Take over some rows of a bank; a slice of a mapped bank stays mapped."""
        self.variants, self.key_step = bank.variants, bank.key_step
        self.mapped, self._file = bank.mapped and isinstance(rows, slice), bank._file
        self._keys_unchecked = self.mapped and bank._keys_unchecked
        for name in ("latents", "residuals", "masks", "keys"):
            stored: Tensor = getattr(bank, name)
            if isinstance(rows, Tensor):
                part = stored[rows.to(stored.device)] if stored.numel() else stored
            else:  # a view would keep all of what is in memory
                part = stored[rows] if bank.mapped else stored[rows].clone()
            setattr(self, name, part if self.mapped else part.to(bank.keys.device))
        numbers = self.variants.sources_of(torch.arange(len(bank))[rows.cpu() if isinstance(rows, Tensor) else rows])
        self.grouping, self.precision = bank.grouping, bank.precision
        self.grey = bank.grey[numbers[:: self.variants.count]]
        self.grounds = bank.grounds[numbers[:: self.variants.count]] if len(bank.grounds) else bank.grounds
        self.group_numbers = renumbered(bank.group_numbers[numbers[:: self.variants.count]])
        chosen = range(len(bank))[rows] if isinstance(rows, slice) else rows.tolist()
        self.ids, self.attributes = [bank.ids[b] for b in chosen], [bank.attributes[b] for b in chosen]

    def positions(self, ids: Sequence[str]) -> list[int]:
        """Return the position of each id.

        Raises:
            SettingError: for an unknown id.
        """
        where = {name: b for b, name in enumerate(self.ids)}
        ids = [name if name in where else normalized(name) for name in ids]
        for name in ids:
            if name not in where:
                raise SettingError("source", name, f"an id of the bank of {len(self)} sources")
        return [where[name] for name in ids]

    def members(self, ids: Sequence[str]) -> list[int]:
        """Return the positions of images and of all their augmented copies.

        Raises:
            SettingError: for an unknown id, or that of a copy.
        """
        count, found = self.variants.count, self.positions(ids)
        for name, b in zip(ids, found, strict=True):
            if b % count:
                raise SettingError("source", name, f"{self.ids[b - b % count]!r}: its copies go together")
        return [b + variant for b in found for variant in range(count)]

    def select(self, predicate: Callable[[Mapping[str, str]], bool]) -> Tensor:
        """Return the positions of the sources whose attributes satisfy a predicate: ``(C,)`` int64, ascending."""
        count = self.variants.count
        chosen = [count * s for s, attributes in enumerate(self.attributes[::count]) if predicate(attributes)]
        first = torch.tensor(chosen, dtype=torch.int64, device=self.keys.device)
        return (first[:, None] + torch.arange(count, device=first.device)).flatten()

    def candidates(self, where: Where | None) -> Tensor | None:
        """Return the positions of a choice of sources; None for all.

        Raises:
            SettingError: for an attribute that no source has, or where no source is left.
        """
        if where is None:
            return None
        if isinstance(where, Tensor):
            return where.to(self.keys.device)
        if not (isinstance(where, str) or callable(where)):
            raise SettingTypeError("where", where, "a text such as age>20, a function of attributes, or a tensor")
        predicate = where if callable(where) else parse_predicate(where)
        if isinstance(predicate, Predicate):
            names = {name for row in self.attributes for name in row}
            unknown = sorted(predicate.names - names)
            if unknown:
                raise SettingError("where", str(where), f"on attributes of the sources ({', '.join(sorted(names))})")
        chosen = self.select(predicate)
        if not len(chosen):
            raise SettingError("where", str(where), f"satisfied by at least one of {len(self.sources)} sources")
        return chosen

    def count_groups(self, candidates: Tensor | None = None) -> int:
        """Return the number of sources among candidates, where those that count as one are one."""
        return self.num_groups if candidates is None else len(self.groups[candidates].unique())

    def fit_record(self) -> dict[str, Any]:
        """Return the options of fitting that a bank of the same files needs to be the same, for records."""
        record = {**self.variants.record(), "residuals": self.has_residuals, **self.grouping.record()}
        chroma = {"chroma": "half"} if self.residual_choice is True else {}  # older records have none
        return record | chroma | self._precision_record()

    # --- search ------------------------------------------------------------------------------------

    def sample(
        self,
        sampler: Sampler,
        noise: Tensor,
        settings: Settings,
        candidates: Tensor | None = None,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return index maps by a sampler.

        Args:
            sampler: the sampler.
            noise: ``(N, noise_dim)``.
            settings: of the sampler.
            candidates: ``(C,)`` int64 ascending positions of the sources it may use; None for all.
            reference, mask: see :meth:`~latentpatch.methods.base.Sampler.__call__`.

        Returns:
            ``(N, h, w)`` int64 positions, -1 for the cells that keep the reference.
        """
        self._check_sampler(sampler)
        index = sampler(self.prepared(candidates), noise, settings, reference=reference, mask=mask)
        if candidates is None:
            return index
        return torch.where(index < 0, index, candidates[index.clamp(min=0)])

    def _check_sampler(self, sampler: Sampler) -> None:
        """Refuse samplers that cannot search this kind of bank."""

    def prepared(self, candidates: Tensor | None = None) -> PreparedSources:
        """Return the keys with what searches prepare, which is kept until the keys change.

        Args:
            candidates: ``(C,)`` int64 ascending positions; None for all. The last choice is kept, too, up to
                :data:`~latentpatch.methods.latent.search.prepared.MAX_KEPT`.
        """
        return self._cache.get(self._versioned_keys(), candidates, self._prepare)

    @property
    def detail(self) -> Tensor | None:
        """The part of each cell in the detail of the mean source: ``(h, w)`` float64 on the CPU, with sum 1.

        All cells are equal where the mean source has no detail. None for an empty bank.
        """
        return detail_parts(self.prepared().detail) if len(self) else None

    def _prepare(self, keys: Tensor, candidates: Tensor | None) -> PreparedSources:
        groups = self._groups(candidates)
        if candidates is None:
            return PreparedSources(keys, groups=groups)
        return PreparedSources(keys[candidates], of=keys, groups=groups)

    def _groups(self, candidates: Tensor | None) -> Groups | None:
        """Return the groups of candidates, and the squared offsets of augmented copies."""
        if self.num_groups == len(self):
            return None
        numbers, squares = self.groups, self.variants.squared_offsets().to(self.keys.device)
        squares = squares.repeat(len(self) // len(squares))
        if candidates is not None:
            numbers, squares = renumbered(numbers[candidates]), squares[candidates]
        return Groups(numbers, squares, self.variants.offset_cost)

    def _versioned_keys(self) -> Tensor:
        """Return the keys as a tensor that counts writes to it: one made in inference mode does not."""
        keys = self.validated_keys()
        if keys.is_inference() and not self.mapped:
            with torch.inference_mode(False):
                self.keys = keys = keys.clone()
        return keys

    def residual_gains(self, index: Tensor, latents: Tensor, pca: PCA) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gains of residuals, see :func:`latentpatch.bank.residuals.gains`.

        Args:
            index: ``(N, h, w)`` int64 positions; -1 for no source.
            latents: ``(N, L, h, w)``, as they are decoded.
            pca: that of the keys.
        """
        around = surrounding(index.clamp(min=0))
        sources = self.gather_reduced(around.flatten(0, 1)).unflatten(0, (9, -1))
        return gains(pca.project(latents), sources, pca.explained_variance.double().sum().sqrt())

    def keep_common(
        self, images: Tensor, index: Tensor, part: slice = slice(None), is_rest_grey: bool = False
    ) -> Tensor:
        """Return images with what their sources have in common, see :mod:`latentpatch.bank.common`.

        Args:
            images: ``(N, 3, H, W)`` in [0, 1].
            index: ``(N, h, w)`` int64 positions; -1 for no source, which has nothing in common with others.
            part: the index maps of the images.
            is_rest_grey: whether what has no source is grey.
        """
        if len(self.grounds):
            images = clamp_ground(images, index, self.gather_masks, self.ground_bounds, part)
        if self.has_grey:
            numbers = self.variants.sources_of(index[part])
            is_grey = self.grey.to(index.device)[numbers.clamp(min=0)]
            images = without_color(images, is_grey.masked_fill(numbers < 0, is_rest_grey).flatten(1).all(1))
        return images

    @property
    def ground_bounds(self) -> Tensor:
        """The least and the greatest color of all grounds at the top and the bottom: ``(2, 2, 3)`` in [0, 1]."""
        return torch.stack([self.grounds.amin(0), self.grounds.amax(0)]) / 255

    def keys_of(self, latents: Tensor, pca: PCA) -> Tensor:
        """Return the search keys ``(N, h, w, r)`` int16 of other images' latents ``(N, L, h, w)``."""
        return to_keys(pca.project(latents), self.key_step).movedim(1, -1)

    def _project(self, latents: Tensor, pca: PCA, codebook: Tensor | None, scratch: str | Path | None = None) -> Tensor:
        shape, device = (*latents.shape[1:3], pca.components), self.keys.device
        with Rows(len(latents), shape, torch.int16, device, scratch) as keys:
            for reduced in projected(latents, pca, codebook):
                keys.append(to_keys(reduced, self.key_step).movedim(1, -1))
            return keys.tensor().to(device)


def _aligned(attributes: Attributes | None, ids: Sequence[str], count: int) -> list[dict[str, str]]:
    rows = {normalized(str(name)): row for name, row in (attributes or {}).items()}
    found = [rows.get(normalized(name), {}) for name in ids]
    return [{key: normalized(str(value)) for key, value in row.items()} for row in found for _ in range(count)]


def detail_parts(detail: Tensor) -> Tensor:
    """Return the part of each cell in all detail ``(h, w)``: float64 on the CPU; equal parts where there is none."""
    parts = detail.double().cpu()
    return parts / parts.sum() if parts.any() else torch.full_like(parts, 1 / parts.numel())
