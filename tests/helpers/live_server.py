"""A TorchServe for tests: free ports, a folder for all files, and no process left at the end."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

_PORTS = {
    "inference": "inference_address",
    "management": "management_address",
    "metrics": "metrics_address",
    "grpc_inference": "grpc_inference_port",
    "grpc_management": "grpc_management_port",
}


def missing() -> str | None:
    """Return the first thing this machine lacks to run TorchServe; None if it lacks nothing."""
    if shutil.which(java()) is None:
        return "Java (apt-get install openjdk-17-jre-headless)"
    for name in ("ts", "psutil", "yaml"):
        if importlib.util.find_spec(name) is None:
            return f"the Python package of {name!r} (pip install '.[serve]')"
    return None


def java() -> str:
    """Return the Java command that TorchServe uses."""
    home = os.environ.get("JAVA_HOME")
    return f"{home}/bin/java" if home else "java"


@dataclass(frozen=True)
class Response:
    """An answer; ``headers`` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class LiveServer:
    """TorchServe with an archive and ``config.properties``, but for addresses, paths and memory.

    Args:
        archive: the ``.mar``; its stem is the model's name.
        folder: an empty folder: working directory, model store, temporary files and logs.
        changes: properties to add or replace.
        properties: the file to start from.
    """

    def __init__(
        self,
        archive: Path,
        folder: Path,
        changes: Mapping[str, str] | None = None,
        properties: Path = ROOT / "config.properties",
    ) -> None:
        self.archive, self.folder, self.model = archive, folder, archive.stem
        self.ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self.properties = self._properties(properties, changes or {})
        self.startup_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    # --- life --------------------------------------------------------------------------------------

    def start(self, timeout: float = 180.0) -> LiveServer:
        """Start the server and wait until every worker is ready."""
        store, temporary = self.folder / "store", self.folder / "tmp"
        for path in (store, temporary):
            path.mkdir(parents=True)
        (store / self.archive.name).symlink_to(self.archive.resolve())
        config = self.folder / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self.properties.items()))
        started = time.monotonic()
        with (self.folder / "output.txt").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--ts-config", config],
                cwd=self.folder,
                env=self._environment(temporary),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own, so that none of it survives
            )
        try:
            self.wait_until_ready(timeout)
        except BaseException:
            self.stop()
            raise
        self.startup_seconds = time.monotonic() - started
        return self

    def stop(self) -> None:
        """End all processes, first with SIGTERM."""
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        deadline = time.monotonic() + 10
        # The leader may be gone before the others: the group is until the last of them.
        while time.monotonic() < deadline:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            process.poll()
            time.sleep(0.05)
        process.wait(10)
        self._process = None

    def __enter__(self) -> LiveServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self, timeout: float = 60.0, workers: int | None = None) -> None:
        """Wait until all workers are READY; ``/ping`` is 200 before the first is."""
        deadline = time.monotonic() + timeout
        seen: Any = None
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"TorchServe ended while starting:\n{self.log_tail()}")
            with suppress(OSError, http.client.HTTPException, ValueError, LookupError):
                seen = self.describe()
                ready = sum(worker["status"] == "READY" for worker in seen["workers"])
                if ready >= (workers or seen["minWorkers"]):
                    return
            time.sleep(0.1)
        raise TimeoutError(f"TorchServe was not ready within {timeout} s; last seen: {seen}\n{self.log_tail()}")

    # --- asking ------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        api: str = "inference",
        token: str | None = "",
        timeout: float = 60.0,
    ) -> Response:
        """Send a request on a connection of its own and return the answer.

        Args:
            api: ``inference``, ``management`` or ``metrics``.
            token: "" for the right one, None for none.
        """
        headers = dict(headers or {})
        if token == "" and api != "metrics":
            token = self.token(api)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[api], timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def predict(
        self,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = "",
        timeout: float = 60.0,
    ) -> Response:
        """POST to the model: bytes and text as they are, anything else as JSON."""
        headers = dict(headers or {})
        if not isinstance(body, (bytes, str)):
            body = json.dumps({} if body is None else body)
            headers.setdefault("Content-Type", "application/json")
        return self.request("POST", f"/predictions/{self.model}", body, headers, token=token, timeout=timeout)

    def token(self, api: str = "inference") -> str | None:
        """Return the key for ``inference``, ``management`` or ``API`` (which makes new keys); None without tokens."""
        if self.properties["disable_token_authorization"] == "true":
            return None
        keys = json.loads((self.folder / "key_file.json").read_text())
        return str(keys[api]["key"])

    def describe(self) -> dict[str, Any]:
        """Return the model's description by the management API: batch size, workers with id, pid and status, …"""
        answer = self.request("GET", f"/models/{self.model}", api="management", timeout=10)
        if answer.status != 200:
            raise ValueError(f"GET /models/{self.model}: {answer.status} {answer.body!r}")
        return dict(answer.json()[0])

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name and labels, as Prometheus reads them."""
        text = self.request("GET", "/metrics", api="metrics").body.decode()
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    # --- processes ---------------------------------------------------------------------------------

    def worker_pids(self) -> list[int]:
        """Return the process ids of the live workers, by the system's account and not TorchServe's."""
        import psutil

        found = []
        for process in self._processes():
            with suppress(psutil.Error):
                if any("model_service_worker" in part for part in process.cmdline()):
                    found.append(process.pid)
        return sorted(found)

    def memory(self) -> dict[int, int]:
        """Return the resident bytes of each process, workers and Java."""
        import psutil

        found = {}
        for process in self._processes():
            with suppress(psutil.Error):
                found[process.pid] = process.memory_info().rss
        return found

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of the output."""
        text = (self.folder / "output.txt").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _processes(self) -> list[Any]:
        import psutil

        if self._process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []

    # --- set-up ------------------------------------------------------------------------------------

    def _properties(self, path: Path, changes: Mapping[str, str]) -> dict[str, str]:
        lines = (line.strip() for line in path.read_text().splitlines())
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        properties = {key.strip(): value.strip() for key, _, value in pairs}
        for name, key in _PORTS.items():
            port = self.ports[name]
            properties[key] = f"http://127.0.0.1:{port}" if key.endswith("address") else str(port)
        properties |= {
            "model_store": "store",
            "load_models": self.archive.name,
            "metrics_config": str(ROOT / properties["metrics_config"]),
            "vmargs": "-Xmx512m",
        }
        return properties | dict(changes)

    def _environment(self, temporary: Path) -> dict[str, str]:
        dropped = ("PYTHONPATH", "TS_", "LOG_LOCATION", "METRICS_LOCATION")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        # TorchServe unpacks archives and keeps its pid file where these point.
        return kept | {"TEMP": str(temporary), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
