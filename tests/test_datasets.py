"""New labelled samples for training loops."""

from __future__ import annotations

import pickle

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latentpatch import LatentPatch, RandomCellsSettings, RandomPatchesSettings, RasterSettings, ResynthesisSettings
from latentpatch.datasets import Recombine, RecombinedSamples, fit_labelled

MOODS = ("calm", "glad", "sad")


@pytest.fixture
def moods(face_images: Tensor) -> LatentPatch:
    """Twelve drawn faces, every third of the same mood; of the last nothing is known."""
    known = {str(i): {"mood": MOODS[i % 3]} for i in range(11)}
    return LatentPatch("pixels:4", 8, RandomPatchesSettings(5)).fit(face_images, attributes=known)


def drawn(dataset: RecombinedSamples, workers: int = 0, **options) -> tuple[Tensor, Tensor]:
    """All images and classes of an epoch, through a loader."""
    batches = list(DataLoader(dataset, dataset.batch_size, num_workers=workers, **options))
    return torch.cat([images for images, _ in batches]), torch.cat([classes for _, classes in batches])


def test_every_source_of_a_sample_has_its_label(moods):
    samples = list(
        RecombinedSamples(moods, "mood", length=20, batch_size=7, settings=ResynthesisSettings(), provenance=True)
    )
    assert len(samples) == 20
    for i, (image, label, index) in enumerate(samples):
        assert image.shape == (3, 64, 64)
        assert label == i % 3
        sources = {int(moods.bank.ids[b]) for b in index.unique()}
        assert len(sources) > 1, "a new picture"
        assert {number % 3 for number in sources} == {label}
        assert 11 not in sources, "nothing is known of it"
        torch.testing.assert_close(image, moods.decode(index[None], "blend")[0])


def test_samples_depend_on_seed_epoch_and_number_alone(moods):
    dataset = RecombinedSamples(moods, "mood", length=10, seed=5, batch_size=4)
    images, classes = drawn(dataset)
    assert dataset.classes == MOODS
    assert classes.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(drawn(dataset)[0], images), "the same epoch again"
    other_batches = RecombinedSamples(moods, "mood", length=9, seed=5, batch_size=6)
    assert torch.equal(drawn(other_batches)[0], images[:9])
    different = [
        RecombinedSamples(moods, "mood", length=10, seed=6),
        RecombinedSamples(moods, "mood", length=10, seed=5, rank=1),
    ]
    for other in different:
        assert all(not torch.equal(*pair) for pair in zip(drawn(other)[0], images, strict=True))
    dataset.set_epoch(3)
    third = drawn(dataset)[0]
    assert all(not torch.equal(*pair) for pair in zip(third, images, strict=True))
    dataset.set_epoch(0)
    assert torch.equal(drawn(dataset)[0], images)


@pytest.mark.slow(4)
@pytest.mark.parametrize(("workers", "start"), [(1, "spawn"), (2, "fork")])
def test_workers_make_the_same_samples(moods, workers, start):
    dataset = RecombinedSamples(moods, "mood", length=10, batch_size=3)
    alone = drawn(dataset)
    dataset.set_epoch(1)
    next_alone = drawn(dataset)[0]
    dataset.set_epoch(0)
    loader = DataLoader(dataset, 3, num_workers=workers, multiprocessing_context=start, persistent_workers=True)
    images, classes = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(images, alone[0])
    assert torch.equal(classes, alone[1])
    dataset.set_epoch(1)
    assert torch.equal(torch.cat([images for images, _ in loader]), next_alone), "workers that persist hear it"


def test_more_workers_than_batches(moods):
    dataset = RecombinedSamples(moods, "mood", length=3, batch_size=4)
    assert torch.equal(drawn(dataset, workers=2, multiprocessing_context="fork")[0], drawn(dataset)[0])


def test_images_may_be_transformed(moods):
    plain = RecombinedSamples(moods, "mood", length=4)
    flipped = RecombinedSamples(moods, "mood", length=4, transform=lambda image: image.flip(2))
    assert torch.equal(drawn(flipped)[0], drawn(plain)[0].flip(3))


