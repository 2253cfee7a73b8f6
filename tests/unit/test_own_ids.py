"""The id of a record or component: what code gives counts more than the path, and the path more than the query."""

from types import SimpleNamespace
from typing import Any

import pytest

from faststate_asgi import MissingParameterError, ReactiveState, StateConfig, StateRegistry, StateScope
from faststate_asgi.own_ids import own_id_of, path_params_of
from faststate_asgi.plans import StatePlan


class Page(ReactiveState):
    text: str = ""


def plan(**config: Any) -> StatePlan:
    registry = StateRegistry()
    registry.register(Page, StateConfig(**config))
    return registry.plan(Page)


RECORD = plan(scope=StateScope.RECORD, public=True, namespace=True)
NAMED = plan(scope=StateScope.RECORD, public=True, namespace=True, record_key="slug")
COMPONENT = plan(scope=StateScope.COMPONENT, namespace=True)


@pytest.mark.parametrize(
    ("given", "path", "query", "found"),
    [
        (7, {"record_id": 8}, b"record_id=9", "7"),
        (None, {"record_id": 8, "id": 5}, b"record_id=9", "8"),
        (None, {"id": 5}, b"record_id=9", "5"),
        (None, {"record_id": None}, b"record_id=9", "9"),
        (None, {}, b"record_id=9&record_id=10", "9"),
    ],
)
def test_what_is_nearer_to_the_code_counts_more(given: Any, path: dict[str, Any], query: bytes, found: str) -> None:
    assert own_id_of(RECORD, given, path, query) == found


def test_a_key_of_its_own_name_counts_more_than_the_common_one() -> None:
    assert own_id_of(NAMED, None, {"record_id": 1, "slug": "a"}, b"") == "a"
    assert own_id_of(NAMED, None, {"record_id": 1}, b"slug=a") == "1"
    assert own_id_of(NAMED, None, {}, b"record_id=1&slug=a") == "a"


@pytest.mark.parametrize(("path", "query"), [({}, b""), ({}, b"id=3"), ({"component_id": 1}, b"component_id=1")])
def test_a_record_that_is_not_named_is_missing(path: dict[str, Any], query: bytes) -> None:
    with pytest.raises(MissingParameterError, match="record_id"):
        own_id_of(RECORD, None, path, query)


def test_a_component_has_one_name_only() -> None:
    assert own_id_of(COMPONENT, None, {}, b"component_id=left") == "left"
    with pytest.raises(MissingParameterError, match="component_id"):
        own_id_of(COMPONENT, None, {"id": 1, "record_id": 1}, b"")


def test_parameters_that_the_framework_keeps_in_its_request_are_found() -> None:
    of_quart = SimpleNamespace(view_args={"record_id": 1})
    of_django = SimpleNamespace(resolver_match=SimpleNamespace(kwargs={"record_id": 2}))
    assert path_params_of(of_quart) == {"record_id": 1}
    assert path_params_of(of_django) == {"record_id": 2}
    assert path_params_of(object()) is None
