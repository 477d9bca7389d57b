"""Settings of the methods on pictures; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SettingError
from ...settings import Settings, setting

__all__ = ["CompletionSettings", "GPNNSettings", "PSINSettings", "PatchDiffusionSettings"]


@dataclass(frozen=True)
class GPNNSettings(Settings):
    """Settings of GPNN (Granot et al., CVPR 2022); distances of patches are those of pixels in [-1, 1]."""

    patch_size: int = setting(7, "side of the patches, in pixels", minimum=3, limit=33, symbol="p", metavar="PIXELS")
    alpha: float | None = setting(
        None,
        "the lower, the more parts of the picture that are not in the result are preferred; from 1000 on none are",
        above=0,
        symbol="alpha",
        default_help="0.05; 1 for analogies and styles",
    )
    alpha_unit: str = setting(
        "relative",
        "unit of alpha: the variance of the picture, mean squares, or unsquared sums of pixels in [0, 1]",
        choices=("relative", "squared", "distance"),
        is_advanced=True,
    )
    noise: float | None = setting(
        None,
        "standard deviation of the noise to start from, in halves of the range of pixels",
        minimum=0,
        maximum=100,
        symbol="sigma",
        default_help="0.75; 0 to retarget, for analogies and styles",
    )
    grey_noise: bool = setting(False, "the same noise in all channels", is_advanced=True)
    start: str | None = setting(
        None,
        "what the noise is added to at the coarsest scale",
        choices=("grey", "picture"),
        default_help="grey; the picture that gives the layout, where there is one",
        is_advanced=True,
    )
    ratio: float = setting(
        0.75, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95, symbol="1/r"
    )
    coarsest: int | None = setting(
        None,
        "shorter side of the coarsest scale; higher values keep more of the layout",
        minimum=4,
        metavar="PIXELS",
        default_help="14; 40 for analogies and styles; at least patch_size",
    )
    square_coarsest: bool = setting(False, "whether the coarsest scale is a square", is_advanced=True)
    tolerance: float = setting(
        0.3,
        "the searches of a scale end when they change pixels by less on average, in levels of 255",
        minimum=0,
        maximum=255,
        is_advanced=True,
    )
    iterations: int = setting(10, "searches at a scale, at most", minimum=1, limit=50, symbol="T", metavar="N")
    coarsest_iterations: int = setting(
        1, "searches at the coarsest scale; more of them copy more", minimum=1, limit=50, metavar="N"
    )
    blurred_keys: str = setting(
        "all",
        "searches of a scale that compare with the blurred picture, as the upsampled result is blurred, too",
        choices=("all", "first"),
        is_advanced=True,
    )
    search: str | None = setting(
        None,
        "search for nearest neighbors",
        choices=("exact", "patchmatch"),
        default_help="exact at coarse scales, patchmatch at fine ones",
        is_advanced=True,
    )
    sweeps: int = setting(2, "sweeps of a search by patchmatch", minimum=1, limit=16, is_advanced=True, metavar="N")

    def check_together(self) -> None:
        if self.coarsest is not None and self.coarsest < self.patch_size:
            raise SettingError("coarsest", self.coarsest, f"at least patch_size, {self.patch_size}")


@dataclass(frozen=True)
class PatchDiffusionSettings(Settings):
    """Settings of patch diffusion; noise is in standard deviations of the picture."""

    space: str = setting(
        "pixels",
        "what patches are compared and copied in: pixels, or the latents of the autoencoder embedded",
        choices=("pixels", "embedded"),
    )
    coarsest: int | None = setting(
        None,
        "shorter side of the coarsest scale; higher values copy smaller pieces",
        minimum=4,
        limit=512,
        metavar="PIXELS",
        default_help="16; 10 cells in latents",
    )
    patch_size: int | None = setting(
        None,
        "side of the patches at fine scales; lower values copy smaller pieces",
        minimum=3,
        limit=33,
        symbol="p",
        metavar="PIXELS",
        default_help="7; 3 cells in latents",
    )
    coarse_patch_size: int | None = setting(
        None,
        "side of the patches at coarse scales",
        minimum=3,
        limit=33,
        metavar="PIXELS",
        default_help="7; 5 cells in latents",
    )
    alpha: float = setting(
        0.08,
        "the lower, the more parts of the picture that are not in the result are preferred; from 1000 on none are",
        above=0,
        symbol="alpha",
    )
    shift: float | None = setting(
        None,
        "least distance of patches from their place in the picture at coarse scales, in its shorter side",
        minimum=0,
        maximum=0.5,
        default_help="0.1; 0 to retarget and to compose",
    )
    noise: float | None = setting(
        None,
        "level of the noise to start from: at 0 there is none, at 1 there is nothing else",
        minimum=0,
        maximum=1,
        symbol="sigma",
        default_help="1; 0.3 to retarget; 0.5 with a structure",
    )
    finer_noise: float = setting(
        0.4, "noise that is added at the coarse scales but the first, at most that to start from", minimum=0, maximum=1
    )
    continuity: float | None = setting(
        None,
        "with several sources, cost of a source that the neighbors do not have; at 1000, a result is of one source",
        minimum=0,
        maximum=1000,
        default_help="50 to compose, else 0",
    )
    position: float | None = setting(
        None,
        "cost of patches from another height and side of their picture; at 1000, patches stay in place",
        minimum=0,
        maximum=1000,
        symbol="lambda_pos",
        default_help="2 to compose, else 0",
    )
    mixed: int | None = setting(
        None,
        "sources that a result is made of, chosen by its seed",
        minimum=1,
        default_help="3 to compose, else all",
        metavar="N",
    )
    steps: int = setting(8, "levels of noise at a coarse scale", minimum=1, limit=200, symbol="T", metavar="N")
    temperature: float = setting(
        16.0, "softness of weights; 1 for patches of independent pixels", above=0, maximum=1000, is_advanced=True
    )
    balanced: bool = setting(
        True, "use all patches of the pictures alike at coarse scales, by optimal transport", is_advanced=True
    )
    neighbors: int = setting(
        6, "nearest patches that are averaged in the end; 1 for plain copies", minimum=1, limit=32, symbol="k"
    )
    softness: float = setting(
        5.0,
        "levels of 255 that a patch may differ from the nearest one to be averaged in the end with much weight; higher "
        "values copy smaller pieces",
        minimum=0,
        maximum=64,
    )
    ratio: float = setting(0.75, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95)
    iterations: int = setting(3, "searches at a fine scale, at most", minimum=1, limit=50, metavar="N")
    sweeps: int = setting(2, "sweeps of a search by patchmatch", minimum=1, limit=16, is_advanced=True, metavar="N")

    def check_together(self) -> None:
        coarsest, _, coarse_patch_size = self.sizes()
        if coarsest < coarse_patch_size:
            raise SettingError("coarsest", coarsest, f"at least coarse_patch_size, {coarse_patch_size}")

    def sizes(self) -> tuple[int, int, int]:
        """Return coarsest, patch_size and coarse_patch_size, in pixels, or in cells of latents."""
        coarsest, fine, coarse = (16, 7, 7) if self.space == "pixels" else (10, 3, 5)
        return self.coarsest or coarsest, self.patch_size or fine, self.coarse_patch_size or coarse


@dataclass(frozen=True)
class CompletionSettings(Settings):
    """Settings of completion (Wexler et al., IEEE PAMI 2007)."""

    patch_size: int = setting(7, "side of the patches, in pixels", minimum=3, limit=33, symbol="p", metavar="PIXELS")
    coarsest: int | None = setting(
        None,
        "shorter side of the coarsest scale; lower values change more of an edit or a pasted thing",
        minimum=4,
        metavar="PIXELS",
        default_help="20 to inpaint, 60 to edit, 200 to harmonize",
    )
    fidelity: float | None = setting(
        None,
        "weight of the edit or the pasted thing in what is matched, against the result so far",
        minimum=0,
        maximum=1,
        default_help="0.7 to harmonize, else 0",
    )
    palette: float = setting(
        0.5,
        "part of the way that the colors of a pasted thing go to those of the picture, to harmonize",
        minimum=0,
        maximum=1,
    )
    margin: int | None = setting(
        None,
        "pixels around the region that are made anew, too",
        minimum=0,
        limit=128,
        metavar="PIXELS",
        default_help="0 to inpaint, 5 to edit, 2 to harmonize",
    )
    noise: float | None = setting(
        None,
        "standard deviation of the noise to start from, in those of the picture; more makes results differ more",
        minimum=0,
        maximum=10,
        default_help="0.5 to inpaint, else 0",
    )
    texture: float = setting(
        4.0, "weight of differences between neighboring pixels; at 0, plain patches spread", minimum=0, maximum=100
    )
    fade: int = setting(
        16,
        "pixels over which a difference of tone at the border of the region fades",
        minimum=0,
        limit=128,
        metavar="PIXELS",
    )
    ratio: float = setting(0.7, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95)
    iterations: int = setting(
        12, "searches at a scale; at most 3 at full size without fidelity", minimum=1, limit=50, symbol="T", metavar="N"
    )
    sweeps: int = setting(2, "sweeps of a search by patchmatch", minimum=1, limit=16, is_advanced=True, metavar="N")


@dataclass(frozen=True)
class PSINSettings(Settings):
    """Settings of PSin (Cherel et al., ICIP 2022)."""

    patch_size: int = setting(11, "side of the patches, in pixels", minimum=3, maximum=33, symbol="p", metavar="PIXELS")
    scales: int = setting(
        4,
        "scales, each half as large as the next finer one, as long as a patch fits; fewer copy smaller pieces",
        minimum=1,
        maximum=8,
    )
    gradients: float = setting(
        5.0, "weight of the gradients' magnitudes among the colors", minimum=0, maximum=100, symbol="beta"
    )
    iterations: int = setting(10, "searches at a scale, at most", minimum=1, limit=50, metavar="N")
    sweeps: int = setting(10, "sweeps of a search by patchmatch", minimum=1, limit=16, is_advanced=True, metavar="N")
    tolerance: float = setting(
        0.026,
        "the searches of a scale end when they change pixels by less on average, in levels of 255",
        minimum=0,
        maximum=255,
        is_advanced=True,
    )
