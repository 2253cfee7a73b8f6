"""What type checkers know about reading and changing states."""

from typing import assert_type

from faststate_asgi import (
    FastState,
    Identity,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateKey,
    StateRegistry,
    StateScope,
    inject,
    state_registry,
)


class Profile(ReactiveState):
    """A small state."""

    name: str = ""
    size: int | None = None


async def in_a_route(context: RequestContext, request: object) -> None:
    """Reading gives the class that was asked for."""
    assert_type(await context.get(Profile), Profile)
    assert_type(await context.get(Profile, record_id=42), Profile)
    assert_type(await context.get_or_none(Profile), Profile | None)
    assert_type(await Profile.aget(request), Profile)
    assert_type(Profile.get(request), Profile)
    assert_type((await Profile.aget(request)).size, int | None)
    assert_type(context.user, str | None)
    assert_type(context.session_id, str | None)
    assert_type(await context.login("ada", permissions=("read",)), Identity)
    assert_type(await context.logout(), None)


async def in_a_script(faststate: FastState) -> None:
    """The engine reads by explicit ids."""
    assert_type(await faststate.get(Profile, user_id=1), Profile)
    assert_type(faststate.sync.get(Profile), Profile)
    async with faststate.transaction(Profile) as profile:
        profile.name = "x"


def around(profile: Profile) -> None:
    """Keys, registries and configs."""
    assert_type(profile.key, StateKey | None)
    assert_type(state_registry, StateRegistry)
    assert_type(state_registry.register(Profile, StateConfig(scope=StateScope.USER)), type[Profile])


@inject
async def endpoint(profile: Profile) -> str:
    """A route whose state is injected."""
    return profile.name
