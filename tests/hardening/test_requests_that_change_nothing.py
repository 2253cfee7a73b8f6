"""What a request must not be able to do: set fields, call methods, use another's session, come from another site."""

import itertools
import json
from typing import Annotated, Any

import pytest
from starlette.responses import Response

from faststate_asgi import (
    Bound,
    Identity,
    Private,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateKey,
    StateScope,
    event,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
EVENTS = "/faststate/events"
VALUES: list[Any] = [7, -1.5, "x", True, None, [1], {"a": 1}, ""]


class Basket(ReactiveState):
    """Has a field of each kind of protection."""

    quantity: int = 1
    price: float = 9.5
    owner: str = ""
    note: Bound[str] = ""
    token: Private[str] = "secret-canary"
    details: dict[str, Any] = {}

    @event
    def add(self, amount: int = 1) -> None:
        """Add some."""
        self.quantity += amount

    @event
    def who(self, auth: str | None) -> None:
        """Write down who asked."""
        self.owner = auth or "nobody"

    @event
    def whose(self, identity: Identity | None, context: RequestContext) -> None:
        """Write down who asked, the long way."""
        self.owner = context.user or "nobody"

    @event
    def claim(self, me: Identity | None, mine: Annotated[Identity | None, "a note"] = None) -> None:
        """Write down what the parameters say."""
        self.owner = ",".join(item.user_id for item in (me, mine) if item is not None) or "nobody"

    @event
    def tell(self, key: StateKey) -> Response:
        """Say in which session this is."""
        return Response(headers={"x-session": key.session_id or ""})

    @event(method="get")
    def look(self) -> None:
        """Count by GET."""
        self.quantity += 1

    def clear(self) -> None:
        """Do what pages cannot ask for."""
        self.quantity = 0

    async def clear_later(self) -> None:
        """Do it asynchronously."""
        self.quantity = 0


FIELDS = tuple(name for name in Basket.model_fields if name != "quantity")
BEFORE = {"quantity": 2, "price": 9.5, "owner": "", "note": "", "details": {}}


async def stored(app: Any) -> dict[str, Any]:
    state = await app.faststate.get(Basket)
    return {**state.model_dump(), "token": state.token}


@pytest.mark.parametrize("field", FIELDS)
async def test_signals_and_forms_and_queries_of_other_names_set_no_field(field: str) -> None:
    """Who adds a field to a request would set the price of what he buys, or whose it is."""
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        for count, value in enumerate(VALUES, 1):
            await client.call("Basket/add", {field: value, "Basket": {field: value}, "amount": 0})
            await client.call("Basket/add", {"amount": 0}, ids={field: str(value)})
            await client.post(f"{EVENTS}/Basket/add", data={field: str(value), "amount": 0})
            await client.post(f"{EVENTS}/Basket/add", data={field: "x", "amount": "0"}, files={})
            assert await stored(app) == {**BEFORE, "quantity": 1, "token": "secret-canary"}, count


@pytest.mark.parametrize("name", ["price", "owner", "token", "details", "quantity", "id", "model_config"])
async def test_there_is_no_setter_for_what_is_not_bound(name: str) -> None:
    """A setter for every field would let a page write what only the server may."""
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        answer = await client.call(f"Basket/set_{name}", {name: 5})
        assert answer.status == 404
        assert (await app.faststate.get(Basket)).version == "0"


async def test_a_bound_field_is_set_by_its_setter_alone() -> None:
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        answer = await client.call("Basket/set_note", {"note": "mine", "price": 0})
        assert answer.signals == {"note": "mine"}
        assert await stored(app) == {**BEFORE, "quantity": 1, "note": "mine", "token": "secret-canary"}


@pytest.mark.parametrize("value", [5, True, [1], {"a": 1}])
async def test_a_setter_refuses_what_its_field_refuses(value: Any) -> None:
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        answer = await client.call("Basket/set_note", {"note": value})
        assert answer.error is not None
        assert answer.error["status"] == 422
        assert "note" in answer.error["fields"]
        assert (await app.faststate.get(Basket)).version == "0"


@pytest.mark.parametrize("name", ["who", "whose"])
async def test_nobody_becomes_somebody_by_a_parameter(name: str) -> None:
    app = wrapped((Basket, GLOBAL))
    forged = {"auth": "admin", "identity": {"user_id": "admin"}, "context": {"user": "admin"}, "user": "admin"}
    async with FastStateClient(app) as client:
        query = {key: json.dumps(value) for key, value in forged.items()}
        await client.call(f"Basket/{name}", forged, ids={**query, "auth": "admin"})
        assert (await app.faststate.get(Basket)).owner == "nobody"
        await client.post(f"{EVENTS}/Basket/{name}?auth=admin", data={"auth": "admin"})
        assert (await app.faststate.get(Basket)).owner == "nobody"


@pytest.mark.parametrize("forged", [{"user_id": "admin"}, {"user_id": "admin", "permissions": ["all"]}, "admin", None])
async def test_an_identity_is_never_read_from_a_request(forged: Any) -> None:
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        answer = await client.call("Basket/claim", {"me": forged, "mine": forged})
        assert answer.signals == {"owner": "nobody"}
        assert (await app.faststate.get(Basket)).owner == "nobody"


async def test_a_forged_count_in_the_query_is_no_argument() -> None:
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        await client.post(f"{EVENTS}/Basket/add?quantity=50&self=50&count=50", json={"self": {"quantity": 9}})
        assert (await app.faststate.get(Basket)).quantity == 2


async def test_every_name_that_is_no_event_is_unknown() -> None:
    """Any method could be called by its name: what deletes, what saves, what reads the interpreter's inside."""
    app = wrapped((Basket, GLOBAL))
    names = set(dir(Basket)) | set(dir(object)) | {"clear", "add.__globals__", "add/", "../Basket/add"}
    events = set(Basket.__faststate_events__)
    async with FastStateClient(app) as client:
        for name in sorted(names - events):
            answer = await client.post(f"{EVENTS}/Basket/{name}", json={})
            assert answer.status == 404, name
        assert (await app.faststate.get(Basket)).version == "0"


@pytest.mark.parametrize("name", ["Nothing", "ReactiveState", "basket", "Basket ", "__class__", "os", ""])
async def test_every_name_that_is_no_state_is_unknown(name: str) -> None:
    async with FastStateClient(wrapped((Basket, GLOBAL))) as client:
        assert (await client.post(f"{EVENTS}/{name}/add", json={})).status == 404
        answer = await client.get(f"/faststate/sse?states={name}")
        assert answer.status == 400


async def test_an_override_that_is_not_decorated_is_no_event() -> None:
    """A subclass that takes an event back would leave its door open."""

    class Hidden(Basket):
        """Takes one event back."""

        def add(self, amount: int = 1) -> None:  # type: ignore[override]  # that is the point
            """Not for pages any more."""
            self.quantity = 1000

    app = wrapped((Hidden, GLOBAL))
    async with FastStateClient(app) as client:
        assert (await client.call("Hidden/add")).status == 404
        assert (await client.call("Hidden/who")).status == 200
        assert (await app.faststate.get(Hidden)).quantity == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "FOO"])
