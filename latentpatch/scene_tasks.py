"""Tasks on several pictures: scenes from a few that are not registered, and textures from exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from sys import float_info
from typing import Any

import torch
from torch import Tensor

from .errors import SettingError
from .inputs import Picture, image_seeds, size_pair
from .io.channels import on_white
from .io.listing import list_images
from .methods.picture import Observer
from .ops.pyramid import resize
from .picture_tasks import make_pictures, picture_tensors
from .results import PictureGeneration
from .runs.system import check_memory
from .settings import Settings
from .trained_tasks import opened
from .validation import check_number

__all__ = ["compose", "exemplar_shares", "map_shares", "texture"]

_LEVELS = 255  # of a map
_SHARE_BYTES = 4  # of a pixel of an exemplar


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
        pictures: two or more files or tensors ``(C, H, W)`` float32 in [0, 1], or a folder. Those
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
        "compose", _pictures_or_model(_listed(pictures)), size, image_seeds(n, seed, seeds), method=method,
        settings=settings, target=None if structure is None else picture_tensors(_listed(structure)), observe=observe,
        changes=changes,
    )  # fmt: skip


def _listed(pictures: Picture | Sequence[Picture]) -> Picture | Sequence[Picture]:
    """Return the files of a folder; pictures as they are."""
    if isinstance(pictures, (str, Path)) and Path(pictures).is_dir():
        return list_images(pictures)
    return pictures


def _pictures_or_model(pictures: Any) -> Any:
    """Return pictures as tensors; a trained model as it is, whose tasks are known later."""
    model = opened(pictures)
    return picture_tensors(pictures) if model is None else model


def texture(
    pictures: Picture | Sequence[Picture],
    size: tuple[int, int],
    n: int = 1,
    *,
    weights: Sequence[float] | None = None,
    source_map: Picture | None = None,
    symmetric: str | None = None,
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
        pictures: see :func:`~latentpatch.reshuffle`.
        size: height and width of the textures.
        weights: a number from 0 for each exemplar; textures have shares of them in these proportions.
        source_map: a grey picture that says which exemplar is where, resized to the textures: see :func:`map_shares`.
        symmetric: ``mirrored``, or ``p4m`` for squares, see :data:`~latentpatch.ops.symmetry.SYMMETRIES`. Such
            textures are tileable, too.
        tileable: whether opposite edges match, so that the texture can be repeated.
        n, seed, seeds, method, settings, observe, changes: as for :func:`~latentpatch.reshuffle`.

    Raises:
        SettingError, ImageError: as :func:`~latentpatch.reshuffle`.
    """
    size, given = size_pair(size, 0), _pictures_or_model(pictures)
    count = len(given) if isinstance(given, list) else 1
    return make_pictures(
        "texture", given, size, image_seeds(n, seed, seeds), method=method, settings=settings, symmetric=symmetric,
        shares=exemplar_shares(count, size, weights, source_map), observe=observe,
        changes={**({"tileable": True} if tileable else {}), **changes},
    )  # fmt: skip


def exemplar_shares(
    count: int, size: tuple[int, int], weights: Sequence[float] | None = None, source_map: Picture | None = None
) -> Tensor | None:
    """Return the share of each exemplar at each pixel, ``(count, *size)`` float32; None without weights and map.

    Raises:
        SettingError, ImageError: for weights that are not one for each exemplar, and for a map of one exemplar.
    """
    if weights is None and source_map is None:
        return None
    if weights is not None and source_map is not None:
        raise SettingError("weights", list(weights), "absent with a map")
    check_memory("size", size, _SHARE_BYTES * count * size[0] * size[1])
    if source_map is not None:
        grey = picture_tensors(source_map)[0]
        return map_shares(on_white(grey[None])[0].mean(0), count, size)
    assert weights is not None
    values = [check_number("weights", each, 0, float_info.max) for each in weights]
    if len(values) != count or not any(values):
        raise SettingError("weights", values, f"numbers from 0, {count} of them as exemplars, and not all 0")
    shares = torch.tensor([each / max(values) for each in values], dtype=torch.float32)  # of any sum
    return (shares / shares.sum())[:, None, None].expand(count, *size).contiguous()


def map_shares(grey: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Return the shares of exemplars that a map stands for.

    Args:
        grey: ``(H, W)`` in [0, 1]. With as many levels as exemplars, levels are labels, the darkest for the first.
            Otherwise black is the first exemplar and white the last, the others between at equal steps; levels between
            two exemplars are both, in parts.
        count: number of exemplars.
        size: height and width of the result; the map is resized smoothly.

    Returns:
        ``(count, *size)`` float32 with sums of 1.

    Raises:
        SettingError: for a single exemplar.
    """
    if count < 2:
        raise SettingError("map", count, "of two exemplars or more")
    found, labels = (grey * _LEVELS).round().unique(return_inverse=True)
    at = labels.float() if len(found) == count else grey.float() * (count - 1)
    shares = (1 - (at - torch.arange(count)[:, None, None]).abs()).clamp(min=0)
    shares = resize(shares[None], size, "bilinear")[0]
    return shares / shares.sum(0)
