"""What processes tell each other: committed changes, elements to show and ended streams, as JSON texts."""

from __future__ import annotations

import json
from typing import NamedTuple

from .keys import StateKey

PIECE_CHARS = 7000
"""Envelopes are ASCII, and a notification of PostgreSQL is shorter than 8000 bytes."""


class Published(NamedTuple):
    """One committed change of one state.

    Args:
        key: which.
        before: its version before.
        version: its version now, ``"0"`` when it was deleted.
    """

    key: StateKey
    before: str
    version: str


class Shown(NamedTuple):
    """One-off elements of an event with ``broadcast=True``, as frames for every open stream of the state."""

    key: StateKey
    frame: str


class Ended(NamedTuple):
    """Streams to end: all that were opened with a session's cookie, or by a user."""

    session: str | None = None
    user_id: str | None = None


Message = Published | Shown | Ended


def encode(message: Message) -> str:
    """Return the text of a message."""
    if isinstance(message, Published):
        return json.dumps({"key": str(message.key), "before": message.before, "version": message.version})
    if isinstance(message, Shown):
        return json.dumps({"key": str(message.key), "frame": message.frame})
    return json.dumps({"session": message.session, "user": message.user_id})


def decode(text: str) -> Message | None:
    """Return the message of a text, None for one that another release may have sent."""
    try:
        document = json.loads(text)
        if "frame" in document:
            return Shown(StateKey.parse(document["key"]), str(document["frame"]))
        if "key" in document:
            return Published(StateKey.parse(document["key"]), str(document["before"]), str(document["version"]))
        return Ended(document["session"], document["user"])
    except (ValueError, KeyError, TypeError):
        return None


def addressed(text: str, origin: str) -> str:
    """Return a message's text in an envelope with the name of the process that sends it."""
    return json.dumps({"origin": origin, "message": text})


def pieces(text: str) -> list[str]:
    """Return a text in pieces that a notification of PostgreSQL can hold; equal ones would be sent once."""
    if len(text) <= PIECE_CHARS:
        return [text]
    parts = [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]
    return [f"{'=' if at == len(parts) - 1 else '+'}{at}:{part}" for at, part in enumerate(parts)]


def whole(piece: str, begun: dict[int, str], sender: int) -> str | None:
    """Return the text that a piece completes, None while more is to come.

    Args:
        piece: of ``pieces``, in the order in which one sender's transaction sent them.
        begun: what has come so far, by sender.
        sender: who sent the piece.
    """
    if piece[:1] not in ("+", "="):
        return piece
    number, _, part = piece[1:].partition(":")
    text = part if number == "0" else begun.pop(sender, "") + part
    if piece[0] == "=":
        return text
    begun[sender] = text
    return None


def heard(envelope: str | bytes, own: str) -> Message | None:
    """Return the message in an envelope, None for one of the process ``own`` itself or one that cannot be read."""
    try:
        document = json.loads(envelope)
        origin, text = document["origin"], document["message"]
    except (ValueError, KeyError, TypeError):
        return None
    return None if origin == own else decode(text)
