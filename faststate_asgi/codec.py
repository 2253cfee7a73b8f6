"""One state class as JSON: the stored snapshot, the public signals, and what changed between two of them.

A ``Codec`` is made once per class. It dumps with pydantic's own serializer (the stored form includes ``Private`` and
excluded fields), loads with its validator, and knows which fields are plain scalars so that small states cost little.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# Core schemas and JSON values are told apart by isinstance(), which leaves what they hold unknown.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from .errors import InvalidStateError
from .patches import MAX_SAFE_INTEGER, Json, Text, check_keys, check_plain, same, same_text, wire, wire_text
from .schemas import field_schemas, is_plain, is_sent_as_stored, own_serializers, storage_dump

if TYPE_CHECKING:
    from .state import ReactiveState

_PLAIN_TYPES = frozenset({int, str, bool, float, type(None)})


@dataclass(slots=True)
class Change:
    """What one turn did to one state: names of changed fields and the new snapshot.

    ``data`` is the stored JSON of the whole state, ``names`` are the changed stored fields. ``texts`` has the JSON in
    wire form of those of them for which it is known already, ``olds`` what that was before. ``is_reloaded`` says that
    the state is exactly what loading ``data`` gives, and that no handler has met it.
    """

    names: tuple[str, ...]
    data: bytes
    texts: Mapping[str, bytes] = field(default_factory=dict)
    olds: Mapping[str, bytes] = field(default_factory=dict)
    is_reloaded: bool = False


NOTHING_KNOWN = Change((), b"")
"""Of a commit that is no change of single fields."""


class Codec:
    """JSON forms of one state class.

    Args:
        cls: the class, complete.
        private: names of fields that never leave the server.
    """

    def __init__(self, cls: type[ReactiveState], private: frozenset[str]) -> None:
        self.cls = cls
        self.stored = tuple(cls.model_fields)
        self.public = tuple(name for name in cls.model_fields if name not in private)
        self.computed = tuple(name for name in cls.model_computed_fields if not name.startswith("_"))
        self.signals = (*self.public, *self.computed)
        self._cached = _cached_names(cls)
        core: Any = cls.__pydantic_core_schema__
        own = own_serializers(cls)
        schemas = field_schemas(core)
        self.plain = frozenset(n for n in self.stored if n in schemas and is_plain(schemas[n]))
        self.is_all_plain = len(self.plain) == len(self.stored)
        self._plain_in_order = tuple(n for n in self.stored if n in self.plain)
        self.is_simple = (
            self.is_all_plain and not self.computed and self.public == self.stored and not cls.__faststate_fragments__
        )
        """Whether every field is a public scalar, and pages have nothing else of it: what changed is what is sent."""
        self._complex = tuple(n for n in self.stored if n not in self.plain)
        self._is_mixed = bool(self.plain and self._complex)
        self._parts = (set(self._plain_in_order), set(self._complex))
        self._is_split = bool(schemas) and not self.is_all_plain
        self._beginnings = {n: to_json(n) + b":" for n in self._complex}
        # Else code of the class meets the state that is made of changed values, and may keep a part of it.
        self._is_seen_by_engine_only = not self.computed and not cls.__faststate_fragments__
        self._sent_as_stored = frozenset(
            n for n in self._complex if n in schemas and is_sent_as_stored(schemas[n], core, own)
        )
        self.odd_defaults: dict[str, Json] = {}
        """Defaults that their fields refuse, such as an empty name that must not be empty; they stay until they are set."""
        self._dump = storage_dump(core, own)
        self._new: Callable[[type[ReactiveState]], ReactiveState] = object.__new__
        self._validate = cls.__pydantic_validator__.validate_json
        self._public_dump = cls.__pydantic_serializer__.to_python
        self.shape = blake2b("\n".join(sorted(self.stored)).encode(), digest_size=4).hexdigest()

    # -- snapshots ---------------------------------------------------------------------------------------------

    def dump(self, state: ReactiveState, extra: Mapping[str, Json] | None = None) -> bytes:
        """Return the snapshot of ``state``.

        Args:
            state: the state.
            extra: unknown fields that are carried along.

        Raises:
            InvalidStateError: a field holds what has no JSON form.
        """
        data = self._dumped_in_parts(state) if self._is_mixed else self._part(state, None)
        if extra:
            data = to_json({**from_json(data), **extra})
        return data

    def _part(self, state: ReactiveState, names: set[str] | None) -> bytes:
        """Return some fields as a JSON object; all of them for None."""
        try:
            data: bytes = self._dump(state, by_alias=False, warnings="none", include=names)
        except (PydanticSerializationError, UnicodeEncodeError, ValueError) as exc:
            raise InvalidStateError(f"{self.cls.__name__} cannot be stored: {exc}") from None
        return data

    def _dumped_in_parts(self, state: ReactiveState) -> bytes:
        """Return a snapshot with the plain fields first; either kind may have no value yet."""
        plain, others = self._part(state, self._parts[0]), self._part(state, self._parts[1])
        if len(plain) == 2:
            return others
        return plain if len(others) == 2 else plain[:-1] + b"," + others[1:]

    def load(self, data: bytes) -> ReactiveState:
        """Return a new state from a snapshot.

        Raises:
            ValidationError: the snapshot does not fit the class.
        """
        # SQLModel's own __new__ prepares what the validator sets anyway.
        state = self._new(self.cls)
        try:
            self._validate(data, self_instance=state, by_alias=False, by_name=True)
        except ValidationError as exc:
            left = self._without_odd_defaults(data, exc) if self.odd_defaults else None
            if left is None:
                raise
            self._validate(left, self_instance=state, by_alias=False, by_name=True)
        return state

    def _without_odd_defaults(self, data: bytes, exc: ValidationError) -> bytes | None:
        """Return a snapshot that was refused without defaults that no field accepts, None if that is not all of it."""
        fields = from_json(data)
        refused = {str(error["loc"][0]) if error["loc"] else "" for error in exc.errors(include_url=False)}
        if any(name not in self.odd_defaults or fields.get(name) != self.odd_defaults[name] for name in refused):
            return None
        return to_json({name: value for name, value in fields.items() if name not in refused})

    def unknown(self, data: bytes) -> dict[str, Json]:
        """Return the fields of a snapshot that the class does not have."""
        known = set(self.stored)
        return {name: value for name, value in from_json(data).items() if name not in known}

    def known(self, data: bytes) -> bytes:
        """Return a snapshot without the fields that the class does not have, if it is one that refuses them."""
        fields = from_json(data) if self.cls.model_config.get("extra") == "forbid" else None
        if not isinstance(fields, dict):
            return data
        return to_json({n: value for n, value in fields.items() if n in self.stored}, inf_nan_mode="constants")

    # -- changes -----------------------------------------------------------------------------------------------

    def changes(
        self, state: ReactiveState, values: Mapping[str, Any], before: bytes, extra: Mapping[str, Json] | None = None
    ) -> tuple[ReactiveState, Change | None]:
        """Return the state as it is to be stored, and what changed since it was loaded.

        Values that were changed in place are validated again; what validation makes of them is what is stored.

        Args:
            state: the private copy after the handler.
            values: its ``__dict__`` as loaded (a shallow copy).
            before: the snapshot that it was loaded from.
            extra: unknown fields that are carried along.

        Raises:
            InvalidStateError: a field holds a value that it, or the wire, refuses.
        """
        now = state.__dict__
        if self._cached:
            self._forget_cached(state)
        changed: list[str] = []
        for name in self._plain_in_order:
            old, new = values.get(name), now.get(name)
            if old is not new and (type(old) is not type(new) or old != new):
                changed.append(name)
                if type(new) is float or type(new) is str:
                    wire(new, f"{self.cls.__name__}.{name}")
        if self.is_all_plain:
            return state, Change(tuple(changed), self.dump(state, extra)) if changed else None
        texts = None if extra or not self._is_split else self._texts(state, self._complex)
        if texts is not None:
            return self._changes_of_texts(state, texts, before, changed)
        data = self.dump(state, extra)
        if data == before:
            return state, None
        state, data, deep = self._changed_in_place(state, data, before, extra)
        changed += [name for name in deep if name not in changed]
        return state, Change(tuple(changed), data) if changed else None

    def _changes_of_texts(
        self, state: ReactiveState, texts: dict[str, bytes], before: bytes, changed: list[str]
    ) -> tuple[ReactiveState, Change | None]:
        """Return what ``changes`` returns, from the JSON of each field that is not plain: each is dumped once."""
        members = [self._beginnings[name] + text for name, text in texts.items()]
        if self._is_mixed:
            head, tail = self._part(state, self._parts[0])[:-1], b",".join([b"", *members]) + b"}"
        else:
            head, tail = b"{", b",".join(members) + b"}"
        data = head + tail
        # The tail closes one object and opens none, so that it can only be all of the other fields.
        if before.endswith(tail) if self._is_mixed else before == data:
            return state, Change(tuple(changed), data) if changed else None
        olds = self._old_texts(before, texts)
        deep = [name for name, old in olds.items() if not same_text(old, texts[name])]
        if not deep:
            return state, Change(tuple(changed), data) if changed else None
        sent = {name: wire_text(texts[name]) for name in deep}
        for name in [name for name, text in sent.items() if text is None]:
            check_plain(self._parsed(texts[name]), f"{self.cls.__name__}.{name}")
            check_keys(state.__dict__.get(name), f"{self.cls.__name__}.{name}")
        checked = self.validated(data)
        again = self.dump(checked)
        derived: list[str] = []
        if again != data:
            sent = {name: wire_text(text) for name, text in (self._texts(checked, deep) or {}).items()}
            derived = self._derived(checked, again, before, [*changed, *deep])
        objects = {n: wire_text(olds[n]) for n in deep if olds[n].startswith(b"{")}
        names, is_reloaded = (*changed, *deep, *derived), again == data and self._is_seen_by_engine_only
        return checked, Change(names, again, self._as_stored(sent), self._as_stored(objects), is_reloaded)

    def _texts(self, state: ReactiveState, names: Iterable[str]) -> dict[str, bytes] | None:
        """Return the stored JSON of some fields that are not plain; None if one of them has no value."""
        texts: dict[str, bytes] = {}
        for name in names:
            part = self._part(state, {name})
            if len(part) == 2:
                return None
            texts[name] = part[1 + len(self._beginnings[name]) : -1]
        return texts

    def _old_texts(self, before: bytes, new: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return what a snapshot holds of the fields that are not plain, at least of those that are not as in ``new``.

        Where the fields lie as they are dumped, those that have not changed are found from both ends, and what is left
        between them is the one that has; else everything is parsed.
        """
        names = list(new)
        start, stop = self._start_of_others(before), len(before) - 1
        if start is not None:
            # A value that is followed by the next field's name, or by the end, can be no part of a longer one.
            while len(names) > 1:
                member = self._beginnings[names[0]] + new[names[0]]
                if not before.startswith(member + b"," + self._beginnings[names[1]], start):
                    break
                start += len(member) + 1
                del names[0]
            while len(names) > 1:
                member = b"," + self._beginnings[names[-1]] + new[names[-1]]
                if not before.endswith(member, start, stop):
                    break
                stop -= len(member)
                del names[-1]
            if len(names) == 1 and before.startswith(self._beginnings[names[0]], start):
                return {names[0]: before[start + len(self._beginnings[names[0]]) : stop]}
        parsed = from_json(before)
        return {name: to_json(parsed[name], inf_nan_mode="constants") if name in parsed else b"" for name in new}

    def _start_of_others(self, before: bytes) -> int | None:
        """Return where in a snapshot the fields that are not plain begin; None if they are not behind all plain ones."""
        if not self._is_mixed:
            return 1
        at = before.find(b"," + self._beginnings[self._complex[0]])
        try:
            head = from_json(before[: max(at, 0)] + b"}")
        except ValueError:
            return None
        return at + 1 if tuple(head) == self._plain_in_order else None

    def _as_stored(self, texts: Mapping[str, bytes | None]) -> dict[str, bytes]:
        """Return the wire forms that are known, of fields whose public form is the stored one."""
        return {n: text for n, text in texts.items() if text is not None and n in self._sent_as_stored}

    def texts(self, state: ReactiveState) -> dict[str, bytes]:
        """Return the wire form of the public fields that can be had as JSON at once."""
        if not self._is_split or not self._sent_as_stored:
            return {}
        texts = self._texts(state, self._sent_as_stored) or {}
        return self._as_stored({name: wire_text(text) for name, text in texts.items()})

    def simple_changes(self, state: ReactiveState, values: Mapping[str, Any]) -> dict[str, Json]:
        """Return what changed since a state was loaded, as it travels; for a class that is simple.

        Raises:
            InvalidStateError: a field holds a value that the wire refuses.
        """
        now = state.__dict__
        result: dict[str, Json] = {}
        for name in self._plain_in_order:
            old, new = values.get(name), now.get(name)
            if old is not new and (type(old) is not type(new) or old != new):
                if type(new) is int and -MAX_SAFE_INTEGER <= new <= MAX_SAFE_INTEGER:
                    result[name] = new
                else:
                    result[name] = wire(new, f"{self.cls.__name__}.{name}")
        return result

    def dump_simple(self, state: ReactiveState) -> bytes:
        """Return the snapshot of a state of a class that is simple, without unknown fields."""
        return self._part(state, None)

    def _changed_in_place(
        self, state: ReactiveState, data: bytes, before: bytes, extra: Mapping[str, Json] | None
    ) -> tuple[ReactiveState, bytes, list[str]]:
        """Return what ``changes`` needs to know of the fields that are not plain."""
        new, old = self._parsed(data), from_json(before)
        deep = [n for n in self._complex if not same(old.get(n), new.get(n)) or (n in new) != (n in old)]
        if not deep:
            return state, data, []
        for name in deep:
            check_plain(new.get(name), f"{self.cls.__name__}.{name}")
            check_keys(state.__dict__.get(name), f"{self.cls.__name__}.{name}")
        checked = self.validated(data)
        again = self.dump(checked, extra)
        return checked, again, deep if again == data else deep + self._derived(checked, again, before, deep)

    def _derived(self, checked: ReactiveState, data: bytes, before: bytes, known: Sequence[str]) -> list[str]:
        """Return further fields that have changed because validation makes one of another."""
        new, old = self._parsed(data), from_json(before)
        names = [n for n in self.stored if n not in known and not same(old.get(n), new.get(n))]
        for name in names:
            check_plain(new.get(name), f"{self.cls.__name__}.{name}")
            check_keys(checked.__dict__.get(name), f"{self.cls.__name__}.{name}")
        return names

    def _parsed(self, data: bytes) -> dict[str, Json]:
        try:
            parsed: dict[str, Json] = from_json(data, allow_inf_nan=False)
        except ValueError as exc:
            raise InvalidStateError(f"{self.cls.__name__} holds what JSON cannot: {exc}") from None
        return parsed

    def validated(self, data: bytes) -> ReactiveState:
        """Return ``load(data)`` with a message about a value that its field refuses."""
        try:
            return self.load(data)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidStateError(f"{self.cls.__name__}.{where}: {first['msg']}") from None

    def _forget_cached(self, state: ReactiveState) -> None:
        """Drop what properties have kept since before a change."""
        for name in self._cached:
            vars(state).pop(name, None)

    # -- signals -----------------------------------------------------------------------------------------------

    def wire_values(
        self, state: ReactiveState, wanted: Iterable[str], texts: Mapping[str, bytes] = MappingProxyType({})
    ) -> dict[str, Json]:
        """Return public fields and computed fields by name, in the form in which they travel.

        Args:
            state: the state.
            wanted: their names.
            texts: the JSON of some of them, which is put in as ``Text``.

        Raises:
            InvalidStateError: a value that no page can hold.
        """
        values = state.__dict__
        if self._cached:
            self._forget_cached(state)
        result: dict[str, Json] = {}
        others: set[str] = set()
        for name in wanted:
            if name in self.plain and type(values.get(name)) in _PLAIN_TYPES:
                result[name] = wire(values[name], name)
            elif name in texts:
                result[name] = Text(texts[name])
            else:
                others.add(name)
        if others:
            result.update(self._dumped(state, others))
        return result

    def _dumped(self, state: ReactiveState, wanted: set[str]) -> dict[str, Json]:
        try:
            dumped = self._public_dump(state, mode="json", by_alias=False, include=wanted, warnings="none")
        except PydanticSerializationError as exc:
            raise InvalidStateError(f"{self.cls.__name__} cannot be sent: {exc}") from None
        return {name: wire(dumped[name], name) for name in self.signals if name in wanted and name in dumped}


def _cached_names(cls: type) -> tuple[str, ...]:
    """Return the names of properties that keep their first value beside the fields."""
    return tuple({n: 0 for base in cls.__mro__ for n, item in vars(base).items() if isinstance(item, cached_property)})
