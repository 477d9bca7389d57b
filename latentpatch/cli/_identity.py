"""Options of identity descriptors, and the audit by them; importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _options as cli
from ._parsing import OptionGroup

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.features import Extractor
    from ..model import LatentPatch

__all__ = [
    "AuditIdentityOptions",
    "EvaluateIdentityOptions",
    "IdentityOptions",
    "audit_identities",
    "source_descriptors",
]

_BATCH_IMAGES = 32
_PAIRS = 12  # pairs in the report and on the sheet
_PAIR_COLUMNS = 3
_MAX_DISTANCE = 1e6


@dataclass(frozen=True, kw_only=True)
class IdentityOptions(OptionGroup):
    """A descriptor of identity."""

    title = "identity"

    identity: str | None = cli.option(
        str,
        "NAME",
        "compare identities by FILE.onnx, MODULE:CALLABLE or FILE.py[:CALLABLE], which is run (no identities)",
    )
    identity_input: tuple[str, ...] = cli.option(
        str,
        "KEY=VALUE",
        "input of FILE.onnx: size, layout, order, mean, std, crop, unit (from the graph)",
        nargs="+",
        default=(),
    )

    def check(self) -> None:
        """Refuse an input without an ONNX file."""
        if self.identity_input and not (self.identity or "").endswith(".onnx"):
            raise ValueError("--identity-input needs --identity FILE.onnx")

    def find(self) -> Extractor | None:
        """Return the descriptor; None without the option."""
        if self.identity is None:
            return None
        from ..evaluation.descriptors import find_descriptor, parse_onnx_input

        return find_descriptor(self.identity, parse_onnx_input(self.identity_input) if self.identity_input else None)


@dataclass(frozen=True, kw_only=True)
class AuditIdentityOptions(IdentityOptions):
    """A descriptor of identity, and the limit of an audit by it."""

    identity_limit: float | None = cli.option(
        cli.number(0, _MAX_DISTANCE),
        "DISTANCE",
        "distance of the identities of any picture and the nearest source (from --held-out, or from the sources)",
        section="limits",
    )

    def check(self) -> None:
        """Refuse a limit or an input without a descriptor that takes it."""
        super().check()
        if self.identity_limit is not None and self.identity is None:
            raise ValueError("--identity-limit needs --identity")


@dataclass(frozen=True, kw_only=True)
class EvaluateIdentityOptions(IdentityOptions):
    """A descriptor of identity, and distances whose shares are figures."""

    identity_below: tuple[float, ...] = cli.option(
        cli.number(0, _MAX_DISTANCE),
        "DISTANCE",
        "also the shares of pictures nearer to a source than these distances of identities",
        nargs="+",
        default=(),
    )

    def check(self) -> None:
        """Refuse distances or an input without a descriptor that takes them."""
        super().check()
        if self.identity_below and self.identity is None:
            raise ValueError("--identity-below needs --identity")


def source_descriptors(
    model: LatentPatch, descriptor: Extractor, originals: dict[str, Path], context: cli.RunContext
) -> Tensor:
    """Return the descriptors ``(B, D)`` of a model's sources: of their files, by id, or else of the decoded sources."""
    count = len(model.bank.sources)
    return _described(descriptor, "identities of sources", count, lambda i: _source(model, i, originals), context)


def _source(model: LatentPatch, number: int, originals: dict[str, Path]) -> Tensor:
    """Return the picture of a source ``(3, H, W)``, of its file where there is one."""
    from ..provenance.explanation import source_pictures

    return source_pictures(model, [number * model.bank.variants.count], originals)[0]


def _described(
    descriptor: Extractor, name: str, count: int, picture: Callable[[int], Tensor], context: cli.RunContext
) -> Tensor:
    """Return the descriptors of pictures, read a few at a time."""
    import torch

    parts = []
    with context.progress(name=name, total=count) as bar:
        for first in range(0, count, _BATCH_IMAGES):
            batch = [picture(i) for i in range(first, min(first + _BATCH_IMAGES, count))]
            parts.append(descriptor.features(torch.stack(batch)))
            bar.update(len(batch))
    return torch.cat(parts)


def audit_identities(
    model: LatentPatch,
    descriptor: Extractor,
    pictures: Sequence[Path],
    names: Sequence[str],
    held_out: Sequence[Path] | None,
    originals: dict[str, Path],
    limit: float | None,
    context: cli.RunContext,
) -> tuple[dict[str, Any], list[dict[str, Any]], Tensor]:
    """Audit pictures by a descriptor of identity.

    Args:
        model: a fitted model.
        descriptor: of identity.
        pictures: files of the pictures.
        names: their names in the report.
        held_out: files of pictures that are no sources; without them sources are compared with the other sources.
        originals: files of the sources by id; without one a decoded source stands for it.
        limit: distance below which a picture fails; None for the one from the reference.
        context: of the run.

    Returns:
        The record for the report, the failures, and a sheet ``(3, H, W)`` of the pictures most alike a source, each
        left of that source.
    """
    import torch

    from ..evaluation.identity import nearest, nearest_others
    from ..evaluation.identity_audit import audit_identity
    from ..io.images import contact_sheet, read_image
    from ..provenance.audit import distribution

    def source(number: int) -> Tensor:
        return _source(model, number, originals)

    def described_files(name: str, paths: Sequence[Path]) -> Tensor:
        return _described(descriptor, name, len(paths), lambda i: read_image(paths[i], model.image_size), context)

    made = described_files("identities", pictures)
    known = source_descriptors(model, descriptor, originals, context)
    distance, number = nearest(made, known)
    if held_out is None:
        reference = nearest_others(known, model.bank.group_numbers)
    else:
        reference, _ = nearest(described_files("identities held out", held_out), known)
    found = audit_identity(distance, reference, limit)
    order = distance.argsort(stable=True).tolist()
    closest = order[:_PAIRS]
    pairs = [
        {"file": names[i], "source": model.bank.sources[int(number[i])], "distance": round(float(distance[i]), 6)}
        for i in order
        if found.is_alike[i] or found.is_single[i] or i in closest
    ]
    record = {
        "descriptor": descriptor.name,
        "sha256": descriptor.digest,
        "input": getattr(descriptor.function, "record", None),
        "originals": all(each in originals for each in model.bank.sources),
        "figures": distribution(distance, 6),
        "reference": distribution(reference, 6),
        **found.record(),
        "pairs": pairs,
    }
    shown = [each for i in closest for each in (read_image(pictures[i], model.image_size), source(int(number[i])))]
    sheet = contact_sheet(torch.stack(shown), columns=2 * min(_PAIR_COLUMNS, len(closest)))
    first = pairs[0]
    beyond = ", more than chance gives" if found.too_many else ""
    context.say(
        f"identity: {cli.plural(int(found.is_alike.sum()), 'picture')} of {len(pictures)} nearer to a source than "
        f"{found.alike_limit:.2f}{beyond} (at most {found.most_by_chance}); nearest are {first['file']} and source "
        f"{first['source']} at {first['distance']:.2f}"
    )
    return record, found.failures(list(names)), sheet
