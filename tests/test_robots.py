"""The drawn robots of the examples: complete, registered, and drawn again by their program."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
from collections import Counter
from types import ModuleType

import numpy as np
import pytest
from helpers.paths import ROOT
from PIL import Image

from latentpatch.io.images import list_images, read_image

ROBOTS = ROOT / "examples" / "robots"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    specification = importlib.util.spec_from_file_location("robots", ROOT / "examples" / "robots.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def test_robots_are_complete_and_small() -> None:
    paths = list_images(ROBOTS)
    assert len(paths) == 64
    assert sum(path.stat().st_size for path in paths) < 1.5 * 2**20
    assert all(read_image(path).shape == (3, 256, 256) for path in paths)


def test_the_table_is_that_of_the_program(program: ModuleType) -> None:
    with (ROBOTS / "attributes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [f"{row['id']}.jpg" for row in rows] == sorted(path.name for path in ROBOTS.glob("*.jpg"))
    assert [{name: value for name, value in row.items() if name != "id"} for row in rows] == program.kits()


def test_options_are_used_about_equally_often(program: ModuleType) -> None:
    for part, options in program.KIT.items():
        counts = Counter(kit[part] for kit in program.kits())
        assert set(counts) == set(options)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert all(kit["colour"] != kit["accent"] for kit in program.kits())


@pytest.mark.slow(4)
@pytest.mark.parametrize("number", [0, 41])
def test_a_robot_is_drawn_again(program: ModuleType, number: int) -> None:
    again = io.BytesIO()
    program.render(program.parts_of(program.kits()[number])).save(again, "JPEG", quality=program.QUALITY, subsampling=0)
    with Image.open(ROBOTS / f"robot-{number:02d}.jpg") as committed, Image.open(again) as drawn:
        levels = np.abs(np.asarray(committed, dtype=int) - np.asarray(drawn, dtype=int))
    assert (levels <= 2).mean() > 0.998  # other processors round a few rays at edges another way
    assert levels.mean() < 0.1


def test_distances_are_those_of_simple_shapes(program: ModuleType) -> None:
    import torch

    points = torch.tensor([[0.0, 0.0, 0.0], [20.0, 0.0, 0.0], [0.0, 0.0, 25.0], [13.0, 14.0, 0.0]])
    cube = program.box(0, 0, 0, 10, 10, 10, 0)(*points.unbind(-1))
    assert torch.allclose(cube, torch.tensor([-10.0, 10.0, 15.0, 5.0]))
    ball = program.sphere(0, 0, 0, 10)(*points.unbind(-1))
    assert torch.allclose(ball, points.norm(dim=-1) - 10)
    rod = program.cylinder("z", 0, 0, 0, 10, 5, 0)(*points.unbind(-1))
    assert torch.allclose(rod[:3], torch.tensor([-5.0, 10.0, 20.0]))


def test_the_lamp_casts_a_shadow_to_the_right(program: ModuleType) -> None:
    with Image.open(ROBOTS / "robot-00.jpg") as picture:
        pixels = np.asarray(picture.convert("L"), dtype=float)
    left, right = pixels[215:225, 20:70].mean(), pixels[215:225, 186:236].mean()
    assert right < left - 8
