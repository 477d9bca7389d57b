"""The report of an evaluation: Markdown tables, and a plot of distance against copying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..io.atomic import replacing
from .figures import FLAG_COPIES, FLAG_SHARE
from .sample_set import COPY_SHARE

__all__ = ["frontier", "markdown", "summary"]

Entry = Mapping[str, Any]

_SHOWN_PAIRS = 3  # pairs most alike in the table of a row's

#: Figures in the order of columns: heading, format, whether the interval is shown.
_COLUMNS = {
    "distance": ("distance", ".2f", True),
    "kernel": ("kernel distance", ".4f", True),
    "precision": ("precision", ".2f", True),
    "recall": ("recall", ".2f", True),
    "density": ("density", ".2f", True),
    "coverage": ("coverage", ".2f", True),
    "diversity": ("diversity", ".2f", True),
    "largest_share": ("largest share", ".2f", True),
    "local_share": ("local share", ".2f", True),
    "largest_region": ("largest region", ".2f", True),
    "sources": ("sources", ".1f", True),
    "regions": ("regions", ".2f", True),
    "nearest": ("nearest source", ".2f", True),
    "copied": ("copies", ".0%", False),
    "seams": ("seams", ".2f", True),
    "psnr": ("PSNR, dB", ".1f", True),
    "identity_distance": ("nearest identity", ".3f", True),
    "identity_alike": ("alike", ".3f", True),
    "identity_attack": ("membership AUC", ".3f", True),
}


def markdown(
    tables: Mapping[str, Sequence[Entry]],
    recoveries: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    identity: Mapping[str, Any] | None = None,
) -> str:
    """Return tables as Markdown.

    Args:
        tables: entries of the log by the table's heading, all of the same conditions.
        recoveries: results of the memorization test.
        notes: sentences to print below the definitions.
        identity: what identities are compared with, of :meth:`.Evaluation.identity_reference`.
    """
    conditions = next(entry for rows in tables.values() for entry in rows)["conditions"]
    lines = ["# Evaluation", "", *_preamble(conditions, notes)]
    for heading, rows in tables.items():
        lines += ["", f"## {heading}", "", *_table(rows)]
    if recoveries:
        lines += ["", "## Memorization", "", *_recoveries(recoveries)]
    if identity is not None:
        rows = [entry for some in tables.values() for entry in some]
        lines += ["", "## Identity", "", *_identities(identity, conditions, rows)]
    return "\n".join(lines) + "\n"


def summary(entry: Entry) -> str:
    """Return one line about a row."""
    figures, conditions = entry["figures"], entry["conditions"]
    shown = [f"distance {_cell(figures, 'distance')}", f"diversity {_cell(figures, 'diversity')}"]
    if "largest_share" in figures:
        shown.append(f"largest share {_cell(figures, 'largest_share')}")
    if "identity_alike" in figures:
        shown.append(f"alike a source by {conditions['identity']} {_cell(figures, 'identity_alike')}")
    counts = f"{len(entry['counts'])} x {entry['counts'][0]} to {conditions['held_out']} held-out"
    flag = ", COPIES ITS SOURCES" if entry["copies"] else ""
    return f"{entry['name']}: {', '.join(shown)}{flag} [{conditions['features']}, {counts}]"


def frontier(entries: Sequence[Entry], path: Path) -> bool:
    """Plot distance against the largest share, a point with its intervals for each row, to a PNG file.

    Returns:
        Whether there was a row to plot.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    try:
        from matplotlib import ticker
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "bench", path.name) from error
    points = [entry for entry in entries if "largest_share" in entry["figures"]]
    if not points:
        return False
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for entry in points:
        share, distance = entry["figures"]["largest_share"], entry["figures"]["distance"]
        color = "tab:red" if entry["copies"] else "tab:blue"
        axes.errorbar(
            share["value"], distance["value"], _reach(distance), _reach(share), "o", color=color, markersize=4, lw=1
        )
        at_edge = share["value"] > 0.8
        axes.annotate(
            entry["name"],
            (share["value"], distance["value"]),
            textcoords="offset points",
            xytext=(-5 if at_edge else 5, 4),
            fontsize=7,
            ha="right" if at_edge else "left",
        )
    conditions = points[0]["conditions"]
    reduced = f", {conditions['directions']} directions" if conditions["directions"] else ""
    axes.set(
        xlim=(0, 1.02),
        yscale="log",
        xlabel="largest share of one source, mean over images",
        ylabel=f"Fréchet distance to held-out images, {conditions['features']}{reduced}",
        title=f"{conditions['samples']} images a set, {conditions['sources']} sources; red rows copy their sources",
    )
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.3, which="both")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
    return True


