"""Slow, plain versions of the samplers: one picture at a time, loops over places, exact integers.

Readers learn the algorithms from these files, and tests compare every backend with them. They need NumPy alone and
share no code with the fast versions. Names of settings are those of the samplers; settings that are left out have the
same defaults. Start with :mod:`.random_tiles`, go on with :mod:`.raster`, then :mod:`.assignment` and
:mod:`.resynthesis`, which is the default sampler, and end with :mod:`.patch_diffusion`.
"""

from __future__ import annotations

from .assignment import assign
from .patch_diffusion import patch_diffusion
from .random_tiles import random_tiles
from .raster import interpolate, raster
from .resynthesis import resynthesis

__all__ = ["assign", "interpolate", "patch_diffusion", "random_tiles", "raster", "resynthesis"]