async def test_another_method_is_refused_with_the_right_one(method: str) -> None:
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        for headers in ({}, {"datastar-request": "true"}):
            answer = await client.post(f"{EVENTS}/Basket/add", json={}, method=method, headers=headers)
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert (await app.faststate.get(Basket)).version == "0"


# -- cookies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forge",
    [
        lambda value: value[:-1] + ("A" if value[-1] != "A" else "B"),
        lambda value: ("x" if value[0] != "x" else "y") + value[1:],
        lambda value: value.replace(".", "", 1),
        lambda value: value + "A" * 5000,
        lambda value: value + "; faststate_session=" + value,
        lambda value: '"' + value + '"',
        lambda value: value.rpartition(".")[0],
        lambda value: value.rpartition(".")[0] + ".",
        lambda value: "",
        lambda value: "....",
        lambda value: "\xff\xfe.\x01",
        lambda value: "default",
    ],
)
async def test_a_cookie_that_is_not_ours_is_a_new_visitor(forge: Any) -> None:
    app = wrapped(Basket)
    async with FastStateClient(app) as victim:
        await victim.call("Basket/add")
        forged = forge(victim.cookies["faststate_session"])
        attacker = victim.another()
        answer = await attacker.call("Basket/add", headers={"cookie": f"faststate_session={forged}"})
        assert answer.signals == {"quantity": 2}
        assert "faststate_session=" in answer.headers["set-cookie"]
        assert (await victim.call("Basket/add")).signals == {"quantity": 3}


