"""From the data of a request to the validated arguments of one event.

Finds each parameter's value (path, query, body, ``?datastar=``; the first wins) and validates all of them at once against
the method's annotations. Injected parameters are never read from the request.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# JSON values and annotations are told apart by isinstance(), which leaves what they hold unknown.

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from typing_extensions import TypedDict

from .errors import ArgumentError, BadRequestError, ConfigurationError
from .events import EventSpec, Kind, resolved_hints
from .incoming import Incoming, parse_json, query_pairs
from .parameters import Injected, Source, bare, injection, is_optional

_typed_dict: Any = TypedDict
"""The same, for names that are known at run time only."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One parameter that comes from the request's data."""

    name: str
    is_text: bool
    is_optional: bool
    is_list: bool
    is_structured: bool


class Binder:
    """Binds the data of requests to the parameters of one event; made once per event.

    Raises:
        ConfigurationError: an annotation that no request can satisfy.
    """

    def __init__(self, spec: EventSpec) -> None:
        hints = resolved_hints(spec)
        self.spec = spec
        self.parameters: list[_Parameter] = []
        self.injected: list[Injected] = []
        fields: dict[str, Any] = {}
        for name, parameter in list(spec.signature.parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            annotation = hints.get(name, Any)
            injected = None if name == spec.bound_field else injection(name, annotation)
            if injected is not None:
                self.injected.append(injected)
                continue
            self.parameters.append(_describe(name, annotation))
            is_required = parameter.default is inspect.Parameter.empty
            fields[name] = typing.Required[annotation] if is_required else typing.NotRequired[annotation]
        self._check_sessions()
        self.joins = [item for item in self.injected if item.source is Source.WRITABLE]
        sources = {item.source for item in self.injected}
        self.is_alone = not sources.isdisjoint((Source.WRITABLE, Source.DATABASE, Source.ASYNC_DATABASE))
        """Whether a call takes more than its own state's turn."""
        self.is_direct = not self.is_alone and Source.STATE not in sources
        """Whether nothing that a call is given has to be waited for."""
        self._validate = self._validator(fields) if fields else None
        self._are_as_sent = all(item.is_text or not item.is_optional for item in self.parameters)
        """Whether values of JSON go to the validator as they are, which takes from an object what it has fields for."""

    def _check_sessions(self) -> None:
        """Refuse a database session that would block the event loop, or could not be awaited.

        Raises:
            ConfigurationError: says which one the event can have.
        """
        where, kind = f"{self.spec.state_name}.{self.spec.name}", self.spec.kind
        is_async = kind in (Kind.ASYNC, Kind.ASYNC_GENERATOR)
        for source in (item.source for item in self.injected):
            if source is Source.DATABASE and is_async:
                raise ConfigurationError(f"{where} is async, so its database session must be an AsyncSession")
            if source is Source.ASYNC_DATABASE and not is_async:
                raise ConfigurationError(f"{where} is no async def, so its database session must be a Session")
            if source is Source.DATABASE and kind is Kind.INLINE:
                raise ConfigurationError(f"{where}: a Session would block the event loop; leave out inline=True")

    def _validator(self, fields: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
        shape: Any = _typed_dict("Arguments", fields)
        shape.__pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        try:
            adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape)
        except Exception as exc:
            raise ConfigurationError(f"{self.spec.state_name}.{self.spec.name}: {exc}") from exc
        return adapter.validator.validate_python

    def bind(self, incoming: Incoming) -> dict[str, Any]:
        """Return validated arguments by name; defaults are left to the method.

        Raises:
            ArgumentError: a missing or bad one, by name.
        """
        if self._validate is None:
            return {}
        if self._are_as_sent and not incoming.query and incoming.form is None and incoming.path is None:
            data = incoming.json if type(incoming.json) is dict else {}
        else:
            data = self._collected(incoming)
        try:
            return self._validate(data)
        except ValidationError as exc:
            raise _argument_error(exc) from None

    def _collected(self, incoming: Incoming) -> dict[str, Any]:
        """Return the values of the parameters by name, wherever in the request they are."""
        data: dict[str, Any] = {}
        query: dict[str, list[str]] | None = None
        if incoming.query:
            query = {}
            for name, text in query_pairs(incoming.query):
                query.setdefault(name, []).append(text)
        body, form, path = incoming.signals, incoming.form, incoming.path
        for parameter in self.parameters:
            name = parameter.name
            if path is not None and name in path:
                value: Any = path[name]
            elif query is not None and name in query:
                value = _from_texts(query[name], parameter)
            elif form is not None and name in form:
                value = _from_texts(form.getlist(name), parameter)
            elif name in body:
                value = body[name]
            else:
                continue
            if value == "" and parameter.is_optional and not parameter.is_text:
                value = None
            data[name] = value
        return data


def database_parameters(spec: EventSpec) -> set[Source]:
    """Return which kinds of database session an event asks for; none if its annotations cannot be resolved."""
    try:
        hints = resolved_hints(spec)
    except ConfigurationError:
        return set()
    found = {item.source for name, hint in hints.items() if (item := injection(name, hint)) is not None}
    return found & {Source.DATABASE, Source.ASYNC_DATABASE}


def binder_of(spec: EventSpec) -> Binder:
    """Return the binder of an event, made on first use."""
    if spec.binder is None:
        spec.binder = Binder(spec)
    result: Binder = spec.binder
    return result


def _from_texts(values: list[Any], parameter: _Parameter) -> Any:
    """Return what one name of a query or form stands for."""
    # A form without a chosen file sends an empty one without a name.
    values = [
        "" if isinstance(value, UploadFile) and not value.filename and not value.size else value for value in values
    ]
    if parameter.is_list:
        if values == [""] and parameter.is_optional:
            return ""
        if len(values) == 1 and isinstance(values[0], str) and values[0].startswith("["):
            return _json_or_text(values[0])
        return values
    value = values[-1]
    if parameter.is_structured and isinstance(value, str) and value:
        return _json_or_text(value)
    return value


def _json_or_text(text: str) -> Any:
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except BadRequestError:
        return text


def _argument_error(exc: ValidationError) -> ArgumentError:
    """Return the 422 that names each bad field; values are not repeated."""
    fields: dict[str, str] = {}
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in error["loc"]) or "arguments"
        fields.setdefault(name, "Field required" if error["type"] == "missing" else error["msg"])
    summary = "; ".join(f"{name}: {message}" for name, message in list(fields.items())[:5])
    return ArgumentError(summary, fields=fields)


def _describe(name: str, annotation: Any) -> _Parameter:
    """Return what has to be known to read a parameter from texts."""
    inner = bare(annotation)
    origin = typing.get_origin(inner) or inner
    is_list = isinstance(origin, type) and issubclass(origin, (list, tuple, set, frozenset))
    simple = (str, int, float, bool, bytes, UploadFile)
    is_structured = (
        not is_list and not (isinstance(origin, type) and issubclass(origin, simple)) and _wants_json(origin)
    )
    return _Parameter(name, origin is str, is_optional(annotation), is_list, is_structured)


def _wants_json(origin: Any) -> bool:
    """Whether text for this type is meant as JSON: dicts, models, dataclasses."""
    if not isinstance(origin, type):
        return False
    is_model = hasattr(origin, "__pydantic_validator__") or hasattr(origin, "__dataclass_fields__")
    return issubclass(origin, dict) or is_model or hasattr(origin, "__total__")
