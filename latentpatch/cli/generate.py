"""``latentpatch generate``: make new images from sources; with ``--unregistered``, of a scene from a few pictures."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ops.decodings import DECODING_HELP
from ..registry import SAMPLERS
from ..runs.launch import num_processes
from ..runs.system import few_searches
from . import _options as cli
from ._formats import FormatOptions
from ._pictures import MethodOptions, PictureOptions, make_and_write
from ._rejection import RejectionOptions
from ._samplers import SamplerOptions

if TYPE_CHECKING:
    from ..datasets import Classes
    from ..results import Generation

__all__ = ["run"]


#: Pictures times sources up to which torch finds them sooner than Numba's loops are loaded: half a second.
_SHORT_SEARCH = 1 << 14
#: Sources whose search takes torch as long as all of a search that does not depend on their number.
_SOURCES_OF_OVERHEAD = 160
#: Sources up to which a search by torch is no shorter with several threads than with one.
_LIGHT_SEARCH = 2000


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(cli.SampleOptions):
    reference: Path | None = cli.option(Path, "IMAGE", "picture to resemble, cropped and resized as sources are")
    decoding: str | None = cli.choice(DECODING_HELP, "; ".join(map(": ".join, DECODING_HELP.items())))
    align: bool = cli.flag(
        "register the sources first, as the command align does; the aligned pictures are in OUTPUT-aligned"
    )
    sampler: SamplerOptions = cli.group(SamplerOptions)
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    rejection: RejectionOptions = cli.group(RejectionOptions)
    files: FormatOptions = cli.group(FormatOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions)
    shard_bank: bool = cli.flag("with torchrun, let each process search its part of a model file")

    def check(self) -> None:
        super().check()
        sampler = self.sampler.checked_name(self.sources.is_fitted)
        if self.shard_bank and not self.sources.is_fitted:
            raise ValueError("--shard-bank needs a fitted model file: fit the sources first")
        if self.rejection.audited and (self.shard_bank or self.files.labels is not None):
            raise ValueError(f"--audited cannot be with {'--shard-bank' if self.shard_bank else '--labels'}")
        if self.align and self.sources.is_fitted:
            raise ValueError(f"--align: {self.sources.sources[0]} is fitted already; align its pictures, and fit them")
        if self.align and num_processes() > 1:
            raise ValueError("--align must be in one process: run latentpatch align first")
        if self.shard_bank:
            _require("--shard-bank", sampler or _sampler_of(self.sources.sources[0]), "is_shardable")
        for name in ("where", "reference", "shard_bank"):
            if self.files.labels is not None and getattr(self, name):
                raise ValueError(
                    f"--labels chooses the sources of each picture: --{name.replace('_', '-')} cannot be there"
                )
        if self.reference is not None and sampler is not None:
            _require("--reference", sampler, "accepts_reference")


def _require(option: str, sampler: str, flag: str) -> None:
    """Refuse an option that needs another sampler."""
    names = SAMPLERS.having(flag)
    if sampler not in names:
        raise ValueError(f"{option} needs --sampler {'|'.join(names)}, got {sampler}")


def _sampler_of(path: Path) -> str:
    """Return the sampler of the settings in a model file."""
    from ..bank.format import ModelFile

    return SAMPLERS.name_of(ModelFile.read(path).settings)


def _by_trained_model(options: GenerateOptions, context: cli.RunContext) -> dict[str, Any]:
    """Generate images by a trained model and write them."""
    from ._pictures import make_and_write
    from .reshuffle import ReshuffleMethodOptions, ReshuffleOptions

    path = options.sources.sources[0]
    shared: dict[str, Any] = {"output": options.output, "n": options.n, "seed": options.seed}
    run = replace(options.run, resume=False)
    groups: dict[str, Any] = {
        "sampler": SamplerOptions(),
        "rejection": RejectionOptions(),
        "files": FormatOptions(),
    }
    plain = GenerateOptions(**shared, **groups, sources=cli.SourceOptions(sources=(path,)), run=run)
    if options != plain:
        raise ValueError(f"{path} is a trained model: generate takes -n and --seed with it, reshuffle --size, too")
    method = ReshuffleMethodOptions()
    return make_and_write(ReshuffleOptions(**shared, pictures=(path,), run=run, method=method), context, method)


@cli.command(
    GenerateOptions,
    "generate PICTURES -n 100 -o out",
    "generate PICTURES --align -o out    # if faces or things are not at the same place in all pictures",
    "generate PICTURES --preset few --mirrored -o out    # for some sixteen pictures",
    "generate PICTURES --reference face.jpg -o like-this",
    "generate PICTURES -n 100 --audited -o new    # none that is too near to one of the sources",
    "generate PICTURES -n 20000 --shards 1000 --format webp -o set    # for training: WebDataset tars",
    is_parallel=True,
)
def generate_registered(options: GenerateOptions, context: cli.RunContext) -> dict[str, Any]:
    """Generate images and write them."""
    from ..io.images import read_image
    from ..methods.trained.base import is_trained
    from ..runs.threads import one_thread_an_operation
    from ._load import note_few, open_model
    from ._output import run_facts
    from ._registration import align_sources, note_picture
    from ._writers import sample_writer, staging_folder

    if is_trained(options.sources.sources[0]):
        return _by_trained_model(options, context)
    where, has_reference, sources = options.where, options.reference is not None, options.sources
    if options.align:
        sources = align_sources(sources, options.output, context)
    with staging_folder(options.output, context) as staging:
        model = open_model(sources, context, options.output, where, options.sampler, has_reference, options.shard_bank)
        settings = options.sampler.settings_for(model, where)
        decoding = options.decoding or model.default_decoding(settings)
        reference = None if options.reference is None else read_image(options.reference, model.image_size)
        if options.reference is not None and reference is not None and not options.shard_bank:
            note_picture(model, options.reference, reference, context)
        if not options.shard_bank:
            note_few(model, options.sampler, settings, where, context)
        labels = options.files.labels
        rejection = options.rejection.find_rejection(model, options.sources, context)
        audited = None if rejection is None else rejection.record
        chosen = {"where": where, "decoding": decoding, "labels": labels, "audited": audited}
        facts = run_facts(model, context, chosen, {"reference": options.reference})
        inputs: dict[str, Any] = {"settings": settings, "reference": reference, "where": where, "decoding": decoding}
        classes = None if labels is None else _classes(model, labels, settings, decoding)
        is_short = options.n * (_SOURCES_OF_OVERHEAD + len(model.bank)) <= _SHORT_SEARCH
        is_light = rejection is None and len(model.bank) <= _LIGHT_SEARCH
        with (
            one_thread_an_operation() if is_light else nullcontext(),
            sample_writer(staging, options, model, context, facts, settings, formats=options.files) as writer,
            few_searches() if is_short else nullcontext(),
        ):
            for seeds, part in writer.batches(options):
                if rejection is not None:
                    writer.add(*rejection.generate(model, seeds=seeds, **inputs))
                elif classes is None:
                    writer.add(model.generate(seeds=seeds, part=part, **inputs))
                else:
                    writer.add(*_labelled(classes, [seed - options.seed for seed in seeds], options.seed))
            return writer.close()


def _classes(*arguments: Any) -> Classes:
    from ..datasets import Classes  # brings along what others do not need

    return Classes(*arguments)


def _labelled(classes: Classes, numbers: list[int], seed: int) -> tuple[Generation, list[dict[str, Any]]]:
    """Return the samples of :class:`~latentpatch.datasets.RecombinedSamples`, and the label of each."""
    from ..bank.predicate import equality

    chosen, made, settings = classes.samples(numbers, seed)
    facts = []
    for number, record in zip(chosen, settings, strict=True):
        label = classes.labels[number]
        facts.append({"label": label, "class": number, "where": equality(classes.attribute, label), **record})
    return made, facts


class ComposeMethodOptions(MethodOptions):
    """A method that makes pictures of a scene."""

    task = "compose"


@dataclass(frozen=True, kw_only=True)
class ComposeOptions(PictureOptions):
    pictures: tuple[Path, ...] = cli.argument("SOURCES", f"{cli.PICTURES_HELP}: a few of a kind of scene", "+")
    unregistered: bool = cli.flag("make pictures of a scene from a few pictures that are not registered", required=True)
    n: int = cli.count_option(16)
    size: tuple[int, int] | None = cli.option(
        cli.image_size, "SIDE|HxW", "pixels of the results; by default those of the first picture"
    )
    structure: tuple[Path, ...] = cli.option(
        Path, "PICTURES", f"{cli.PICTURES_HELP}, whose coarse layout the results have, in turn; by default from noise",
        nargs="+", default=(),
    )  # fmt: skip
    method: ComposeMethodOptions = cli.group(ComposeMethodOptions)


@cli.command(
    ComposeOptions,
    "generate landscapes/ --unregistered -n 16 --size 128x192 -o out",
    "generate landscapes/ --unregistered --structure sketches/ -o like-sketches",
    "generate a.jpg b.jpg c.jpg --unregistered --continuity 100 --position 5 -o out",
    bare=generate_registered,
    marker="--unregistered",
)
def run(options: ComposeOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make pictures of a scene and write them."""
    from ..io.listing import list_images
    from ..picture_tasks import picture_tensors
    from ._output import file_facts

    options = replace(options, pictures=tuple(list_images(*options.pictures)))
    inputs: dict[str, Any] = {}
    facts: dict[str, Any] = {"unregistered": True}
    if options.structure:
        files = list_images(*options.structure)
        inputs["target"] = picture_tensors(files)
        facts["structure"] = [file_facts(path) for path in files]
    return make_and_write(options, context, options.method, options.size, facts=facts, **inputs)
