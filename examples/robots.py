"""Draw sixty-four toy robots, registered pictures of one kind of thing.

    python examples/robots.py examples/robots    # the committed pictures again, in a minute or two

A robot is put together from a kit: a head, eyes, a top, ears, a torso, a panel, arms, hands and legs, each in a few
shapes and always at the same place. Shapes are signed distance functions, in units of a pixel. Rays are parallel and
look down by ``TILT``. One lamp at the upper left casts soft shadows.

This file needs torch, numpy and Pillow, and nothing of the package.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SIZE = 256  # pixels
SAMPLES = 2  # rays a pixel, in each direction
GROUND_ROW = 231.0  # row where the origin is seen
TILT = math.radians(9)
QUALITY = 90  # JPEG quality

LAMP = torch.nn.functional.normalize(torch.tensor([-0.52, 0.68, 0.62]), dim=0)
LOW, HIGH = (-96.0, -4.0, -56.0), (96.0, 222.0, 56.0)  # box that holds every robot
VOXEL = 3.0

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]

# --- shapes: signed distances of points whose coordinates are x (to the right), y (up) and z (to the viewer) ----------


def _rounded(distances: Sequence[Tensor], radius: float) -> Tensor:
    """Return the distance to where all distances are negative, edges rounded by a radius."""
    grown = [distance + radius for distance in distances]
    outside = torch.sqrt(sum((each.clamp(min=0).square() for each in grown), torch.zeros(())))
    inside = reduce(torch.maximum, grown).clamp(max=0)
    return outside + inside - radius


def box(cx: float, cy: float, cz: float, hx: float, hy: float, hz: float, radius: float = 3) -> Distance:
    """Return a box by its centre and half sides."""
    return lambda x, y, z: _rounded([(x - cx).abs() - hx, (y - cy).abs() - hy, (z - cz).abs() - hz], radius)


def wedge(cy: float, low: float, high: float, hy: float, hz: float, radius: float) -> Distance:
    """Return a box whose half width goes from ``low`` at its foot to ``high`` at its top."""
    slope = (high - low) / (2 * hy)
    shrink = 1 / math.hypot(1, slope)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        side = (x.abs() - (low + high) / 2 - slope * (y - cy)) * shrink
        return _rounded([side, (y - cy).abs() - hy, z.abs() - hz], radius)

    return distance


def cylinder(axis: str, cx: float, cy: float, cz: float, r: float, half: float, radius: float = 1.5) -> Distance:
    """Return a cylinder along ``x``, ``y`` or ``z`` by its centre, radius and half length."""

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        offsets = {"x": x - cx, "y": y - cy, "z": z - cz}
        along = offsets.pop(axis)
        across = torch.hypot(*offsets.values())
        return _rounded([across - r, along.abs() - half], radius)

    return distance


def cone(y0: float, y1: float, r0: float, r1: float, radius: float) -> Distance:
    """Return an upright cone from radius ``r0`` at ``y0`` to ``r1`` at ``y1``."""
    slope = (r1 - r0) / (y1 - y0)
    shrink = 1 / math.hypot(1, slope)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        side = (torch.hypot(x, z) - r0 - slope * (y - y0)) * shrink
        return _rounded([side, (y - (y0 + y1) / 2).abs() - (y1 - y0) / 2], radius)

    return distance


def ellipsoid(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> Distance:
    """Return an ellipsoid; its distance is a bound."""

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        a, b, c = (x - cx) / rx, (y - cy) / ry, (z - cz) / rz
        length = torch.sqrt(a * a + b * b + c * c)
        slope = torch.sqrt((a / rx) ** 2 + (b / ry) ** 2 + (c / rz) ** 2).clamp(min=1e-6)
        return length * (length - 1) / slope

    return distance


def sphere(cx: float, cy: float, cz: float, r: float) -> Distance:
    return lambda x, y, z: torch.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) - r


def tube(start: Sequence[float], end: Sequence[float], r: float, ribs: float = 0) -> Distance:
    """Return a round rod between two points; ``ribs`` is the depth of rings around it."""
    ax, ay, az = start
    dx, dy, dz = (b - a for a, b in zip(start, end, strict=True))
    length = math.hypot(dx, dy, dz)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        t = ((x - ax) * dx + (y - ay) * dy + (z - az) * dz).div(length**2).clamp(0, 1)
        away = torch.sqrt((x - ax - dx * t) ** 2 + (y - ay - dy * t) ** 2 + (z - az - dz * t) ** 2) - r
        return away if not ribs else 0.8 * (away + ribs * torch.cos(t * length * (2 * math.pi / 6)))

    return distance


def ring(axis: str, cx: float, cy: float, cz: float, r: float, thickness: float) -> Distance:
    """Return a torus around an axis."""

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        offsets = {"x": x - cx, "y": y - cy, "z": z - cz}
        along = offsets.pop(axis)
        return torch.hypot(torch.hypot(*offsets.values()) - r, along) - thickness

    return distance


def mirrored(shape: Distance) -> Distance:
    """Return a shape and its mirror image."""
    return lambda x, y, z: shape(x.abs(), y, z)


def minus(shape: Distance, hole: Distance) -> Distance:
    return lambda x, y, z: torch.maximum(shape(x, y, z), -hole(x, y, z))


def union(*shapes: Distance) -> Distance:
    return lambda x, y, z: reduce(torch.minimum, (shape(x, y, z) for shape in shapes))


# --- materials -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """A surface.

    Attributes:
        colour: as in CSS; of metals that of their reflections.
        metal: 1 for metals.
        rough: 0 for a mirror, 1 for chalk.
        glow: light of its own, in units of its colour.
    """

    colour: str
    metal: float = 0
    rough: float = 0.35
    glow: float = 0


COLOURS = {
    "red": "#a8362c",
    "yellow": "#cfa03f",
    "green": "#64885a",
    "teal": "#47827f",
    "blue": "#4a6f9c",
    "cream": "#d9cdb2",
}
FINISHES = {"paint": (0.0, 0.25), "metal": (0.85, 0.34)}
STEEL, DARK, BRASS = Material("#b9bcc0", 1, 0.3), Material("#2b2d31", 0, 0.4), Material("#c79a4a", 1, 0.28)
GLOWS = {"cyan": "#7fe9ff", "amber": "#ffc04d"}


def linear(colour: str) -> Tensor:
    """Return the linear RGB values of a colour like ``#1f8a8a``."""
    values = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


