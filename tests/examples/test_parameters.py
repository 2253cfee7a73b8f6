"""Parameters of events: every type from every source, defaults, and a 422 that names what is wrong."""

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from faststate_asgi import FastStateMiddleware, ReactiveState, StateRegistry, event
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class Typed(ReactiveState):
    """Events that remember what they were given."""

    seen: list[Any] | None = None

    @event
    def take(
        self, number: int, ratio: float, flag: bool, text: str, data: dict[str, Any], extra: int | None = None
    ) -> None:
        """Remember values and their types."""
        values = (number, ratio, flag, text, data, extra)
        self.seen = [[value, type(value).__name__] for value in values]

    @event(method="get")
    def look(self, number: int = 1, flag: bool = False, text: str = "none") -> None:
        """Remember what came in the address."""
        self.seen = [number, flag, text]

    @event
    def one(self, number: int = 7) -> None:
        """Remember one number."""
        self.seen = [number]

    @event
    def must(self, number: int) -> None:
        """Remember one number that has no default."""
        self.seen = [number]


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A site with the one class."""
    registry.register(Typed)
    app, _ = new_app()
    return wrap(app)


VALUES = {"number": 3, "ratio": 0.5, "flag": True, "text": "7", "data": {"k": [1, None]}}
WANTED = [
    [3, "int"],
    [0.5, "float"],
    [True, "bool"],
    ["7", "str"],
    [{"k": [1, None]}, "dict"],
    [None, "NoneType"],
]
AS_TEXT = {"number": "3", "ratio": "0.5", "flag": "yes", "text": "7", "data": '{"k": [1, null]}'}
DATASTAR = {"Datastar-Request": "true"}


def seen_in(response: Any) -> Any:
    """Return what the state remembered, from the answer's signals."""
    assert response.status == 200, response.text
    line = next(line for line in response.text.split("\n") if line.startswith("data: signals "))
    return json.loads(line.removeprefix("data: signals "))["seen"]


async def test_a_json_body_gives_typed_arguments(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call("Typed/take", VALUES)).signals == {"seen": WANTED}


async def test_a_json_body_may_name_its_charset(site: FastStateMiddleware) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    async with FastStateClient(site) as client:
        response = await client.request(
            "POST", "/faststate/events/Typed/one", body=b'{"number": 9}', headers=DATASTAR | headers
        )
        assert seen_in(response) == [9]


async def test_a_form_gives_typed_arguments(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        response = await client.post("/faststate/events/Typed/take", data=AS_TEXT, headers=DATASTAR)
        assert seen_in(response) == WANTED


async def test_a_query_gives_typed_arguments(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        response = await client.post(f"/faststate/events/Typed/take?{urlencode(AS_TEXT)}", headers=DATASTAR)
        assert seen_in(response) == WANTED


async def test_a_get_event_reads_the_query_and_datastars_parameter(site: FastStateMiddleware) -> None:
    signals = quote(json.dumps({"number": 5, "text": "from signals"}))
    async with FastStateClient(site) as client:
        plain = await client.get("/faststate/events/Typed/look?number=4&flag=on&text=hi", headers=DATASTAR)
        datastar = await client.get(f"/faststate/events/Typed/look?datastar={signals}", headers=DATASTAR)
        both = await client.get(f"/faststate/events/Typed/look?number=6&datastar={signals}", headers=DATASTAR)
    assert seen_in(plain) == [4, True, "hi"]
    assert seen_in(datastar) == [5, False, "from signals"]
    assert seen_in(both) == [6, False, "from signals"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("true", True),
        ("1", True),
        ("yes", True),
        ("on", True),
        ("YES", True),
        ("false", False),
        ("0", False),
        ("no", False),
        ("off", False),
    ],
)
async def test_the_words_for_true_and_false(site: FastStateMiddleware, text: str, wanted: bool) -> None:
    async with FastStateClient(site) as client:
        response = await client.get(f"/faststate/events/Typed/look?flag={text}", headers=DATASTAR)
    assert seen_in(response)[1] is wanted


async def test_a_missing_argument_takes_its_default(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call(Typed.one)).signals == {"seen": [7]}
        assert (await client.call("Typed/one", {"unknown": 1})).status == 204


async def test_an_empty_text_is_none_where_none_is_allowed(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        response = await client.post("/faststate/events/Typed/take", data=AS_TEXT | {"extra": ""}, headers=DATASTAR)
        assert seen_in(response)[5] == [None, "NoneType"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"number": "three"}, "number"),
        ({"number": 1.5}, "number"),
        ({"number": None}, "number"),
        ({"ratio": "much"}, "ratio"),
        ({"flag": "maybe"}, "flag"),
        ({"text": 7}, "text"),
        ({"data": "not an object"}, "data"),
        ({"data": [1]}, "data"),
    ],
)
async def test_a_bad_argument_is_a_422_that_names_it(
    site: FastStateMiddleware, wrong: dict[str, Any], field: str
) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call("Typed/take", VALUES | wrong)
        plain = await client.call("Typed/take", VALUES | wrong, datastar=False)
        untouched = await client.call(Typed.one)
    assert (answer.status, answer.error["status"]) == (200, 422)
    assert list(answer.error["fields"]) == [field]
    assert answer.error["event"] == "Typed/take"
    assert (plain.status, plain.headers["content-type"]) == (422, "application/problem+json")
    assert json.loads(plain.text)["status"] == 422
    assert "seen" not in answer.signals
    assert untouched.signals == {"seen": [7]}


async def test_a_missing_required_argument_is_a_422_and_never_none(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call("Typed/must", {})
        text_form = await client.post("/faststate/events/Typed/must", data={"number": ""}, headers={})
    assert answer.error["status"] == 422
    assert list(answer.error["fields"]) == ["number"]
    assert text_form.status == 422


@pytest.mark.parametrize("body", ["{", "nonsense", '{"number": 1}}'])
async def test_a_body_that_is_no_json_is_a_bad_request(site: FastStateMiddleware, body: str) -> None:
    async with FastStateClient(site) as client:
        headers = {"content-type": "application/json"}
        response = await client.request("POST", "/faststate/events/Typed/must", body=body.encode(), headers=headers)
    assert response.status == 400


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_json_does_not_have_are_refused(site: FastStateMiddleware, number: str) -> None:
    body = json.dumps(VALUES).replace("0.5", number)
    async with FastStateClient(site) as client:
        headers = {"content-type": "application/json"}
        response = await client.request("POST", "/faststate/events/Typed/take", body=body.encode(), headers=headers)
        untouched = await client.call(Typed.one)
    assert response.status in (400, 422)
    assert untouched.signals == {"seen": [7]}
