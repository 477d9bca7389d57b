"""Serving: requests, results and batching (:mod:`.service`), their forms on the wire (:mod:`.wire`), and archives for
TorchServe (:mod:`.archive`). No server is imported here; adapters are thin: ``handlers/latentpatch_handler.py`` for
TorchServe, :mod:`.http` for ASGI servers. Needs ``pip install latentpatch[serve]``, or ``[http]``.
"""

from __future__ import annotations

from .codecs import Call, Response, respond
from .schema import json_schema, parse
from .service import Failure, Limits, Refusal, Result, Service

__all__ = ["Call", "Failure", "Limits", "Refusal", "Response", "Result", "Service", "json_schema", "parse", "respond"]
