"""Make all tables and pictures of the documents.

    python benchmarks/results.py SOURCES HELD_OUT -o OUT --features YARDSTICK.py [--only NAME ...]

SOURCES and HELD_OUT are folders or lists of pictures.
Each part can be made alone. Models, evaluations and pictures are written to OUT, and reused from there; pictures of
the documents to docs/images, and tables into the documents, between ``<!-- table NAME -->`` and ``<!-- end -->``. On
two cores the whole takes some hours, nearly all of them in taef2's decoder.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from latentpatch import LatentPatch
from latentpatch.io.images import identifiers, list_images, read_image, write_image

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "benchmarks" / "tables"
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples" / "portraits"
NUM_VARIED = 56  # sources that differ as much as possible

#: Rows with a label in the plot of the frontier, to the right of the point (1) or to the left (-1).
LABEL_SIDES = {
    "balanced (default)": -1,
    "faithful": 1,
    "diverse": 1,
    "paper": 1,
    "diffusion": 1,
    "max_share 0.2": 1,
    "faithful, max_share 0.5": -1,
    "one side": 1,
}

COLUMNS = {
    "distance": "distance",
    "diversity": "diversity",
    "largest_share": "largest share",
    "largest_region": "largest region",
    "sources": "sources",
    "nearest": "nearest",
    "precision": "precision",
    "recall": "recall",
    "seams": "seams",
    "identity_below_0.25": "below 0.25",
    "identity_below_0.3": "below 0.30",
}


FIGURES = tuple(COLUMNS)[:-2]  # those that need no descriptor of identities

#: Distances of identities below which pictures are counted, and the columns of the table of identities.
BELOW = (0.25, 0.3)
IDENTITY_COLUMNS = ("identity_below_0.25", "identity_below_0.3", "distance", "diversity", "largest_share")


class Results:
    """The parts of the documents, each made by a method of its name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.output
        self.out.mkdir(parents=True, exist_ok=True)

    def latentpatch(self, *arguments: object) -> None:
        """Run a command."""
        print("latentpatch", *arguments, file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "latentpatch", *map(str, arguments), "--quiet"], check=True)

    def fit(self, name: str, mirrored: bool = False) -> Path:
        """Fit the model of the sources with an autoencoder, unless its file exists."""
        path = self.out / f"{name.split(':')[0]}{'-mirrored' if mirrored else ''}.safetensors"
        if not path.exists():
            variants = ["--mirrored"] if mirrored else []
            self.latentpatch("fit", self.options.sources, "--autoencoder", name, *variants, "-o", path)
        return path

    def evaluate(self, name: str, table: str, seeds: int, mirrored: bool = False, more: Sequence[object] = ()) -> Path:
        """Evaluate a table, reusing its finished rows; return the folder."""
        folder = self.out / f"{table}-{name.split(':')[0]}"
        self.latentpatch(
            "evaluate", self.fit(name, mirrored), "--autoencoder", name, "--originals", self.options.sources,
            "--held-out", self.options.held_out, "--features", self.options.features, "--precision", "bfloat16",
            "--table", TABLES / f"{table}.json", "--seeds", seeds, *more, "-o", folder,
        )  # fmt: skip
        return folder

    def identities(self) -> Sequence[object]:
        """Return the options that count pictures in which one recognizes a source; none without a descriptor."""
        identity = self.options.identity
        return () if identity is None else ("--identity", identity, "--identity-below", *BELOW)

    # --- parts -----------------------------------------------------------------------------------------

    def demo(self) -> None:
        """Make the pictures of the demo, and explain one."""
        folder = self.out / "demo"
        moved = ("--mirrored", "--offsets", 2)  # as the Makefile's
        self.latentpatch("generate", EXAMPLES, "-n", 16, "--preset", "faithful", *moved, "-o", folder)
        save_jpeg(folder / "grid.png", DOCS / "images" / "faces.jpg")
        Image.open(folder / "provenance.png").save(DOCS / "images" / "provenance.png", optimize=True)
        self.latentpatch("explain", folder / "0003.png", EXAMPLES, *moved, "-o", self.out / "why")
        save_jpeg(self.out / "why" / "explanation.png", DOCS / "images" / "explanation.jpg")

    def sixteen(self) -> None:
        """Make the README's first picture, and the same with another preset."""
        sources = list_images(EXAMPLES)[:16]
        for preset, name in (("few", "few"), ("balanced", "few-balanced")):
            folder = self.out / f"sixteen-{preset}"
            self.latentpatch("generate", *sources, "--preset", preset, "--mirrored", "-n", 32, "-o", folder)
            made = [folder / f"{number:04d}.png" for number in range(32)]
            sheet = titled([("Sixteen pictures in", sources), ("The first thirty-two out", made)])
            sheet.save(DOCS / "images" / f"{name}.jpg", quality=88, optimize=True)

    def editing(self) -> None:
        """Make the pictures of the page on editing."""
        face, other = EXAMPLES / "portrait-24.jpg", EXAMPLES / "portrait-11.jpg"
        edited = self.out / "edited"
        self.latentpatch("edit", face, "--donor", other, "--box", "64,128,192,224", "--composite", "-o", edited)
        sheet = titled([("A picture, the donor, and the result", [face, other, edited / "0000.png"])], 3, 256)
        sheet.save(DOCS / "images" / "edit.jpg", quality=88, optimize=True)
        others = [path for path in list_images(EXAMPLES) if path != face]
        filled = self.out / "filled"
        pictures = []
        for sampler in ("raster", "diffusion"):
            how = ("--box", "80,128,176,224", "-n", 4, "--sampler", sampler, "-o", filled / sampler)
            self.latentpatch("inpaint", *others, "--image", face, *how)
            pictures.append((f"Filled by {sampler}", [filled / sampler / f"000{number}.png" for number in range(4)]))
        sheet = titled(pictures, 4, 192)
        sheet.save(DOCS / "images" / "inpaint.jpg", quality=88, optimize=True)

    def registration(self) -> None:
        """Move the examples at random, register them, and generate from both."""
        moved, aligned = self.out / "moved", self.out / "aligned"
        script = [sys.executable, ROOT / "benchmarks" / "alignment.py", EXAMPLES, "--misalign", "--keep", moved]
        subprocess.run(list(map(str, script)), check=True, stdout=subprocess.DEVNULL)
        self.latentpatch("align", moved, "--skip-bad", "-o", aligned)
        rows, generated = [], []
        for folder in (moved, aligned):
            paths = [path for path in list_images(folder) if path.name != "mean.png"]
            mean = torch.stack([read_image(path) for path in paths]).mean(0)
            write_image(self.out / f"{folder.name}-mean.png", mean)
            rows += [*(folder / paths[number].name for number in range(8)), self.out / f"{folder.name}-mean.png"]
            self.latentpatch("generate", *paths, "-n", 8, "-o", self.out / f"{folder.name}-generated")
            generated += [self.out / f"{folder.name}-generated" / f"{number:04d}.png" for number in range(8)]
        titled([("", rows)], 9, 130).save(DOCS / "images" / "align.jpg", quality=88, optimize=True)
        titled([("", generated)], 8, 146).save(DOCS / "images" / "align-generated.jpg", quality=88, optimize=True)

    def thirty(self) -> None:
        """Make the same thirty seeds with both autoencoders."""
        for name in (self.options.taef2, "embedded"):
            short = name.split(":")[0]
            folder = self.out / f"thirty-{short}"
            self.latentpatch("generate", self.fit(name), "--autoencoder", name, "-n", 30, "-o", folder)
            save_jpeg(folder / "grid.png", DOCS / "images" / f"thirty-{short}.jpg")

    def varied(self) -> None:
        """Make thirty-two pictures of sources that differ as much as possible."""
        model = LatentPatch.load(self.fit(self.options.taef2), self.options.taef2)
        paths = list_images(self.options.sources)
        by_id = dict(zip(identifiers(paths), paths, strict=True))
        chosen = [by_id[model.bank.ids[position]] for position in sorted(farthest(model, NUM_VARIED))]
        folder = self.out / "varied"
        self.latentpatch(
            "generate", *chosen, "--components", 64, "--preset", "faithful", "--bands", 1,
            "--max-share", 0.5, "--donors", 0.75, "--autoencoder", self.options.taef2, "-n", 32, "-o", folder,
        )  # fmt: skip
        save_jpeg(folder / "grid.png", DOCS / "images" / "varied.jpg")

    def presets(self) -> None:
        """Make the table of presets, and show the default's first and worst pictures."""
        folder = self.evaluate(self.options.taef2, "presets", 5)
        rows = read_rows(folder)
        fill(DOCS / "results.md", "presets", table_of(rows))
        default = next(row for row in rows if row["name"].startswith("balanced (default)"))
        for kind, path in default["sheets"].items():
            save_jpeg(folder / path, DOCS / "images" / f"balanced-{kind}.jpg")

    def embedded(self) -> None:
        """Make the table of presets of the embedded autoencoder."""
        fill(DOCS / "results.md", "embedded", table_of(read_rows(self.evaluate("embedded", "embedded", 5))))

    def few(self) -> None:
        """Make the table of sixteen sources."""
        rows = read_rows(self.evaluate("embedded", "few", 5, mirrored=True, more=self.identities()))
        columns = tuple(COLUMNS) if self.options.identity else FIGURES
        fill(DOCS / "results.md", "few", table_of([row for row in rows if not row["copies"]], columns))

    def settings(self) -> None:
        """Make the tables of the paper's sampler and its settings."""
        folder = self.evaluate(self.options.taef2, "results", 3)
        rows = {row["name"]: row for row in read_rows(folder)}
        for heading, lines in json.loads((TABLES / "results.json").read_text()).items():
            wanted = [line.rpartition(": ")[0] for line in lines]
            columns = ("distance", "diversity", "largest_share", "largest_region", "sources")
            fill(DOCS / "results.md", heading, table_of([rows[name] for name in wanted], columns))

    def autoencoders(self) -> None:
        """Compare the autoencoders."""
        rows = []
        for name in (self.options.taef2, "embedded", "embedded-vq"):
            for row in read_rows(self.evaluate(name, "autoencoders", 3)):
                if "verbatim" not in row["name"]:
                    rows.append({**row, "name": f"{row['name']} | {name.split(':')[0]}"})
        rows.sort(key=lambda row: row["name"].split(" | ")[0])
        fill(DOCS / "embedded.md", "autoencoders", table_of(rows, ("distance", "diversity", "largest_share"), 2))

    def identity(self) -> None:
        """Compare ways by whom one recognizes, and plot this against the distance; needs --identity."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        if self.options.identity is None:
            raise SystemExit("identity: needs --identity, as latentpatch evaluate does")
        more = self.identities()
        figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
        lines = []
        for name, colour in (("embedded", "tab:blue"), (self.options.taef2, "tab:orange")):
            kind, points = name.split(":")[0], []
            for row in read_rows(self.evaluate(name, "identity", 2, more=more)):
                values = [row["figures"][column]["value"] for column in IDENTITY_COLUMNS]
                title = "the sources themselves" if row["copies"] else row["name"]
                lines.append(f"| {title} | {kind} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
                if not row["copies"]:
                    points.append((values[1], values[2], title))
            axes.plot(*zip(*[point[:2] for point in points], strict=True), "o", color=colour, label=kind)
            for recognized, distance, title in points:
                axes.annotate(title, (recognized, distance), (6, 4), textcoords="offset points", fontsize=8)
        axes.set(
            xlabel=f"part of the pictures nearer than {BELOW[1]:g} to a source", ylabel="distance to held-out pictures"
        )
        axes.set(yscale="log", yticks=[1, 1.5, 2, 3, 4], yticklabels=["1", "1.5", "2", "3", "4"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(DOCS / "images" / "identity.png", dpi=110)
        head = "| | | below 0.25 | below 0.30 | distance | diversity | largest share |\n|---|---|---|---|---|---|---|"
        fill(DOCS / "results.md", "identity", "\n".join([head, *lines]))

    def frontier(self) -> None:
        """Plot distance against the largest share, from all tables of taef2 and 500 sources."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
        text = (DOCS / "results.md").read_text(encoding="utf-8")
        raster = [
            point for name in json.loads((TABLES / "results.json").read_text()) for point in points_of(text, name)
        ]
        presets = points_of(text, "presets")
        for points, colour, kind in (
            (raster, "0.65", "raster and random patches"),
            (presets, "tab:blue", "presets and other ways"),
        ):
            axes.plot(*zip(*[point[:2] for point in points], strict=True), "o", color=colour, label=kind)
        for share, distance, name in presets:
            if name in LABEL_SIDES:
                side = LABEL_SIDES[name]
                axes.annotate(name, (share, distance), (8 * side, -3), ha="left" if side > 0 else "right",
                              textcoords="offset points", fontsize=9)  # fmt: skip
        ticks = [1, 2, 3, 4, 6, 10, 18]
        axes.set(xlabel="largest share of one source, mean over pictures", ylabel="distance to held-out pictures")
        axes.set(xlim=(0, 0.55), yscale="log", yticks=ticks, yticklabels=[str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(DOCS / "images" / "frontier.png", dpi=110)


def points_of(document: str, name: str) -> list[tuple[float, float, str]]:
    """Return largest share, distance and name of a table's rows that sample all sources."""
    table = table_pattern(name).search(document)
    if table is None:
        raise SystemExit(f"results.md: no table {name}")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table["table"].splitlines()[2:]]
    points = [(float(row[3]), float(row[1].split(" ")[0]), row[0]) for row in rows]
    return [point for point in points if point[0] <= 0.5 and "B = " not in point[2]]


def farthest(model: LatentPatch, count: int) -> list[int]:
    """Return positions of sources: the farthest from the mean, then each the farthest from those before."""
    keys = model.bank.keys.flatten(1).double()
    distance = (keys - keys.mean(0)).square().sum(1)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(distance.argmax()))
        apart = (keys - keys[chosen[-1]]).square().sum(1)
        distance = apart if len(chosen) == 1 else torch.minimum(distance, apart)
    return chosen


