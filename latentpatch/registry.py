"""The registries of samplers and of methods on pictures, by the name users give them.

Built-in methods are declared here with their settings, and their modules are imported at first use: the command line
lists methods and settings without importing torch. :func:`latentpatch.methods.base.register` and
:func:`latentpatch.methods.picture.register_method` add others.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .errors import SettingError, SettingTypeError
from .methods.latent.patch_settings import PatchSettings, cells_of
from .methods.latent.settings import (
    DiffusionSettings,
    RandomCellsSettings,
    RandomPatchesSettings,
    RasterSettings,
    ResynthesisSettings,
)
from .methods.single_image.denoising_settings import NLMeansSettings, NLPCASettings
from .methods.single_image.filter_settings import (
    BilateralSettings,
    BoxSettings,
    GaussianSettings,
    GuidedSettings,
    MedianSettings,
    RollingGuidanceSettings,
)
from .methods.single_image.settings import CompletionSettings, GPNNSettings, PatchDiffusionSettings, PSINSettings
from .methods.single_image.texture_settings import (
    EfrosLeungSettings,
    GPDMSettings,
    QuiltingSettings,
    StyleOptimizationSettings,
    TextureOptimizationSettings,
)
from .settings import Setting, Settings, declared
from .validation import check_choice

if TYPE_CHECKING:
    from .methods.base import Method, Sampler  # noqa: F401  # named in the base classes below
    from .methods.picture import PictureMethod  # noqa: F401

__all__ = [
    "FLAGS",
    "PICTURE_METHODS",
    "PLUGINS",
    "SAMPLERS",
    "TASKS",
    "MethodRegistry",
    "PictureMethodRegistry",
    "SamplerRegistry",
    "import_plugins",
    "settings_from_record",
    "settings_record",
    "unit_of",
]

M = TypeVar("M", bound="Method")

#: Flags of the sampler contract that the registry knows without importing a sampler.
FLAGS = ("accepts_reference", "accepts_mask", "is_shardable", "is_exportable")

#: Tasks on pictures, with what each makes.
TASKS = {
    "reshuffle": "new pictures of the same size from one picture",
    "retarget": "one picture in another size",
    "compose": "new pictures of a scene from a few that are not registered",
    "texture": "a texture of any size from exemplars",
    "analogy": "the structure of one picture, from patches of another",
    "stylize": "a picture in the style of another",
    "inpaint": "a picture with its hole filled",
    "harmonize": "a picture with a pasted object adapted to it",
    "edit": "a coherent picture from a naive edit",
    "denoise": "a picture without its noise",
}


@dataclass(frozen=True)
class _Entry(Generic[M]):
    """A declared method: its settings, and the method or where its class is ("MODULE:CLASS")."""

    settings_class: type[Settings]
    summary: str
    target: str | M
    flags: frozenset[str] = frozenset()


class MethodRegistry(Mapping[str, M]):
    """Methods by name; reading one imports its module.

    Attributes:
        kind: noun for its methods, in errors, and their key in records.
    """

    kind = "method"

    def __init__(self) -> None:
        self._entries: dict[str, _Entry[M]] = {}

    def declare(
        self,
        name: str,
        settings_class: type[Settings],
        summary: str,
        target: str | M,
        flags: Collection[str] = (),
    ) -> None:
        """Enter a method.

        Args:
            name: for users.
            settings_class: its settings; each method has a class of its own.
            summary: one sentence.
            target: the method, or "MODULE:CLASS" relative to this package.
            flags: of :data:`FLAGS`, those that are true of a sampler; of :data:`TASKS`, those that a method on
                pictures does.

        Raises:
            ValueError: for a name or a settings class that another method has.
        """
        for other, entry in self._entries.items():
            if other == name or entry.settings_class is settings_class:
                raise ValueError(f"{self.kind} {name!r}: its name or settings class is that of {other!r}")
        self._entries[name] = _Entry(settings_class, summary, target, frozenset(flags))

    def remove(self, name: str) -> None:
        """Take a method out again."""
        del self._entries[name]

    def __getitem__(self, name: str) -> M:
        entry = self._entries[name]
        if isinstance(entry.target, str):
            module, _, attribute = entry.target.partition(":")
            method = cast(M, getattr(importlib.import_module(module, __package__), attribute)())
            self._entries[name] = replace(entry, target=method)
            return method
        return entry.target

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def named(self, name: str) -> M:
        """Return the method of a name that users gave.

        Raises:
            SettingError: for an unknown name.
        """
        return self[check_choice(self.kind, name, self)]

    def settings_class(self, name: str) -> type[Settings]:
        """Return the settings class of a method, without importing the method."""
        return self._entries[check_choice(self.kind, name, self)].settings_class

    def having(self, flag: str) -> list[str]:
        """Return the names of the methods of which a flag is true, without importing them."""
        return [name for name, entry in self._entries.items() if flag in entry.flags]

    def summary(self, name: str) -> str:
        """Return one sentence about a method."""
        return self._entries[name].summary

    def name_of(self, settings: Settings) -> str:
        """Return the name of the method that settings belong to.

        Raises:
            SettingTypeError: for settings of no registered method.
        """
        for name, entry in self._entries.items():
            if type(settings) is entry.settings_class:
                return name
        raise SettingTypeError("settings", type(settings).__name__, f"settings of one of {', '.join(self)}")

    def of(self, settings: Settings) -> M:
        """Return the method that settings belong to."""
        return self[self.name_of(settings)]

    def settings(self) -> dict[str, dict[str, Setting]]:
        """Return every setting of every method: for each setting's name its declarations by method."""
        found: dict[str, dict[str, Setting]] = {}
        for method, entry in self._entries.items():
            for name, each in declared(entry.settings_class).items():
                found.setdefault(name, {})[method] = each
        return found