def test_tensors_of_labelled_examples(face_images):
    dataset = RecombinedSamples(fit_labelled(face_images, torch.arange(12) % 2 + 9, "pixels:4"), length=4)
    assert dataset.classes == ("9", "10"), "numbers in their order"
    assert len(dataset) == 4
    settings = RasterSettings(patch_size=4, neighbors=1)
    copies = RecombinedSamples(fit_labelled(face_images[:2], "ab", "pixels:4"), length=2, settings=settings)
    torch.testing.assert_close(drawn(copies)[0], face_images[:2], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"attribute": "hat"}, "attribute"),
        ({"length": 0}, "length"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 2.0}, "batch_size"),
    ],
)
def test_bad_arguments_are_named(moods, arguments, name):
    with refuses(name):
        RecombinedSamples(moods, **{"attribute": "mood", "length": 8, **arguments})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (ResynthesisSettings(neighbors=3), r"mood=sad, 3 examples: neighbors"),
        (RasterSettings(patch_size=20), r"mood=calm, 4 examples: patch_size"),
    ],
)
def test_settings_that_do_not_fit_a_class_are_named(moods, settings, text):
    with pytest.raises(ValueError, match=text):
        RecombinedSamples(moods, "mood", length=8, settings=settings)


def test_classes_of_too_few_examples_are_named(face_images):
    model = fit_labelled(face_images[:5], ["cat", "cat", "cat", "dog", "cat"], "pixels:4")
    for make in (lambda: RecombinedSamples(model, length=8), lambda: Recombine(model)):
        with pytest.raises(ValueError, match="label=dog, 1 examples: sources"):
            make()
    with refuses("labels"):
        fit_labelled(face_images[:5], "abc", "pixels:4")
    with refuses("epoch"):
        RecombinedSamples(fit_labelled(face_images, "ab" * 6, "pixels:4"), length=1).set_epoch(-1)


# --- the transform -------------------------------------------------------------------------------------


class Examples(Dataset):
    """Labelled examples, through a transform."""

    def __init__(self, images: Tensor, recombine: Recombine) -> None:
        self.images, self.recombine = images, recombine

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.recombine(self.images[i], MOODS[i % 3]), i


def test_recombination_keeps_or_replaces(moods, face_images):
    torch.manual_seed(0)
    always = Recombine(moods, "mood", probability=1, settings=RandomCellsSettings(), batch_size=5)
    for i in range(11):
        made = always(face_images[i], MOODS[i % 3])
        # Pixels as latents: each 4x4 block is that of a source of the same mood.
        for y, x in [(0, 0), (20, 32), (60, 60)]:
            block = made[:, y : y + 4, x : x + 4]
            holders = [j for j in range(12) if (face_images[j, :, y : y + 4, x : x + 4] - block).abs().max() < 2e-3]
            assert any(j % 3 == i % 3 for j in holders)
        assert not torch.allclose(made, face_images[i], atol=1e-2)
    never = Recombine(moods, "mood", probability=0)
    image = face_images[0]
    assert never(image, "calm") is image
    sometimes = Recombine(moods, "mood", probability=0.5, settings=RandomCellsSettings())
    kept = [sometimes(image, "calm") is image for _ in range(60)]
    assert 15 < sum(kept) < 45


def test_recombination_follows_the_loaders_seed(moods, face_images):
    def epoch(recombine: Recombine, seed: int, workers: int) -> Tensor:
        loader = DataLoader(
            Examples(face_images[:9], recombine),
            3,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            generator=torch.Generator().manual_seed(seed),
        )
        torch.manual_seed(seed)
        return torch.cat([images for images, _ in loader])

    recombine = Recombine(moods, "mood", settings=RandomCellsSettings())
    for workers in (0, 2):
        first, again, other = (epoch(pickle.loads(pickle.dumps(recombine)), seed, workers) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_recombination_refuses_what_it_does_not_know(moods, face_images):
    recombine = Recombine(moods, "mood")
    with refuses("label"):
        recombine(face_images[0], "angry")
    with refuses("image"):
        recombine(face_images[0, :, :32], "calm")
    with refuses("probability"):
        Recombine(moods, "mood", probability=1.5)