async def test_every_changed_character_of_a_cookie_makes_it_worthless() -> None:
    """Who finds a character that does not count could search for a forged cookie."""
    app = wrapped(Basket)
    async with FastStateClient(app) as client:
        await client.call("Basket/add")
        value = client.cookies["faststate_session"]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        for index in range(len(value) - 1):  # the last character of base64 has bits that mean nothing
            other = alphabet[(alphabet.find(value[index]) + 1) % 64]
            forged = f"faststate_session={value[:index]}{other}{value[index + 1 :]}"
            answer = await client.another().call("Basket/add", headers={"cookie": forged})
            assert "set-cookie" in answer.headers, index
            assert answer.signals == {"quantity": 2}


async def test_a_cookie_signed_with_another_key_is_worthless() -> None:
    async with FastStateClient(wrapped(Basket, secret_key="o" * 40)) as elsewhere:
        await elsewhere.call("Basket/add")
        foreign = elsewhere.cookies["faststate_session"]
    async with FastStateClient(wrapped(Basket)) as client:
        answer = await client.call("Basket/add", headers={"cookie": f"faststate_session={foreign}"})
        assert answer.signals == {"quantity": 2}
        assert "set-cookie" in answer.headers


async def test_the_cookie_holds_no_data_of_the_application() -> None:
    """Who holds a cookie could read what the application keeps of him."""
    async with FastStateClient(wrapped(Basket)) as client:
        await client.call("Basket/add")
        answer = await client.call("Basket/set_note", {"note": "a-very-visible-note"}, headers={"cookie": ""})
        assert "a-very-visible-note" not in answer.headers["set-cookie"]
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=Lax" in answer.headers["set-cookie"]


async def test_visitors_share_nothing() -> None:
    app = wrapped(Basket)
    async with FastStateClient(app) as first:
        others = [first.another() for _ in range(100)]
        for client in others:
            assert (await client.call("Basket/add")).signals == {"quantity": 2}
        assert len({client.cookies["faststate_session"] for client in others}) == 100


async def test_a_stream_of_one_session_does_not_bring_anothers_values() -> None:
    app = wrapped(Basket)
    async with FastStateClient(app) as one:
        two = one.another()
        await one.call("Basket/add")
        await two.call("Basket/add")
        async with one.stream("Basket") as own, two.stream("Basket") as foreign:
            for stream in (own, foreign):
                await stream.until(lambda signals: "quantity" in signals)
            await one.call("Basket/add", {"amount": 40})
            await own.until(lambda signals: signals["quantity"] == 42)
            await two.call("Basket/add", {"amount": 1})
            await foreign.until(lambda signals: signals["quantity"] == 3)
            assert "42" not in json.dumps([frame.patch for frame in foreign.frames])


@pytest.mark.parametrize("name", ["session_id", "session", "sid", "user_id", "record_id", "component_id", "key"])
async def test_no_parameter_names_anothers_session(name: str) -> None:
    """Who names another's session in a request would read and write it."""
    app = wrapped(Basket)
    async with FastStateClient(app) as victim:
        await victim.call("Basket/add", {"amount": 40})
        session_id = (await victim.call("Basket/tell", datastar=False)).headers["x-session"]
        attacker = victim.another()
        for forged in (session_id, f"session:{session_id}:Basket"):
            answer = await attacker.call("Basket/add", {name: forged}, ids={name: forged})
            assert answer.signals["quantity"] == 2
            await attacker.call("Basket/add", {"amount": -1})
            async with attacker.stream(f"Basket:{forged}") as stream:
                signals = await stream.until(lambda signals: "quantity" in signals)
                assert signals["quantity"] < 10


async def test_private_fields_are_in_no_byte_that_leaves() -> None:
    async with FastStateClient(wrapped((Basket, GLOBAL))) as client, client.stream("Basket") as stream:
        answer = await client.call("Basket/add")
        await stream.until(lambda signals: signals.get("quantity") == 2)
        assert "secret-canary" not in answer.text
        assert "secret-canary" not in json.dumps([frame.lines for frame in stream.frames])


