"""Tasks of a fitted model: generate, inpaint, edit, reconstruct, and soft choice.

Functions here are methods of :class:`~latentpatch.LatentPatch`. Each task is there twice: as a plain call, and as a
generator of steps (:mod:`latentpatch.batching`), by which several tasks share encoder, search and decoder calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .autoencoders.base import PRECISIONS
from .bank.augmentation import Variants
from .bank.bank import Where
from .bank.common import is_grey, without_color
from .batching import Decode, Encode, Operation, Search
from .errors import SettingError, SettingTypeError
from .inputs import (
    Mask,
    Picture,
    as_mask,
    as_picture,
    cells_of_mask,
    check_range,
    image_batch,
    image_seeds,
    size_pair,
)
from .io.images import read_image
from .methods.latent.presets import INPAINTING_SAMPLER
from .methods.latent.soft import SoftSettings, source_weights
from .ops.compositing import fill_smoothly, join
from .ops.noise import noise_from_seeds
from .registry import SAMPLERS
from .results import Blend, Generation
from .runs.defaults import plain_torch
from .runs.system import check_memory
from .settings import Settings
from .validation import check_choice

if TYPE_CHECKING:
    from .model import LatentPatch

__all__ = [
    "edit",
    "editing",
    "generate",
    "generating",
    "inpaint",
    "inpainting",
    "reconstruct",
    "reconstructing",
    "sampling",
    "soft",
]

P = ParamSpec("P")
T = TypeVar("T")

_ALL = slice(None)
_PIXEL_BYTES = 12  # of a picture, three channels
_EDIT_COVERAGE = 0.5  # share of a cell's pixels from which on an edit copies the cell


def generating(
    self: LatentPatch,
    n: int = 1,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    settings: Settings | str | None = None,
    sampler: str | None = None,
    reference: Picture | None = None,
    where: Where | None = None,
    decoding: str | None = None,
    precision: str | None = None,
    part: slice = _ALL,
) -> Operation[Generation]:
    """Generate new images.

    Image i depends on seed ``seed + i`` alone, whatever other images are generated with it.

    Args:
        n: number of images.
        seed: seed of the first image, at least 0.
        seeds: the seed of each image, instead of ``n`` and ``seed``.
        settings: settings of a sampler, or the name of one of
            :data:`~latentpatch.methods.latent.presets.PRESETS`; by default this model's.
        sampler: a key of :data:`~latentpatch.registry.SAMPLERS`; by default the one the settings are for.
        reference: picture(s) that guide the sampler: a file or a picture of Pillow, or ``(3, H, W)`` or
            ``(1 or n, 3, H, W)`` in [0, 1] of the bank's image size; see :data:`~latentpatch.inputs.Picture`.
        where: predicate on attributes that sources must satisfy, as text (``gender=female``) or callable; or
            ascending positions of sources in the bank, ``(C,)`` int64.
        decoding: ``gather`` decodes the full latents of the chosen sources; ``blend`` first removes the steps
            where sources meet (:mod:`~latentpatch.ops.blending`; not of codes); ``detail`` blends, too, and adds
            the residuals of the sources (:mod:`~latentpatch.bank.residuals`); ``unproject`` decodes the reduced
            latents, through the nearest codes where there is a codebook (the paper's way). By default that of
            :meth:`~latentpatch.LatentPatch.default_decoding`.
        precision: ``float32`` or ``bfloat16``, of the decoder; by default this model's.
        part: of the images, those to decode and return: the processes of a sharded bank search together.

    Returns:
        Images on the model's device, with their provenance.

    Raises:
        SettingError: for arguments out of range.
    """
    seeds = image_seeds(n, seed, seeds)
    _check_count(self, len(seeds[part]))
    index, chosen = yield from self.sampling(
        seeds, settings=settings, sampler=sampler, reference=reference, where=where
    )
    decoding = decoding or self.default_decoding(chosen)
    dtype = None if precision is None else PRECISIONS[check_choice("precision", precision, PRECISIONS)]
    latents = self.latents_at(index, decoding, chosen)
    pictures = yield Decode(latents[part], dtype)
    if decoding == "detail":
        pictures = self.add_residuals(pictures, index, latents, part)
    pictures = self.bank.keep_common(pictures, index, part)
    return _generation(self, pictures, index[part], seeds[part], chosen)


def sampling(
    self: LatentPatch,
    seeds: Sequence[int],
    *,
    settings: Settings | str | None = None,
    sampler: str | None = None,
    reference: Picture | None = None,
    where: Where | None = None,
) -> Operation[tuple[Tensor, Settings]]:
    """Yield the steps of the first half of :func:`generating`: index maps ``(N, h, w)`` and the resolved settings."""
    self.require_fit()
    candidates = self.bank.candidates(where)
    method, chosen = self.sampler_and_settings(sampler, settings, candidates)
    keys = None
    if reference is not None:
        if not method.accepts_reference:
            raise SettingError("reference", "a picture", f"None for the sampler {method.name!r}")
        pictures = image_batch(reference, "reference", len(seeds), self.image_size, self.autoencoder.device)
        keys = self.bank.keys_of(self.autoencoder.quantize((yield Encode(pictures))), self.pca)
    context = self.context(candidates, keys is not None)
    chosen = method.resolve(chosen, context)
    noise = noise_from_seeds(seeds, method.noise_dim(chosen, context), self.bank.keys.device)
    index = yield Search(method, chosen, noise, candidates, keys)
    return index, chosen


def inpainting(
    self: LatentPatch,
    image: Picture,
    mask: Mask,
    n: int = 1,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    settings: Settings | str | None = None,
    sampler: str | None = None,
    where: Where | None = None,
    composite: bool = True,
) -> Operation[Generation]:
    """Fill a region with patches of the sources that fit its surroundings, in several ways.

    Args:
        image: ``(3, H, W)`` in [0, 1] or a file; its pixels under the mask have no influence.
        mask: ``(H, W)`` bool, True where pixels are to be replaced; or a picture that is bright there.
        n: number of different fillings.
        seed: seed of the first filling; see :func:`generating`.
        seeds: the seed of each filling, instead of ``n`` and ``seed``.
        settings: settings of a sampler that accepts masks; the raster's where neither settings nor a sampler are
            named, at three scales, so that large regions hold together.
        sampler: a sampler that accepts masks.
        where: see :func:`generating`.
        composite: keep the image's own pixels outside the mask, joined without a seam, instead of
            their reconstruction.

    Raises:
        SettingError: for shapes that do not fit, or a mask that selects nothing.
    """
    seeds = image_seeds(n, seed, seeds)
    self.require_fit()
    _check_count(self, len(seeds))
    candidates = self.bank.candidates(where)
    mask = as_mask(mask, self.image_size)
    cells = cells_of_mask(mask, self.image_size, self.autoencoder, 0)
    pixels = mask.to(self.autoencoder.device)
    target = image_batch(image, "image", 1, self.image_size, self.autoencoder.device)
    # The encoder sees beyond a cell: masked pixels must not colour the cells around them.
    latents = self.autoencoder.quantize((yield Encode(fill_smoothly(target, pixels))))
    name = INPAINTING_SAMPLER if settings is None and sampler is None else sampler
    method, chosen = self.sampler_and_settings(name, settings)
    if not method.accepts_mask:
        raise SettingError("sampler", method.name, "one that fills masks")
    context = self.context(candidates, True, cells)
    chosen = method.resolve(chosen, context)
    noise = noise_from_seeds(seeds, method.noise_dim(chosen, context), self.bank.keys.device)
    index = yield Search(method, chosen, noise, candidates, self.bank.keys_of(latents, self.pca), cells)
    filled = torch.where(index[:, None] < 0, latents, self.latents_at(index.clamp(min=0)))
    result = yield Decode(filled)
    if self.has_residuals:
        result = self.add_residuals(result, index, filled)
    result = self.bank.keep_common(result, index, is_rest_grey=self.bank.has_grey and bool(is_grey(target)))
    if composite:
        result = join(result, target, pixels)
    return _generation(self, result, index, seeds, chosen)


def _check_count(model: LatentPatch, count: int) -> None:
    """Refuse more pictures than fit into memory."""
    height, width = model.image_size
    check_memory("n", count, _PIXEL_BYTES * count * height * width, model.autoencoder.device)


def _generation(
    model: LatentPatch, pictures: Tensor, index: Tensor, seeds: Sequence[int], settings: Settings
) -> Generation:
    ids, variants, groups = tuple(model.bank.ids), model.bank.variants, model.bank.shared_numbers
    seeds = tuple(int(seed) for seed in seeds)
    return Generation(
        pictures, index, ids, seeds, SAMPLERS.name_of(settings), settings, variants, groups, model.bank.detail,
        model.bank.digest(),
    )  # fmt: skip


def editing(
    self: LatentPatch, image: Picture, donor: Picture, mask: Mask, *, composite: bool = False
) -> Operation[Generation]:
    """Copy latents of a donor under a mask and decode (figure 1 e).

    Args:
        image: the picture to edit, ``(3, H, W)`` in [0, 1] or a file.
        donor: the picture to copy from, registered with it, or ``source:ID`` for a source of the bank.
        mask: ``(H, W)`` bool, True or bright where the donor goes; cells half covered or more are copied.
        composite: keep the image's own pixels outside the copied cells, joined without a seam,
            instead of their reconstruction.

    Raises:
        SettingError: for shapes that do not fit, or a mask that selects no cell.
    """
    image, donor = as_picture(image, "image"), as_picture(donor, "donor")
    size, network = _editing_size(self, image), self.autoencoder
    target = image_batch(image, "image", 1, size, network.device)
    cells = cells_of_mask(mask, size, network, _EDIT_COVERAGE)
    if isinstance(donor, str) and donor.startswith("source:"):
        position, digest = self.bank.positions([donor.removeprefix("source:")])[0], self.bank.digest()
        if size != self.image_size:
            raise SettingError("image", size, f"of the bank's size {self.image_size} for the donor {donor!r}")
        ids, variants, groups = tuple(self.bank.ids), self.bank.variants, self.bank.shared_numbers
        copied = self.latents_at(torch.full((1, *self.bank.grid), position, device=network.device))
        is_of_grey = bool(self.bank.grey[position // variants.count]) and bool(is_grey(target))
        kept = network.quantize((yield Encode(target)))
    else:
        position, digest, variants, groups = 0, None, Variants(), None
        ids = (Path(donor).stem if isinstance(donor, (str, Path)) else "donor",)
        both = torch.cat([target, image_batch(donor, "donor", 1, size, network.device)])
        is_of_grey = bool(is_grey(both).all())
        kept, copied = network.quantize((yield Encode(both))).split(1)
    result = yield Decode(torch.where(cells, copied, kept))
    if is_of_grey:
        result = without_color(result)
    if composite:
        side = network.spec.downsampling
        result = join(result, target, cells.repeat_interleave(side, 0).repeat_interleave(side, 1))
    return Generation(
        result, torch.where(cells, position, -1)[None], ids, variants=variants, groups=groups, detail=self.bank.detail,
        sources_sha256=digest,
    )  # fmt: skip


def _editing_size(model: LatentPatch, image: Picture) -> tuple[int, int]:
    """Return the size an image is edited at: its own, or the bank's for a file."""
    if isinstance(image, Tensor):
        model.autoencoder.grid(*image.shape[-2:])
        return image.shape[-2], image.shape[-1]
    return model.image_size if len(model.bank) else size_pair(None, model.autoencoder.spec.image_size)


def reconstructing(self: LatentPatch, image: Picture, *, reduced: bool = False) -> Operation[Tensor]:
    """Return images encoded and decoded again: ``(N, 3, H, W)`` float32 in [0, 1].

    Args:
        image: a file, or ``(3, H, W)`` or ``(N, 3, H, W)`` in [0, 1].
        reduced: also through the PCA and back (table 1, second row).
    """
    image = as_picture(image, "image")
    if isinstance(image, Tensor):
        batch = image if image.ndim == 4 else image[None]
        check_range("image", batch)
    else:
        batch = read_image(image, self.image_size if len(self.bank) else None)[None]
    if reduced:
        self.require_fit()
    latents = self.autoencoder.quantize((yield Encode(batch)))
    if reduced:
        latents = self.autoencoder.quantize(self.pca.unproject(self.pca.project(latents)).float())
    result = yield Decode(latents)
    return result


def soft(
    self: LatentPatch,
    reference: Picture | None = None,
    *,
    latents: Tensor | None = None,
    settings: SoftSettings | None = None,
    where: Where | None = None,
    **changes: Any,
) -> Blend:
    """Rebuild images, or learned latents, from weighted means of all sources, with gradients.

    The weights of a cell are the softmax of its patch's distances to the sources' over the temperature, see
    :mod:`latentpatch.methods.latent.soft`; towards 0 only the nearest source has a weight.

    Args:
        reference: ``(3, H, W)`` or ``(N, 3, H, W)`` in [0, 1] of the bank's image size.
        latents: ``(N, L, h, w)`` of the autoencoder, instead of images.
        settings: by default those of :class:`~latentpatch.methods.latent.soft.SoftSettings`.
        where: see :func:`generating`.
        changes: single settings by name: ``temperature``, ``patch_size``, ``neighbors``, ``hard``.

    Returns:
        Images that carry gradients to ``reference`` or ``latents``, and the weights. Pixels that the decoder takes
        beyond [0, 1] have none.

    Raises:
        SettingError: for arguments out of range.
    """
    self.require_fit()
    if not isinstance(settings, SoftSettings | None):
        raise SettingTypeError("settings", settings, "SoftSettings, which have no presets")
    chosen = (settings or SoftSettings()).changed(**changes)
    if (reference is None) == (latents is None):
        raise TypeError("soft takes either a reference or latents")
    if reference is not None:
        reference = as_picture(reference, "reference")
        count = len(reference) if isinstance(reference, Tensor) and reference.ndim == 4 else 1
        pictures = image_batch(reference, "reference", count, self.image_size, self.autoencoder.device)
        latents = self.autoencoder.encode(pictures)
    assert latents is not None
    weights = source_weights(self.bank, self.pca, latents, chosen, self.bank.candidates(where))
    images = self.decode_latents(self.bank.blend(weights, self.autoencoder.codebook))
    if self.bank.has_grey and bool(self.bank.grey.all()):
        images = without_color(images)
    return Blend(images, weights, tuple(self.bank.ids))


def _task(name: str, steps: Callable[P, Operation[T]]) -> Callable[P, T]:
    """Return the plain call of a task: it runs the steps alone and returns their result."""

    @wraps(steps)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        model: Any = arguments[0]
        with torch.no_grad(), plain_torch():
            result: T = model.run(steps(*arguments, **options))
        return result

    call.__name__ = call.__qualname__ = name
    return call


generate = _task("generate", generating)
inpaint = _task("inpaint", inpainting)
edit = _task("edit", editing)
reconstruct = _task("reconstruct", reconstructing)
