"""What one commit on one state means for pages: the difference as frames, made once and sent to all.

Everything that can fail (a value no page can hold, a fragment that raises) fails here, before the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from pydantic_core import to_json

from . import frames, order
from .answers import markup_of
from .codec import NOTHING_KNOWN, Change
from .errors import InvalidStateError
from .keys import StateKey
from .patches import Json, Text, difference, encoded, is_object, nest, objects_of, same
from .plans import StatePlan
from .signals import signal_path
from .state import ReactiveState


# One is made at every event: what most of them do not have is a default of the class.
class Update:
    """One commit on one state.

    Args:
        plan: the class.
        key: the state.
        before: its version before.
        version: its version now, ``"0"`` when deleted.
        data: the snapshot now, None when deleted.
        names: changed stored fields.
        values: changed signals, whole, in wire form.
        patch: the same as a merge patch.
        removed: those of ``values`` that are objects and lost keys.
        fragments: rendered fragments as frames, by name.

    ``elements`` are frames that are sent once to every open stream of the state.
    """

    removed: tuple[str, ...] = ()
    fragments: Mapping[str, bytes] = MappingProxyType({})
    elements: tuple[bytes, ...] = ()
    _frames: list[bytes] | None = None

    def __init__(
        self,
        plan: StatePlan,
        key: StateKey,
        before: str,
        version: str,
        data: bytes | None,
        names: tuple[str, ...],
        values: dict[str, Json],
        patch: dict[str, Json],
        removed: tuple[str, ...] = (),
        fragments: dict[str, bytes] | None = None,
    ) -> None:
        self.plan = plan
        self.key = key
        self.before = before
        self.version = version
        self.data = data
        self.names = names
        self.values = values
        self.patch = patch
        if removed:
            self.removed = removed
        if fragments:
            self.fragments = fragments

    @property
    def frames(self) -> list[bytes]:
        """The frames that bring a page from ``before`` to ``version``, made once, without one-off elements."""
        made = self._frames
        if made is None:
            plan, patch = self.plan, self.patch
            if plan.is_simple and patch and self.key.own_id is None:
                before, after = plan.signals_around
                made = [before + to_json(patch, inf_nan_mode="constants") + after]
            else:
                path = signal_path(plan.namespace, self.key)
                made = [*signal_frames(path, patch, self.removed), *self.fragments.values()]
            self._frames = made
        return made

    def frames_in_order(self, after: str) -> list[bytes]:
        """Return the same frames for a page that puts answers in order.

        Args:
            after: what its request said that it had taken in.
        """
        signals = len(self.frames) - len(self.fragments)
        names = [*[""] * signals, *self.fragments]
        return [
            order.numbered(frame, self.key.label, self.version, after, name)
            for frame, name in zip(self.frames, names, strict=True)
        ]

    def frames_without(self, name: str) -> list[bytes]:
        """Return the same frames without one signal."""
        patch = {key: value for key, value in self.patch.items() if key != name}
        removed = tuple(key for key in self.removed if key != name)
        return [*signal_frames(signal_path(self.plan.namespace, self.key), patch, removed), *self.fragments.values()]


def signal_frames(path: tuple[str, ...], patch: Mapping[str, Json], removed: Iterable[str] = ()) -> list[bytes]:
    """Return the frames of a signal patch; objects that lost keys go as an empty string first."""
    blanks = dict.fromkeys(removed, "")
    result = [frames.signals(nest(path, blanks))] if blanks else []
    if patch:
        result.append(frames.signals_text(encoded(path, patch)))
    return result


def render_fragment(plan: StatePlan, name: str, state: ReactiveState) -> bytes:
    """Return the frame of one fragment.

    Raises:
        InvalidStateError: it has no root element with an id, or was never rendered with one root only.
    """
    fragment = plan.cls.__faststate_fragments__[name]
    markup, is_text = markup_of(fragment.func(state))
    if is_text or not (frames.root_attributes(markup) or {}).get("id"):
        raise InvalidStateError(f"@fragment {plan.name}.{name} must return one element with an id")
    if not fragment.is_checked:  # reading all of it each time would cost more than what it checks
        if frames.root_count(markup) > 1:
            raise InvalidStateError(
                f"@fragment {plan.name}.{name} returns several elements: put them into one with an id"
            )
        fragment.is_checked = True
    return frames.elements(markup)


def make_update(
    plan: StatePlan,
    key: StateKey,
    versions: tuple[str, str],
    data: bytes | None,
    names: tuple[str, ...],
    state: ReactiveState,
    old_state: Callable[[], ReactiveState],
    change: Change = NOTHING_KNOWN,
) -> Update:
    """Return what a commit means for pages.

    Args:
        plan: the class.
        key: the state.
        versions: before and after.
        data: the snapshot after.
        names: changed stored fields.
        state: the state after.
        old_state: gives the state before, if that is needed.
        change: what is known of the change already.

    Raises:
        InvalidStateError: a value that no page can hold, or a fragment that is none.
    """
    codec = plan.codec
    public = [name for name in names if name in codec.public]
    values = codec.wire_values(state, [*public, *codec.computed], change.texts)
    patch: dict[str, Json] = values
    removed: tuple[str, ...] = ()
    objects = [name for name, value in values.items() if is_object(value)]
    if codec.computed or objects:
        old: dict[str, Json] = {n: Text(change.olds[n]) for n in objects if n in change.olds}
        missing = [name for name in {*codec.computed, *objects} if name not in old]
        if missing:
            old.update(codec.wire_values(old_state(), missing))
        for name in codec.computed:
            if name in old and same(old[name], values[name]):
                del values[name]
        patch, removed = differences(old, values)
    changed = {*names, *values}
    rendered = {
        name: render_fragment(plan, name, state)
        for name, item in plan.cls.__faststate_fragments__.items()
        if item.fields & changed
    }
    return Update(plan, key, *versions, data, names, values, patch, tuple(removed), rendered)


def differences(old: Mapping[str, Json], new: Mapping[str, Json]) -> tuple[dict[str, Json], tuple[str, ...]]:
    """Return the merge patch for each name in ``new``, and which objects lost keys (whole in the patch)."""
    patch: dict[str, Json] = {}
    removed: list[str] = []
    for name, value in new.items():
        before = old.get(name, "")
        if is_object(before) and is_object(value):
            before, value = objects_of(before), objects_of(value)
        part, lost = difference(before, value)
        patch[name] = part
        if lost:
            removed.append(name)
    return patch, tuple(removed)


def everything(plan: StatePlan, key: StateKey, state: ReactiveState) -> Update:
    """Return the update that brings a page to a state, whatever it shows of it."""
    codec = plan.codec
    values = codec.wire_values(state, codec.signals, codec.texts(state))
    objects = tuple(name for name, value in values.items() if is_object(value))
    rendered = {name: render_fragment(plan, name, state) for name in plan.cls.__faststate_fragments__}
    return Update(plan, key, state.version, state.version, None, (), values, values, objects, rendered)


def unchanged(plan: StatePlan, key: StateKey, version: str) -> Update:
    """Return an update without a change, to carry one-off elements to the streams of a state."""
    return Update(plan, key, version, version, None, (), {}, {})
