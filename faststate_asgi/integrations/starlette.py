"""``@inject``: states as parameters of Starlette endpoints, and of any other route with an optional one."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from ..errors import ConfigurationError
from ..parameters import is_optional, state_in

Handler = Callable[..., Any]


def inject(endpoint: Handler) -> Handler:
    """Fill an endpoint's parameters that are annotated with state classes.

    ``Optional[State]`` is None where the caller may not see the state. The result takes the endpoint's other
    parameters and a request.

    Raises:
        ConfigurationError: an annotation cannot be resolved.
    """
    hints = _hints(endpoint)
    signature = inspect.signature(endpoint)
    states = {name: hints[name] for name in signature.parameters if state_in(hints.get(name)) is not None}
    others = [parameter for name, parameter in signature.parameters.items() if name not in states]
    request_name = next((p.name for p in others if _is_request(p, hints)), None)

    @functools.wraps(endpoint)
    async def injected(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in states if name in kwargs}
        bound = outer.bind(*args, **kwargs)
        request = bound.arguments[request_name or "request"]
        values = dict(bound.arguments)
        if request_name is None:
            del values["request"]
        for name, annotation in states.items():
            values[name] = given[name] if name in given else await _state(request, annotation)
        if inspect.iscoroutinefunction(endpoint):
            return await endpoint(**values)
        return await run_in_threadpool(endpoint, **values)

    added = (
        []
        if request_name
        else [inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)]
    )
    outer = signature.replace(
        parameters=[*added, *(p.replace(annotation=hints.get(p.name, p.annotation)) for p in others)]
    )
    injected.__signature__ = outer  # type: ignore[attr-defined]  # read by frameworks
    injected.__annotations__ = {p.name: p.annotation for p in outer.parameters.values() if p.annotation is not p.empty}
    return injected


def _hints(endpoint: Handler) -> dict[str, Any]:
    """Return an endpoint's annotations, names of its own module and of the caller's frame resolved."""
    try:
        return typing.get_type_hints(endpoint, include_extras=True)
    except NameError:
        found = {n: a for n, a in getattr(endpoint, "__annotations__", {}).items() if not isinstance(a, str)}
        missing = set(getattr(endpoint, "__annotations__", {})) - found.keys()
        if missing:
            raise ConfigurationError(
                f"{endpoint.__name__}: the annotations of {', '.join(sorted(missing))} cannot be resolved; "
                "import the names at module level"
            ) from None
        return found


def _is_request(parameter: inspect.Parameter, hints: dict[str, Any]) -> bool:
    annotation = hints.get(parameter.name)
    if isinstance(annotation, type) and issubclass(annotation, Request):
        return True
    return annotation is None and parameter.name in ("req", "request")


async def _state(request: Any, annotation: Any) -> Any:
    """Return what a parameter annotated with a state gets."""
    cls = state_in(annotation)
    assert cls is not None, "only state parameters are asked for"
    if is_optional(annotation):
        return await request.scope["faststate"].get_or_none(cls)
    return await request.scope["faststate"].get_injected(request, cls)
