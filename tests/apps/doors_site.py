"""States under every kind of right, for several processes on one store; who asks is what ``login`` stored."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    FastStateMiddleware,
    Identity,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateKey,
    StateRegistry,
    StateScope,
    event,
)
from tests.hardening.wrapping import SECRET

RECORD = StateScope.RECORD


class Paper(ReactiveState):
    """What is guarded."""

    owner_id: str = ""
    writes: int = 0

    @event
    def write(self) -> None:
        """Count a write."""
        self.writes += 1


class Door(ReactiveState):
    """Lets people in and out, as whom they like."""

    @event
    async def enter(self, context: RequestContext, name: str, permissions: list[str], roles: list[str]) -> None:
        """Log in."""
        await context.login(name, permissions, roles)

    @event
    async def leave(self, context: RequestContext, everywhere: bool = False) -> None:
        """Log out."""
        await context.logout(everywhere=everywhere)


async def members(identity: Identity | None, key: StateKey, action: str) -> bool:
    """Let two users and every administrator into the shared record; only they write."""
    return identity is not None and (identity.user_id in ("ada", "bob") or "admin" in identity.roles)


RULES: dict[str, StateConfig] = {
    "Open": StateConfig(scope=RECORD, public=True, namespace=True),
    "Shared": StateConfig(scope=RECORD, authorize=members, namespace=True),
    "Private": StateConfig(scope=RECORD, owner_field="owner_id", namespace=True),
    "Permitted": StateConfig(scope=RECORD, permissions=("papers", "all"), namespace=True),
    "Admins": StateConfig(scope=RECORD, roles=("admin",), namespace=True),
    "Members": StateConfig(scope=StateScope.GLOBAL, requires_auth=True, namespace=True),
    "Mine": StateConfig(scope=StateScope.USER, namespace=True),
}
CLASSES: dict[str, type[ReactiveState]] = {
    name: type(name, (Paper,), {"__module__": __name__, "__doc__": f"Under the rule {name}."}) for name in RULES
}


async def read(request: Request) -> PlainTextResponse:
    """Show how often a paper was written."""
    paper = await CLASSES[request.path_params["name"]].aget(request)
    return PlainTextResponse(str(paper.writes))  # type: ignore[attr-defined]  # each is a Paper


async def change(request: Request) -> PlainTextResponse:
    """Write a paper in a transaction of a route."""
    async with request.scope["faststate"].transaction(CLASSES[request.path_params["name"]]) as paper:
        paper.writes += 1
    return PlainTextResponse("done")


async def give(request: Request) -> PlainTextResponse:
    """Make ada the owner of the private record; this is the test's own door."""
    engine = request.scope["faststate"].engine
    async with engine.transaction(CLASSES["Private"], record_id="1") as paper:
        paper.owner_id = "ada"
    return PlainTextResponse("done")


async def expel(request: Request) -> PlainTextResponse:
    """Log a user out everywhere, as an administrator's page would."""
    await request.scope["faststate"].engine.logout_user(request.path_params["name"])
    return PlainTextResponse("done")


def make_registry() -> StateRegistry:
    """Return the states of the site."""
    registry = StateRegistry()
    registry.register(Door)
    for name, config in RULES.items():
        registry.register(CLASSES[name], config)
    return registry


app = FastStateMiddleware(
    Starlette(
        routes=[
            Route("/read/{name}", read),
            Route("/change/{name}", change, methods=["POST"]),
            Route("/give", give, methods=["POST"]),
            Route("/expel/{name}", expel, methods=["POST"]),
        ]
    ),
    registry=make_registry(),
    secret_key=SECRET,
    debug=True,
    reauthenticate=2,
)
