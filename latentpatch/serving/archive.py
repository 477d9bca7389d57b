"""The model archive that TorchServe loads: handler, package, fitted bank, weights, configuration.

A ``.mar`` is a zip with a manifest. It is written here and not by torch-model-archiver, whose archives hold
the time of day and which empties ``$TMPDIR/MODEL_NAME`` on its way: here the same inputs make the same bytes.
Entries are stored, not compressed: weights hardly shrink, and zlib's bytes differ between its versions.
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
from safetensors.torch import load_file

from .. import __version__
from ..autoencoders.registry import AUTOENCODERS, Autoencoder, load_autoencoder
from ..errors import FileError
from ..io.atomic import staged, write_tensors
from ..model import LatentPatch
from .exported import graph_files

__all__ = ["PORTRAITS", "build_archive", "build_graph_archive", "check_archive", "holds_graph", "load_archived"]

_PACKAGE = Path(__file__).resolve().parents[1]
_HANDLERS = _PACKAGE.parent / "handlers"
#: Sources where none are named: the synthetic portraits of the repository, which a wheel does not hold.
PORTRAITS = _PACKAGE.parent / "examples" / "portraits"

_BANK = "model.safetensors"
_FACTS = "model.json"
_WEIGHTS = Path("autoencoder", "weights.safetensors")
_CONFIG = Path("autoencoder", "config.json")
_YAML = "model-config.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NEEDED = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can tell


def build_archive(
    model: LatentPatch,
    output: str | Path = Path("model_store", "latentpatch.mar"),
    *,
    handler: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, int] | None = None,
) -> None:
    """Write the archive, whole or not at all; the same inputs make the same bytes.

    Args:
        model: fitted. The autoencoder's weights go into the archive where the package does not carry them.
        output: ``NAME.mar``; NAME becomes the model's name. Its folder is created where missing.
        handler: TorchServe's entry point; by default the repository's ``handlers/latentpatch_handler.py``.
        config: TorchServe's model configuration; by default ``handlers/model-config.yaml``.
        settings: top-level numbers of the configuration to replace, such as ``{"batchSize": 8}``.

    Raises:
        ValueError: for names and settings that cannot be used, and a model that is not fitted.
        FileError: for files that cannot be read or written.
    """
    output = Path(output)
    entry, yaml = check_archive(output, handler=handler, config=config, settings=settings)
    if not len(model.bank):
        raise ValueError("the model has no sources: a fitted one is expected")
    with TemporaryDirectory(prefix="latentpatch-") as name:
        made = Path(name)
        model.save(made / _BANK)
        facts = _write_autoencoder(model.autoencoder, made)
        (made / _FACTS).write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")
        (made / _YAML).write_text(yaml, encoding="utf-8")
        (made / "MAR-INF").mkdir()
        (made / "MAR-INF" / "MANIFEST.json").write_text(_manifest(output.stem, entry.name, _BANK), encoding="utf-8")
        parts = {entry.name: entry, **dict(_entries(made)), **dict(_package())}
        with staged(output.parent) as staging:
            _write_zip(staging / output.name, parts)


def build_graph_archive(
    graphs: str | Path,
    output: str | Path = Path("model_store", "latentpatch.mar"),
    *,
    handler: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, int] | None = None,
) -> None:
    """Write an archive around an exported graph ``generate`` in place of the model, whole or not at all.

    The same handler serves it: pictures and provenance of seeds, with the settings that the graph was exported with.
    The package goes into it without its weights, which the graph has.

    Args:
        graphs: folder that :func:`latentpatch.export.export` wrote.

    The others, and errors, are those of :func:`build_archive`.
    """
    output = Path(output)
    entry, yaml = check_archive(output, handler=handler, config=config, settings=settings)
    files = graph_files(graphs)
    with TemporaryDirectory(prefix="latentpatch-") as name:
        made = Path(name)
        (made / _YAML).write_text(yaml, encoding="utf-8")
        (made / "MAR-INF").mkdir()
        manifest = _manifest(output.stem, entry.name, files[1].name)
        (made / "MAR-INF" / "MANIFEST.json").write_text(manifest, encoding="utf-8")
        package = {name: path for name, path in _package() if path.suffix != ".safetensors"}
        parts = {entry.name: entry, **{file.name: file for file in files}, **dict(_entries(made)), **package}
        with staged(output.parent) as staging:
            _write_zip(staging / output.name, parts)


def holds_graph(folder: str | Path) -> bool:
    """Whether an unpacked archive is one of :func:`build_graph_archive`."""
    return not (Path(folder) / _FACTS).exists() and (Path(folder) / "export.json").exists()


def check_archive(
    output: str | Path,
    *,
    handler: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, int] | None = None,
) -> tuple[Path, str]:
    """What :func:`build_archive` refuses whatever the model, which may take minutes to fit.

    Returns:
        The handler's file and the text of the configuration.
    """
    output = Path(output)
    if output.suffix != ".mar" or not _NAME.fullmatch(output.stem):
        raise ValueError(
            f"output {output}: NAME.mar is expected, with a NAME of letters, digits, dots, hyphens and underscores"
        )
    entry = _found(handler, "latentpatch_handler.py", "--handler")
    if entry.suffix != ".py" or not entry.stem.isidentifier() or entry.stem == _PACKAGE.name:
        raise ValueError(f"handler {entry}: a module is expected, NAME.py, and not by the package's own name")
    return entry, _configured(_found(config, _YAML, "--config"), settings or {})


def load_archived(folder: str | Path) -> LatentPatch:
    """The model of an unpacked archive, without the network.

    Raises:
        FileError, WeightsError: where its files are missing or not what they were.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        name, argument, packed = facts["name"], facts["argument"], facts["packed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{folder / _FACTS}: not a readable description of an archived model: {error}") from error
    if not packed:
        return LatentPatch.load(folder / _BANK, load_autoencoder(name, argument))
    if (folder / _CONFIG).exists():
        argument = str(folder / _CONFIG.parent)
    autoencoder = load_autoencoder(name, argument, pretrained=False)
    try:
        weights = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise FileError(f"{folder / _WEIGHTS}: not a readable safetensors file: {error}") from error
    autoencoder.load_weights(weights, str(folder / _WEIGHTS))
    return LatentPatch.load(folder / _BANK, autoencoder)


