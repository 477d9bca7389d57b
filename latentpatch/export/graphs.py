"""Graphs of a fitted model: its operations as traceable modules from tensors to tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoders.registry import Autoencoder
from ..bank.common import clamp_ground, is_grey, without_color
from ..bank.residuals import LEVELS, fading, gains, quarters, surrounding, to_pixels
from ..errors import SettingError
from ..methods.latent.search.keys import KEY_NORM
from ..model import LatentPatch
from ..ops.blending import Solver, blend_with, stiffness_of
from ..registry import SAMPLERS, unit_of
from ..settings import Settings

__all__ = ["Graph", "graphs"]


@dataclass(frozen=True)
class Graph:
    """A module to trace.

    Attributes:
        name: name of the graph's file.
        module: module from batches to batches; the first dimension counts images.
        inputs: example of each input, by name; the first dimension may have any length.
        outputs: names of the outputs.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def graphs(model: LatentPatch, sampler: str, settings: Settings, guided: Settings) -> list[Graph]:
    """Return all graphs of a model.

    Args:
        model: fitted model on the CPU.
        sampler: name of the sampler.
        settings: settings of ``generate``.
        guided: settings of ``reference``.

    Raises:
        SettingError: where the sampler or the precision cannot be exported.
    """
    method = SAMPLERS.named(sampler)
    if not method.is_exportable:
        names = ", ".join(name for name, each in SAMPLERS.items() if each.is_exportable)
        raise SettingError("sampler", sampler, f"one of {names} to be exported")
    if model.precision != "float32":
        raise SettingError("precision", model.precision, "float32 to be exported")
    bank, sources = model.bank, model.bank.prepared()
    decoder, encoder = Decoder(model.autoencoder), Encoder(model.autoencoder)
    free, like = method.traceable(sources, settings, False), method.traceable(sources, guided, True)
    images = torch.rand(
        2, 3, *model.image_size
    )  # Each input is a tensor of its own: the tracer merges inputs that are one tensor.
    masks = torch.rand(2, *model.image_size) < 0.5
    latents = torch.zeros(2, model.autoencoder.spec.latent_channels, *bank.grid)
    gathered = Sources(model)

    def pictures_of(chosen: Settings) -> nn.Module:
        decoding = model.default_decoding(chosen)
        is_blended = decoding in ("blend", "detail") and not bank.has_codes
        latents = Blended(gathered, model, chosen) if is_blended else gathered
        pictures = Detailed(latents, decoder, model) if decoding == "detail" else nn.Sequential(latents, decoder)
        return Keeping(pictures, model) if len(bank.grounds) or bank.has_grey else pictures

    return [
        Graph("generate", Generate(free, pictures_of(settings)), {"noise": _noise(free)}, ("images", "index")),
        Graph("encoder", encoder, {"images": images}, ("latents",)),
        Graph("decoder", decoder, {"latents": latents}, ("images",)),
        Graph(
            "reference",
            Reference(model, encoder, like, pictures_of(guided)),
            {"reference": images, "noise": _noise(like)},
            ("images", "index"),
        ),
        Graph("edit", Edit(encoder, decoder), {"image": images, "mask": masks, "donor": images.clone()}, ("images",)),
    ]


def _noise(search: nn.Module) -> Tensor:
    """Return example noise of a sampler."""
    return torch.rand(2, int(search.steps))  # type: ignore[arg-type]


class Encoder(nn.Module):
    """Encoder from images ``(N, 3, H, W)`` in [0, 1] to latents ``(N, L, h, w)``.

    With a codebook, the latents are its nearest vectors.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        network = self.autoencoder
        latents = F.pixel_unshuffle(network.encode_raw(images).float(), network.fold)
        if network.codebook is None:
            return latents
        # Distances are |v - c|^2 less |v|^2 in float64: autoencoder.codes() with operations that graphs support.
        codebook = network.codebook.double()
        vectors = F.pixel_shuffle(latents, network.fold).movedim(1, -1).double()
        distances = codebook.square().sum(1) - 2 * vectors @ codebook.T
        codes = F.embedding(distances.argmin(-1), network.codebook)
        return F.pixel_unshuffle(codes.movedim(-1, 1), network.fold)


class Decoder(nn.Module):
    """Decoder from latents ``(N, L, h, w)`` to images ``(N, 3, H, W)`` in [0, 1]."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode_raw(F.pixel_shuffle(latents, self.autoencoder.fold)).float().clamp(0, 1)


