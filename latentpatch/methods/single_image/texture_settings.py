"""Settings of GPDM and of the texture methods; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SettingError
from ...settings import Settings, setting
from ...validation import check_choice

__all__ = [
    "GPDM_PUBLISHED",
    "EfrosLeungSettings",
    "GPDMSettings",
    "QuiltingSettings",
    "StyleOptimizationSettings",
    "TextureOptimizationSettings",
]


@dataclass(frozen=True)
class GPDMSettings(Settings):
    """Settings of GPDM (Elnekave & Weiss, ECCV 2022)."""

    patch_size: int = setting(7, "side of the patches, in pixels", minimum=3, maximum=33, symbol="p")
    projections: int = setting(64, "random directions a step", minimum=1, limit=1024, symbol="k")
    pool: int | None = setting(
        256,
        "directions a scale that steps choose from, so that the sources are projected and sorted once; none draws new "
        "ones each step, as published",
        minimum=1,
        limit=4096,
    )
    steps: int = setting(100, "steps of Adam at the coarsest scale", minimum=1, limit=2000)
    last_steps: int | None = setting(
        20, "steps at the finest scale; those between fall geometrically", minimum=1, limit=2000
    )
    learning_rate: float = setting(0.05, "of Adam, for pixels in [-1, 1]", above=0, maximum=1, symbol="beta")
    decay: float = setting(
        0.95, "part of the learning rate that is lost over the second half of a scale's steps", minimum=0, maximum=1
    )
    noise: float = setting(
        1.5, "standard deviation of the noise at the start, at full size, in half ranges of the pixels", minimum=0,
        maximum=100,
    )  # fmt: skip
    coarsest: int = setting(21, "shorter side of the coarsest scale, in pixels", minimum=4, limit=512)
    ratio: float = setting(0.85, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95)
    start: str = setting("noise", "noise, or source for a blurred source with noise")
    matching: str = setting(
        "each", "each result matches the sources, or all results together do: these differ more among each other"
    )
    edges: str = setting(
        "mirrored",
        "mirrored, so that pixels at the edges are in as many patches as others; or plain, as published",
    )
    tileable: bool = setting(False, "make textures whose opposite edges match")
    unequal: str = setting(
        "exact", "exact transport for sets of unequal size, or repeat for random repetition as published"
    )

    def check_together(self) -> None:
        """Refuse unknown names."""
        check_choice("start", self.start, ("noise", "source"))
        check_choice("matching", self.matching, ("each", "together"))
        check_choice("edges", self.edges, ("mirrored", "plain"))
        check_choice("unequal", self.unequal, ("exact", "repeat"))


@dataclass(frozen=True)
class QuiltingSettings(Settings):
    """Settings of image quilting (Efros & Freeman, SIGGRAPH 2001)."""

    block: int | None = setting(
        None,
        "side of the blocks, in pixels: about that of the largest feature of the texture",
        minimum=2,
        limit=512,
        default_help="a sixth of the exemplar's shorter side; a twelfth to stylize",
    )
    overlap: int | None = setting(
        None, "pixels by which blocks overlap", minimum=1, limit=256, default_help="a sixth of the block"
    )
    tolerance: float = setting(
        0.1, "blocks are drawn among those whose error exceeds the smallest by at most this part", minimum=0, limit=100
    )
    passes: int = setting(
        3, "passes over a picture to stylize, each with blocks two thirds as large", minimum=1, maximum=8, symbol="N"
    )
    palette: str = setting(
        "style",
        "colors in which the content is matched: those of the style, or its own",
        choices=("style", "content"),
    )
    tileable: bool = setting(False, "make textures whose opposite edges match")


@dataclass(frozen=True)
class EfrosLeungSettings(Settings):
    """Settings of Efros & Leung's texture synthesis (ICCV 1999)."""

    window: int = setting(
        11, "side of the windows that are compared, in pixels, odd: about that of the largest feature", minimum=3,
        maximum=63,
    )  # fmt: skip
    tolerance: float = setting(
        0.1,
        "windows are drawn among those whose error exceeds the smallest by at most this part",
        minimum=0,
        limit=100,
        symbol="epsilon",
    )
    max_error: float = setting(
        0.3, "mean squared difference from which on a pixel waits for more known neighbors", above=0, is_advanced=True
    )
    tileable: bool = setting(False, "make textures whose opposite edges match")

    def check_together(self) -> None:
        """Refuse windows without a center."""
        if self.window % 2 == 0:
            raise SettingError("window", self.window, "odd")


