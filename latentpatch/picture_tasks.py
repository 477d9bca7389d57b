"""Tasks on pictures: new pictures from one picture or a few, without a bank, registration or training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .errors import SettingError, SettingTypeError
from .inputs import Mask, Picture, as_mask, as_pictures, image_seeds, scene_inputs, size_pair
from .io.channels import read_channels, with_channels
from .methods.memory import check_count, check_memory
from .methods.picture import REGION_TASKS, TARGET_TASKS, Observer, check_picture, part_observer
from .methods.single_image.presets import changed_settings, settings_named
from .ops.symmetry import fundamental_size, unfold_symmetric
from .registry import PICTURE_METHODS
from .results import PictureGeneration
from .runs.defaults import plain_torch
from .settings import Settings
from .trained_tasks import make_trained, opened

__all__ = [
    "analogy",
    "denoise",
    "edit",
    "harmonize",
    "inpaint",
    "make_pictures",
    "picture_tensors",
    "reshuffle",
    "retarget",
    "stylize",
]


def reshuffle(
    pictures: Picture | Sequence[Picture],
    n: int = 1,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return new pictures from the patches of one picture, or of several.

    Args:
        pictures: a :data:`~latentpatch.inputs.Picture`, or several; all get the channels of those with most.
        n: number of results.
        seed: of the first result; the next one has the next seed.
        seeds: of all results, in place of ``n`` and ``seed``.
        size: height and width of the results; by default those of the first picture.
        method: name of a method; by default the task's default, or the one that the settings belong to.
        settings: of the method, or the name of a preset; the method's defaults where None.
        observe: called after each step, for progress and traces.
        changes: settings to change, by name.

    Raises:
        SettingError, ImageError: for arguments, pictures and settings that cannot be used; nothing was computed then.
    """
    return make_pictures(
        "reshuffle", pictures, size, image_seeds(n, seed, seeds), method=method, settings=settings, observe=observe,
        changes=changes,
    )  # fmt: skip


