"""The model card of a model that is published on the Hugging Face Hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .autoencoders.names import AUTOENCODERS
from .registry import settings_record

if TYPE_CHECKING:
    from .model import LatentPatch

__all__ = ["model_card"]

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
| copies of each, mirrored or moved | {copies} |
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


def model_card(model: LatentPatch, repo_id: str | None = None) -> str:
    """Return a model card in Markdown, with the metadata of the Hugging Face Hub.

    Args:
        model: fitted.
        repo_id: ``OWNER/NAME`` of the repository it is for.
    """
    facts, bank = model.origin(), model.bank
    height, width = (cells * facts["downsampling"] for cells in bank.grid)
    is_packaged = AUTOENCODERS.get(facts["name"]) in ("embedded", "pixels")  # no other weights are opened for a file
    named = "" if is_packaged else f', autoencoder="{":".join(filter(None, (facts["name"], facts["argument"])))}"'
    return _CARD.format(
        title=repo_id or "A LatentPatch model",
        name=(f'"{repo_id}"' if repo_id else '"path/to/this/folder"') + named,
        height=height,
        width=width,
        count=len(bank.sources),
        copies=bank.variants.count,
        attributes=", ".join(sorted({name for row in bank.attributes for name in row})) or "none",
        rows=bank.grid[0],
        columns=bank.grid[1],
        components=model.pca.components,
        autoencoder=facts["name"] + (f":{facts['argument']}" if facts["name"] == "pixels" else ""),
        license=facts["license"],
        weights=facts["sha256"],
        sources=bank.digest(),
        settings=json.dumps(settings_record(model.settings, bank.grid)),
    )
