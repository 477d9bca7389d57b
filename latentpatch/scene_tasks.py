"""Tasks on several pictures: scenes from a few that are not registered, and textures from exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .inputs import Picture, image_seeds
from .io.listing import list_images
from .methods.picture import Observer
from .picture_tasks import make_pictures, picture_tensors
from .results import PictureGeneration
from .settings import Settings

__all__ = ["compose", "texture"]


def compose(
    pictures: Picture | Sequence[Picture],
    n: int = 1,
    *,
    size: tuple[int, int] | None = None,
    structure: Picture | Sequence[Picture] | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return new pictures of a scene from the patches of a few pictures that are not registered.

    Args:
        pictures: two or more files or tensors ``(C, H, W)`` float32 in [0, 1] of the same channels, or a folder. Those
            that are larger than the results are reduced to their shorter side; offsets are in the reduced pictures.
        n: number of results.
        size: height and width of the results; by default those of the first picture.
        structure: a picture, or several, or a folder, whose coarse layout the results have, taking turns by their
            seeds; cropped to the results' aspect ratio. By default the layout comes from noise.
        seed, seeds, method, settings, observe: as for :func:`~latentpatch.reshuffle`.
        changes: settings to change, by name; such as ``continuity``, ``position`` and ``mixed``.

    Raises:
        SettingError, ImageError: as :func:`~latentpatch.reshuffle`; for a single picture.
    """
    return make_pictures(
        "compose", picture_tensors(_listed(pictures)), size, image_seeds(n, seed, seeds), method=method,
        settings=settings, target=None if structure is None else picture_tensors(_listed(structure)), observe=observe,
        changes=changes,
    )  # fmt: skip


def _listed(pictures: Picture | Sequence[Picture]) -> Picture | Sequence[Picture]:
    """Return the files of a folder; pictures as they are."""
    if isinstance(pictures, (str, Path)) and Path(pictures).is_dir():
        return list_images(pictures)
    return pictures


def texture(
    pictures: Picture | Sequence[Picture],
    size: tuple[int, int],
    n: int = 1,
    *,
    tileable: bool = False,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    settings: Settings | str | None = None,
    observe: Observer | None = None,
    **changes: Any,
) -> PictureGeneration:
    """Return textures of any size from one exemplar, or from several together.

    Args:
        pictures: see :func:`reshuffle`.
        size: height and width of the textures.
        tileable: whether opposite edges match, so that the texture can be repeated.
        n, seed, seeds, method, settings, observe, changes: as for :func:`reshuffle`.

    Raises:
        SettingError, ImageError: as :func:`reshuffle`.
    """
    return make_pictures(
        "texture", pictures, size, image_seeds(n, seed, seeds), method=method, settings=settings, observe=observe,
        changes={**({"tileable": True} if tileable else {}), **changes},
    )  # fmt: skip
