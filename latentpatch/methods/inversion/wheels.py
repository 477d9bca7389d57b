"""Files of optional packages, found without importing the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ...errors import MissingDependencyError

__all__ = ["wheel_file"]


def wheel_file(module: str, name: str, generator: str) -> Path:
    """Return the path of a file inside an installed package.

    Raises:
        MissingDependencyError: where the package or the file is not installed.
    """
    spec = importlib.util.find_spec(module)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / name
    if path is None or not path.is_file():
        package = module.replace("_", "-")
        raise MissingDependencyError(package, "", f"the generator {generator} without a path")
    return path
