"""Measure the cost of TorchServe and the gain of batching, against the bare model.

    python benchmarks/serving.py [--seconds 10] [--clients 1 4 16 64] [--json FILE]

One worker with one thread serves the example portraits; each client requests one picture, waits for it, and requests
the next. Two servers take turns: one batches up to sixteen requests, one does not batch. The bare model takes turns
with them: it is called without a server, in batches of the same requests, encoded and decoded as on the wire. Needs
Java and ``pip install '.[serve]'``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from latentpatch import LatentPatch
from latentpatch.serving import Call, Service, respond
from latentpatch.serving.archive import build_archive

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from helpers import live_server  # noqa: E402

BATCH = 16


def body(seed: int) -> bytes:
    """Return the JSON of a request."""
    return json.dumps({"seed": seed % 1000}).encode()


def direct(service: Service, size: int, seconds: float) -> float:
    """Return pictures a second without a server, in batches of ``size`` requests."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        calls = [Call(body(count + i), {"Content-Type": "application/json"}) for i in range(size)]
        answers = respond(service, calls)
        assert all(answer.status == 200 for answer in answers)
        count += size
    return count / (time.perf_counter() - start)


def served(server: live_server.LiveServer, clients: int, seconds: float) -> dict[str, float]:
    """Return requests a second and quantiles of their latencies, in milliseconds."""
    times: list[float] = []
    lock = threading.Lock()
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        seed = number
        while time.perf_counter() < end:
            start = time.perf_counter()
            answer = server.request(
                "POST", f"/predictions/{server.model}", body(seed), {"Content-Type": "application/json"}
            )
            assert answer.status == 200, answer
            seed += clients
            with lock:
                times.append(time.perf_counter() - start)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client, number) for number in range(clients)]:
            future.result()
    duration = time.perf_counter() - start
    cuts = statistics.quantiles(times, n=100)
    return {"per_second": len(times) / duration, "p50": cuts[49] * 1e3, "p95": cuts[94] * 1e3, "p99": cuts[98] * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement (10)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of all measurements, in turns; the median counts (3)"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--sources", type=Path, default=ROOT / "examples" / "portraits")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if live_server.missing():
        sys.exit(f"missing: {live_server.missing()}")
    torch.set_num_threads(1)
    model = LatentPatch().fit(options.sources)
    service = Service(model)
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        servers = {}
        try:
            for name, size in (("batched", BATCH), ("one at a time", 1)):
                archive = Path(folder, name.replace(" ", "-"), "latentpatch.mar")
                archive.parent.mkdir()
                settings = {"batchSize": size, "minWorkers": 1, "maxWorkers": 1, "jobQueueSize": 200}
                build_archive(model, archive, settings=settings)
                servers[name] = live_server.LiveServer(archive, archive.parent / "run").start()
                served(servers[name], BATCH, 2)
            for _ in range(options.rounds):
                for size in (1, BATCH):
                    rate = direct(service, size, options.seconds / 2)
                    rows.setdefault(f"direct, {size} together", []).append({"per_second": rate})
                for name, server in servers.items():
                    for clients in options.clients:
                        rows.setdefault(f"{name}, {clients} clients", []).append(
                            served(server, clients, options.seconds)
                        )
        finally:
            for server in servers.values():
                server.stop()
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in rows.items()
    }
    report(medians, options)


def report(medians: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Print the medians as Markdown, with ratios, and write them as JSON."""
    print("| | pictures a second | p50, ms | p95, ms | p99, ms |\n|---|---|---|---|---|")
    for name, row in medians.items():
        times = " | ".join(f"{row[key]:.0f}" if key in row else "" for key in ("p50", "p95", "p99"))
        print(f"| {name} | {row['per_second']:.1f} | {times} |")
    ratios: dict[str, float] = {}
    if 16 in options.clients:
        sixteen = medians["batched, 16 clients"]["per_second"]
        ratios["served / direct, 16 clients"] = sixteen / medians[f"direct, {BATCH} together"]["per_second"]
        ratios["batched / one at a time, 16 clients"] = sixteen / medians["one at a time, 16 clients"]["per_second"]
        for name, ratio in ratios.items():
            print(f"{name}: {ratio:.2f}")
    if options.json:
        facts: dict[str, Any] = {"platform": platform.platform(), "torch": torch.__version__}
        options.json.write_text(json.dumps({**facts, "medians": medians, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
