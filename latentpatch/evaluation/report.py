"""Tables and the plot of an evaluation's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io import atomic as files
from .protocol import FLAG_COPIES, FLAG_SHARE
from .sample_set import COPY_SHARE

__all__ = ["frontier", "markdown", "summary"]

Entry = Mapping[str, Any]

#: Figures in the order of columns: heading, how many digits, whether the interval is shown.
_COLUMNS = {
    "distance": ("distance", ".2f", True),
    "kernel": ("kernel distance", ".4f", True),
    "precision": ("precision", ".2f", True),
    "recall": ("recall", ".2f", True),
    "density": ("density", ".2f", True),
    "coverage": ("coverage", ".2f", True),
    "diversity": ("diversity", ".2f", True),
    "largest_share": ("largest share", ".2f", True),
    "largest_region": ("largest region", ".2f", True),
    "sources": ("sources", ".1f", True),
    "regions": ("regions", ".2f", True),
    "nearest": ("nearest source", ".2f", True),
    "copied": ("copies", ".0%", False),
    "seams": ("seams", ".2f", True),
    "psnr": ("PSNR, dB", ".1f", True),
}


def markdown(
    tables: Mapping[str, Sequence[Entry]], recoveries: Sequence[Mapping[str, Any]], notes: Sequence[str]
) -> str:
    """Tables as Markdown.

    Args:
        tables: entries of the log by the table's heading, all of the same conditions.
        recoveries: what the memorisation test found.
        notes: sentences that belong beside every figure.
    """
    conditions = next(entry for rows in tables.values() for entry in rows)["conditions"]
    lines = ["# Evaluation", "", *_preamble(conditions, notes)]
    for heading, rows in tables.items():
        lines += ["", f"## {heading}", "", *_table(rows)]
    if recoveries:
        lines += ["", "## Memorisation", "", *_recoveries(recoveries)]
    return "\n".join(lines) + "\n"


def summary(entry: Entry) -> str:
    """One line about a row."""
    figures, conditions = entry["figures"], entry["conditions"]
    shown = [f"distance {_cell(figures, 'distance')}", f"diversity {_cell(figures, 'diversity')}"]
    if "largest_share" in figures:
        shown.append(f"largest share {_cell(figures, 'largest_share')}")
    counts = f"{len(entry['counts'])} x {entry['counts'][0]} to {conditions['held_out']} held-out"
    flag = ", COPIES ITS SOURCES" if entry["copies"] else ""
    return f"{entry['name']}: {', '.join(shown)}{flag} [{conditions['features']}, {counts}]"


def frontier(entries: Sequence[Entry], path: Path) -> bool:
    """Plot distance against the largest share, a point a row with its intervals, to a PNG file.

    Returns:
        Whether there was something to plot.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib import ticker
    from matplotlib.figure import Figure

    points = [entry for entry in entries if "largest_share" in entry["figures"]]
    if not points:
        return False
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for entry in points:
        share, distance = entry["figures"]["largest_share"], entry["figures"]["distance"]
        colour = "tab:red" if entry["copies"] else "tab:blue"
        axes.errorbar(
            share["value"], distance["value"], _reach(distance), _reach(share), "o", color=colour, markersize=4, lw=1
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
        xlabel="largest share of one source, mean over pictures",
        ylabel=f"Fréchet distance to held-out pictures, {conditions['features']}{reduced}",
        title=f"{conditions['samples']} pictures a set, {conditions['sources']} sources; red rows copy their sources",
    )
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.3, which="both")
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
    return True


def _reach(figure: Mapping[str, Any]) -> list[list[float]] | None:
    """Lengths of error bars below and above."""
    if not figure["interval"]:
        return None
    low, high = figure["interval"]
    return [[max(0.0, figure["value"] - low)], [max(0.0, high - figure["value"])]]


def _preamble(conditions: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    about = conditions
    interval = (
        "In parentheses 95 % bootstrap intervals: each set's pictures drawn again from themselves with replacement, "
        f"{about['resamples']} times (for recall and coverage the held-out pictures), the percentiles centred on the "
        "figure; they say how far chance moves a row, not how other sources or held-out pictures would."
        if about["resamples"]
        else "Without bootstrap intervals."
    )
    fid = "" if about["features"] == "inception" and not about["directions"] else " It is not FID."
    spread = "the sources'" if about["originals"] else "the decoded sources'"
    return [
        f"{about['sources']} sources, {about['held_out']} held-out pictures. {about['seeds']} sets of "
        f"{about['samples']} pictures, seeds 0 to {about['seeds'] * about['samples'] - 1}; figures are means over the "
        f"sets. Autoencoder {about['autoencoder']}, decoded in {about['precision']}; latentpatch {about['version']}.",
        "",
        f"- **Distance**: Fréchet distance of `{about['features']}` features ({_dimensions(about)}) to the held-out "
        f"pictures. It falls with the number of pictures: only equal counts compare.{fid}",
        "- **Kernel distance**: unbiased polynomial MMD² of the same features, in all dimensions; 0 on average for "
        "pictures of the held-out kind.",
        "- **Precision, recall** (k = 3), **density, coverage** (k = 5): of the same features.",
        f"- **Diversity**: mean `{about['perceptual']}` distance of {about['pairs']} random pairs of a set, over that "
        f"of {spread}.",
        "- **Largest share**, **largest region**: of a picture's cells, from its largest source, and in its largest "
        f"connected region from one. **Sources**: that it draws on. **Regions**: connected regions from one source, a "
        "cell: 1 where no two neighbours are from one. **Nearest source**: distance to it in the searched latents, "
        "over the median of held-out pictures'. **Copies**: pictures of which one source gave at least "
        f"{COPY_SHARE:.0%}. **Seams**: what the joined sources differ by along the joints, over their spread.",
        f"- ⚠ marks rows that copy: a mean largest share of {FLAG_SHARE:.0%} or more, or at least {FLAG_COPIES:.0%} "
        "copies.",
        f"- {interval}",
        *(f"- {note}" for note in notes),
    ]


def _dimensions(conditions: Mapping[str, Any]) -> str:
    if conditions["directions"]:
        return f"on the {conditions['directions']} leading directions of the held-out ones"
    return f"all {conditions['dimensions']} dimensions"


def _table(rows: Sequence[Entry]) -> list[str]:
    columns = [name for name in _COLUMNS if any(name in entry["figures"] for entry in rows)]
    # What another part of the log's writer adds is shown as it is.
    columns += sorted({name for entry in rows for name in entry["figures"]} - set(_COLUMNS))
    headings = [_COLUMNS[name][0] if name in _COLUMNS else name.replace("_", " ") for name in columns]
    lines = ["| | pictures | " + " | ".join(headings) + " | sets' distances | sheets | |"]
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
        "Median error of the best copy of a picture: every block from the source nearest there, mean squared error a "
        "latent value. A model that copies holds its sources, so their own error is zero; without itself a source "
        "should be no easier than a held-out picture. KS: Kolmogorov-Smirnov test of sources without themselves "
        "against held-out pictures, p-value by 9,999 permutations.",
        "",
        "| blocks, cells | sources | without themselves | held-out | gap | gap without | KS | p | pictures |",
        "|---" * 9 + "|",
    ]
    for row in found:
        lines.append(
            f"| {row['side']}x{row['side']} | {row['sources']:.4f} | {row['left_out']:.4f} | {row['held_out']:.4f} "
            f"| {row['gap']:.2f} | {row['gap_left_out']:.2f} | {row['ks']:.3f} | {row['p_value']:.4f} "
            f"| {row['counts'][0]}, {row['counts'][1]} |"
        )
    return lines


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
