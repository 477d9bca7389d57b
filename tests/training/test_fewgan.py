"""FewGAN's training and tasks, end to end on drawn pictures of a few pixels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses, refuses_file
from torch import Tensor

from latentpatch.cli.entry import main
from latentpatch.errors import TrainingError
from latentpatch.io.images import write_image
from latentpatch.io.stored import read_stored
from latentpatch.methods.trained.base import TrainedModel, load_trained
from latentpatch.methods.trained.fewgan import FewGAN
from latentpatch.methods.trained.fewgan_settings import FewGANSettings
from latentpatch.methods.trained.fewgan_side import drawn_landscapes
from latentpatch.methods.trained.settings import TrainedSettings
from latentpatch.training import fewgan
from latentpatch.training.methods import train_model

SIZE = (16, 20)
QUICK = FewGANSettings(
    coarsest=10, ratio=0.6, codes=12, code_size=6, width=8, layers=3, prior_layers=2, steps=30, prior_steps=30,
    critic_steps=1, generator_steps=1,
)  # fmt: skip
SOURCES, SIDE = list(drawn_landscapes(3, SIZE, seed=1)), list(drawn_landscapes(4, SIZE, seed=2))


def trained(folder: Path, settings: FewGANSettings = QUICK, **options: Any) -> TrainedModel:
    inputs = {"side": SIDE, "checkpoint_seconds": 0, "log_every": 10, **options}
    return train_model("fewgan", SOURCES, folder, settings, **inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fewgan")


@pytest.fixture(scope="module")
def model(folder: Path) -> FewGAN:
    model = trained(folder)
    assert isinstance(model, FewGAN)
    return model


@pytest.fixture
def mask() -> Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[4:11, 6:13] = True
    return mask


def test_stages_are_scales_and_prior_and_earlier_ones_stay_frozen(model: FewGAN, folder: Path) -> None:
    assert model.sizes == [(10, 13), (13, 16), (16, 20)]
    networks = [model.coarse, *model.scales, model.prior]
    assert [path.name for path in sorted(folder.glob("stage-*"))] == [f"stage-0{i}.safetensors" for i in range(4)]
    for number, network in enumerate(networks):
        stored = read_stored(folder / f"stage-0{number}.safetensors", "latentpatch-checkpoint/1")[1]
        name = "prior" if network is model.prior else "generator"
        for key, value in network.state_dict().items():
            assert torch.equal(stored[f"module.{name}.{key}"], value), "no later stage changed it"
        assert not any(parameter.requires_grad for parameter in network.parameters())
    first, second = (model.scales[i].state_dict() for i in (0, 1))
    assert not torch.equal(first["network.0.0.weight"], second["network.0.0.weight"]), "each scale is trained"


def test_a_score_does_not_depend_on_the_rest_of_the_batch() -> None:
    """Side pictures have batches of their own: normalized by their mean colors, they could have any color."""
    _, stages = fewgan.build_fewgan(SOURCES, QUICK, SIDE)
    critic = stages[0].build().modules["critic"]
    first, second = SIDE[:2]
    with torch.no_grad():
        for _ in range(100):  # spectral normalization finds the norms of the weights call by call
            critic(first[None])
        score, other = (critic(torch.stack([first, rest]))[0] for rest in (second, 1 - second))
    torch.testing.assert_close(score, other, rtol=1e-3, atol=1e-4)


def test_losses_fall(tmp_path: Path) -> None:
    settings = QUICK.changed(coarsest=16, steps=150, prior_steps=150, rate=2e-3)
    trained(tmp_path, settings)
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    for stage, name in (("scale 0", "reconstruction"), ("scale 0", "ssim"), ("PixelCNN", "nats")):
        values = [float(row[name]) for row in rows if row["stage"] == stage]
        assert values[-1] < 0.9 * values[0], (stage, name)


@pytest.mark.parametrize("stop", [15, 100, 190])
def test_an_interrupted_training_ends_with_equal_weights(
    stop: int, model: FewGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [0], fewgan._views

    def views(*arguments: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == stop:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(fewgan, "_views", views)
    torch.manual_seed(stop)  # of no consequence
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path)
    resumed = trained(tmp_path).state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in model.state_dict().items())


def test_a_model_file_has_all_of_the_model(model: FewGAN, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    loaded = load_trained(tmp_path / "model.safetensors")
    assert isinstance(loaded, FewGAN)
    assert loaded.trained == model.trained
    assert loaded.trained["side"] != loaded.trained["pictures"]
    assert torch.equal(loaded.make("reshuffle", [3]), model.make("reshuffle", [3]))


def test_pictures_depend_on_their_seeds_alone(model: FewGAN) -> None:
    several = model.make("reshuffle", [5, 6, 7])
    assert several.shape == (3, 3, *SIZE)
    assert torch.equal(several[1:2], model.make("reshuffle", [6]))
    assert not torch.equal(several[0], several[1])
    assert model.make("retarget", [0], (16, 40)).shape == (1, 3, 16, 40)


def test_any_picture_gives_the_structure(model: FewGAN) -> None:
    made = [model.make("analogy", [0], target=each)[0] for each in SIDE[:2]]
    assert made[0].shape == (3, *SIZE)
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], model.make("analogy", [1], target=SIDE[0])[0]), "the seed has no part in it"
    finer = model.make("analogy", [0], settings=TrainedSettings(start_scale=1), target=SIDE[0])[0]
    assert not torch.equal(finer, made[0])


def test_inpainting_has_several_answers_within_the_hole(model: FewGAN, mask: Tensor) -> None:
    picture = SOURCES[0]
    made = model.make("inpaint", range(3), target=picture, mask=mask)
    assert torch.equal(made[:, :, ~mask], picture[:, ~mask].expand(3, -1, -1))
    assert not torch.equal(made[0], made[1])
    hidden = model.make("inpaint", [1], target=picture.masked_fill(mask, 1), mask=mask)
    assert torch.equal(hidden[0], made[1]), "what is in the hole is not seen"


@pytest.mark.parametrize("task", ["edit", "harmonize"])
def test_edits_are_made_anew_within_the_mask(task: str, model: FewGAN, mask: Tensor) -> None:
    edited = torch.where(mask, SOURCES[1], SOURCES[0])
    made = model.make(task, [0], target=edited, mask=mask)[0]
    assert torch.equal(made[:, ~mask], edited[:, ~mask])
    assert (made - edited)[:, mask].abs().mean() > 0.01


def test_sources_and_side_pictures_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(name: str, sources: list[Tensor], side: list[Tensor]) -> None:
        with refuses(name):
            train_model("fewgan", sources, tmp_path / "a", QUICK, side=side)
        assert not (tmp_path / "a").exists()

    refused("pictures", SOURCES[:1], SIDE)
    refused("pictures", [SOURCES[0], SOURCES[1][:, 1:]], SIDE)
    refused("pictures", [SOURCES[0], SOURCES[1] * float("nan")], SIDE)
    refused("side", SOURCES, [])
    refused("side", SOURCES, [each[:, 2:] for each in SIDE])
    refused("side", SOURCES, [each * 2 for each in SIDE])


def test_side_pictures_are_drawn_where_there_are_none(tmp_path: Path) -> None:
    settings = QUICK.changed(steps=1, prior_steps=1, drawn=3)
    model = train_model("fewgan", SOURCES, tmp_path, settings)
    assert "side" not in model.trained
    assert model.trained["drawn"] == 3


def test_bfloat16_trains_and_the_command_line_takes_side_pictures(tmp_path: Path) -> None:
    for folder, pictures in (("sources", SOURCES), ("side", SIDE)):
        for number, picture in enumerate(pictures):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_image(tmp_path / folder / f"{number}.png", picture)
    sizes = "--size 16x20 --coarsest 10 --width 8 --steps 1 --prior-steps 1"
    options = [*sizes.split(), "--precision", "bfloat16", "-q"]
    model, side = tmp_path / "model.safetensors", tmp_path / "side"
    words = ["train", "fewgan", tmp_path / "sources", "--side", side, "-o", model, *options]
    assert main([str(word) for word in words]) == 0
    assert main(["generate", str(model), "-n", "2", "-q", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "0001.png").exists()
    region = ["--box", "4,4,9,9", "--from", str(model), "-q", "-o", str(tmp_path / "filled")]
    assert main(["inpaint", str(tmp_path / "side" / "0.png"), *region]) == 0
    assert main(["train", "singan", str(side / "0.png"), "--side", str(side), "-o", str(model)]) == 1


def test_another_configuration_is_refused_by_name(model: FewGAN, folder: Path) -> None:
    with refuses_file(folder, "codes was 12, not 13"):
        trained(folder, QUICK.changed(codes=13))
    with refuses_file(folder, "side was"):
        trained(folder, side=SIDE[:2])


def test_losses_that_are_no_numbers_stop_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        trained(tmp_path, QUICK.changed(ssim=3.4e38))
    assert caught.value.stage == "scale 0"
    assert not (tmp_path / "stage-00.safetensors").exists()


def test_masks_that_cannot_be_used_are_refused(model: FewGAN) -> None:
    with refuses("mask"):
        model.make("inpaint", [0], target=SOURCES[0])
    with refuses("target"):
        model.make("inpaint", [0])
