"""Options of the files that pictures are written to; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from . import _options as cli
from ._parsing import OptionGroup

__all__ = ["FormatOptions"]


@dataclass(frozen=True, kw_only=True)
class FormatOptions(OptionGroup):
    """Format and layout of the pictures of a command."""

    title = "files"

    format: str = cli.choice(("png", "webp", "jpeg"), "of the pictures; jpeg loses detail, webp with --quality", "png")
    quality: int | None = cli.option(cli.integer(1, 100), "Q", "of jpeg (92) or lossy webp, from 1 to 100")
    shards: int | None = cli.option(cli.integer(1), "N", "write WebDataset tars of N pictures each", exclusive="layout")
    dataset: bool = cli.flag("write a Hugging Face image folder: train/ with metadata.jsonl", exclusive="layout")
    labels: str | None = cli.option(
        str, "COLUMN", "make pictures of each value of an attribute in turn, each from sources of its value"
    )

    def check(self) -> None:
        """Refuse a quality of lossless files."""
        if self.quality is not None and self.format == "png":
            raise ValueError("--quality needs --format jpeg|webp: png loses nothing")

    @property
    def encoded_quality(self) -> int | None:
        """The quality of the files; None where they lose nothing."""
        from ..io.encoding import LOSSY_QUALITY

        return LOSSY_QUALITY if self.format == "jpeg" and self.quality is None else self.quality

    def changed(self) -> dict[str, Any]:
        """Return the options that are not the defaults."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}
