"""Requests to results, many at a time, with no server in sight."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..batching import Costs, Operation
from ..errors import ImageError, ImageTooLargeError
from ..io import images
from ..methods.latent.presets import INPAINTING_SAMPLER, PRESETS
from ..model import LatentPatch
from ..registry import SAMPLERS, settings_record
from ..results import Generation
from ..settings import Settings, declared
from .schema import (
    FIELDS,
    EditRequest,
    GenerateRequest,
    InfoRequest,
    InpaintRequest,
    ProvenanceRequest,
    ReconstructRequest,
    Request,
    SettingsFields,
    json_schema,
)

__all__ = ["BUSY", "Failure", "Limits", "Refusal", "Result", "Service", "check_count", "drawn_result", "failure_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one request, or one batch of them, may cost.

    Attributes:
        max_images: pictures a request may ask for.
        max_batch_images: pictures made together; what a batch asks for beyond goes in further rounds.
        max_pixels: of a picture that is sent.
        max_image_bytes: of the file of a picture that is sent.
        max_seconds: of a batch's work. A request that would take longer by itself is refused with 413, one
            that no longer fits beside those before it with 503.
    """

    max_images: int = 64
    max_batch_images: int = 128
    max_pixels: int = 16 * 2**20
    max_image_bytes: int = 8 * 2**20
    max_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = name != "max_seconds"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise TypeError(f"limits: {name} {value!r}: {'an integer' if whole else 'a number'} is expected")
            if not value > 0:
                raise ValueError(f"limits: {name} {value}: more than 0 is expected")
        object.__setattr__(self, "max_seconds", float(self.max_seconds))


@dataclass(frozen=True)
class Failure:
    """Why a request has no result.

    Attributes:
        status: as of HTTP. 400: not a request; 406: no such form of answer; 413: too large; 422: a value
            that cannot be used; 500: our fault; 503: too busy, try again later.
        code: the reason as a word, for programs.
        message: the reason as a sentence.
        field: of the request; None where it is not one field's fault.
    """

    status: int
    code: str
    message: str
    field: str | None = None