class SamplerRegistry(MethodRegistry["Sampler"]):
    """Samplers by name."""

    kind = "sampler"


class PictureMethodRegistry(MethodRegistry["PictureMethod"]):
    """Methods on pictures by name; the first that does a task is the task's default."""

    def default(self, task: str) -> str:
        """Return the name of the default method of a task."""
        return self.having(task)[0]

    def serving(self, task: str, name: str | None = None) -> str:
        """Return the name of a method that does a task: the default where there is no name.

        Raises:
            SettingError: for a method that does not do the task.
        """
        check_choice("task", task, TASKS)
        return self.default(task) if name is None else check_choice(self.kind, name, self.having(task))


#: Samplers by the name users give them.
SAMPLERS = SamplerRegistry()
SAMPLERS.declare(
    "resynthesis",
    ResynthesisSettings,
    "Rebuilds a randomly drawn source, or a reference, from patches of the other sources.",
    ".methods.latent.resynthesis:Resynthesis",
    ("accepts_reference", "is_exportable"),
)
SAMPLERS.declare(
    "diffusion",
    DiffusionSettings,
    "Denoises Gaussian noise, or a noised reference, in closed form by the patches of the sources.",
    ".methods.latent.patch_diffusion:PatchDiffusion",
    ("accepts_reference", "accepts_mask"),
)
SAMPLERS.declare(
    "raster",
    RasterSettings,
    "Grows an image block by block, coarse to fine, in raster order: the sampler of the LatentPatch paper.",
    ".methods.latent.raster:Raster",
    ("accepts_reference", "accepts_mask", "is_shardable", "is_exportable"),
)
SAMPLERS.declare(
    "random-cells",
    RandomCellsSettings,
    "Draws the source of every cell uniformly: a baseline of the paper (figure 1 a).",
    ".methods.latent.random_tiles:RandomCells",
    ("is_shardable",),
)
SAMPLERS.declare(
    "random-patches",
    RandomPatchesSettings,
    "Draws the source of every patch uniformly: a baseline of the paper (figure 1 b).",
    ".methods.latent.random_tiles:RandomPatches",
    ("is_shardable",),
)