# --- the kit -----------------------------------------------------------------------------------------

#: Few options that look alike at their edges: of sixty-four robots, several then share any two of them.
KIT = {
    "colour": tuple(COLOURS),
    "material": tuple(FINISHES),
    "head": ("box", "dome", "can"),
    "eyes": ("lamps", "visor", "goggles"),
    "glow": tuple(GLOWS),
    "mouth": ("grille", "slot"),
    "top": ("antenna", "two antennas", "beacon"),
    "ears": ("discs", "bolts"),
    "torso": ("box", "barrel", "wedge"),
    "panel": ("gauge", "buttons", "vent"),
    "arms": ("down", "bent", "out"),
    "hands": ("balls", "claws"),
    "legs": ("boots", "tracks", "skirt", "wheel"),
}
NUMBER = 64  # robots
SEED = 375  # no two robots have more than ten of their fourteen parts in common

Parts = list[tuple[Distance, Material]]


def kits() -> list[dict[str, str]]:
    """Return what each robot is put together from, by part. Every option of a part is used about equally often."""
    rng = np.random.default_rng(SEED)
    drawn = {part: [options[i % len(options)] for i in rng.permutation(NUMBER)] for part, options in KIT.items()}
    chosen = [{part: options[number] for part, options in drawn.items()} for number in range(NUMBER)]
    for kit in chosen:
        others = [colour for colour in COLOURS if colour != kit["colour"]]
        kit["accent"] = others[int(rng.integers(len(others)))]
    return chosen


def parts_of(kit: dict[str, str]) -> Parts:
    """Return the shapes and materials of a robot."""
    metal, rough = FINISHES[kit["material"]]
    body = Material(COLOURS[kit["colour"]], metal, rough)
    accent = Material(COLOURS[kit["accent"]], metal, rough)
    light = Material(GLOWS[kit["glow"]], 0, 0.3, 1.1)
    return [
        *_head(kit, body, accent, light),
        *_torso(kit, body, accent),
        *_arms(kit, body, accent),
        *_legs(kit, body, accent),
    ]


