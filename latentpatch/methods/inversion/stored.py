"""Files of inverted pictures: styles and noise maps in one safetensors file with a JSON header."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FileError, SettingError
from ...io.stored import read_stored, write_stored
from ...validation import check_choice, check_integer
from .generator import Generator
from .names import GENERATORS

__all__ = ["StoredInversion"]

_FORMAT = "latentpatch-inversion/1"


@dataclass(frozen=True)
class StoredInversion:
    """Styles and noise maps of pictures, and the generator that they are of.

    Attributes:
        ids: names of the pictures.
        styles: ``(N, L, D)`` float32.
        noise: the first k noise maps, ``(N, 1, h, w)``.
        seed: of the noise maps that are not stored.
        generator: facts about the generator with the SHA-256 of its weights, but no path.
        record: further facts: sources, settings, losses.
    """

    ids: tuple[str, ...]
    styles: Tensor = field(repr=False)
    noise: tuple[Tensor, ...] = field(repr=False)
    seed: int
    generator: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the generator's pictures."""
        height, width = self.generator["image_size"]
        return height, width

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            FileError: where it cannot be written.
        """
        facts = {"ids": list(self.ids), "seed": self.seed, "generator": self.generator, "record": self.record}
        tensors = {"styles": self.styles, **{f"noise.{i}": each for i, each in enumerate(self.noise)}}
        write_stored(path, _FORMAT, facts, tensors)

    @classmethod
    def read(cls, path: str | Path) -> StoredInversion:
        """Read a file and check that its parts fit together.

        Raises:
            FileError: where it is not such a file, with the reason.
        """
        header, tensors = read_stored(path, _FORMAT)
        try:
            ids, seed, facts, record = (header[key] for key in ("ids", "seed", "generator", "record"))
            styles = tensors.pop("styles")
            noise = tuple(tensors.pop(f"noise.{i}") for i in range(len(tensors)))
            # A name alone: no file is opened because this one says so.
            check_choice("generator", facts["name"], GENERATORS)
            height, width = facts["image_size"]
            check_integer("image_size", height, 1), check_integer("image_size", width, 1)
            kinds = ((ids, list), (seed, int), (facts, dict), (record, dict), (facts["sha256"], str))
            if not all(isinstance(value, kind) for value, kind in kinds) or len(ids) != len(styles) or not ids:
                raise ValueError("ids, seed and generator do not fit the styles")
            if any(each.ndim != 4 or len(each) != len(ids) for each in noise) or styles.ndim != 3:
                raise ValueError("noise maps do not fit the styles")
            if any(each.dtype != torch.float32 for each in (styles, *noise)):
                raise ValueError("styles and noise maps must be float32")
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(path, f"malformed file of latents: {' '.join(str(error).split())}") from error
        return cls(tuple(map(str, ids)), styles, noise, seed, facts, record)

    def check(self, generator: Generator, path: str | Path) -> None:
        """Refuse a generator other than that of the file, and values that do not fit it.

        Raises:
            FileError: with the digests, or the reason.
        """
        wanted, found = self.generator["sha256"], generator.fingerprint()
        if wanted != found:
            name = self.generator.get("name")
            raise FileError(
                path, f"made with {name} of SHA-256 {wanted[:16]}…, got {generator.spec.name} {found[:16]}…"
            )
        try:
            generator.check_styles(self.styles, self.noise)
        except SettingError as error:
            raise FileError(path, f"malformed file of latents: {error}") from error
