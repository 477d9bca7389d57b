"""The model: encoder, PCA, source bank, sampler and decoder in one module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .autoencoders.base import PRECISIONS
from .autoencoders.registry import DEFAULT, Autoencoder, load_autoencoder
from .bank.attributes import Predicate as ParsedPredicate
from .bank.attributes import parse_predicate, read_attributes
from .bank.augmentation import DEFAULT_OFFSET_COST, Variants
from .bank.bank import SourceBank, chunks, look_up
from .bank.fitted_module import pack, unpack
from .bank.format import ModelFile, model_file
from .bank.pca import PCA
from .bank.residuals import add_details, details_of, has_details
from .batching import Costs, Decode, Encode, Operation, Search, Step, run_together
from .errors import FileError, ImageError, SettingError, SettingTypeError, WeightsError
from .io import images
from .io.mmap import Rows
from .methods.base import Context, Sampler
from .methods.latent.presets import DEFAULT_PRESET, INPAINTING_SAMPLER, PRESETS
from .methods.latent.soft import patch_distances, soft_weights
from .ops.blending import DECODINGS, blend, default_decoding
from .ops.compositing import cell_mask, fill_smoothly, join
from .ops.noise import noise_from_seeds
from .pretrained import find_model, upload, write_folder
from .registry import SAMPLERS, settings_from_record, settings_record
from .results import Blend, Generation
from .runs.processes import ALONE, Processes
from .runs.system import choose_device
from .search_op import register, search
from .settings import Settings
from .validation import check_choice, check_integer

__all__ = ["LatentPatch"]

#: An image: a tensor ``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1], or a file.
Picture = Tensor | str | Path
Predicate = Callable[[Mapping[str, str]], bool]
T = TypeVar("T")

_ALL = slice(None)
_ENCODE_BATCH = 16


class LatentPatch(nn.Module):
    """Non-parametric image generation from registered examples, with no training.

    Args:
        autoencoder: an autoencoder, or what :func:`~latentpatch.autoencoders.load_autoencoder` takes:
            ``NAME[:FILE OR FOLDER]``.
        components: principal components kept for the search, r.
        settings: settings of a sampler, which is used where a call says nothing else; by default those of the
            preset :data:`~latentpatch.methods.latent.presets.DEFAULT_PRESET`.

    Example:
        >>> model = LatentPatch("pixels").fit(torch.rand(8, 3, 256, 256))
        >>> new = model.generate(4, seed=0)
        >>> new.images.shape, new.index.shape
        (torch.Size([4, 3, 256, 256]), torch.Size([4, 16, 16]))
    """

    def __init__(
        self,
        autoencoder: Autoencoder | str = DEFAULT,
        components: int = 16,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = load_autoencoder(autoencoder) if isinstance(autoencoder, str) else autoencoder
        channels = self.autoencoder.spec.latent_channels
        if isinstance(components, bool) or not isinstance(components, int) or not 1 <= components <= channels:
            raise ValueError(
                f"components {components!r}: an integer from 1 to {channels} (latent channels) is expected"
            )
        self.components = components
        self.precision = "float32"
        self.settings: Settings = settings or PRESETS[DEFAULT_PRESET]
        self.pca = PCA()
        self.bank = SourceBank()
        #: facts of the autoencoder the bank was made with, where another one decodes it.
        self._encoder: dict[str, Any] | None = None
        #: files that ``fit(..., skip_bad=True)`` left out, with the reason.
        self.skipped: list[tuple[Path, str]] = []
        self._number = register(self)
        self.register_load_state_dict_post_hook(_leave_meta)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = register(self)  # a copy searches its own sources

    @classmethod
    def open(
        cls,
        sources: Tensor | str | Path | Sequence[str | Path],
        *,
        autoencoder: Autoencoder | str | None = None,
        components: int | None = None,
        settings: Settings | None = None,
        device: str | torch.device = "auto",
        precision: str = "float32",
        processes: Processes = ALONE,
        **options: Any,
    ) -> LatentPatch:
        """Load a fitted model file, or fit a model on sources.

        Args:
            sources: one ``.safetensors`` file that :meth:`save` wrote, else the sources of :meth:`fit`.
            autoencoder: an autoencoder or its name; by default the one that the file names, else the package's.
            components, settings: see the class; of a file those that it holds.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:NUMBER``.
            precision: see :attr:`precision`.
            processes: see :meth:`fit`.
            options: of :meth:`fit`; None leaves one at its default.

        Raises:
            SettingError: for a fitted file with options that only fitting has, and arguments out of range.
            ImageError, FileError, WeightsError: for files that cannot be used.
        """
        target = choose_device(device)
        check_choice("precision", precision, PRECISIONS)
        chosen = {name: value for name, value in options.items() if value is not None}
        path = model_file(sources)
        if path is not None:
            for name, value in {"components": components, **chosen}.items():
                if value is not None and name not in ("skip_bad", "progress", "scratch"):
                    raise SettingError(name, value, f"left out: {path} is fitted already")
            model = cls.load(path, autoencoder)
            model.settings = settings or model.settings
            model.to(target)
        else:
            model = cls(autoencoder or DEFAULT, 16 if components is None else components, settings).to(target)
            model.fit(sources, processes=processes, **chosen)
        model.precision = precision
        return model

    # --- sources -----------------------------------------------------------------------------------

    def fit(
        self,
        sources: Tensor | str | Path | Sequence[str | Path],
        *,
        ids: Sequence[str] | None = None,
        attributes: str | Path | Mapping[str, Mapping[str, str]] | None = None,
        size: int | tuple[int, int] | None = None,
        skip_bad: bool = False,
        mirrored: bool = False,
        offsets: int = 0,
        offset_cost: float = DEFAULT_OFFSET_COST,
        details: bool | None = None,
        progress: bool = False,
        scratch: str | Path | None = None,
        processes: Processes = ALONE,
    ) -> LatentPatch:
        """Encode the sources, fit the PCA on their latents and fill the bank. Returns itself.

        Memory holds the bank and one batch of images, whatever the number of sources; with ``scratch`` not
        even the bank.

        Args:
            sources: images ``(B, 3, H, W)`` in [0, 1], or a folder, files, or a text file that lists files.
            ids: a unique name for each source; by default the files' names or numbers.
            attributes: CSV file, or attributes by id, for :meth:`generate`'s ``where``.
            size: ``(height, width)`` or side in pixels files are cropped and resized to; by default the size
                the autoencoder was trained on.
            skip_bad: leave out files that cannot be used, listing them in :attr:`skipped`.
            mirrored: let every source enter as its mirror image, too.
            offsets: let every source enter also moved by up to so many cells, for sources that are not registered. The
                bank then holds ``(2 offsets + 1)^2`` times the sources, twice as many where they are mirrored.
            offset_cost: what keeps copies from being moved: see :class:`~latentpatch.bank.augmentation.Variants`.
            details: keep what the autoencoder loses of the sources, too, to put it back into pictures
                (:mod:`~latentpatch.bank.residuals`): a byte for each colour of a pixel. By default where it is
                :attr:`~latentpatch.autoencoders.Autoencoder.soft`.
            progress: show a progress bar.
            scratch: folder on a disk with room for the bank, where it is then kept in unnamed files for as
                long as the model uses it. The result is the same.
            processes: that call this together, with the same arguments: each encodes its share of the
                sources, and all get all of them, as one alone would have.

        Raises:
            ImageError, FileError: for files that cannot be used.
            TypeError, ValueError: for arguments out of range.
        """
        variants = Variants(mirrored, offsets, offset_cost)
        details = self.autoencoder.soft if details is None else details
        if not isinstance(details, bool):
            raise TypeError(f"details {details!r}: True, False or None is expected")
        known = _attributes_by_id(attributes)
        self.skipped = []
        latents, lost, names = self._encode_sources(
            sources, ids, size, variants, details, skip_bad, progress, scratch, processes
        )
        self._fit_pca(latents)
        self._encoder = None
        for name, value in self.pca.fitted().items():
            setattr(self.pca, name, processes.broadcast(value))  # the last bits are the machine's
        self.bank.fill(latents, names, self.pca, known, self.autoencoder.codebook, scratch, variants, lost)
        return self

    def add(
        self,
        sources: Tensor | str | Path | Sequence[str | Path],
        *,
        ids: Sequence[str] | None = None,
        attributes: str | Path | Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Append sources, in the variants of those already here and with details if these have them; the PCA and these
        stay as they are.

        Arguments and errors are those of :meth:`fit`; files are resized to the size of the bank.
        """
        self._require_fit()
        known = _attributes_by_id(attributes)
        latents, details, names = self._encode_sources(
            sources, ids, self.image_size, self.bank.variants, self.bank.detailed
        )
        self.bank.add(latents, names, self.pca, known, self.autoencoder.codebook, details)

    def remove(self, ids: str | Sequence[str], *, refit: bool = True) -> None:
        """Remove sources, with their variants: none of their latents can appear in any output from now on.

        Args:
            ids: one id or several.
            refit: also fit the PCA anew on the sources that remain, after which the model is what it
                would be had the sources never been there. Without it the other sources' keys stay as they
                are, in a basis the removed ones had a part in.

        Raises:
            ValueError: for an id that is not in the bank, or is that of a variant, or where none would remain.
        """
        gone = [ids] if isinstance(ids, str) else list(ids)
        bank = self.bank
        bank.members(gone)
        if len(set(gone)) >= len(bank.sources):
            raise ValueError(f"removing {len(set(gone))} of {len(bank.sources)} sources would leave none")
        bank.remove(gone)
        if refit:
            self._fit_pca(bank.latents)
            known = dict(zip(bank.ids, bank.attributes, strict=True))
            bank.fill(
                bank.latents,
                bank.sources,
                self.pca,
                known,
                self.autoencoder.codebook,
                variants=bank.variants,
                details=bank.details,
            )

    def subset(self, where: str | Predicate | Tensor) -> LatentPatch:
        """Return a model of some sources, which shares this one's autoencoder and PCA.

        Args:
            where: see :meth:`generate`.
        """
        candidates = self._candidates(where)
        assert candidates is not None
        part = LatentPatch(self.autoencoder, self.components, self.settings)
        part.pca, part.bank = self.pca, self.bank.subset(candidates)
        part.precision, part._encoder = self.precision, self._encoder
        return part

    @property
    def precision(self) -> str:
        """Arithmetic of the decoder, ``float32`` or ``bfloat16``: several times faster where the processor has it."""
        return self._precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self._precision = check_choice("precision", precision, PRECISIONS)

    def _decode(self, latents: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return self.autoencoder.decode(latents, dtype or PRECISIONS[self.precision])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the sources and of what is generated."""
        step = self.autoencoder.spec.downsampling
        return self.bank.grid[0] * step, self.bank.grid[1] * step

    def _encode_sources(
        self,
        sources: Tensor | str | Path | Sequence[str | Path],
        ids: Sequence[str] | None,
        size: int | tuple[int, int] | None,
        variants: Variants,
        details: bool,
        skip_bad: bool = False,
        progress: bool = False,
        scratch: str | Path | None = None,
        processes: Processes = ALONE,
    ) -> tuple[Tensor, Tensor | None, list[str]]:
        """-> (B, h, w, L) float16 or (B, h, w, q) int16, and (B, h, w, d) int8 where there are details, on the module's
        device or in a file; names of the pictures
        """
        names, shape, pictures = self._open(sources, ids, size, skip_bad, processes)
        grid = self.autoencoder.grid(*shape)
        if variants.offsets >= min(grid):
            raise ValueError(
                f"offsets {variants.offsets}: less than {min(grid)} (cells of the shorter side) is expected"
            )
        coded = self.autoencoder.codebook is not None
        depth = self.autoencoder.fold**2 if coded else self.autoencoder.spec.latent_channels
        dtype, device = torch.int16 if coded else torch.float16, self.autoencoder.device
        part = processes.share(len(names))
        count = part.stop - part.start
        kept: list[str] = []
        side = self.autoencoder.spec.downsampling
        details = details and has_details(side) and not self.autoencoder.lossless
        fine = (*grid, 3 * side**2) if details else (0, 0, 0)
        with (
            Rows(count * variants.count, (*grid, depth), dtype, device, scratch) as rows,
            Rows(count * variants.count, fine, torch.int8, device, scratch) as lost,
            tqdm(total=count, desc="encoding", unit="img", disable=not progress, leave=False) as bar,
        ):
            while batch := list(islice(pictures, _ENCODE_BATCH)):
                some, missing = self._varied(torch.stack([picture for _, picture in batch]), variants, details)
                rows.append(some)
                if missing is not None:
                    lost.append(missing)
                kept += [name for name, _ in batch]
                bar.update(len(batch))
            latents = processes.concatenate(rows.tensor(), scratch)
            joined = processes.concatenate(lost.tensor(), scratch) if details else None
        kept = [name for each in processes.gather_objects(kept) for name in each]
        self.skipped = [file for each in processes.gather_objects(self.skipped) for file in each]
        if not kept:
            raise FileError(f"none of the {len(names)} sources could be used; the first: {self.skipped[0][1]}")
        return latents, joined, kept

    def _open(
        self,
        sources: Tensor | str | Path | Sequence[str | Path],
        ids: Sequence[str] | None,
        size: int | tuple[int, int] | None,
        skip_bad: bool,
        processes: Processes,
    ) -> tuple[list[str], tuple[int, int], Iterator[tuple[str, Tensor]]]:
        """-> all names, height and width, and this process' pictures (3, H, W) by name"""
        paths: list[Path] = []
        if isinstance(sources, Tensor):
            if sources.ndim != 4 or not len(sources):
                raise ValueError(
                    f"sources: shape (B, 3, H, W) with B at least 1 is expected, got {tuple(sources.shape)}"
                )
            _check_range("sources", sources)
            names = [str(i) for i in range(len(sources))]
            shape = sources.shape[2], sources.shape[3]
        else:
            paths = images.list_images(*([sources] if isinstance(sources, (str, Path)) else sources))
            names = images.identifiers(paths)
            shape = _side_pair(size, self.autoencoder.spec.image_size)
        if ids is not None:
            if isinstance(ids, str) or not all(isinstance(name, str) for name in ids):
                raise TypeError(f"ids {ids!r}: a sequence of names is expected")
            if len(ids) != len(names) or len(set(ids)) != len(names):
                raise ValueError(
                    f"ids: {len(names)} unique names are expected, got {len(ids)}, {len(set(ids))} different"
                )
            names = list(ids)
        part = processes.share(len(names))
        if isinstance(sources, Tensor):
            return names, shape, zip(names[part], sources[part], strict=True)
        return names, shape, self._read(paths[part], names[part], shape, skip_bad)

    def _read(
        self, paths: Sequence[Path], names: Sequence[str], size: tuple[int, int], skip_bad: bool
    ) -> Iterator[tuple[str, Tensor]]:
        for path, name in zip(paths, names, strict=True):
            try:
                picture = images.read_image(path, size)
            except ImageError as error:
                if not skip_bad:
                    raise
                self.skipped.append((path, str(error)))
                continue
            yield name, picture

    def _fit_pca(self, latents: Tensor) -> None:
        codebook = self.autoencoder.codebook
        self.pca.fit((look_up(chunk, codebook) for chunk in chunks(latents, codebook)), self.components)

    def _varied(self, batch: Tensor, variants: Variants, details: bool) -> tuple[Tensor, Tensor | None]:
        """The variants of images as the bank keeps them, those of one side by side, and their details."""
        turned = [batch, batch.flip(3)] if variants.mirrored else [batch]
        stored = [self._stored(each) for each in turned]
        latents = torch.stack([variants.moved(each) for each in stored], 1).flatten(0, 2)
        if not details:
            return latents, None
        lost = [self._lost(each, held) for each, held in zip(turned, stored, strict=True)]
        return latents, torch.stack([variants.moved(each) for each in lost], 1).flatten(0, 2)

    @torch.no_grad()
    def _lost(self, batch: Tensor, stored: Tensor) -> Tensor:
        """Details of images that are stored so: ``(N, h, w, d)`` int8."""
        network = self.autoencoder
        # In float32: a bank does not depend on the precision of later decoding.
        decoded = network.decode(self._looked_up(stored.movedim(-1, 1)))
        return details_of(batch.to(decoded.device), decoded, network.spec.downsampling)

    def _stored(self, batch: Tensor) -> Tensor:
        """Images as the bank keeps them: float16 latents or int16 codes, channels last."""
        latents = self._encode(batch)
        if self.autoencoder.codebook is not None:
            return self.autoencoder.codes(latents).movedim(1, -1).short()
        stored = latents.movedim(1, -1).half()
        if not bool(torch.isfinite(stored).all()):
            raise ValueError(f"{self.autoencoder.spec.name} gave latents that are not finite in half precision")
        return stored

    def latents_of(self, pictures: Tensor) -> Tensor:
        """Latents of pictures as sources have them, the nearest codes where there is a codebook.

        Args:
            pictures: ``(N, 3, H, W)`` in [0, 1] of the bank's image size.

        Returns:
            ``(N, L, h, w)`` float32.

        Raises:
            TypeError, ValueError: for pictures that are not that.
        """
        self._require_fit()
        batch = self._pictures(pictures, "pictures", len(pictures), self.image_size)
        return self.autoencoder.quantize(self._encode(batch))

    @torch.no_grad()
    def _encode(self, batch: Tensor) -> Tensor:
        return self.autoencoder.encode(batch)

    # --- generation --------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        settings: Settings | None = None,
        sampler: str | None = None,
        reference: Picture | None = None,
        where: str | Predicate | Tensor | None = None,
        decoding: str | None = None,
        precision: str | None = None,
        part: slice = _ALL,
    ) -> Generation:
        """New images.

        Image i is drawn from seed ``seed + i`` alone: it is the same whatever else is asked for with it.

        Args:
            n: number of images.
            seed: seed of the first image, at least 0.
            seeds: the seed of each image, instead of ``n`` and ``seed``.
            settings: settings of a sampler, such as those of
                :data:`~latentpatch.methods.latent.presets.PRESETS`; by default this model's.
            sampler: a key of :data:`~latentpatch.registry.SAMPLERS`; by default the one the settings are
                for.
            reference: picture(s) to be guided by: a file, or ``(3, H, W)`` or ``(1 or n, 3, H, W)`` in [0, 1]
                of the bank's image size.
            where: predicate on attributes that sources must satisfy, as text (``gender=female``) or callable; or
                ascending positions of sources in the bank, ``(C,)`` int64.
            decoding: ``gather`` decodes the full latents of the chosen sources, ``blend`` those without the steps
                where sources meet (:mod:`~latentpatch.ops.blending`; not of codes), ``detail`` these too, and puts back
                what the autoencoder loses of the sources (:mod:`~latentpatch.bank.residuals`); ``unproject`` the
                reduced ones, through the nearest codes where there is a codebook (the paper's way). By default that of
                :meth:`default_decoding`.
            precision: see :attr:`precision`; by default this model's.
            part: of the images, those to decode and return: the processes of a sharded bank search together.

        Returns:
            Images on the module's device, with their provenance.

        Raises:
            TypeError, ValueError: for arguments out of range.
        """
        return self._run(
            self.generating(
                _resolved_seeds(n, seed, seeds),
                settings=settings,
                sampler=sampler,
                reference=reference,
                where=where,
                decoding=decoding,
                precision=precision,
                part=part,
            )
        )

    def generating(
        self,
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        sampler: str | None = None,
        reference: Picture | None = None,
        where: str | Predicate | Tensor | None = None,
        decoding: str | None = None,
        precision: str | None = None,
        part: slice = _ALL,
    ) -> Operation[Generation]:
        """:meth:`generate` as an operation for :meth:`run_together`."""
        index, settings = yield from self.sampling(
            seeds, settings=settings, sampler=sampler, reference=reference, where=where
        )
        sampler, decoding = SAMPLERS.name_of(settings), decoding or self.default_decoding(settings)
        dtype = None if precision is None else PRECISIONS[check_choice("precision", precision, PRECISIONS)]
        pictures = yield Decode(self.latents_at(index, decoding)[part], dtype)
        if decoding == "detail":
            pictures = self._with_details(pictures, index, part)
        chosen = tuple(int(seed) for seed in seeds[part])
        ids, variants = tuple(self.bank.ids), self.bank.variants
        return Generation(pictures, index[part], ids, chosen, sampler, settings, variants)

    def sampling(
        self,
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        sampler: str | None = None,
        reference: Picture | None = None,
        where: str | Predicate | Tensor | None = None,
    ) -> Operation[tuple[Tensor, Settings]]:
        """The first half of :meth:`generating`: index map ``(N, h, w)`` and the settings in force."""
        method, settings = self._sampler(sampler, settings)
        self._require_fit()
        candidates = self._candidates(where)
        guides = None
        if reference is not None:
            if not method.accepts_reference:
                raise SettingError("reference", "a picture", f"None for the sampler {method.name!r}")
            pictures = self._pictures(reference, "reference", len(seeds), self.image_size)
            guides = self.bank.keys_of(self.autoencoder.quantize((yield Encode(pictures))), self.pca)
        context = self._context(candidates, guides is not None)
        settings = method.resolve(settings, context)
        noise = noise_from_seeds(seeds, method.noise_dim(settings, context), self.bank.keys.device)
        index = yield Search(method, settings, noise, candidates, guides)
        return index, settings

    @torch.no_grad()
    def run_together(
        self,
        operations: Sequence[Operation[T]],
        *,
        costs: Costs | None = None,
        check: Callable[[], None] | None = None,
    ) -> list[T | Exception]:
        """Results of several operations, such as :meth:`generating`, which share encoder, sampler and decoder
        calls. Each is what it would be alone.

        Arguments are those of :func:`latentpatch.batching.run_together`.

        Returns:
            For each operation its result, or the exception it ended with.
        """
        return run_together(operations, self._perform, costs=costs, check=check)

    def _run(self, operation: Operation[T]) -> T:
        (outcome,) = run_together([operation], self._perform)
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # or it would hold this frame, and be held by it
        return outcome

    def _perform(self, step: Step) -> Tensor:
        if isinstance(step, Encode):
            return self._encode(step.pictures)
        if isinstance(step, Decode):
            return self._decode(step.latents, step.dtype)
        return self.bank.sample(step.method, step.noise, step.settings, step.candidates, step.reference, step.mask)

    @property
    def noise_dim(self) -> int:
        """Number of uniform variates that :meth:`forward` takes for one image."""
        self._require_fit()
        return SAMPLERS.of(self.settings).noise_dim(self.settings, self._context())

    @property
    def steps(self) -> int:
        """The former name of :attr:`noise_dim`."""
        return self.noise_dim

    def _context(
        self, candidates: Tensor | None = None, has_reference: bool = False, mask: Tensor | None = None
    ) -> Context:
        """Return the inputs of a search over the bank, or over some candidates of it."""
        positions = len(self.bank) if candidates is None else len(candidates)
        return Context(self.bank.grid, positions // self.bank.variants.count, has_reference, mask)

    def forward(self, noise: Tensor) -> Tensor:
        """Images of uniform noise, for use inside larger models.

        The choice of sources has no gradient; one reaches the decoder's weights, where they are made to
        require it.

        Args:
            noise: ``(N, noise_dim)`` uniforms in [0, 1), see :attr:`noise_dim`, float32 or float64 whatever the
                module was converted to; numbers outside count as the nearest inside.

        Returns:
            ``(N, 3, H, W)`` in [0, 1]: float32, or what the module was converted to, as the next layer will be.
        """
        self._require_fit()
        noise = noise.to(self.bank.keys.device)
        index = search(noise, self.bank.keys, self._number) if torch.compiler.is_compiling() else self.search(noise)
        return self.decode(index, self.default_decoding(self.settings)).to(self.autoencoder.dtype)

    def search(self, noise: Tensor) -> Tensor:
        """Return index maps ``(N, h, w)`` int64 of uniforms ``(N, noise_dim)``: the first half of :meth:`forward`."""
        return self.bank.sample(SAMPLERS.of(self.settings), noise, self.settings, None)

    def decode(self, index: Tensor, decoding: str = "gather") -> Tensor:
        """Images of index maps.

        Args:
            index: ``(N, h, w)`` int64 positions in the bank.
            decoding: see :meth:`generate`.

        Returns:
            ``(N, 3, H, W)`` float32 in [0, 1].
        """
        images = self._decode(self.latents_at(index, decoding))
        return self._with_details(images, index) if decoding == "detail" else images

    def default_decoding(self, settings: Settings) -> str:
        """How pictures are decoded where nothing is said: ``detail`` where the bank has the sources' details and this
        autoencoder made them, else ``blend``, or ``gather`` where there is a codebook; ``gather`` for the paper's
        samplers.
        """
        decoding = SAMPLERS.of(settings).default_decoding
        return default_decoding(decoding, self.autoencoder.codebook is not None, self._restores)

    @property
    def _restores(self) -> bool:
        """Whether the bank has details of what this autoencoder loses."""
        return self.bank.detailed and self._encoder is None

    def source_picture(self, position: int) -> Tensor:
        """A source as the bank holds it, decoded, with its details where there are any: ``(3, H, W)`` in [0, 1]."""
        index = torch.full((1, *self._require_fit()), position, dtype=torch.int64, device=self.bank.keys.device)
        return self.decode(index, "detail" if self._restores else "gather")[0]

    def _with_details(self, images: Tensor, index: Tensor, part: slice = _ALL) -> Tensor:
        if not self.bank.detailed:
            raise ValueError("decoding 'detail': sources with details are expected; these were fitted without")
        return add_details(images, index, self.bank.gather_details, part)

    def latents_at(self, index: Tensor, decoding: str = "gather") -> Tensor:
        """Latents of index maps, as :meth:`decode` takes them: ``(N, h, w)`` int64 -> ``(N, L, h, w)`` float32."""
        if decoding == "detail":
            decoding = "gather" if self.bank.coded else "blend"
        if decoding == "gather":
            return self._gather(index)
        if decoding == "blend":
            return blend(self._gather if self.bank.coded else self.bank.gather, index)
        if decoding == "unproject":
            return self.autoencoder.quantize(self.pca.unproject(self.bank.gather_reduced(index)).float())
        raise ValueError(f"decoding {decoding!r}: one of {', '.join(DECODINGS)} is expected")

    def _gather(self, index: Tensor) -> Tensor:
        codebook = self.autoencoder.codebook
        return self._looked_up(self.bank.gather(index, None if codebook is None else len(codebook)))

    def _looked_up(self, stored: Tensor) -> Tensor:
        """What the bank stores, channels first, as latents ``(N, L, h, w)`` float32."""
        return self.autoencoder.lookup(stored) if self.autoencoder.codebook is not None else stored.float()

    def _sampler(self, name: str | None, settings: Settings | None) -> tuple[Sampler, Settings]:
        method = SAMPLERS.of(settings or self.settings) if name is None else SAMPLERS.named(name)
        if settings is None:
            settings = self.settings if isinstance(self.settings, method.Settings) else method.Settings()
        if not isinstance(settings, method.Settings):
            raise SettingTypeError("settings", settings, f"{method.Settings.__name__} for the sampler {method.name!r}")
        return method, settings

    def _candidates(self, where: str | Predicate | Tensor | None) -> Tensor | None:
        if where is None:
            return None
        if isinstance(where, Tensor):
            return where.to(self.bank.keys.device)
        predicate: Predicate = where if callable(where) else parse_predicate(where)
        if isinstance(predicate, ParsedPredicate):
            known = {name for row in self.bank.attributes for name in row}
            unknown = sorted(predicate.names - known)
            if unknown:
                names = ", ".join(sorted(known)) or "none"
                raise ValueError(f"where {where!r}: no source has the attribute {unknown[0]!r}; known: {names}")
        chosen = self.bank.select(predicate)
        if not len(chosen):
            raise ValueError(f"where {str(where)!r}: none of the {len(self.bank.sources)} sources satisfies it")
        return chosen

    def soft(
        self,
        reference: Tensor | None = None,
        *,
        latents: Tensor | None = None,
        temperature: float = 0.1,
        patch_size: int = 4,
        neighbours: int | None = None,
        hard: bool = False,
        where: str | Predicate | Tensor | None = None,
    ) -> Blend:
        """Pictures, or latents that are learned, made again from weighted means of all sources, with gradients.

        The weights of a cell are the softmax of its patch's distances to the sources' over the temperature, see
        :mod:`latentpatch.methods.latent.soft`; towards 0 it takes the nearest source alone.

        Args:
            reference: ``(3, H, W)`` or ``(N, 3, H, W)`` in [0, 1] of the bank's image size.
            latents: ``(N, L, h, w)`` of the autoencoder, instead of a picture.
            temperature: above 0, in units of the sources' variance: two of them are about 2 apart.
            patch_size: side of the compared patches in cells (omega).
            neighbours: how many nearest sources take part in a cell; None for all.
            hard: take the nearest source alone, but with the gradient of the soft weights (straight through).
            where: see :meth:`generate`.

        Returns:
            Images that carry gradients to ``reference`` or ``latents``, and the weights. Pixels that the decoder takes
            beyond [0, 1] have none.

        Raises:
            TypeError, ValueError: for arguments out of range.
        """
        self._require_fit()
        if (reference is None) == (latents is None):
            raise TypeError("soft: either a reference or latents are expected")
        if reference is not None:
            count = len(reference) if reference.ndim == 4 else 1
            latents = self.autoencoder.encode(self._pictures(reference, "reference", count, self.image_size))
        assert latents is not None
        weights = self._soft_weights(latents, self._candidates(where), temperature, patch_size, neighbours, hard)
        pictures = self._decode(self.bank.blend(weights, self.autoencoder.codebook))
        return Blend(pictures, weights, tuple(self.bank.ids))

    def _soft_weights(
        self,
        latents: Tensor,
        candidates: Tensor | None,
        temperature: float,
        patch_size: int,
        neighbours: int | None,
        hard: bool,
    ) -> Tensor:
        """-> (N, B, h, w) float32, zero for sources that are no candidates"""
        wanted = (self.autoencoder.spec.latent_channels, *self.bank.grid)
        if latents.ndim != 4 or tuple(latents.shape[1:]) != wanted or not latents.is_floating_point():
            given = f"{str(latents.dtype).removeprefix('torch.')} {tuple(latents.shape)}"
            raise ValueError(
                f"latents: floating point of shape (N, {', '.join(map(str, wanted))}) is expected, got {given}"
            )
        keys = self.bank.searchable()
        if len(keys) != len(self.bank):
            raise ValueError("soft: a bank that is not sharded is expected")
        chosen = keys if candidates is None else keys[candidates]
        # Doubles: as the temperature falls, differences of large numbers decide.
        sources = chosen.double() * self.bank.key_step.double()
        distances = patch_distances(self.pca.project(latents.to(keys.device)), sources, patch_size)
        variance = float(self.pca.explained_variance.double().sum()) or 1.0  # of equal sources it is 0
        weights = soft_weights(distances / variance, temperature, neighbours, hard=hard).float()
        if candidates is None:
            return weights
        everyone = weights.new_zeros((len(weights), len(self.bank), *weights.shape[2:]))
        return everyone.index_copy(1, candidates, weights)

    # --- editing -----------------------------------------------------------------------------------

    @torch.no_grad()
    def edit(self, image: Picture, donor: Picture, mask: Tensor, *, composite: bool = False) -> Generation:
        """Copy latents of a donor under a mask and decode (figure 1 e).

        Args:
            image: the picture to edit, ``(3, H, W)`` in [0, 1] or a file.
            donor: the picture to copy from, registered with it, or ``source:ID`` for one of the bank.
            mask: ``(H, W)`` bool, True where the donor goes; cells half covered or more are copied.
            composite: keep the image's own pixels outside the copied cells, joined without a seam,
                instead of their reconstruction.

        Raises:
            ValueError: for shapes that do not fit, or a mask that selects no cell.
        """
        return self._run(self.editing(image, donor, mask, composite=composite))

    def editing(
        self, image: Picture, donor: Picture, mask: Tensor, *, composite: bool = False
    ) -> Operation[Generation]:
        """:meth:`edit` as an operation for :meth:`run_together`."""
        size = self._size_of(image)
        target = self._pictures(image, "image", 1, size)
        cells = self._cells(mask, size, 0.5)
        ids, position, source = self._donor(donor, size)
        if source.dtype == torch.float32:  # a picture
            latents = self.autoencoder.quantize((yield Encode(torch.cat([target, source]))))
            kept, copied = latents.split(1)
        else:
            copied = self._gather(source)
            kept = self.autoencoder.quantize((yield Encode(target)))
        result = yield Decode(torch.where(cells, copied, kept))
        if composite:
            result = join(result, target, _to_pixels(cells, self.autoencoder.spec.downsampling))
        variants = self.bank.variants if len(ids) > 1 else Variants()
        return Generation(result, torch.where(cells, position, -1)[None], ids, variants=variants)

    @torch.no_grad()
    def inpaint(
        self,
        image: Picture,
        mask: Tensor,
        n: int = 1,
        *,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        settings: Settings | None = None,
        sampler: str | None = None,
        where: str | Predicate | Tensor | None = None,
        composite: bool = True,
    ) -> Generation:
        """Fill a region with patches of the sources that fit its surroundings, in several ways.

        Args:
            image: ``(3, H, W)`` in [0, 1] or a file; what it holds under the mask is not looked at.
            mask: ``(H, W)`` bool, True where pixels are to be replaced.
            n: number of different fillings.
            seed: seed of the first filling; see :meth:`generate`.
            seeds: the seed of each filling, instead of ``n`` and ``seed``.
            settings: settings of a sampler that accepts masks; the raster's where neither settings nor a sampler are
                named, at three scales, so that large regions hold together.
            sampler: a sampler that accepts masks.
            where: see :meth:`generate`.
            composite: keep the image's own pixels outside the mask, joined without a seam, instead of
                their reconstruction.

        Raises:
            ValueError: for shapes that do not fit, or a mask that selects nothing.
        """
        return self._run(
            self.inpainting(
                image,
                mask,
                _resolved_seeds(n, seed, seeds),
                settings=settings,
                sampler=sampler,
                where=where,
                composite=composite,
            )
        )

    def inpainting(
        self,
        image: Picture,
        mask: Tensor,
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        sampler: str | None = None,
        where: str | Predicate | Tensor | None = None,
        composite: bool = True,
    ) -> Operation[Generation]:
        """:meth:`inpaint` as an operation for :meth:`run_together`."""
        self._require_fit()
        candidates = self._candidates(where)
        cells = self._cells(mask, self.image_size, 0)
        pixels = mask.to(self.autoencoder.device)
        target = self._pictures(image, "image", 1, self.image_size)
        # The encoder sees beyond a cell: what is to go must not colour its neighbours.
        latents = self.autoencoder.quantize((yield Encode(fill_smoothly(target, pixels))))
        context = self._context(candidates, True, cells)
        name = INPAINTING_SAMPLER if settings is None and sampler is None else sampler
        method, chosen = self._sampler(name, settings)
        if not method.accepts_mask:
            raise SettingError("sampler", method.name, "one that fills masks")
        chosen = method.resolve(chosen, context)
        noise = noise_from_seeds(seeds, method.noise_dim(chosen, context), self.bank.keys.device)
        guides = self.bank.keys_of(latents, self.pca)
        index = yield Search(method, chosen, noise, candidates, guides, cells)
        filled = torch.where(index[:, None] < 0, latents, self._gather(index.clamp(min=0)))
        result = yield Decode(filled)
        if self._restores:
            result = self._with_details(result, index)
        if composite:
            result = join(result, target, pixels)
        ids, chosen_seeds = tuple(self.bank.ids), tuple(int(s) for s in seeds)
        return Generation(result, index, ids, chosen_seeds, method.name, chosen, self.bank.variants)

    @torch.no_grad()
    def reconstruct(self, image: Picture, *, reduced: bool = False) -> Tensor:
        """Images through the autoencoder and back.

        Args:
            image: a file, or ``(3, H, W)`` or ``(N, 3, H, W)`` in [0, 1].
            reduced: also through the PCA and back (table 1, second row).

        Returns:
            ``(N, 3, H, W)`` float32 in [0, 1].
        """
        return self._run(self.reconstructing(image, reduced=reduced))

    def reconstructing(self, image: Picture, *, reduced: bool = False) -> Operation[Tensor]:
        """:meth:`reconstruct` as an operation for :meth:`run_together`."""
        if isinstance(image, Tensor):
            batch = image if image.ndim == 4 else image[None]
            _check_range("image", batch)
        else:
            batch = images.read_image(image, self.image_size if len(self.bank) else None)[None]
        if reduced:
            self._require_fit()
        latents = self.autoencoder.quantize((yield Encode(batch)))
        if reduced:
            latents = self.autoencoder.quantize(self.pca.unproject(self.pca.project(latents)).float())
        result = yield Decode(latents)
        return result

    def _size_of(self, image: Picture) -> tuple[int, int]:
        """Size at which a picture is edited: its own, or for a file the bank's."""
        if isinstance(image, Tensor):
            self.autoencoder.grid(*image.shape[-2:])
            return image.shape[-2], image.shape[-1]
        return self.image_size if len(self.bank) else _side_pair(None, self.autoencoder.spec.image_size)

    def _pictures(self, picture: Picture, name: str, count: int, size: tuple[int, int]) -> Tensor:
        """-> (1 or count, 3, H, W) float32 on the module's device"""
        if not isinstance(picture, Tensor):
            picture = images.read_image(picture, size)
        batch = picture if picture.ndim == 4 else picture[None]
        if batch.shape[1:] != (3, *size) or len(batch) not in (1, count) or not batch.is_floating_point():
            wanted = "1" if count == 1 else f"1 or {count}"
            raise ValueError(
                f"{name}: floating point of shape ({wanted}, 3, {size[0]}, {size[1]}) is expected, "
                f"got {str(picture.dtype).removeprefix('torch.')} {tuple(picture.shape)}"
            )
        _check_range(name, batch)
        return batch.to(self.autoencoder.device, torch.float32)

    def _cells(self, mask: Tensor, size: tuple[int, int], least: float) -> Tensor:
        if mask.dtype != torch.bool or tuple(mask.shape) != size:
            given = f"{str(mask.dtype).removeprefix('torch.')} {tuple(mask.shape)}"
            raise ValueError(f"mask: bool of shape {size} is expected, got {given}")
        cells = cell_mask(mask.to(self.autoencoder.device), self.autoencoder.grid(*size), least)
        if not bool(cells.any()):
            raise ValueError("mask: it selects no cell of the latent grid; at least one is expected")
        return cells

    def _donor(self, donor: Picture, size: tuple[int, int]) -> tuple[tuple[str, ...], int, Tensor]:
        """-> ids of the result, position of the donor in them, its picture (1, 3, H, W) or its index map (1, h, w)"""
        if isinstance(donor, str) and donor.startswith("source:"):
            position = self.bank.positions([donor.removeprefix("source:")])[0]
            if size != self.image_size:
                raise ValueError(
                    f"donor {donor!r}: an image of the bank's size {self.image_size} is expected, got {size}"
                )
            index = torch.full((1, *self.bank.grid), position, dtype=torch.int64, device=self.autoencoder.device)
            return tuple(self.bank.ids), position, index
        name = "donor" if isinstance(donor, Tensor) else Path(donor).stem
        return (name,), 0, self._pictures(donor, "donor", 1, size)

    # --- state -------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """The autoencoder's facts and the SHA-256 of its weights, for files that must be repeatable."""
        spec = asdict(self.autoencoder.spec)
        return {**spec, "fold": self.autoencoder.fold, "sha256": self.autoencoder.fingerprint()}

    def origin(self) -> dict[str, Any]:
        """:meth:`identity` of the autoencoder that the sources were encoded with."""
        return self._encoder or self.identity()

    def save(self, path: str | Path) -> None:
        """Write PCA, bank and settings to one safetensors file; the autoencoder's weights are not in it.

        The file's header names the autoencoder, the SHA-256 and licence of its weights, and the settings.

        Raises:
            FileError: where it cannot be written.
        """
        self._require_fit()
        ModelFile(self.origin(), self.pca.components, self.settings, self.pca, self.bank).write(path)

    @classmethod
    def load(cls, path: str | Path, autoencoder: Autoencoder | str | None = None) -> LatentPatch:
        """Read what :meth:`save` wrote.

        A large file (:data:`~latentpatch.bank.format.MAPPED_FROM`) is mapped instead: memory holds what is
        used of it. It must stay as it is meanwhile; another may take its name.

        Args:
            path: the file.
            autoencoder: the autoencoder, or ``NAME[:FILE OR FOLDER]``; by default the one the file names,
                from the cache or the network. One with the same latent space may take its place.

        Raises:
            FileError: where it is not such a file.
            WeightsError: where the autoencoder's weights are not those the model was fitted with.
        """
        stored = ModelFile.read(path)
        facts = stored.autoencoder
        try:
            if autoencoder is None:
                autoencoder = load_autoencoder(facts["name"], facts["argument"])
            elif isinstance(autoencoder, str):
                autoencoder = load_autoencoder(autoencoder)
        except ValueError as error:
            raise FileError(f"{path}: its autoencoder cannot be built: {error}") from error
        spec = autoencoder.spec
        other = spec.name != facts["name"] and (spec.latent_space or spec.name) == (
            facts["latent_space"] or facts["name"]
        )
        if not other and autoencoder.fingerprint() != facts["sha256"]:
            raise WeightsError(
                f"{path} was fitted with {facts['name']} of SHA-256 {facts['sha256'][:16]}…, "
                f"got {autoencoder.spec.name} of {autoencoder.fingerprint()[:16]}…"
            )
        try:
            model = cls(autoencoder, stored.components, stored.settings)
        except ValueError as error:
            raise FileError(f"{path}: malformed model file: {error}") from error
        bank, codebook = stored.bank, autoencoder.codebook
        channels = autoencoder.fold**2 if bank.coded else spec.latent_channels
        if bank.coded != (codebook is not None) or bank.latents.shape[3] != channels:
            raise FileError(f"{path}: malformed model file: latents that {spec.name} does not make")
        if bank.detailed and bank.details.shape[3] != 3 * spec.downsampling**2:
            raise FileError(f"{path}: malformed model file: details that cells of {spec.name} do not have")
        if codebook is not None and not bank.mapped and int(bank.latents.max()) >= len(codebook):
            raise FileError(f"{path}: malformed model file: codes beyond the {len(codebook)} of {spec.name}")
        model.pca, model.bank = stored.pca.to(autoencoder.device), bank.to(autoencoder.device)
        model._encoder = facts if other else None
        return model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        autoencoder: Autoencoder | str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> LatentPatch:
        """Read what :meth:`save_pretrained` or :meth:`push_to_hub` wrote.

        Folders need neither a network nor huggingface_hub (``pip install latentpatch[huggingface]``).

        Args:
            pretrained_model_name_or_path: a folder, or ``OWNER/NAME`` on the Hugging Face Hub.
            autoencoder: see :meth:`load`.
            revision, token, cache_dir, force_download, local_files_only: as of ``huggingface_hub.hf_hub_download``.

        Raises:
            FileError: where there is no such model, or it cannot be had.
            WeightsError: where the autoencoder's weights are not those it was fitted with.
        """
        path = find_model(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        return cls.load(path, autoencoder)

    def save_pretrained(self, save_directory: str | Path, *, repo_id: str | None = None) -> None:
        """Write the model file and a model card, ``README.md``, into a folder.

        Args:
            save_directory: the folder, made where it is missing.
            repo_id: where it is going to be published, for the card.

        Raises:
            FileError: where they cannot be written.
        """
        self._require_fit()
        write_folder(self, save_directory, repo_id)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using latentpatch",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Publish the model, **and with it its sources**, on the Hugging Face Hub.

        Args:
            repo_id: ``OWNER/NAME``; made where it is missing.
            commit_message, private, token, revision, create_pr: as of ``huggingface_hub.HfApi``.

        Returns:
            Address of the commit.

        Raises:
            FileError: where that is not possible.
        """
        self._require_fit()
        return upload(
            self,
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )

    def get_extra_state(self) -> Tensor:
        return pack({"components": self.components, "settings": settings_record(self.settings)})

    def set_extra_state(self, state: Any) -> None:
        record = unpack(state)
        self.components, self.settings = record["components"], settings_from_record(record["settings"])

    def with_settings(self, sampler: str | None = None, **changes: Any) -> Settings:
        """The settings a sampler would be given, with some changed.

        Args:
            sampler: its name; by default the one this model's settings are for.
            changes: by name.

        Raises:
            TypeError: for a setting it does not have.
            ValueError: for an unknown sampler, or a setting out of range.
        """
        return self._sampler(sampler, None)[1].changed(**changes)

    def _require_fit(self) -> tuple[int, int]:
        if not len(self.bank):
            raise RuntimeError("the model has no sources yet: call fit, load or load_state_dict first")
        return self.bank.grid


def _leave_meta(model: LatentPatch, _: object) -> None:
    model.autoencoder.settle(model.bank.keys.device)


def _attributes_by_id(
    attributes: str | Path | Mapping[str, Mapping[str, str]] | None,
) -> Mapping[str, Mapping[str, str]] | None:
    return read_attributes(attributes) if isinstance(attributes, (str, Path)) else attributes


def _check_range(name: str, pictures: Tensor) -> None:
    if not pictures.is_floating_point():
        raise TypeError(f"{name}: a floating-point tensor is expected, got {pictures.dtype}")
    least, most = (float(value) for value in pictures.detach().aminmax())
    if not (least >= 0 and most <= 1):  # so that NaN fails too
        raise ValueError(f"{name}: values from 0 to 1 are expected, got {least} to {most}")


def _side_pair(size: int | tuple[int, int] | None, default: int) -> tuple[int, int]:
    if size is None:
        return default, default
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _to_pixels(cells: Tensor, side: int) -> Tensor:
    return cells.repeat_interleave(side, 0).repeat_interleave(side, 1)


def _resolved_seeds(n: int, seed: int, seeds: Sequence[int] | None) -> Sequence[int]:
    """The seed of each image, given or counted up from the first."""
    if seeds is not None:
        return seeds
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    return range(seed, seed + n)
