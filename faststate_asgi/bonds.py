"""``Bond``: what ties one copy of a state to its stored original.

A state that was made by hand has none, or one without a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stores.base import NO_VERSION

if TYPE_CHECKING:
    from .keys import StateKey
    from .state import ReactiveState


class Bond:
    """What ties one copy of a state to its stored original; lives as long as the copy."""

    deleted = False
    id: str | None = None

    def __init__(
        self,
        key: StateKey | None = None,
        version: str = NO_VERSION,
        namespace: str | None = None,
        read_only: bool = False,
    ) -> None:
        self.key = key
        self.version = version
        self.namespace = namespace
        self.read_only = read_only


def bond_of(state: ReactiveState) -> Bond | None:
    """Return what ties a copy to its stored original, None for a plain object."""
    bond: Bond | None = getattr(state, "_faststate_bond", None)
    return bond


def bind(state: ReactiveState, bond: Bond | None) -> None:
    """Tie a copy to its stored original."""
    object.__setattr__(state, "_faststate_bond", bond)


def bonded(state: ReactiveState) -> Bond:
    """Return the bond, made on first use for a plain object."""
    bond = bond_of(state)
    if bond is None:
        bond = Bond()
        bind(state, bond)
    return bond
