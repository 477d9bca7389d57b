"""The model: encoder, PCA, source bank, sampler and decoder in one module.

:class:`LatentPatch` is a facade. Its methods on sources are in :mod:`latentpatch.fitting`, its tasks in
:mod:`latentpatch.tasks`, model files in :mod:`latentpatch.bank.format`, the Hugging Face Hub in :mod:`latentpatch.hub`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from . import fitting, tasks
from .autoencoders.base import PRECISIONS
from .autoencoders.registry import DEFAULT, Autoencoder, load_autoencoder
from .bank.bank import SourceBank
from .bank.encode import Sources
from .bank.fitted_module import pack, restored_on_error, unpack
from .bank.format import ModelFile, model_file
from .bank.pca import PCA
from .bank.residuals import add_residuals
from .batching import Costs, Decode, Encode, Operation, Step, run_together
from .default_settings import DefaultSettings
from .errors import SettingError
from .hub import PretrainedMixin
from .inputs import Picture, image_batch
from .methods.base import Context
from .methods.latent.presets import default_settings, settings_named
from .ops.blending import DECODINGS, blend, default_decoding, stiffness_of
from .registry import SAMPLERS, settings_from_record, settings_record, unit_of
from .runs.defaults import plain_torch
from .runs.processes import ALONE, Processes
from .runs.system import choose_device
from .search_op import register, search
from .settings import Settings
from .validation import check_choice, check_integer

__all__ = ["LatentPatch", "Picture"]

T = TypeVar("T")


class LatentPatch(PretrainedMixin, DefaultSettings, nn.Module):
    """Non-parametric image generation from registered examples, with no training.

    Args:
        autoencoder: an autoencoder, or the text that :func:`~latentpatch.autoencoders.load_autoencoder` takes:
            ``NAME[:FILE OR FOLDER]``.
        components: number of principal components that the search compares, r.
        settings: settings of a sampler or the name of a preset, the default of all calls; by default a preset that
            follows from the number of sources (:func:`~latentpatch.methods.latent.presets.default_settings`).

    Attributes:
        autoencoder: pixels to latents and back.
        pca: latents to search keys.
        bank: the sources.
        skipped: files that ``fit(..., skip_bad=True)`` left out, with the reason.

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
        settings: Settings | str | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = load_autoencoder(autoencoder) if isinstance(autoencoder, str) else autoencoder
        self.components = check_integer("components", components, 1, self.autoencoder.spec.latent_channels)
        self.settings = settings_named(settings)
        self.precision = "float32"
        with plain_torch(keeps_device=True):
            self.pca, self.bank = PCA().to(self.autoencoder.device), SourceBank().to(self.autoencoder.device)
        self.skipped: list[tuple[Path, str]] = []
        self._number = register(self)
        self.register_load_state_dict_post_hook(_materialize_buffers)

    #: Facts of the autoencoder that encoded the sources; None where no state tells of them.
    _origin: dict[str, Any] | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = register(self)  # a copy searches its own sources

    @classmethod
    def open(
        cls,
        sources: Sources,
        *,
        autoencoder: Autoencoder | str | None = None,
        components: int | None = None,
        settings: Settings | str | None = None,
        device: str | torch.device = "auto",
        precision: str = "float32",
        processes: Processes = ALONE,
        **options: Any,
    ) -> LatentPatch:
        """Load a fitted model file, or fit a model on sources.

        Args:
            sources: one ``.safetensors`` file that :meth:`save` wrote, else the sources of :meth:`fit`.
            autoencoder: an autoencoder or its name; by default the one that the file names, else the package's.
            components, settings: see the class; by default those of a file.
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
            model.settings = settings_named(settings) or model.chosen_settings
            model.to(target)
        else:
            model = cls(autoencoder or DEFAULT, 16 if components is None else components, settings).to(target)
            model.precision = precision
            model.fit(sources, processes=processes, **chosen)
        model.precision = precision
        return model

    fit, add, remove, subset = fitting.fit, fitting.add, fitting.remove, fitting.subset

    # Tasks, and their steps for run_together.
    generate, generating, sampling = tasks.generate, tasks.generating, tasks.sampling
    inpaint, inpainting = tasks.inpaint, tasks.inpainting
    edit, editing = tasks.edit, tasks.editing
    reconstruct, reconstructing = tasks.reconstruct, tasks.reconstructing
    soft = tasks.soft

    @property
    def precision(self) -> str:
        """Arithmetic of networks, ``float32`` or ``bfloat16``, which is faster where the processor has it.

        It is that of :meth:`fit`, and of decoding. Other pictures are encoded as the sources were.
        """
        return self._precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self._precision = check_choice("precision", precision, PRECISIONS)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the sources and of generated images."""
        step = self.autoencoder.spec.downsampling
        return self.bank.grid[0] * step, self.bank.grid[1] * step

    def require_fit(self) -> tuple[int, int]:
        """Return the bank's grid ``(h, w)``.

        Raises:
            RuntimeError: where the model has no sources.
        """
        if not len(self.bank):
            raise RuntimeError("the model has no sources yet: call fit, load or load_state_dict first")
        return self.bank.grid

    # --- running tasks -----------------------------------------------------------------------------

    @torch.no_grad()
    @plain_torch()
    def run_together(
        self,
        operations: Sequence[Operation[T]],
        *,
        costs: Costs | None = None,
        check: Callable[[], None] | None = None,
    ) -> list[T | Exception]:
        """Run several tasks, such as :meth:`generating`, which share encoder, search and decoder calls.

        Arguments are those of :func:`latentpatch.batching.run_together`.

        Returns:
            For each task its result, the same as alone, or the exception it ended with.
        """
        return run_together(operations, self._perform, costs=costs, check=check)

    def run(self, operation: Operation[T]) -> T:
        """Run one task and return its result."""
        (outcome,) = run_together([operation], self._perform)
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # or it would hold this frame, and be held by it
        return outcome

    @torch.no_grad()
    def _perform(self, step: Step) -> Tensor:
        if isinstance(step, Encode):
            return self.autoencoder.encode(step.pictures, self.bank.dtype)
        if isinstance(step, Decode):
            return self.decode_latents(step.latents, step.dtype)
        return self.bank.sample(step.method, step.noise, step.settings, step.candidates, step.reference, step.mask)

    def context(
        self, candidates: Tensor | None = None, has_reference: bool = False, mask: Tensor | None = None
    ) -> Context:
        """Return the inputs of a search over the bank, or over some candidates of it."""
        return Context(self.bank.grid, self.bank.count_groups(candidates), has_reference, mask)

    # --- as a module -------------------------------------------------------------------------------

    @property
    def noise_dim(self) -> int:
        """Number of uniform variates that :meth:`forward` takes for one image."""
        self.require_fit()
        return SAMPLERS.of(self.settings).noise_dim(self.settings, self.context())

    @property
    def steps(self) -> int:
        """The former name of :attr:`noise_dim`."""
        return self.noise_dim

    def forward(self, noise: Tensor) -> Tensor:
        """Return images of uniform noise, for use inside larger models.

        The choice of sources has no gradient; one reaches the decoder's weights, where they are made to require it.

        Args:
            noise: ``(N, noise_dim)`` uniforms in [0, 1), see :attr:`noise_dim`, float32 or float64 whatever the
                module was converted to; numbers outside count as the nearest inside.

        Returns:
            ``(N, 3, H, W)`` in [0, 1]: float32, or the type the module was converted to, as the next layer will be.
        """
        self.require_fit()
        noise = noise.to(self.bank.keys.device)
        index = search(noise, self.bank.keys, self._number) if torch.compiler.is_compiling() else self.search(noise)
        settings = self.chosen_settings or default_settings(0)  # all defaults decode alike
        return self.decode(index, self.default_decoding(settings)).to(self.autoencoder.dtype)

    def search(self, noise: Tensor) -> Tensor:
        """Return index maps ``(N, h, w)`` int64 of uniforms ``(N, noise_dim)``: the first half of :meth:`forward`."""
        return self.bank.sample(SAMPLERS.of(self.settings), noise.to(self.bank.keys.device), self.settings, None)

    # --- from index maps to images -----------------------------------------------------------------

    def decode(self, index: Tensor, decoding: str = "gather") -> Tensor:
        """Return the images ``(N, 3, H, W)`` float32 in [0, 1] of index maps.

        Args:
            index: ``(N, h, w)`` int64 positions in the bank.
            decoding: see :meth:`generate`.
        """
        images = self.decode_latents(latents := self.latents_at(index, decoding))
        detailed = self.add_residuals(images, index, latents) if decoding == "detail" else images
        return self.bank.keep_common(detailed, index)

    def decode_latents(self, latents: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the images of latents, by default in this model's :attr:`precision`."""
        return self.autoencoder.decode(latents, dtype or PRECISIONS[self.precision])

    def latents_at(self, index: Tensor, decoding: str = "gather", settings: Settings | None = None) -> Tensor:
        """Return the latents ``(N, L, h, w)`` float32 of index maps ``(N, h, w)`` that settings (this model's) made."""
        check_choice("decoding", decoding, DECODINGS)
        if decoding == "unproject":
            return self.autoencoder.quantize(self.pca.unproject(self.bank.gather_reduced(index)).float())
        if decoding == "gather" or (decoding == "detail" and self.bank.has_codes):
            return self._gather(index)
        stiffness = stiffness_of(unit_of(settings or self.chosen_settings or default_settings(0), self.bank.grid))
        return blend(self._gather if self.bank.has_codes else self.bank.gather, index, stiffness)

    def _gather(self, index: Tensor) -> Tensor:
        codebook = self.autoencoder.codebook
        return self.autoencoder.dequantize(self.bank.gather(index, None if codebook is None else len(codebook)))

    def default_decoding(self, settings: Settings) -> str:
        """Return the decoding of calls that name none.

        ``detail`` where the bank keeps residuals of this autoencoder, else ``blend``, or ``gather`` where there is a
        codebook; always ``gather`` for the paper's samplers.
        """
        decoding = SAMPLERS.of(settings).default_decoding
        return default_decoding(decoding, self.autoencoder.codebook is not None, self.has_residuals)

    @property
    def has_residuals(self) -> bool:
        """True if the bank keeps residuals, and they are of this model's autoencoder."""
        return self.bank.has_residuals and self.fitted_with is None

    def add_residuals(self, images: Tensor, index: Tensor, latents: Tensor, part: slice = slice(None)) -> Tensor:
        """Return images that were decoded from latents with residuals, see :mod:`latentpatch.bank.residuals`."""
        if not self.bank.has_residuals:
            raise SettingError("decoding", "detail", "another one: the sources were fitted without residuals")
        factors = self.bank.residual_gains(index, latents, self.pca)
        return add_residuals(images, index, self.bank.gather_residuals, part, factors)

    def source_picture(self, position: int) -> Tensor:
        """Return a source of the bank decoded, with residuals where there are any: ``(3, H, W)`` in [0, 1]."""
        index = torch.full((1, *self.require_fit()), position, device=self.bank.keys.device)
        return self.decode(index, "detail" if self.has_residuals else "gather")[0]

    def latents_of(self, pictures: Tensor) -> Tensor:
        """Return latents ``(N, L, h, w)`` float32 of images as sources have them, as codes where there is a codebook.

        Args:
            pictures: ``(N, 3, H, W)`` in [0, 1] of the bank's image size.

        Raises:
            SettingError: for other pictures.
        """
        self.require_fit()
        batch = image_batch(pictures, "pictures", len(pictures), self.image_size, self.autoencoder.device)
        with torch.no_grad():
            return self.autoencoder.quantize(self.autoencoder.encode(batch, self.bank.dtype))

    # --- state -------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """Return the autoencoder's facts and the SHA-256 of its weights, for files that must be repeatable."""
        return self.autoencoder.identity()

    def origin(self) -> dict[str, Any]:
        """Return :meth:`identity` of the autoencoder that the sources were encoded with."""
        return self._origin or self.identity()

    @property
    def fitted_with(self) -> dict[str, Any] | None:
        """:meth:`origin`, where it is not the autoencoder that decodes the sources; else None."""
        return self._origin if self._origin and self._origin["name"] != self.autoencoder.spec.name else None

    def save(self, path: str | Path) -> None:
        """Write PCA, bank and settings to one safetensors file; the autoencoder's weights are not in it.

        The file's header names the autoencoder, the SHA-256 and licence of its weights, and the settings.

        Raises:
            FileError: where the file cannot be written.
        """
        self.require_fit()
        ModelFile(self.origin(), self.pca.components, self.settings, self.pca, self.bank).write(path)

    @classmethod
    @plain_torch()
    def load(cls, path: str | Path, autoencoder: Autoencoder | str | None = None) -> LatentPatch:
        """Read a file that :meth:`save` wrote.

        A large file (:data:`~latentpatch.bank.format.MAPPED_FROM`) is mapped instead: memory holds only the parts in
        use. The file must stay as it is meanwhile; another may take its name.

        Args:
            path: the file.
            autoencoder: the autoencoder, or ``NAME[:FILE OR FOLDER]``; by default the one the file names, from the
                package or the cache: the file alone opens no other files, and fetches none. One with the same
                latent space may take its place.

        Raises:
            FileError: where it is not such a file.
            WeightsError: where the autoencoder's weights are not those the model was fitted with.
        """
        stored = ModelFile.read(path)
        network = stored.autoencoder_for(path, autoencoder)
        model = cls(network, stored.components)
        model.pca, model.bank = stored.pca.to(network.device), stored.bank.to(network.device)
        if settings_record(model.settings, model.bank.grid) != settings_record(stored.settings, model.bank.grid):
            model.settings = stored.settings
        model._origin = stored.autoencoder
        return model

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """See :meth:`torch.nn.Module.load_state_dict`. Where it fails, the model stays as it was."""
        with restored_on_error(self, () if assign else state_dict):
            return super().load_state_dict(state_dict, strict, assign)

    def get_extra_state(self) -> Tensor:
        settings = self.chosen_settings and settings_record(self.chosen_settings, self.bank.grid)
        return pack({"components": self.components, "settings": settings, "autoencoder": self._origin})

    def set_extra_state(self, state: Any) -> None:
        record = unpack(state)
        self.components, settings = record["components"], record["settings"]
        self._origin = record.get("autoencoder")  # older states have none
        self.chosen_settings = settings and settings_from_record(settings)


def _materialize_buffers(model: LatentPatch, _: object) -> None:
    model.autoencoder.materialize_buffers(model.bank.keys.device)