# -- other sites -------------------------------------------------------------------------------------------------------

SITES = [None, "same-origin", "same-site", "cross-site", "none"]
ORIGINS = [None, "http://testserver", "http://evil.example", "http://blog.testserver", "null", "http://testserver:81"]
PAIRS = list(itertools.product(SITES, ORIGINS))
TYPES = ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]


def is_own(site: str | None, origin: str | None, own: str, *, is_safe_without: bool) -> bool:
    """The rule in the words of the documentation."""
    if site is not None:
        return site == "same-origin"
    return origin == own if origin is not None else is_safe_without


def headers_of(site: str | None, origin: str | None) -> dict[str, str]:
    given = {"sec-fetch-site": site, "origin": origin}
    return {name: value for name, value in given.items() if value is not None}


@pytest.mark.parametrize(("site", "origin"), PAIRS)
async def test_only_own_pages_and_programs_run_events(site: str | None, origin: str | None) -> None:
    """A page of another site would click in the visitor's name, with the visitor's cookie."""
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        own = f"http://{client._parts.netloc}"
        headers = headers_of(site, own if origin == "http://testserver" else origin)
        origin = headers.get("origin")
        for content_type in TYPES:
            before = (await app.faststate.get(Basket)).version
            page = await client.request(
                "POST", f"{EVENTS}/Basket/add", headers={**headers, "content-type": content_type}, body=b""
            )
            is_allowed = is_own(site, origin, own, is_safe_without=True)
            assert (page.status == 403) is not is_allowed, content_type
            if not is_allowed:
                assert (await app.faststate.get(Basket)).version == before


@pytest.mark.parametrize("is_datastar", [True, False])
@pytest.mark.parametrize(("site", "origin"), PAIRS)
async def test_a_link_or_an_image_of_another_site_runs_no_get_event(
    site: str | None, origin: str | None, is_datastar: bool
) -> None:
    """A link in a mail, or an image, would run an event for whoever looks at it."""
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        own = f"http://{client._parts.netloc}"
        headers = headers_of(site, own if origin == "http://testserver" else origin)
        is_allowed = is_own(site, headers.get("origin"), own, is_safe_without=is_datastar)
        if is_datastar:
            headers["datastar-request"] = "true"
        page = await client.request("GET", f"{EVENTS}/Basket/look?datastar=%7B%7D", headers=headers)
        assert (page.status == 403) is not is_allowed
        assert (await app.faststate.get(Basket)).quantity == (2 if is_allowed else 1)


@pytest.mark.parametrize(("site", "origin"), PAIRS)
async def test_another_site_opens_no_stream(site: str | None, origin: str | None) -> None:
    """A page of another site would read along what the visitor sees."""
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        own = f"http://{client._parts.netloc}"
        headers = headers_of(site, own if origin == "http://testserver" else origin)
        is_allowed = is_own(site, headers.get("origin"), own, is_safe_without=True)
        async with client.stream("Basket", headers=headers, datastar=False) as stream:
            assert stream.status == (200 if is_allowed else 403)
            assert app.faststate.hub.stream_count == (1 if is_allowed else 0)
            assert "access-control-allow-origin" not in stream.headers


async def test_a_refusal_for_another_site_is_the_same_for_every_client() -> None:
    async with FastStateClient(wrapped((Basket, GLOBAL))) as client:
        headers = {"sec-fetch-site": "cross-site"}
        for is_datastar in (True, False):
            answer = await client.call("Basket/add", headers=headers, datastar=is_datastar)
            assert answer.status == 403
            assert answer.headers["content-type"] == "application/problem+json"


async def test_a_trusted_origin_passes_and_its_neighbours_do_not() -> None:
    """Who controls a sibling subdomain or another port gets the cookie sent along, and would act as the visitor."""
    app = wrapped((Basket, GLOBAL), trusted_origins=["https://shop.example:8443"])
    async with FastStateClient(app) as client:
        for origin, status in [
            ("https://shop.example:8443", 200),
            ("https://shop.example", 403),
            ("http://shop.example:8443", 403),
            ("https://shop.example:8443.evil.example", 403),
            ("https://a.shop.example:8443", 403),
        ]:
            headers = {"origin": origin, "sec-fetch-site": "cross-site"}
            assert (await client.call("Basket/add", headers=headers)).status == status, origin


