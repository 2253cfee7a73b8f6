"""The primary key of a ``table=True`` state: which field it is, and which row an id stands for.

An id of a URL and the value in the column must be one to one, or two keys would have turns on the same row; so an id
in another spelling than the column's own (``042``) is the id of no row.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import inspect

from .errors import ConfigurationError, StateNotFoundError
from .keys import StateKey, StateScope
from .parameters import bare

_LARGEST = 2**63
_OF_GLOBAL: dict[type, Any] = {int: 1, str: "global", UUID: UUID(int=0)}


class KeyColumn:
    """The key column of one table; made once per class.

    Args:
        cls: a ``table=True`` state.

    Raises:
        ConfigurationError: it has no key, a composite one, or one that no id can stand for.
    """

    __slots__ = ("_kind", "_max_length", "_name", "_of_global")

    def __init__(self, cls: Any) -> None:
        mapper = inspect(cls, raiseerr=False) if "__mapper__" in vars(cls) else None
        if mapper is None:
            raise ConfigurationError(
                f"{cls.__name__} inherits from a table=True state and has no table of its own; put the fields that both "
                "share into a base class without table=True"
            )
        columns = mapper.primary_key
        if len(columns) != 1:
            names = ", ".join(column.name for column in columns)
            raise ConfigurationError(f"{cls.__name__}: the primary key must be one column, not {names}")
        self._name: str = mapper.get_property_by_column(columns[0]).key
        info = cls.model_fields[self._name]
        self._kind: Any = bare(info.annotation)
        if self._kind not in _OF_GLOBAL:
            raise ConfigurationError(f"{cls.__name__}.{self._name}: a primary key must be an int, a str or a UUID")
        self._max_length: int | None = getattr(columns[0].type, "length", None)
        self._of_global = _OF_GLOBAL[self._kind] if info.is_required() or info.default is None else info.get_default()
        if type(self._of_global) is not self._kind:
            self._of_global = _OF_GLOBAL[self._kind]

    @property
    def name(self) -> str:
        """The name of the field."""
        return self._name

    def canonical(self, own_id: str) -> str:
        """Return an id in the spelling of the column.

        Raises:
            StateNotFoundError: no row can have it.
        """
        value = self._parsed(own_id)
        if value is None:
            raise StateNotFoundError("There is no record with this id")
        return str(value)

    def value_of(self, key: StateKey) -> Any:
        """Return the value of the key column in the row of a key, None if no row can have it."""
        if key.scope is StateScope.GLOBAL:
            return self._of_global
        return self._parsed(key.user_id if key.record_id is None else key.record_id)

    def is_of(self, state: Any, key: StateKey) -> bool:
        """Whether a state still has the primary key that belongs to its key."""
        return bool(state.__dict__.get(self._name) == self.value_of(key))

    def _parsed(self, text: str | None) -> Any:
        if text is None or self._kind is str:
            is_too_long = text is not None and self._max_length is not None and len(text) > self._max_length
            return None if is_too_long else text
        if len(text) > 45 or not text.isascii():
            return None
        try:
            value = self._kind(text)
        except ValueError:
            return None
        if self._kind is UUID:
            return value
        return value if str(value) == text and -_LARGEST <= value < _LARGEST else None
