"""The settings of the samplers, declared once; importing this module imports no torch.

Options of the command line, fields of HTTP requests, their ranges and the documentation's tables follow from the
declarations here. Symbols are those of the LatentPatch paper (Samuth et al., ICIP 2023, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, comb

from ...errors import SettingError
from ...settings import Settings, setting
from .patch_settings import CELLS_OR_SHARE, PATCH_SIZE_HELP, STRIDE_HELP, UNIT_HELP, PatchSettings, size_setting

__all__ = [
    "DiffusionSettings",
    "RandomCellsSettings",
    "RandomPatchesSettings",
    "RasterSettings",
    "ResynthesisSettings",
]

MAX_COST = 100  # mean squared distances of a source cell: sums of scores and costs stay within their integers
DEFAULT_MAX_SHARE = 0.3  # share of the cells, where there are sources enough
DEFAULT_MAX_SHARE_WITH_START = 0.25  # share of the cells, where the start source gives patches, too
MIN_SHARE_OVER_UNIFORM = 1.5  # times an even share: the least cap on a source where there are few sources
MIN_DISTINCT_OUTPUTS = 1000  # images that starts and donors should make with one neighbor
FEW_SOURCES_NEIGHBORS = 3  # nearest sources drawn from where they would make fewer
MIN_DONORS = 4  # sources, where the number of donors is a share of all
MIN_CAPACITY_FACTOR = 2  # times the cells of a grid that the caps of one group of donors add up to, at least
DEFAULT_BANDS = 3  # bands of rows, where there are sources enough
FEW_SOURCES = 25  # below, there is one band, and the preset few is the default
START_CANDIDATES, FEW_START_CANDIDATES = 4, 2  # sources drawn to start from, and where sources are few
MIN_GROUP = 8  # donors of a band, where the number of bands is left to the sampler
DEFAULT_DONORS = 0.5  # share of the sources that may give patches
USUAL_GROUP, MOST_DONORS = 16, 0.75  # donors of a band and share of the sources, the smaller of which is the least
MIN_NOISE = 1e-6  # standard deviations of the sources: less is lost in rounding, and its square in underflow
MIN_AIMED_SHARE = 1e-6  # share of the cells: less than a cell of the largest grid
DEFAULT_STRENGTH = 0.5  # part of the noise levels, with a reference


@dataclass(frozen=True)
class ResynthesisSettings(PatchSettings):
    """Settings of the sampler ``resynthesis``."""

    patch_size: int | float = size_setting(5, PATCH_SIZE_HELP, symbol="ω")
    stride: int | float = size_setting(1, STRIDE_HELP, symbol="w")
    neighbors: int | None = setting(
        None,
        "draw each block of the first sweep from this many nearest sources; more make more varied images with more "
        "seams",
        symbol="k",
        minimum=1,
        limited_by="sources",
        metavar="K",
        default_help="1; 3 if few sources",
        aliases=("neighbours",),
    )
    sweeps: int = setting(2, "visit every block this many times", minimum=1, limit=16, metavar="N")
    max_share: float | None = setting(
        None,
        "largest share of an image's cells that one source, with its augmented copies, may give",
        above=0,
        maximum=1,
        metavar="SHARE",
        default_help="0.3; 0.25 if the start source gives; at least 1.5 even shares",
    )
    start_candidates: int | None = setting(
        None,
        "draw this many sources to start from and take the one farthest from the mean source",
        minimum=1,
        limit=64,
        metavar="N",
        default_help="4; 2 if few sources",
        is_advanced=True,
        aliases=("draws",),
    )
    allow_start_as_donor: bool = setting(
        False, "let the start source give patches, too", aliases=("keep_start",), is_advanced=True
    )
    donors: int | float | None = setting(
        None,
        "take patches only from this many randomly chosen sources for each image: a number from 2 on, or a share of "
        "the sources such as 0.5 (at least four sources); 1 for all",
        above=0,
        limited_by="sources",
        metavar="N|SHARE",
        default_help="0.5; up to 0.75 if few sources",
        aliases=("subset",),
    )
    symmetric: bool = setting(
        True, "compare and copy a block together with its mirror image, left and right", is_advanced=True
    )
    switch_cost: float = setting(
        0.0,
        "penalty for a source that no neighboring cell comes from, in mean squared distances of the sources to their "
        "mean",
        minimum=0,
        maximum=MAX_COST,
        metavar="COST",
        is_advanced=True,
    )
    reuse_cost: float = setting(
        0.0,
        "penalty for each cell that a source already gave, in the unit of the switch cost",
        minimum=0,
        maximum=MAX_COST,
        metavar="COST",
        is_advanced=True,
        aliases=("use_cost",),
    )
    best_of: int = setting(
        1,
        "make this many images for one and keep the one of least energy: squared distances of all patches to their "
        "sources",
        minimum=1,
        limit=16,
        metavar="N",
        is_advanced=True,
    )
    bands: int | None = setting(
        None,
        "cut the grid's rows into this many bands with equal amounts of detail, and split the donors into as many "
        "groups, one for each band: no source gives the whole of what one recognizes",
        minimum=1,
        limit=16,
        metavar="N",
        default_help="3; 1 if few sources",
        before=1,
    )
    unit: int | float = size_setting(1, UNIT_HELP, before=1, is_advanced=True)

    def check_together(self) -> None:
        super().check_together()
        if isinstance(self.donors, float) and self.donors > 1:
            raise SettingError("donors", self.donors, "a number of sources, or a share above 0 and at most 1")

    @property
    def _number(self) -> int | None:
        """The number of donors; None where they are a share of the sources."""
        return self.donors if isinstance(self.donors, int) and self.donors > 1 else None

    def num_donors(self, num_sources: int, has_reference: bool) -> int:
        """Return how many sources may give patches to an image."""
        available = self._available(num_sources, has_reference)
        if self._number is not None:
            return min(available, self._number)
        bands = self.num_bands(num_sources, has_reference)
        enough = 0 if self.max_share is None else ceil(min(available, bands * MIN_CAPACITY_FACTOR / self.max_share))
        least = MIN_DONORS if bands == 1 else bands * MIN_GROUP
        if bands > 1 and self.donors is None:
            least = max(least, min(bands * USUAL_GROUP, ceil(MOST_DONORS * available)))
        return min(available, max(ceil((self.donors or DEFAULT_DONORS) * available), enough, least))

    def num_candidates(self, num_sources: int) -> int:
        """Return how many sources are drawn to start from: of few, more would start with the same one every time."""
        return self.start_candidates or (START_CANDIDATES if num_sources >= FEW_SOURCES else FEW_START_CANDIDATES)

    def num_bands(self, num_sources: int, has_reference: bool) -> int:
        """Return the number of bands, each with its own group of donors."""
        if self.bands is not None:
            return self.bands
        available = self._available(num_sources, has_reference)
        possible = min(available, self._number or available)
        group = max(MIN_GROUP, MIN_CAPACITY_FACTOR / (self.max_share or DEFAULT_MAX_SHARE))
        return DEFAULT_BANDS if possible >= DEFAULT_BANDS * group else 1

    def _available(self, num_sources: int, has_reference: bool) -> int:
        return num_sources if has_reference or self.allow_start_as_donor else num_sources - 1

    def resolved(self, num_sources: int, has_reference: bool) -> ResynthesisSettings:
        """Return these settings with the neighbors, the cap and the number of donors that are in force."""
        donors = max(1, self.num_donors(num_sources, has_reference))
        share = self.max_share
        if share is None:
            start_gives = self.allow_start_as_donor and not has_reference
            usual = DEFAULT_MAX_SHARE_WITH_START if start_gives else DEFAULT_MAX_SHARE
            share = min(1.0, max(usual, MIN_SHARE_OVER_UNIFORM / donors))
        bands = self.num_bands(num_sources, has_reference)
        neighbors = self.neighbors or self._default_neighbors(num_sources, donors, bands, has_reference)
        start_candidates = self.num_candidates(num_sources)
        return replace(
            self,
            neighbors=neighbors,
            max_share=share,
            start_candidates=start_candidates,
            donors=donors,
            bands=bands,
        )

    def _default_neighbors(self, num_sources: int, donors: int, bands: int, has_reference: bool) -> int:
        """Return 1 where choices of start and donors alone make enough distinct images."""
        starts, others = (1, num_sources) if has_reference else (num_sources, num_sources - 1)
        drawn = donors - 1 if self.allow_start_as_donor and not has_reference else donors
        return (
            1
            if starts * comb(others, drawn) >= MIN_DISTINCT_OUTPUTS
            else min(FEW_SOURCES_NEIGHBORS, max(1, donors // bands))
        )

    def check_sources(self, num_sources: int, has_reference: bool = False) -> None:
        """Refuse settings that need more sources than there are.

        Raises:
            SettingError: naming ``sources`` or ``neighbors``.
        """
        donors = self.num_donors(num_sources, has_reference)
        beside = "" if has_reference or self.allow_start_as_donor else " beside the start source"
        if donors < 1:
            raise SettingError("sources", num_sources, f"at least {num_sources - donors + 1}: one{beside}")
        bands = self.num_bands(num_sources, has_reference)
        if donors < bands:
            raise SettingError("bands", bands, f"at most {donors} (donors)")
        if self.neighbors is not None and self.neighbors > donors // bands:
            of_band = f", {donors // bands} to a band" if bands > 1 else ""
            raise SettingError("neighbors", self.neighbors, f"at most {donors // bands} (sources{beside}{of_band})")


@dataclass(frozen=True)
class DiffusionSettings(PatchSettings):
    """Settings of the sampler ``diffusion`` (:mod:`.patch_diffusion`)."""

    levels: int = setting(24, "number of noise levels, geometrically spaced", minimum=1, limit=64, metavar="N")
    start_noise: float = setting(
        5.0,
        "standard deviation of the noise at the first level, in standard deviations of the sources",
        minimum=MIN_NOISE,
        limit=1000,
        metavar="SIGMA",
        is_advanced=True,
    )
    end_noise: float = setting(
        0.0375,
        "standard deviation of the noise at the last level, in standard deviations of the sources",
        minimum=MIN_NOISE,
        limit=1000,
        metavar="SIGMA",
        is_advanced=True,
    )
    windows: tuple[int, ...] = setting(
        (16, 11, 9, 7, 5, 5, 3, 3),
        "sides of the compared windows from the first level to the last, in sixteenths of the grid's sides; from 31 on "
        "they cover the grid",
        minimum=1,
        limit=64,
        metavar="SIDE,SIDE,...",
        is_advanced=True,
    )
    strength: float | None = setting(
        None,
        "part of the noise levels that a reference goes through: how much noise it gets",
        above=0,
        maximum=1,
        metavar="PART",
        default_help="0.5; 1 to fill a mask",
    )
    sweeps: int = setting(2, "resynthesis sweeps over the denoised grid", minimum=0, limit=16, metavar="N")
    max_share: float | None = setting(
        None,
        "largest share of an image's cells that one source may give: kept by the sweeps, aimed at without",
        minimum=MIN_AIMED_SHARE,
        maximum=1,
        metavar="SHARE",
        default_help="0.3; at least 1.5 even shares",
    )
    patch_size: int | float = size_setting(4, PATCH_SIZE_HELP)
    stride: int | float = size_setting(1, STRIDE_HELP)
    unit: int | float = size_setting(1, UNIT_HELP, before=1, is_advanced=True)

    def check_together(self) -> None:
        super().check_together()
        if self.end_noise > self.start_noise:
            raise SettingError("end_noise", self.end_noise, f"at most start_noise ({self.start_noise:g})")

    def resolved(self, num_sources: int, has_reference: bool) -> DiffusionSettings:
        """Return these settings with the cap, and with a reference the strength, that are in force."""
        share = self.sweep_settings().resolved(num_sources, True).max_share
        strength = DEFAULT_STRENGTH if has_reference and self.strength is None else self.strength
        return replace(self, max_share=share, strength=strength)

    def sweep_settings(self) -> ResynthesisSettings:
        """Return the settings of the sweeps; of one sweep where there are none."""
        return ResynthesisSettings(
            self.patch_size,
            self.stride,
            neighbors=1,
            sweeps=max(1, self.sweeps),
            max_share=self.max_share,
            donors=1.0,
            bands=1,
            symmetric=False,
        )


@dataclass(frozen=True)
class RasterSettings(PatchSettings):
    """Settings of the sampler ``raster``."""

    patch_size: int | float = size_setting(6, PATCH_SIZE_HELP, symbol="ω")
    stride: int | float | None = size_setting(
        None, STRIDE_HELP, symbol="w", default_help="a third of the patch size, rounded"
    )
    neighbors: int = setting(
        3,
        "draw each block from this many nearest sources",
        symbol="k",
        minimum=1,
        limited_by="sources",
        metavar="K",
        aliases=("neighbours",),
    )
    scales: int | None = setting(
        None,
        "number of grid sizes, coarse to fine",
        symbol="S",
        minimum=1,
        limit=16,
        metavar="N",
        default_help="5; 1 with a reference, 3 to inpaint",
    )
    start_size: int | None = setting(
        None,
        "shorter side of the coarsest grid, in latent cells",
        symbol="s₁",
        minimum=1,
        limit=256,
        limited_by="grid",
        metavar="CELLS",
        default_help="10/16 of the grid's",
        is_advanced=True,
    )

    @property
    def step(self) -> int:
        """The stride in force, in cells: floor(patch_size / 3 + 1/2), at least 1, where none is set."""
        return super().step if self.stride is not None else max(1, (2 * self.window + 3) // 6)

    def check_sources(self, num_sources: int) -> None:
        """Refuse to draw from more neighbors than there are sources.

        Raises:
            SettingError: naming ``neighbors``.
        """
        if self.neighbors > num_sources:
            raise SettingError("neighbors", self.neighbors, f"at most {num_sources} (number of sources)")

    def resolved(self, has_reference: bool) -> RasterSettings:
        """Return these settings with stride and scales filled in; the start size depends on the grid."""
        return replace(self, stride=self.step, scales=self.num_scales(has_reference))

    def num_scales(self, has_reference: bool) -> int:
        """Return the number of scales in force."""
        return self.scales if self.scales is not None else (1 if has_reference else 5)


@dataclass(frozen=True)
class RandomCellsSettings(Settings):
    """The sampler ``random-cells`` has no settings."""


@dataclass(frozen=True)
class RandomPatchesSettings(PatchSettings):
    """Settings of the sampler ``random-patches``."""

    patch_size: int | float = size_setting(6, f"side of the copied patches: {CELLS_OR_SHARE}", symbol="ω")
