"""Fitted models as folders, and on the Hugging Face Hub: the model file and a card that says what is in it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import FileError
from .io.atomic import staged, write_bytes
from .registry import settings_record
from .settings import Settings

__all__ = ["MODEL_FILE", "find_model", "model_card", "upload", "write_folder"]

MODEL_FILE = "model.safetensors"

_CARD = """\
---
library_name: latentpatch
pipeline_tag: unconditional-image-generation
tags:
- latentpatch
- patch-based-synthesis
---

# {title}

New images, {height}x{width} pixels, pieced together from {count} registered examples, after LatentPatch
([ICIP 2023](https://doi.org/10.1109/ICIP49359.2023.10222005)). Nothing was trained on the examples.

```python
from latentpatch import LatentPatch

model = LatentPatch.from_pretrained({name})
result = model.generate(16, seed=0)
result.images      # (16, 3, {height}, {width}) in [0, 1]
result.shares()    # which sources each picture is made of
```

| | |
|---|---|
| sources | {count} |
| attributes | {attributes} |
| grid | {rows}x{columns} cells |
| principal components | {components} |
| autoencoder | {autoencoder} (not in this repository), licence of its weights: {license} |
| SHA-256 of its weights | `{weights}` |
| SHA-256 of the sources | `{sources}` |
| settings | `{settings}` |

## Sources and consent

**This file holds the sources.** Each can be decoded from it nearly as it was, and what is generated is pieced
together from them. If they show people, publish it only with the consent of everyone in it, for this use and for
whoever may download it; do not pass results off as photographs, or as anyone in particular. The rights to the sources
are their owners': no licence for them is stated here.

A source is removed with `model.remove(id)` and `model.save_pretrained(folder)`; copies that were downloaded before keep
it.
"""


def model_card(
    facts: Mapping[str, Any],
    settings: Settings,
    *,
    count: int,
    attributes: list[str],
    grid: tuple[int, int],
    components: int,
    digest: str,
    repo_id: str | None = None,
) -> str:
    """A model card in Markdown, with the metadata of the Hub.

    Args:
        facts: of the autoencoder, see :meth:`~latentpatch.LatentPatch.identity`.
        settings: of the sampler.
        count: number of sources.
        attributes: names of what is known about them.
        grid: cells ``(h, w)``.
        components: principal components.
        digest: SHA-256 of the sources.
        repo_id: where it is published, ``OWNER/NAME``.
    """
    step = int(facts["downsampling"])
    return _CARD.format(
        title=repo_id or "A LatentPatch model",
        name=f'"{repo_id}"' if repo_id else '"path/to/this/folder"',
        height=grid[0] * step,
        width=grid[1] * step,
        count=count,
        attributes=", ".join(attributes) or "none",
        rows=grid[0],
        columns=grid[1],
        components=components,
        autoencoder=facts["name"] + (f":{facts['argument']}" if facts["name"] == "pixels" else ""),
        license=facts["license"],
        weights=facts["sha256"],
        sources=digest,
        settings=json.dumps(settings_record(settings)),
    )


def write_folder(model: Any, folder: str | Path, repo_id: str | None = None) -> None:
    """Write a model's file and card into a folder: both, or nothing changes.

    Raises:
        FileError: where they cannot be written.
    """
    known = sorted({name for row in model.bank.attributes for name in row})
    with staged(folder) as staging:
        model.save(staging / MODEL_FILE)
        card = model_card(
            model.origin(),
            model.settings,
            count=len(model.bank),
            attributes=known,
            grid=model.bank.grid,
            components=model.pca.components,
            digest=model.bank.digest(),
            repo_id=repo_id,
        )
        write_bytes(staging / "README.md", card.encode())


def find_model(name: str | Path, **options: Any) -> Path:
    """The model file of a folder, or of a repository on the Hub, downloaded where it is not in the cache.

    Args:
        name: a folder, a model file, or ``OWNER/NAME`` on the Hub.
        options: of ``huggingface_hub.hf_hub_download``.

    Raises:
        FileError: where there is none, or it cannot be had.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise FileError(f"{path}: holds no {MODEL_FILE}; a folder that save_pretrained wrote is expected")
        return path / MODEL_FILE
    hub = _hub(f"{name}: no such folder or file, and")
    try:
        return Path(hub.hf_hub_download(str(name), MODEL_FILE, library_name="latentpatch", **options))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())
        raise FileError(
            f"{name}: no such folder or file, nor can it be had from the Hugging Face Hub: {reason}"
        ) from error


def upload(model: Any, repo_id: str, *, private: bool | None, token: str | bool | None, **options: Any) -> str:
    """Publish a model's file and card. -> address of the commit

    Raises:
        FileError: where that is not possible.
    """
    hub = _hub("push_to_hub")
    try:
        api = hub.HfApi(token=token, library_name="latentpatch")
        found = str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(model, folder, found)
            return str(api.upload_folder(repo_id=found, folder_path=folder, **options))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise FileError(f"{repo_id}: cannot be published: {' '.join(str(error).split())}") from error


def _hub(purpose: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise FileError(
            f"{purpose} needs the package huggingface_hub ({error}): pip install latentpatch[huggingface]"
        ) from error
    return huggingface_hub
