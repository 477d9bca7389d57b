"""``latentpatch audit``: look for copies of sources among pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from . import _options as cli
from ._identity import AuditIdentityOptions, audit_identities

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import LatentPatch
    from ..provenance.audit import CopyLimits
    from ..provenance.copying import Copying
    from ..provenance.registered import Registered, RegisteredSources
    from ._records import RecordedMaps

__all__ = ["COPIES_FOUND", "registered_sources", "run"]

#: Exit status where copies were found: neither that of an error (1) nor of unusable arguments (2).
COPIES_FOUND = 3

_BATCH_IMAGES = 16
_SHEET_PAIRS = 12
_MAX_FAILURES_SHOWN = 10
_REGISTERED_SOURCES = 32  # sources that are registered to the others, for comparison
_NOT_COVERED = (
    "parts of a picture below the limits, such as a face on another ground",
    "photographic negatives",
    "larger shifts, zooms, rotations and distortions",
)
_NO_IDENTITY = "whom a picture shows (--identity)"


@dataclass(frozen=True, kw_only=True)
class AuditOptions(cli.CommandOptions):
    output: Path = cli.output_option()
    held_out: Path | None = cli.option(Path, "PICTURES", "pictures like the sources, none of them, to compare with")
    max_mean_share: float = cli.option(
        cli.number(0, 1), "SHARE", "share of a picture's largest source, on average", default=0.5, section="limits"
    )
    max_share: float = cli.option(
        cli.number(0, 1), "SHARE", "share of the largest source of any picture", default=0.9, section="limits"
    )
    max_local_share: float = cli.option(
        cli.number(0, 1),
        "SHARE",
        "share of the largest source of any picture, cells weighted by where the sources have detail in common",
        default=0.7,
        section="limits",
    )
    min_relative: float = cli.option(
        cli.number(0, 1),
        "RATIO",
        "distance to the nearest source over that to the next nearest, of any picture",
        default=0.6,
        section="limits",
    )
    min_registered: float = cli.option(
        cli.number(0, 1),
        "RATIO",
        "the same after registration, which finds what is cropped, rotated, moved or mirrored",
        default=0.55,
        section="limits",
    )
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    pictures: Path = cli.argument("PICTURES", f"the pictures: {cli.PICTURES_HELP}")
    identity: AuditIdentityOptions = cli.group(AuditIdentityOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))


@cli.command(
    AuditOptions,
    "audit PICTURES out -o audit",
    "audit people.safetensors out --held-out OTHERS -o audit",
    exit_status=lambda report: 0 if report["verdict"] == "pass" else COPIES_FOUND,
)
def run(options: AuditOptions, context: cli.RunContext) -> dict[str, Any]:
    """Audit pictures, and write the report with a sheet of the closest pairs."""
    from ..io import atomic, images
    from ..io.listing import list_images
    from ..provenance.audit import CopyLimits, audit_report
    from ..provenance.beside import MIN_SAME_CELLS
    from ..provenance.copying import copying_of_sources
    from ._load import open_model, skipped_files, source_files
    from ._output import write_json
    from ._records import read_note, recorded_maps, without_sheets

    limits = CopyLimits(
        options.max_mean_share,
        options.max_share,
        options.max_local_share,
        options.min_relative,
        options.min_registered,
    )
    listed = list_images(options.pictures)
    listed_beside = [] if options.held_out is None else list_images(options.held_out)
    descriptor = options.identity.find()
    with atomic.staged(options.output) as staging:
        sources = options.sources.as_recorded(read_note(options.pictures))
        model = open_model(sources, context, options.output)
        paths, skipped = without_sheets(options.pictures, listed, model.bank.grid)
        recorded = recorded_maps(options.pictures, paths, model)
        compared = registered_sources(model, options.sources, context)
        figures, registered = _measure(model, compared, paths, context, "pictures")
        # A record that few cells confirm is of another picture.
        agreement = (recorded.index == figures.index).flatten(1).float().mean(1)
        figures = figures.with_index(
            recorded.index, recorded.is_recorded & (agreement >= MIN_SAME_CELLS), model.bank.detail
        )
        held_out = None
        if options.held_out is None:
            reference, reference_registered = copying_of_sources(model), _sources_registered(compared)
        else:
            held_out, skipped_beside = without_sheets(options.held_out, listed_beside, model.bank.grid)
            reference, reference_registered = _measure(model, compared, held_out, context, "held out")
            skipped += skipped_beside
        is_unique = len({path.name for path in paths}) == len(paths)
        names = [path.name if is_unique else str(path) for path in paths]
        report: dict[str, Any] = {
            "command": "audit",
            "version": __version__,
            "autoencoder": model.identity(),
            "sources": len(model.bank.sources),
            "groups": model.bank.num_groups,
            "sources_sha256": model.bank.digest(),
            "pictures": len(paths),
            "reference_is": "the sources, each without itself" if held_out is None else "held-out pictures",
            **audit_report(figures, names, reference, limits, registered, reference_registered),
            "covered": _covered(figures, recorded, agreement, names)
            | {
                "registered": _reach(len(compared)),
                "skipped": skipped,
            },
            "not_covered": [*_NOT_COVERED, *([_NO_IDENTITY] if descriptor is None else [])],
            "skipped": skipped_files(model),
        }
        if held_out is not None:
            beyond = limits.failures(reference, [str(path) for path in held_out], reference_registered)
            report["held_out_failures"] = [failure for failure in beyond if failure["file"] is not None]
        both = zip(figures.records(model.bank.sources), registered.records(model.bank.sources), strict=True)
        rows = [row | placed for row, placed in both]
        report["images"] = [{"file": name, **row} for name, row in zip(names, rows, strict=True)]
        closest, nearest = _closest_pairs(figures, registered, limits)
        report["pairs"] = [
            {"file": names[i], "nearest": model.bank.sources[b]} for i, b in zip(closest, nearest, strict=True)
        ]
        if descriptor is not None:
            originals, limit = source_files(options.sources), options.identity.identity_limit
            report["identity"], beyond, sheet = audit_identities(
                model, descriptor, paths, names, held_out, originals, limit, context
            )
            report["failures"] += beyond
            report["verdict"] = "fail" if report["failures"] else "pass"
            images.write_image(staging / "identities.png", sheet)
        pictures = [paths[i] for i in closest]
        images.write_image(staging / "pairs.png", _pairs_sheet(model, pictures, nearest, options.sources))
        write_json(staging / "audit.json", report)
    _summarize(options, context, report)
    return report


def _measure(
    model: LatentPatch, compared: RegisteredSources, paths: Sequence[Path], context: cli.RunContext, name: str
) -> tuple[Copying, Registered]:
    """Return how near pictures are to sources, at the same place and after registration."""
    import torch

    from ..io.images import read_image
    from ..provenance.audit import concatenate
    from ..provenance.copying import copying
    from ..provenance.registered import Registered

    parts, registered = [], []
    with context.progress(name=name, total=len(paths)) as bar:
        for first in range(0, len(paths), _BATCH_IMAGES):
            batch = torch.stack([read_image(path, model.image_size) for path in paths[first : first + _BATCH_IMAGES]])
            parts.append(copying(model, batch))
            registered.append(compared.compare(batch))
            bar.update(len(batch))
    return concatenate(parts), Registered.concatenate(registered)


def registered_sources(model: LatentPatch, sources: cli.SourceOptions, context: cli.RunContext) -> RegisteredSources:
    """Return the sources to be registered: their files, or what the bank decodes to."""
    from ..provenance.registered import RegisteredSources

    with context.progress(name="sources", total=len(model.bank.sources)) as bar:
        return RegisteredSources(_source_pictures(model, sources, bar.update), model.bank.group_numbers)


def _source_pictures(
    model: LatentPatch, sources: cli.SourceOptions, update: Callable[[int], object]
) -> Iterator[Tensor]:
    """Yield the pictures of the sources in batches, without those of their augmented copies."""
    import torch

    from ..io.images import read_image
    from ._load import source_files

    files, names = source_files(sources), model.bank.sources
    for first in range(0, len(names), _BATCH_IMAGES):
        chosen = range(first, min(first + _BATCH_IMAGES, len(names)))
        if files:
            yield torch.stack([read_image(files[names[number]], model.image_size) for number in chosen])
        else:
            index = torch.tensor(chosen, device=model.bank.keys.device) * model.bank.variants.count
            yield model.decode(index[:, None, None].expand(-1, *model.bank.grid))
        update(len(chosen))


def _sources_registered(compared: RegisteredSources) -> Registered:
    """Return some of the sources, evenly spread, registered to the others."""
    import torch

    count = min(len(compared), _REGISTERED_SOURCES)
    return compared.compare_sources(torch.arange(count) * len(compared) // count)


def _closest_pairs(figures: Copying, registered: Registered, limits: CopyLimits) -> tuple[list[int], list[int]]:
    """Return the pictures nearest to a source, by the figure that is nearer to its limit, and their sources."""
    same_place, placed = figures.relative * limits.registered, registered.relative * limits.relative
    closest = same_place.minimum(placed).argsort(stable=True)[:_SHEET_PAIRS]
    nearest = registered.source[:, 0].where(placed < same_place, figures.nearest)
    return closest.tolist(), nearest[closest].tolist()


def _covered(figures: Copying, recorded: RecordedMaps, agreement: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return whose maps are exact, and which records were not believed, for the report."""
    doubtful = (recorded.is_recorded & ~figures.exact).nonzero()[:, 0].tolist()
    return {
        "exact_maps": int(figures.exact.sum()),
        "estimated_maps": int((~figures.exact).sum()),
        "records_not_believed": [{"file": names[i], "agreement": round(float(agreement[i]), 4)} for i in doubtful],
        "notes": recorded.notes,
    }


