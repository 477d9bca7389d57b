"""What is exported: a fitted model's operations as modules of tensors in, tensors out, to be traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoders import Autoencoder
from ..blending import STIFFNESS, Solver, joined
from ..details import LEVELS, fading, quarters, to_pixels
from ..model import LatentPatch
from ..sampling import SAMPLERS, Settings
from ..sampling.keys import KEY_NORM
from ..sampling.sources import PreparedSources
from .raster import TraceableRaster
from .resynthesis import TraceableResynthesis

__all__ = ["TRACEABLE", "Graph", "graphs"]

#: Traceable forms of samplers: ``(sources, settings, whether a reference is given) -> module``. Those that are missing
#: here are refused by name.
TRACEABLE: dict[str, Callable[[PreparedSources, Any, bool], nn.Module]] = {
    "resynthesis": TraceableResynthesis,
    "raster": TraceableRaster,
}


@dataclass(frozen=True)
class Graph:
    """A module to trace.

    Attributes:
        name: of its file.
        module: takes and gives batches, images first.
        inputs: an example of each input, by name; the first dimension may be of any length.
        outputs: names.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def graphs(model: LatentPatch, sampler: str, settings: Settings, guided: Settings) -> list[Graph]:
    """All graphs of a model.

    Args:
        model: fitted, on the CPU.
        sampler: its name.
        settings: of ``generate``.
        guided: of ``reference``.

    Raises:
        ValueError: for what cannot be exported, by name.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}: one of {', '.join(SAMPLERS)} is expected")
    if sampler not in TRACEABLE:
        raise ValueError(f"sampler {sampler!r}: cannot be exported; one of {', '.join(TRACEABLE)} is expected")
    if model.autoencoder.decode_dtype != torch.float32 or model.autoencoder.encode_dtype != torch.float32:
        raise ValueError("precision bfloat16: cannot be exported; float32 is expected")
    bank, search = model.bank, TRACEABLE[sampler]
    sources = bank.prepared()
    decoder, encoder = Decoder(model.autoencoder), Encoder(model.autoencoder)
    free, like = search(sources, settings, False), search(sources, guided, True)
    images = torch.rand(2, 3, *model.image_size)  # one tensor given twice would become one input
    masks = torch.rand(2, *model.image_size) < 0.5
    latents = torch.zeros(2, model.autoencoder.spec.latent_channels, *bank.grid)
    latents_of = Sources(model)

    def pictures_of(chosen: Settings) -> nn.Module:
        decoding = model.default_decoding(chosen)
        latents = Blended(latents_of, model) if decoding in ("blend", "detail") and not bank.coded else latents_of
        return Detailed(latents, decoder, model) if decoding == "detail" else nn.Sequential(latents, decoder)

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
    return torch.rand(2, int(search.steps))  # type: ignore[arg-type]


class Encoder(nn.Module):
    """Images ``(N, 3, H, W)`` in [0, 1] -> latents ``(N, L, h, w)``, the nearest codes where there is a codebook."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        network = self.autoencoder
        latents = F.pixel_unshuffle(network._encode(images).float(), network.fold)
        if network.codebook is None:
            return latents
        # |v - c|^2 less |v|^2, in float64: autoencoder.codes() without what graphs have no operation for.
        codebook = network.codebook.double()
        vectors = F.pixel_shuffle(latents, network.fold).movedim(1, -1).double()
        distances = codebook.square().sum(1) - 2 * vectors @ codebook.T
        found = F.embedding(distances.argmin(-1), network.codebook)
        return F.pixel_unshuffle(found.movedim(-1, 1), network.fold)


