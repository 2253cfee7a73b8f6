"""Who may pass a door: ``Guard``, and ``requires_auth`` for events and plain routes alike.

What a guard asks for is said here; whether an identity satisfies it is decided in ``identity.py``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from .current import CurrentContext, current_context
from .errors import ConfigurationError, check_kind, shorten

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Guard:
    """Who may pass: any logged-in user, and any one of the permissions, and any one of the roles, and the owner."""

    requires_auth: bool = False
    permissions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    owner_only: bool = False

    @property
    def is_open(self) -> bool:
        """Whether everybody passes."""
        return not (self.requires_auth or self.permissions or self.roles or self.owner_only)

    def joined(self, other: Guard) -> Guard:
        """Return the guard that lets through what both let through.

        Raises:
            ConfigurationError: both name permissions, or both name roles: any of them would be enough then.
        """
        if (self.permissions and other.permissions) or (self.roles and other.roles):
            raise ConfigurationError("name permissions and roles in @event or in @requires_auth, not in both")
        return Guard(
            self.requires_auth or other.requires_auth,
            self.permissions | other.permissions,
            self.roles | other.roles,
            self.owner_only or other.owner_only,
        )


OPEN = Guard()


def names(value: Iterable[str] | str | None, what: str) -> frozenset[str]:
    """Return permissions or roles as a set; a single text counts as one name."""
    if value is not None and not hasattr(value, "__iter__"):
        raise ConfigurationError(f"{what} must be names, not {shorten(value)}")
    items = [value] if isinstance(value, str) else list(value or ())
    are_names = (isinstance(item, str) and item for item in items)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not all(are_names):  # not everybody checks types
        raise ConfigurationError(f"{what} must be names, not {shorten(value)}")
    return frozenset(items)


def make_guard(
    requires_auth: bool, permissions: Iterable[str] | str | None, roles: Iterable[str] | str | None, owner_only: bool
) -> Guard:
    """Return a guard; naming permissions, roles or the owner implies that somebody is logged in."""
    check_kind(bool, {"requires_auth": requires_auth, "owner_only": owner_only})
    allowed, wanted = names(permissions, "permissions"), names(roles, "roles")
    return Guard(bool(requires_auth or allowed or wanted or owner_only), allowed, wanted, owner_only)


def requires_auth(
    permissions: Iterable[str] | str | None = None,
    roles: Iterable[str] | str | None = None,
    owner_only: bool = False,
) -> Callable[[F], F]:
    """Let only those pass who are logged in and have any of the permissions and any of the roles.

    Below ``@event`` it says the same as the event's own arguments; on a FastHTML or Starlette route it guards the
    route (401, 403, or a redirect to ``login_url``).

    Args:
        permissions: any one of them is enough; None asks for none.
        roles: any one of them is enough; None asks for none.
        owner_only: only the owner of the state (events only).
    """
    if callable(permissions):
        raise ConfigurationError("write @requires_auth() with parentheses")
    guard = make_guard(True, permissions, roles, owner_only)

    def decorate(func: F) -> F:
        if not callable(func):  # an event, which is called through an instance only
            raise ConfigurationError(
                f"{getattr(func, '__qualname__', shorten(func))}: @requires_auth goes below @event, or on a function"
            )
        if inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func):
            guarded: Callable[..., Any] = _guarded_sync(func, guard)  # making the generator is what is guarded
        elif inspect.iscoroutinefunction(func):
            guarded = _guarded_async(func, guard)
        else:
            guarded = _guarded_sync(func, guard)
        guarded.__faststate_guard__ = guard  # type: ignore[attr-defined]  # read by @event
        guarded.__faststate_guarded__ = guarded  # type: ignore[attr-defined]  # tells it from what wraps it
        return guarded  # type: ignore[return-value]  # same signature by functools.wraps

    return decorate


def _context(guard: Guard) -> CurrentContext:
    """Return the request's context, or say what is missing."""
    if guard.owner_only:
        raise ConfigurationError("owner_only is for events: a route has no state, so it has no owner")
    context = current_context.get()
    if context is None:
        raise ConfigurationError("@requires_auth needs the app to be wrapped: app = FastStateMiddleware(app, ...)")
    return context


def _is_method(args: tuple[object, ...]) -> bool:
    """Whether a state's method is called: its event has checked the guard, and outside a request nothing is checked."""
    return bool(args) and hasattr(type(args[0]), "__faststate_events__")


def _guarded_async(func: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    @functools.wraps(func)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if not _is_method(args):
            await _context(guard).check(guard)
        return await func(*args, **kwargs)

    return guarded


def _guarded_sync(func: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    @functools.wraps(func)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not _is_method(args):
            _context(guard).check_from_thread(guard)
        return func(*args, **kwargs)

    return guarded
