"""Pages of documentation: their blocks of code, and a folder with the files that these name."""

from __future__ import annotations

import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from .paths import PORTRAITS, ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

#: Languages of blocks that are run.
RUN = {"sh", "python"}

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"\*Not run by the tests: (?P<reason>\S[^*]*)\*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: number of its first line of code.
        language: word after the fence.
        code: text between the fences, without the indentation of the fence.
        reason: why it is not run; None where it is.
    """

    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    blocks = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        marker = _MARKER.search(before.rstrip().rpartition("\n\n")[2])
        reason = " ".join(marker["reason"].split()) if marker else None
        blocks.append(Block(before.count("\n") + 2, match["language"], textwrap.dedent(match["code"]), reason))
    return blocks


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page.read_text()) if block.language in RUN and block.reason is None]


def fill_folder(folder: Path, reduced: int = 1) -> None:
    """Write the files that pages name into a folder: pictures, a mask, tables, the checkout.

    Pictures have 256 pixels a side, divided by ``reduced``.
    """
    names = sorted(path.name for path in PORTRAITS.glob("*.jpg"))
    for target, chosen in {
        "portraits": names[:16],
        "sixteen": names[:16],
        "pictures": names[:8],
        "held-out": names[16:32],
        "new": names[16:18],
    }.items():
        (folder / target).mkdir()
        for name in chosen:
            shutil.copy(PORTRAITS / name, folder / target)
    shutil.copytree(ROOT / "examples" / "robots", folder / "robots")
    shutil.copy(PORTRAITS / "portrait-24.jpg", folder / "face.jpg")
    shutil.copy(PORTRAITS / "portrait-11.jpg", folder / "other.jpg")
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).rectangle((80, 128, 175, 223), fill=255)
    mask.save(folder / "hole.png")
    for path in [*folder.rglob("*.jpg"), *folder.rglob("*.png")] if reduced > 1 else []:
        Image.open(path).reduce(reduced).save(path, quality=95)
    people = "".join(f"{Path(name).stem},male,{1955 + 5 * (i % 3)}\n" for i, name in enumerate(names[:16]))
    people = people.replace("1960", "1972")
    (folder / "people.csv").write_text("id,gender,birth_year\n" + people)
    eyes = ",".join(str(each // reduced) for each in (98, 118, 158, 118))
    points = "".join(f"{name},{eyes}\n" for name in names[:8])
    (folder / "points.csv").write_text("file,left_x,left_y,right_x,right_y\n" + points)
    (folder / "latentpatch").symlink_to(ROOT)
