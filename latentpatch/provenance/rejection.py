"""Rejection of images that fail the audit's limits: they are made anew from other seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..inputs import image_seeds
from ..model import LatentPatch
from ..results import Generation
from ..validation import check_integer
from .audit import CopyLimits
from .copying import copying
from .registered import RegisteredSources

__all__ = ["ATTEMPTS", "NEXT_SEED", "generate_audited"]

#: Seeds that an image may be made from, by default.
ATTEMPTS = 16
#: Distance from the seed of one attempt to that of the next.
NEXT_SEED = 1 << 40


def generate_audited(
    model: LatentPatch,
    n: int = 1,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    limits: CopyLimits | None = None,
    registered: RegisteredSources | None = None,
    attempts: int = ATTEMPTS,
    accept: Callable[[Tensor], Tensor] | None = None,
    **inputs: Any,
) -> tuple[Generation, Tensor]:
    """Generate images each of which passes the audit's limits, as far as the attempts suffice.

    An image that fails is made anew from its seed plus :data:`NEXT_SEED`, then plus twice that, and so on. So it
    depends on its own seed alone, whatever other images are made with it. Where all attempts fail, it is the attempt
    that is least near to a source. The limit of the mean is not applied.

    Args:
        model: a fitted model with at least two sources.
        n, seed, seeds: see :meth:`~latentpatch.LatentPatch.generate`.
        limits: by default those of the audit.
        registered: the sources, to which images are registered; None leaves out the limit after registration.
        attempts: number of seeds that an image may be made from, at least 1.
        accept: a further test, such as one of identity: takes images ``(N, 3, H, W)`` in [0, 1] and returns ``(N,)``
            bool, False for those to be made anew.
        inputs: further arguments of :meth:`~latentpatch.LatentPatch.generate`; a reference must be one picture.

    Returns:
        The images, with the seeds that they were made from in the end; and ``(N,)`` bool, whether each passes.

    Raises:
        SettingError: for arguments out of range.
    """
    check_integer("attempts", attempts, 1)
    if isinstance(reference := inputs.get("reference"), Tensor) and reference.ndim == 4 and len(reference) > 1:
        raise SettingError("reference", tuple(reference.shape), "one picture")
    first, limits = list(image_seeds(n, seed, seeds)), limits or CopyLimits()
    result = model.generate(seeds=first, **inputs)
    tests = limits, registered, accept
    passes, relative = _tried(model, result, *tests)
    for attempt in range(1, attempts):
        failed = (~passes).nonzero().flatten()
        if not len(failed):
            break
        again = model.generate(seeds=[first[i] + attempt * NEXT_SEED for i in failed.tolist()], **inputs)
        passed, nearness = _tried(model, again, *tests)
        better = passed | (nearness > relative[failed])
        chosen = failed[better]
        result = _with(result, chosen, again, better)
        passes[chosen], relative[chosen] = passed[better], nearness[better]
    return result, passes


def _tried(
    model: LatentPatch,
    made: Generation,
    limits: CopyLimits,
    registered: RegisteredSources | None,
    accept: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return whether images pass, and their nearness (:attr:`.Copying.relative`), each ``(N,)``."""
    exact = torch.ones(len(made), dtype=torch.bool)
    index = model.bank.groups_of(made.index).cpu()
    figures = copying(model, made.images).with_index(index, exact, model.bank.detail)
    placed = None if registered is None else registered.compare(made.images)
    failed = {each["file"] for each in limits.failures(figures, range(len(made)), placed)}
    passes = torch.tensor([i not in failed for i in range(len(made))])
    if accept is not None:
        passes &= torch.as_tensor(accept(made.images)).cpu()
    return passes, figures.relative.clone()


def _with(result: Generation, chosen: Tensor, again: Generation, better: Tensor) -> Generation:
    """Return images with those at the positions ``chosen`` replaced by the better ones of others."""
    images, index, seeds = result.images.clone(), result.index.clone(), list(result.seeds)
    images[chosen.to(images.device)] = again.images[better.to(images.device)]
    index[chosen.to(index.device)] = again.index[better.to(index.device)]
    for position, i in zip(chosen.tolist(), better.nonzero().flatten().tolist(), strict=True):
        seeds[position] = again.seeds[i]
    return replace(result, images=images, index=index, seeds=tuple(seeds))
