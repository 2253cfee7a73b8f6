"""What processes tell each other: committed changes and ended streams, as small JSON texts."""

from __future__ import annotations

import json
from typing import NamedTuple

from .keys import StateKey


class Published(NamedTuple):
    """One committed change of one state.

    Args:
        key: which.
        before: its version before.
        version: its version now, ``"0"`` when it was deleted.
        typed: the frame for the tab whose field was set so, see ``echo.py``; empty for any other change.
    """

    key: StateKey
    before: str
    version: str
    typed: str = ""


class Ended(NamedTuple):
    """Streams to end: all that were opened with a session's cookie, or by a user."""

    session: str | None = None
    user_id: str | None = None


Message = Published | Ended


def encode(message: Message) -> str:
    """Return the text of a message."""
    if isinstance(message, Published):
        document = {"key": str(message.key), "before": message.before, "version": message.version}
        return json.dumps({**document, "typed": message.typed} if message.typed else document)
    return json.dumps({"session": message.session, "user": message.user_id})


def decode(text: str) -> Message | None:
    """Return the message of a text, None for one that another release may have sent."""
    try:
        document = json.loads(text)
        if "key" in document:
            versions = str(document["before"]), str(document["version"])
            return Published(StateKey.parse(document["key"]), *versions, str(document.get("typed", "")))
        return Ended(document["session"], document["user"])
    except (ValueError, KeyError, TypeError):
        return None


def addressed(text: str, origin: str) -> str:
    """Return a message's text in an envelope with the name of the process that sends it."""
    return json.dumps({"origin": origin, "message": text})


def heard(envelope: str | bytes, own: str) -> Message | None:
    """Return the message in an envelope, None for one of the process ``own`` itself or one that cannot be read."""
    try:
        document = json.loads(envelope)
        origin, text = document["origin"], document["message"]
    except (ValueError, KeyError, TypeError):
        return None
    return None if origin == own else decode(text)