class Sources(nn.Module):
    """Lookup from index maps ``(N, h, w)`` to the latents of the sources ``(N, L, h, w)``."""

    latents: Tensor
    cells: Tensor
    codebook: Tensor | None

    def __init__(self, model: LatentPatch) -> None:
        super().__init__()
        latents = model.bank.latents
        cells = model.bank.grid[0] * model.bank.grid[1]
        self.area = cells
        self.register_buffer("latents", latents.flatten(0, 2))
        self.register_buffer("cells", torch.arange(cells).view(model.bank.grid))
        self.register_buffer("codebook", model.autoencoder.codebook)

    def forward(self, index: Tensor) -> Tensor:
        latents = F.embedding(index * self.area + self.cells, self.latents).movedim(-1, 1)
        if self.codebook is None:
            return latents.float()
        # The result equals unfolding codes, looking them up and folding vectors; runtimes cannot unfold integers.
        return F.embedding(latents.int(), self.codebook).movedim(-1, 1).flatten(1, 2)


class Blended(nn.Module):
    """Lookup from index maps ``(N, h, w)`` to latents ``(N, L, h, w)``, blended where sources meet."""

    down: Tensor
    right: Tensor
    eigenvalues: Tensor

    def __init__(self, sources: Sources, model: LatentPatch, settings: Settings) -> None:
        super().__init__()
        self.sources = sources
        stiffness = stiffness_of(unit_of(settings, model.bank.grid))
        solver = Solver.of(*model.bank.grid, stiffness, torch.device("cpu"))
        for name, part in solver._asdict().items():
            self.register_buffer(name, part)

    def forward(self, index: Tensor) -> Tensor:
        return blend_with(self.sources, index, Solver(self.down, self.right, self.eigenvalues))