class Refusal(Exception):
    """Carries a failure to where it is collected."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class Result:
    """Pictures and what is known of each.

    Attributes:
        operation: what was asked for.
        pictures: ``(N, 3, H, W)`` float32 in [0, 1] on the CPU; None for ``info``.
        report: the facts they have in common, for JSON.
        records: the facts of each picture.
    """

    operation: str
    pictures: Tensor | None
    report: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)


class Service:
    """A model behind limits.

    Args:
        model: fitted, on its device, with the precision it is to decode in.
        limits: what it may cost.

    Attributes:
        costs: seconds and images of the last :meth:`run`, by stage.
    """

    def __init__(self, model: LatentPatch, limits: Limits | None = None) -> None:
        self.model, self.limits = model, limits or Limits()
        self.costs = Costs()
        identity = model.identity()
        self.facts: dict[str, Any] = {
            "version": __version__,
            "autoencoder": {key: identity[key] for key in ("name", "downsampling", "sha256", "license")},
            "precision": model.precision,
            "components": model.components,
            "sources": len(model.bank.sources),
            "sources_sha256": model.bank.digest(),
        }
        self._deadline = float("inf")
        self._seconds_per_image, self._seconds_per_work = self._measured()

    def run(self, requests: Sequence[Request]) -> list[Result | Failure]:
        """The result of each request: the same alone and in any company, unless it is refused for want of time."""
        self.costs = Costs()
        deadline = self._deadline = time.monotonic() + self.limits.max_seconds
        outcomes: list[Result | Failure] = []
        for group in self._groups(requests):
            outcomes += self._run_group(group, deadline)
        return outcomes

    def _groups(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Consecutive requests, at most so many pictures together."""
        groups: list[list[Request]] = []
        room = 0
        for request in requests:
            count = _count(request)
            if not groups or count > room:
                groups.append([])
                room = self.limits.max_batch_images
            groups[-1].append(request)
            room -= count
        return groups

    def _run_group(self, requests: Sequence[Request], deadline: float) -> list[Result | Failure]:
        outcomes: list[Result | Failure | None] = []
        left = deadline - time.monotonic()
        for request in requests:
            try:
                seconds = self._estimate(request)
                if seconds > self.limits.max_seconds:
                    raise Refusal(
                        Failure(
                            413,
                            "too_much_work",
                            f"this would take some {seconds:.0f} s; at most {self.limits.max_seconds:g} are given",
                        )
                    )
                if seconds > left:
                    raise Refusal(BUSY)
                left -= seconds
                outcomes.append(None)
            except Exception as error:
                outcomes.append(failure_of(error))

        admitted = [request for request, outcome in zip(requests, outcomes, strict=True) if outcome is None]
        done = iter(
            self.model.run_together(
                [self._operation(request) for request in admitted], costs=self.costs, check=self._check_time
            )
        )
        for i, outcome in enumerate(outcomes):
            if outcome is None:
                result = next(done)
                outcomes[i] = failure_of(result) if isinstance(result, Exception) else result
                _forget(result)
        return [outcome for outcome in outcomes if outcome is not None]

    # --- operations --------------------------------------------------------------------------------

    def _operation(self, request: Request) -> Operation[Result]:
        if isinstance(request, InfoRequest):
            return self._info()
        if isinstance(request, ProvenanceRequest):
            return self._provenance(request)
        if isinstance(request, GenerateRequest):
            return self._generate(request)
        if isinstance(request, InpaintRequest):
            return self._inpaint(request)
        if isinstance(request, EditRequest):
            return self._edit(request)
        return self._reconstruct(request)

    def _generate(self, request: GenerateRequest) -> Operation[Result]:
        result = yield from self.model.generating(
            request.all_seeds,
            settings=self._settings(request),
            reference=self._optional(request.reference, "reference"),
            where=request.where,
            decoding=request.decoding,
        )
        return self._result(request.operation, result)

    def _provenance(self, request: ProvenanceRequest) -> Operation[Result]:
        index, settings = yield from self.model.sampling(
            request.all_seeds,
            settings=self._settings(request),
            reference=self._optional(request.reference, "reference"),
            where=request.where,
        )
        ids, variants = tuple(self.model.bank.ids), self.model.bank.variants
        blank = index.new_zeros((len(index), 3, *self.model.image_size))  # gives the maps their size
        seeds = tuple(request.all_seeds)
        result = Generation(blank, index, ids, seeds, SAMPLERS.name_of(settings), settings, variants)
        return self._result(request.operation, result, result.provenance())

    def _inpaint(self, request: InpaintRequest) -> Operation[Result]:
        result = yield from self.model.inpainting(
            self._picture(request.image, "image"),
            self._region(request),
            request.all_seeds,
            settings=self._inpainting_settings(request.settings),
            where=request.where,
            composite=request.composite,
        )
        return self._result(request.operation, result)

    def _edit(self, request: EditRequest) -> Operation[Result]:
        donor = request.donor if isinstance(request.donor, str) else self._picture(request.donor, "donor")
        result = yield from self.model.editing(
            self._picture(request.image, "image"), donor, self._region(request), composite=request.composite
        )
        return self._result(request.operation, result)

    def _reconstruct(self, request: ReconstructRequest) -> Operation[Result]:
        picture = self._picture(request.image, "image")
        pictures = (yield from self.model.reconstructing(picture, reduced=request.reduced)).cpu()
        psnr = float(-10 * torch.log10((pictures - picture).square().mean().clamp(min=1e-10)))
        return Result(request.operation, pictures, dict(self.facts), [{"psnr": round(psnr, 3)}])

    def _info(self) -> Operation[Result]:
        model = self.model
        attributes = sorted({name for known in model.bank.attributes for name in known})
        side = min(model.bank.grid)
        method = SAMPLERS.of(model.settings)
        return Result(
            "info",
            None,
            {
                **self.facts,
                "grid": list(model.bank.grid),
                "image_size": list(model.image_size),
                "attributes": attributes,
                "samplers": sorted(SAMPLERS),
                "settings": method.resolve(model.settings, model.context()).record(),
                "sampler": SAMPLERS.name_of(model.settings),
                "presets": {name: settings_record(settings) for name, settings in PRESETS.items()},
                "ranges": {
                    "patch_size": [1, side],
                    "stride": [1, side],
                    "neighbours": [1, len(model.bank.sources)],
                    "scales": [1, 16],
                    "start_size": [1, side],
                    "sweeps": [1, 16],
                    "max_share": [0, 1],
                    "draws": [1, 64],
                    "switch_cost": [0, 100],
                    "use_cost": [0, 100],
                    "best_of": [1, 16],
                    "strength": [0, 1],
                },
                "limits": asdict(self.limits),
                "schema": json_schema(),
            },
        )
        yield  # an operation without steps

    # --- parts of requests -------------------------------------------------------------------------

    def _picture(self, data: bytes, name: str) -> Tensor:
        self._check_bytes(data, name)
        try:
            return images.read_image(data, self.model.image_size, name=name, max_pixels=self.limits.max_pixels)
        except ImageError as error:
            raise _unusable(error, name) from error

    def _optional(self, data: bytes | None, name: str) -> Tensor | None:
        return None if data is None else self._picture(data, name)

    def _region(self, request: InpaintRequest | EditRequest) -> Tensor:
        if request.mask is None:
            return images.parse_box(",".join(map(str, request.box or ())), self.model.image_size)
        self._check_bytes(request.mask, "mask")
        try:
            return images.read_mask(request.mask, self.model.image_size, name="mask", max_pixels=self.limits.max_pixels)
        except ImageError as error:
            raise _unusable(error, "mask") from error

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise Refusal(BUSY)

    def _check_bytes(self, data: bytes, name: str) -> None:
        self._check_time()  # unpacking a large picture takes a second, which no estimate knows
        most = self.limits.max_image_bytes
        if len(data) > most:
            raise Refusal(Failure(413, "picture_too_large", f"{name}: {len(data)} bytes; at most {most}", name))

    def _settings(self, request: GenerateRequest | ProvenanceRequest) -> Settings:
        if request.preset is not None and request.sampler is not None:
            raise ValueError("preset: it names a sampler with its settings; sampler goes without it")
        base = self.model.with_settings(request.sampler) if request.preset is None else PRESETS[request.preset]
        return _changed(base, request.settings)

    def _inpainting_settings(self, fields: SettingsFields) -> Settings:
        return _changed(self.model.with_settings(INPAINTING_SAMPLER), fields)

    # --- results -----------------------------------------------------------------------------------

    def _result(self, operation: str, result: Generation, pictures: Tensor | None = None) -> Result:
        return drawn_result(self.facts, operation, result, pictures)

    # --- time --------------------------------------------------------------------------------------

    def _estimate(self, request: Request) -> float:
        """Seconds a request will take, about; refuses one that asks for too many pictures."""
        count, work = check_count(request, self.limits), 0
        if isinstance(request, InpaintRequest):
            # All cells may be masked.
            mask = torch.ones(self.model.bank.grid, dtype=torch.bool)
            work = self._work(self._inpainting_settings(request.settings), True, mask)
        elif isinstance(request, (GenerateRequest, ProvenanceRequest)):
            work = self._work(self._settings(request), request.reference is not None)
        return count * (self._seconds_per_image + work * self._seconds_per_work)

    def _work(self, settings: Settings, has_reference: bool, mask: Tensor | None = None) -> int:
        """Return the search's cost for one image, in compared window cells."""
        sampler, context = SAMPLERS.of(settings), self.model.context(None, has_reference, mask)
        return sampler.work(sampler.resolve(settings, context), context)

    def _measured(self) -> tuple[float, float]:
        """Return the seconds to decode an image, and those of a unit of a search's work; warms up, too."""
        for _ in range(2):
            costs = Costs()
            (result,) = self.model.run_together([self.model.generating(range(4))], costs=costs)
            if isinstance(result, Exception):
                raise result
        work = max(1, self._work(self.model.settings, False))
        return costs.seconds["decode"] / 4, costs.seconds["search"] / 4 / work


