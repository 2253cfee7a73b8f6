"""The request that is being served, for code that is called without one: actions, ``Live``, ``requires_auth``.

Holds one context variable and what others may ask of it; ``context.py`` implements it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .guards import Guard

DEFAULT_MOUNT = "/faststate"
DEFAULT_HEARTBEAT_S = 15.0


class CurrentContext(Protocol):
    """What pages and guarded routes need of the request that is being served."""

    @property
    def mount_url(self) -> str:
        """``root_path`` and ``mount_path``, quoted for a URL."""
        ...

    @property
    def heartbeat_s(self) -> float:
        """The silence after which a stream sends something."""
        ...

    @property
    def script_url(self) -> str:
        """Where the Datastar module comes from."""
        ...

    async def check(self, guard: Guard) -> None:
        """Let the caller pass or raise ``AuthenticationError`` or ``AuthorizationError``."""

    def check_from_thread(self, guard: Guard) -> None:
        """Do the same from a worker thread."""


current_context: ContextVar[CurrentContext | None] = ContextVar("faststate_context", default=None)
"""The context of the request that is being served, set by the middleware."""


def mount_url() -> str:
    """Return where the sub-application is for the current request, or the default place."""
    context = current_context.get()
    return DEFAULT_MOUNT if context is None else context.mount_url


def heartbeat_s() -> float:
    """Return after how much silence streams of the current request's app send something, or the default."""
    context = current_context.get()
    return DEFAULT_HEARTBEAT_S if context is None else context.heartbeat_s
