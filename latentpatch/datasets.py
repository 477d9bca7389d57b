"""Datasets of new labelled samples for a training loop, from few labelled images.

Each sample is made of patches of sources with one label, so that its label is right by construction; its index map
names the sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .autoencoders.registry import DEFAULT, Autoencoder
from .errors import SettingError
from .inputs import Picture, as_picture
from .io.images import read_image
from .methods.latent.presets import settings_named
from .model import LatentPatch
from .registry import SAMPLERS
from .results import Generation
from .settings import Settings
from .validation import check_integer, check_number, plain

__all__ = ["Classes", "Recombine", "RecombinedSamples", "fit_labelled"]

LABEL = "label"


def fit_labelled(
    images: Tensor,
    labels: Sequence[Any] | Tensor,
    autoencoder: Autoencoder | str = DEFAULT,
    components: int = 16,
    settings: Settings | str | None = None,
) -> LatentPatch:
    """Return a model fitted on labelled images, for :class:`RecombinedSamples` and :class:`Recombine`.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1]; sides are multiples of the autoencoder's downsampling.
        labels: one for each image, stored as text in the attribute ``label``.
        autoencoder, components, settings: see :class:`~latentpatch.LatentPatch`.

    Raises:
        SettingError: for arguments out of range.
    """
    values = [
        str(plain(label) if isinstance(label, Tensor) else label)
        for label in (labels.tolist() if isinstance(labels, Tensor) else labels)
    ]
    if len(values) != len(images):
        raise SettingError("labels", len(values), f"one for each of {len(images)} images")
    attributes = {str(i): {LABEL: value} for i, value in enumerate(values)}
    return LatentPatch(autoencoder, components, settings).fit(images, attributes=attributes)


class Classes:
    """The labels of a model's sources, and new samples of each.

    Args:
        model: fitted, with attributes.
        attribute: the attribute with the label. Sources where it is empty are not used.
        settings: of a sampler; by default the model's.
        decoding: by default the model's.

    Raises:
        SettingError: where no source has the attribute.
        ValueError: where a label has too few sources for the settings.
    """

    def __init__(
        self,
        model: LatentPatch,
        attribute: str,
        settings: Settings | str | None = None,
        decoding: str | None = None,
    ) -> None:
        self.model, self.attribute, self.decoding = model, attribute, decoding
        self.settings = settings_named(settings) or model.settings
        labels = {row.get(attribute, "") for row in model.bank.attributes} - {""}
        if not labels:
            raise SettingError("attribute", attribute, f"one that some of the {len(model.bank.sources)} sources have")
        self.labels = tuple(sorted(labels, key=_by_number))
        sampler = SAMPLERS.of(self.settings)
        for label in self.labels:
            try:
                context = model.context(model.bank.select(_HasLabel(attribute, label)))
                sampler.validate(sampler.resolve(self.settings, context), context)
            except ValueError as error:
                raise ValueError(f"{attribute}={label}, {context.num_sources} examples: {error}") from error

    def samples(
        self, numbers: Sequence[int], seed: int, epoch: int = 0, rank: int = 0
    ) -> tuple[list[int], Generation, list[dict[str, Any]]]:
        """Return the classes of numbered samples, which come in turn, new samples of them, and the record of settings
        of each, which follow from the sources of its class.
        """
        classes = [number % len(self.labels) for number in numbers]
        made, records = self.make(classes, [_hashed(seed, epoch, rank, number) for number in numbers])
        return classes, made, [records[number] for number in classes]

    def make(self, classes: Sequence[int], seeds: Sequence[int]) -> tuple[Generation, dict[int, dict[str, Any]]]:
        """Return new samples of classes, one for each seed, and the record of settings by class."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, number in enumerate(classes):
            places[number].append(place)
        operations = [
            self.model.generating(
                seeds=[seeds[place] for place in members],
                settings=self.settings,
                where=_HasLabel(self.attribute, self.labels[number]),
                decoding=self.decoding,
            )
            for number, members in places.items()
        ]
        made: list[Generation] = []
        for result in self.model.run_together(operations):
            if isinstance(result, Exception):
                raise result
            made.append(result)
        order = torch.tensor([place for members in places.values() for place in members]).argsort()
        images, index = (torch.cat(parts) for parts in ([m.images for m in made], [m.index for m in made]))
        generation = replace(
            made[0],
            images=images[order.to(images.device)],
            index=index[order.to(index.device)],
            seeds=tuple(seeds),
            settings=self.settings,
        )
        return generation, {number: each.settings_record() for number, each in zip(places, made, strict=True)}


