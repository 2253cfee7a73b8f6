"""What annotations and pydantic's core schemas say of a class, and the serializer that stores use.

Serializers that a user declares (``@field_serializer``, ``@model_serializer``, ``PlainSerializer``, ``WrapSerializer``)
are for pages; a store needs the values themselves. Nothing here is used while an event runs.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# Core schemas are told apart by isinstance(), which leaves what they hold unknown.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args, get_origin

from pydantic import PlainSerializer, WrapSerializer
from pydantic_core import SchemaSerializer

_PLAIN_SCHEMAS = frozenset({"int", "str", "bool", "float"})
_EXCLUSIONS = frozenset({"serialization_exclude", "serialization_exclude_if", "computed_fields"})
_FOREIGN_SCHEMAS = frozenset({"is-instance", "is-subclass", "callable", "function-plain", "custom-error"})
_NO_SCHEMAS = frozenset({"metadata", "ref", "cls", "expected", "default"})
_MODELS = frozenset({"model", "dataclass", "typed-dict", "model-fields", "dataclass-args"})


class Annotations:
    """Everything that the annotations of a model hold, the models inside included.

    Args:
        annotation: a class or an annotation.
    """

    def __init__(self, annotation: Any) -> None:
        self.models: list[Any] = []
        self.inner: list[Any] = []
        """What ``Annotated`` adds anywhere but around a whole field."""
        self._seen: set[int] = set()
        self._walk(annotation)

    def _walk(self, node: Any) -> None:
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        for alias in (node, get_origin(node)):
            if hasattr(alias, "__value__"):
                self._walk(alias.__value__)
        if isinstance(node, type) and hasattr(node, "__pydantic_fields__"):
            self.models.append(node)
            for info in node.__pydantic_fields__.values():
                self._walk(info.annotation)
        self.inner += getattr(node, "__metadata__", ())
        for argument in get_args(node):
            self._walk(argument)


def own_serializers(cls: type) -> frozenset[int]:
    """Return the ids of the functions with which a user says what pages see of a class and of the models inside it."""
    found = Annotations(cls)
    functions: list[Any] = []
    metadata = list(found.inner)
    for model in found.models:
        decorators = model.__pydantic_decorators__
        declared = (*decorators.field_serializers.values(), *decorators.model_serializers.values())
        functions += [item.func for item in declared]
        metadata += [item for info in model.__pydantic_fields__.values() for item in info.metadata]
    functions += [item.func for item in metadata if isinstance(item, (PlainSerializer, WrapSerializer))]
    return frozenset(id(function) for function in functions)


def field_schemas(core: Any) -> dict[str, Any]:
    """Return the core schema of each field of a model; none if the class has a serializer of its own."""
    node = core
    while isinstance(node, dict) and node.get("type") != "model-fields":
        if "serialization" in node:
            return {}
        node = node.get("schema")
    return {} if node is None else {name: entry["schema"] for name, entry in node["fields"].items()}


def is_plain(schema: Any) -> bool:
    """Whether a field's schema is a scalar that pydantic dumps as it is."""
    while schema["type"] in ("default", "nullable") and "serialization" not in schema:
        schema = schema["schema"]
    return schema["type"] in _PLAIN_SCHEMAS and "serialization" not in schema


def is_sent_as_stored(schema: Any, core: Any, own: frozenset[int]) -> bool:
    """Whether nothing inside a field is stored but not sent, or sent in another form."""

    def differs(node: Any) -> bool:
        return any(node.get(key) for key in _EXCLUSIONS) or node["type"] == "json" or id(_function_of(node)) in own

    def refers(node: Any) -> bool:
        return bool(node.get("schema_ref"))

    return not _has(schema, differs) and not (_has(schema, refers) and _has(core, differs))


def masks_values(core: Any) -> bool:
    """Whether pydantic dumps something inside a core schema as asterisks (``SecretStr``), which no load brings back."""
    if isinstance(core, dict):
        function = _function_of(core)
        if function is not None:
            return _is_mask(function)
        return any(masks_values(value) for key, value in core.items() if key not in _NO_SCHEMAS)
    return isinstance(core, (list, tuple)) and any(masks_values(item) for item in core)


def storage_dump(core: Any, own: frozenset[int]) -> Callable[..., bytes]:
    """Return what dumps the values themselves as JSON: it leaves out nothing but computed fields.

    A serializer of the user's is used where pydantic alone cannot store the value.

    Args:
        core: the core schema of a class.
        own: its ``own_serializers``.
    """
    # Without the flag pydantic-core takes the class's own serializer, which leaves out Private fields.
    serializer = SchemaSerializer(_stripped(core, own), {"ser_json_inf_nan": "constants"}, False)
    if _has(core, lambda node: node["type"] == "json"):
        return partial(serializer.to_json, round_trip=True)
    return serializer.to_json


def _stripped(node: Any, own: frozenset[int]) -> Any:
    """Copy a core schema without exclusions, computed fields and own serializers; NaN stays visible to the strict reader."""
    if isinstance(node, dict):
        is_schema = isinstance(node.get("type"), str)
        dropped = _EXCLUSIONS if is_schema else frozenset[str]()
        if is_schema and id(_function_of(node)) in own:
            bare = {key: value for key, value in node.items() if key != "serialization"}
            if not _is_foreign(bare):
                node = bare
        copy = {
            key: value if is_schema and key in _NO_SCHEMAS else _stripped(value, own)
            for key, value in node.items()
            if key not in dropped
        }
        if is_schema and copy["type"] in _MODELS and "config" in copy:
            copy["config"] = {**copy["config"], "ser_json_inf_nan": "constants"}
        return copy
    if isinstance(node, list):
        return [_stripped(item, own) for item in node]
    if isinstance(node, tuple):
        return tuple(_stripped(item, own) for item in node)
    return node


def _is_foreign(node: Any) -> bool:
    """Whether values of a core schema may be of types that pydantic cannot dump as they are without a serializer."""
    if isinstance(node, dict):
        serializer = _function_of(node)
        if serializer is not None:
            return _is_mask(serializer)
        validator = node.get("function")
        if isinstance(validator, dict) and _module(validator.get("function")).startswith("pydantic."):
            return True
        if isinstance(node.get("type"), str) and node["type"] in _FOREIGN_SCHEMAS:
            return True
        return any(_is_foreign(value) for key, value in node.items() if key not in _NO_SCHEMAS)
    return isinstance(node, (list, tuple)) and any(_is_foreign(item) for item in node)


def _has(node: Any, is_it: Callable[[Any], bool]) -> bool:
    """Whether it is true of a core schema or of one inside it."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            return is_it(node) or any(_has(value, is_it) for key, value in node.items() if key not in _NO_SCHEMAS)
        return any(_has(value, is_it) for value in node.values())
    return isinstance(node, (list, tuple)) and any(_has(item, is_it) for item in node)


def _function_of(node: Any) -> Any:
    """Return the function that serializes a core schema, None if none does."""
    serialization = node.get("serialization")
    return serialization.get("function") if isinstance(serialization, dict) else None


def _is_mask(function: Any) -> bool:
    """Whether a serializer is pydantic's own of ``SecretStr`` and its kind."""
    return _module(function) == "pydantic.types" and "secret" in function.__name__


def _module(function: Any) -> str:
    return getattr(function, "__module__", None) or ""
