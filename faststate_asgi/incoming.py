"""The data of one request: read, bounded in size and time, parsed, and refused where it would break pages."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# JSON values are told apart by isinstance(), which leaves what they hold unknown.

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from .errors import ArgumentError, BadRequestError, BodyTooLargeError, SlowBodyError
from .patches import POISON_KEYS, Json
from .steps import resumed

MAX_DEPTH = 32
MAX_FILES = 16
MAX_FIELDS = 1000
BODY_WAIT_S = 30.0
SLOWEST_BYTES_PER_S = 1024
"""A body has this long to arrive, and longer the more of it has come."""
SHORT_DATA = 64
_SUSPICIOUS = re.compile(rb"\\u|__proto__|constructor|prototype|[0-9][eE]\+?[0-9]{3}|[0-9]{200}")
"""What a text must hold if a key in it could break pages or a number in it could be infinite (from 10^309 on)."""
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_UNSAFE_IN_NAME = re.compile(r"[\x00-\x1f\x7f]")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Incoming:
    """The data of one request, read and parsed; lives until the event has answered."""

    # What most requests do not have is a default of the class.
    query = ""
    path: Mapping[str, Any] | None = None
    json: Json = None
    form: FormData | None = None
    digest = b""
    body = b""

    async def aclose(self) -> None:
        """Close uploaded files."""
        if self.form is not None:
            await self.form.close()

    @property
    def signals(self) -> dict[str, Json]:
        """All signals of the request."""
        return self.json if isinstance(self.json, dict) else {}


def read_incoming(
    receive: Receive, headers: Mapping[bytes, bytes], method: str, query: bytes, max_body: int, max_file: int
) -> Incoming | Awaitable[Incoming]:
    """Read one request's data; at once if it is JSON that is there, which takes neither a clock nor a loop.

    Raises:
        BadRequestError: bad JSON, or nesting over 32 levels.
        BodyTooLargeError: the body or a file is too large.
        ArgumentError: keys or text that would break pages.
        SlowBodyError: it takes too long to arrive.
    """
    content_type, length = headers.get(b"content-type", b""), headers.get(b"content-length", b"")
    if query or content_type != b"application/json":
        return _read_any(receive, headers, method, query, max_body, max_file)
    if length.isdigit() and (len(length) > 18 or int(length) > max_body):
        raise too_large(max_body)
    awaited = receive().__await__()
    try:
        waiting = next(awaited)
    except StopIteration as done:
        message: MutableMapping[str, Any] = done.value
    else:
        return _read_later(receive, (awaited, waiting), max_body)
    if message.get("more_body") or message["type"] != "http.request":
        return _read_later(receive, message, max_body)
    return _json_incoming(message.get("body", b""), max_body)


def too_large(max_body: int) -> BodyTooLargeError:
    """Return the refusal of a body."""
    return BodyTooLargeError(f"The request is larger than {max_body} bytes")


def _json_incoming(body: bytes, max_body: int) -> Incoming:
    """Return the data of a request that has nothing but a body of JSON."""
    if len(body) > max_body:
        raise too_large(max_body)
    incoming = Incoming()
    if body:
        incoming.body = body
        incoming.json = _object(parse_json(body))
    incoming.digest = b"\n" + body if len(body) < SHORT_DATA else data_digest(b"", body)
    return incoming


def _object(value: Json) -> dict[str, Json] | None:
    """Return arguments by name; nothing at all is no arguments.

    Raises:
        BadRequestError: another value, which names none.
    """
    if value is None or type(value) is dict:
        return value
    raise BadRequestError('The arguments must be a JSON object, by name, as {"amount": 1}')


async def _read_later(receive: Receive, begun: MutableMapping[str, Any] | tuple[Any, Any], max_body: int) -> Incoming:
    """Return the data of a request with a body of JSON that is not all there.

    Args:
        receive: of the request.
        begun: the first message, or the awaitable that brings it and what that waits for.
        max_body: in bytes.
    """
    if isinstance(begun, tuple):
        first = resumed(*begun)
        begun = await _in_time(first, asyncio.get_running_loop().time() + BODY_WAIT_S)
    return _json_incoming(await _read_rest(begun, receive, max_body), max_body)


async def _read_any(
    receive: Receive, headers: Mapping[bytes, bytes], method: str, query: bytes, max_body: int, max_file: int
) -> Incoming:
    """Read the data of any request."""
    incoming = Incoming()
    incoming.query = query.decode("latin-1")
    if method in ("GET", "DELETE"):
        incoming.json = _query_signals(incoming.query)
    media = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media == b"multipart/form-data":
        await _read_multipart(incoming, receive, headers, max_body, max_file)
        return incoming
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 18 or int(length) > max_body):
        raise too_large(max_body)
    first = await _in_time(receive(), asyncio.get_running_loop().time() + BODY_WAIT_S)
    body = await _read_rest(first, receive, max_body)
    incoming.digest, incoming.body = data_digest(query, body), body
    if not body:
        return incoming
    if media == b"application/x-www-form-urlencoded":
        incoming.form = FormData(_pairs(body))
    else:
        value, signals = _object(parse_json(body)), incoming.json
        incoming.json = {**signals, **value} if isinstance(signals, dict) and value is not None else value
    return incoming


def data_digest(query: bytes, body: bytes) -> bytes:
    """Return what tells one request's data from another's; short data is its own digest."""
    data = query + b"\n" + body
    return data if len(data) <= SHORT_DATA else blake2b(data, digest_size=16).digest()


async def _read_rest(message: MutableMapping[str, Any], receive: Receive, max_body: int) -> bytes:
    """Return a body that may come in several messages, the first of which is here.

    Raises:
        BodyTooLargeError: it is larger than ``max_body``; refused as soon as that is known.
        SlowBodyError: it takes too long to arrive.
    """
    deadline, chunks, size = asyncio.get_running_loop().time() + BODY_WAIT_S, list[bytes](), 0
    while True:
        if message["type"] == "http.disconnect":
            raise BadRequestError("The request ended early")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_body:
            raise too_large(max_body)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        deadline += len(chunk) / SLOWEST_BYTES_PER_S
        message = await _in_time(receive(), deadline)


async def _in_time(message: Awaitable[MutableMapping[str, Any]], deadline: float) -> MutableMapping[str, Any]:
    """Return a message; give up on a client that sends a body too slowly."""
    try:
        async with asyncio.timeout_at(deadline):
            return await message
    except TimeoutError:
        raise SlowBodyError("The request took too long to arrive", headers={"Connection": "close"}) from None


def parse_json(body: bytes) -> Json:
    """Return the value of a JSON text that a page can hold.

    Raises:
        BadRequestError: not JSON, or nested too deeply.
        ArgumentError: lone surrogates, or keys that break pages.
    """
    is_long = len(body) > MAX_DEPTH
    if is_long and body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise BadRequestError(f"The JSON is nested more than {MAX_DEPTH} levels deep")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        if _HALF_CHARACTER.search(body) and _is_json(body):
            raise ArgumentError("The text holds half a character (a lone surrogate)") from None
        raise BadRequestError("The body is not valid JSON") from None
    if _SUSPICIOUS.search(body):
        _refuse_poison(value)
    return value


def _is_json(body: bytes) -> bool:
    """Whether a more lenient reader takes a text for JSON."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _depth(body: bytes) -> int:
    """Return how deeply brackets are nested, strings left out."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in body:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                return deepest
        elif byte in b"]}":
            depth -= 1
    return deepest


def _refuse_poison(value: Json) -> None:
    if isinstance(value, dict):
        bad = POISON_KEYS & value.keys()
        if bad:
            raise ArgumentError(f"The key {sorted(bad)[0]!r} is not allowed")
        for item in value.values():
            _refuse_poison(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_poison(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ArgumentError("A number is too large")


def _pairs(body: bytes) -> list[tuple[str, str | UploadFile]]:
    try:
        return list(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except (ValueError, UnicodeDecodeError):
        raise BadRequestError("The form cannot be read") from None


def query_pairs(query: str) -> list[tuple[str, str]]:
    """Return the names and values of a query; ``BadRequestError`` if there are too many."""
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS) if query else []
    except ValueError:
        raise BadRequestError("The query cannot be read") from None


def _query_signals(query: str) -> Json:
    """Return the signals in ``?datastar=``."""
    for name, text in query_pairs(query) if "datastar=" in query else ():
        if name == "datastar":
            return _object(parse_json(text.encode("utf-8", "surrogatepass")))
    return None


class _LimitedParser(MultiPartParser):
    """Starlette's parser with a bound on each file, and on all that is no file together.

    ``digest`` is of the parts as they are, without the boundary between them: ``fetch`` makes a new one each time that it
    sends the same form. ``is_whole`` tells whether the last boundary has come.
    """

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], max_file: int, max_body: int) -> None:
        super().__init__(headers, stream, max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=max_body)
        self._max_file_bytes = max_file
        self._max_body_bytes = max_body
        self._file_bytes = self._text_bytes = 0
        self._part_digest = blake2b(digest_size=16)
        self.digest = blake2b(digest_size=16)
        self.is_whole = False

    def on_part_begin(self) -> None:
        self._file_bytes = 0
        self._part_digest = blake2b(digest_size=16)
        super().on_part_begin()

    def on_header_end(self) -> None:
        name, value = self._current_partial_header_name, self._current_partial_header_value
        self._part_digest.update(b"%d:%d:" % (len(name), len(value)) + name + value)
        super().on_header_end()

    def on_headers_finished(self) -> None:
        self._part_digest.update(b"\n")
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._text_bytes += end - start
            if self._text_bytes > self._max_body_bytes:
                raise BodyTooLargeError(f"The form is larger than {self._max_body_bytes} bytes")
        else:
            self._file_bytes += end - start
            if self._file_bytes > self._max_file_bytes:
                raise BodyTooLargeError(f"A file is larger than {self._max_file_bytes} bytes")
        self._part_digest.update(memoryview(data)[start:end])
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        self.digest.update(self._part_digest.digest())
        super().on_part_end()

    def on_end(self) -> None:
        self.is_whole = True
        super().on_end()

    def close(self) -> None:
        """Close all files, also one whose end has not come."""
        for file in self._files_to_close_on_error:
            file.close()


async def _read_multipart(
    incoming: Incoming, receive: Receive, headers: Mapping[bytes, bytes], max_body: int, max_file: int
) -> None:
    """Read a multipart form; files go to temporary files, their names are never used as paths."""
    size = 0

    # It does not refer to its parser: what ends early would wait for the garbage collector.
    async def stream() -> AsyncGenerator[bytes, None]:
        nonlocal size
        deadline = asyncio.get_running_loop().time() + BODY_WAIT_S
        while True:
            message = await _in_time(receive(), deadline)
            if message["type"] == "http.disconnect":
                raise BadRequestError("The request ended early")
            chunk = message.get("body", b"")
            size += len(chunk)
            deadline += len(chunk) / SLOWEST_BYTES_PER_S
            if size > max_body + MAX_FILES * max_file:
                raise BodyTooLargeError("The request is too large")
            yield chunk
            if not message.get("more_body"):
                return

    parser = _LimitedParser(Headers(raw=list(headers.items())), stream(), max_file, max_body)
    try:
        incoming.form = await parser.parse()
    except MultiPartException as exc:
        too_large = "exceeded" in exc.message.lower()
        raise (BodyTooLargeError if too_large else BadRequestError)(exc.message) from None
    except (ValueError, KeyError, UnicodeDecodeError) as exc:
        if isinstance(exc, BodyTooLargeError | BadRequestError):
            raise
        raise BadRequestError("The form cannot be read") from None
    if size and not parser.is_whole:
        parser.close()
        raise BadRequestError("The form ends before its closing boundary; please send it again")
    for _, value in incoming.form.multi_items():
        if isinstance(value, UploadFile) and value.filename:
            value.filename = base_name(value.filename)
    incoming.digest = data_digest(incoming.query.encode("latin-1"), parser.digest.digest())


def base_name(filename: str) -> str:
    """Return a file's name as it may stand in a folder: neither a path nor a step out of it, nor control characters."""
    name = _UNSAFE_IN_NAME.sub("", re.split(r"[/\\]", filename)[-1])
    return "" if name.strip(". ") == "" else name
