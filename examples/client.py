"""A client for latentpatch's servers that needs only Python's standard library.

    python examples/client.py info
    python examples/client.py generate -n 8 --seed 3 -o out
    python examples/client.py inpaint face.jpg --box 64,128,192,224 -n 4 -o out
    python examples/client.py edit face.jpg --donor other.jpg --box 64,128,192,224 -o out
    python examples/client.py provenance --seed 3 -o out

--url is the server's address. A token, if the server needs one, comes from --key-file (TorchServe's key_file.json),
--token or the environment variable LATENTPATCH_TOKEN.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

MAX_TRIES = 5  # requests to a server that is busy


class ServerError(Exception):
    """A refusal, or no answer at all."""


class Client:
    """Sends requests to one server.

    Args:
        url: of the server, such as ``http://127.0.0.1:8080``.
        token: bearer token; None for none.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", token: str | None = None, timeout: float = 120) -> None:
        self.url = f"{url.rstrip('/')}/predictions/latentpatch"
        self.headers = {"Content-Type": "application/json"}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"
        self.timeout = timeout

    def info(self) -> dict[str, Any]:
        """Return the model's card: sources, ranges of settings, limits."""
        return dict(json.loads(self._send({"operation": "info"})))

    def pictures(self, operation: str, **fields: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Return pictures by file name, and their report; a field may be a path, or None to leave it out."""
        body = {name: _base64(value) if isinstance(value, Path) else value for name, value in fields.items()}
        body = {name: value for name, value in body.items() if value is not None}
        answer = self._send({"operation": operation, "answer": "zip", **body})
        with zipfile.ZipFile(io.BytesIO(answer)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        return files, json.loads(files.pop("report.json"))

    def _send(self, body: dict[str, Any]) -> bytes:
        request = urllib.request.Request(self.url, json.dumps(body).encode(), self.headers)
        for left in reversed(range(MAX_TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    reason = _reason(error.code, error.read())
                if error.code != 503 or not left:
                    raise ServerError(reason) from None
                time.sleep(_seconds(error.headers.get("Retry-After")))
            except (OSError, http.client.HTTPException) as error:  # refused, timed out, cut off
                raise ServerError(f"{self.url}: {_cut(getattr(error, 'reason', error))}") from error
        raise AssertionError


def _reason(status: int, body: bytes) -> str:
    """Return the reason of a refusal: latentpatch's, TorchServe's own, or only the status."""
    try:
        answer = json.loads(body)
        if "error" in answer:
            return f"{status} {answer['error']['code']}: {answer['error']['message']}"
        return f"{status} {answer['type']}: {answer['message']}"
    except (ValueError, LookupError, TypeError):
        text = body.decode(errors="replace").strip()[:200]
        return f"{status}: {text or ('the request is too large' if status == 413 else 'without a reason')}"


def _cut(reason: object) -> str:
    """Return the reason of a lost connection; TorchServe closes those of requests that are too large."""
    was_cut = isinstance(reason, (BrokenPipeError, ConnectionResetError))
    return f"{reason}{'; the request may be too large for the server' if was_cut else ''}"


def _seconds(header: str | None) -> float:
    return min(float(header), 10.0) if header is not None and header.isdecimal() else 1.0


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _token(options: argparse.Namespace) -> str | None:
    if options.key_file is None:
        return options.token or os.environ.get("LATENTPATCH_TOKEN")
    return str(json.loads(Path(options.key_file).read_text())["inference"]["key"])


def _box(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _donor(text: str) -> str | Path:
    return text if text.startswith("source:") else Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Get pictures from a latentpatch server.")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the server (%(default)s)")
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--key-file", metavar="FILE", help="TorchServe's key_file.json")
    token.add_argument("--token", help="bearer token; safer in LATENTPATCH_TOKEN, which other users cannot see")
    commands = parser.add_subparsers(dest="operation", required=True)
    commands.add_parser("info", help="sources, settings and limits, as JSON")
    for name, described in (
        ("generate", "new pictures"),
        ("provenance", "sources of the pictures of the same generate command"),
        ("inpaint", "a region filled, in n ways"),
        ("edit", "a region copied from a donor"),
        ("reconstruct", "a picture through the autoencoder"),
    ):
        command = commands.add_parser(name, help=described)
        drawn = name in ("generate", "provenance", "inpaint")
        if name in ("inpaint", "edit", "reconstruct"):
            command.add_argument("image", type=Path)
        if name in ("inpaint", "edit"):
            region = command.add_mutually_exclusive_group(required=True)
            region.add_argument("--mask", type=Path, help="picture that is white where the region is")
            region.add_argument("--box", type=_box, metavar="LEFT,TOP,RIGHT,BOTTOM")
        if name == "edit":
            command.add_argument("--donor", type=_donor, required=True, help="picture, or source:ID")
        if drawn:
            command.add_argument("-n", type=int, default=1, help="number of pictures")
            command.add_argument("--seed", type=int, default=0, help="seed of the first; the next has the next")
            command.add_argument("--where", help='sources to use, such as "gender=female"')
            command.add_argument("--settings", type=json.loads, help="such as '{\"patch_size\": 8}'")
        if name in ("generate", "provenance"):
            command.add_argument("--reference", type=Path, help="picture that the new ones resemble")
        command.add_argument("--image-format", choices=("png", "jpeg", "webp"))
        command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    return parser


def main() -> int:
    """Run one command and return the exit status."""
    options = vars(parsed := _parser().parse_args())
    operation = options.pop("operation")
    try:
        client = Client(options.pop("url"), _token(parsed))
        for name in ("token", "key_file"):
            del options[name]
        if operation == "info":
            print(json.dumps(client.info(), indent=2))
            return 0
        folder = options.pop("output")
        files, report = client.pictures(operation, **options)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / Path(name).name).write_bytes(data)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    except (ServerError, OSError) as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    for row in report["images"]:
        best = max(row.get("shares", {}).items(), key=lambda item: item[1], default=None)
        print(folder / row["file"], *([] if best is None else [f"most from {best[0]} ({best[1]:.0%})"]), sep="  ")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
