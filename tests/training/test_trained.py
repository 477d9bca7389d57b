"""Trainings of SinGAN, Concat-SinGAN and HP-VAE-GAN at toy size: they learn, freeze, and go on with equal bytes."""

from __future__ import annotations

import csv

import pytest
import torch
from helpers.errors import refuses

from latentpatch.io.stored import read_stored
from latentpatch.methods.trained.base import load_trained
from latentpatch.training import hp_vae_gan, singan
from latentpatch.training.methods import TRAININGS, train_model

SMALL = {"coarsest": 16, "ratio": 0.7, "width": 8}
SETTINGS = {
    "singan": TRAININGS["singan"].settings(steps=6, **SMALL),
    "concat-singan": TRAININGS["concat-singan"].settings(steps=3, **SMALL),
    "hp-vae-gan": TRAININGS["hp-vae-gan"].settings(steps=6, latent=8, vae_levels=2, **SMALL),
}


@pytest.fixture(scope="module")
def pictures() -> list[torch.Tensor]:
    ramp = torch.linspace(0, 1, 24).expand(3, 20, 24)
    return [ramp.contiguous(), (ramp.flip(2) * torch.tensor([1, 0.5, 0.2])[:, None, None]).contiguous()]


def sources(method: str, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    return pictures[:1] if method == "singan" else pictures


@pytest.mark.parametrize("method", SETTINGS)
def test_a_training_that_was_stopped_ends_with_the_same_model(method, pictures, tmp_path, monkeypatch):
    used = sources(method, pictures)
    options = {"settings": SETTINGS[method], "log_every": 2, "checkpoint_seconds": 0}
    train_model(method, used, tmp_path / "whole", **options).save(tmp_path / "whole.safetensors")
    module = hp_vae_gan if method == "hp-vae-gan" else singan
    real, left = module.critic_loss, [5 if method == "hp-vae-gan" else 11]

    def stop(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "critic_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            train_model(method, used, tmp_path / "stopped", **options)
    train_model(method, used, tmp_path / "stopped", **options).save(tmp_path / "stopped.safetensors")
    assert (tmp_path / "stopped.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    model = load_trained(tmp_path / "whole.safetensors")
    assert model.method == method
    assert model.size == (20, 24)
    assert model.make("reshuffle", [0]).shape == (1, 3, 20, 24)
    assert model.trained["steps"] == SETTINGS[method].steps
    assert len(model.trained["pictures"]) == len(used)


def test_coarser_scales_are_frozen_in_finer_stages(pictures, tmp_path):
    model = train_model("singan", pictures[:1], tmp_path, SETTINGS["singan"])
    for k, scale in enumerate(model.scales):
        _, tensors = read_stored(tmp_path / f"stage-{k:02d}.safetensors", "latentpatch-checkpoint/1")
        for name, value in scale.state_dict().items():
            assert torch.equal(value, tensors[f"module.generator.{name}"]), (k, name)
    assert not any(each.requires_grad for each in model.parameters())
    assert not any(each.training for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d))


def test_a_critic_has_scores_of_whole_patches_alone():
    assert singan.singan_critic(0, 8)(torch.rand(1, 3, 20, 30)).shape == (1, 1, 10, 20)


def test_amplitudes_are_the_errors_of_reconstruction(pictures, tmp_path):
    settings = SETTINGS["singan"]
    model = train_model("singan", pictures[:1], tmp_path, settings)
    assert float(model.amplitude(0)) == 1
    _, stages = singan.build_singan(pictures[:1], settings)
    assert len(stages) == len(model.sizes)
    for k in range(1, len(model.sizes)):
        real = singan.pyramid(pictures[0][None], model.sizes)[k] * 2 - 1
        error = (real - model.before(None, k)).square().mean().sqrt()
        assert float(model.amplitude(k)) == pytest.approx(settings.noise * float(error), rel=1e-4)


@pytest.mark.parametrize("method", ["singan", "hp-vae-gan"])
def test_the_reconstruction_is_learned(method, pictures, tmp_path):
    settings = SETTINGS[method].changed(coarsest=20, steps=40, rate=2e-3)
    train_model(method, sources(method, pictures), tmp_path, settings, log_every=5)
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["reconstruction"]) < 0.6 * float(rows[0]["reconstruction"])


def test_bfloat16_trains(pictures, tmp_path):
    model = train_model("singan", pictures[:1], tmp_path, SETTINGS["singan"], precision="bfloat16")
    assert all(value.dtype == torch.float32 for value in model.state_dict().values() if value.is_floating_point())


def test_memory_is_said_before_the_training(pictures, tmp_path):
    said = []
    train_model("singan", pictures[:1], tmp_path, SETTINGS["singan"].changed(steps=1), say=said.append)
    assert said[0].startswith("training needs up to 0.44 GiB")


@pytest.mark.parametrize(
    ("method", "count", "name"), [("singan", 2, "pictures"), ("concat-singan", 1, "pictures"), ("magic", 1, "method")]
)
def test_numbers_of_pictures_are_checked(method, count, name, pictures, tmp_path):
    with refuses(name):
        train_model(method, pictures[:count], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_of_different_shapes_and_other_settings_are_refused(pictures, tmp_path):
    with refuses("pictures"):
        train_model("hp-vae-gan", [pictures[0], pictures[1][:, :, :9]], tmp_path)
    with refuses("settings"):
        train_model("singan", pictures[:1], tmp_path, SETTINGS["hp-vae-gan"])
