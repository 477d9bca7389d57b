"""Serving: requests and results (:mod:`.service`), their forms over HTTP (:mod:`.codecs`), and archives for TorchServe
(:mod:`.archive`). No server is imported here; adapters are thin: ``handlers/latentpatch_handler.py`` for TorchServe,
:mod:`.app` for ASGI servers. Needs the extra ``serve`` or ``http``.
"""

from __future__ import annotations

from .codecs import Call, Response, respond
from .failures import Failure, Refusal
from .limits import Limits
from .schema import json_schema, parse
from .service import Result, Service

__all__ = ["Call", "Failure", "Limits", "Refusal", "Response", "Result", "Service", "json_schema", "parse", "respond"]
