"""Alignment of pictures to what a generator makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from helpers.paths import PORTRAITS
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.generators import disagreement_with_generator
from latentpatch.io.images import list_images, read_image
from latentpatch.methods.inversion import Generator, GeneratorSpec
from latentpatch.methods.inversion.decoders import SourcesGenerator
from latentpatch.methods.inversion.stylegan2 import StyleGAN2, random_state


class Shows(Generator):
    """A generator that shows pictures, whichever style it gets."""

    pictures: Tensor

    def __init__(self, pictures: Tensor) -> None:
        super().__init__(GeneratorSpec("shows", 1, 1, 1, (pictures.shape[2], pictures.shape[3])))
        self.register_buffer("pictures", pictures)
        self.shown = 0

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        self.shown += 1
        return self.pictures[self.shown % len(self.pictures)][None]


def test_pictures_out_of_register_are_named() -> None:
    faces = torch.stack([read_image(path, (128, 128)) for path in list_images(PORTRAITS)[:28]])
    moved = faces[24:].roll((14, 10), (2, 3))
    found = disagreement_with_generator(Shows(faces[:24]), torch.cat([faces[24:], moved]), list("abcdefgh"))
    assert [each.names[0] for each in found] == list("efgh")


def test_the_sources_of_a_model_are_compared_with() -> None:
    faces = torch.stack([read_image(path, (128, 128)) for path in list_images(PORTRAITS)[:26]])
    generator = SourcesGenerator(LatentPatch().fit(faces[:24], residuals=False))
    pictures = torch.cat([faces[24:], faces[24:].roll((14, 10), (2, 3))])
    found = disagreement_with_generator(generator, pictures, list("abcd"))
    assert [each.names[0] for each in found] == list("cd")


def test_a_generators_own_pictures_pass() -> None:
    generator = StyleGAN2(random_state(32))
    assert disagreement_with_generator(generator, generator.sample([1, 2]), ["a", "b"]) == []
