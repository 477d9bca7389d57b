"""The training loop: stages, logs, interruption at any moment, and what it refuses."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses, refuses_file
from PIL import Image
from torch import Tensor, nn

from latentpatch.errors import FileError, TrainingError
from latentpatch.io import atomic
from latentpatch.runs.defaults import plain_torch
from latentpatch.training.loop import Stage, Work, train

FILES = ("stage-00.safetensors", "stage-01.safetensors", "losses.csv", "losses.png")


class Toy:
    """Two stages that learn numbers: the second one from the first one's, which are frozen."""

    def __init__(self, hook: Callable[[int, int], None] = lambda stage, i: None, scale: float = 1.0) -> None:
        self.networks: list[nn.Module] = []
        self.hook, self.scale = hook, scale
        self.stages = [Stage("coarse", 20, lambda: self.build(0)), Stage("fine", 30, lambda: self.build(1), cost=4)]

    def build(self, number: int) -> Work:
        assert all(not p.requires_grad for network in self.networks for p in network.parameters())
        network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 4))
        self.networks.append(network)
        adam = torch.optim.Adam(network.parameters(), 0.01)

        def step(i: int, generator: torch.Generator) -> dict[str, Tensor]:
            self.hook(number, i)
            x = torch.randn(8, 4, generator=generator)
            for earlier in self.networks[:-1]:
                x = earlier(x)
            loss = self.scale * (network(x) - x.flip(1)).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            return {"loss": loss, "size": network[0].weight.norm()}

        return Work({"network": network}, {"adam": adam}, step)


@plain_torch()
def run(folder: Path, toy: Toy, **options: object) -> None:
    arguments = {"log_every": 5, "checkpoint_seconds": 0, **options}
    train(toy.stages, folder, {"method": "toy"}, **arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, Toy())
    return {name: (folder / name).read_bytes() for name in FILES}


def stop_at(*moments: tuple[int, int]) -> Callable[[int, int], None]:
    left = list(moments)

    def hook(stage: int, i: int) -> None:
        if (stage, i) in left:
            left.remove((stage, i))
            raise KeyboardInterrupt

    return hook


@pytest.mark.parametrize("moment", [(0, 0), (0, 12), (0, 19), (1, 0), (1, 29)])
def test_an_interrupted_training_ends_with_the_same_bytes(moment, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Toy(stop_at(moment)))
    steps = []
    run(tmp_path, Toy(lambda stage, i: steps.append((stage, i))))
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == whole
    stage, i = moment
    assert steps[0] == (stage, i - i % 5), "it goes on from the last checkpoint"
    run(tmp_path, Toy(lambda stage, i: pytest.fail("a finished training does no step")))
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == whole


@pytest.mark.parametrize("written", range(0, 16, 3))
def test_a_full_disk_keeps_the_last_checkpoint(written, whole, tmp_path, monkeypatch):
    left = [written]
    real = atomic.tensor_bytes

    def fill(tensor: Tensor) -> memoryview:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(tensor)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "tensor_bytes", fill)
        with pytest.raises(FileError, match="No space left"):
            run(tmp_path, Toy())
    run(tmp_path, Toy())
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == whole
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_log_has_the_means_of_all_steps_and_the_plot_a_panel_each(whole, tmp_path):
    run(tmp_path, Toy())
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], int(row["step"])) for row in rows] == [("coarse", k) for k in range(5, 25, 5)] + [
        ("fine", k) for k in range(5, 35, 5)
    ]
    assert float(rows[3]["loss"]) < float(rows[0]["loss"])
    with Image.open(tmp_path / "losses.png") as plot:
        assert plot.size == (720, 240)
        assert len(plot.getcolors()) > 3


def test_seeds_and_scales_change_the_networks(whole, tmp_path):
    run(tmp_path, Toy(), seed=1)
    assert (tmp_path / FILES[0]).read_bytes() != whole[FILES[0]]


def test_the_state_of_global_random_numbers_stays(tmp_path):
    before = torch.random.get_rng_state()
    run(tmp_path, Toy())
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_configuration_is_refused_by_name(tmp_path):
    run(tmp_path, Toy())
    with refuses_file(tmp_path, "seed was 0, not 3"):
        run(tmp_path, Toy(), seed=3)
    with refuses_file(tmp_path, 'method was "toy", not "other"'):
        train(Toy().stages, tmp_path, {"method": "other"}, log_every=5)
    toy = Toy()
    toy.stages = toy.stages[:1]
    with refuses_file(tmp_path, "stages was"):
        run(tmp_path, toy)


def test_losses_that_are_not_finite_stop_at_the_last_good_checkpoint(tmp_path):
    toy = Toy()

    def explode(stage: int, i: int) -> None:
        toy.scale = float("inf") if (stage, i) == (1, 17) else 1.0

    toy.hook = explode
    with pytest.raises(TrainingError, match="try a lower rate") as caught:
        run(tmp_path, toy)
    assert (caught.value.stage, caught.value.step) == ("fine", 20)
    assert "loss" in caught.value.broken
    steps = []
    run(tmp_path, Toy(lambda stage, i: steps.append((stage, i))))
    assert steps[0] == (1, 15)


def test_memory_is_said_and_bounded_before_the_first_step(tmp_path):
    said = []
    run(tmp_path / "small", Toy(), memory=1 << 29, say=said.append)
    assert said == ["training needs up to 0.50 GiB of memory"]
    with refuses("size"):
        run(tmp_path / "large", Toy(), memory=1 << 60)
    assert not (tmp_path / "large").exists()


def test_bfloat16_trains_and_is_part_of_the_configuration(whole, tmp_path):
    run(tmp_path, Toy(), precision="bfloat16")
    assert (tmp_path / FILES[0]).read_bytes() != whole[FILES[0]]
    with refuses("precision"):
        run(tmp_path, Toy(), precision="float16")


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "stage-00.safetensors", "losses.csv", "training.json"])
@pytest.mark.parametrize(
    "data",
    [b"number,stage,step\n1,2,x\n", b"", b"\0", b'"' + b"z" * 200_000, b'{"config": [' * 20_000, b"[]", b"{", None],
    ids=["text", "empty", "nul", "long", "nested", "list", "brace", "pipe"],
)
def test_damaged_files_are_named(name, data, tmp_path):
    """Whatever a file of the folder is, a pipe among others, the training goes on without it or ends in one error."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Toy(stop_at((1, 12))))
    if data is None:
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(data)
    if name == "losses.csv" and data in (b"", b"[]", b"{", b"\0"):  # no rows
        with suppress(FileError):  # of a character that csv readers refused before Python 3.11
            run(tmp_path, Toy())
        return
    with pytest.raises(FileError) as caught:
        run(tmp_path, Toy())
    assert caught.value.path in (tmp_path / name, tmp_path)


def test_a_folder_is_for_one_training_at_a_time(tmp_path):
    def again(stage: int, i: int) -> None:
        with refuses_file(tmp_path, "at work"):
            run(tmp_path, Toy())

    toy = Toy(again)
    toy.stages = [Stage("coarse", 1, lambda: toy.build(0))]
    run(tmp_path, toy)
