"""Requests to send to a server, good and bad, with the right answers; and clients that send them."""

from __future__ import annotations

import base64
import io
import json
import random
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from helpers.draw_faces import draw_face
from latentpatch.serving import Call, Response, Service, respond


@dataclass(frozen=True)
class Sent:
    """A request over HTTP: body and headers of a POST."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Got:
    """An answer and its time; status 0 for a connection that broke."""

    status: int
    body: bytes
    seconds: float


def as_json(body: Any, **headers: str) -> Sent:
    return Sent(json.dumps(body).encode(), {"Content-Type": "application/json", **headers})


def face(seed: int) -> bytes:
    buffer = io.BytesIO()
    draw_face(seed, 64).resize((256, 256), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(service: Service, body: Any, **headers: str) -> Response:
    """Return the answer to one body without a server; of the headers' names underscores become hyphens."""
    (answer,) = respond(service, [Call(body, {name.replace("_", "-"): value for name, value in headers.items()})])
    return answer


def error(answer: Response) -> dict[str, Any]:
    """Return the content of a refusal."""
    assert answer.content_type == "application/json"
    fault: dict[str, Any] = json.loads(answer.body)["error"]
    assert fault["status"] == answer.status
    return fault


def good(i: int) -> Sent:
    """Return the i-th of an endless sequence of good requests, of all operations and forms."""
    picture = face(i % 5)
    box = [32, 48, 112, 128]
    kinds: tuple[Callable[[], Sent], ...] = (
        lambda: as_json({"seed": i}),
        lambda: as_json({"seed": i, "n": 3, "answer": "json"}),
        lambda: as_json({"seed": i, "reference": text(picture)}),
        lambda: as_json({"seed": i, "settings": {"neighbours": 2, "patch_size": 5}}, Accept="image/jpeg"),
        lambda: as_json({"operation": "inpaint", "image": text(picture), "box": box, "seed": i}),
        lambda: as_json({"operation": "provenance", "seed": i, "n": 2}),
        lambda: Sent(picture, {"Content-Type": "image/png"}),
        lambda: as_json({"operation": "edit", "image": text(picture), "donor": text(face(i % 5 + 1)), "box": box}),
        lambda: Sent(picture, {"Content-Type": "image/png", "LatentPatch-Request": json.dumps({"seed": i})}),
    )
    return kinds[i % len(kinds)]()


def bad(i: int) -> Sent:
    """Return the i-th of an endless sequence of bad requests."""
    kinds: tuple[Callable[[], Sent], ...] = (
        lambda: as_json({"n": -i}),
        lambda: Sent(b"{", {"Content-Type": "application/json"}),
        lambda: Sent(face(i % 5)[:500], {"Content-Type": "image/png"}),
        lambda: as_json({"n": 10_000}),
        lambda: as_json({"reference": text(bomb())}),
        lambda: as_json({"where": "x=1"}),
        lambda: as_json({"seed": i, "n": 2}, Accept="image/png"),
    )
    return kinds[i % len(kinds)]()


def bomb(side: int = 8000) -> bytes:
    """Return a small file of very many pixels."""
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def expected(service: Service, sent: Sent) -> Response:
    """Return the answer without a server, on one thread as its workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return respond(service, [Call(sent.body, sent.headers)])[0]
    finally:
        torch.set_num_threads(threads)


def throw(
    send: Callable[[Sent], Any], requests: Sequence[Sent], clients: int, while_running: Callable[[], None] | None = None
) -> list[Got]:
    """Send all requests from several clients at once, each of which waits for its answer before its next."""

    def one(sent: Sent) -> Got:
        start = time.perf_counter()
        try:
            answer = send(sent)
        except (OSError, EOFError) as error:
            if isinstance(error, TimeoutError):
                raise  # no answer at all is what must never be
            return Got(0, b"", time.perf_counter() - start)
        return Got(answer.status, answer.body, time.perf_counter() - start)

    with ThreadPoolExecutor(clients) as pool:
        waiting = [pool.submit(one, sent) for sent in requests]
        if while_running is not None:
            while_running()
        return [future.result() for future in waiting]


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack a model archive and return its folder."""
    with zipfile.ZipFile(archive) as mar:
        mar.extractall(folder)
    return folder


# --- fuzzing ---------------------------------------------------------------------------------------------

_FIELDS = ("operation", "n", "seed", "seeds", "settings", "where", "sampler", "reference", "decoding", "answer")
_FIELDS += ("image_format", "image", "mask", "box", "donor", "composite", "reduced", "inputs", "parameters", "id")
_FIELDS += ("task", "pictures", "target", "size", "method", "preset", "provenance")
_TYPES = ("application/json", "image/png", "text/plain", "application/octet-stream", "", "APPLICATION/JSON; charset=x")
_TYPES += ("application/x-www-form-urlencoded", "multipart/form-data; boundary=xyz", "application/zip", "image/svg+xml")


