"""The TorchServe handler: a thin class between TorchServe's batches and :mod:`latentpatch.serving`.

TorchServe loads this file by name and uses the one class it defines. All else is in the package, which lies beside this
file in the archive.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import torch

from latentpatch.registry import import_plugins
from latentpatch.runs.system import keep_freed_memory
from latentpatch.serving import Call, Limits, Response, Service, respond
from latentpatch.serving.archive import holds_graph, load_archived, load_archived_trained
from latentpatch.serving.exported import GraphService

_log = logging.getLogger(__name__)


class LatentPatchHandler:
    """Answers batches of requests; a failure concerns its own request only."""

    def initialize(self, context: Any) -> None:
        """Load the model of the archive, on the GPU that TorchServe assigns to this worker, if any.

        The ``handler`` block of ``model-config.yaml`` has ``threads``, ``precision``, ``device`` and ``limits``.
        """
        options: dict[str, Any] = (context.model_yaml_config or {}).get("handler") or {}
        properties = context.system_properties
        threads = int(options.get("threads", 1))
        torch.set_num_threads(threads)
        keep_freed_memory()
        import_plugins()
        limits = Limits(**(options.get("limits") or {}))
        self.batch_size = int(properties.get("batch_size") or 1)
        self.service: Service | GraphService
        if holds_graph(properties["model_dir"]):
            self.service = GraphService(properties["model_dir"], limits, threads)
            _log.info("a graph of %d sources, process %d", self.service.facts["sources"], os.getpid())
            return
        model = load_archived(properties["model_dir"])
        device = str(options.get("device", "auto"))
        if device == "auto":
            gpu = properties.get("gpu_id")
            device = f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu"
        model.precision = str(options.get("precision", "float32"))
        trained = {name: each.to(device) for name, each in load_archived_trained(properties["model_dir"]).items()}
        self.service = Service(model.to(device), limits, trained)
        _log.info(
            "%d sources, %s on %s, process %d",
            len(model.bank.sources),
            model.autoencoder.spec.name,
            device,
            os.getpid(),
        )

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Return the bodies of the answers, one a request; statuses, types and headers go to the context."""
        calls = [self._call(item, context, i) for i, item in enumerate(data)]
        responses = respond(self.service, calls)
        for i, response in enumerate(responses):
            context.set_response_status(response.status, "", i)
            context.set_response_content_type(i, response.content_type)
            for name, value in response.headers.items():
                context.set_response_header(i, name, value)
        self._measure(responses, context)
        return [response.body for response in responses]

    def _call(self, item: dict[str, Any], context: Any, i: int) -> Call:
        headers = dict(context.get_all_request_header(i) or {})
        if "body" in item and len(item) == 1:
            body = item["body"]
            return Call(bytes(body) if isinstance(body, (bytearray, memoryview)) else body, headers)
        return Call(None, headers, {name: _bytes_or_text(value) for name, value in item.items()} if item else None)

    def _measure(self, responses: list[Response], context: Any) -> None:
        """Update custom metrics, in seconds and counts; an error here must not cost an answer."""
        try:
            seconds, images = self.service.costs.seconds, self.service.costs.images
            _emit(context, "gauge", "QueueShare", len(responses) / self.batch_size)
            for stage in seconds:
                if images[stage]:
                    _emit(context, "histogram", f"{stage.capitalize()}Seconds", seconds[stage])
            _emit(context, "counter", "ImagesMade", images["decode"] + images.get("task", 0))
            for response in responses:
                if response.status != 200:
                    _emit(context, "counter", "Refusals", 1, json.loads(response.body)["error"]["code"])
        except Exception:
            _log.warning("metrics could not be written", exc_info=True)


def _emit(context: Any, kind: str, name: str, value: float, reason: str = "") -> None:
    """Add to a metric that TorchServe's metrics file declares."""
    from ts.metrics.metric_type_enum import MetricTypes

    metric = context.metrics.get_metric(name, MetricTypes(kind))
    dimensions = {"ModelName": context.model_name, "Level": "Model", "Reason": reason}
    metric.add_or_update(value, [dimensions[dimension] for dimension in metric.dimension_names])


def _bytes_or_text(value: Any) -> bytes | str:
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else str(value)
