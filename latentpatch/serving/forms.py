"""Forms: the fields of multipart and urlencoded bodies.

Starlette's own parser is not used: it decodes the fields of a form as text, where a picture may come as a field, too,
and it writes files to the disk, which a server need not be allowed to.
"""

from __future__ import annotations

import math
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from .failures import malformed

__all__ = ["parse_form"]

MAX_PARTS = 100  # parts of a form; requests have fewer fields


def parse_form(content_type: str | None, body: bytes) -> dict[str, bytes] | None:
    """Return the fields of a form, the last of each name; None for a body of another type.

    Raises:
        Refusal: 400 for a form that is malformed, incomplete or of too many parts.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return _parse_multipart(body, options.get(b"boundary", b""))
    if kind == b"application/x-www-form-urlencoded":
        try:
            # Bytes pass through Latin-1 unchanged.
            pairs = parse_qsl(body.decode("latin-1"), True, encoding="latin-1", max_num_fields=MAX_PARTS)
        except ValueError as error:
            raise malformed(f"the form has more than {MAX_PARTS} parts") from error
        return {_decode(name.encode("latin-1")): value.encode("latin-1") for name, value in pairs}
    return None


def _parse_multipart(body: bytes, boundary: bytes) -> dict[str, bytes]:
    parts: list[tuple[str, bytes]] = []
    ends: list[bool] = []

    def add(part: Field | File) -> None:
        if len(parts) == MAX_PARTS:
            raise FormParserError(f"more than {MAX_PARTS} parts")
        if isinstance(part, File):
            part.file_object.seek(0)
        data = part.file_object.read() if isinstance(part, File) else part.value
        parts.append((_decode(part.field_name or b""), data or b""))

    try:
        # All of the body is in memory already: without a bound, nothing goes to the disk.
        config = {"MAX_MEMORY_FILE_SIZE": math.inf}
        parser = FormParser("multipart/form-data", add, add, lambda: ends.append(True), boundary, config=config)
        parser.write(body)
    except FormParserError as error:
        raise malformed(f"the form cannot be read: {error}") from error
    if not ends:
        raise malformed("the form ends before its last boundary")
    return dict(parts)


def _decode(name: bytes) -> str:
    return name.decode(errors="replace")