def _reach(sources: int) -> dict[str, Any]:
    """Return what registration searches, for the report."""
    from ..provenance import placement, registered

    return {
        "sources": sources,
        "mirrored": True,
        "zoom": [round(1 / registered.MAX_ZOOM, 4), registered.MAX_ZOOM],
        "rotation_degrees": registered.MAX_ROTATION,
        "shift": registered.MAX_SHIFT,
        "stretch": placement.MAX_STRETCH,
        "least_overlap": placement.MIN_OVERLAP,
    }


def _pairs_sheet(
    model: LatentPatch, paths: Sequence[Path], nearest: Sequence[int], sources: cli.SourceOptions
) -> Tensor:
    """Return a sheet of pictures, each left of its nearest source."""
    import torch

    from ..io.images import contact_sheet, read_image
    from ..provenance.explanation import source_pictures
    from ._load import source_files

    pictures = [read_image(path, model.image_size) for path in paths]
    positions = [number * model.bank.variants.count for number in nearest]
    beside = source_pictures(model, positions, source_files(sources))
    both = [each for pair in zip(pictures, beside, strict=True) for each in pair]
    return contact_sheet(torch.stack(both), columns=2 * min(3, len(paths)))


def _summarize(options: AuditOptions, context: cli.RunContext, report: dict[str, Any]) -> None:
    failures, covered = report["failures"], report["covered"]
    share, local, relative = (report["figures"][name] for name in ("largest_share", "local_share", "relative"))
    context.say(
        f"{report['verdict']}: {cli.plural(report['pictures'], 'picture')}; largest share {share['mean']:.0%} on "
        f"average, {share['most']:.0%} at most; of the detail {local['mean']:.0%} and {local['most']:.0%}; nearest "
        f"source at {relative['least']:.2f} of the next ones at least, "
        f"{report['figures']['registered']['least']:.2f} after registration"
    )
    for failure in failures[:_MAX_FAILURES_SHOWN]:
        figure = failure["figure"].replace("_", " ")
        context.say(
            f"  {failure['file'] or 'on average'}: {figure} {failure['value']:.2f}, limit {failure['limit']:.2f}"
        )
    if len(failures) > _MAX_FAILURES_SHOWN:
        context.say(f"  and {len(failures) - _MAX_FAILURES_SHOWN} more: {options.output}/audit.json")
    if report.get("held_out_failures"):
        context.say(f"  held-out pictures that look like copies themselves: {len(report['held_out_failures'])}")
    reach = covered["registered"]
    context.say(
        f"  covered: {covered['exact_maps']} exact and {covered['estimated_maps']} estimated maps; registration to "
        f"{cli.plural(reach['sources'], 'source')} and their mirror images, shifts to {reach['shift']:.1%} of a side, "
        f"zooms to {reach['zoom'][1]:g}, rotations to {reach['rotation_degrees']:g} degrees"
    )
    context.say(f"  not covered: {'; '.join(report['not_covered'])}")
    for entry in covered["skipped"]:
        context.say(f"  skipped: {entry['file']}: {entry['reason']}")
    if covered["records_not_believed"]:
        from ..provenance.beside import MIN_SAME_CELLS

        context.say(
            f"  recorded maps that fewer than {MIN_SAME_CELLS:.0%} of the cells confirm, which were estimated anew: "
            f"{len(covered['records_not_believed'])}"
        )
    for note in covered["notes"]:
        context.say(f"  {note}")
