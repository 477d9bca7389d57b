"""A model behind limits: requests to results, several at a time, without a server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..batching import Costs, Operation
from ..errors import SettingError
from ..evaluation.metrics import psnr
from ..io import images
from ..methods.latent.presets import INPAINTING_SAMPLER, PRESETS
from ..methods.trained.base import TrainedModel
from ..model import LatentPatch
from ..registry import SAMPLERS, settings_record
from ..results import Generation
from ..settings import Settings
from .failures import BUSY, Failure, Refusal, failure_of
from .limits import Limits, check_bytes, check_count, check_operation, check_seconds, count_images, too_much_work
from .picture_tasks import estimate_task, run_task, task_report, tasks_info
from .schema import (
    EditRequest,
    GenerateRequest,
    InfoRequest,
    InpaintRequest,
    PictureRequest,
    ProvenanceRequest,
    ReconstructRequest,
    Request,
    json_schema,
)
from .setting_fields import apply_settings, setting_ranges
from .trained_models import TrainedModels

__all__ = ["Failure", "Limits", "Refusal", "Result", "Service", "drawn_result"]

_TRIES = 3  # to measure the speed; the first one warms up
_TRIED_IMAGES = 4


@dataclass(frozen=True)
class Result:
    """Pictures and their facts.

    Attributes:
        operation: name of the request's operation.
        pictures: ``(N, 3, H, W)`` float32 in [0, 1] on the CPU, of one to four channels for ``picture``; None for
            ``info``.
        report: the facts that all pictures have in common, for JSON.
        records: the facts of each picture.
    """

    operation: str
    pictures: Tensor | None
    report: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)


class Service:
    """A model behind limits.

    Args:
        model: fitted, on its device, with its precision set.
        limits: bounds on the cost of requests and batches.
        trained: models that tasks on pictures may name, by name.

    Attributes:
        costs: seconds and images of the last :meth:`run`, by stage.
    """

    def __init__(
        self,
        model: LatentPatch,
        limits: Limits | None = None,
        trained: Mapping[str, TrainedModel] | None = None,
    ) -> None:
        self.model, self.limits, self.trained = model, limits or Limits(), TrainedModels(trained)
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
        self._deadline, self._is_shared = float("inf"), False
        self._seconds_per_image, self._seconds_per_work = self._measured()

    def run(self, requests: Sequence[Request]) -> list[Result | Failure]:
        """Return the result of each request; no other request changes it, but time may run out for it."""
        self.costs = Costs()
        self._is_shared = len(requests) > 1
        deadline = self._deadline = time.monotonic() + self.limits.max_seconds
        outcomes: list[Result | Failure] = []
        for group in self._groups(requests):
            outcomes += self._run_group(group, deadline)
        return outcomes

    def _groups(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Split requests into consecutive groups of at most ``max_batch_images`` pictures."""
        groups: list[list[Request]] = []
        room = 0
        for request in requests:
            count = count_images(request)
            if not groups or count > room:
                groups.append([])
                room = self.limits.max_batch_images
            groups[-1].append(request)
            room -= count
        return groups

    def _run_group(self, requests: Sequence[Request], deadline: float) -> list[Result | Failure]:
        outcomes: dict[int, Result | Failure] = {}
        operations: dict[int, Operation[Result]] = {}
        left = deadline - time.monotonic()
        for i, request in enumerate(requests):
            try:
                check_operation(request, self.limits)
                seconds = self._estimate(request)
                check_seconds(seconds, self.limits, left)
                left -= seconds
                operations[i] = getattr(self, f"_{request.operation}")(request)
            except Exception as error:
                outcomes[i] = failure_of(error)
        results = self.model.run_together(list(operations.values()), costs=self.costs, check=self._check_time)
        for i, result in zip(operations, results, strict=True):
            outcomes[i] = failure_of(result) if isinstance(result, Exception) else result
            _drop_frames(result)
        return [outcomes[i] for i in range(len(requests))]

    # --- operations --------------------------------------------------------------------------------

    def _generate(self, request: GenerateRequest) -> Operation[Result]:
        result = yield from self.model.generating(
            seeds=request.all_seeds,
            settings=self._settings(request),
            reference=self._optional(request.reference, "reference"),
            where=request.where,
            decoding=request.decoding,
        )
        return drawn_result(self.facts, request.operation, result)

    def _provenance(self, request: ProvenanceRequest) -> Operation[Result]:
        index, settings = yield from self.model.sampling(
            request.all_seeds,
            settings=self._settings(request),
            reference=self._optional(request.reference, "reference"),
            where=request.where,
        )
        bank = self.model.bank
        ids, variants, groups = tuple(bank.ids), bank.variants, bank.shared_numbers
        blank = index.new_zeros((len(index), 3, *self.model.image_size))  # gives the maps their size
        seeds = tuple(request.all_seeds)
        result = Generation(
            blank, index, ids, seeds, SAMPLERS.name_of(settings), settings, variants, groups, bank.detail,
            bank.digest(),
        )  # fmt: skip
        return drawn_result(self.facts, request.operation, result, result.provenance())

    def _inpaint(self, request: InpaintRequest) -> Operation[Result]:
        result = yield from self.model.inpainting(
            self._read(request.image, "image"),
            self._region(request),
            seeds=request.all_seeds,
            settings=self._inpainting_settings(request),
            where=request.where,
            composite=request.composite,
        )
        return drawn_result(self.facts, request.operation, result)

    def _edit(self, request: EditRequest) -> Operation[Result]:
        donor = request.donor if isinstance(request.donor, str) else self._read(request.donor, "donor")
        result = yield from self.model.editing(
            self._read(request.image, "image"), donor, self._region(request), composite=request.composite
        )
        return drawn_result(self.facts, request.operation, result)

    def _reconstruct(self, request: ReconstructRequest) -> Operation[Result]:
        picture = self._read(request.image, "image")
        pictures = (yield from self.model.reconstructing(picture, reduced=request.reduced)).cpu()
        record = {"psnr": round(float(psnr(pictures, picture[None])), 3)}
        return Result(request.operation, pictures, dict(self.facts), [record])

    def _picture(self, request: PictureRequest) -> Operation[Result]:
        start = time.perf_counter()
        result = run_task(request, self.limits, self.trained, self._deadline)
        for costs, value in ((self.costs.seconds, time.perf_counter() - start), (self.costs.images, len(result))):
            costs["task"] = costs.get("task", 0) + value  # type: ignore[assignment]
        pictures = result.provenance() if request.provenance else result.images
        if pictures is None:
            raise SettingError("provenance", True, f"false: {result.method} copies no pixels")
        return Result(request.operation, pictures, task_report(request, result), result.records())
        yield  # an operation without steps

    def _info(self, _: InfoRequest) -> Operation[Result]:
        model = self.model
        attributes = sorted({name for source in model.bank.attributes for name in source})
        sampler = SAMPLERS.of(model.settings)
        return Result(
            "info",
            None,
            {
                **self.facts,
                "grid": list(model.bank.grid),
                "image_size": list(model.image_size),
                "attributes": attributes,
                "groups": model.bank.shared_groups,
                "samplers": sorted(SAMPLERS),
                "settings": sampler.resolve(model.settings, model.context()).record(),
                "sampler": sampler.name,
                "presets": {name: settings_record(settings, model.bank.grid) for name, settings in PRESETS.items()},
                "ranges": setting_ranges(model.bank.grid, model.bank.num_groups),
                "tasks": tasks_info(self.limits),
                "trained": self.trained.info(),
                "limits": asdict(self.limits),
                "schema": json_schema(),
            },
        )
        yield  # an operation without steps

    # --- parts of requests -------------------------------------------------------------------------

    def _read(self, data: bytes, name: str) -> Tensor:
        self._check_bytes(data, name)
        return images.read_image(data, self.model.image_size, name=name, max_pixels=self.limits.max_pixels)

    def _optional(self, data: bytes | None, name: str) -> Tensor | None:
        return None if data is None else self._read(data, name)

    def _region(self, request: InpaintRequest | EditRequest) -> Tensor:
        if request.mask is None:
            return images.parse_box(",".join(map(str, request.box or ())), self.model.image_size)
        self._check_bytes(request.mask, "mask")
        return images.read_mask(request.mask, self.model.image_size, name="mask", max_pixels=self.limits.max_pixels)

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise Refusal(BUSY) if self._is_shared else too_much_work(self.limits)

    def _check_bytes(self, data: bytes, name: str) -> None:
        self._check_time()  # decoding a large picture takes a second, which no estimate includes
        check_bytes(data, name, self.limits)

    def _settings(self, request: GenerateRequest | ProvenanceRequest) -> Settings | None:
        if request.preset is None and request.sampler is None and not request.settings:
            return None
        base = self.model.with_settings(request.sampler) if request.preset is None else PRESETS[request.preset]
        return apply_settings(base, request.settings)

    def _inpainting_settings(self, request: InpaintRequest) -> Settings:
        return apply_settings(self.model.with_settings(INPAINTING_SAMPLER), request.settings)

    # --- time --------------------------------------------------------------------------------------

    def _estimate(self, request: Request) -> float:
        """Return about how many seconds a request takes; refuse one for too many pictures."""
        count, work = check_count(request, self.limits), 0
        if isinstance(request, PictureRequest):
            return estimate_task(request, self.limits, self.trained)
        if isinstance(request, InpaintRequest):
            # All cells may be masked.
            mask = torch.ones(self.model.bank.grid, dtype=torch.bool)
            work = self._work(self._inpainting_settings(request), True, mask)
        elif isinstance(request, (GenerateRequest, ProvenanceRequest)):
            work = self._work(self._settings(request) or self.model.settings, request.reference is not None)
        return count * (self._seconds_per_image + work * self._seconds_per_work)

    def _work(self, settings: Settings, has_reference: bool = False, mask: Tensor | None = None) -> int:
        """Return the search's cost for one image, in compared window cells."""
        sampler, context = SAMPLERS.of(settings), self.model.context(None, has_reference, mask)
        return sampler.work(sampler.resolve(settings, context), context)

    def _measured(self) -> tuple[float, float]:
        """Return the seconds to decode an image, and those of a unit of a search's work; warms up, too."""
        settings = self.model.settings
        decode, search = self._timed(settings)
        if not self._work(settings):  # the model's own sampler compares nothing: another one tells what that takes
            settings = self.model.with_settings(INPAINTING_SAMPLER)
            try:
                search = self._timed(settings)[1]
            except SettingError:  # there are too few sources for it
                search = 0.0
        return decode, search / max(1, self._work(settings))

    def _timed(self, settings: Settings) -> tuple[float, float]:
        """Return the seconds to decode an image, and to search for it: the least of some tries.

        A processor's time is that of this process, however busy the machine is.
        """
        is_on_cpu, tries = self.model.autoencoder.device.type == "cpu", []
        for _ in range(_TRIES):
            costs = Costs(clock=time.process_time if is_on_cpu else time.perf_counter)
            operation = self.model.generating(_TRIED_IMAGES, settings=settings)
            (result,) = self.model.run_together([operation], costs=costs)
            if isinstance(result, Exception):
                raise result
            tries.append(costs.seconds)
        together = _TRIED_IMAGES * (min(torch.get_num_threads(), _TRIED_IMAGES) if is_on_cpu else 1)
        return min(each["decode"] for each in tries) / together, min(each["search"] for each in tries) / together


def drawn_result(facts: dict[str, Any], operation: str, result: Generation, pictures: Tensor | None = None) -> Result:
    """Return a generation as a result.

    Args:
        facts: of the model, which come first in the report.
        operation: name of the request's operation.
        result: the generation.
        pictures: shown in place of its images, such as maps.
    """
    # Positions in a bank of a million mean little to a client: index maps count the sources in use only.
    used = sorted(set(result.index.unique().tolist()) - {-1})
    places = {b: i for i, b in enumerate(used)} | {-1: -1}
    records = [record | {"index": [[places[b] for b in row] for row in record["index"]]} for record in result.records()]
    report = {**facts, **result.settings_record(), "ids": [result.ids[b] for b in used]}
    return Result(operation, (result.images if pictures is None else pictures).cpu(), report, records)


def _drop_frames(outcome: object) -> None:
    """Drop the frames of an exception, which would keep the tensors of its batch until a collection."""
    while isinstance(outcome, BaseException):
        outcome.__traceback__ = None
        outcome = outcome.__cause__ or outcome.__context__
