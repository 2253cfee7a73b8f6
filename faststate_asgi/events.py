"""``@event`` and ``@fragment``: what makes a method of a state an endpoint.

An ``Event`` is a descriptor: on the class it is an action builder, on an instance the method itself. What there is to
know about it is in its ``EventSpec``; who calls it and when is decided elsewhere.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import FrameType, MappingProxyType, MethodType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from starlette.routing import compile_path

from . import frames
from .actions import ActionBuilder, P
from .errors import ConfigurationError, ReadOnlyStateError, check_kind, shorten
from .guards import OPEN, Guard, make_guard, names
from .parameters import check_signature, injection, refuse_aliases

R = TypeVar("R")
Q = ParamSpec("Q")

METHODS = ("get", "post", "put", "patch", "delete")


class Kind(Enum):
    """How a handler is called."""

    THREAD = "thread"
    INLINE = "inline"
    ASYNC = "async"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


@dataclass(frozen=True, slots=True)
class EventOptions:
    """What ``@event(...)`` was given; ``custom_path`` is None for ``<State>/<method>``."""

    custom_path: str | None = None
    method: str = "POST"
    selector: str | None = None
    mode: str | None = None
    guard: Guard = OPEN
    broadcast: bool = False
    inline: bool = False
    timeout_s: float = 30.0
    rate_limit: str | None = None
    on_disconnect: Literal["finish", "stop"] = "finish"


@dataclass(slots=True)
class EventSpec:
    """One event of one state class; lives as long as the class."""

    name: str
    func: Callable[..., Any]
    kind: Kind
    options: EventOptions
    signature: inspect.Signature
    hints: Mapping[str, Any] | None
    state_name: str = ""
    bound_field: str | None = None
    binder: Any = field(default=None, repr=False)
    data_signature: inspect.Signature | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """The path below ``/faststate/events/``."""
        return self.options.custom_path or f"{self.state_name}/{self.name}"

    @property
    def method(self) -> str:
        """The HTTP method, in capitals."""
        return self.options.method

    @property
    def is_generator(self) -> bool:
        """Whether the handler yields, so that its answer is a stream."""
        return self.kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR)

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters that come from the request's data."""
        return list(self._from_data().parameters)

    def _from_data(self) -> inspect.Signature:
        """Return the signature without ``self`` and what is injected."""
        if self.data_signature is None:
            hints = resolved_hints(self)
            wanted = [
                parameter
                for name, parameter in list(self.signature.parameters.items())[1:]
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                and (name == self.bound_field or injection(name, hints.get(name, Any)) is None)
            ]
            self.data_signature = self.signature.replace(parameters=wanted)
        return self.data_signature

    def is_required(self, name: str) -> bool:
        """Whether the parameter has no default."""
        return self.signature.parameters[name].default is inspect.Parameter.empty

    def bind_partial(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request's data by name; ``TypeError`` if the method does not take it.

        What is injected is not counted; where a type checker asks for it, a placeholder may stand in its place.
        """
        try:
            return dict(self._from_data().bind_partial(*args, **kwargs).arguments)
        except TypeError:
            pass
        try:
            given = self.signature.bind_partial(None, *args, **kwargs).arguments
            return {name: given[name] for name in self._from_data().parameters if name in given}
        except TypeError as exc:
            raise TypeError(f"{self.state_name}.{self.name}(): {exc}") from None


def kind_of(func: Callable[..., Any], inline: bool) -> Kind:
    """Return how ``func`` is to be called."""
    if inspect.isasyncgenfunction(func):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(func):
        return Kind.GENERATOR
    if inspect.iscoroutinefunction(func):
        return Kind.ASYNC
    return Kind.INLINE if inline else Kind.THREAD


def _as_async(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function that wraps an ``async def``, and so returns what is to be awaited, as an ``async def``."""
    if inspect.iscoroutinefunction(func) or not inspect.iscoroutinefunction(inspect.unwrap(func)):
        return func

    @functools.wraps(func)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return awaited


class Event(Generic[P, R]):
    """A method that ``@event`` made an endpoint.

    On the class it builds actions, on an instance it is the method.
    """

    def __init__(self, func: Callable[..., R], options: EventOptions, hints: Mapping[str, Any] | None = None) -> None:
        functools.update_wrapper(self, func)  # type: ignore[arg-type]  # it is called through __get__ only
        self.func = func
        self.options = options
        self.hints = hints
        self.name = func.__name__
        self.bound_field: str | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> ActionBuilder[P]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return owner.__faststate_builder__(self.name)
        if getattr(instance, "is_read_only", False):
            raise ReadOnlyStateError(
                f"{type(instance).__name__} is a read-only copy here, so {self.name}() would change nothing; use "
                f'`async with scope["faststate"].transaction({type(instance).__name__}) as state:`'
            )
        return MethodType(self.func, instance)

    def spec_for(self, owner: type) -> EventSpec:
        """Return a new spec of this event for the class ``owner``."""
        func = _as_async(self.func)
        return EventSpec(
            name=self.name,
            func=func,
            kind=kind_of(func, self.options.inline),
            options=self.options,
            signature=inspect.signature(self.func),
            hints=self.hints,
            state_name=owner.__name__,
            bound_field=self.bound_field,
        )


@overload
def event(func: Callable[Concatenate[Any, Q], R], /) -> Event[Q, R]: ...
@overload
def event(
    path: str | None = None,
    /,
    *,
    method: str = "post",
    selector: str | None = None,
    mode: str | None = None,
    merge_mode: str | None = None,
    requires_auth: bool = False,
    permissions: Iterable[str] | str | None = None,
    roles: Iterable[str] | str | None = None,
    owner_only: bool = False,
    broadcast: bool = False,
    inline: bool = False,
    timeout: float = 30,
    rate_limit: str | None = None,
    on_disconnect: Literal["finish", "stop"] = "finish",
) -> Callable[[Callable[Concatenate[Any, Q], R]], Event[Q, R]]: ...
@overload
def event(
    *,
    path: str,
    method: str = "post",
    selector: str | None = None,
    mode: str | None = None,
    merge_mode: str | None = None,
    requires_auth: bool = False,
    permissions: Iterable[str] | str | None = None,
    roles: Iterable[str] | str | None = None,
    owner_only: bool = False,
    broadcast: bool = False,
    inline: bool = False,
    timeout: float = 30,
    rate_limit: str | None = None,
    on_disconnect: Literal["finish", "stop"] = "finish",
) -> Callable[[Callable[Concatenate[Any, Q], R]], Event[Q, R]]: ...
def event(
    first: Any = None,
    /,
    *,
    path: str | None = None,
    method: str = "post",
    selector: str | None = None,
    mode: str | None = None,
    merge_mode: str | None = None,
    requires_auth: bool = False,
    permissions: Iterable[str] | str | None = None,
    roles: Iterable[str] | str | None = None,
    owner_only: bool = False,
    broadcast: bool = False,
    inline: bool = False,
    timeout: float = 30,
    rate_limit: str | None = None,
    on_disconnect: Literal["finish", "stop"] = "finish",
) -> Any:
    """Make a method of a state an endpoint.

    Args:
        first: the method, or a custom path below ``/faststate/events/``.
        path: the same custom path by name.
        method: the HTTP method.
        selector: where returned elements go; None means by their ids.
        mode: how they are patched (``outer`` by default).
        merge_mode: another name of ``mode``; knows ``morph`` and ``delete`` too.
        requires_auth: somebody must be logged in.
        permissions: any one of them is enough.
        roles: any one of them is enough.
        owner_only: only the owner: who ``owner_field`` names, else a field ``user_id``, else the user of a user state.
        broadcast: returned elements go to every open stream of the state.
        inline: a ``def`` handler that never blocks runs on the event loop.
        timeout: seconds from the start of the turn (per segment for generators).
        rate_limit: such as ``"5/s"`` or ``"100/m"``, per session.
        on_disconnect: whether a generator whose client left finishes or stops at its next ``yield``.

    Raises:
        ConfigurationError: a value that cannot work.
    """
    texts = {"path": path, "selector": selector, "mode": mode, "merge_mode": merge_mode}
    check_kind(str, {"method": method, **{name: text for name, text in texts.items() if text is not None}})
    check_kind(bool, {"broadcast": broadcast, "inline": inline})
    check_kind(float, {"timeout": timeout})
    custom = path if path is not None else first if isinstance(first, str) else None
    options = EventOptions(
        custom_path=_checked_path(custom),
        method=_checked_method(method),
        selector=None if selector is None else frames.one_line(selector, "selector"),
        mode=_checked_mode(mode, merge_mode),
        guard=make_guard(requires_auth, permissions, roles, owner_only),
        broadcast=broadcast,
        inline=inline,
        timeout_s=_checked_timeout(timeout),
        rate_limit=rate_limit,
        on_disconnect=_checked_disconnect(on_disconnect),
    )
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # inspect has no way without a None case
    if callable(first):
        return _decorate(first, options, frame)
    if first is not None and not isinstance(first, str):
        raise ConfigurationError(f"@event takes a path or a method, not {shorten(first)}")

    def decorate(func: Callable[..., Any]) -> Event[Any, Any]:
        return _decorate(func, options, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # as above

    return decorate


def _decorate(func: Callable[..., Any], options: EventOptions, frame: FrameType) -> Event[Any, Any]:
    """Return the event for one method, with its annotations resolved where that is possible already."""
    guard = getattr(func, "__faststate_guard__", None)
    if guard is not None:
        if getattr(func, "__faststate_guarded__", None) is func:
            func = vars(func)["__wrapped__"]
        options = replace(options, guard=options.guard.joined(guard))
    if not inspect.isfunction(func):
        raise ConfigurationError(f"@event goes on a method, not on {shorten(func)}")
    check_signature(func)
    hints = _hints_now(func, frame)
    refuse_aliases(func.__qualname__, hints or {})
    return Event(func, options, hints)


def _hints_now(func: Callable[..., Any], frame: FrameType) -> Mapping[str, Any] | None:
    """Return resolved annotations, or None if a name is not defined yet."""
    outer = frame.f_back.f_locals if frame.f_back else {}
    try:
        return MappingProxyType(typing.get_type_hints(func, localns={**outer, **frame.f_locals}, include_extras=True))
    except (NameError, TypeError, AttributeError):
        return None


def resolved_hints(spec: EventSpec) -> Mapping[str, Any]:
    """Return the annotations of an event.

    Raises:
        ConfigurationError: one of them names something that is not defined.
    """
    if spec.hints is None:
        try:
            spec.hints = typing.get_type_hints(spec.func, include_extras=True)
        except Exception as exc:
            raise ConfigurationError(
                f"{spec.state_name}.{spec.name}: an annotation cannot be resolved ({exc}); import the name at module level"
            ) from exc
        refuse_aliases(f"{spec.state_name}.{spec.name}", spec.hints)
    return spec.hints


def _checked_path(path: str | None) -> str | None:
    if path is None:
        return None
    trimmed = path.strip("/")
    if not trimmed or not re.fullmatch(r"[\w.~/{}:@-]+", trimmed) or ".." in trimmed:
        raise ConfigurationError(f"event path {shorten(path)} cannot be used; write something like '/orders/cancel'")
    try:
        compile_path(f"/{trimmed}")
    except (AssertionError, ValueError) as exc:
        raise ConfigurationError(
            f"event path {shorten(path)} cannot be used: {exc}; write something like '/orders/{{number:int}}/cancel'"
        ) from None
    return trimmed


def _checked_method(method: str) -> str:
    if method.lower() not in METHODS:
        raise ConfigurationError(f"method must be one of {', '.join(METHODS)}, not {shorten(method)}")
    return method.upper()


def _checked_mode(mode: str | None, merge_mode: str | None) -> str | None:
    given = mode or merge_mode
    if given is None:
        return None
    known = frames.OLD_MODES.get(given, given)
    if known not in frames.MODES:
        raise ConfigurationError(f"mode must be one of {', '.join(sorted(frames.MODES))}, not {shorten(given)}")
    return known


def _checked_timeout(timeout: float) -> float:
    if not timeout > 0:
        raise ConfigurationError(f"timeout must be greater than 0 seconds, not {timeout}")
    return float(timeout)


def _checked_disconnect(value: Literal["finish", "stop"]) -> Literal["finish", "stop"]:
    if value not in ("finish", "stop"):
        raise ConfigurationError(f"on_disconnect must be 'finish' or 'stop', not {shorten(value)}")
    return value


class Fragment:
    """A method that renders part of a page from the state; ``fields`` are what it depends on."""

    def __init__(self, func: Callable[[Any], Any], fields: frozenset[str]) -> None:
        functools.update_wrapper(self, func)  # type: ignore[arg-type]  # it is not callable itself
        self.func = func
        self.fields = fields
        self.is_checked = False
        """Whether it was seen to render one element."""

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else MethodType(self.func, instance)


def fragment(*, on: Iterable[str] | str) -> Callable[[Callable[[Any], Any]], Any]:
    """Make a method a part of pages that follows the fields named in ``on``.

    The method is synchronous, uses nothing but the state, and returns one element with an id.

    Raises:
        ConfigurationError: no field is named, or the method is not a plain ``def``.
    """
    fields = names(on, "on")
    if not fields:
        raise ConfigurationError("@fragment(on=...) needs the names of the fields that it shows")

    def decorate(func: Callable[[Any], Any]) -> Any:
        if inspect.iscoroutinefunction(func) or inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise ConfigurationError(f"@fragment {func.__name__} must be a plain def")
        return Fragment(func, fields)

    return decorate
