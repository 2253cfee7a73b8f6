"""A state as an object and as part of a page."""

from typing import Any
from uuid import UUID

import pytest
from fasthtml.common import Div, Main, Span, to_xml
from starlette.responses import HTMLResponse

from faststate_asgi import ConfigurationError, Live, Private, ReactiveState, StateConfig, StateRegistry
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class Card(ReactiveState):
    """A state with text that looks like code, and something nobody may see."""

    count: int = 3
    title: str = "see @post('/x') & $count, </script>"
    token: Private[str] = "hidden-token"


def test_each_instance_has_a_uuid_text_of_its_own() -> None:
    ids = [Card().id for _ in range(50)]
    assert all(isinstance(one, str) and UUID(one).version == 4 for one in ids)
    assert len(set(ids)) == 50
    card = Card()
    assert card.id == card.id


def test_an_id_is_neither_a_field_nor_a_signal() -> None:
    card = Card()
    assert set(card.signals()) == {"count", "title"}
    assert "id" not in card.model_dump()


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> Any:
    """The same state put into a page by itself and by ``Live``."""
    registry.register(Card, StateConfig())
    app, rt = new_app()

    @rt("/alone")
    def alone(card: Card) -> Any:
        return HTMLResponse(to_xml(card))

    @rt("/live")
    def live(card: Card) -> Any:
        return HTMLResponse(to_xml(Live(card)))

    @rt("/page")
    def page(card: Card) -> Any:
        return Main(Div("Count: ", Span(card.count, data_text=Card.signal.count), id="card"), card)

    @rt("/returned")
    def returned(card: Card) -> Any:
        return card

    @rt("/listed")
    def listed(card: Card) -> Any:
        return [card]

    return wrap(app)


async def test_a_state_renders_as_its_live_element(site: Any, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        alone, live = [(await client.get(path)).text.strip() for path in ("/alone", "/live")]
        page = read_page(await client.get("/alone"))
    assert alone == live
    assert page.signals == {"count": 3, "title": "see @post('/x') & $count, </script>"}
    (stream,) = [e["data-init"] for e in page.elements if "data-init" in e.attributes]
    assert stream.startswith("@get('/faststate/sse?states=Card'")
    assert "retry: 'always'" in stream
    assert "retryMaxCount: Infinity" in stream


async def test_a_state_that_a_route_returns_is_its_live_element(site: Any, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        returned, live = await client.get("/returned"), await client.get("/live")
        listed = await client.get("/listed")
    assert live.text in returned.text
    assert "<title>" in returned.text
    assert "hidden-token" not in returned.text + listed.text
    assert read_page(returned).signals["count"] == 3


def test_what_never_leaves_is_not_iterated_over() -> None:
    assert set(dict(Card())) == {"count", "title"}
    assert "hidden-token" not in str(list(Card()))


async def test_values_in_a_page_are_inert_and_private_ones_stay_away(site: Any, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        response = await client.get("/page")
    page = read_page(response)
    (seeded,) = [e["data-signals"] for e in page.elements if "data-signals" in e.attributes]
    assert not any(sign in seeded for sign in ("@", "'", "</", "$", "&"))
    assert "hidden-token" not in response.text
    assert page.one("div", id="card").text == "Count: 3"
    assert page.one("span", data_text="$count").text == "3"


@pytest.mark.parametrize(
    "what", [None, [ReactiveState()], ReactiveState, 5], ids=["nothing", "list", "class", "number"]
)
def test_live_takes_states_one_by_one(what: Any) -> None:
    with pytest.raises(ConfigurationError, match="one by one"):
        Live(what)