async def test_a_forged_host_does_not_make_an_origin_the_own_one() -> None:
    """A forged host would make the attacker's origin the own one."""
    app = wrapped((Basket, GLOBAL), public_origins=["https://app.example"])
    async with FastStateClient(app) as client:
        forged = {"host": "evil.example", "origin": "http://evil.example", "x-forwarded-proto": "http"}
        assert (await client.call("Basket/add", headers=forged)).status == 403
        own = {"host": "internal:8000", "origin": "https://app.example"}
        assert (await client.call("Basket/add", headers=own)).status == 200


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 40 + b"]" * 40, 400),
        (b'{"a":' * 33 + b"1" + b"}" * 33, 400),
        (b'{"details": NaN}', 400),
        (b'{"details": Infinity}', 400),
        (b"\xff\xfe{\x00}\x00", 400),
        (b'{"amount": "many"}', 422),
        (b'{"amount": 1.5}', 422),
        (b'{"amount": null}', 422),
        (b'{"amount": ' + b"9" * 5000 + b"}", (400, 422)),
        (b'{"x": "\\ud800"}', 422),
        (b'{"x": "\\udc00 and more"}', 422),
        (b'{"x": {"__proto__": {"a": 1}}}', 422),
        (b'{"\\u005f\\u005fproto__": 1}', 422),
        (b'{"x": [{"constructor": 1}]}', 422),
        (b'{"prototype": 1}', 422),
        (b" " * (1 << 20) + b"{}", 413),
    ],
)
async def test_a_body_that_no_page_sends_is_refused(body: bytes, status: int | tuple[int, ...]) -> None:
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        headers = {"content-type": "application/json"}
        page = await client.request("POST", f"{EVENTS}/Basket/add", headers=headers, body=body)
        assert page.status in (status if isinstance(status, tuple) else (status,)), page.text
        assert (await app.faststate.get(Basket)).version == "0"


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
async def test_a_declared_length_beyond_the_limit_is_refused_before_the_body(length: str) -> None:
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        headers = {"content-type": "application/json", "content-length": length}
        page = await client.request("POST", f"{EVENTS}/Basket/add", headers=headers, body=b"")
        assert page.status == 413


async def test_infinity_by_a_large_exponent_is_refused() -> None:
    class Loose(ReactiveState):
        """Takes any object."""

        details: dict[str, Any] = {}

        @event
        def put(self, details: dict[str, Any]) -> None:
            self.details = details

    app = wrapped((Loose, GLOBAL))
    async with FastStateClient(app) as client:
        headers = {"content-type": "application/json"}
        body = b'{"details": {"a": 1e999}}'
        page = await client.request("POST", f"{EVENTS}/Loose/put", headers=headers, body=body)
        assert page.status in (400, 422)
        assert (await app.faststate.get(Loose)).version == "0"


async def test_an_old_body_brings_no_old_values_back() -> None:
    """Who keeps an old request would buy at last week's price."""
    app = wrapped((Basket, GLOBAL))
    async with FastStateClient(app) as client:
        old = {"quantity": 1, "price": 0.01, "note": "old"}
        await client.call("Basket/set_note", {"note": "new"})
        await client.call("Basket/add", old)
        assert await stored(app) == {**BEFORE, "note": "new", "token": "secret-canary"}


async def test_a_repeated_login_cookie_is_read_as_none() -> None:
    """Who plants a second cookie from a subdomain would choose in whose session the visitor works."""
    config = StateConfig(scope=StateScope.USER)

    class Mine(ReactiveState):
        """Belongs to a user."""

        count: int = 0

        @event
        def add(self) -> None:
            self.count += 1

    class Door(ReactiveState):
        """Logs in."""

        @event
        async def enter(self, context: RequestContext) -> None:
            await context.login("ada")

    async with FastStateClient(wrapped((Mine, config), Door)) as client:
        await client.call("Door/enter")
        assert (await client.call("Mine/add")).signals == {"count": 1}
        value = client.cookies["faststate_session"]
        twice = {"cookie": f"faststate_session={value}; faststate_session={value}"}
        answer = await client.call("Mine/add", headers=twice)
        assert answer.error is not None
        assert answer.error["status"] == 401
