"""From requests to arguments: every source, every kind of type, and what is injected."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.requests import Request

from faststate_asgi import (
    Identity,
    NestedTurnError,
    ReactiveState,
    ReadOnlyStateError,
    RequestContext,
    Signals,
    StateConfig,
    StateKey,
    StateScope,
    Writable,
    event,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, RECORD, wrapped

pytestmark = pytest.mark.anyio
EVENTS = "/faststate/events"
GOT: dict[str, Any] = {}


class Color(Enum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    """A model."""

    street: str
    number: int | None = None


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int = 0


class Other(ReactiveState):
    """Another state."""

    other: int = 5


class Taker(ReactiveState):
    """Remembers outside what its handlers got."""

    count: int = 0

    @event
    def simple(
        self, a: int, b: float = 0.5, c: bool = False, d: str = "", e: int | None = 7, f: str | None = "x"
    ) -> None:
        GOT.update(a=a, b=b, c=c, d=d, e=e, f=f)

    @event
    def rich(
        self,
        when: date,
        amount: Decimal,
        own: UUID,
        color: Color,
        mode: Literal["on", "off"],
        size: Annotated[int, Field(ge=1, le=3)],
    ) -> None:
        GOT.update(when=when, amount=amount, own=own, color=color, mode=mode, size=size)

    @event
    def nested(
        self, address: Address, point: Point, numbers: list[int], names: set[str], table: dict[str, list[int]]
    ) -> None:
        GOT.update(address=address, point=point, numbers=numbers, names=names, table=table)

    @event
    async def upload(self, title: str, file: UploadFile, more: list[UploadFile] | None = None) -> None:
        GOT.update(title=title, name=file.filename, content=await file.read(), kind=file.content_type)
        GOT.update(more=[await item.read() for item in more or []])

    @event(method="get")
    def by_get(self, a: int = 0) -> None:
        GOT.update(a=a)

    @event
    async def optional_file(self, file: UploadFile | None = None, sizes: list[int] | None = None) -> None:
        GOT.update(file=file, sizes=sizes)

    @event
    async def body(self, request: Request, a: int = 0) -> None:
        GOT.update(form=dict(await request.form()) if a else await request.json())

    @event(method="delete")
    def by_delete(self, a: int = 0, b: int = 0) -> None:
        GOT.update(a=a, b=b)

    @event(method="put")
    def by_put(self, a: int = 0) -> None:
        GOT.update(a=a)

    @event(method="patch")
    def by_patch(self, a: int = 0) -> None:
        GOT.update(a=a)

    @event("/takers/{a:int}/of/{b}")
    def by_path(self, a: int, b: str, c: str = "") -> None:
        GOT.update(a=a, b=b, c=c)

    @event
    def untyped(self, a, b=2) -> None:  # type: ignore[no-untyped-def]  # that is the point
        GOT.update(a=a, b=b)

    @event
    def injected(
        self,
        request: Request,
        identity: Identity | None,
        context: RequestContext,
        signals: Signals,
        key: StateKey,
        other: Other,
        maybe: Other | None,
        auth: str | None,
        session: Any,
        sess: Any,
        req: Any,
    ) -> None:
        GOT.update(locals())

    @event
    def join(self, other: Writable[Other], amount: int = 1) -> None:
        self.count += amount
        other.other -= amount

    @event
    def write_to_copy(self, other: Other) -> None:
        try:
            other.other = 9
        except ReadOnlyStateError as exc:
            GOT.update(error=str(exc))

    @event
    async def nest(self, context: RequestContext) -> None:
        try:
            async with context.transaction(Other):
                pass
        except NestedTurnError as exc:
            GOT.update(error=str(exc))

    @event
    async def nest_own(self, context: RequestContext) -> None:
        async with context.transaction(Taker) as same:
            same.count += 1
        self.count += 1

    @event(timeout=2)
    def nest_in_steps(self, context: RequestContext) -> Iterator[None]:
        for _ in range(2):
            try:
                with context.engine.sync.transaction(Other, session_id=context.session_id):
                    pass
            except NestedTurnError as exc:
                GOT.setdefault("errors", []).append(str(exc))
            with context.engine.sync.transaction(Taker, session_id=context.session_id) as same:
                same.count += 1
            self.count += 1
            yield

    @event
    def where(self) -> None:
        GOT.update(thread=threading.current_thread() is threading.main_thread())

    @event(inline=True)
    def where_inline(self) -> None:
        GOT.update(thread=threading.current_thread() is threading.main_thread())


@pytest.fixture(autouse=True)
def nothing_got() -> None:
    GOT.clear()


@pytest.fixture
def app() -> Any:
    return wrapped((Taker, GLOBAL), (Other, GLOBAL))


async def test_json_gives_arguments(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.call("Taker/simple", {"a": 3, "b": 2, "c": True, "d": "x", "e": None, "f": None, "zzz": 1})
    assert GOT == {"a": 3, "b": 2.0, "c": True, "d": "x", "e": None, "f": None}


async def test_defaults_stay_with_the_method(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.call("Taker/simple", {"a": 3})
    assert GOT == {"a": 3, "b": 0.5, "c": False, "d": "", "e": 7, "f": "x"}


@pytest.mark.parametrize("body", [[1], 5, True, "a"])
async def test_arguments_without_names_are_refused(app: Any, body: Any) -> None:
    """They would be left out without a word, and the event would run with its defaults."""
    async with FastStateClient(app) as client:
        sent = await client.post(f"{EVENTS}/Taker/simple", json=body, headers={"datastar-request": "false"})
        assert (sent.status, sent.json()["detail"]) == (
            400,
            'The arguments must be a JSON object, by name, as {"amount": 1}',
        )
    assert GOT == {}


async def test_an_empty_text_is_none_where_text_is_not_meant(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.call("Taker/simple", {"a": 3, "e": "", "f": ""})
        assert (GOT["e"], GOT["f"]) == (None, "")
        await client.post(f"{EVENTS}/Taker/simple", data={"a": "4", "e": "", "f": "", "c": "on"})
        assert (GOT["a"], GOT["c"], GOT["e"], GOT["f"]) == (4, True, None, "")


async def test_forms_and_queries_give_arguments(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.post(f"{EVENTS}/Taker/simple", data={"a": "3", "b": "2.5", "d": "ü & =+"})
        assert (GOT["a"], GOT["b"], GOT["d"]) == (3, 2.5, "ü & =+")
        await client.post(f"{EVENTS}/Taker/simple?a=5&d=%C3%BC", json={"a": 6, "b": 1})
        assert (GOT["a"], GOT["b"], GOT["d"]) == (5, 1.0, "ü")


@pytest.mark.parametrize("name", ["by_get", "by_delete", "by_put", "by_patch"])
async def test_every_method_gives_arguments(app: Any, name: str) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call(getattr(Taker, name), 4)
        assert answer.status == 204
    assert GOT["a"] == 4


async def test_the_method_chooses_among_events_whose_paths_overlap() -> None:
    class Crossing(ReactiveState):
        """Has paths that match the same requests."""

        @event("/crossing/{number}", method="delete")
        def drop(self, number: str) -> None:
            GOT.update(dropped=number)

        @event("/crossing/new", method="post")
        def new(self) -> None:
            GOT.update(made=True)

        @event("/crossing/{a}/{b}", method="post")
        def both(self, a: str, b: str) -> None:
            GOT.update(a=a, b=b)

        @event("/crossing/{a}/fixed", method="put")
        def fixed(self, a: str) -> None:
            GOT.update(fixed=a)

    async with FastStateClient(wrapped((Crossing, GLOBAL))) as client:
        for method, path, expected in [
            ("DELETE", "new", {"dropped": "new"}),
            ("POST", "new", {"made": True}),
            ("PUT", "1/fixed", {"fixed": "1"}),
            ("POST", "1/fixed", {"a": "1", "b": "fixed"}),
        ]:
            for _ in range(2):
                GOT.clear()
                assert (await client.request(method, f"{EVENTS}/crossing/{path}")).status == 204
                assert expected == GOT
        for path, allowed in [("new", "DELETE, POST"), ("1/fixed", "POST, PUT"), ("5", "DELETE")]:
            refused = await client.request("PATCH", f"{EVENTS}/crossing/{path}")
            assert (refused.status, refused.headers["allow"]) == (405, allowed)


async def test_the_path_wins_over_the_query_and_the_query_over_the_body(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.post(f"{EVENTS}/takers/7/of/x%20y?a=8&b=no&c=query", json={"a": 9, "b": "no", "c": "body"})
        assert GOT == {"a": 7, "b": "x y", "c": "query"}
        answer = await client.post(f"{EVENTS}/takers/seven/of/x", json={})
        assert answer.status == 404
        assert (await client.post(f"{EVENTS}/Taker/by_path", json={})).status == 404


async def test_types_are_parsed_and_checked(app: Any) -> None:
    good = {
        "when": "2024-05-06",
        "amount": "1.10",
        "own": "12345678-1234-5678-1234-567812345678",
        "color": "blue",
        "mode": "on",
        "size": 2,
    }
    async with FastStateClient(app) as client:
        await client.call("Taker/rich", good)
        assert GOT["when"] == date(2024, 5, 6)
        assert GOT["amount"] == Decimal("1.10")
        assert GOT["own"] == UUID(good["own"])
        assert GOT["color"] is Color.BLUE
        for name, bad in [("when", "x"), ("amount", "x"), ("color", "green"), ("mode", "x"), ("size", 4)]:
            GOT.clear()
            answer = await client.call("Taker/rich", {**good, name: bad})
            assert answer.error is not None
            assert (answer.error["status"], list(answer.error["fields"])) == (422, [name])
            assert GOT == {}


async def test_nested_types_come_as_json_and_in_forms(app: Any) -> None:
    value = {
        "address": {"street": "Main", "number": 1},
        "point": {"x": 1, "y": 2},
        "numbers": [1, 2],
        "names": ["a", "b"],
        "table": {"k": [1]},
    }
    expected = {
        "address": Address(street="Main", number=1),
        "point": Point(1, 2),
        "numbers": [1, 2],
        "names": {"a", "b"},
        "table": {"k": [1]},
    }
    async with FastStateClient(app) as client:
        await client.call("Taker/nested", value)
        assert expected == GOT
        GOT.clear()
        form = {name: json.dumps(item) for name, item in value.items() if name not in ("numbers", "names")}
        await client.post(f"{EVENTS}/Taker/nested", data={**form, "numbers": ["1", "2"], "names": ["a", "b"]})
        assert expected == GOT


async def test_files_arrive_with_their_names(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.post(
            f"{EVENTS}/Taker/upload",
            data={"title": "report"},
            files={"file": ("..\\..\\shell.php", b"\x00\xff" * 1000, "image/png"), "more": ("b", b"two", "x/y")},
        )
    assert GOT["title"] == "report"
    assert GOT["content"] == b"\x00\xff" * 1000
    assert GOT["more"] == [b"two"]


@pytest.mark.parametrize("limit", [{"max_file": 100}, {"max_body": 10}])
async def test_files_and_fields_beyond_the_limit_are_refused(limit: dict[str, int]) -> None:
    async with FastStateClient(wrapped((Taker, GLOBAL), (Other, GLOBAL), **limit)) as client:
        answer = await client.post(
            f"{EVENTS}/Taker/upload", data={"title": "x" * 50}, files={"file": ("a", b"y" * 200, "text/plain")}
        )
    assert answer.status == 413
    assert GOT == {}


async def test_the_texts_of_a_form_with_files_count_together() -> None:
    async with FastStateClient(wrapped((Taker, GLOBAL), (Other, GLOBAL), max_body=100)) as client:
        answer = await client.post(
            f"{EVENTS}/Taker/upload",
            data={"title": "x" * 60, "other": "y" * 60},
            files={"file": ("a", b"z" * 200, "text/plain")},
        )
    assert answer.status == 413
    assert GOT == {}


async def test_a_form_without_a_chosen_file_has_none(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.post(
            f"{EVENTS}/Taker/optional_file",
            data={"sizes": ""},
            files={"file": ("", b"", "application/octet-stream")},
        )
        assert GOT == {"file": None, "sizes": None}
        answer = await client.post(
            f"{EVENTS}/Taker/upload", data={"title": "t"}, files={"file": ("", b"", "application/octet-stream")}
        )
    assert answer.status == 422
    assert list(answer.json()["fields"]) == ["file"]


async def test_the_body_comes_before_the_signals_of_the_query(app: Any) -> None:
    address = f"{EVENTS}/Taker/by_delete?datastar=%7B%22a%22%3A1%2C%22b%22%3A2%7D"
    async with FastStateClient(app) as client:
        await client.post(address, json={"a": 5}, method="DELETE")
        assert GOT == {"a": 5, "b": 2}
        await client.post(address, data={"a": "6"}, method="DELETE")
    assert GOT == {"a": 6, "b": 2}


async def test_an_injected_request_still_has_its_body(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.post(f"{EVENTS}/Taker/body", json={"x": 1})
        assert GOT == {"form": {"x": 1}}
        await client.post(f"{EVENTS}/Taker/body", data={"a": "1", "x": "2"})
        assert GOT == {"form": {"a": "1", "x": "2"}}
        await client.post(f"{EVENTS}/Taker/body", data={"a": "1"}, files={"file": ("n", b"1", "text/plain")})
    assert GOT["form"]["file"].filename == "n"


async def test_the_client_puts_arguments_into_a_custom_path(app: Any) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call(Taker.by_path, 4, "x y", c="z")
    assert answer.status == 204
    assert GOT == {"a": 4, "b": "x y", "c": "z"}


async def test_a_missing_argument_is_named(app: Any) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call("Taker/simple", datastar=False)
    assert answer.status == 422
    assert answer.error is not None
    assert answer.error["fields"] == {"a": "Field required"}


async def test_what_a_client_sent_is_not_repeated_in_a_refusal(app: Any) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call("Taker/simple", {"a": "my-password"})
    assert "my-password" not in answer.text


async def test_arguments_without_annotations_come_as_they_are(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.call("Taker/untyped", {"a": [1, None, {"x": "y"}]})
    assert GOT == {"a": [1, None, {"x": "y"}], "b": 2}


async def test_injected_parameters_are_never_read_from_the_request() -> None:
    forged = dict.fromkeys(["request", "identity", "context", "key", "other", "maybe", "auth", "session", "req"], "x")
    app = wrapped((Taker, GLOBAL), (Other, GLOBAL), authenticate=lambda connection: Identity("ada"))
    async with FastStateClient(app) as client:
        await client.call("Taker/injected", {**forged, "signal": 4}, ids={"auth": "eve", "identity": "eve"})
    assert isinstance(GOT["request"], Request)
    assert isinstance(GOT["req"], Request)
    assert GOT["identity"] == Identity("ada")
    assert isinstance(GOT["context"], RequestContext)
    assert GOT["signals"] == {**forged, "signal": 4}
    assert GOT["key"] == StateKey(StateScope.GLOBAL, "Taker")
    assert (GOT["other"].other, GOT["other"].is_read_only) == (5, True)
    assert GOT["maybe"] is GOT["other"]
    assert GOT["auth"] == "ada"
    assert GOT["session"] == GOT["sess"] == {}


async def test_the_session_of_an_outer_middleware_is_injected() -> None:
    inner = wrapped((Taker, GLOBAL), (Other, GLOBAL))

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "session": {"seen": 1}}, receive, send)

    outer.faststate = inner.faststate  # type: ignore[attr-defined]  # the client may look for it
    async with FastStateClient(outer) as client:
        await client.call("Taker/injected")
    assert GOT["session"] == {"seen": 1}


async def test_a_joined_state_changes_with_the_event(app: Any) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call("Taker/join", {"amount": 2})
        assert answer.signals == {"count": 2, "other": 3}


class Own(ReactiveState):
    """Belongs to its owner."""

    owner: str = "ann"
    left: int = 5


class MayJoin(ReactiveState):
    """Takes other states along where the caller may."""

    count: int = 0

    @event
    def outside(self, own: Writable[Own] | None) -> None:
        self._take(own)

    @event
    def inside(self, own: Writable[Own | None]) -> None:
        self._take(own)

    @event
    async def in_steps(self, own: Writable[Own] | None) -> Any:
        self._take(own)
        yield None
        self._take(own)

    def _take(self, own: Own | None) -> None:
        self.count += 1
        if own is not None:
            own.left -= 1


@pytest.mark.parametrize(("name", "steps"), [("outside", 1), ("inside", 1), ("in_steps", 2)])
@pytest.mark.parametrize("scope", [StateScope.USER, StateScope.GLOBAL])
async def test_an_optional_state_joins_where_the_caller_may_change_it(name: str, steps: int, scope: StateScope) -> None:
    config = StateConfig(scope=scope, namespace="own", owner_field="owner")
    app = wrapped((MayJoin, GLOBAL), (Own, config), authenticate=lambda connection: connection.headers.get("x-user"))
    count = 0
    async with FastStateClient(app) as client:
        for user in ("", "bob", "ann"):
            count += steps
            answer = await client.call(f"MayJoin/{name}", headers={"x-user": user})
            joined = {"own": {"left": 5 - steps}} if user == "ann" else {}
            assert answer.signals == {"count": count, **joined}


async def test_an_optional_state_that_does_not_exist_is_none() -> None:
    class Made(ReactiveState):
        """Has to be created."""

        name: str

    class MayFind(ReactiveState):
        """Says what it found."""

        @event
        def find(self, made: Writable[Made] | None) -> str:
            return "nothing" if made is None else made.name

    app = wrapped((MayFind, GLOBAL), (Made, GLOBAL))
    async with FastStateClient(app) as client:
        assert "nothing" in (await client.call("MayFind/find")).text
        async with app.faststate.transaction(Made) as made:
            made.name = "something"
        assert "something" in (await client.call("MayFind/find")).text


async def test_a_joined_state_stays_joined_after_each_yield() -> None:
    class Steps(ReactiveState):
        """Changes two states in two steps."""

        count: int = 0

        @event
        async def go(self, other: Writable[Other]) -> Any:
            self.count = other.other = 1
            yield None
            self.count = other.other = 2
            yield None
            self.count = other.other = 3

    app = wrapped((Steps, GLOBAL), (Other, GLOBAL))
    async with FastStateClient(app) as client:
        assert (await client.call("Steps/go")).signals == {"count": 3, "other": 3}
        assert (await app.faststate.get(Other)).other == 3


async def test_a_copy_is_read_only_and_says_so(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.call("Taker/write_to_copy")
    assert "read-only" in GOT["error"]
    assert "transaction" in GOT["error"]


async def test_a_turn_inside_a_turn_is_refused_with_the_way_out(app: Any) -> None:
    async with FastStateClient(app) as client:
        async with asyncio.timeout(5):
            await client.call("Taker/nest")
        assert "Writable[Other]" in GOT["error"]
        assert (await client.call("Taker/nest_own")).signals == {"count": 2}
        assert (await client.call("Taker/nest_in_steps")).signals == {"count": 6}
        assert ["Writable[Other]" in error for error in GOT["errors"]] == [True, True]


async def test_plain_methods_run_in_a_thread_and_inline_ones_do_not(app: Any) -> None:
    async with FastStateClient(app) as client:
        await client.call("Taker/where")
        assert GOT["thread"] is False
        await client.call("Taker/where_inline")
        assert GOT["thread"] is True


async def test_the_record_id_comes_from_the_path_then_from_the_query() -> None:
    class Order(ReactiveState):
        """Named by its own parameter."""

        total: int = 0

        @event
        def add(self, amount: int = 1) -> None:
            self.total += amount

        @event("/orders/{order_id}/add")
        def add_by_path(self, amount: int = 1) -> None:
            self.total += amount

    config = StateConfig(scope=StateScope.RECORD, record_key="order_id", namespace=True, public=True)
    async with FastStateClient(wrapped((Order, config))) as client:
        assert (await client.call("Order/add", ids={"order_id": "7"})).signals == {"Order": {"7": {"total": 1}}}
        assert (await client.call("Order/add", ids={"record_id": "7"})).signals == {"Order": {"7": {"total": 2}}}
        by_path = await client.call("orders/7/add", ids={"order_id": "8"})
        assert by_path.signals == {"Order": {"7": {"total": 3}}}
        missing = await client.call("Order/add", {"order_id": "7"}, datastar=False)
        assert missing.status == 400
        assert "order_id" in missing.text


@pytest.mark.parametrize("own_id", ["x" * 257, "a\x00b", "", "a\nb"])
async def test_an_id_that_cannot_be_one_is_refused(own_id: str) -> None:
    async with FastStateClient(wrapped((Other, RECORD), (Taker, RECORD))) as client:
        answer = await client.call("Taker/where", ids={"record_id": own_id}, datastar=False)
        assert answer.status == 400


async def test_a_bound_field_may_be_named_like_something_injected() -> None:
    from faststate_asgi import Bound, ConfigurationError

    try:

        class Form(ReactiveState):
            """Names its fields as it likes."""

            auth: Bound[str] = ""
            session: Bound[str] = ""
    except ConfigurationError:
        return  # refusing the name at once is as good
    async with FastStateClient(wrapped(Form)) as client:
        assert (await client.call("Form/set_auth", {"auth": "x"})).signals == {"auth": "x"}
        assert (await client.call("Form/set_session", {"session": "y"})).signals == {"session": "y"}


def test_a_state_outside_of_a_request_is_a_plain_object() -> None:
    taker = Taker()
    taker.join(Other(), amount=3)
    assert (taker.count, taker.key, taker.version) == (3, None, "0")


def test_fixtures_stay_callable() -> None:
    assert isinstance(Taker.simple, Callable)  # type: ignore[arg-type]  # a runtime check of a protocol