def fuzzed(seed: int, count: int) -> Iterable[Sent]:
    """Yield bodies that may break things.

    Fields of the schema with values of any kind, bytes of any kind, pictures cut short or blown up, broken forms.
    """
    rng = random.Random(seed)
    picture = face(1)
    bombs = [bomb(), bomb(3000), _claiming(60_000), _claiming(2**31 - 1), _claiming(0)]

    def value(depth: int = 0) -> Any:
        kinds: list[Callable[[], Any]] = [
            lambda: rng.choice([0, 1, -1, 2, 3, 64, 65, 2**63, -(2**63), 10**400, 1.5, 1e308, True, False, None]),
            lambda: rng.choice(["generate", "edit", "info", "raster", "random-cells", "gather", "json", "zip"]),
            lambda: rng.choice(["", "\0", "é\ud800", "'; --", "a" * 5000, "source:0", "source:", "0,0,9,9", "%00"]),
            lambda: text(rng.choice([picture, picture[: rng.randrange(1, len(picture))], *bombs, rng.randbytes(200)])),
            lambda: [value(depth + 1) for _ in range(rng.randrange(5))],
            lambda: {rng.choice(_FIELDS): value(depth + 1) for _ in range(rng.randrange(4))},
            lambda: {"patch_size": rng.randrange(-1, 20), "stride": rng.randrange(-1, 9), "scales": rng.randrange(20)},
            lambda: rng.choice(["gender=female", "a=1 and", "(" * 900, "not not x=1", "x" * 999]),
        ]
        return rng.choice(kinds[: 4 if depth > 3 else None])()

    def fields() -> Sent:
        body = {name: value() for name in rng.sample(_FIELDS, rng.randrange(6))}
        if rng.random() < 0.7:
            body["operation"] = rng.choice(
                ["generate", "provenance", "inpaint", "edit", "reconstruct", "picture", "info"]
            )
        if rng.random() < 0.5:
            body |= {"image": text(picture)}
        return as_json(body, **_accept())

    def _accept() -> dict[str, str]:
        return {"Accept": rng.choice(["*/*", "image/png", "application/json", "x;q=z", ",,;", "image/webp;q=0.1"])}

    def nearly_right() -> Sent:
        """A good request with one field changed, at most two."""
        box = sorted(rng.sample(range(257), 2))
        body = rng.choice(
            [
                {"operation": "generate", "n": rng.randrange(1, 5), "seed": rng.randrange(2**63 - 5)},
                {"seeds": [rng.randrange(99) for _ in range(rng.randrange(1, 5))], "reference": text(picture)},
                {"settings": {"patch_size": rng.randrange(1, 12), "stride": rng.randrange(1, 6)}, "n": 2},
                {"settings": {"scales": rng.randrange(1, 17), "start_size": rng.randrange(1, 18)}},
                {"operation": "provenance", "sampler": "random-patches", "n": 2},
                {"operation": "inpaint", "image": text(picture), "box": [box[0], box[0], box[1], box[1]], "n": 2},
                {"operation": "edit", "image": text(picture), "mask": text(face(2)), "donor": "source:3"},
                {"operation": "reconstruct", "image": text(picture), "reduced": True},
                {
                    "task": "texture",
                    "pictures": text(face(2)),
                    "size": [rng.randrange(1, 99), 64],
                    "method": "quilting",
                },
            ]
        )
        for name in rng.sample(_FIELDS, rng.choice([0, 1, 1, 2])):
            body[name] = value()
        return as_json(body, **_accept())

    def nearly_json() -> Sent:
        data = bytearray(good(rng.randrange(100)).body)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return Sent(bytes(data[: rng.randrange(1, len(data) + 1)]), {"Content-Type": rng.choice(_TYPES)})

    def raw() -> Sent:
        return Sent(rng.randbytes(rng.randrange(2000)), {"Content-Type": rng.choice(_TYPES)})

    def broken_picture() -> Sent:
        data = bytearray(rng.choice([picture, *bombs]))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        header = rng.choice(["", "{", "[]", '{"n": 2}', '{"operation": "inpaint", "box": [0,0,64,64]}', "é"])
        headers = {"Content-Type": rng.choice(["image/png", "image/gif", "application/octet-stream"])}
        if header.isascii() and header:
            headers["LatentPatch-Request"] = header
        return Sent(bytes(data[: rng.randrange(1, len(data) + 1)]), headers)

    def form() -> Sent:
        parts = []
        for name in rng.sample(_FIELDS, rng.randrange(1, 5)):
            content = rng.choice(
                [b"1", b"{", picture[: rng.randrange(1, len(picture))], b"generate", rng.randbytes(30)]
            )
            parts.append(b'--xyz\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + content)
        data = b"\r\n".join(parts) + rng.choice([b"\r\n--xyz--\r\n", b"\r\n--xyz--", b"\r\n--xy", b""])
        return Sent(data, {"Content-Type": "multipart/form-data; boundary=xyz"})

    def deep() -> Sent:
        kind = rng.choice([b"[", b'{"a":', b'{"settings":', b'{"inputs":['])
        return Sent(kind * rng.randrange(1, 20_000), {"Content-Type": "application/json"})

    makers = [fields, *[nearly_right] * 5, nearly_json, raw, broken_picture, form, deep]
    for _ in range(count):
        yield rng.choice(makers)()


def _claiming(side: int) -> bytes:
    """Return a PNG whose header claims such sides."""
    data = bytearray(face(0))
    data[16:24] = side.to_bytes(4, "big") * 2
    return bytes(data)
