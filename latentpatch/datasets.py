"""New labelled samples for a training loop, from few labelled ones.

Each sample is put together from sources of one label, so that the label is right by construction: its index map says
which sources it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .autoencoders.registry import DEFAULT, Autoencoder
from .methods.base import Context
from .model import LatentPatch
from .registry import SAMPLERS
from .results import Generation
from .settings import Settings
from .validation import check_integer, check_real

__all__ = ["Recombine", "RecombinedSamples", "fit_labelled"]

LABEL = "label"


def fit_labelled(
    images: Tensor,
    labels: Sequence[Any] | Tensor,
    autoencoder: Autoencoder | str = DEFAULT,
    components: int = 16,
    settings: Settings | None = None,
) -> LatentPatch:
    """A model of labelled examples, for :class:`RecombinedSamples` and :class:`Recombine`.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1]; sides are multiples of the autoencoder's downsampling.
        labels: one an image, kept as text in the attribute ``label``.
        autoencoder, components, settings: as of :class:`~latentpatch.LatentPatch`.

    Raises:
        TypeError, ValueError: for arguments out of range.
    """
    values = [str(label) for label in (labels.tolist() if isinstance(labels, Tensor) else labels)]
    if len(values) != len(images):
        raise ValueError(f"labels: {len(images)} are expected, one an image, got {len(values)}")
    known = {str(i): {LABEL: value} for i, value in enumerate(values)}
    return LatentPatch(autoencoder, components, settings).fit(images, attributes=known)


class _Classes:
    """A model whose sources have labels, and new samples of them.

    Args:
        model: fitted, with attributes.
        attribute: the one that holds the label. Sources where it is empty are not used.
        settings: of a sampler; by default the model's.

    Raises:
        ValueError: where no source has the attribute, or a label has too few sources for the settings.
    """

    def __init__(self, model: LatentPatch, attribute: str, settings: Settings | None) -> None:
        self.model, self.attribute, self.settings = model, attribute, settings or model.settings
        counts: dict[str, int] = defaultdict(int)
        for known in model.bank.attributes:
            counts[known.get(attribute, "")] += 1
        counts.pop("", None)
        if not counts:
            raise ValueError(f"attribute {attribute!r}: none of the {len(model.bank)} sources has it")
        self.labels = tuple(sorted(counts, key=_as_number))
        sampler = SAMPLERS.of(self.settings)
        for label in self.labels:
            try:
                context = Context(model.bank.grid, counts[label])
                sampler.validate(sampler.resolve(self.settings, context), context)
            except ValueError as error:
                raise ValueError(f"{attribute}={label}, {counts[label]} examples: {error}") from error

    def make(self, classes: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """New samples of given classes -> images (N, 3, H, W), index maps (N, h, w)"""
        places: dict[int, list[int]] = defaultdict(list)
        for place, number in enumerate(classes):
            places[number].append(place)
        operations = [
            self.model.generating(
                [seeds[place] for place in of],
                settings=self.settings,
                where=_HasLabel(self.attribute, self.labels[number]),
            )
            for number, of in places.items()
        ]
        made: list[Generation] = []
        for result in self.model.run_together(operations):
            if isinstance(result, Exception):
                raise result
            made.append(result)
        order = torch.tensor([place for of in places.values() for place in of]).argsort()
        images, index = (torch.cat(parts) for parts in ([m.images for m in made], [m.index for m in made]))
        return images[order.to(images.device)], index[order.to(index.device)]


class RecombinedSamples(IterableDataset[tuple[Any, ...]]):
    """New samples ``(image, class)``, as many of each class, without end to their number.

    Sample i of an epoch depends on the seed, the epoch and i alone, and its class is ``i % len(classes)``: samples are
    the same with any number of workers, each of which makes its share of them, ``batch_size`` at a time. Where the
    loader's batches have that size, too, their order is the same. Call :meth:`set_epoch` before every epoch, or it
    will be the last one again; persistent workers hear it, too.

    Args:
        model: fitted, with attributes; on the CPU where there are workers.
        attribute: the one that holds the label. Sources where it is empty are not used.
        length: samples an epoch, of each process.
        seed: at least 0.
        batch_size: samples made together; faster where there are many of each label among them.
        settings: of a sampler; by default the model's.
        transform: applied to every image ``(3, H, W)``.
        provenance: yield the index map ``(h, w)`` of each sample, too: positions in ``model.bank``.
        rank: of this process among several, whose samples are others; by default that of ``torch.distributed``.

    Attributes:
        classes: the labels; a sample's class is the position of its label. Numbers come in order, then text.

    Raises:
        TypeError, ValueError: for arguments out of range; where no source has the attribute, or a label has too few
            sources for the settings.

    Example:
        >>> model = fit_labelled(torch.rand(8, 3, 64, 64), [0, 1] * 4, "pixels")
        >>> images, classes = next(iter(torch.utils.data.DataLoader(RecombinedSamples(model, length=32), 16)))
        >>> images.shape, classes[:4]
        (torch.Size([16, 3, 64, 64]), tensor([0, 1, 0, 1]))
    """

    def __init__(
        self,
        model: LatentPatch,
        attribute: str = LABEL,
        *,
        length: int,
        seed: int = 0,
        batch_size: int = 16,
        settings: Settings | None = None,
        transform: Callable[[Tensor], Any] | None = None,
        provenance: bool = False,
        rank: int | None = None,
    ) -> None:
        if rank is None:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if distributed else 0
        for name, value, least in (
            ("length", length, 1),
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
            ("rank", rank, 0),
        ):
            check_integer(name, value, least)
        self._classes = _Classes(model, attribute, settings)
        self.classes = self._classes.labels
        self.length, self.seed, self.batch_size, self.rank = length, seed, batch_size, rank
        self.transform, self.provenance = transform, provenance
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that persist see it change

    def __len__(self) -> int:
        return self.length

    @property
    def epoch(self) -> int:
        """See :meth:`set_epoch`."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make the samples of an epoch from the next iteration on.

        Raises:
            TypeError, ValueError: where it is no integer from 0 on.
        """
        check_integer("epoch", epoch, 0)
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = self.epoch
        for first in range(number * self.batch_size, self.length, workers * self.batch_size):
            yield from self._samples(range(first, min(first + self.batch_size, self.length)), epoch)

    def _samples(self, numbers: range, epoch: int) -> Iterator[tuple[Any, ...]]:
        classes = [number % len(self.classes) for number in numbers]
        images, maps = self._classes.make(classes, [_hashed(self.seed, epoch, self.rank, i) for i in numbers])
        for image, label, index in zip(images, classes, maps, strict=True):
            sample = (image if self.transform is None else self.transform(image), label)
            yield (*sample, index) if self.provenance else sample


class Recombine:
    """A transform of labelled samples: some give way to new ones of their label.

    It draws from PyTorch's global generator, which a ``DataLoader`` seeds for each worker and epoch: the same seed and
    number of workers give the same samples. New ones are made ``batch_size`` at a time, those of a label together.

    Args:
        model: fitted, with attributes; on the CPU where there are workers.
        attribute: the one that holds the label.
        probability: that a sample gives way.
        batch_size: samples of a label made together.
        settings: of a sampler; by default the model's.

    Raises:
        TypeError, ValueError: for arguments out of range; where no source has the attribute, or a label has too few
            sources for the settings.

    Example:
        >>> images = torch.rand(8, 3, 64, 64)
        >>> recombine = Recombine(fit_labelled(images, [0, 1] * 4, "pixels"))
        >>> recombine(images[3], 1).shape
        torch.Size([3, 64, 64])
    """

    def __init__(
        self,
        model: LatentPatch,
        attribute: str = LABEL,
        *,
        probability: float = 0.5,
        batch_size: int = 16,
        settings: Settings | None = None,
    ) -> None:
        if not 0 <= check_real("probability", probability) <= 1:
            raise ValueError(f"probability {probability}: a number from 0 to 1 is expected")
        check_integer("batch_size", batch_size, 1)
        self._classes = _Classes(model, attribute, settings)
        self.probability, self.batch_size = probability, batch_size
        self._ready: dict[int, list[Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": {}}  # every worker makes its own

    def __call__(self, image: Tensor, label: Any) -> Tensor:
        """The image, or a new one of its label.

        Args:
            image: ``(3, H, W)`` of the model's image size.
            label: as in the attribute; numbers and text are the same.

        Raises:
            ValueError: for a label that no source has, or an image of another size.
        """
        known, size = self._classes.labels, self._classes.model.image_size
        if str(label) not in known:
            raise ValueError(f"label {label!r}: one of {', '.join(known)} is expected")
        if tuple(image.shape) != (3, *size):
            raise ValueError(f"image: shape (3, {size[0]}, {size[1]}) is expected, got {tuple(image.shape)}")
        if float(torch.rand(())) >= self.probability:
            return image
        number = known.index(str(label))
        if not self._ready.get(number):
            seeds = torch.randint(1 << 62, (self.batch_size,)).tolist()
            self._ready[number] = list(self._classes.make([number] * len(seeds), seeds)[0])
        return self._ready[number].pop().to(image)


@dataclass(frozen=True)
class _HasLabel:
    """A predicate on attributes."""

    attribute: str
    label: str

    def __call__(self, known: Mapping[str, str]) -> bool:
        return known.get(self.attribute, "") == self.label


def _hashed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _as_number(label: str) -> tuple[bool, int, str]:
    return not label.isdecimal(), int(label) if label.isdecimal() else 0, label