def retarget(
    picture: Picture | Sequence[Picture],
    size: tuple[int, int],
    n: int = 1,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return a picture in another size or aspect ratio, its things undistorted.

    Args:
        picture: see :func:`reshuffle`; of several, the first is retargeted, and the others give patches, too.
        size: height and width of the results.
        n, seed, seeds, method, settings, observe, changes: as for :func:`reshuffle`.

    Raises:
        SettingError, ImageError: as :func:`reshuffle`.
    """
    return make_pictures(
        "retarget", picture, size, image_seeds(n, seed, seeds), method=method, settings=settings, observe=observe,
        changes=changes,
    )  # fmt: skip


def stylize(
    content: Picture,
    style: Picture | Sequence[Picture],
    n: int = 1,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return a picture in the style of another, made of its patches.

    Args:
        content: the picture that says what is where.
        style: the picture that gives colors and patches, or several of them together; of the content's channels.
        n, seed, seeds, method, settings, observe, changes: as for :func:`reshuffle`; such as ``strength``.

    Raises:
        SettingError, ImageError: as :func:`reshuffle`.
    """
    return make_pictures(
        "stylize", style, None, image_seeds(n, seed, seeds), method=method, settings=settings,
        target=picture_tensors(content)[0], observe=observe, changes=changes,
    )  # fmt: skip


def analogy(
    structure: Picture,
    patches: Picture | Sequence[Picture],
    n: int = 1,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return a picture with the coarse structure of one picture, made of the patches of another.

    Args:
        structure: the picture that gives the layout.
        patches: the picture that gives everything else, or several of them together; of the structure's channels.
        n, seed, seeds, method, settings, observe, changes: as for :func:`reshuffle`.

    Raises:
        SettingError, ImageError: as :func:`reshuffle`.
    """
    return make_pictures(
        "analogy", patches, None, image_seeds(n, seed, seeds), method=method, settings=settings,
        target=picture_tensors(structure)[0], observe=observe, changes=changes,
    )  # fmt: skip


def inpaint(
    picture: Picture,
    mask: Mask,
    n: int = 1,
    *,
    sources: Picture | Sequence[Picture] | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return a picture with its hole filled; pixels outside of the hole stay as they are, and have no offsets.

    Args:
        picture: a file or a tensor ``(C, H, W)`` float32 in [0, 1]; what is in the hole does not matter.
        mask: ``(H, W)`` bool, True in the hole, or a file of the picture's size that is bright there.
        sources: a picture or several to fill the hole from; by default the picture itself.
        n, seed, seeds, method, settings, observe, changes: as for :func:`reshuffle`.

    Raises:
        SettingError, ImageError: as :func:`reshuffle`; for a mask of another size, of nothing or of everything.
    """
    return _region_task(
        "inpaint", picture, mask, sources, image_seeds(n, seed, seeds), method=method, settings=settings,
        observe=observe, changes=changes,
    )  # fmt: skip


def harmonize(
    picture: Picture,
    mask: Mask,
    n: int = 1,
    *,
    sources: Picture | Sequence[Picture] | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return a picture whose pasted thing has the look of the rest.

    Args:
        picture: the picture with the thing pasted into it.
        mask: True, or bright, where the thing is; see :func:`inpaint`.
        sources: a picture or several to take the look from; by default the picture outside of the mask.
        n, seed, seeds, method, settings, observe, changes: as for :func:`reshuffle`; such as ``fidelity``.

    Raises:
        SettingError, ImageError: as :func:`inpaint`.
    """
    return _region_task(
        "harmonize", picture, mask, sources, image_seeds(n, seed, seeds), method=method, settings=settings,
        observe=observe, changes=changes,
    )  # fmt: skip


def edit(
    picture: Picture,
    mask: Mask,
    n: int = 1,
    *,
    sources: Picture | Sequence[Picture] | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return a coherent picture from a naive edit: one in which things were moved, removed or painted.

    Args:
        picture: the edited picture.
        mask: True, or bright, where it was edited; see :func:`inpaint`.
        sources: the picture before the edit, or several pictures, to take patches from; by default the picture outside
            of the mask.
        n, seed, seeds, method, settings, observe, changes: as for :func:`reshuffle`; such as ``coarsest``.

    Raises:
        SettingError, ImageError: as :func:`inpaint`.
    """
    return _region_task(
        "edit", picture, mask, sources, image_seeds(n, seed, seeds), method=method, settings=settings,
        observe=observe, changes=changes,
    )  # fmt: skip


def _region_task(
    task: str,
    picture: Picture,
    mask: Mask,
    sources: Picture | Sequence[Picture] | None,
    seeds: Sequence[int],
    **arguments: Any,
) -> PictureGeneration:
    target = picture_tensors(picture)[0]
    return make_pictures(
        task, target if sources is None else sources, None, seeds, target=target,
        mask=as_mask(mask), **arguments,
    )  # fmt: skip


def denoise(
    picture: Picture,
    *,
    guide: Picture | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return a picture without its noise; grey stays grey, and alpha stays as it is.

    Args:
        picture: a file or a tensor ``(C, H, W)`` float32 in [0, 1].
        guide: a picture of the same shape whose edges are kept, such as one with flash, for the methods bilateral and
            guided; by default the picture itself.
        method, settings, observe: as for :func:`reshuffle`.
        changes: settings to change, by name: ``sigma`` is the standard deviation of the noise in levels of 255. It is
            estimated where there is none, and then stands in the settings of the result.

    Returns:
        One picture; it is no copy of others and has no offsets.

    Raises:
        SettingError, ImageError: as :func:`reshuffle`.
    """
    return make_pictures(
        "denoise", picture, None, (0,), method=method, settings=settings, observe=observe, changes=changes,
        target=None if guide is None else picture_tensors(guide)[0],
    )  # fmt: skip


@plain_torch()
def make_pictures(
    task: str,
    pictures: Picture | Sequence[Picture],
    size: tuple[int, int] | None,
    seeds: Sequence[int],
    *,
    method: str | None = None,
    settings: Settings | str | None = None,
    target: Tensor | Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
    shares: Tensor | None = None,
    symmetric: str | None = None,
    observe: Observer | None = None,
    changes: dict[str, Any] | None = None,
) -> PictureGeneration:
    """Return pictures of a task; see :func:`reshuffle` for the arguments.

    A trained model, or its file, may stand for the pictures.
    Of several targets, the results take turns by their seeds. ``shares`` are those of the pictures in each place, see
    :class:`~latentpatch.PictureMethod`; ``symmetric`` is of :data:`~latentpatch.ops.symmetry.SYMMETRIES`.
    """
    if (model := opened(pictures)) is not None:
        image = target if target is None or isinstance(target, Tensor) else target[0]
        return make_trained(model, task, size, seeds, method, settings, image, mask, observe, changes)
    given = settings_named(task, settings)
    if method is None and given is not None:
        method = PICTURE_METHODS.name_of(given)
    chosen = PICTURE_METHODS[PICTURE_METHODS.serving(task, method)]
    own = changed_settings(task, chosen.Settings() if given is None else given, changes or {})
    if not isinstance(own, chosen.Settings):
        raise SettingTypeError("settings", type(own).__name__, f"settings of {chosen.name}")
    tensors = picture_tensors(pictures)
    if target is not None and not isinstance(target, Tensor):
        height, width = tensors[0].shape[1:] if size is None else size_pair(size, 0)
        check_count(len(seeds), height * width)
        parts = [
            make_pictures(
                task, tensors, size, (each,), settings=own, target=target[each % len(target)], mask=mask,
                observe=part_observer(observe, number, len(seeds)),
            )
            for number, each in enumerate(seeds)
        ]  # fmt: skip
        return PictureGeneration.joined(parts)
    if task == "compose":
        size = (tensors[0].shape[1], tensors[0].shape[2]) if size is None else size_pair(size, 0)
        tensors, target = scene_inputs(tensors, size, target)
    if target is not None and task in REGION_TASKS:
        tensors = [with_channels(each, len(target)) for each in tensors]
    sizes = tuple((each.shape[1], each.shape[2]) for each in tensors)
    layout = target.shape[1:] if target is not None and task in TARGET_TASKS + REGION_TASKS else sizes[0]
    whole = height, width = layout if size is None else size_pair(size, 0)
    if symmetric is not None:
        height, width = fundamental_size(whole, symmetric)
        shares = None if shares is None else shares[:, :height, :width].contiguous()
    check_memory(chosen, sizes, (height, width), len(seeds), own)
    own = chosen.resolve(own, tensors)
    result = chosen(
        tensors, (height, width), seeds, own, task=task, target=target, mask=mask, shares=shares, observe=observe
    )  # fmt: skip
    images, offsets = result.images, result.offsets
    if symmetric is not None:
        images = unfold_symmetric(images, whole, symmetric, (2, 3))
        offsets = None if offsets is None else unfold_symmetric(offsets, whole, symmetric, (1, 2))
    return PictureGeneration(images, tuple(seeds), sizes, task, chosen.name, own, offsets, result.losses)


def picture_tensors(pictures: Picture | Sequence[Picture]) -> list[Tensor]:
    """Return pictures as tensors ``(C, H, W)`` of the same channels: color and alpha where one of them has these.

    Raises:
        SettingError, ImageError: for what is no picture.
    """
    several = as_pictures(pictures, "pictures")
    if not several:
        raise SettingError("pictures", 0, "at least one")
    tensors = [check_picture("pictures", each if isinstance(each, Tensor) else read_channels(each)) for each in several]
    count = max(len(each) - (len(each) + 1) % 2 for each in tensors) + any(len(each) % 2 == 0 for each in tensors)
    return [with_channels(each, count) for each in tensors]
