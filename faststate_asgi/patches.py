"""Differences of JSON values as merge patches (RFC 7386), in the dialect that a Datastar page survives.

A ``null`` outside an array removes a signal and leaves everything bound to it dead, so these patches never hold one:
``None`` travels as an empty string, and an object that lost keys is sent as an empty string and then whole.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# JSON values are told apart by isinstance() and type(), which leaves what they hold unknown.

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from zlib import adler32

from pydantic_core import from_json, to_json

from .errors import InvalidStateError

Json: TypeAlias = Any
"""A value of Python's ``json`` module; the one place where ``Any`` is meant."""

MAX_SAFE_INTEGER = 2**53
POISON_KEYS = frozenset({"__proto__", "constructor", "prototype"})
_UNCHANGED = object()

# What may travel in another form than it is stored in, or not at all: numbers that are none, keys that break pages (one
# of which is what a serializer makes of a lone surrogate), integers that JavaScript cannot hold.
_SUSPICIOUS = (b"NaN", b"Infinity", b"__proto__", b"prototype", b"constructor", b"\xef\xbf\xbd")
_SAME_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LARGE_INTEGER = re.compile(rb"(?:^|[:,\[])-?\d{16,}(?:[,\]}]|$)")
# Behind these a quote begins a string or is part of it; behind anything else it ends a key.
_NO_END_OF_KEY = (b'[":null', b'{":null', b',":null', b':":null', b'\\":null')


def wire(value: Json, where: str = "value", *, in_array: bool = False) -> Json:
    """Return ``value`` in the form in which signals travel.

    Args:
        value: JSON-like data as pydantic dumps it.
        where: the path to it, for the message.
        in_array: inside an array ``None`` stays ``null``.

    Raises:
        InvalidStateError: NaN, infinity, a lone surrogate or a key that breaks every page that gets it.
    """
    kind = type(value)
    if kind is str:
        if not value.isascii():
            _check_text(value, where)
        return value
    if kind is bool:
        return value
    if kind is int:
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)
    if value is None:
        return None if in_array else ""
    if kind is float:
        if not math.isfinite(value):
            raise InvalidStateError(f"{where} is {value}, which is not JSON; use None or a finite number")
        return value
    if kind is list or kind is tuple:
        return [wire(item, f"{where}[{i}]", in_array=True) for i, item in enumerate(value)]
    if kind is dict:
        return {_key(k, where): wire(v, f"{where}.{k}", in_array=False) for k, v in value.items()}
    raise InvalidStateError(f"{where} is a {kind.__name__}, which has no JSON form")


def _key(key: object, where: str) -> str:
    """Return an object's key if a page can hold it."""
    text = key if isinstance(key, str) else str(key)
    if text in POISON_KEYS:
        raise InvalidStateError(f"{where} has the key {text!r}, which breaks every page that receives it")
    _check_text(text, where)
    return text


def _check_text(text: str, where: str) -> None:
    """Refuse lone surrogates: they cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidStateError(f"{where} holds a lone surrogate, which cannot be sent") from None


def check_plain(value: Json, where: str = "value") -> None:
    """Refuse what no page or store may hold, without changing anything."""
    wire(value, where)


def check_keys(value: object, where: str = "value") -> None:
    """Refuse lone surrogates in the keys of Python values: a serializer replaces them without a word."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str) and not key.isascii():
                _check_text(key, where)
            check_keys(item, where)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_keys(item, where)


class Text:
    """A value in wire form as JSON text, ready to be sent; it becomes objects only when somebody asks for them."""

    __slots__ = ("_value", "data")
    __hash__ = None  # type: ignore[assignment]  # equal to the lists and objects that it stands for

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._value: Json = _UNCHANGED

    @property
    def value(self) -> Json:
        """The value as objects."""
        if self._value is _UNCHANGED:
            self._value = from_json(self.data)
        return self._value

    def __eq__(self, other: object) -> bool:
        return bool(self.value == (other.value if isinstance(other, Text) else other))

    def __repr__(self) -> str:
        return f"Text({self.data[:40]!r})"


def whole(values: Mapping[str, Json]) -> dict[str, Json]:
    """Return values without texts among them."""
    return {name: objects_of(value) for name, value in values.items()}


