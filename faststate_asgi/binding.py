"""From a request to the validated arguments of one event.

Reads and bounds the body, finds each parameter's value (path, query, body, ``?datastar=``; the first wins) and
validates all of them at once against the method's annotations. Injected parameters are never read from the request.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# JSON values and annotations are told apart by isinstance(), which leaves what they hold unknown.

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from typing_extensions import TypedDict

from .errors import ArgumentError, BadRequestError, BodyTooLargeError, ConfigurationError, SlowBodyError
from .events import EventSpec, Kind, resolved_hints
from .parameters import Injected, Source, bare, injection, is_optional
from .patches import POISON_KEYS, Json
from .steps import resumed

MAX_DEPTH = 32
MAX_FILES = 16
MAX_FIELDS = 1000
BODY_WAIT_S = 30.0
SLOWEST_BYTES_PER_S = 1024
"""A body has this long to arrive, and longer the more of it has come."""
SHORT_DATA = 64
_SUSPICIOUS = re.compile(rb"\\u|__proto__|constructor|prototype|[0-9][eE]\+?[0-9]{3}|[0-9]{300}")
"""What a text must hold if a key in it could break pages or a number in it could be infinite."""
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


# -- reading ---------------------------------------------------------------------------------------------------------


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
        incoming.json = parse_json(body)
    incoming.digest = b"\n" + body if len(body) < SHORT_DATA else data_digest(b"", body)
    return incoming


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
        value, signals = parse_json(body), incoming.json
        both = isinstance(value, dict) and isinstance(signals, dict)
        incoming.json = {**signals, **value} if both else value
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


def _query_pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS) if query else []
    except ValueError:
        raise BadRequestError("The query cannot be read") from None


def _query_signals(query: str) -> Json:
    """Return the signals in ``?datastar=``."""
    for name, text in _query_pairs(query) if "datastar=" in query else ():
        if name == "datastar":
            return parse_json(text.encode("utf-8", "surrogatepass"))
    return None


_typed_dict: Any = TypedDict
"""The same, for names that are known at run time only."""


class _LimitedParser(MultiPartParser):
    """Starlette's parser with a bound on each file, and on all that is no file together."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], max_file: int, max_body: int) -> None:
        super().__init__(headers, stream, max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=max_body)
        self._max_file_bytes = max_file
        self._max_body_bytes = max_body
        self._part_bytes = self._text_bytes = 0

    def on_part_begin(self) -> None:
        self._part_bytes = 0
        super().on_part_begin()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part_bytes += end - start
        if self._part_bytes > self._max_file_bytes:
            raise BodyTooLargeError(f"A file is larger than {self._max_file_bytes} bytes")
        if self._current_part.file is None:
            self._text_bytes += end - start
            if self._text_bytes > self._max_body_bytes:
                raise BodyTooLargeError(f"The form is larger than {self._max_body_bytes} bytes")
        super().on_part_data(data, start, end)


async def _read_multipart(
    incoming: Incoming, receive: Receive, headers: Mapping[bytes, bytes], max_body: int, max_file: int
) -> None:
    """Read a multipart form; files go to temporary files, their names are never used as paths."""
    digest = blake2b(incoming.query.encode("latin-1") + b"\n", digest_size=16)

    async def stream() -> AsyncGenerator[bytes, None]:
        size, deadline = 0, asyncio.get_running_loop().time() + BODY_WAIT_S
        while True:
            message = await _in_time(receive(), deadline)
            if message["type"] == "http.disconnect":
                raise BadRequestError("The request ended early")
            chunk = message.get("body", b"")
            size += len(chunk)
            deadline += len(chunk) / SLOWEST_BYTES_PER_S
            if size > max_body + MAX_FILES * max_file:
                raise BodyTooLargeError("The request is too large")
            digest.update(chunk)
            yield chunk
            if not message.get("more_body"):
                return

    try:
        incoming.form = await _LimitedParser(Headers(raw=list(headers.items())), stream(), max_file, max_body).parse()
    except MultiPartException as exc:
        too_large = "exceeded" in exc.message.lower()
        raise (BodyTooLargeError if too_large else BadRequestError)(exc.message) from None
    except (ValueError, KeyError, UnicodeDecodeError) as exc:
        if isinstance(exc, BodyTooLargeError | BadRequestError):
            raise
        raise BadRequestError("The form cannot be read") from None
    for _, value in incoming.form.multi_items():
        if isinstance(value, UploadFile) and value.filename:
            value.filename = base_name(value.filename)
    incoming.digest = digest.digest()


