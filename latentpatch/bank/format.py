"""Fitted models as files: one safetensors file with a JSON header, checked when read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import FileError
from ..io.atomic import write_tensors
from ..io.mmap import map_tensors
from ..registry import settings_from_record, settings_record
from ..settings import Settings, check_limits
from .bank import SourceBank
from .pca import PCA

__all__ = ["MAPPED_FROM", "ModelFile", "model_file"]

#: Bytes from which a file is mapped instead of read. What is read is safe from whatever becomes of the file.
MAPPED_FROM = 1 << 28

_FORMAT = "latentpatch-model/1"


def model_file(sources: Any) -> Path | None:
    """Return the path of a fitted model file where sources are one such file, alone or in a list; else None."""
    files = [sources] if isinstance(sources, (str, Path)) else [] if isinstance(sources, Tensor) else list(sources)
    return Path(files[0]) if len(files) == 1 and Path(files[0]).suffix == ".safetensors" else None


@dataclass(frozen=True)
class ModelFile:
    """What is in a file: everything but the autoencoder's weights.

    Attributes:
        autoencoder: the autoencoder's facts, with ``name``, ``argument`` and the ``sha256`` of its weights.
        components: principal components, r.
        settings: of the sampler it generates with.
        pca: fitted.
        bank: the sources; mapped where the file is larger than :data:`MAPPED_FROM`.
        sources_sha256: what the file that was read says the bank's digest is; None where it does not.
    """

    autoencoder: dict[str, Any]
    components: int
    settings: Settings
    pca: PCA
    bank: SourceBank
    sources_sha256: str | None = None

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            FileError: where that is not possible.
            SettingError: for settings beyond their limits, with which the file could not be read.
        """
        check_limits(self.settings)
        header = {
            "format": _FORMAT,
            "autoencoder": self.autoencoder,
            "components": self.components,
            "settings": settings_record(self.settings),
            "sources_sha256": self.bank.digest(),
        }
        tensors = {
            f"{part}.{name}": value
            for part, module in (("pca", self.pca), ("bank", self.bank))
            for name, value in module.state_dict().items()
        }
        write_tensors(path, tensors, {"latentpatch": json.dumps(header, sort_keys=True)})

    @classmethod
    def read(cls, path: str | Path, *, whole: bool = False) -> ModelFile:
        """Read a file and check that its parts fit together.

        Files larger than :data:`MAPPED_FROM` are mapped: of these the sources' values are checked when they
        are used, or by :meth:`verify`.

        Args:
            path: the file.
            whole: all of it will be looked at, not only the latents of chosen sources.

        Raises:
            FileError: where it is not such a file; the message says what is wrong with it.
        """
        try:
            with safe_open(path, framework="np") as stored:
                header = json.loads((stored.metadata() or {}).get("latentpatch", "null"))
            mapped = Path(path).stat().st_size > MAPPED_FROM
            tensors = (
                map_tensors(path, () if whole else ("bank.latents", "bank.details")) if mapped else load_file(path)
            )
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise FileError(f"{path}: not a readable model file: {error}") from error
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise FileError(f"{path}: not a latentpatch model file (format {_FORMAT} is expected)")
        try:
            facts, pca, bank = header["autoencoder"], PCA(), SourceBank()
            pca.load_state_dict(_part(tensors, "pca."))
            digest = header.get("sources_sha256")  # files of before have none
            if not isinstance(digest, str | None):
                raise TypeError(f"sources_sha256 is {digest!r}, text is expected")
            if mapped:
                bank = SourceBank.over(_part(tensors, "bank."), digest)
            else:
                bank.load_state_dict(_part(tensors, "bank."))
            model = cls(facts, header["components"], settings_from_record(header["settings"]), pca, bank, digest)
            model._check()
        except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
            raise FileError(f"{path}: malformed model file: {' '.join(str(error).split())}") from error
        return model

    def verify(self, path: str | Path) -> None:
        """Read and check all of the sources.

        Raises:
            FileError: where they are malformed, or not those the file was written with.
        """
        try:
            self.bank.check()
        except ValueError as error:
            raise FileError(f"{path}: malformed model file: {error}") from error
        found = self.bank.computed_digest()
        if self.sources_sha256 not in (None, found):
            raise FileError(f"{path}: altered: sources of SHA-256 {self.sources_sha256} are expected, got {found}")

    def _check(self) -> None:
        """Refuse what would fail, or worse, not fail, when the model is used."""
        check_limits(self.settings)
        facts, pca, bank = self.autoencoder, self.pca, self.bank
        for name in ("name", "sha256"):
            if not isinstance(facts[name], str):
                raise TypeError(f"the autoencoder's {name} is {facts[name]!r}, text is expected")
        for name in ("argument", "latent_space"):
            if not isinstance(facts[name], str | None):
                raise TypeError(f"the autoencoder's {name} is {facts[name]!r}, text is expected")
        if not isinstance(facts["downsampling"], int):
            raise TypeError(f"the autoencoder's downsampling is {facts['downsampling']!r}, an integer is expected")
        if not len(bank):  # loading its state has checked the rest
            raise ValueError("no sources")
        shapes = [tuple(pca.basis.shape), tuple(pca.mean.shape), tuple(pca.explained_variance.shape)]
        depth, channels = pca.basis.shape
        if shapes[1:] != [(channels,), (depth,)] or depth != self.components or bank.keys.shape[3] != depth:
            raise ValueError(
                f"PCA of shapes {shapes} with {self.components} components for keys of {bank.keys.shape[3]}"
            )
        if not bank.coded and bank.latents.shape[3] != channels:
            raise ValueError(f"latents have {bank.latents.shape[3]} channels, the PCA {channels}")
        for name, value in pca.fitted().items():
            if value.dtype != torch.float32 or not bool(torch.isfinite(value).all()):
                raise ValueError(f"pca.{name} is not finite float32")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    known = ("pca.", "bank.")
    unknown = [name for name in tensors if not name.startswith(known)]
    if unknown:
        raise ValueError(f"unexpected tensor {unknown[0]!r}")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