def objects_of(value: Json) -> Json:
    """Return a value that may be a text as objects."""
    return value.value if type(value) is Text else value


def is_object(value: Json) -> bool:
    """Whether a value or its text is a JSON object."""
    return value.data.startswith(b"{") if type(value) is Text else type(value) is dict


def wire_text(data: bytes) -> bytes | None:
    """Return the wire form of a stored value's JSON as pydantic-core writes it; None where ``wire`` has to look.

    Reading bytes is a hundred times as fast as reading objects.
    """
    for part in _SUSPICIOUS:
        if part in data:
            return None
    if b"0" * 16 in data.translate(_SAME_DIGITS) and _LARGE_INTEGER.search(data):
        return None
    if b"null" not in data:
        return data
    if data == b"null":
        return b'""'
    if b'":null' not in data:
        return data
    if data.startswith(b'":null'):
        return None
    for part in _NO_END_OF_KEY:
        if part in data:
            return None
    return data.replace(b'":null,', b'":"",').replace(b'":null}', b'":""}')


def encoded(path: Sequence[str], patch: Mapping[str, Json]) -> bytes:
    """Return a patch in wire form as JSON, inside one object for each name in ``path``."""
    if not any(type(value) is Text for value in patch.values()):
        return to_json(nest(tuple(path), dict(patch)), inf_nan_mode="constants")
    members = [
        to_json(name) + b":" + (value.data if type(value) is Text else to_json(value, inf_nan_mode="constants"))
        for name, value in patch.items()
    ]
    head = b"".join([b"{" + to_json(name) + b":" for name in path])
    return b"".join((head, b"{", b",".join(members), b"}" * (len(path) + 1)))


def difference(old: Json, new: Json) -> tuple[Json, bool]:
    """Return the merge patch from ``old`` to ``new`` and whether keys were removed somewhere.

    Both are in wire form. Where keys are gone the patch holds the whole new object, to be sent after an empty string
    in its place. ``(None, False)`` never means "no change": compare first.
    """
    if type(old) is dict and type(new) is dict:
        if not old.keys() <= new.keys():
            return new, True
        patch: dict[str, Json] = {}
        for key, value in new.items():
            before = old.get(key, _UNCHANGED)
            if before is not _UNCHANGED and _same(before, value):
                continue
            part, removed = difference(before, value) if before is not _UNCHANGED else (value, False)
            if removed:
                return new, True
            patch[key] = part
        return patch, False
    # An object put over a scalar or the other way round is replaced by the client as it is.
    return new, False


def same_text(a: bytes, b: bytes) -> bool:
    """Tell whether two JSON texts of one serializer hold the same value; the order of keys does not count."""
    if a == b:
        return True
    # The same members in another order are the same bytes in another order: as many, and with the same sum.
    if len(a) != len(b) or (adler32(a) ^ adler32(b)) & 0xFFFF:
        return False
    return same(from_json(a), from_json(b))


def same(a: Json, b: Json) -> bool:
    """Tell whether two JSON values are the same, types included (``1`` is not ``True`` and not ``1.0``)."""
    if type(a) is Text and type(b) is Text:
        return same_text(a.data, b.data)
    return _same(objects_of(a), objects_of(b))


def _same(a: Json, b: Json) -> bool:
    if type(a) is not type(b) or a != b:
        return False
    if type(a) is not dict and type(a) is not list:
        return True
    # Equal texts spare the look at each value, where these are in the same order.
    if to_json(a) == to_json(b):
        return True
    if type(a) is dict:
        return all(_same(v, b[k]) for k, v in a.items())
    return all(map(_same, a, b))


def nest(path: tuple[str, ...], value: Json) -> Json:
    """Return ``value`` inside one object for each name in ``path``."""
    for name in reversed(path):
        value = {name: value}
    return value


def merge(target: dict[str, Json], patch: dict[str, Json]) -> dict[str, Json]:
    """Apply ``patch`` to ``target`` in place as a Datastar page does, and return it."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            base = target.get(key)
            target[key] = merge(base if isinstance(base, dict) else {}, value)
        else:
            target[key] = value
    return target


def merged(patches: Iterable[dict[str, Json]]) -> dict[str, Json]:
    """Return what a page that knew nothing holds after ``patches``."""
    result: dict[str, Json] = {}
    for patch in patches:
        merge(result, patch)
    return result
