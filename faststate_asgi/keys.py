"""Keys of states: the five scopes, the frozen ``StateKey`` and its text form.

Ids are percent-quoted inside the text form, so no id can forge another key. Nothing here knows about requests.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import FrozenInstanceError
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from .errors import BadRequestError

MAX_ID_BYTES = 256
_NAMESPACE = uuid.UUID("7d6f3f0e-2a55-5c4b-9d0f-3b1f5f1c7a10")
_SAFE = re.compile(r"[A-Za-z0-9_.~-]*")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class StateScope(str, Enum):
    """Who shares one instance of a state."""

    GLOBAL = "global"
    SESSION = "session"
    USER = "user"
    COMPONENT = "component"
    RECORD = "record"


def quoted(part: str) -> str:
    """Quote one id for use inside a key's text form."""
    return part if _SAFE.fullmatch(part) else quote(part, safe="")


def checked_id(value: str, what: str) -> str:
    """Return ``value`` if it can be an id, else raise ``BadRequestError``.

    Args:
        value: at most 256 bytes of UTF-8 without control characters, not empty.
        what: the parameter's name, for the message.
    """
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        size_bytes = 0
    if not 0 < size_bytes <= MAX_ID_BYTES or _UNSAFE.search(value):
        raise BadRequestError(f"{what} must be 1 to {MAX_ID_BYTES} bytes of text without control characters")
    return value


class StateKey(str):
    """What one stored state is addressed by: the text form, with its parts as attributes; it cannot be changed.

    Only the ids that the scope uses are set: ``session_id`` for SESSION and COMPONENT, ``user_id`` for USER,
    ``component_id`` for COMPONENT and ``record_id`` for RECORD. Being text makes a key as cheap to look up as text.
    """

    __slots__ = ("component_id", "name", "record_id", "scope", "session_id", "user_id")

    scope: StateScope
    name: str
    session_id: str | None
    user_id: str | None
    component_id: str | None
    record_id: str | None

    def __new__(
        cls,
        scope: StateScope,
        name: str,
        session_id: str | None = None,
        user_id: str | None = None,
        component_id: str | None = None,
        record_id: str | None = None,
    ) -> StateKey:
        """Return the key of these parts."""
        scope = StateScope(scope)
        parts = {"session_id": session_id, "user_id": user_id, "component_id": component_id, "record_id": record_id}
        key = super().__new__(cls, _text(scope, name, parts))
        for attribute, value in {"scope": scope, "name": name, **parts}.items():
            object.__setattr__(key, attribute, value)
        return key

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"a StateKey cannot be changed; make another one (tried to set {name!r})")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"a StateKey cannot be changed (tried to delete {name!r})")

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.scope, self.name, self.session_id, self.user_id, self.component_id, self.record_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return StateKey, self.__getnewargs__()

    def __repr__(self) -> str:
        return f"StateKey({str(self)!r})"

    def __str__(self) -> str:
        return str.__str__(self)

    @classmethod
    def parse(cls, text: str) -> StateKey:
        """Return the key whose text form is ``text``; ``ValueError`` if there is none."""
        kind, *parts = text.split(":")
        ids = [unquote(part) for part in parts]
        match kind, ids:
            case "global", [name]:
                return cls(StateScope.GLOBAL, name)
            case "session", [session_id, name]:
                return cls(StateScope.SESSION, name, session_id=session_id)
            case "user", [user_id, name]:
                return cls(StateScope.USER, name, user_id=user_id)
            case "component", [session_id, component_id, name]:
                return cls(StateScope.COMPONENT, name, session_id=session_id, component_id=component_id)
            case "record", [name, record_id]:
                return cls(StateScope.RECORD, name, record_id=record_id)
            case _:
                raise ValueError(f"not the text form of a state key: {text[:80]!r}")

    @property
    def own_id(self) -> str | None:
        """The record or component id, which tells two instances of one class in a page apart."""
        return self.record_id if self.record_id is not None else self.component_id

    @property
    def label(self) -> str:
        """How pages and streams name this state: ``Name`` or ``Name:<quoted id>``."""
        name = quoted(self.name)
        return name if self.own_id is None else f"{name}:{quoted(self.own_id)}"


def _text(scope: StateScope, name: str, ids: dict[str, str | None]) -> str:
    """Return the text form of a key."""

    def part(attribute: str) -> str:
        return quoted(ids[attribute] or "")

    match scope:
        case StateScope.GLOBAL:
            return f"global:{quoted(name)}"
        case StateScope.SESSION:
            return f"session:{part('session_id')}:{quoted(name)}"
        case StateScope.USER:
            return f"user:{part('user_id')}:{quoted(name)}"
        case StateScope.COMPONENT:
            return f"component:{part('session_id')}:{part('component_id')}:{quoted(name)}"
        case StateScope.RECORD:
            return f"record:{quoted(name)}:{part('record_id')}"


# The busiest keys are made once.


@lru_cache(maxsize=8192)
def global_key(name: str) -> StateKey:
    """Return the key of a global state."""
    return StateKey(StateScope.GLOBAL, name)


@lru_cache(maxsize=8192)
def session_key(name: str, session_id: str) -> StateKey:
    """Return the key of a session state."""
    return StateKey(StateScope.SESSION, name, session_id=session_id)


@lru_cache(maxsize=8192)
def user_key(name: str, user_id: str) -> StateKey:
    """Return the key of a user state."""
    return StateKey(StateScope.USER, name, user_id=user_id)


@lru_cache(maxsize=8192)
def component_key(name: str, session_id: str, component_id: str) -> StateKey:
    """Return the key of a component state."""
    return StateKey(StateScope.COMPONENT, name, session_id=session_id, component_id=component_id)


@lru_cache(maxsize=8192)
def record_key(name: str, record_id: str) -> StateKey:
    """Return the key of a record state."""
    return StateKey(StateScope.RECORD, name, record_id=record_id)


def state_id(key: StateKey) -> str:
    """Return the UUID that belongs to ``key``, the same on every machine (RFC 9562, version 5)."""
    return str(uuid.uuid5(_NAMESPACE, key))


def loggable(key: StateKey) -> str:
    """Return a key for log records: session ids are shortened, they are as good as a password."""
    if key.session_id is None:
        return str(key)
    return key.replace(key.session_id, f"{key.session_id[:6]}…")
