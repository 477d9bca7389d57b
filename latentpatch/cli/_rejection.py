"""Options by which pictures that the audit would not pass are made anew; importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from . import _options as cli
from ._identity import AuditIdentityOptions, source_descriptors
from .audit import registered_sources

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import LatentPatch
    from ..provenance.registered import RegisteredSources
    from ..results import Generation

__all__ = ["Rejection", "RejectionOptions"]


class Rejection:
    """Generation with rejection, with the limits of a run.

    Args:
        registered, accept: see :func:`~latentpatch.provenance.rejection.generate_audited`.
        identity: record of the test ``accept``.

    Attributes:
        record: the limits, for the report.
    """

    def __init__(
        self,
        registered: RegisteredSources,
        accept: Callable[[Tensor], Tensor] | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        from ..provenance.audit import CopyLimits
        from ..provenance.rejection import ATTEMPTS

        limits = {name: value for name, value in asdict(CopyLimits()).items() if name != "mean_share"}
        self._tests: dict[str, Any] = {"registered": registered, "accept": accept}
        self.record = {"attempts": ATTEMPTS, "limits": limits, **({"identity": identity} if identity else {})}

    def generate(self, model: LatentPatch, **inputs: Any) -> tuple[Generation, list[dict[str, Any]]]:
        """Return the images, and for each the fact whether it passes."""
        from ..provenance.rejection import generate_audited

        made, passes = generate_audited(model, **self._tests, **inputs)
        return made, [{"passes": each} for each in passes.tolist()]


@dataclass(frozen=True, kw_only=True)
class RejectionOptions(AuditIdentityOptions):
    """Options that let pictures which the audit would not pass be made anew."""

    title = "rejection"

    audited: bool = cli.flag(
        "make each picture that audit would not pass anew, from another seed, up to 15 times; with --identity also one "
        "nearer to a source than --identity-limit"
    )

    def check(self) -> None:
        """Refuse a descriptor without the option that uses it."""
        super().check()
        if self.identity is not None and not self.audited:
            raise ValueError("--identity needs --audited")

    def find_rejection(
        self, model: LatentPatch, sources: cli.SourceOptions, context: cli.RunContext
    ) -> Rejection | None:
        """Return how pictures are rejected; None without the option."""
        if not self.audited:
            return None
        descriptor, registered = self.find(), registered_sources(model, sources, context)
        if descriptor is None:
            return Rejection(registered)
        from ..evaluation.identity import low_percentile, nearest, nearest_others
        from ._load import source_files

        known = source_descriptors(model, descriptor, source_files(sources), context)
        limit = self.identity_limit
        if limit is None:
            limit = low_percentile(nearest_others(known, model.bank.group_numbers))
        record = {"descriptor": descriptor.name, "sha256": descriptor.digest, "limit": round(limit, 6)}
        return Rejection(registered, lambda pictures: nearest(descriptor.features(pictures), known)[0] >= limit, record)