def _reach(figure: Mapping[str, Any]) -> list[list[float]] | None:
    """Return the lengths of the error bars below and above a value."""
    if not figure["interval"]:
        return None
    low, high = figure["interval"]
    return [[max(0.0, figure["value"] - low)], [max(0.0, high - figure["value"])]]


def _preamble(about: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    interval = (
        "Parentheses hold 95 % bootstrap intervals: each set's images (for recall and coverage the held-out images) "
        f"are resampled with replacement {about['resamples']} times, and the percentiles are centered on the figure. "
        "They show the effect of the sampled images, not of other sources or other held-out images."
        if about["resamples"]
        else "No bootstrap intervals."
    )
    fid = "" if about["features"] == "inception" and not about["directions"] else " It is not FID."
    pairs = "sources" if about["originals"] else "decoded sources"
    return [
        f"{about['sources']} sources, {about['held_out']} held-out images. {about['seeds']} sets of "
        f"{about['samples']} images, seeds 0 to {about['seeds'] * about['samples'] - 1}; figures are means over the "
        f"sets. Autoencoder {about['autoencoder']}, decoded in {about['precision']}; latentpatch {about['version']}.",
        "",
        f"- **Distance**: Fréchet distance of `{about['features']}` features ({_dimensions(about)}) to the held-out "
        f"images. It falls with the number of images: compare equal counts only.{fid}",
        "- **Kernel distance**: unbiased polynomial MMD² of the same features, in all dimensions; 0 on average for "
        "images of the held-out kind.",
        "- **Precision, recall** (k = 3), **density, coverage** (k = 5): of the same features.",
        f"- **Diversity**: mean `{about['perceptual']}` distance of {about['pairs']} random pairs of a set, relative "
        f"to that of {pairs}.",
        "- **Largest share**: share of an image's cells from its largest source. **Local share**: the same, where a "
        "cell counts as much as the mean source has detail there. **Largest region**: share in the "
        "largest connected region from one source. **Sources**: number of sources of an image. **Regions**: connected "
        "regions from one source, per cell; 1 where no two neighbors have the same source. **Nearest source**: "
        "distance to it in the searched latents, relative to the median of held-out images. **Copies**: images with at "
        f"least {COPY_SHARE:.0%} of their cells from one source. **Seams**: difference of the two sources along the "
        "seams, relative to the sources' variance.",
        f"- ⚠ marks rows that copy: a mean largest share of {FLAG_SHARE:.0%} or more, or at least {FLAG_COPIES:.0%} "
        "copies.",
        f"- {interval}",
        *(f"- {note}" for note in notes),
    ]


def _dimensions(conditions: Mapping[str, Any]) -> str:
    if conditions["directions"]:
        return f"on the {conditions['directions']} leading directions of the held-out images"
    return f"all {conditions['dimensions']} dimensions"


def _table(rows: Sequence[Entry]) -> list[str]:
    columns = [name for name in _COLUMNS if any(name in entry["figures"] for entry in rows)]
    # Figures without a column of their own follow under their names.
    columns += sorted({name for entry in rows for name in entry["figures"]} - set(_COLUMNS))
    headings = [_COLUMNS[name][0] if name in _COLUMNS else name.replace("_", " ") for name in columns]
    lines = ["| | images | " + " | ".join(headings) + " | sets' distances | sheets | |"]
    lines.append("|---" * (len(columns) + 5) + "|")
    for entry in rows:
        figures = entry["figures"]
        each = figures["distance"]["sets"]
        span = f"{min(each):.2f} to {max(each):.2f}" if len(each) > 1 else ""
        cells = [_cell(figures, name) for name in columns]
        counts = f"{len(entry['counts'])} x {entry['counts'][0]}"
        flag = "⚠ copies" if entry["copies"] else ""
        sheets = ", ".join(f"[{kind}]({path})" for kind, path in entry["sheets"].items())
        lines.append("| " + " | ".join([_escaped(entry["name"]), counts, *cells, span, sheets, flag]) + " |")
    return lines


def _cell(figures: Mapping[str, Any], name: str) -> str:
    if name not in figures:
        return ""
    _, digits, with_interval = _COLUMNS.get(name, ("", ".2f", True))
    value, interval = figures[name]["value"], figures[name]["interval"]
    if not interval or not with_interval or interval[0] == interval[1]:
        return format(value, digits)
    return f"{value:{digits}} ({interval[0]:{digits}} to {interval[1]:{digits}})"


def _recoveries(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "Median error of the best copy of an image, which takes each block from the source nearest there: mean squared "
        "error per latent value. A model that copies stores its sources, so their own error is zero. Without itself, a "
        "source should be no easier than a held-out image. KS: Kolmogorov-Smirnov test of sources without themselves "
        "against held-out images, p-value by 9,999 permutations.",
        "",
        "| blocks, cells | sources | without themselves | held-out | gap | gap without | KS | p | images |",
        "|---" * 9 + "|",
    ]
    for row in found:
        lines.append(
            f"| {row['side']}x{row['side']} | {row['sources']:.4f} | {row['left_out']:.4f} | {row['held_out']:.4f} "
            f"| {row['gap']:.2f} | {row['gap_left_out']:.2f} | {row['ks']:.3f} | {row['p_value']:.4f} "
            f"| {row['counts'][0]}, {row['counts'][1]} |"
        )
    return lines


def _identities(about: Mapping[str, Any], conditions: Mapping[str, Any], rows: Sequence[Entry]) -> list[str]:
    baseline = _cell({"identity_attack": about["baseline"]}, "identity_attack")
    held_out, sources = about["held_out"], about["sources"]
    lines = [
        f"By the distance of `{conditions['identity']}` descriptors, which is small for pictures that the descriptor "
        "takes for the same person or object. It says nothing of what the descriptor does not see.",
        "",
        "- **Nearest identity**: mean distance to the nearest source. **Alike**: share of images nearer to a source "
        f"than the 1st percentile of held-out images, {about['limit']:.3f}; images of nobody among the sources have "
        f"{about['chance']:.3f} on average. **Identity below D**: share nearer than D.",
        "- **Membership AUC**: chance that a source is nearer to its nearest image of a set than a held-out picture is "
        "(Webster et al. 2021); 0.5 where images say nothing of who was a source. It grows with the number of images. "
        f"Half of the held-out pictures in place of images, against the other half: {baseline}.",
        "- Intervals of the AUC also draw sources and held-out pictures again. A share of 0 or 1 has the exact "
        "binomial bound.",
        "",
        "| nearest source of | least | 1st percentile | median | mean | pictures |",
        "|---|---|---|---|---|---|",
    ]
    kinds = [("held-out pictures", held_out, about["counts"][1]), ("sources, without themselves", sources, None)]
    for name, figures, count in kinds:
        if figures is not None:
            cells = [f"{figures[key]:.3f}" for key in ("least", "percentile", "median", "mean")]
            lines.append(f"| {name} | {' | '.join(cells)} | {count or about['counts'][0]} |")
    lines += ["", "| row | most alike: image of its set, source, distance |", "|---|---|"]
    for entry in rows:
        shown = [
            f"{pair['set']}/{pair['number']}, {_escaped(pair['source'])}, {pair['distance']:.3f}"
            for pair in entry["alike"][:_SHOWN_PAIRS]
        ]
        lines.append(f"| {_escaped(entry['name'])} | {'; '.join(shown)} |")
    return lines


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
