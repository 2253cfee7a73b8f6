"""What pages hold: ``Live`` opens the stream, ``ErrorBox`` shows errors, ``datastar_script`` loads the client.

Everything renders to markup that is inert as text and exact as data.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING
from urllib.parse import quote

from . import echo, frames
from .current import current_context, heartbeat_s, mount_url
from .errors import ConfigurationError, shorten
from .order import number_of
from .patches import Json, merge
from .settings import DATASTAR_CDN

if TYPE_CHECKING:
    from .state import ReactiveState

# What differs between pages with the same states.
_SIGNALS, _SEEN = "\0", "\1"
# Retries for ever: the server spreads reconnects by its own `retry:` lines. No signal is sent with a stream.
_STREAM_OPTIONS = (
    "retry: 'always', retryMaxCount: Infinity, retryMaxWait: 30000, "
    "requestCancellation: el.stream = new AbortController(), filterSignals: {include: /^$/}, "
    "headers: {'FastState-Tab': window.faststate.tab, 'FastState-Seen': el.getAttribute('seen')}"
)
# A stream that is silent for too long, or that the client has given up on, is opened again, but not one that was
# refused. Aborting a stream is reported as "finished", too. A hidden tab has none; Datastar opens it again itself.
_AGAIN = "() => el.dispatchEvent(new CustomEvent('faststate-open'))"
_ON_FETCH = (
    "if (evt.detail.el === el) { const type = evt.detail.type; "
    "if (type === 'finished' && el.leaving) { el.leaving = false } else { el.over = type === 'finished'; "
    "if (['error', 'retrying', 'retries-failed', 'finished'].includes(type)) "
    "{ $_faststate.connected = false; $_faststate.live = '' } "
    "clearTimeout(el.timer); if (!el.over || $_faststate.error?.event !== 'stream') "
    f"el.timer = setTimeout({_AGAIN}, el.over ? 1000 + 4000 * Math.random() : SILENCE_MS) }} }}"
)
_ON_OPEN = (
    "$_faststate.connected = false; $_faststate.live = ''; "
    "if (!document.hidden) { el.leaving = !el.over; el.stream.abort(); OPEN } "
    f"else if (el.over) document.addEventListener('visibilitychange', {_AGAIN}, {{once: true}}); "
    f"else el.timer = setTimeout({_AGAIN}, SILENCE_MS)"
)


class Markup(str):
    """Markup that templates, FastHTML and Datastar helpers put into a page unescaped."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)

    def __ft__(self) -> Markup:
        return self


def _tag(name: str, attributes: Iterable[tuple[str, str | None]], content: str = "") -> Markup:
    """Return one element; attributes with None have no value."""
    inner = "".join(f" {key}" if value is None else f' {key}="{frames.attribute(value)}"' for key, value in attributes)
    return Markup(f"<{name}{inner}>{content}</{name}>")


class _Rendered:
    """Something that becomes markup when the page is rendered."""

    def __html__(self) -> str:
        raise NotImplementedError

    def __ft__(self) -> Markup:
        return Markup(self.__html__())

    def __str__(self) -> str:
        return self.__html__()


class Live(_Rendered):
    """The element that seeds the page's signals and keeps these states up to date over one stream.

    Args:
        states: read-only copies that belong to this request.

    Raises:
        ConfigurationError: no state, or one that was not read from a request.
    """

    def __init__(self, *states: ReactiveState) -> None:
        if not states:
            raise ConfigurationError("Live() needs at least one state")
        for state in states:
            if not hasattr(type(state), "__faststate_events__"):
                raise ConfigurationError(
                    f"Live() takes states one by one, as Live(counter, cart), not {shorten(state)}"
                )
            if state.key is None:
                raise ConfigurationError(
                    f"Live({type(state).__name__}) needs a state that was injected or read with aget(request)"
                )
        self.states = states

    def __html__(self) -> str:
        numbers, seeds, bound = dict[str, str](), dict[str, Json](), list[str]()
        for state in self.states:
            assert state.key is not None, "looked at by __init__"
            numbers[state.key.label] = number_of(state.version)
            merge(seeds, state.signals())
            bound += [".".join((*state.signal_path, name)) for name in state.__faststate_bound__]
        labels = ",".join(numbers)  # the value of `states=` in the stream's address
        seeds["_faststate"] = {"error": "", "connected": False, "live": labels}
        before, after = _around(labels, tuple(bound), mount_url(), heartbeat_s())
        # Not within the expressions: a page that is patched with a newer element would open another stream.
        before = before.replace(_SEEN, "-".join(numbers.values()))
        return Markup(f"{before}{frames.attribute(frames.expression(seeds))}{after}")


@lru_cache(maxsize=1024)
def _around(labels: str, bound: tuple[str, ...], mounted_at: str, heartbeat_s: float) -> tuple[str, str]:
    """Return the element up to its signals and from there; it is the same in every page with the same states."""
    # The browser decodes and encodes the query once more on its way.
    states = quote(labels, safe="") if "%" in labels else labels
    address = frames.expression(f"{mounted_at}/sse?states={states}")[1:-1]
    name = blake2b(labels.encode(), digest_size=4).hexdigest()
    silence_ms = str(round(3000 * heartbeat_s + 1000))
    attributes: list[tuple[str, str | None]] = [
        ("id", f"faststate-live-{name}"),
        ("hidden", None),
        ("seen", _SEEN),
        ("data-signals", _SIGNALS),
        ("data-on:datastar-fetch", _ON_FETCH.replace("SILENCE_MS", silence_ms)),
    ]
    opening = f"@get('{address}', {{{_STREAM_OPTIONS}}})"
    attributes += [
        ("data-effect", echo.guard(sorted(bound))),
        ("data-on:faststate-open", _ON_OPEN.replace("SILENCE_MS", silence_ms).replace("OPEN", opening)),
        ("data-init", opening),
    ]
    before, _, after = _tag("div", attributes).partition(_SIGNALS)
    return before, after


class ErrorBox(_Rendered):
    """The element that shows ``$_faststate.error`` and is gone when there is none.

    Args:
        cls: its class attribute.
        id: its id.
    """

    def __init__(self, cls: str = "faststate-error", id: str = "faststate-error") -> None:  # noqa: A002 - the attribute's name
        self.cls, self.id = cls, id

    def __html__(self) -> str:
        return _tag(
            "div",
            [
                ("id", self.id),
                ("class", self.cls),
                ("role", "alert"),
                ("data-show", "!!$_faststate.error"),
                ("data-text", "$_faststate.error ? ($_faststate.error.detail || $_faststate.error.title) : ''"),
            ],
        )


class DatastarScript(_Rendered):
    """The module script of the Datastar client, addressed when the page is rendered."""

    def __html__(self) -> str:
        context = current_context.get()
        return _tag("script", [("type", "module"), ("src", DATASTAR_CDN if context is None else context.script_url)])


def datastar_script() -> DatastarScript:
    """Return the script element for the page's head; it may be made at import time."""
    return DatastarScript()
