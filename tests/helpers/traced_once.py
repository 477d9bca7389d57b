"""Exports of one model to several formats that share the traces of its graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from latentpatch.export import graphs


@contextmanager
def traced_once(programs: dict[str, Any]) -> Iterator[None]:
    """Trace each graph of one model and one setting once; ``programs`` keeps the traces from call to call."""
    trace = torch.export.export

    def kept(module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        if type(module).__module__ != graphs.__name__:
            return trace(module, *arguments, **options)
        name = type(module).__name__
        if name not in programs:
            programs[name] = trace(module, *arguments, **options)
        return programs[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", kept)
        yield
