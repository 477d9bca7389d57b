"""The sources of a model: fit it on them, add some, remove some. Functions here are methods of LatentPatch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .autoencoders.base import PRECISIONS, Autoencoder
from .bank.attributes import read_attributes
from .bank.augmentation import DEFAULT_OFFSET_COST, Variants
from .bank.bank import SourceBank, Where
from .bank.encode import Sources, encode_sources
from .bank.grouping import Colors, Grouping
from .bank.latents import fit_pca
from .bank.residuals import ALL_COLORS
from .errors import AttributesWarning, RegistrationWarning, SettingError, SettingTypeError
from .io.listing import normalized
from .registration.agreement import disagreement_of_sources
from .runs.defaults import plain_torch
from .runs.processes import ALONE, Processes
from .validation import check_flag, plain

if TYPE_CHECKING:
    from .model import LatentPatch

__all__ = ["add", "cell_colors", "fit", "remove", "subset", "warn_of_disagreement"]

#: A CSV file, or attributes by id: texts, numbers or truth values, of NumPy or torch, too; None and NaN for none.
Attributes = str | Path | Mapping[Any, Mapping[Any, Any]]


@plain_torch()
def fit(
    self: LatentPatch,
    sources: Sources,
    *,
    ids: Sequence[str] | None = None,
    attributes: Attributes | None = None,
    size: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    mirrored: bool = False,
    offsets: int = 0,
    offset_cost: float = DEFAULT_OFFSET_COST,
    residuals: bool | str | None = None,
    progress: bool = False,
    scratch: str | Path | None = None,
    processes: Processes = ALONE,
    groups: bool = True,
    group_by: str | None = None,
    details: bool | None = None,
) -> LatentPatch:
    """Encode the sources, fit the PCA on their latents and fill the bank. Returns the model.

    Sources are encoded, and decoded for residuals, in the model's precision, which the bank keeps.

    Memory holds the bank and one batch of images, whatever the number of sources; with ``scratch`` not
    even the bank.

    Args:
        sources: a folder, files, or a text file that lists files; pictures of Pillow, or an array
            ``(B, H, W, 3)`` of uint8, which are read as files are; or images ``(B, 3, H, W)`` in [0, 1].
        ids: a unique name for each source; by default the files' names or numbers.
        attributes: CSV file, or attributes by id, texts or numbers, for the ``where`` of
            :func:`~latentpatch.tasks.generate`.
        size: ``(height, width)`` or side in pixels that files are cropped and resized to; by default the size
            that the autoencoder was trained on.
        skip_bad: leave out files that cannot be used, listing them in ``skipped``.
        mirrored: add the mirror image of every source.
        offsets: add copies of every source, moved by up to this many cells, for sources that are not registered. The
            bank then holds ``(2 offsets + 1)^2`` times the sources, twice as many where they are mirrored.
        offset_cost: cost of moved copies in the search: see :class:`~latentpatch.bank.augmentation.Variants`.
        residuals: keep the fine detail that the autoencoder loses of the sources, to add it back when images are
            decoded (:mod:`~latentpatch.bank.residuals`): 1.5 bytes a pixel; or ``full``, with color at full resolution:
            3 bytes. By default that of
            :attr:`~latentpatch.autoencoders.Autoencoder.stores_residuals_by_default`.
        progress: show a progress bar.
        scratch: folder on a disk with room for the bank, where it is then kept in unnamed files for as
            long as the model uses it. The result is the same.
        processes: the processes that call this together, with the same arguments: each encodes its share of the
            sources, and all get all of them, as one alone would have.
        groups: count equal and nearly equal sources, such as re-saved files of one picture, as one
            (:mod:`~latentpatch.bank.grouping`): together they give no more than one source may.
        group_by: attribute whose equal values count as one, too, such as the person on several pictures.
        details: the former name of ``residuals``, which were ``full``.

    Warns:
        AttributesWarning: where attributes name no source.
        RegistrationWarning: where the sources are not in register, by :mod:`~latentpatch.registration.agreement`.

    Raises:
        ImageError, FileError: for files that cannot be used.
        SettingError: for arguments out of range.
    """
    if details is not None:
        if residuals is not None:
            raise SettingError("residuals", residuals, "there once: details is its former name")
        residuals = ALL_COLORS if check_flag("details", details) else False
    variants, grouping = Variants(mirrored, offsets, offset_cost), Grouping(groups, group_by)
    if residuals is None:
        residuals = self.autoencoder.stores_residuals_by_default
    if residuals != ALL_COLORS:
        check_flag("residuals", residuals)
    rows = _attributes_by_id(attributes)  # read before encoding, which may take minutes
    names = sorted({name for row in (rows or {}).values() for name in row})
    if group_by is not None and group_by not in names:
        raise SettingError(
            "group_by", group_by, f"an attribute of the sources ({', '.join(names) or 'they have none'})"
        )
    self.skipped = []
    encoded = encode_sources(
        self.autoencoder,
        sources,
        ids=ids,
        size=size,
        variants=variants,
        residuals=residuals,
        dtype=PRECISIONS[self.precision],
        skip_bad=skip_bad,
        progress=progress,
        scratch=scratch,
        processes=processes,
    )
    _check_partners(rows, variants.ids([*encoded.ids, *(path.stem for path, _ in encoded.skipped)]))
    self.skipped, codebook = encoded.skipped, self.autoencoder.codebook
    fit_pca(self.pca, encoded.latents, codebook, self.components)
    for name, value in self.pca.fitted().items():
        setattr(self.pca, name, processes.broadcast(value))  # machines differ in the last bits
    bank, residual_rows = self.bank, encoded.residuals
    bank.fill(
        encoded.latents,
        encoded.ids,
        self.pca,
        rows,
        codebook,
        scratch,
        variants,
        residual_rows,
        grouping,
        encoded.common,
    )
    bank.precision = self.precision
    bank.find_groups(cell_colors(self.autoencoder, bank))
    bank.group_numbers = processes.broadcast(bank.group_numbers)
    self._origin = self.identity()
    if not processes.rank:
        warn_of_disagreement(self.bank)
    return self


def warn_of_disagreement(bank: SourceBank) -> None:
    """Warn where the sources of a bank are not in register, as a :class:`~latentpatch.errors.RegistrationWarning`."""
    found = disagreement_of_sources(bank)
    if found is not None:
        warnings.warn(f"{found}. The command latentpatch align registers pictures", RegistrationWarning, stacklevel=3)


@plain_torch()
def add(
    self: LatentPatch,
    sources: Sources,
    *,
    ids: Sequence[str] | None = None,
    attributes: Attributes | None = None,
) -> None:
    """Append sources, augmented like the others, in their precision and with residuals if these have them.

    The PCA stays as it is.

    Groups are found anew among all sources, unless the model's were not; by the same attribute, where there is one.

    Arguments and errors are those of :func:`fit`; files are resized to the size of the bank.
    """
    self.require_fit()
    if self.fitted_with is not None:
        own, other = self.fitted_with["name"], self.autoencoder.spec.name
        raise SettingError("autoencoder", other, f"{own}, which the other sources were encoded with")
    rows, bank = _attributes_by_id(attributes), self.bank
    encoded = encode_sources(
        self.autoencoder,
        sources,
        ids=ids,
        size=self.image_size,
        variants=bank.variants,
        residuals=bank.residual_choice,
        dtype=bank.dtype,
    )
    _check_partners(rows, bank.variants.ids(encoded.ids))
    bank.add(encoded.latents, encoded.ids, self.pca, rows, self.autoencoder.codebook, encoded.residuals, encoded.common)
    bank.find_groups(cell_colors(self.autoencoder, bank))


@plain_torch()
def remove(self: LatentPatch, ids: str | Sequence[str], *, refit: bool = True) -> None:
    """Remove sources, with their augmented copies: no later output has any of their latents.

    Args:
        ids: one id or several.
        refit: also fit the PCA anew on the sources that remain, after which the model is what it
            would be had the sources never been there. Without it the other sources' keys stay as they
            are, in a basis that the removed sources had a part in.

    Raises:
        SettingError: for an unknown id or that of a copy, or where no source would remain.
    """
    gone = [ids] if isinstance(ids, str) or not isinstance(ids, Iterable) else list(ids)
    gone = [str(plain(name)) for name in gone]
    bank = self.bank
    bank.members(gone)
    if len(set(gone)) >= len(bank.sources):
        raise SettingError("ids", gone, f"fewer than all {len(bank.sources)} sources")
    bank.remove(gone)
    if refit:
        codebook = self.autoencoder.codebook
        fit_pca(self.pca, bank.latents, codebook, self.components)
        rows = dict(zip(bank.ids, bank.attributes, strict=True))
        parts = (bank.variants, bank.residuals, bank.grouping, bank.common)
        bank.fill(bank.latents, bank.sources, self.pca, rows, codebook, None, *parts)
    bank.find_groups(cell_colors(self.autoencoder, bank))


def cell_colors(autoencoder: Autoencoder, bank: SourceBank) -> Colors:
    """Return a function from positions in a bank to the mean colors of their cells, decoded without residuals."""
    codebook = autoencoder.codebook

    @torch.no_grad()
    def colors(positions: Tensor) -> Tensor:
        index = positions.to(bank.keys.device)[:, None, None].expand(-1, *bank.grid)
        latents = autoencoder.dequantize(bank.gather(index, None if codebook is None else len(codebook)))
        pictures = autoencoder.decode(latents.to(autoencoder.device))
        return avg_pool2d(pictures.float(), autoencoder.spec.downsampling).flatten(2).movedim(1, 2)

    return colors


def subset(self: LatentPatch, where: Where) -> LatentPatch:
    """Return a model of some sources, which shares this one's autoencoder and PCA.

    Args:
        where: see :func:`~latentpatch.tasks.generate`.
    """
    candidates = self.bank.candidates(where)
    assert candidates is not None
    part = type(self)(self.autoencoder, self.components, self.chosen_settings)
    part.pca, part.bank = self.pca, self.bank.subset(candidates)
    part.precision, part._origin = self.precision, self._origin
    return part


def _attributes_by_id(attributes: Attributes | None) -> dict[str, dict[str, str]] | None:
    """Return attributes as texts.

    Raises:
        SettingTypeError: for what is no mapping of mappings.
    """
    if attributes is None:
        return None
    if isinstance(attributes, (str, Path)):
        return read_attributes(attributes)
    for each in attributes.values() if isinstance(attributes, Mapping) else [attributes]:
        if not isinstance(attributes, Mapping) or not isinstance(each, Mapping):
            wanted = "a CSV file, or attributes by id, such as {'anna': {'age': 20}}"
            raise SettingTypeError("attributes", attributes, wanted)
    return {
        str(plain(name)): {str(plain(key)): _text(value) for key, value in row.items()}
        for name, row in attributes.items()
    }


def _text(value: Any) -> str:
    """Return the value of an attribute as text; that of None and NaN is empty."""
    value = value.detach().cpu().numpy()[()] if isinstance(value, Tensor) else value  # which has fewer digits as text
    return "" if value is None or value != value else str(value)


def _check_partners(rows: Mapping[str, object] | None, ids: Sequence[str]) -> None:
    """Refuse attributes of which none are of a source, and warn where some are not."""
    names = {normalized(name) for name in ids}
    others = [name for name in rows or () if normalized(name) not in names]
    if not others or not rows:
        return
    if len(others) == len(rows):
        raise SettingError("attributes", others[0], f"named by sources, such as {ids[0]!r}")
    text = f"{len(others)} of {len(rows)} rows of attributes name no source, such as {others[0]!r}"
    warnings.warn(text, AttributesWarning, stacklevel=3)
