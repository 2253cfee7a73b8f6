"""A site of twenty diaries for each user, for several processes on one store; every line says whose it is."""

from typing import cast

from starlette.applications import Starlette

from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event
from tests.hardening.wrapping import SECRET

NAMES = tuple(f"Diary{number}" for number in range(20))


class Diary(ReactiveState):
    """Belongs to a user."""

    line: str = ""
    count: int = 0

    @event
    def write(self, auth: str) -> None:
        """Write a line, signed."""
        self.count += 1
        self.line = f"{auth} {self.count}"


def make_registry() -> StateRegistry:
    """Return twenty classes that differ in nothing but their names."""
    registry = StateRegistry()
    for name in NAMES:
        made = type(Diary)(name, (Diary,), {"__module__": __name__, "__doc__": Diary.__doc__})
        registry.register(cast("type[ReactiveState]", made), StateConfig(scope=StateScope.USER, namespace=True))
    return registry


app = FastStateMiddleware(
    Starlette(),
    registry=make_registry(),
    secret_key=SECRET,
    authenticate=lambda connection: connection.headers.get("x-who"),
    max_streams_per_session=10_000,
)
