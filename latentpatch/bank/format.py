"""Model files: one safetensors file with a JSON header, checked when read."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..autoencoders.registry import AUTOENCODERS, Autoencoder, load_autoencoder
from ..autoencoders.weights import without_downloads
from ..errors import FileError, SettingError, SettingTypeError, WeightsError
from ..io.atomic import write_tensors
from ..io.mmap import map_tensors, open_tensors, read_tensors
from ..registry import settings_from_record, settings_record
from ..settings import Settings, check_limits
from ..validation import check_integer
from .bank import SourceBank
from .common import mask_depth
from .pca import PCA
from .residuals import cell_side

__all__ = ["MAPPED_FROM", "ModelFile", "model_file"]

#: Bytes from which a file is mapped instead of read. What is read is safe from whatever becomes of the file.
MAPPED_FROM = 1 << 28

_FORMAT = "latentpatch-model/1"


def model_file(sources: Any) -> Path | None:
    """Return the path of a fitted model file where sources are one such file, alone or in a list; else None."""
    files = sources if isinstance(sources, (list, tuple)) else [sources]
    path = Path(files[0]) if len(files) == 1 and isinstance(files[0], (str, Path)) else None
    return path if path is not None and path.suffix == ".safetensors" else None


@dataclass(frozen=True)
class ModelFile:
    """The contents of a model file: everything but the autoencoder's weights.

    Attributes:
        autoencoder: the autoencoder's facts, with ``name``, ``argument`` and the ``sha256`` of its weights.
        components: number of principal components, r.
        settings: of a sampler.
        pca: fitted.
        bank: the sources; mapped where the file is larger than :data:`MAPPED_FROM`.
        sources_sha256: the bank's digest according to the file; None where it has none, or was not read.
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
            FileError: where it cannot be written.
            SettingError: for settings beyond their limits, with which the file could not be read.
        """
        check_limits(self.settings)
        header = {
            "format": _FORMAT,
            "autoencoder": self.autoencoder,
            "components": self.components,
            "settings": settings_record(self.settings, self.bank.grid),
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

        A file larger than :data:`MAPPED_FROM` is mapped: the sources' values are then checked when they
        are used, or by :meth:`verify`.

        Args:
            path: the file.
            whole: whether all of it will be read, not only the latents of chosen sources.

        Raises:
            FileError: where it is not such a file, with the reason.
        """
        try:
            with open_tensors(path) as stored:
                header = json.loads((stored.metadata() or {}).get("latentpatch", "null"))
            mapped = Path(path).stat().st_size > MAPPED_FROM
            tensors = (
                map_tensors(path, () if whole else ("bank.latents", "bank.details", "bank.masks"))
                if mapped
                else read_tensors(path)
            )
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise FileError(path, f"not a readable model file: {getattr(error, 'strerror', None) or error}") from error
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise FileError(path, f"not a latentpatch model file (of format {_FORMAT})")
        try:
            facts, pca, bank = header["autoencoder"], PCA(), SourceBank()
            pca.load_state_dict(_part(tensors, "pca."))
            digest = header.get("sources_sha256")  # older files have none
            if not isinstance(digest, str | None):
                raise TypeError(f"sources_sha256 must be text, got {digest!r}")
            if mapped:
                bank = SourceBank.from_mapped(_part(tensors, "bank."), path, digest)
            else:
                bank.load_state_dict(_part(tensors, "bank."))
            model = cls(facts, header["components"], settings_from_record(header["settings"]), pca, bank, digest)
            model._check()
        except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
            raise FileError(path, f"malformed model file: {_reason(error)}") from error
        return model

    def autoencoder_for(self, path: str | Path, autoencoder: Autoencoder | str | None = None) -> Autoencoder:
        """Return the autoencoder of this file's latents, or another one of the same latent space.

        Args:
            path: the file, for messages.
            autoencoder: an autoencoder, or ``NAME[:FILE OR FOLDER]``; by default the one that the file names, where
                that takes no download, and no file, folder or repository of the file's choice.

        Raises:
            FileError: where the autoencoder cannot be built, or the file's latents are not of its kind.
            WeightsError: where its weights are not those that the file names, or not on this machine.
        """
        facts, bank = self.autoencoder, self.bank
        try:
            if autoencoder is None:
                if facts["argument"] is not None and facts["name"] in AUTOENCODERS and facts["name"] != "pixels":
                    named = f"{facts['name']}:{facts['argument']}"
                    reason = f"of the autoencoder {named!r}, which is opened only where you name it, too"
                    raise FileError(path, f"{reason} (--autoencoder, autoencoder=)")
                with without_downloads():
                    autoencoder = load_autoencoder(facts["name"], facts["argument"])
            elif isinstance(autoencoder, str):
                autoencoder = load_autoencoder(autoencoder)
        except ValueError as error:
            raise FileError(path, f"the autoencoder cannot be built: {error}") from error
        spec, codebook = autoencoder.spec, autoencoder.codebook
        latent_space = facts["latent_space"] or facts["name"]
        is_other = spec.name != facts["name"] and (spec.latent_space or spec.name) == latent_space
        if not is_other and autoencoder.fingerprint() != facts["sha256"]:
            raise WeightsError(
                f"{path} was fitted with {facts['name']} of SHA-256 {facts['sha256'][:16]}…, "
                f"got {spec.name} of {autoencoder.fingerprint()[:16]}…"
            )
        depth = autoencoder.fold**2 if bank.has_codes else spec.latent_channels
        if (
            bank.has_codes != (codebook is not None)
            or bank.latents.shape[3] != depth
            or len(self.pca.mean) != spec.latent_channels
        ):
            raise FileError(path, f"malformed model file: the latents are not of {spec.name}")
        if bank.has_residuals and cell_side(bank.residuals.shape[3]) != spec.downsampling:
            raise FileError(path, f"malformed model file: the details are not of cells of {spec.name}")
        if bank.masks.numel() and bank.masks.shape[3] != mask_depth(spec.downsampling):
            raise FileError(path, f"malformed model file: the masks are not of cells of {spec.name}")
        if codebook is not None and not bank.mapped and int(bank.latents.max()) >= len(codebook):
            raise FileError(path, f"malformed model file: codes must be below the {len(codebook)} of {spec.name}")
        return autoencoder

    def verify(self, path: str | Path) -> None:
        """Read and check all of the sources.

        Raises:
            FileError: where the sources are malformed, or not those that the file was written with.
        """
        try:
            self.bank.check()
        except ValueError as error:
            raise FileError(path, f"malformed model file: {error}") from error
        found = self.bank.computed_digest()
        if self.sources_sha256 not in (None, found):
            raise FileError(path, f"altered: the sources' SHA-256 must be {self.sources_sha256}, got {found}")

    def _check(self) -> None:
        """Refuse contents that would fail, or worse, not fail, when the model is used."""
        check_limits(self.settings)
        facts, pca, bank = self.autoencoder, self.pca, self.bank
        for name, kind, constraint in (
            ("name", str, "text"),
            ("sha256", str, "text"),
            ("argument", str | None, "text"),
            ("latent_space", str | None, "text"),
            ("downsampling", int, "an integer"),
        ):
            if not isinstance(facts[name], kind):
                raise SettingTypeError(f"the autoencoder's {name}", facts[name], constraint)
        if not len(bank):  # loading its state has checked the rest
            raise ValueError("no sources")
        shapes = [tuple(pca.basis.shape), tuple(pca.mean.shape), tuple(pca.explained_variance.shape)]
        depth, channels = pca.basis.shape if pca.basis.ndim == 2 else (0, 0)
        check_integer("components", self.components, 1, max(1, channels))
        if pca.total_variance.shape != ():
            raise ValueError(f"pca.total_variance must be a scalar, got {tuple(pca.total_variance.shape)}")
        fits = shapes == [(depth, channels), (channels,), (depth,)] and depth == self.components
        if not fits or bank.keys.shape[3] != depth:
            raise ValueError(
                f"PCA of shapes {shapes} with {self.components} components for keys of {bank.keys.shape[3]}"
            )
        if not bank.has_codes and bank.latents.shape[3] != channels:
            raise ValueError(f"latents have {bank.latents.shape[3]} channels, the PCA has {channels}")
        for name, value in pca.fitted().items():
            if value.dtype != torch.float32 or not bool(torch.isfinite(value).all()):
                raise ValueError(f"pca.{name} must be finite float32")


def _reason(error: Exception) -> str:
    """Return what an error says of a file's contents, as one sentence."""
    text = textwrap.shorten(str(error), 300, placeholder=" …")
    if isinstance(error, KeyError):
        return f"{text} is missing"
    if isinstance(error, (json.JSONDecodeError, UnicodeError)):
        return f"a part is not JSON ({text})"
    is_pythons = isinstance(error, (AttributeError, TypeError)) and not isinstance(error, SettingError)
    return f"a part has the wrong type ({text})" if is_pythons else text


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a model file, by name without the prefix."""
    for name in tensors:
        if not name.startswith(("pca.", "bank.")):
            raise ValueError(f"unexpected tensor {name!r}")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
