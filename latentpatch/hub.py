"""Models from hubs: the entry points of PyTorch Hub, and folders or repositories of the Hugging Face Hub.

:mod:`hubconf` re-exports the entry points. :class:`PretrainedMixin` gives models ``from_pretrained``,
``save_pretrained`` and ``push_to_hub``. It is no ``huggingface_hub.ModelHubMixin``: that would have to be a base class
when the package is imported, where huggingface_hub is optional, and folders need none of it.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import __all__ as _PUBLIC
from .errors import FileError, MissingDependencyError
from .generators import generator, inversion
from .io.atomic import staged, write_bytes
from .io.download import within_seconds
from .methods.single_image.presets import task_settings
from .methods.trained.base import load_trained as trained_model
from .model_card import model_card
from .registry import TASKS
from .validation import check_choice, check_number

if TYPE_CHECKING:
    from .autoencoders.base import Autoencoder
    from .model import LatentPatch
    from .results import PictureGeneration

__all__ = [
    "MODEL_FILE",
    "TASK_ENTRIES",
    "PretrainedMixin",
    "diffusers_autoencoder",
    "embedded_autoencoder",
    "find_model",
    "generator",
    "inversion",
    "latentpatch",
    "pixel_autoencoder",
    "taming_autoencoder",
    "tiny_autoencoder",
    "trained_model",
]

MODEL_FILE = "model.safetensors"


class PretrainedMixin:
    """Models as folders of a model file and a model card, here or on the Hugging Face Hub."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        autoencoder: Autoencoder | str | None = None,
        **options: Any,
    ) -> LatentPatch:
        """Load a model that :meth:`save_pretrained` or :meth:`push_to_hub` wrote.

        Folders need neither a network nor huggingface_hub.

        Args:
            pretrained_model_name_or_path: a folder, a model file, or ``OWNER/NAME`` on the Hugging Face Hub.
            autoencoder: see :meth:`~latentpatch.LatentPatch.load`; to be named where its weights are to be fetched.
            options: of ``huggingface_hub.hf_hub_download``, such as ``revision``, ``token`` and ``cache_dir``.

        Raises:
            FileError: where there is no such model, or it cannot be downloaded.
            MissingDependencyError: for a repository, without huggingface_hub.
            WeightsError: where the autoencoder's weights are not those it was fitted with.
        """
        path = find_model(pretrained_model_name_or_path, **options)
        return cast("type[LatentPatch]", cls).load(path, autoencoder)

    def save_pretrained(self, save_directory: str | Path, *, repo_id: str | None = None) -> None:
        """Write the model file and a model card, ``README.md``, into a folder: both, or nothing changes.

        Args:
            save_directory: the folder, made where it is missing.
            repo_id: ``OWNER/NAME`` of the repository it is for, as the card has it.

        Raises:
            FileError: where they cannot be written.
        """
        model = cast("LatentPatch", self)
        model.require_fit()
        with staged(save_directory) as staging:
            model.save(staging / MODEL_FILE)
            write_bytes(staging / "README.md", model_card(model, repo_id).encode())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using latentpatch",
        private: bool | None = None,
        token: str | bool | None = None,
        timeout: float = 600.0,
        **options: Any,
    ) -> str:
        """Publish the model, **and with it its sources**, on the Hugging Face Hub. Returns the commit's address.

        Args:
            repo_id: ``OWNER/NAME``; made where it is missing.
            commit_message, private, token: of ``huggingface_hub.HfApi``.
            timeout: most seconds for all of it.
            options: of its ``upload_folder``, such as ``revision`` and ``create_pr``.

        Raises:
            FileError: where it cannot be published, or not within ``timeout``.
            MissingDependencyError: without huggingface_hub.
            SettingError: for a ``timeout`` that is no number of seconds.
        """
        check_number("timeout", timeout, 1e-3, 1e6)
        cast("LatentPatch", self).require_fit()
        hub = _huggingface_hub("push_to_hub")

        def publish() -> str:
            api = hub.HfApi(token=token, library_name="latentpatch")
            name = str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder, repo_id=name)
                return str(
                    api.upload_folder(repo_id=name, folder_path=folder, commit_message=commit_message, **options)
                )

        try:
            return within_seconds(timeout, publish)
        except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
            raise FileError(repo_id, f"cannot be published: {' '.join(str(error).split())}") from error


