"""The search for styles and noise maps: what it finds, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.evaluation.metrics import psnr
from latentpatch.generators import load_generator
from latentpatch.methods.inversion import Generator, GeneratorSpec, InversionSettings, estimate_seconds, invert
from latentpatch.methods.inversion.losses import arc_loss, noise_correlation, pyramid_loss, squared_error
from latentpatch.methods.inversion.stylegan2 import StyleGAN2, random_state
from latentpatch.methods.picture import PictureStep
from latentpatch.ops.pyramid import resize

ENOUGH = 35  # dB, of pictures that the generator made itself


@pytest.fixture(scope="module")
def dcgan() -> Generator:
    torch.manual_seed(0)
    return load_generator("dcgan", pretrained=False)


@pytest.fixture(scope="module")
def stylegan2() -> Generator:
    return StyleGAN2(random_state(16))


def test_a_dcgan_finds_its_own_pictures_again(dcgan: Generator) -> None:
    targets = dcgan.sample([11, 12])
    assert float(targets.std()) > 0.1
    found = invert(dcgan, targets, InversionSettings(steps=50, learning_rate=0.3))
    assert float(psnr(found.images, targets).min()) >= ENOUGH
    assert found.losses.shape == (50, 2)
    assert bool((found.losses[1:] <= found.losses[:-1]).all())  # the best so far


def test_a_stylegan2_finds_its_own_pictures_again(stylegan2: Generator) -> None:
    targets = stylegan2.sample([3], truncation=0.7)
    settings = InversionSettings(steps=250, learning_rate=0.1, arc=0.0)
    found = invert(stylegan2, targets.clamp(0, 1), settings)
    assert float(psnr(found.images, targets).min()) >= ENOUGH
    assert [each.shape[1:] for each in found.noise] == [(1, *size) for size in stylegan2.spec.noise_sizes[:5]]


def test_lbfgs_comes_nearer_in_as_many_steps(dcgan: Generator, stylegan2: Generator) -> None:
    targets = dcgan.sample([11, 12])
    adam, lbfgs = (invert(dcgan, targets, InversionSettings(steps=12, optimizer=name)) for name in ("adam", "lbfgs"))
    assert bool((lbfgs.error < adam.error).all())
    assert bool((lbfgs.losses[1:] <= lbfgs.losses[:-1]).all())
    alone = invert(dcgan, targets[1:], InversionSettings(steps=12, optimizer="lbfgs"))
    assert torch.equal(alone.styles[0], lbfgs.styles[1])
    target, settings = stylegan2.sample([3], truncation=0.7), InversionSettings(steps=30, arc=0.0)
    first, second = (invert(stylegan2, target, settings.changed(optimizer=name)) for name in ("adam", "lbfgs"))
    assert float(second.error) < float(first.error)


def test_decoders_and_fitted_models_are_generators(face_images: Tensor) -> None:
    from latentpatch import LatentPatch
    from latentpatch.methods.inversion.decoders import SourcesGenerator

    decoder = load_generator("embedded", size=(64, 64))
    targets = decoder.sample([1])
    found = invert(decoder, targets, InversionSettings(steps=30, start="mean", learning_rate=0.1))
    assert float(found.loss) < float(found.losses[0]) / 2
    model = LatentPatch("pixels:4", components=8).fit(face_images[:6])
    sources = SourcesGenerator(model)
    with torch.no_grad():
        target = sources.synthesize(sources.encode(face_images[1:2]), []).clamp(0, 1)
    result = invert(sources, target, InversionSettings(steps=10, start="mean"))
    assert float(result.loss) < float(result.losses[0])


def test_a_picture_is_the_same_alone_and_in_a_batch(stylegan2: Generator) -> None:
    targets = stylegan2.sample([1, 2, 3]).clamp(0, 1)
    settings = InversionSettings(steps=10)
    together, alone = invert(stylegan2, targets, settings), invert(stylegan2, targets[1:2], settings)
    assert torch.equal(together.styles[1], alone.styles[0])
    assert torch.equal(together.images[1], alone.images[0])


def test_an_interruption_returns_the_best_so_far(stylegan2: Generator) -> None:
    def stop(step: PictureStep) -> None:
        if step.done == 7:
            raise KeyboardInterrupt

    found = invert(stylegan2, stylegan2.sample([5]), InversionSettings(steps=50), observe=stop)
    assert found.is_interrupted
    assert found.steps == 7
    assert float(found.loss) == float(found.losses.min())


def test_the_best_is_kept_where_the_last_is_worse(dcgan: Generator) -> None:
    found = invert(dcgan, dcgan.sample([4]), InversionSettings(steps=12, learning_rate=10.0))
    assert float(found.loss) == float(found.losses.min())
    made = dcgan.synthesize(found.styles, [])
    assert float(squared_error(made, dcgan.sample([4]))) == pytest.approx(float(found.error), rel=1e-3)


def test_several_starts_are_no_worse_than_one(dcgan: Generator) -> None:
    targets = dcgan.sample([21])
    one, three = (invert(dcgan, targets, InversionSettings(steps=15, start="random", starts=n)) for n in (1, 3))
    assert float(three.loss) <= float(one.loss)


def test_it_goes_on_from_an_earlier_result(stylegan2: Generator) -> None:
    targets, settings = stylegan2.sample([6]), InversionSettings(steps=20, learning_rate=0.05)
    first = invert(stylegan2, targets, settings)
    second = invert(stylegan2, targets, settings, initial=first)
    assert float(second.losses[0]) == pytest.approx(float(first.loss), rel=1e-3)
    assert float(second.loss) <= float(first.loss)


def test_noise_maps_are_kept_at_unit_deviation(stylegan2: Generator) -> None:
    settings = InversionSettings(steps=10, noise_regularization=1e5)
    found = invert(stylegan2, stylegan2.sample([7]), settings)
    again = invert(stylegan2, stylegan2.sample([7]), settings.changed(noise_regularization=0.0))
    assert all(float((each.std() - 1).abs()) < 0.1 for each in found.noise)
    assert not torch.equal(found.noise[0], again.noise[0])


def test_a_perceptual_function_counts(dcgan: Generator) -> None:
    targets = dcgan.sample([8])
    plain = invert(dcgan, targets, InversionSettings(steps=10))
    extra = invert(dcgan, targets, InversionSettings(steps=10), perceptual=lambda x: x.mean((2, 3)))
    assert float(extra.losses[0]) > float(plain.losses[0])
    assert float(extra.error) != float(plain.error)


def test_seconds_are_estimated(dcgan: Generator) -> None:
    few, many = (estimate_seconds(dcgan, dcgan.sample([1]), InversionSettings(steps=n)) for n in (100, 10000))
    assert 0 < few < many


class Enlarged(Generator):
    """A generator that enlarges 4 x 4 pixels, its style."""

    def __init__(self, side: int) -> None:
        super().__init__(GeneratorSpec("enlarged", 1, 48, 48, (side, side)))
        self.register_buffer("nothing", torch.zeros(1))
        self.made: list[int] = []  # sides of its pictures, and of those of its smaller versions

    def synthesize(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        self.made.append(self.spec.image_size[0])
        return resize(styles.view(-1, 3, 4, 4).float(), self.spec.image_size, "bilinear")

    def resized(self, side: int) -> Generator:
        smaller = copy(self)
        smaller.spec = replace(self.spec, image_size=(side, side))
        return smaller


def test_smaller_pictures_are_compared_first() -> None:
    generator = Enlarged(64)
    target = generator.synthesize(torch.rand(1, 1, 48, generator=torch.Generator().manual_seed(1)), [])
    generator.made.clear()
    settings = InversionSettings(steps=30, sides=(8, 8, 32), learning_rate=0.3)
    steps: list[PictureStep] = []
    found = invert(generator, target, settings, observe=steps.append)
    assert [each.images.shape[2] for each in steps] == [8] * 20 + [32] * 10
    assert generator.made.count(8) == 20
    assert found.images.shape == target.shape
    assert found.losses.shape == (30, 1)
    assert float(psnr(found.images, target)) > 20
    generator.made.clear()
    assert estimate_seconds(generator, target, settings) > 0
    assert [generator.made.count(side) for side in (8, 32)] == [4, 4]  # no step without a picture
    exact = invert(generator, target, settings.changed(optimizer="lbfgs"))
    assert float(exact.error) < float(found.error)
    rough = invert(generator, target, settings.changed(precision="bfloat16"))
    assert 0 < float((rough.images - found.images).abs().max()) < 0.1


def test_losses() -> None:
    styles = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert float(arc_loss(styles)) == pytest.approx((torch.pi / 2) ** 2, rel=1e-4)
    assert float(arc_loss(styles[:, :1])) == 0
    assert float(arc_loss(torch.ones(1, 3, 4))) == pytest.approx(0, abs=1e-6)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pyramid_loss(images, images), torch.zeros(2))
    assert bool((pyramid_loss(images, images.flip(3)) < squared_error(images, images.flip(3))).all())
    white = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(white, 5, 1, 2) * 5
    assert float(noise_correlation([smooth])) > 10 * float(noise_correlation([white]))


def test_bad_input_is_refused(dcgan: Generator, stylegan2: Generator) -> None:
    good = dcgan.sample([1])
    for bad in (good[0], good[:, :, :, :32], torch.zeros(1, 3, 128, 128)):
        with refuses("targets"):
            invert(dcgan, bad, InversionSettings(steps=10))
    with refuses("targets"):
        invert(dcgan, good * float("nan"), InversionSettings(steps=10))
    with refuses("steps"):
        InversionSettings(steps=1)
    with refuses("starts"):
        InversionSettings(start="mean", starts=2)
    with refuses("noise_regularization"):
        InversionSettings(optimizer="lbfgs", noise_regularization=1.0)
    with refuses("start"):
        invert(dcgan, good, InversionSettings(steps=10, start="mean"))
    with refuses("start"):
        invert(stylegan2, stylegan2.sample([1]), InversionSettings(steps=10, start="encoder"))
    with refuses("initial"):
        first = invert(stylegan2, stylegan2.sample([1]), InversionSettings(steps=10))
        invert(stylegan2, stylegan2.sample([1, 2]), InversionSettings(steps=10), initial=first)
    for sides in ((64, 32), (), (4,), (8,) * 11):
        with refuses("sides"):
            InversionSettings(steps=10, sides=sides)
    small = InversionSettings(steps=10, sides=(32,))
    with refuses("sides"):
        invert(dcgan, good, small)
    with refuses("sides"):
        invert(Enlarged(64), good, small, degrade=lambda x: x)
    with refuses("sides"):
        invert(Enlarged(64), good[:, :, ::4, ::4], small)
    with refuses("targets"):
        invert(dcgan, good, InversionSettings(steps=10), degrade=lambda x: x[:, :, ::2])