def _head(kit: dict[str, str], body: Material, accent: Material, light: Material) -> Parts:
    shape, face = {
        "box": (box(0, 157, 0, 35, 24, 26, 6), 26),
        "dome": (union(cylinder("y", 0, 146, 0, 33, 13, 3), ellipsoid(0, 155, 0, 33, 28, 33)), 33),
        "can": (cylinder("y", 0, 157, 0, 32, 24, 4), 32),
    }[kit["head"]]
    parts: Parts = [(shape, body), (cylinder("y", 0, 128, 0, 12, 8), DARK)]
    parts += [(union(*(ring("y", 0, 124.5 + 4 * i, 0, 12, 1.9) for i in range(3))), STEEL)]
    eye = mirrored(cylinder("z", 14, 161, face - 6, 8, 9, 2.5))
    parts += {
        "lamps": [(eye, light), (mirrored(ring("z", 14, 161, face + 1, 8.6, 2)), STEEL)],
        "visor": [(box(0, 161, face - 6, 25, 7, 9, 6), DARK), (box(0, 161, face - 5, 20, 2.6, 9.4, 2.5), light)],
        "goggles": [
            (mirrored(cylinder("z", 14, 161, face - 3, 11, 10, 3)), BRASS),
            (mirrored(cylinder("z", 14, 161, face - 2, 7.5, 9.8, 1)), DARK),
            (mirrored(sphere(14, 161, face + 5, 4.6)), light),
        ],
    }[kit["eyes"]]
    parts += {
        "grille": [
            (box(0, 142.5, face - 7, 15, 4.6, 8, 2), DARK),
            (union(*(mirrored(box(5 * i, 142.5, face - 6.5, 0.9, 4.4, 8, 0.5)) for i in range(3))), STEEL),
        ],
        "slot": [(box(0, 142.5, face - 7, 13, 2.2, 8, 2), DARK)],
    }[kit["mouth"]]
    parts += {
        "antenna": [(tube((0, 178, 0), (0, 202, 0), 1.6), STEEL), (sphere(0, 205, 0, 5.5), accent)],
        "two antennas": [
            (mirrored(tube((8, 176, 0), (19, 201, 0), 1.5)), STEEL),
            (mirrored(sphere(19.5, 203, 0, 4.3)), accent),
        ],
        "beacon": [
            (cylinder("y", 0, 183, 0, 12, 3, 1.5), STEEL),
            (union(sphere(0, 190, 0, 8.5), cylinder("y", 0, 187, 0, 8.5, 3, 1)), light),
        ],
    }[kit["top"]]
    parts += {
        "discs": [(mirrored(cylinder("x", 35, 158, 0, 11, 4.5, 2)), accent)],
        "bolts": [
            (mirrored(cylinder("x", 38, 158, 0, 4, 7, 1)), STEEL),
            (mirrored(cylinder("x", 43, 158, 0, 7, 2.5, 1)), STEEL),
        ],
    }[kit["ears"]]
    return parts


def _torso(kit: dict[str, str], body: Material, accent: Material) -> Parts:
    shape, front = {
        "box": (box(0, 91, 0, 39, 32, 26, 7), 26),
        "barrel": (cylinder("y", 0, 91, 0, 39, 32, 13), 39.5),
        "wedge": (wedge(91, 31, 43, 32, 26, 7), 26),
    }[kit["torso"]]
    parts: Parts = [(shape, body)]
    parts += [
        (box(0, 93, front - 6, 24, 16, 8, 4), accent),
        (mirrored(lambda x, y, z: sphere(20.5, 12.5, front + 1.6, 1.7)(x, (y - 93).abs(), z)), STEEL),
    ]
    z = front + 2.0
    parts += {
        "gauge": [
            (cylinder("z", 0, 93, z - 4, 13.5, 6, 1), Material("#f4efe0", 0, 0.5)),
            (ring("z", 0, 93, z + 1.5, 13.5, 2.2), BRASS),
            (tube((0, 93, z + 2.5), (6, 100, z + 2.5), 1.1), Material("#c4281f")),
            (cylinder("z", 0, 93, z + 1, 2.6, 2.5, 1), DARK),
        ],
        "buttons": [
            (cylinder("z", 12, 93, z - 2, 5, 5, 1.5), Material("#c4281f", 0, 0.25)),
            (cylinder("z", 0, 93, z - 2, 5, 5, 1.5), Material("#f4efe0", 0, 0.25)),
            (cylinder("z", -12, 93, z - 2, 5, 5, 1.5), Material("#2f62ad", 0, 0.25)),
        ],
        "vent": [(union(*(box(0, 83.5 + 6.4 * i, z - 4, 17, 1.7, 6, 1.2) for i in range(4))), DARK)],
    }[kit["panel"]]
    return parts


