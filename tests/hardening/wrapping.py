"""What these tests wrap: the smallest app, a registry of each test's own, and a client for a whole test."""

from typing import Any

from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope

SECRET = "only-for-hardening-tests-" + "x" * 32
GLOBAL = StateConfig(scope=StateScope.GLOBAL)
RECORD = StateConfig(scope=StateScope.RECORD, public=True, namespace=True)
Declared = type[ReactiveState] | tuple[type[ReactiveState], StateConfig]


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with a short text; know nothing of lifespans."""
    assert scope["type"] == "http", "this app serves pages only"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"a page"})


def wrapped(*declared: Declared, app: Any = plain_app, **settings: Any) -> FastStateMiddleware:
    """Wrap an app with a new registry of these classes."""
    registry = StateRegistry()
    for item in declared:
        cls, config = item if isinstance(item, tuple) else (item, StateConfig())
        registry.register(cls, config)
    return FastStateMiddleware(app, **{"registry": registry, "secret_key": SECRET} | settings)