def find_model(name: str | Path, **options: Any) -> Path:
    """Return the model file of a folder, or of a repository, downloaded where it is not in the cache.

    Args:
        name: a folder, a model file, or ``OWNER/NAME`` on the Hugging Face Hub.
        options: of ``huggingface_hub.hf_hub_download``.

    Raises:
        FileError: where there is none, or it cannot be downloaded.
        MissingDependencyError: for a repository, without huggingface_hub.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise FileError(path, f"no {MODEL_FILE} in it, as save_pretrained writes one")
        return path / MODEL_FILE
    hub = _huggingface_hub(f"{name}: no such folder or file, and the Hugging Face Hub")
    try:
        return Path(hub.hf_hub_download(str(name), MODEL_FILE, library_name="latentpatch", **options))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())
        raise FileError(name, f"no such folder or file, nor on the Hugging Face Hub: {reason}") from error


def _huggingface_hub(feature: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "huggingface", feature) from error
    return huggingface_hub


# --- entry points of PyTorch Hub -------------------------------------------------------------------------


def latentpatch(
    sources: str | Path | Sequence[str | Path] | None = None,
    autoencoder: str | None = None,
    weights: str | None = None,
    pretrained: bool = True,
    components: int | None = None,
    preset: str | None = None,
    **settings: Any,
) -> LatentPatch:
    """Build a model that makes images from a handful of registered examples, without training (ICIP 2023).

    Args:
        sources: a folder of pictures, files, or a text file that lists files, to fit the model on; a
            fitted model file (``.safetensors``); None for a model without sources, to be fitted later.
        autoencoder: name of the autoencoder, e.g. ``embedded``, ``taef2``, ``vqgan-faceshq``, ``pixels``; by
            default the one a fitted model file names, otherwise ``embedded``, which needs no download.
        weights: local file or folder of the autoencoder's weights; None to use the cache or download.
        pretrained: False for random weights, without files or network.
        components: number of principal components that the search compares, 16 by default.
        preset: settings of a sampler: ``faithful``, ``balanced``, ``diverse``, ``few`` or ``paper``; by
            default ``few`` with 6 to 24 sources, else ``balanced``.
        settings: single settings of the preset's sampler, such as ``patch_size`` or ``neighbors``.

    Returns:
        A :class:`LatentPatch` module.

    Example:
        >>> import torch
        >>> model = torch.hub.load(".", "latentpatch", source="local", autoencoder="pixels")
        >>> model = model.fit(torch.rand(8, 3, 256, 256))
        >>> model.generate(4, seed=0).images.shape
        torch.Size([4, 3, 256, 256])
    """
    from .autoencoders.registry import DEFAULT, load_autoencoder
    from .bank.format import model_file
    from .methods.latent.presets import DEFAULT_PRESET, PRESETS
    from .model import LatentPatch

    named = autoencoder is not None or weights is not None or not pretrained
    network = load_autoencoder(autoencoder or DEFAULT, weights, pretrained=pretrained) if named else None
    chosen = None if preset is None else PRESETS[check_choice("preset", preset, PRESETS)]
    is_fitted = sources is not None and model_file(sources) is not None
    if not is_fitted:  # refused before anything is encoded
        changed = (chosen or PRESETS[DEFAULT_PRESET]).changed(**settings)
        chosen = changed if chosen is not None or settings else None
    if sources is None:
        return LatentPatch(network or DEFAULT, 16 if components is None else components, chosen)
    model = LatentPatch.open(sources, autoencoder=network, components=components, settings=chosen, device="cpu")
    if is_fitted and settings:
        model.settings = model.with_settings(**settings)
    return model


def embedded_autoencoder(name: str = "embedded", weights: str | None = None, pretrained: bool = True) -> Autoencoder:
    """Build an autoencoder of this package (MIT): f16, small and fast, trained to blend.

    Args:
        name: ``embedded`` (128 channels, the latent space of taef2) or ``embedded-vq`` (256 channels, 1024 codes).
        weights: folder of weights of your own training; None for those of the package.
        pretrained: False for random weights.

    Example:
        >>> import torch
        >>> net = torch.hub.load(".", "embedded_autoencoder", source="local")
        >>> net.decode(net.encode(torch.rand(1, 3, 64, 64))).shape
        torch.Size([1, 3, 64, 64])
    """
    return _member("embedded", name, weights, pretrained)


def tiny_autoencoder(name: str = "taef2", weights: str | None = None, pretrained: bool = True) -> Autoencoder:
    """Build a tiny autoencoder of the TAESD family (MIT): f8, folded to f16.

    Args:
        name: ``taesd``, ``taesdxl``, ``taesd3``, ``taef1`` or ``taef2``.
        weights: folder of ``NAME_encoder.pth`` and ``NAME_decoder.pth``; None to use the cache or download.
        pretrained: False for random weights, without files or network.

    Example:
        >>> import torch
        >>> net = torch.hub.load(".", "tiny_autoencoder", source="local", pretrained=False)
        >>> net.decode(net.encode(torch.rand(1, 3, 64, 64))).shape
        torch.Size([1, 3, 64, 64])
    """
    return _member("taesd", name, weights, pretrained)


def taming_autoencoder(name: str = "vqgan-faceshq", weights: str | None = None, pretrained: bool = True) -> Autoencoder:
    """Build a VQGAN of taming-transformers: f16 with a codebook. Needs taming-transformers.

    Args:
        name: ``vqgan-ffhq``, ``vqgan-celebahq``, ``vqgan-faceshq``, ``vqgan-imagenet-1024`` or
            ``vqgan-imagenet-16384``.
        weights: checkpoint file, of the VQGAN or of a transformer that contains it.
        pretrained: False for random weights, without files or network.
    """
    return _member("vqgan", name, weights, pretrained)


def diffusers_autoencoder(weights: str) -> Autoencoder:
    """Build an AutoencoderTiny, VQModel or AutoencoderKL. Needs diffusers.

    Args:
        weights: local folder or Hugging Face repository, ``PATH_OR_REPO[@SUBFOLDER]``.
    """
    return _member("hf_diffusers", "diffusers", weights, True)


def pixel_autoencoder(downsampling: int = 16) -> Autoencoder:
    """Build an autoencoder whose latents are pixels: no weights, no blending.

    Args:
        downsampling: pixels a latent cell covers along each side.

    Example:
        >>> import torch
        >>> net = torch.hub.load(".", "pixel_autoencoder", source="local")
        >>> net.encode(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 768, 4, 4])
    """
    from .autoencoders.pixels import PixelAutoencoder

    return PixelAutoencoder(downsampling)


def _member(family: str, name: str, weights: str | None, pretrained: bool) -> Autoencoder:
    from .autoencoders.registry import AUTOENCODERS, load_autoencoder

    check_choice("name", name, [member for member, module in AUTOENCODERS.items() if module == family])
    return load_autoencoder(name, weights, pretrained=pretrained)


def _task_entry(task: str) -> Callable[..., Callable[..., PictureGeneration]]:
    """Return the entry of a task on pictures."""

    def entry(
        method: str | None = None, preset: str | None = None, **settings: Any
    ) -> Callable[..., PictureGeneration]:
        package = importlib.import_module(__package__)
        chosen = task_settings(task, method, preset).changed(**settings)
        return partial(getattr(package, task), settings=chosen)

    entry.__name__ = entry.__qualname__ = task
    entry.__doc__ = f"""Return the function ``latentpatch.{task}``, with settings: {TASKS[task]}.

    It needs no model: no registration, no weights and no training.

    Args:
        method: name of a method that does the task; its default where None.
        preset: settings of a method, in place of ``method``.
        settings: single settings of the method.

    Returns:
        A function of pictures; ``help(latentpatch.{task})`` has its arguments. It returns a
        :class:`~latentpatch.PictureGeneration` of pictures and their provenance.
    """
    return entry


#: Entry points of tasks on pictures, by task.
TASK_ENTRIES = {task: _task_entry(task) for task in TASKS if task in _PUBLIC}