class Detailed(nn.Module):
    """Decoding of index maps ``(N, h, w)`` to images ``(N, 3, H, W)`` with the residuals of the sources."""

    details: Tensor
    places: Tensor
    weights: Tensor
    keys: Tensor
    cells: Tensor
    mean: Tensor
    basis: Tensor
    explained_variance: Tensor
    unit: Tensor

    def __init__(self, sources: nn.Module, decoder: Decoder, model: LatentPatch) -> None:
        super().__init__()
        self.sources, self.decoder = sources, decoder
        residuals, (rows, columns) = model.bank.residuals, model.bank.grid
        self.area, self.quarter = 4 * rows * columns, model.autoencoder.spec.downsampling // 2
        self.register_buffer("details", residuals.reshape(-1, residuals.shape[3] // 4))
        self.register_buffer("places", torch.arange(self.area).view(rows, columns, 4))
        self.register_buffer("weights", fading(residuals.shape[3] // 4, self.quarter, torch.device("cpu")) / LEVELS)
        self.register_buffer("keys", model.bank.keys.flatten(0, 2))
        self.register_buffer("cells", torch.arange(rows * columns).view(rows, columns))
        for name in ("mean", "basis", "explained_variance"):
            self.register_buffer(name, getattr(model.pca, name).double())
        self.register_buffer("unit", model.bank.key_step.double())

    def forward(self, index: Tensor) -> Tensor:
        latents = self.sources(index)
        images: Tensor = self.decoder(latents)
        reduced = torch.einsum("rl,nlhw->nrhw", self.basis, latents.double() - self.mean[:, None, None])
        around = F.embedding(surrounding(index) * (self.area // 4) + self.cells, self.keys).double() * self.unit
        factors = gains(reduced, around.movedim(-1, 2), self.explained_variance.sum().sqrt())
        parts = [
            F.embedding(sources * self.area + self.places, self.details).float() * factor[..., None] * weight
            for sources, factor, weight in zip(quarters(index), factors, self.weights, strict=True)
        ]
        return (images + to_pixels(sum(parts[1:], parts[0]), self.quarter)).clamp(0, 1)


class Keeping(nn.Module):
    """Pictures of index maps ``(N, h, w)`` that keep what their sources have in common."""

    grey: Tensor
    masks: Tensor
    places: Tensor
    bounds: Tensor

    def __init__(self, pictures: nn.Module, model: LatentPatch) -> None:
        super().__init__()
        self.pictures, bank = pictures, model.bank
        rows, columns = bank.grid
        self.area, self.has_ground, self.has_grey = 4 * rows * columns, bool(len(bank.grounds)), bank.has_grey
        self.register_buffer("grey", bank.grey.int().repeat_interleave(bank.variants.count)[:, None])
        if self.has_ground:
            self.register_buffer("masks", bank.masks.reshape(-1, bank.masks.shape[3] // 4))
            self.register_buffer("places", torch.arange(self.area).view(rows, columns, 4))
            self.register_buffer("bounds", bank.ground_bounds)

    def forward(self, index: Tensor) -> Tensor:
        images: Tensor = self.pictures(index)
        if self.has_ground:
            images = clamp_ground(images, index, self._gather, self.bounds)
        if self.has_grey:
            images = without_color(images, F.embedding(index, self.grey).flatten(1).amin(1) > 0)
        return images

    def _gather(self, sources: Tensor) -> Tensor:
        return F.embedding(sources * self.area + self.places, self.masks)


class Generate(nn.Module):
    """Generation from noise ``(N, steps)`` to images ``(N, 3, H, W)`` and index maps ``(N, h, w)``."""

    def __init__(self, search: nn.Module, pictures: nn.Module) -> None:
        super().__init__()
        self.search, self.pictures = search, pictures

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        index = self.search(noise)
        return self.pictures(index), index


class Reference(nn.Module):
    """Generation from references ``(N, 3, H, W)`` and noise ``(N, steps)`` to images and index maps."""

    mean: Tensor
    basis: Tensor
    unit: Tensor

    def __init__(self, model: LatentPatch, encoder: Encoder, search: nn.Module, pictures: nn.Module) -> None:
        super().__init__()
        self.encoder, self.search, self.pictures = encoder, search, pictures
        self.register_buffer("mean", model.pca.mean.double()[:, None, None])
        self.register_buffer("basis", model.pca.basis.double())
        self.register_buffer("unit", model.bank.key_step.double())
        # The bound on the norms of keys is that of search.keys.to_keys().
        self.limit = KEY_NORM - 0.5 * model.pca.components**0.5

    def forward(self, reference: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        centred = self.encoder(reference).double() - self.mean
        units = torch.einsum("rl,nlhw->nhwr", self.basis, centred) / self.unit
        norm = units.square().sum(-1, keepdim=True).sqrt()
        keys = (units * (self.limit / norm.clamp(min=self.limit))).round().to(torch.int16)
        index = self.search(noise, keys)
        return self.pictures(index), index


class Edit(nn.Module):
    """Edit of images ``(N, 3, H, W)`` by donors ``(N, 3, H, W)`` inside masks ``(N, H, W)`` bool.

    Cells of which the mask covers at least half get the latents of the donor; all others keep those of the image.
    Where both are grey, the result is.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.side = encoder.autoencoder.spec.downsampling

    def forward(self, image: Tensor, mask: Tensor, donor: Tensor) -> Tensor:
        cells = F.avg_pool2d(mask[:, None].float(), self.side) >= 0.5
        images: Tensor = self.decoder(torch.where(cells, self.encoder(donor), self.encoder(image)))
        return without_color(images, is_grey(image) & is_grey(donor))