def _found(given: str | Path | None, name: str, option: str) -> Path:
    path = _HANDLERS / name if given is None else Path(given)
    if not path.is_file():
        hint = f"; it lies in the repository's handlers/, not in an installed package: give {option} FILE"
        raise FileError(f"{path}: no such file{hint if given is None else ''}")
    return path


def _configured(path: Path, settings: Mapping[str, int]) -> str:
    """The configuration's text with some top-level numbers replaced; its comments stay."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < (key != "maxBatchDelay"):
            raise ValueError(f"{key} {value!r}: an integer of at least {int(key != 'maxBatchDelay')} is expected")
        text, replaced = re.subn(rf"(?m)^{re.escape(key)}:.*$", f"{key}: {value}", text)
        if not replaced:
            raise ValueError(f"{path}: has no line {key!r} to replace")
    for key in _NEEDED:  # TorchServe only logs what it cannot use, and serves one by one
        if not re.search(rf"(?m)^{key}: +\d+ *(#.*)?$", text):
            raise FileError(f"{path}: a line '{key}: NUMBER' is expected")
    return text


def _write_autoencoder(autoencoder: Autoencoder, folder: Path) -> dict[str, Any]:
    """Write the weights where the package does not carry them; -> how to build it again."""
    spec = autoencoder.spec
    if spec.name not in AUTOENCODERS:
        raise ValueError(f"autoencoder {spec.name!r}: only {', '.join(AUTOENCODERS)} can be archived")
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
        facts["argument"] = None  # the folder or repository it came from is not needed again
    return facts | {"packed": True}


def _manifest(name: str, handler: str, file: str) -> str:
    manifest = {
        "createdOn": "01/01/1980 00:00:00",  # not the time of day: see the module's first lines
        "runtime": "python",
        "model": {
            "modelName": name,
            "serializedFile": file,
            "handler": handler,
            "modelVersion": __version__,
            "configFile": _YAML,
        },
        "archiverVersion": "0.12.0",  # of torch-model-archiver, whose layout this is
    }
    return json.dumps(manifest, indent=2) + "\n"


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _package() -> Iterator[tuple[str, Path]]:
    for name, path in _entries(_PACKAGE):
        if path.suffix in (".py", ".safetensors", ".html") or path.name == "py.typed":
            yield f"{_PACKAGE.name}/{name}", path


def _write_zip(path: Path, parts: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, part in sorted(parts.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16  # a plain file of Unix, on any system
            info.file_size = part.stat().st_size  # so that the header suits files beyond 4 GB
            with part.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
