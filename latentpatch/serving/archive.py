"""The model archive that TorchServe loads: handler, package, fitted bank, weights, configuration.

A ``.mar`` is a zip with a manifest. It is not written by torch-model-archiver, whose archives contain the time of day
and which empties ``$TMPDIR/MODEL_NAME``: here the same inputs make the same bytes. Entries are stored, not compressed:
weights hardly shrink, and zlib's bytes differ between its versions.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

from .. import __version__
from ..autoencoders.registry import AUTOENCODERS, Autoencoder, load_autoencoder
from ..errors import FileError, SettingError
from ..io.atomic import staged, write_tensors
from ..io.mmap import read_tensors
from ..methods.trained.base import TrainedModel, load_trained
from ..model import LatentPatch
from ..validation import check_integer
from .exported import graph_files

__all__ = [
    "PORTRAITS",
    "build_archive",
    "build_graph_archive",
    "check_archive",
    "holds_graph",
    "load_archived",
    "load_archived_trained",
]

_PACKAGE = Path(__file__).resolve().parents[1]
#: TorchServe's entry point and configuration: a wheel has a copy of the repository's folder.
_HANDLERS = next((each for each in (_PACKAGE / "handlers",) if each.is_dir()), _PACKAGE.parent / "handlers")
#: Default sources: the synthetic portraits of the repository, which a wheel does not contain.
PORTRAITS = _PACKAGE.parent / "examples" / "portraits"

_BANK = "model.safetensors"
_FACTS = "model.json"
_WEIGHTS = Path("autoencoder", "weights.safetensors")
_CONFIG = Path("autoencoder", "config.json")
_YAML = "model-config.yaml"
_TRAINED = "trained"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REQUIRED = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip


def build_archive(
    content: LatentPatch | str | Path,
    output: str | Path = Path("model_store", "latentpatch.mar"),
    *,
    handler: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, int] | None = None,
    trained: Mapping[str, str | Path] | None = None,
) -> None:
    """Write an archive, complete or not at all; the same inputs make the same bytes.

    Args:
        content: a fitted model, with whose weights the archive is complete; or the output folder of
            :func:`latentpatch.export.export` with the graph ``generate``. The same handler serves a graph: pictures and
            provenance of seeds, with the settings of the export.
        output: ``NAME.mar``; NAME becomes the model's name. Its folder is created if missing.
        handler: TorchServe's entry point; default: ``handlers/latentpatch_handler.py``, which wheels have, too.
        config: TorchServe's model configuration; default: ``handlers/model-config.yaml``.
        settings: top-level numbers of the configuration to replace, such as ``{"batchSize": 8}``.
        trained: files of trained models, by the names by which requests call them; with a model alone.

    Raises:
        SettingError: for names and settings that cannot be used, and a model that is not fitted.
        FileError: for files that cannot be read or written.
    """
    output = Path(output)
    entry, yaml = check_archive(output, handler=handler, config=config, settings=settings, trained=trained)
    package = dict(_package())
    with TemporaryDirectory(prefix="latentpatch-") as name:
        folder = Path(name)
        if isinstance(content, LatentPatch):
            if not len(content.bank):
                raise SettingError("model", "one without sources", "fitted")
            content.save(folder / _BANK)
            facts = _write_autoencoder(content.autoencoder, folder)
            (folder / _FACTS).write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")
            taught = {f"{_TRAINED}/{name}.safetensors": Path(path) for name, path in (trained or {}).items()}
            serialized, parts = _BANK, package | taught
        elif trained:
            raise SettingError("trained", ", ".join(trained), "absent: a graph does no tasks")
        else:  # a graph contains its weights
            files = graph_files(content)
            serialized = files[1].name
            parts = {name: path for name, path in package.items() if path.suffix != ".safetensors"}
            parts |= {file.name: file for file in files}
        (folder / _YAML).write_text(yaml, encoding="utf-8")
        (folder / "MAR-INF").mkdir()
        manifest = _manifest(output.stem, entry.name, serialized)
        (folder / "MAR-INF" / "MANIFEST.json").write_text(manifest, encoding="utf-8")
        with staged(output.parent) as staging:
            _write_zip(staging / output.name, {entry.name: entry, **dict(_files(folder)), **parts})


build_graph_archive = build_archive  # the former name for graphs


def holds_graph(folder: str | Path) -> bool:
    """Return whether an unpacked archive is one of :func:`build_graph_archive`."""
    return not (Path(folder) / _FACTS).exists() and (Path(folder) / "export.json").exists()


def check_archive(
    output: str | Path,
    *,
    handler: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, int] | None = None,
    trained: Mapping[str, str | Path] | None = None,
) -> tuple[Path, str]:
    """Check all arguments of :func:`build_archive` but the model, whose fit may take minutes.

    Returns:
        The handler's file and the text of the configuration.
    """
    output = Path(output)
    if output.suffix != ".mar" or not _NAME.fullmatch(output.stem):
        raise SettingError("output", str(output), "NAME.mar, NAME of letters, digits, dots, hyphens and underscores")
    entry = _existing(handler, "latentpatch_handler.py", "--handler")
    if entry.suffix != ".py" or not entry.stem.isidentifier() or entry.stem == _PACKAGE.name:
        raise SettingError("handler", str(entry), "a module, NAME.py, of another name than the package")
    for name, path in (trained or {}).items():
        if not _NAME.fullmatch(name):
            raise SettingError("trained", name, "a name of letters, digits, dots, hyphens and underscores")
        load_trained(path)
    return entry, _configuration(_existing(config, _YAML, "--config"), settings or {})


def load_archived(folder: str | Path) -> LatentPatch:
    """Return the model of an unpacked archive, without using the network.

    Raises:
        FileError, WeightsError: for files that are missing or altered.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        name, argument, packed = facts["name"], facts["argument"], facts["packed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(folder / _FACTS, f"not a readable description of an archived model: {error}") from error
    if not packed:
        return LatentPatch.load(folder / _BANK, load_autoencoder(name, argument))
    if (folder / _CONFIG).exists():
        argument = str(folder / _CONFIG.parent)
    autoencoder = load_autoencoder(name, argument, pretrained=False)
    try:
        weights = read_tensors(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise FileError(folder / _WEIGHTS, f"not a readable safetensors file: {error}") from error
    autoencoder.load_weights(weights, str(folder / _WEIGHTS))
    return LatentPatch.load(folder / _BANK, autoencoder)


def load_archived_trained(folder: str | Path) -> dict[str, TrainedModel]:
    """Return the trained models of an unpacked archive, by name.

    Raises:
        FileError: for a file that is altered.
    """
    return {path.stem: load_trained(path) for path in sorted(Path(folder, _TRAINED).glob("*.safetensors"))}


def _existing(path: str | Path | None, name: str, option: str) -> Path:
    """Return the path of a file, by default one of ``handlers/``."""
    file = _HANDLERS / name if path is None else Path(path)
    if not file.is_file():
        raise FileError(file, f"no such file{f'; give {option} FILE' if path is None else ''}")
    return file


def _configuration(path: Path, settings: Mapping[str, int]) -> str:
    """Return the configuration's text with some top-level numbers replaced, comments included."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for key, value in settings.items():
        check_integer(key, value, 0 if key == "maxBatchDelay" else 1)
        text, count = re.subn(rf"(?m)^{re.escape(key)}:.*$", f"{key}: {value}", text)
        if not count:
            raise SettingError("settings", key, f"a key of {path}")
    for key in _REQUIRED:  # TorchServe only logs values that it cannot use, and then serves one request at a time
        if not re.search(rf"(?m)^{key}: +\d+ *(#.*)?$", text):
            raise FileError(path, f"a line '{key}: NUMBER' is missing")
    return text


def _write_autoencoder(autoencoder: Autoencoder, folder: Path) -> dict[str, Any]:
    """Write the weights unless the package contains them, and return how to build the autoencoder again."""
    spec = autoencoder.spec
    if spec.name not in AUTOENCODERS:
        raise SettingError("autoencoder", spec.name, f"one of {', '.join(AUTOENCODERS)} for an archive")
    facts = {"name": spec.name, "argument": spec.argument, "packed": False}
    weights = {name: value.detach().cpu().contiguous() for name, value in autoencoder.state_dict().items()}
    if not weights:
        return facts
    if spec.family == "embedded" and load_autoencoder(spec.name).fingerprint() == autoencoder.fingerprint():
        return facts
    (folder / _WEIGHTS).parent.mkdir()
    write_tensors(folder / _WEIGHTS, weights)
    if spec.family == "diffusers":
        network: Any = autoencoder.network
        config = {key: value for key, value in network.config.items() if not key.startswith("_")}
        config["_class_name"] = type(network).__name__
        (folder / _CONFIG).write_text(json.dumps(config, sort_keys=True) + "\n", encoding="utf-8")
        facts["argument"] = None  # the original folder or repository is not needed again
    return facts | {"packed": True}


def _manifest(name: str, handler: str, serialized: str) -> str:
    model = {"modelName": name, "serializedFile": serialized, "handler": handler}
    manifest = {
        "createdOn": "01/01/1980 00:00:00",  # not the time of day, so that equal inputs make equal bytes
        "runtime": "python",
        "model": model | {"modelVersion": __version__, "configFile": _YAML},
        "archiverVersion": "0.12.0",  # torch-model-archiver has this layout
    }
    return json.dumps(manifest, indent=2) + "\n"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder with their relative names."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _package() -> Iterator[tuple[str, Path]]:
    """Yield the files of this package with their names in the archive."""
    for name, path in _files(_PACKAGE):
        is_part = path.suffix in (".py", ".safetensors", ".html") or path.name == "py.typed"
        if is_part and path.parent != _HANDLERS:
            yield f"{_PACKAGE.name}/{name}", path


def _write_zip(path: Path, parts: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, part in sorted(parts.items()):
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.create_system, info.external_attr = 3, 0o100644 << 16  # a plain file of Unix, on any system
            info.file_size = part.stat().st_size  # so that the header suits files beyond 4 GB
            with part.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
