"""Inversions of pictures as jobs of a server: one at a time, bounded in pictures and seconds."""

from __future__ import annotations

import base64
import secrets
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingError
from ..generators import disagreement_with_generator
from ..io.images import encode_png, read_image
from ..methods.inversion import Generator, InversionSettings, StoredInversion, invert
from .codecs import parse_json
from .failures import BUSY, Failure, Refusal, failure_of, malformed
from .limits import Limits, check_bytes

__all__ = ["Inversions"]

_MAX_PICTURES = 8
_MAX_STEPS = 5000
_MAX_SECONDS = 600.0  # of a job, which then ends with the best so far
_KEPT = 16  # finished jobs whose results can be asked for


@dataclass
class _Job:
    """A job; ``result`` or ``failure`` is there when it is done."""

    total: int
    done: int = 0
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    is_cancelled: bool = False
    thread: threading.Thread = field(default_factory=threading.Thread, repr=False)


class Inversions:
    """Jobs that invert pictures into one generator; one at a time, others are refused.

    Args:
        generator: that pictures are inverted into.
        max_seconds: of a job, which then ends with the best so far.
        limits: on the files and pixels of each picture.
    """

    def __init__(self, generator: Generator, max_seconds: float = _MAX_SECONDS, limits: Limits | None = None) -> None:
        self.generator, self.max_seconds, self.limits = generator, max_seconds, limits or Limits()
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()

    def submit(self, body: bytes) -> dict[str, Any]:
        """Start a job, and return its ``id``.

        Args:
            body: JSON of ``pictures``, a list of files in base64, and perhaps ``settings``, ``seed`` and ``unaligned``.

        Raises:
            Refusal, LatentPatchError, SettingError: for a body that is no such request, or while a job runs.
        """
        try:
            fields = parse_json(body, "the body")
            files = [base64.b64decode(text, validate=True) for text in fields.pop("pictures")]
            settings = InversionSettings(**fields.pop("settings", {}))
            seed, unaligned = fields.pop("seed", 0), fields.pop("unaligned", False)
        except (Refusal, SettingError):
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise malformed(f"the body must be JSON with pictures, settings, seed and unaligned: {error}") from error
        if fields or type(seed) is not int or type(unaligned) is not bool or not 0 <= seed < 2**63:
            raise malformed("the body must be JSON with pictures, settings, seed and unaligned")
        if not 1 <= len(files) <= _MAX_PICTURES:
            raise SettingError("pictures", len(files), f"from 1 to {_MAX_PICTURES}")
        if settings.steps > _MAX_STEPS or settings.starts > 1:
            raise SettingError("settings", settings.record(), f"at most {_MAX_STEPS} steps from one start")
        self._check_idle()
        size, most, targets = self.generator.spec.image_size, self.limits.max_pixels, []
        for i, each in enumerate(files):
            check_bytes(each, f"pictures.{i}", self.limits)
            targets.append(read_image(each, size, name=f"pictures.{i}", max_pixels=most))
        with self._lock:
            self._check_idle()
            name, job = secrets.token_hex(16), _Job(settings.steps)
            for old in list(self._jobs)[: max(0, len(self._jobs) - _KEPT + 1)]:
                del self._jobs[old]
            self._jobs[name] = job
            job.thread = threading.Thread(
                target=self._run, args=(job, torch.stack(targets), settings, seed, unaligned), daemon=True
            )
            job.thread.start()
        return {"id": name, "total": job.total}

    def _check_idle(self) -> None:
        if any(each.thread.is_alive() for each in list(self._jobs.values())):
            raise Refusal(BUSY)

    def report(self, name: str) -> dict[str, Any] | None:
        """Return how far a job is, and its result once it is done; None for an unknown job.

        Raises:
            Refusal: with the failure of a job that failed.
        """
        job = self._jobs.get(name)
        if job is None:
            return None
        if job.failure is not None:
            raise Refusal(job.failure)
        state = "running" if job.result is None else "done"
        return {"state": state, "done": job.done, "total": job.total, **(job.result or {})}

    def cancel(self, name: str) -> bool:
        """End a job with the best so far; return whether there is such a job."""
        job = self._jobs.get(name)
        if job is not None:
            job.is_cancelled = True
        return job is not None

    def close(self) -> None:
        """End all jobs and wait for them."""
        for name, job in list(self._jobs.items()):
            self.cancel(name)
            if job.thread.is_alive():
                job.thread.join()

    def _run(self, job: _Job, targets: torch.Tensor, settings: InversionSettings, seed: int, unaligned: bool) -> None:
        deadline = time.monotonic() + self.max_seconds

        def observe(step: Any) -> None:
            job.done = step.done
            if job.is_cancelled or time.monotonic() > deadline:
                raise KeyboardInterrupt  # the search returns the best so far

        try:
            names = [f"pictures.{i}" for i in range(len(targets))]
            out = [] if unaligned else disagreement_with_generator(self.generator, targets, names)
            if out:
                raise SettingError(out[0].names[0], "elsewhere", "aligned as the generator's own, or unaligned true")
            found = invert(self.generator, targets, settings, seed=seed, observe=observe)
            facts = self.generator.identity()
            stored = StoredInversion(
                tuple(names), found.styles, found.noise, seed, facts, {"settings": settings.record()}
            )
            with tempfile.TemporaryDirectory() as folder:
                stored.write(Path(folder) / "latents.safetensors")
                latents = (Path(folder) / "latents.safetensors").read_bytes()
            job.result = {
                "images": [base64.b64encode(encode_png(each)).decode() for each in found.images],
                "mse": found.error.tolist(),
                "loss": found.loss.tolist(),
                "steps": found.steps,
                "latents": base64.b64encode(latents).decode(),
            }
        except Exception as error:
            job.failure = failure_of(error)