class Decoder(nn.Module):
    """Latents ``(N, L, h, w)`` -> images ``(N, 3, H, W)`` in [0, 1]."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder._decode(F.pixel_shuffle(latents, self.autoencoder.fold)).float().clamp(0, 1)


class Sources(nn.Module):
    """Index map ``(N, h, w)`` -> latents ``(N, L, h, w)``."""

    latents: Tensor
    cells: Tensor
    codebook: Tensor | None

    def __init__(self, model: LatentPatch) -> None:
        super().__init__()
        stored = model.bank.latents
        cells = model.bank.grid[0] * model.bank.grid[1]
        self.area = cells
        self.register_buffer("latents", stored.flatten(0, 2))
        self.register_buffer("cells", torch.arange(cells).view(model.bank.grid))
        self.register_buffer("codebook", model.autoencoder.codebook)

    def forward(self, index: Tensor) -> Tensor:
        found = F.embedding(index * self.area + self.cells, self.latents).movedim(-1, 1)
        if self.codebook is None:
            return found.float()
        # As unfolding the codes, looking them up and folding the vectors does; runtimes unfold no integers.
        return F.embedding(found.int(), self.codebook).movedim(-1, 1).flatten(1, 2)


class Blended(nn.Module):
    """Index map ``(N, h, w)`` -> latents ``(N, L, h, w)``, joined where sources meet."""

    down: Tensor
    right: Tensor
    eigenvalues: Tensor

    def __init__(self, sources: Sources, model: LatentPatch) -> None:
        super().__init__()
        self.sources = sources
        solver = Solver.of(*model.bank.grid, STIFFNESS, torch.device("cpu"))
        for name, part in solver._asdict().items():
            self.register_buffer(name, part)

    def forward(self, index: Tensor) -> Tensor:
        return joined(self.sources, index, Solver(self.down, self.right, self.eigenvalues))


class Detailed(nn.Module):
    """Index map ``(N, h, w)`` -> images ``(N, 3, H, W)`` with the details of the sources."""

    details: Tensor
    places: Tensor
    weights: Tensor

    def __init__(self, sources: nn.Module, decoder: Decoder, model: LatentPatch) -> None:
        super().__init__()
        self.sources, self.decoder = sources, decoder
        stored, (rows, columns) = model.bank.details, model.bank.grid
        self.area, self.quarter = 4 * rows * columns, model.autoencoder.spec.downsampling // 2
        self.register_buffer("details", stored.reshape(-1, stored.shape[3] // 4))
        self.register_buffer("places", torch.arange(self.area).view(rows, columns, 4))
        self.register_buffer("weights", fading(self.quarter, torch.device("cpu")) / LEVELS)

    def forward(self, index: Tensor) -> Tensor:
        images: Tensor = self.decoder(self.sources(index))
        parts = [
            F.embedding(sources * self.area + self.places, self.details).float() * weight
            for sources, weight in zip(quarters(index), self.weights, strict=True)
        ]
        return (images + to_pixels(sum(parts[1:], parts[0]), self.quarter)).clamp(0, 1)


class Generate(nn.Module):
    """Noise ``(N, steps)`` -> images ``(N, 3, H, W)`` and index map ``(N, h, w)``."""

    def __init__(self, search: nn.Module, pictures: nn.Module) -> None:
        super().__init__()
        self.search, self.pictures = search, pictures

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        index = self.search(noise)
        return self.pictures(index), index


class Reference(nn.Module):
    """References ``(N, 3, H, W)`` and noise ``(N, steps)`` -> images and index map."""

    mean: Tensor
    basis: Tensor
    unit: Tensor

    def __init__(self, model: LatentPatch, encoder: Encoder, search: nn.Module, pictures: nn.Module) -> None:
        super().__init__()
        self.encoder, self.search, self.pictures = encoder, search, pictures
        self.register_buffer("mean", model.pca.mean.double()[:, None, None])
        self.register_buffer("basis", model.pca.basis.double())
        self.register_buffer("unit", model.bank.key_step.double())
        # As sampling.keys.to_keys() bounds them.
        self.limit = KEY_NORM - 0.5 * model.pca.components**0.5

    def forward(self, reference: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        centred = self.encoder(reference).double() - self.mean
        units = torch.einsum("rl,nlhw->nhwr", self.basis, centred) / self.unit
        norm = units.square().sum(-1, keepdim=True).sqrt()
        keys = (units * (self.limit / norm.clamp(min=self.limit))).round().to(torch.int16)
        index = self.search(noise, keys)
        return self.pictures(index), index


class Edit(nn.Module):
    """Images ``(N, 3, H, W)``, masks ``(N, H, W)`` bool and donors ``(N, 3, H, W)`` -> images: donors' latents where
    half of a cell or more is masked, and where nothing is, the image through the autoencoder.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.side = encoder.autoencoder.spec.downsampling

    def forward(self, image: Tensor, mask: Tensor, donor: Tensor) -> Tensor:
        cells = F.avg_pool2d(mask[:, None].float(), self.side) >= 0.5
        images: Tensor = self.decoder(torch.where(cells, self.encoder(donor), self.encoder(image)))
        return images