def titled(groups: Sequence[tuple[str, Sequence[Path]]], columns: int = 8, side: int = 160) -> Image.Image:
    """Return pictures in rows, each group below its title."""
    bar = 44 if any(title for title, _ in groups) else 0
    heights = [bar + -(-len(paths) // columns) * side for _, paths in groups]
    sheet = Image.new("RGB", (columns * side, sum(heights)), "white")
    top = 0
    for (title, paths), height in zip(groups, heights, strict=True):
        ImageDraw.Draw(sheet).text((4, top + 8), title, fill="black", font=ImageFont.load_default(26))
        for number, path in enumerate(paths):
            picture = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (number % columns * side, top + bar + number // columns * side))
        top += height
    return sheet


def save_jpeg(picture: Path, to: Path) -> None:
    """Save a picture as a JPEG for the documents."""
    to.parent.mkdir(parents=True, exist_ok=True)
    Image.open(picture).convert("RGB").save(to, quality=88, optimize=True)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of an evaluation; copies, the yardstick of the others, come last."""
    records = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    return sorted((record for record in records if "figures" in record), key=lambda row: bool(row["copies"]))


def table_of(rows: list[dict[str, Any]], columns: tuple[str, ...] = FIGURES, names: int = 1) -> str:
    """Format rows as Markdown, with the lowest and the highest distance of a set."""
    lines = ["| " * (names + 1) + " | ".join(COLUMNS[column] for column in columns) + " |"]
    lines.append("|---" * (names + len(columns)) + "|")
    for row in rows:
        cells = [format_figure(column, row["figures"].get(column)) for column in columns]
        name = row["name"] + (" (copies)" if row["copies"] else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_figure(column: str, figure: dict[str, Any] | None) -> str:
    """Format one figure of a row; empty where there is none."""
    if figure is None or figure["value"] is None:
        return ""
    digits = 1 if column == "sources" else 2
    text = f"{figure['value']:.{digits}f}"
    if column == "distance" and len(figure["sets"]) > 1:
        text += f" ({min(figure['sets']):.2f} to {max(figure['sets']):.2f})"
    return text


def table_pattern(name: str) -> re.Pattern[str]:
    """Return the pattern of a table in a document."""
    start, end = re.escape(f"<!-- table {name} -->"), re.escape("<!-- end -->")
    return re.compile(f"(?P<start>{start}\n)(?P<table>.*?)(?P<end>{end})", re.DOTALL)


def fill(document: Path, name: str, table: str) -> None:
    """Replace a table in a document."""
    text = document.read_text(encoding="utf-8")
    filled, count = table_pattern(name).subn(lambda m: f"{m['start']}{table}\n{m['end']}", text, count=1)
    if not count:
        raise SystemExit(f"{document}: no place for a table between <!-- table {name} --> and <!-- end -->")
    document.write_text(filled, encoding="utf-8")


PARTS: dict[str, Callable[[Results], None]] = {
    part.__name__: part
    for part in (
        Results.demo,
        Results.sixteen,
        Results.editing,
        Results.registration,
        Results.thirty,
        Results.varied,
        Results.presets,
        Results.embedded,
        Results.few,
        Results.settings,
        Results.frontier,
        Results.identity,
        Results.autoencoders,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--features", default="latents", help="as for latentpatch evaluate")
    parser.add_argument("--identity", help="as for latentpatch evaluate; the part of its name needs it")
    parser.add_argument("--taef2", default="taef2", metavar="NAME[:PATH]", help="the large autoencoder (taef2)")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    options = parser.parse_args()
    results = Results(options)
    for name in options.only:
        PARTS[name](results)


if __name__ == "__main__":
    main()
