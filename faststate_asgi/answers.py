"""What an event may return, and the frames that each of these becomes.

Markup is only what says so (``__html__``, ``__ft__``, ``Html``); plain text is escaped.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# What handlers return is told apart by match, which leaves what lists hold unknown.

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import urlsplit

from datastar_py.sse import DatastarEvent
from starlette.responses import Response

from . import frames
from .errors import ConfigurationError, shorten
from .patches import Json, check_plain

DEFAULT_SELECTOR = "#updates"
_CONTROL_OR_BACKSLASH = re.compile(r"[\x00-\x20\x7f\\]")


class Html(str):
    """Markup that the developer vouches for: it is sent as it is, never escaped."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class Elements:
    """An element patch with its own target; ``html`` is an element, or text that counts as markup (like ``Html``)."""

    html: Any
    selector: str | None = None
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Removes the elements that match ``selector``."""

    selector: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Sends the browser to ``url``: a path on this site, or with ``external=True`` any http(s) address.

    Raises:
        ValueError: an address that would leave the site, or is not http(s).
    """

    url: str
    external: bool = False

    def __post_init__(self) -> None:
        if not is_safe_target(self.url, external=self.external):
            raise ValueError(
                f"Redirect({shorten(self.url)}) leaves this site or is not http(s); "
                "write a path such as '/done', or Redirect(url, external=True) for an address that you trust"
            )


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Dispatches the DOM ``CustomEvent`` ``name`` on the document, with ``detail`` (JSON)."""

    name: str
    detail: Json = field(default=None)


@dataclass(frozen=True, slots=True)
class Script:
    """Runs JavaScript that the developer wrote; never build it from what a user typed."""

    code: str


@runtime_checkable
class HasHtml(Protocol):
    """Anything that knows its own markup."""

    def __html__(self) -> str: ...


EventResult: TypeAlias = (
    None | str | HasHtml | Elements | Remove | Redirect | Dispatch | Script | DatastarEvent | Response | Iterable[Any]
)


def is_safe_target(url: str, *, external: bool = False) -> bool:
    """Tell whether a browser that follows ``url`` stays on this site (or, ``external``, on http or https)."""
    if not url or _CONTROL_OR_BACKSLASH.search(url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if external and parts.scheme in ("http", "https"):
        return bool(parts.netloc)
    return not parts.scheme and not parts.netloc and not url.startswith("//")


def markup_of(value: Any) -> tuple[str, bool]:
    """Return the markup of ``value`` and whether it is plain text that was escaped.

    Raises:
        TypeError: the value has no markup.
    """
    if isinstance(value, HasHtml):
        return str(value.__html__()), False
    if hasattr(value, "__ft__"):
        return _ft_markup(value), False
    if isinstance(value, str):
        return html.escape(value, quote=True), True
    raise TypeError(
        f"an event cannot return {type(value).__name__}; return None, text, an element, or one of "
        "Html, Elements, Remove, Redirect, Dispatch, Script, a Response, or a list of these"
    )


def _ft_markup(value: Any) -> str:
    """Return the markup of a FastHTML component."""
    try:
        from fastcore.xml import to_xml  # pyright: ignore[reportMissingTypeStubs]  # fastcore has no types
    except ImportError as exc:
        raise ConfigurationError(
            f"{type(value).__name__} needs FastHTML: pip install 'faststate-asgi[fasthtml]'"
        ) from exc
    return str(to_xml(value))


def element_frame(value: Any, selector: str | None, mode: str | None) -> bytes:
    """Return the frame that patches ``value``; without id and selector it goes inside ``#updates``."""
    markup, is_text = markup_of(value)
    mode = mode or "outer"
    if mode == "remove":
        return frames.elements("", selector=selector or DEFAULT_SELECTOR, mode=mode)
    root = None if is_text else frames.root_attributes(markup)
    if selector is None and not (root or {}).get("id"):
        return frames.elements(
            markup, selector=DEFAULT_SELECTOR, mode="inner" if mode in ("outer", "replace") else mode
        )
    if root is None and mode == "outer":
        mode = "inner"  # text alone cannot stand in the place of an element
    return frames.elements(markup, selector=selector, mode=mode)


# As a factory ``list[bytes]`` would cost more than the list itself, at every event.
def _no_frames() -> list[bytes]:
    return []


@dataclass(slots=True)
class Rendered:
    """The frames of what an event returned, in the order in which they are sent."""

    elements: list[bytes] = field(default_factory=_no_frames)
    last: list[bytes] = field(default_factory=_no_frames)
    redirect: str | None = None
    response: Response | None = None

    def add(self, value: Any, selector: str | None, mode: str | None) -> None:
        """Add what one returned value becomes.

        Raises:
            TypeError: a value that no page can show.
        """
        match value:
            case None:
                return
            case Response():
                self.response = value
            case Redirect():
                self.redirect = value.url
                self.last.append(frames.redirect(value.url))
            case Elements():
                own = value.mode and frames.OLD_MODES.get(value.mode, value.mode)
                markup = Html(value.html) if isinstance(value.html, str) else value.html
                self.elements.append(element_frame(markup, value.selector or selector, own or mode))
            case Remove():
                self.elements.append(frames.elements("", selector=value.selector, mode="remove"))
            case Dispatch():
                check_plain(value.detail, "detail")
                self.last.append(frames.dispatch(value.name, value.detail))
            case Script():
                self.last.append(frames.script(value.code))
            case DatastarEvent():
                self.elements.append(str(value).encode("utf-8", "replace"))
            case list() | tuple() if not hasattr(value, "__ft__") and not isinstance(value, HasHtml):
                for item in value:
                    self.add(item, selector, mode)
            case _:
                self.elements.append(element_frame(value, selector, mode))


def render(value: Any, selector: str | None, mode: str | None) -> Rendered:
    """Return the frames of what an event returned; ``TypeError`` if a page cannot show it."""
    rendered = Rendered()
    rendered.add(value, selector, mode)
    return rendered
