"""Judge from search keys alone whether sources, or a picture and the sources, are in register.

Registered sources agree best with the mean of the others where they are. Others agree better when they are moved, and
the two halves of a picture, each by itself, ask for the same move. Sources that merely differ do not: what one half
would gain from a move, the other half does not confirm. So every move is chosen on one half and judged on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bank.bank import SourceBank
from ..ops.blurring import blur
from ..runs.defaults import plain_torch

__all__ = ["Disagreement", "disagreement_of_pair", "disagreement_of_picture", "disagreement_of_sources"]

_SIDE = 16  # cells of the shorter side to which keys are resized
_COMPONENTS = 16  # principal components that are compared, at most
_FEWEST_COMPONENTS = 8  # fewer hold colours and hardly any structure
_FEWEST_SOURCES = 8  # the mean of fewer others is no yardstick
_LEARNERS = 32  # sources that are registered to one another
_JUDGED = 128  # sources that are judged one by one, evenly spaced
_MOST_NAMED = 3  # pictures in a message
_ROUNDS = 3  # of moving every source to the mean of the others
_BLUR = 0.8  # cells; standard deviation, so that moves by half a cell smooth no more than others
_BLUR_RADIUS = 3  # cells
_REACH = 2  # cells; largest move, an eighth of the shorter side
_MARGIN = 3  # cells at each edge that are not compared
_MOVES = tuple(product([k / 2 for k in range(-2 * _REACH, 2 * _REACH + 1)], repeat=2))  # cells down and right
_STILL = _MOVES.index((0, 0))

# Thresholds, chosen on registered and on raw portraits: see docs/alignment.md.
_SCATTERED_GAIN = 0.006  # confirmed gain of correlation, on average over the sources
_SCATTERED_CONSISTENCY = 0.6  # correlation of the moves that opposite halves ask for
_COHERENT = 0.6  # median agreement from which single pictures can be told from the others
_MOVED_GAIN = 0.07  # gain of correlation of one picture
_MOVED_CONFIRMED = 0.045  # part of it that the other half confirms
_MOVED_SOURCE = 2.0  # both, relative, for a source: among many, one or the other gains by chance
_MOVED_PAIR = 1.5  # both, relative, for a single picture in place of a mean
_UNLIKE = 0.4  # agreement of one picture, as a share of the sources' median


@dataclass(frozen=True)
class Disagreement:
    """A lack of registration.

    Attributes:
        names: pictures that lie elsewhere than the others, the farthest first, or are unlike them.
        total: number of pictures judged.
        is_scattered: True if the sources as a whole would agree better elsewhere; ``names`` are then some of many.
    """

    names: tuple[str, ...]
    total: int
    is_scattered: bool

    def __str__(self) -> str:
        named = ", ".join(self.names[:_MOST_NAMED]) + (" ..." if len(self.names) > _MOST_NAMED else "")
        if self.is_scattered:
            text = f"the {self.total} sources are not in register: moved, they would agree better with one another"
            return f"{text} ({named} above all)" if named else text
        if self.total == 1:
            return f"{self.names[0]} is not in register with the sources"
        if len(self.names) == self.total == 2:
            return f"{self.names[0]} and {self.names[1]} are not in register"
        return f"{len(self.names)} of {self.total} sources are not in register with the others: {named}"


class _Scores(NamedTuple):
    """Correlations of pictures with a mean: where they are, the gain by the best move, and its confirmed part."""

    in_place: Tensor
    gain: Tensor
    confirmed: Tensor


@plain_torch()
def disagreement_of_sources(bank: SourceBank) -> Disagreement | None:
    """Return how sources of a bank disagree with one another; None where they are in register, or cannot be judged.

    Sources with offsets are not judged: their sampler expects them out of register. Nor are fewer than eight sources,
    and keys of fewer than eight components.
    """
    positions = _evenly(len(bank.sources), _JUDGED) * bank.variants.count
    if bank.variants.offsets or len(positions) < _FEWEST_SOURCES or bank.keys.shape[3] < _FEWEST_COMPONENTS:
        return None
    names = [bank.ids[position] for position in positions.tolist()]
    features = _features(bank.keys[positions.to(bank.keys.device)])
    learners = _evenly(len(features), _LEARNERS)
    is_scattered = _is_scattered(_moved(features[learners]))
    total = features.sum(0)
    scores = [_scores(part, total - part) for part in features.split(_LEARNERS)]
    each = _Scores(*(torch.cat(values) for values in zip(*scores, strict=True)))
    usual = each.in_place.median()
    is_out = _is_moved(each, _MOVED_SOURCE) & (usual > _COHERENT)
    if not is_scattered and not bool(is_out.any()):
        return None
    worst = (each.confirmed - each.in_place).argsort(descending=True).tolist()
    chosen = [i for i in worst if bool(is_out[i])]
    return Disagreement(tuple(names[i] for i in chosen), len(names), is_scattered)


@plain_torch()
def disagreement_of_picture(bank: SourceBank, keys: Tensor, name: str = "the picture") -> Disagreement | None:
    """Return how a picture disagrees with the sources of a bank; None where it is in register, or cannot be judged.

    Args:
        bank: the sources.
        keys: ``(1, h, w, r)`` of the picture, as :meth:`SourceBank.keys_of` gives them.
        name: of the picture.
    """
    positions = _evenly(len(bank.sources), _JUDGED) * bank.variants.count
    if bank.variants.offsets or len(positions) < _FEWEST_SOURCES or bank.keys.shape[3] < _FEWEST_COMPONENTS:
        return None
    features = _features(torch.cat([bank.keys[positions.to(bank.keys.device)], keys.to(bank.keys)]), len(positions))
    sources, picture = features[:-1], features[-1:]
    total = sources.sum(0, keepdim=True)
    score = _scores(picture, total)
    usual = _correlation(_inner(sources), _inner(total - sources)).median()
    is_out = _is_moved(score) | (score.in_place < _UNLIKE * usual)
    return Disagreement((name,), 1, False) if bool(is_out & (usual > _COHERENT)) else None


@plain_torch()
def disagreement_of_pair(latents: Tensor, names: Sequence[str]) -> Disagreement | None:
    """Return how two pictures disagree with one another; None where they are in register.

    Args:
        latents: ``(2, L, h, w)``.
        names: of the two.
    """
    if latents.shape[1] < _FEWEST_COMPONENTS:
        return None
    features = _features(latents.movedim(1, -1), components=latents.shape[1])
    score = _scores(features[:1], features[1:])
    return Disagreement(tuple(names), 2, False) if bool(_is_moved(score, _MOVED_PAIR)) else None


def _evenly(count: int, most: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def _features(keys: Tensor, num_sources: int | None = None, components: int = _COMPONENTS) -> Tensor:
    """Return keys ``(N, h, w, r)`` as features ``(N, C, H, W)`` float32, of mean 0 in every picture.

    Args:
        keys: of sources, and perhaps of others.
        num_sources: how many come first whose mean and variance count; by default all.
        components: the first that are used.
    """
    values = keys[..., :components].movedim(-1, 1).float()
    sources = values[:num_sources]
    deviation = sources.std((0, 2, 3), keepdim=True).clamp(min=1e-6 * float(sources.std()) + 1e-12)
    values = (values - sources.mean((0, 2, 3), keepdim=True)) / deviation
    height, width = values.shape[2:]
    scale = _SIDE / min(height, width)
    size = round(height * scale), round(width * scale)
    if size != (height, width):
        values = F.interpolate(values, size, mode="bilinear", antialias=True)
    return blur(values - values.mean((2, 3), keepdim=True), _BLUR, _BLUR_RADIUS, "replicate")


def _moved(features: Tensor) -> Tensor:
    """Return the inner part of features under every move: ``(K, N, C, H', W')``."""
    height, width = features.shape[2:]
    y, x = (torch.arange(side, device=features.device) + 0.5 for side in (height, width))
    phases = {}
    for down, right in product((0.0, 0.5), repeat=2):
        grid = torch.stack(
            torch.broadcast_tensors((x + right)[None] / width * 2 - 1, (y + down)[:, None] / height * 2 - 1), -1
        )
        grid = grid.expand(len(features), -1, -1, -1)
        moved = F.grid_sample(features, grid, "bicubic", "border", align_corners=False)
        phases[down, right] = features if (down, right) == (0, 0) else moved
    parts = []
    for down, right in _MOVES:
        top, left = _MARGIN + int(down // 1), _MARGIN + int(right // 1)
        part = phases[down % 1, right % 1]
        parts.append(part[..., top : top + height - 2 * _MARGIN, left : left + width - 2 * _MARGIN])
    return torch.stack(parts)


def _inner(features: Tensor) -> Tensor:
    return features[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].flatten(1)


def _halves(moved: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the pairs of opposite halves, both ways: ``(..., C, H', W')`` each."""
    height, width = moved.shape[-2:]
    left, right = moved[..., : width // 2], moved[..., width // 2 :]
    above, below = moved[..., : height // 2, :], moved[..., height // 2 :, :]
    return [(left, right), (right, left), (above, below), (below, above)]


def _correlation(values: Tensor, mean: Tensor) -> Tensor:
    """Return the correlations of vectors along the last axis."""
    return F.cosine_similarity(values, mean, dim=-1, eps=1e-9)


def _scores(pictures: Tensor, others: Tensor) -> _Scores:
    """Score pictures ``(N, C, H, W)`` against the sum of others, ``(N, C, H, W)`` or one for all."""
    moved, fixed = _moved(pictures), others[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    # Sums over quarters, of which halves and the whole are made: 4 passes over the values instead of 27.
    sums = [_sums(part, other) for part, other in zip(_quarters(moved), _quarters(fixed), strict=True)]
    products, squares, fixed_squares = (torch.stack(each) for each in zip(*sums, strict=True))

    def correlation(*parts: int) -> Tensor:
        lengths = (squares[[*parts]].sum(0) * fixed_squares[[*parts]].sum(0)).sqrt()
        return products[[*parts]].sum(0) / lengths.clamp(min=1e-9)

    whole, number = correlation(0, 1, 2, 3), torch.arange(len(pictures), device=pictures.device)
    confirmed = []
    for first, second in (((0, 2), (1, 3)), ((0, 1), (2, 3))):  # left and right, above and below
        for chosen, judged in ((first, second), (second, first)):
            best, score = correlation(*chosen).argmax(0), correlation(*judged)
            confirmed.append(score[best, number] - score[_STILL])
    return _Scores(whole[_STILL].cpu(), (whole.amax(0) - whole[_STILL]).cpu(), torch.stack(confirmed).mean(0).cpu())


def _quarters(values: Tensor) -> list[Tensor]:
    """Return the quarters of values ``(..., C, H', W')`` in reading order, ``(..., D)`` each."""
    down, right = values.shape[-2] // 2, values.shape[-1] // 2
    rows = (values[..., :down, :], values[..., down:, :])
    return [part.flatten(-3) for row in rows for part in (row[..., :right], row[..., right:])]


def _sums(values: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of products with fixed vectors, and of squares: ``(K, N)``, ``(K, N)`` and ``(N,)``."""
    products = torch.einsum("knd,nd->kn", values, fixed)
    return products, torch.linalg.vector_norm(values, dim=2).square(), fixed.square().sum(1)


def _is_moved(scores: _Scores, factor: float = 1.0) -> Tensor:
    """Return which pictures would agree clearly better elsewhere: ``(N,)`` bool."""
    return (scores.gain > factor * _MOVED_GAIN) & (scores.confirmed > factor * _MOVED_CONFIRMED)


def _is_scattered(moved: Tensor) -> bool:
    """Return whether registering sources, under all moves ``(K, N, C, H', W')``, would make them agree better."""
    gain, consistency = _scatter(moved)
    return gain > _SCATTERED_GAIN and consistency > _SCATTERED_CONSISTENCY


def _scatter(moved: Tensor) -> tuple[float, float]:
    """Return the gain that opposite halves confirm, and the correlation of the moves that they ask for."""
    moves = torch.tensor(_MOVES, device=moved.device)
    chosen, gains = [], []
    for part, judged in _halves(moved):
        units = F.normalize(part.flatten(2), dim=2, eps=1e-9)
        found = torch.full((moved.shape[1],), _STILL, device=moved.device)
        for _ in range(_ROUNDS):
            found = torch.einsum("knd,nd->kn", units, _others(units, found)).argmax(0)
        judges = F.normalize(judged.flatten(2), dim=2, eps=1e-9)
        gains.append(_agreement(judges, found) - _agreement(judges, torch.full_like(found, _STILL)))
        chosen.append(moves[found] - moves[found].mean(0))
    products = [_moves_agree(chosen[i], chosen[i + 1]) for i in (0, 2)]
    return float(torch.stack(gains).mean()), sum(products) / 2


def _others(units: Tensor, found: Tensor) -> Tensor:
    """Return the mean direction of all others under chosen moves: ``(N, D)``."""
    own = units[found, torch.arange(len(found), device=found.device)]
    return F.normalize(own.sum(0) - own, dim=1, eps=1e-9)


def _agreement(units: Tensor, found: Tensor) -> Tensor:
    own = units[found, torch.arange(len(found), device=found.device)]
    return (own * _others(units, found)).sum(1)


def _moves_agree(first: Tensor, second: Tensor) -> float:
    size = float((first.square().sum() * second.square().sum()).sqrt())
    return float((first * second).sum()) / size if size > 0 else 0.0
