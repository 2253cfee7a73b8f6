"""What all pages share: the head, the frame with the navigation, and the headers that keep pages safe."""

import os
from urllib.parse import urlsplit

from fasthtml.common import (
    FT,
    H1,
    H2,
    A,
    Button,
    Div,
    Footer,
    Form,
    Header,
    Link,
    Main,
    Meta,
    Nav,
    P,
    Section,
    Span,
    Title,
)
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faststate_asgi import ErrorBox, Live, ReactiveState, RequestContext, datastar_script

from .flags import FLAGS, flag
from .source import code_panel

PAGES = (
    ("/", "H", "Home"),
    ("/counter", "C", "Counter"),
    ("/chat", "K", "Chat"),
    ("/contact", "V", "Contact"),
    ("/job", "J", "Job"),
    ("/products", "P", "Shop"),
    ("/reports", "R", "Reports"),
)
DATASTAR_FOLDER = "https://cdn.jsdelivr.net/gh/starfederation/"


def head() -> tuple[FT, ...]:
    """Return what stands in the head of every page; only Datastar may come from another host."""
    return (
        Meta(charset="utf-8"),
        Meta(name="viewport", content="width=device-width, initial-scale=1"),
        Meta(name="color-scheme", content="light dark"),
        Link(rel="icon", href="/static/favicon.svg", type="image/svg+xml"),
        Link(rel="stylesheet", href="/static/site.css"),
        datastar_script(),
    )


async def frame(
    req: Request,
    *content: FT,
    title: str,
    letter: str,
    lead: str,
    states: tuple[ReactiveState, ...] = (),
    code: tuple[type, ...] = (),
    below: FT | None = None,
) -> tuple[FT, ...]:
    """Return a whole page.

    Args:
        req: the request that asks for it.
        content: what is between the heading and the code.
        title: the heading.
        letter: the page's flag.
        lead: one or two sentences below the heading.
        states: those that the page shows live, all in one stream.
        code: the classes whose source is shown beside the content.
        below: what follows over the whole width.
    """
    context: RequestContext = req.scope["faststate"]
    await context.resolve()
    return (
        Title(f"{title} · FastState"),
        A("Skip to the content", href="#content", cls="skip"),
        # Before everything that is bound: the signals have to exist when Datastar comes to it.
        Live(*states) if states else None,
        _sidebar(req.url.path, context.user),
        Main(
            _heading(title, letter, lead),
            ErrorBox(),
            Div(
                Div(*content, cls="stage"),
                code_panel(*code) if code else None,
                cls="columns" if code else "column",
            ),
            below,
            _footer(),
            id="content",
        ),
        _connection_badge() if states else None,
    )


def card(title: str, *content: FT, cls: str = "") -> FT:
    """Return a titled box."""
    return Section(H2(title), *content, cls=f"card {cls}".strip())


def _sidebar(path: str, user: str | None) -> FT:
    """Return the brand, the navigation and who is logged in."""
    return Header(
        A(flag("F", "brand-flag"), Span("FastState"), href="/", cls="brand", aria_label="FastState, home"),
        Nav(*(_link(path, *entry) for entry in PAGES), aria_label="Pages"),
        _account(path, user),
        cls="sidebar",
    )


def _link(path: str, href: str, letter: str, label: str) -> FT:
    """Return one entry of the navigation; pages of single products belong to the shop."""
    is_current = path == href or (href == "/products" and path.startswith("/product/"))
    return A(flag(letter), Span(label), href=href, aria_current="page" if is_current else None)


def _account(path: str, user: str | None) -> FT:
    """Return the way in, or who is logged in and the way out."""
    if user is None:
        return Div(
            A("Log in", href="/login", cls="account-link", aria_current="page" if path == "/login" else None),
            cls="account",
        )
    return Form(
        Span(Span("Logged in as ", cls="wide-only"), A(user, href="/profile", cls="user")),
        Button("Log out", type="submit", cls="quiet"),
        method="post",
        action="/logout",
        cls="account",
    )


def _heading(title: str, letter: str, lead: str) -> FT:
    """Return the head of a page: its flag and what that means, the title, the lead."""
    meaning = FLAGS[letter]
    return Header(
        flag(letter, "heading-flag"),
        Div(
            P(Span(meaning.name, cls="flag-name"), Span(meaning.meaning), cls="kicker"),
            H1(title),
            P(lead, cls="lead"),
        ),
        cls="heading",
    )


def _footer() -> FT:
    """Return the end of a page."""
    return Footer(P("Each page flies a flag of the International Code of Signals."))


def _connection_badge() -> FT:
    """Return the note that the stream is down; the stylesheet shows it only when that lasts."""
    return Div(
        "Connection lost, trying again…",
        {"data-class:is-lost": "!$_faststate.connected"},
        cls="connection",
        role="status",
    )


class SecurityHeaders:
    """Adds the headers that keep a page from running or embedding what is not its own.

    Args:
        app: the app whose answers get them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = {
            "content-security-policy": content_security_policy(
                os.environ.get("FASTSTATE_DATASTAR_URL", DATASTAR_FOLDER)
            ),
            "cross-origin-opener-policy": "same-origin",
            "permissions-policy": "camera=(), geolocation=(), microphone=()",
            "referrer-policy": "same-origin",
            "x-content-type-options": "nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the headers added."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def content_security_policy(datastar_url: str) -> str:
    """Return the policy of all pages: nothing inline, and scripts from here and ``datastar_url`` only."""
    # Datastar compiles the expressions in the page's attributes, which needs 'unsafe-eval'.
    scripts = ["'self'", "'unsafe-eval'"]
    if urlsplit(datastar_url).scheme in ("http", "https"):
        scripts.append(datastar_url)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(scripts)}",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        )
    )