class RecombinedSamples(IterableDataset[tuple[Any, ...]]):
    """An iterable dataset of new samples ``(image, class)``, equally many of each class.

    Sample i of an epoch depends on the seed, the epoch and i alone, and its class is ``i % len(classes)``: samples are
    the same with any number of workers, each of which makes its share of them, ``batch_size`` at a time. Where the
    loader's batches have that size, too, their order is the same. Call :meth:`set_epoch` before every epoch, or the
    last epoch's samples come again; persistent workers notice it, too.

    Args:
        model: fitted, with attributes; on the CPU where there are workers.
        attribute: the attribute with the label. Sources where it is empty are not used.
        length: samples an epoch, in each process.
        seed: at least 0.
        batch_size: samples made together; faster where there are many of each label among them.
        settings: of a sampler; by default the model's.
        transform: applied to every image ``(3, H, W)``.
        provenance: yield the index map ``(h, w)`` of each sample, too: positions in ``model.bank``.
        rank: number of this process among several, each with samples of its own; by default that of
            ``torch.distributed``.

    Attributes:
        classes: the labels; a sample's class is the position of its label. Numbers come in order, then text.

    Raises:
        SettingError: for arguments out of range, or where no source has the attribute.
        ValueError: where a label has too few sources for the settings.

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
        settings: Settings | str | None = None,
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
        self._classes = Classes(model, attribute, settings)
        self.classes = self._classes.labels
        self.length, self.seed, self.batch_size, self.rank = length, seed, batch_size, rank
        self.transform, self.provenance = transform, provenance
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change

    def __len__(self) -> int:
        return self.length

    @property
    def epoch(self) -> int:
        """The epoch whose samples come, see :meth:`set_epoch`."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come from the next iteration on.

        Raises:
            SettingError: where it is no integer of at least 0.
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
        classes, made, _ = self._classes.samples(numbers, self.seed, epoch, self.rank)
        for image, label, index in zip(made.images, classes, made.index, strict=True):
            sample = (image if self.transform is None else self.transform(image), label)
            yield (*sample, index) if self.provenance else sample


class Recombine:
    """A transform that replaces some labelled samples by new ones of their label.

    It draws from PyTorch's global generator, which a ``DataLoader`` seeds for each worker and epoch: the same seed and
    number of workers give the same samples. New samples of a label are made ``batch_size`` at a time.

    Args:
        model: fitted, with attributes; on the CPU where there are workers.
        attribute: the attribute with the label.
        probability: of replacing a sample.
        batch_size: samples of a label made together.
        settings: of a sampler; by default the model's.

    Raises:
        SettingError: for arguments out of range, or where no source has the attribute.
        ValueError: where a label has too few sources for the settings.

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
        settings: Settings | str | None = None,
    ) -> None:
        check_number("probability", probability, 0, 1)
        check_integer("batch_size", batch_size, 1)
        self._classes = Classes(model, attribute, settings)
        self.probability, self.batch_size = probability, batch_size
        self._ready: dict[int, list[Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": {}}  # each worker makes samples of its own

    def __call__(self, image: Picture, label: Any) -> Tensor:
        """Return the image, or a new one of its label.

        Args:
            image: ``(3, H, W)`` of the model's image size, or any :data:`~latentpatch.inputs.Picture`.
            label: a value of the attribute; numbers and their text are the same. Where no value is a number, an integer
                is the position among :attr:`RecombinedSamples.classes`.

        Raises:
            SettingError: for a label that no source has, or an image of another size.
        """
        labels, size = self._classes.labels, self._classes.model.image_size
        number = _position(label, labels)
        image = as_picture(image, "image")
        if not isinstance(image, Tensor):
            image = read_image(image, size)
        if tuple(image.shape) != (3, *size):
            raise SettingError("image", tuple(image.shape), f"of shape {(3, *size)}")
        if float(torch.rand(())) >= self.probability:
            return image
        if not self._ready.get(number):
            seeds = torch.randint(1 << 62, (self.batch_size,)).tolist()
            self._ready[number] = list(self._classes.make([number] * len(seeds), seeds)[0].images)
        return self._ready[number].pop().to(image)


@dataclass(frozen=True)
class _HasLabel:
    """A predicate on attributes that can be pickled."""

    attribute: str
    label: str

    def __call__(self, attributes: Mapping[str, str]) -> bool:
        return attributes.get(self.attribute, "") == self.label


def _hashed(*numbers: int) -> int:
    """Return one seed for several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _by_number(label: str) -> tuple[bool, float, str]:
    return (False, float(label), label) if _is_number(label) else (True, 0, label)


def _is_number(label: str) -> bool:
    try:
        return isfinite(float(label))
    except ValueError:
        return False


def _position(label: Any, labels: Sequence[str]) -> int:
    """Return the position of a label: of its value, or its number where labels are no numbers.

    Raises:
        SettingError: where there is no such label.
    """
    label = plain(label)
    if str(label) in labels:
        return labels.index(str(label))
    if isinstance(label, (int, float)):
        equal = [i for i, each in enumerate(labels) if _is_number(each) and float(each) == label]
        if equal:
            return equal[0]
        if isinstance(label, int) and 0 <= label < len(labels) and not any(map(_is_number, labels)):
            return label
    raise SettingError("label", label, f"one of {', '.join(labels)}")