def _arms(kit: dict[str, str], body: Material, accent: Material) -> Parts:
    shoulder = (49.0, 110.0, 0.0)
    elbow, hand = {
        "down": ((58.0, 95.0, 2.0), (60.0, 78.0, 8.0)),
        "bent": ((66.0, 97.0, -4.0), (57.0, 82.0, 24.0)),
        "out": ((60.0, 99.0, 2.0), (78.0, 104.0, 8.0)),
    }[kit["arms"]]
    hx, hy, hz = hand
    turn = 1 if kit["arms"] == "out" else -1
    parts: Parts = [
        (mirrored(cylinder("x", 40, 110, 0, 6, 10, 1)), DARK),
        (mirrored(sphere(*shoulder, 10.5)), accent),
        (mirrored(union(tube(shoulder, elbow, 5.2, 0.9), tube(elbow, hand, 5.2, 0.9))), STEEL),
    ]
    parts += {
        "balls": [(mirrored(sphere(hx, hy, hz, 9.5)), body)],
        "claws": [
            (
                mirrored(
                    minus(ring("z", hx, hy + turn * 3, hz, 8, 3.4), box(hx, hy + turn * 13, hz, 4, 9, 20, 0)),
                ),
                body,
            )
        ],
    }[kit["hands"]]
    return parts


def _legs(kit: dict[str, str], body: Material, accent: Material) -> Parts:
    parts: Parts = [(cylinder("y", 0, 57, 0, 25, 5, 2), STEEL)]
    parts += {
        "boots": [
            (mirrored(cylinder("y", 18, 34, 0, 8.5, 22, 1)), DARK),
            (mirrored(union(*(ring("y", 18, 26 + 9 * i, 0, 8.6, 2.2) for i in range(3)))), STEEL),
            (mirrored(union(box(20, 9, 6, 16, 9, 22, 7), cylinder("y", 18, 18, 0, 12, 5, 3))), accent),
        ],
        "tracks": [
            (box(0, 40, 0, 20, 14, 16, 4), body),
            (mirrored(_tread(30, 24)), DARK),
            (mirrored(box(30, 24, 0, 13.5, 13, 26, 10)), accent),
        ],
        "skirt": [
            (cone(3, 55, 45, 25, 4), accent),
            (union(ring("y", 0, 9, 0, 42.5, 3.2), ring("y", 0, 40, 0, 31, 2)), STEEL),
        ],
        "wheel": [
            (cylinder("x", 0, 25, 0, 25, 13, 7), DARK),
            (mirrored(cylinder("x", 13, 25, 0, 14, 2.5, 1)), STEEL),
            (mirrored(union(box(20, 40, 0, 4.5, 18, 8, 3), cylinder("x", 20, 25, 0, 8, 5, 2))), accent),
        ],
    }[kit["legs"]]
    return parts


