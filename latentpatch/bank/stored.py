"""The tensors of a bank, in memory or mapped from a file: state, checks, digest, and gathering by index maps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..autoencoders.base import PRECISIONS
from ..errors import FileError
from ..io.atomic import tensor_bytes
from ..validation import check_choice
from .augmentation import Variants
from .checks import check_keys, check_latents, check_layout, read_integers
from .common import Common
from .fitted_module import FittedModule, pack, unpack
from .grouping import Grouping, grouped
from .latents import chunks, dequantize
from .prepared_cache import PreparedCache
from .residuals import ALL_COLORS, has_all_colors

__all__ = ["StoredSources"]

S = TypeVar("S", bound="StoredSources")

_MAPPED = ("latents", "residuals", "masks")  # tensors that a mapped bank leaves where they are


class StoredSources(FittedModule):
    """Tensors, ids and attributes of B sources, in memory or mapped from a file.

    Tensors, which move with the module and are in its state dict:
        keys: ``(B, h, w, r)`` int16, PCA-reduced latents in units of ``key_step``: see
            :mod:`latentpatch.methods.latent.search.keys` for why the search works on integers.
        key_step: scalar float32, size of a unit of ``keys`` in the latents' own units.
        latents: ``(B, h, w, L)`` float16 full latents, or where the autoencoder has a codebook
            ``(B, h, w, q)`` int16 code indices, q of them a cell (with q = 1 on a 16x16 grid, 512 bytes a source).
        residuals: ``(B, h, w, d)`` int8, see :mod:`latentpatch.bank.residuals`; without elements where the bank keeps
            none. Files and state dicts call them ``details``.
        masks: ``(B, h, w, m)`` uint8, the pixels of the sources' ground; without elements where they share none.

    Attributes:
        ids: one stable name a source, unique.
        attributes: one mapping of attribute names to text a source, maybe empty.
        variants: the augmentation: the :attr:`Variants.count` copies of an image are sources side by side, the image
            itself first, with the same attributes.
        grouping: the rule by which sources count as one (:mod:`latentpatch.bank.grouping`).
        precision: arithmetic of the encoder, and of the decoder for residuals: ``float32`` or ``bfloat16``.
        group_numbers: ``(S,)`` int64 on the CPU, the group of each image, numbered from 0 by first appearance.
        has_grey: whether any of the images has no color, see :attr:`grey`.
        grounds: ``(S, 2, 3)`` uint8 on the CPU, the colors of the images' grounds at the top and the bottom; of no
            images where they share none.
        mapped: whether keys and latents are in a file (:mod:`latentpatch.io.mmap`) and too large to be read
            beforehand. Values are then checked when they are used, :meth:`digest` is what the file says, and
            latents stay where they are when the module moves to another device.
    """

    keys: Tensor
    key_step: Tensor
    latents: Tensor
    residuals: Tensor
    masks: Tensor
    precision = "float32"

    def __init__(self) -> None:
        super().__init__()
        self.register_fitted("keys", torch.zeros(0, 0, 0, 0, dtype=torch.int16))
        self.register_fitted("key_step", torch.ones((), dtype=torch.float32))
        self.register_fitted("latents", torch.zeros(0, 0, 0, 0, dtype=torch.float16))
        self.register_fitted("residuals", torch.zeros(0, 0, 0, 0, dtype=torch.int8), key="details", optional=True)
        self.register_fitted("masks", torch.zeros(0, 0, 0, 0, dtype=torch.uint8), optional=True)
        self.ids: list[str] = []
        self.attributes: list[dict[str, str]] = []
        self.variants = Variants()
        self.grouping, self.group_numbers = Grouping(), torch.zeros(0, dtype=torch.int64)
        self.grey = torch.zeros(0, dtype=torch.bool, device="cpu")
        self.grounds = torch.zeros(0, 2, 3, dtype=torch.uint8, device="cpu")
        self.mapped = False
        self._file: str | Path = "the bank's file"
        self._keys_unchecked = False
        self._claimed_digest: str | None = None
        self._cache = PreparedCache()

    @classmethod
    def from_mapped(cls: type[S], tensors: Mapping[str, Tensor], path: str | Path, digest: str | None = None) -> S:
        """Return a mapped bank over the tensors of its state dict.

        Args:
            tensors: by name.
            path: the file they are in, for messages.
            digest: what the file says that :meth:`digest` is.

        Raises:
            RuntimeError, ValueError: where names, types or shapes are not those of a bank.
        """
        bank = cls()
        bank.mapped, bank._file = True, path
        bank.load_state_dict(dict(tensors), assign=True)
        bank._claimed_digest = digest
        return bank

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sources(self) -> list[str]:
        """Ids of the images, without those of their augmented copies."""
        return self.ids[:: self.variants.count]

    @property
    def groups(self) -> Tensor:
        """Number of the group that each position is in, augmented copies with their image: ``(B,)`` int64."""
        return self.groups_of(torch.arange(len(self), device=self.keys.device))

    @property
    def group_names(self) -> list[str]:
        """Names of the groups: the id of the first image in each."""
        return [members[0] for members in self._members_of_groups()]

    @property
    def shared_groups(self) -> dict[str, list[str]]:
        """Ids of the images in each group of several, by the group's name."""
        return {members[0]: members for members in self._members_of_groups() if len(members) > 1}

    @property
    def shared_numbers(self) -> Tensor | None:
        """The numbers :attr:`group_numbers`; None where each source is a group of its own."""
        return self.group_numbers if self.num_groups < len(self.group_numbers) else None

    def groups_of(self, index: Tensor) -> Tensor:
        """Return the numbers of the groups that positions in the bank are in; -1 stays."""
        return grouped(self.variants.sources_of(index), self.shared_numbers)

    @property
    def num_groups(self) -> int:
        """Number of sources, where those that count as one are one."""
        return int(self.group_numbers.max()) + 1 if len(self.group_numbers) else 0

    def _members_of_groups(self) -> list[list[str]]:
        members: list[list[str]] = [[] for _ in range(self.num_groups)]
        for name, number in zip(self.sources, self.group_numbers.tolist(), strict=True):
            members[number].append(name)
        return members

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w) of every source."""
        return self.keys.shape[1], self.keys.shape[2]

    @property
    def has_codes(self) -> bool:
        """True if :attr:`latents` are code indices."""
        return self.latents.dtype == torch.int16

    @property
    def has_residuals(self) -> bool:
        """True if the bank keeps :attr:`residuals`."""
        return self.residuals.numel() > 0

    @property
    def residual_choice(self) -> bool | str:
        """The ``residuals`` of :func:`~latentpatch.fitting.fit` that gives sources such ones as the bank keeps."""
        return ALL_COLORS if self.has_residuals and has_all_colors(self.residuals.shape[3]) else self.has_residuals

    @property
    def grey(self) -> Tensor:
        """True for each image without color: ``(S,)`` bool on the CPU (:mod:`latentpatch.bank.common`)."""
        return self._grey

    @grey.setter
    def grey(self, grey: Tensor) -> None:
        # Decided once, not while decoding: a compiler cannot branch on what a tensor holds.
        self._grey, self.has_grey = grey, bool(grey.any())

    @property
    def common(self) -> Common:
        """Facts by which sources may have something in common."""
        return Common(self.grey, self.grounds, self.masks)

    @property
    def dtype(self) -> torch.dtype:
        """Type that pictures are encoded in to compare them with the sources: that of :attr:`precision`."""
        return PRECISIONS[self.precision]

    @property
    def details(self) -> Tensor:
        """The former name of :attr:`residuals`."""
        return self.residuals

    # --- state -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse contents that do not fit together, as a file may hold them.

        Raises:
            ValueError: with the reason.
        """
        check_layout(self)
        check_keys(self.keys)
        self._keys_unchecked = False
        for latents in chunks(self.latents):
            check_latents(latents)

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Turn what checks refuse within the block into a :class:`FileError` about the mapped file."""
        try:
            yield
        except ValueError as error:
            raise FileError(self._file, f"malformed model file: {error}") from error

    def _materialize(self) -> None:
        """Read mapped tensors into memory, and check them."""
        if self.mapped:
            self.check()
            self.mapped, self._claimed_digest = False, None
            for name in _MAPPED:
                setattr(self, name, getattr(self, name).to(self.keys.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredSources:
        stored = {name: getattr(self, name) for name in _MAPPED}
        if self.mapped:
            for name, tensor in stored.items():
                setattr(self, name, tensor[:0])  # a move would read all of them
        self._cache.clear()
        try:
            super()._apply(fn, recurse)
        finally:
            if self.mapped:
                for name, tensor in stored.items():
                    setattr(self, name, tensor)
        return self

    def digest(self) -> str:
        """Return the SHA-256 of ids, groups, keys, latents, residuals and what sources share, in lower-case hex.

        A mapped file states its own.
        """
        if self._claimed_digest:
            return self._claimed_digest
        tensors = [self.keys, self.latents, self.residuals, self.masks]
        return self._cache.digest(self._digest_names(), tensors, self.computed_digest)

    def computed_digest(self) -> str:
        """Return :meth:`digest` of the tensors themselves, all of which are read."""
        total = hashlib.sha256(json.dumps(self._digest_names(), sort_keys=True).encode())
        for stored in (self.keys, self.latents, self.residuals, self.masks):
            for chunk in chunks(stored):
                total.update(tensor_bytes(chunk))
        return total.hexdigest()

    def _digest_names(self) -> Any:
        names: Any = list(self.ids) if self.variants.count == 1 else [list(self.ids), self.variants.record()]
        if self.shared_numbers is not None:
            names = [list(self.ids), self.variants.record(), self.group_numbers.tolist()]
        return [names, self._common_record()] if self._common_record() else names

    def get_extra_state(self) -> Tensor:
        augmented = {} if self.variants.count == 1 else {"variants": self.variants.record()}
        grouped: dict[str, Any] = {} if self.grouping == Grouping() else {"grouping": self.grouping.record()}
        if self.shared_numbers is not None:
            grouped["groups"] = self.group_numbers.tolist()
        common = self._common_record()
        precision = self._precision_record()
        return pack({"ids": self.ids, "attributes": self.attributes, **augmented, **grouped, **common, **precision})

    def _precision_record(self) -> dict[str, str]:
        """Return the precision, where it is not that of older files, which have none."""
        return {} if self.precision == "float32" else {"precision": self.precision}

    def _common_record(self) -> dict[str, Any]:
        """Return numbers of grey images, and grounds, where there are any."""
        grey = {"grey": self.grey.nonzero()[:, 0].tolist()} if self.has_grey else {}
        return grey | ({"grounds": self.grounds.tolist()} if len(self.grounds) else {})

    def set_extra_state(self, state: Any) -> None:
        self._cache.clear()
        record = unpack(state)
        self.ids = [str(name) for name in record["ids"]]
        self.attributes = [{str(k): str(v) for k, v in row.items()} for row in record["attributes"]]
        self.variants = Variants(**record.get("variants", {}))
        self.grouping = Grouping(**record.get("grouping", {}))  # older files have none
        self.precision = check_choice("precision", record.get("precision", "float32"), PRECISIONS)
        count = len(self.sources)
        self.group_numbers = read_integers(record, "groups", torch.int64, range(count))  # older files have none
        numbers, grounds = read_integers(record, "grey", torch.int64), read_integers(record, "grounds", torch.uint8)
        if numbers.ndim != 1 or not bool(((numbers >= 0) & (numbers < count)).all()):
            raise ValueError(f"grey must be numbers of {count} sources, got {numbers.tolist()}")
        self.grey = torch.zeros(count, dtype=torch.bool, device="cpu").index_fill(0, numbers, True)
        if grounds.numel() and grounds.shape[1:] != (2, 3):
            raise ValueError(f"grounds must be of shape (S, 2, 3), got {tuple(grounds.shape)}")
        self.grounds = grounds.view(-1, 2, 3)
        self._claimed_digest, self._keys_unchecked = None, self.mapped
        if self.mapped:
            check_layout(self)
        elif self.ids or self.keys.numel():
            self.check()

    def validated_keys(self) -> Tensor:
        """Return :attr:`keys`, which the first search of a mapped bank checks.

        Raises:
            FileError: where the file holds something else.
        """
        if self._keys_unchecked:
            with self._file_errors():
                check_keys(self.keys)
            self._keys_unchecked = False
        return self.keys

    # --- gathering by index maps -------------------------------------------------------------------

    def gather(self, index: Tensor, num_codes: int | None = None) -> Tensor:
        """Return the stored latents at an index map.

        Args:
            index: ``(N, h, w)`` int64 positions.
            num_codes: size of the codebook, where latents are code indices.

        Returns:
            ``(N, L, h, w)`` float16 latents, or ``(N, q, h, w)`` int16 code indices.

        Raises:
            FileError: where the bank is mapped, and its file holds something else there.
        """
        found = self.latents[_cells(index.to(self.latents.device))]
        self._check_gathered(found, num_codes)
        return found.to(index.device).movedim(-1, 1)

    def _check_gathered(self, found: Tensor, num_codes: int | None) -> None:
        if self.mapped and found.numel():
            with self._file_errors():
                check_latents(found, num_codes)

    def gather_residuals(self, index: Tensor) -> Tensor:
        """Return the residuals ``(N, h, w, 4, d / 4)`` int8 of sources in the quarters of cells.

        Args:
            index: ``(N, h, w, 4)`` int64 positions; what -1 gives is without meaning.
        """
        device, (rows, columns) = self.residuals.device, self.grid
        places = torch.arange(4 * rows * columns, device=device).view(rows, columns, 4)
        flat = (index.to(device).clamp(min=0) * places.numel() + places).flatten()
        found = self.residuals.view(-1, self.residuals.shape[3] // 4).index_select(0, flat)
        return found.view(*index.shape, found.shape[1]).to(index.device)

    def gather_masks(self, index: Tensor) -> Tensor:
        """Return the masks ``(N, h, w, 4, m / 4)`` uint8 of sources in the quarters of cells.

        Args:
            index: ``(N, h, w, 4)`` int64 positions; what -1 gives is without meaning.
        """
        places = (index.to(self.masks.device).clamp(min=0), *_cells(index)[1:])
        rows, columns = (each.to(self.masks.device)[..., None] for each in places[1:])
        found: Tensor = self.masks.unflatten(3, (4, -1))[places[0], rows, columns, torch.arange(4, device=rows.device)]
        return found.to(index.device)

    def blend(self, weights: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Return the weighted sums of the sources' latents.

        Args:
            weights: ``(N, B, h, w)`` floating point.
            codebook: ``(codes, L / q)``, where latents are code indices.

        Returns:
            ``(N, L, h, w)`` of the weights' type.
        """
        parts = chunks(self.latents, codebook)
        total = weights.new_zeros(())
        for stored, shares in zip(parts, weights.split(len(parts[0]), 1), strict=True):
            self._check_gathered(stored, None if codebook is None else len(codebook))
            latents = dequantize(stored.to(weights.device), codebook).to(weights.dtype)
            total = total + torch.einsum("nbhw,bhwl->nlhw", shares, latents)
        return total

    def keys_at(self, index: Tensor) -> Tensor:
        """Return the keys ``(N, h, w, r)`` int16 at an index map ``(N, h, w)``."""
        return self.keys[_cells(index)]

    def gather_reduced(self, index: Tensor) -> Tensor:
        """Return the reduced latents ``(N, r, h, w)`` float64 at an index map ``(N, h, w)``."""
        return self.keys_at(index).double().mul_(self.key_step.double()).movedim(-1, 1)


def _cells(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of the cells that index maps ``(N, h, w)`` point to: source, row, column."""
    rows, columns = (torch.arange(side, device=index.device) for side in index.shape[1:3])
    return index, rows[:, None], columns[None, :]