#: Methods on pictures by the name users give them; the first that does a task is the task's default.
PICTURE_METHODS = PictureMethodRegistry()
PICTURE_METHODS.declare(
    "style-optimization",
    StyleOptimizationSettings,
    "Paints a picture with patches of another, coarse to fine (Elad & Milanfar, 2017; Samuth et al., 2022).",
    ".methods.single_image.style_optimization:StyleOptimization",
    ("stylize",),
)
PICTURE_METHODS.declare(
    "quilting",
    QuiltingSettings,
    "Joins overlapping blocks of the exemplars along cuts of least error (Efros & Freeman, SIGGRAPH 2001).",
    ".methods.single_image.quilting:Quilting",
    ("texture", "stylize"),
)
PICTURE_METHODS.declare(
    "patch-diffusion",
    PatchDiffusionSettings,
    "Denoises noise by the picture's patches in closed form, all used alike; then copies the nearest patches.",
    ".methods.single_image.patch_diffusion:PatchDiffusion",
    ("reshuffle", "retarget", "compose", "texture"),
)
PICTURE_METHODS.declare(
    "gpnn",
    GPNNSettings,
    "Replaces patches by their nearest neighbors in the picture, coarse to fine (Granot et al., CVPR 2022).",
    ".methods.single_image.gpnn:GPNN",
    ("reshuffle", "retarget", "analogy", "stylize"),
)
PICTURE_METHODS.declare(
    "completion",
    CompletionSettings,
    "Makes a region of patches from elsewhere, coarse to fine (Wexler et al., IEEE PAMI 2007).",
    ".methods.single_image.completion:Completion",
    ("inpaint", "harmonize", "edit"),
)
PICTURE_METHODS.declare(
    "psin",
    PSINSettings,
    "Matches patches in colors and gradients, and joins them by their distances (Cherel et al., ICIP 2022).",
    ".methods.single_image.psin:PSIN",
    ("reshuffle", "retarget"),
)
PICTURE_METHODS.declare(
    "gpdm",
    GPDMSettings,
    "Matches the distribution of patches by steps of gradient descent (Elnekave & Weiss, ECCV 2022).",
    ".methods.single_image.gpdm:GPDM",
    ("reshuffle", "retarget", "texture"),
)
PICTURE_METHODS.declare(
    "efros-leung",
    EfrosLeungSettings,
    "Grows a texture pixel by pixel from windows of the exemplars (Efros & Leung, ICCV 1999).",
    ".methods.single_image.efros_leung:EfrosLeung",
    ("texture", "inpaint"),
)
PICTURE_METHODS.declare(
    "texture-optimization",
    TextureOptimizationSettings,
    "Lowers the distance of all patches to patches of the exemplars, coarse to fine (Kwatra et al., SIGGRAPH 2005).",
    ".methods.single_image.texture_optimization:TextureOptimization",
    ("texture", "reshuffle"),
)
PICTURE_METHODS.declare(
    "nl-pca",
    NLPCASettings,
    "Takes the noise from the principal components of groups of similar patches (Zhang et al., 2010).",
    ".methods.single_image.nl_pca:NLPCA",
    ("denoise",),
)
PICTURE_METHODS.declare(
    "nl-means",
    NLMeansSettings,
    "Averages pixels whose patches are alike: attention of a picture to itself (Buades et al., CVPR 2005).",
    ".methods.single_image.nl_means:NLMeans",
    ("denoise",),
)
for _name, _settings, _summary in (
    ("gaussian", GaussianSettings, "Blurs with a Gaussian window"),
    ("box", BoxSettings, "Averages the pixels of a square"),
    ("median", MedianSettings, "Takes the median of the pixels of a square"),
    ("bilateral", BilateralSettings, "Averages near pixels of like colors (Tomasi & Manduchi, ICCV 1998)"),
    ("guided", GuidedSettings, "Fits linear functions of the picture or a guide (He, Sun & Tang, ECCV 2010)"),
    ("rolling-guidance", RollingGuidanceSettings, "Removes small things, keeps edges (Zhang et al., ECCV 2014)"),
):
    _class = _settings.__name__.removesuffix("Settings")
    PICTURE_METHODS.declare(_name, _settings, f"{_summary}.", f".methods.single_image.filters:{_class}", ("denoise",))


#: Environment variable that names modules with samplers of one's own, separated by commas.
PLUGINS = "LATENTPATCH_PLUGINS"


def import_plugins() -> None:
    """Import the modules that :data:`PLUGINS` names, whose samplers register themselves.

    The command line and the servers call this once at their start.

    Raises:
        SettingError: naming the first module that cannot be imported.
    """
    for name in filter(None, (part.strip() for part in os.environ.get(PLUGINS, "").split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingError(PLUGINS, name, f"modules that can be imported ({error})") from error


def settings_record(settings: Settings, grid: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """Return settings as JSON holds them, with the name of their sampler.

    Args:
        settings: of a sampler.
        grid: of the bank, in whose cells sizes are recorded; that of an empty bank leaves them as they are.
    """
    if isinstance(settings, PatchSettings) and min(grid):
        settings = settings.in_cells(grid)
    return {"sampler": SAMPLERS.name_of(settings), **settings.record()}


def unit_of(settings: Settings, grid: tuple[int, int]) -> int:
    """Return the unit of settings on a grid ``(h, w)``, in cells; 1 for samplers without one."""
    unit = getattr(settings, "unit", 1)
    return cells_of(unit, grid) if isinstance(unit, float) else int(unit)


def settings_from_record(record: Mapping[str, Any]) -> Settings:
    """Return the settings of a record; the raster sampler's where it names no sampler, as old files do.

    Raises:
        TypeError, ValueError: where they are not settings of a sampler.
    """
    kind = SAMPLERS.settings_class(record.get("sampler", "raster"))
    before = {name: each.before for name, each in declared(kind).items() if each.before is not None}
    values = {name: value for name, value in before.items() if name not in record}
    values |= {key: value for key, value in record.items() if key != "sampler" and value is not None}
    return kind(**values)