@dataclass(frozen=True)
class TextureOptimizationSettings(Settings):
    """Settings of texture optimization (Kwatra et al., SIGGRAPH 2005)."""

    patch_sizes: tuple[int, ...] = setting(
        (32, 16, 8),
        "sides of the patches at the finest scale, in this order; each coarser scale has one less, the smallest in the "
        "end",
        minimum=4,
        maximum=128,
        metavar="SIDE,...",
    )
    scales: int = setting(3, "scales, each half as large as the next finer one", minimum=1, maximum=8)
    iterations: int = setting(11, "iterations at each scale and patch size", minimum=1, limit=200)
    power: float = setting(0.8, "of the distance in the energy", above=0, maximum=2, symbol="r")
    join: str = setting(
        "weighted", "weighted least squares for the power; median, for power 1; or mean, for power 2", is_advanced=True
    )
    assignment: str = setting(
        "none",
        "none, each patch gets its nearest one; exact, all patches of the exemplar are used alike; entropic, nearly so",
        choices=("none", "exact", "entropic"),
    )
    detail: float = setting(
        0.5, "part of the frequencies by which patches are compared first; 1 compares all pixels, slowly", above=0,
        maximum=1,
    )  # fmt: skip
    exact_iterations: int = setting(
        5,
        "last iterations at each scale and patch size that compare all pixels",
        minimum=0,
        limit=200,
        is_advanced=True,
    )  # fmt: skip
    start_block: int = setting(
        8, "side of the random blocks of the start, in pixels; 0 starts from noise", minimum=0, maximum=256
    )
    fidelity: float = setting(
        0.0, "weight of the distance to the picture itself, pixel by pixel", minimum=0, maximum=1e6, symbol="alpha"
    )
    border: int = setting(0, "width of the border that stays as in the picture, in pixels", minimum=0, limit=512)
    tileable: bool = setting(False, "make textures whose opposite edges match")

    def check_together(self) -> None:
        """Refuse unknown names, and patch sizes that do not fall."""
        check_choice("join", self.join, ("weighted", "median", "mean"))
        if list(self.patch_sizes) != sorted(set(self.patch_sizes), reverse=True):
            raise SettingError("patch_sizes", self.patch_sizes, "from large to small")


#: Settings that the published presets of GPDM share.
GPDM_PUBLISHED = GPDMSettings(pool=None, steps=300, last_steps=None, decay=0.0, edges="plain", unequal="repeat")


@dataclass(frozen=True)
class StyleOptimizationSettings(Settings):
    """Settings of style transfer by patches (Elad & Milanfar, 2017; Samuth et al., 2022)."""

    strength: float = setting(
        0.5, "0 keeps to the content at all scales; 1 lets the style do as it likes", minimum=0, maximum=1
    )
    palette: str = setting(
        "style",
        "colors in which the content is matched: those of the style, or its own",
        choices=("style", "content"),
    )
    hallucination: float = setting(
        0.0,
        "part of the content's weight that regions without edges lose: at 1 the style does there as it likes",
        minimum=0,
        maximum=1,
    )
    smoothing: float = setting(
        0.0,
        "steps between pixels that are smoothed after each scale, in levels of 255; edges beyond stay",
        minimum=0,
        maximum=255,
    )
    patch_size: int = setting(7, "side of the patches, in pixels", minimum=3, limit=33, symbol="p", metavar="PIXELS")
    coarsest: int = setting(32, "shorter side of the coarsest scale", minimum=4, metavar="PIXELS")
    ratio: float = setting(0.6, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95)
    iterations: int = setting(4, "searches at a scale", minimum=1, limit=50, symbol="T", metavar="N")
    sweeps: int = setting(2, "sweeps of a search by patchmatch", minimum=1, limit=16, is_advanced=True, metavar="N")
    power: float = setting(0.8, "of the distance in the energy", above=0, maximum=2, symbol="r")
    variety: float = setting(
        0.5, "penalty for patches of the style that are used several times", minimum=0, maximum=100
    )
