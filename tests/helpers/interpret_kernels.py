"""Searches by Triton's interpreter, which has to be chosen before Triton is imported, so in a process of its own.

TRITON_INTERPRET=1 python tests/helpers/interpret_kernels.py CASES.pt INDEX_MAPS.pt
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from latentpatch import RasterSettings
from latentpatch.methods.latent.raster import raster
from latentpatch.methods.latent.search import triton_backend as gpu
from latentpatch.methods.latent.search.prepared import PreparedSources


def search(case: dict[str, Any]) -> list[torch.Tensor]:
    """Index maps of two searches, the second with the buffers of the first."""
    for name, value in case["limits"].items():
        setattr(gpu, name, value)
    sources = PreparedSources(case["keys"])
    settings = RasterSettings(*case["settings"])
    with torch.inference_mode(case["inference_mode"]):
        return [
            raster(sources, noise, settings, case["reference"], case["mask"], memory=case["memory"], backend="triton")
            for noise in (case["noise"].flip(0), case["noise"])
        ]


if __name__ == "__main__":
    torch.save([search(case) for case in torch.load(sys.argv[1], weights_only=True)], sys.argv[2])