def _tread(cx: float, cy: float) -> Distance:
    """Return a caterpillar track, seen from its end."""
    band = box(cx, cy, 0, 12, 24, 38, 20)

    def distance(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        angle = torch.atan2(y - cy, z)
        return 0.7 * (band(x, y, z) + 0.9 * torch.cos(24 * angle))

    return distance


# --- rendering -----------------------------------------------------------------------------------------


def _length(vectors: Tensor) -> Tensor:
    return torch.sqrt(vectors.square().sum(-1))


class Scene:
    """A robot on the ground.

    Distances are exact where rays meet it. On the way, for shadows and for what is dark in corners, they are
    interpolated in a grid of voxels.
    """

    def __init__(self, parts: Parts) -> None:
        self.shapes = [shape for shape, _ in parts]
        self.materials = [material for _, material in parts]
        counts = [round((high - low) / VOXEL) + 1 for low, high in zip(LOW, HIGH, strict=True)]
        axes = [torch.linspace(low, high, count) for low, high, count in zip(LOW, HIGH, counts, strict=True)]
        z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        self.grid = self.exact(torch.stack([x.flatten(), y.flatten(), z.flatten()], -1)).view(1, 1, *z.shape)

    def exact(self, points: Tensor) -> Tensor:
        """Return the distance of points ``(N, 3)`` to the robot."""
        x, y, z = points.unbind(-1)
        return union(*self.shapes)(x, y, z)

    def part(self, points: Tensor) -> Tensor:
        """Return the part that is nearest to each point."""
        x, y, z = points.unbind(-1)
        return torch.stack([shape(x, y, z) for shape in self.shapes]).argmin(0)

    def near(self, points: Tensor) -> Tensor:
        """Return interpolated distances; beyond the box at least the distance to the box."""
        low, high = torch.tensor(LOW), torch.tensor(HIGH)
        inside = torch.minimum(torch.maximum(points, low), high)
        place = ((inside - low) / (high - low) * 2 - 1).view(1, 1, 1, -1, 3)
        return F.grid_sample(self.grid, place, align_corners=True).flatten() + _length(points - inside)

    def march(self, origins: Tensor, direction: Tensor, furthest: float) -> Tensor:
        """Return how far each ray goes until it meets the robot, or infinity."""
        along = torch.zeros(len(origins))
        met = torch.full((len(origins),), math.inf)
        active = torch.arange(len(origins))
        for _ in range(6):
            for _ in range(14):
                along[active] += (self.near(origins[active] + along[active, None] * direction) - 1.2).clamp(min=0)
            active = active[along[active] < furthest]
            for _ in range(8):
                distance = self.exact(origins[active] + along[active, None] * direction)
                along[active] += distance
                hit = distance < 0.05
                met[active[hit]] = along[active[hit]]
                active = active[~hit]
            along[active] += 0.2  # past an edge that was grazed
        return met

    def normals(self, points: Tensor, step: float = 0.25) -> Tensor:
        corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
        total = sum(corner * self.exact(points + step * corner)[:, None] for corner in corners)
        return F.normalize(torch.as_tensor(total), dim=-1)

    def light(self, points: Tensor, direction: Tensor, softness: float, steps: int = 22) -> Tensor:
        """Return how much of a lamp is seen from points, 0 to 1. A larger softness is a wider lamp."""
        along, seen = torch.full((len(points),), 2.0), torch.ones(len(points))
        for _ in range(steps):
            distance = self.near(points + along[:, None] * direction)
            seen = torch.minimum(seen, 0.5 + distance / (2 * softness * along))
            along = along + distance.clamp(2.0, 16.0)
        seen = seen.clamp(0, 1)
        return seen * seen * (3 - 2 * seen)

    def openness(self, points: Tensor, normals: Tensor) -> Tensor:
        """Return how open the space before a surface is, 0 to 1."""
        hidden = torch.zeros(len(points))
        for i, height in enumerate((3.0, 7.0, 13.0, 22.0)):
            above = points + height * normals
            free = torch.minimum(self.near(above), above[:, 1].clamp(min=0) + 0.5 * (normals[:, 1] > 0.9) * height)
            hidden += 0.62**i * (1 - free / height).clamp(0, 1)
        return (1 - 0.5 * hidden).clamp(0.08, 1)


def studio(directions: Tensor, rough: Tensor) -> Tensor:
    """Return the light that comes from directions: walls, a softbox at the left, a strip at the right."""
    x, y, z = directions.unbind(-1)
    edge = 0.06 + 0.5 * rough

    def step(value: Tensor) -> Tensor:
        return torch.sigmoid(value / edge * 3)

    walls = 0.30 + 0.35 * step(y + 0.05) - 0.22 * torch.exp(-(((y + 0.05) / (0.12 + rough)) ** 2))
    softbox = step(0.30 - (x + 0.55).abs()) * step(0.42 - (y - 0.45).abs()) * step(z)
    strip = step(0.10 - (x - 0.82).abs()) * step(0.55 - (y - 0.2).abs())
    ceiling = step(y - 0.8)
    power = 1 / (1 + 1.5 * rough)
    tint = torch.tensor([1.0, 0.985, 0.955])
    return (walls + power * (2.6 * softbox + 1.1 * strip + 0.5 * ceiling))[:, None] * tint


def shade(scene: Scene, points: Tensor, view: Tensor) -> Tensor:
    """Return the linear colours of points on the robot."""
    normals, part = scene.normals(points), scene.part(points)
    colour = torch.stack([linear(each.colour) for each in scene.materials])[part]
    metal, rough, glow = (
        torch.tensor([getattr(each, name) for each in scene.materials])[part] for name in ("metal", "rough", "glow")
    )
    start = points + 0.6 * normals
    towards = -view
    facing = (normals @ towards).clamp(0.02, 1)
    lamp = (normals @ LAMP).clamp(min=0) * scene.light(start, LAMP, 0.12)
    openness = scene.openness(points, normals)
    up = normals[:, 1:2]
    sky = torch.tensor([0.50, 0.54, 0.60]) * (0.5 + 0.5 * up)
    bounce = torch.tensor([0.42, 0.38, 0.33]) * (0.5 - 0.5 * up) * torch.exp(-points[:, 1:2] / 160)
    diffuse = colour * (1.75 * lamp[:, None] * torch.tensor([1.0, 0.96, 0.89]) + openness[:, None] * (sky + bounce))
    reflected = 2 * (normals @ towards)[:, None] * normals - towards
    clear = scene.light(start, reflected, 0.35, steps=10)
    base = 0.04 + metal[:, None] * (colour - 0.04)
    fresnel = base + 0.5 * (1 - rough[:, None]) ** 2 * (1 - base) * (1 - facing[:, None]) ** 5
    half = F.normalize(LAMP + towards, dim=0)
    power = 2 / (0.05 + rough**2) ** 1.5
    spark = (normals @ half).clamp(min=0) ** power * (power + 8) / 26 * lamp
    gloss = fresnel * (
        studio(reflected, rough) * (0.25 + 0.75 * clear * openness)[:, None] + spark[:, None].clamp(max=9)
    )
    return diffuse * (1 - metal)[:, None] + gloss + colour * glow[:, None] * (0.55 + 0.6 * facing[:, None])


def ground(scene: Scene, points: Tensor, rows: Tensor) -> Tensor:
    """Return the linear colours of points on the ground, which fades into the wall behind."""
    up = torch.tensor([0.0, 1.0, 0.0]).expand(len(points), 3)
    fade = torch.exp(-((points[:, 2] / 420).clamp(max=0) ** 2))
    lamp = 1 - fade * (1 - scene.light(points, LAMP, 0.16))
    openness = 1 - fade * (1 - scene.openness(points, up))
    level = (0.62 + 0.16 * (rows / SIZE))[:, None]
    tint = torch.tensor([1.0, 0.955, 0.87])
    cool = torch.tensor([0.95, 0.97, 1.0])
    return level * tint * (0.62 * lamp[:, None] + 0.44 * openness[:, None] * cool)


def render(parts: Parts) -> Image.Image:
    """Return the picture of a robot."""
    scene = Scene(parts)
    side = SIZE * SAMPLES
    axis = (torch.arange(side) + 0.5) / SAMPLES
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    view = torch.tensor([0.0, -math.sin(TILT), -math.cos(TILT)])
    up = torch.tensor([0.0, math.cos(TILT), -math.sin(TILT)])
    origins = (columns - SIZE / 2)[:, None] * torch.tensor([1.0, 0, 0]) + (GROUND_ROW - rows)[:, None] * up - 150 * view
    along = scene.march(origins, view, 300.0)
    met = torch.isfinite(along)
    floor = -origins[:, 1] / view[1]
    colours = torch.empty(len(origins), 3)
    colours[met] = shade(scene, origins[met] + along[met, None] * view, view)
    colours[~met] = ground(scene, origins[~met] + floor[~met, None] * view, rows[~met])
    colours = colours * 1.02
    toned = (colours * (2.51 * colours + 0.03) / (colours * (2.43 * colours + 0.59) + 0.14)).clamp(0, 1)
    image = toned.view(side, side, 3).permute(2, 0, 1)[None]
    image = F.avg_pool2d(image, SAMPLES)[0]
    coded = torch.where(image <= 0.0031308, 12.92 * image, 1.055 * image.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
    return Image.fromarray((coded * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder that the pictures and attributes.csv go to")
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"robot-{number:02d}", **kit} for number, kit in enumerate(kits())]
    for row in rows:
        render(parts_of(row)).save(folder / f"{row['id']}.jpg", quality=QUALITY, subsampling=0)
    with (folder / "attributes.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
