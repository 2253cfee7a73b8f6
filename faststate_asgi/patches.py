"""Differences of JSON values as merge patches (RFC 7386), in the dialect that a Datastar page survives.

A ``null`` outside an array removes a signal and leaves everything bound to it dead, so these patches never hold one:
``None`` travels as an empty string, and an object that lost keys is sent as an empty string and then whole.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# JSON values are told apart by isinstance() and type(), which leaves what they hold unknown.

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

from .errors import InvalidStateError

Json: TypeAlias = Any
"""A value of Python's ``json`` module; the one place where ``Any`` is meant."""

MAX_SAFE_INTEGER = 2**53
POISON_KEYS = frozenset({"__proto__", "constructor", "prototype"})
_UNCHANGED = object()


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
            if before is not _UNCHANGED and same(before, value):
                continue
            part, removed = difference(before, value) if before is not _UNCHANGED else (value, False)
            if removed:
                return new, True
            patch[key] = part
        return patch, False
    # An object put over a scalar or the other way round is replaced by the client as it is.
    return new, False


def same(a: Json, b: Json) -> bool:
    """Tell whether two JSON values are the same, types included (``1`` is not ``True`` and not ``1.0``)."""
    if type(a) is not type(b):
        return False
    if type(a) is dict:
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if type(a) is list:
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


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
