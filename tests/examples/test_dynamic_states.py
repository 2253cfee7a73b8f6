"""State classes that are made from configuration while the program runs, without evaluating its text."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import create_model
from starlette.responses import JSONResponse

from faststate_asgi import ConfigurationError, ReactiveState, StateConfig, StateRegistry, StateScope, event
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio

FIELD_TYPES: Mapping[str, type] = {
    "int": int,
    "str": str,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
}


def adding_to(field: str) -> Callable[..., None]:
    """Return a method that adds a number to a field."""

    def add(self: Any, amount: int = 1) -> None:
        setattr(self, field, getattr(self, field) + amount)

    return add


def clearing(field: str) -> Callable[..., None]:
    """Return a method that empties a field."""

    def clear(self: Any) -> None:
        setattr(self, field, type(getattr(self, field))())

    return clear


METHODS = {"add": adding_to, "clear": clearing}


def make_state_class(name: str, config: Mapping[str, Any]) -> type[ReactiveState]:
    """Build a class from field types and methods that are on a list."""
    fields = config.get("fields", {})
    body: dict[str, Any] = {field: one["default"] for field, one in fields.items() if "default" in one}
    body["__annotations__"] = {field: FIELD_TYPES[one["type"]] for field, one in fields.items()}
    for method, one in config.get("methods", {}).items():
        body[method] = event(METHODS[one["does"]](one["field"]))
    return type(name, (ReactiveState,), {"__module__": __name__, **body})


def register_plugin_states(registry: StateRegistry, plugin: Mapping[str, Any]) -> dict[str, type[ReactiveState]]:
    """Register every state of a plugin; the scope is the session's unless it says otherwise."""
    made = {}
    for name, config in plugin["states"].items():
        made[name] = make_state_class(name, config)
        scope = StateScope(config.get("scope", "session"))
        registry.register(made[name], StateConfig(scope=scope, ttl=config.get("ttl")))
    return made


PLUGIN = {
    "states": {
        "VisitCounter": {
            "fields": {
                "visits": {"type": "int", "default": 5},
                "label": {"type": "str", "default": "Visits"},
            },
            "methods": {
                "visit": {"does": "add", "field": "visits"},
                "forget": {"does": "clear", "field": "visits"},
            },
        }
    }
}


async def test_a_configured_state_has_its_defaults_and_working_events(
    new_app: Any, wrap: Any, registry: StateRegistry
) -> None:
    made = register_plugin_states(registry, PLUGIN)["VisitCounter"]
    app, rt = new_app()

    @rt("/")
    async def home(req) -> Any:  # type: ignore[no-untyped-def]
        state = await made.aget(req)
        return JSONResponse({"key": str(state.key).split(":")[0]} | state.signals())

    async with FastStateClient(wrap(app)) as client:
        assert registry.is_state_type(made)
        assert (await client.get("/")).json() == {"key": "session", "visits": 5, "label": "Visits"}
        assert (await client.call("VisitCounter/visit", {"amount": 3})).signals == {"visits": 8}
        assert (await client.call("VisitCounter/visit", {})).signals == {"visits": 9}
        assert (await client.call("VisitCounter/visit", {"amount": "many"})).error["status"] == 422
        assert (await client.call("VisitCounter/forget", {})).signals == {"visits": 0}


async def test_a_state_registered_after_the_start_is_served(new_app: Any, wrap: Any, registry: StateRegistry) -> None:
    app, _ = new_app()
    async with FastStateClient(wrap(app)) as client:
        assert (await client.call("LateCounter/visit", {})).status == 404
        register_plugin_states(registry, {"states": {"LateCounter": PLUGIN["states"]["VisitCounter"]}})
        assert (await client.call("LateCounter/visit", {})).signals == {"visits": 6}


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "int if True else str", "object", "Any"])
def test_the_text_of_a_type_is_looked_up_and_never_evaluated(registry: StateRegistry, text: str) -> None:
    plugin = {"states": {"Evil": {"fields": {"x": {"type": text, "default": 0}}}}}
    with pytest.raises(KeyError):
        register_plugin_states(registry, plugin)


def test_an_unknown_scope_registers_nothing(registry: StateRegistry) -> None:
    plugin = {"states": {"Lost": {"scope": "galaxy", "fields": {"x": {"type": "int", "default": 0}}}}}
    with pytest.raises(ValueError, match="galaxy"):
        register_plugin_states(registry, plugin)


async def test_a_class_of_create_model_is_a_state(new_app: Any, wrap: Any, registry: StateRegistry) -> None:
    fields_only = create_model("Settings", __base__=ReactiveState, __module__=__name__, size=(int, 3), name=(str, "s"))
    with_event = type("LiveSettings", (fields_only,), {"__module__": __name__, "grow": event(adding_to("size"))})
    registry.register(with_event)
    app, _ = new_app()
    async with FastStateClient(wrap(app)) as client:
        assert fields_only().signals() == {"size": 3, "name": "s"}
        assert (await client.call("LiveSettings/grow", {"amount": 2})).signals == {"size": 5}


def test_two_classes_of_one_name_need_a_name_of_their_own(registry: StateRegistry) -> None:
    register_plugin_states(registry, PLUGIN)
    second = make_state_class("VisitCounter", PLUGIN["states"]["VisitCounter"])
    with pytest.raises(ConfigurationError, match="name="):
        registry.register(second, StateConfig())
    registry.register(second, StateConfig(name="PluginVisits", namespace="plugin"))
    assert registry.is_state_type(second)