def drawn_result(facts: dict[str, Any], operation: str, result: Generation, pictures: Tensor | None = None) -> Result:
    """Pictures that were drawn, or others in their place, with what is known of them beside ``facts``."""
    # Positions in a bank of a million mean little to a client: those of the sources used do.
    used = sorted(set(result.index.unique().tolist()) - {-1})
    places = {b: i for i, b in enumerate(used)} | {-1: -1}
    records = [record | {"index": [[places[b] for b in row] for row in record["index"]]} for record in result.records()]
    report = {**facts, **result.settings_record(), "ids": [result.ids[b] for b in used]}
    return Result(operation, (result.images if pictures is None else pictures).cpu(), report, records)


def failure_of(error: Exception) -> Failure:
    """What a client is told of an error."""
    if isinstance(error, Refusal):
        return error.failure
    if isinstance(error, (ValueError, TypeError)):
        name = str(error).partition(" ")[0].rstrip(":")
        return Failure(422, "invalid_value", str(error), name if name in FIELDS else None)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return Failure(503, "out_of_memory", "out of memory; fewer or smaller pictures may fit")
    _log.error("a request failed", exc_info=error)
    return Failure(500, "internal", "this request failed for a reason that is ours; the server's log has it")


def check_count(request: Request, limits: Limits) -> int:
    """Pictures a request decodes.

    Raises:
        Refusal: where they are too many.
    """
    count = _count(request)
    if count > limits.max_images:
        name = "seeds" if getattr(request, "seeds", None) is not None else "n"
        raise Refusal(Failure(413, "too_many_images", f"{name}: {count} pictures; at most {limits.max_images}", name))
    return count


BUSY = Failure(503, "busy", "too much work is waiting; try again in a moment")


def _changed(settings: Settings, changes: SettingsFields) -> Settings:
    given = settings.renamed(changes.model_dump(exclude_none=True))
    foreign = sorted(set(given) - set(declared(type(settings))))
    if foreign:
        raise ValueError(f"settings: {foreign[0]} is not a setting of the sampler {SAMPLERS.name_of(settings)!r}")
    return settings.changed(**given)


def _forget(outcome: object) -> None:
    """Drop the frames an exception holds: through them, and until a collection, it holds its whole batch."""
    while isinstance(outcome, BaseException):
        outcome.__traceback__ = None
        outcome = outcome.__cause__ or outcome.__context__


def _count(request: Request) -> int:
    """Pictures a request decodes."""
    if isinstance(request, (GenerateRequest, ProvenanceRequest, InpaintRequest)):
        return len(request.seeds) if request.seeds is not None else request.n
    return 0 if isinstance(request, InfoRequest) else 1


def _unusable(error: ImageError, name: str) -> Refusal:
    if isinstance(error, ImageTooLargeError):
        return Refusal(Failure(413, "picture_too_large", str(error), name))
    return Refusal(Failure(422, "unusable_picture", str(error), name))
