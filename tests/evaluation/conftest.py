"""Portraits to evaluate with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.paths import PORTRAITS


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve portraits as sources, eight others held out."""
    folder = tmp_path_factory.mktemp("portraits")
    paths = sorted(PORTRAITS.glob("*.jpg"))[:20]
    for name, part in (("sources", paths[:12]), ("held-out", paths[12:])):
        (folder / name).mkdir()
        for path in part:
            shutil.copy(path, folder / name)
    return folder / "sources", folder / "held-out"
