"""Actions: an event with its arguments as a Datastar expression, ready for ``data-on:click``.

An ``Action`` is plain text. What makes it safe (no cancellation of other requests, an idempotency key per user
action, the live header, escaped arguments) is added here and nowhere else.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# Arguments are told apart by isinstance(), which leaves what they hold unknown.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload
from urllib.parse import quote

from pydantic_core import to_jsonable_python

from . import echo, frames, order
from .current import mount_url
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .events import EventSpec

P = ParamSpec("P")

IDEMPOTENCY_HEADER = "'Idempotency-Key': crypto.getRandomValues(new Uint32Array(4)).join('-')"
LIVE_HEADER = "'FastState-Live': ($_faststate.error = '', $_faststate.live)"
_OPTION = re.compile(r"[A-Za-z_]\w*")
_PATH_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_OWN_IDS = ("id", "record_id", "component_id")


class Expression(str):
    """A JavaScript expression for the browser, such as ``js("$step * 2")``.

    It is put into the page as it is: never build one from what a user typed.
    """

    __slots__ = ()


if TYPE_CHECKING:

    def js(code: str) -> Any:
        """Return an expression, which stands for an argument of any type."""
        ...
else:
    js = Expression


def literal(value: Any) -> str:
    """Return an argument as JavaScript: ``js`` as it is, everything else as inert JSON."""
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{frames.expression(str(k))}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return frames.expression(to_jsonable_python(value))


class Action(str):
    """The text of a Datastar action; ``options`` returns one with more options."""

    _verb: str
    _url: str
    _options: dict[str, str]

    @classmethod
    def build(cls, verb: str, url: str, options: Mapping[str, str]) -> Action:
        """Return the action for ``verb`` on ``url`` with options whose values are JavaScript."""
        inner = ", ".join(f"{name}: {value}" for name, value in options.items())
        action = cls(f"@{verb}('{url}', {{{inner}}})")
        action._verb, action._url, action._options = verb, url, dict(options)
        return action

    def options(self, **options: Any) -> Action:
        """Return this action with Datastar options added, as ``retry="never"`` or ``open_when_hidden=True``.

        ``headers`` are added to the ones that every action carries.
        """
        merged = dict(self._options)
        for name, value in options.items():
            if name == "headers":
                extra = ", ".join(f"{frames.expression(str(k))}: {literal(v)}" for k, v in dict(value).items())
                merged["headers"] = merged["headers"][:-1] + f", {extra}}}"
            else:
                merged[_camel(name)] = literal(value)
        return Action.build(self._verb, self._url, merged)

    def __html__(self) -> str:
        return frames.attribute(self)


def _camel(name: str) -> str:
    """Return a Python name as Datastar writes it."""
    if not _OPTION.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not a Datastar option")
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def make_action(
    spec: EventSpec,
    ids: Mapping[str, str],
    places: Mapping[str, str],
    payload: str | None,
    more_headers: str = "",
    **options: str,
) -> Action:
    """Return the action that calls ``spec``.

    Args:
        spec: the event.
        ids: record or component id for the query string.
        places: what stands for the parameters of a custom path, in a JavaScript string between single quotes.
        payload: a JavaScript object, or None to send what Datastar sends by itself.
        more_headers: JavaScript of headers that only this kind of event has.
        options: more options as JavaScript.
    """
    path = "".join(
        places[text] if is_name else quote(text, safe="/")
        for text, is_name in path_parts(spec.options.custom_path or spec.path)
    )
    query = [f"{name}={quote(value, safe='')}" for name, value in ids.items() if name not in places]
    url = f"{mount_url()}/events/{path}" + (f"?{'&'.join(query)}" if query else "")
    given = {} if payload is None else {"payload": payload}
    headers = f"{{{IDEMPOTENCY_HEADER}, {LIVE_HEADER}, {order.HEADER_EXPRESSION}{more_headers and ', '}{more_headers}}}"
    return Action.build(
        spec.method.lower(), url, {**given, **options, "headers": headers, "requestCancellation": "'disabled'"}
    )


def path_parts(path: str) -> Iterator[tuple[str, bool]]:
    """Return the pieces of a path, and of each whether it is the name of a parameter."""
    end = 0
    for match in _PATH_PARAMETER.finditer(path):
        yield path[end : match.start()], False
        yield match[1], True
        end = match.end()
    yield path[end:], False


class ActionBuilder(Generic[P]):
    """An event on its class: call it with the event's arguments to get the ``Action``.

    Args:
        spec: the event.
        ids: query parameters that find the record or component, for builders made from an instance.
        signal_of: the signal expression of a parameter that is to come from the page.
    """

    __slots__ = ("_signal_of", "ids", "spec")

    def __init__(self, spec: EventSpec, ids: Mapping[str, str], signal_of: Callable[[str], str]) -> None:
        self.spec = spec
        self.ids = ids
        self._signal_of = signal_of

    @overload
    def __call__(self) -> Action: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Action: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Action:
        """Return the action; required parameters that are not given come from the page's signals."""
        spec = self.spec
        given = spec.bind_partial(args, kwargs)
        places = self._places(given)
        wanted = [n for n in spec.parameters if n not in places and (n in given or spec.is_required(n))]
        return make_action(spec, self.ids, places, self._payload(wanted, given), self._order(given))

    def form(self) -> Action:
        """Return the action that sends the form around the element, files included."""
        return make_action(self.spec, self.ids, self._places({}), None, contentType="'form'")

    def from_signals(self) -> Action:
        """Return the action that takes every parameter from the page's signal of that name."""
        places = self._places({})
        wanted = [name for name in self.spec.parameters if name not in places]
        return make_action(self.spec, self.ids, places, self._payload(wanted, {}), self._order({}))

    def _order(self, given: Mapping[str, Any]) -> str:
        """Return the header that keeps the requests of a setter in order, nothing for other events."""
        name = self.spec.bound_field
        if name is None:
            return ""
        return echo.header_expression(None if name in given else self._signal_of(name)[1:])

    def _payload(self, wanted: Iterable[str], given: Mapping[str, Any]) -> str:
        parts = (
            f"{frames.expression(name)}: {literal(given[name]) if name in given else self._signal_of(name)}"
            for name in wanted
        )
        return "{" + ", ".join(parts) + "}"

    def _places(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return what stands in a custom path for each of its parameters: a value, an id, else the page's signal."""
        path = self.spec.options.custom_path
        names = [text for text, is_name in path_parts(path) if is_name] if path and "{" in path else []
        return {name: self._place(name, given) for name in names}

    def _place(self, name: str, given: Mapping[str, Any]) -> str:
        value = given[name] if name in given else self.ids.get(name)
        if value is None and name in _OWN_IDS and name not in self.spec.parameters:
            value = next(iter(self.ids.values()), None)
        if value is None or isinstance(value, Expression):
            return f"' + encodeURIComponent({self._signal_of(name) if value is None else value}) + '"
        return quote(str(to_jsonable_python(value)), safe="")

    def __repr__(self) -> str:
        return f"<action builder of {self.spec.path}>"