def base_name(filename: str) -> str:
    """Return a file's name as it may stand in a folder: neither a path nor a step out of it, nor control characters."""
    name = _UNSAFE_IN_NAME.sub("", re.split(r"[/\\]", filename)[-1])
    return "" if name.strip(". ") == "" else name


# -- binding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One parameter that comes from the request's data."""

    name: str
    is_text: bool
    is_optional: bool
    is_list: bool
    is_structured: bool


class Binder:
    """Binds the data of requests to the parameters of one event; made once per event.

    Raises:
        ConfigurationError: an annotation that no request can satisfy.
    """

    def __init__(self, spec: EventSpec) -> None:
        hints = resolved_hints(spec)
        self.spec = spec
        self.parameters: list[_Parameter] = []
        self.injected: list[Injected] = []
        fields: dict[str, Any] = {}
        for name, parameter in list(spec.signature.parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            annotation = hints.get(name, Any)
            injected = None if name == spec.bound_field else injection(name, annotation)
            if injected is not None:
                self.injected.append(injected)
                continue
            self.parameters.append(_describe(name, annotation))
            is_required = parameter.default is inspect.Parameter.empty
            fields[name] = typing.Required[annotation] if is_required else typing.NotRequired[annotation]
        self._check_sessions()
        self.joins = [item for item in self.injected if item.source is Source.WRITABLE]
        sources = {item.source for item in self.injected}
        self.is_alone = not sources.isdisjoint((Source.WRITABLE, Source.DATABASE, Source.ASYNC_DATABASE))
        """Whether a call takes more than its own state's turn."""
        self.is_direct = not self.is_alone and Source.STATE not in sources
        """Whether nothing that a call is given has to be waited for."""
        self._validate = self._validator(fields) if fields else None
        self._are_as_sent = all(item.is_text or not item.is_optional for item in self.parameters)
        """Whether values of JSON go to the validator as they are, which takes from an object what it has fields for."""

    def _check_sessions(self) -> None:
        """Refuse a database session that would block the event loop, or could not be awaited.

        Raises:
            ConfigurationError: says which one the event can have.
        """
        where, kind = f"{self.spec.state_name}.{self.spec.name}", self.spec.kind
        is_async = kind in (Kind.ASYNC, Kind.ASYNC_GENERATOR)
        for source in (item.source for item in self.injected):
            if source is Source.DATABASE and is_async:
                raise ConfigurationError(f"{where} is async, so its database session must be an AsyncSession")
            if source is Source.ASYNC_DATABASE and not is_async:
                raise ConfigurationError(f"{where} is no async def, so its database session must be a Session")
            if source is Source.DATABASE and kind is Kind.INLINE:
                raise ConfigurationError(f"{where}: a Session would block the event loop; leave out inline=True")

    def _validator(self, fields: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
        shape: Any = _typed_dict("Arguments", fields)
        shape.__pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        try:
            adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape)
        except Exception as exc:
            raise ConfigurationError(f"{self.spec.state_name}.{self.spec.name}: {exc}") from exc
        return adapter.validator.validate_python

    def bind(self, incoming: Incoming) -> dict[str, Any]:
        """Return validated arguments by name; defaults are left to the method.

        Raises:
            ArgumentError: a missing or bad one, by name.
        """
        if self._validate is None:
            return {}
        if self._are_as_sent and not incoming.query and incoming.form is None and incoming.path is None:
            data = incoming.json if type(incoming.json) is dict else {}
        else:
            data = self._collected(incoming)
        try:
            return self._validate(data)
        except ValidationError as exc:
            raise _argument_error(exc) from None

    def _collected(self, incoming: Incoming) -> dict[str, Any]:
        """Return the values of the parameters by name, wherever in the request they are."""
        data: dict[str, Any] = {}
        query: dict[str, list[str]] | None = None
        if incoming.query:
            query = {}
            for name, text in _query_pairs(incoming.query):
                query.setdefault(name, []).append(text)
        body, form, path = incoming.signals, incoming.form, incoming.path
        for parameter in self.parameters:
            name = parameter.name
            if path is not None and name in path:
                value: Any = path[name]
            elif query is not None and name in query:
                value = _from_texts(query[name], parameter)
            elif form is not None and name in form:
                value = _from_texts(form.getlist(name), parameter)
            elif name in body:
                value = body[name]
            else:
                continue
            if value == "" and parameter.is_optional and not parameter.is_text:
                value = None
            data[name] = value
        return data


def database_parameters(spec: EventSpec) -> set[Source]:
    """Return which kinds of database session an event asks for; none if its annotations cannot be resolved."""
    try:
        hints = resolved_hints(spec)
    except ConfigurationError:
        return set()
    found = {item.source for name, hint in hints.items() if (item := injection(name, hint)) is not None}
    return found & {Source.DATABASE, Source.ASYNC_DATABASE}


def binder_of(spec: EventSpec) -> Binder:
    """Return the binder of an event, made on first use."""
    if spec.binder is None:
        spec.binder = Binder(spec)
    result: Binder = spec.binder
    return result


def _from_texts(values: list[Any], parameter: _Parameter) -> Any:
    """Return what one name of a query or form stands for."""
    # A form without a chosen file sends an empty one without a name.
    values = [
        "" if isinstance(value, UploadFile) and not value.filename and not value.size else value for value in values
    ]
    if parameter.is_list:
        if values == [""] and parameter.is_optional:
            return ""
        if len(values) == 1 and isinstance(values[0], str) and values[0].startswith("["):
            return _json_or_text(values[0])
        return values
    value = values[-1]
    if parameter.is_structured and isinstance(value, str) and value:
        return _json_or_text(value)
    return value


def _json_or_text(text: str) -> Any:
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except BadRequestError:
        return text


def _argument_error(exc: ValidationError) -> ArgumentError:
    """Return the 422 that names each bad field; values are not repeated."""
    fields: dict[str, str] = {}
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in error["loc"]) or "arguments"
        fields.setdefault(name, "Field required" if error["type"] == "missing" else error["msg"])
    summary = "; ".join(f"{name}: {message}" for name, message in list(fields.items())[:5])
    return ArgumentError(summary, fields=fields)


def _describe(name: str, annotation: Any) -> _Parameter:
    """Return what has to be known to read a parameter from texts."""
    inner = bare(annotation)
    origin = typing.get_origin(inner) or inner
    is_list = isinstance(origin, type) and issubclass(origin, (list, tuple, set, frozenset))
    simple = (str, int, float, bool, bytes, UploadFile)
    is_structured = (
        not is_list and not (isinstance(origin, type) and issubclass(origin, simple)) and _wants_json(origin)
    )
    return _Parameter(name, origin is str, is_optional(annotation), is_list, is_structured)


def _wants_json(origin: Any) -> bool:
    """Whether text for this type is meant as JSON: dicts, models, dataclasses."""
    if not isinstance(origin, type):
        return False
    is_model = hasattr(origin, "__pydantic_validator__") or hasattr(origin, "__dataclass_fields__")
    return issubclass(origin, dict) or is_model or hasattr(origin, "__total__")
