"""Logging in and out with plain HTML forms, which work without any script."""

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from anyio import to_thread
from fasthtml.common import FT, Button, Code, Dd, Div, Dl, Dt, Form, Input, Label, P
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from faststate_asgi import AuthorizationError, RequestContext

from .layout import card, frame

ITERATIONS = 600_000
LONGEST_INPUT = 200


@dataclass(frozen=True, slots=True)
class User:
    """A user of the demonstration; the password is known by its PBKDF2-SHA256 only."""

    salt: str
    digest: str
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


USERS = {
    "ada": User(
        "e8e8f3c9def99e5ad707081da723a588",
        "92ac101829443f613b65748eb03238f9639169c3502722e68c0692138e5f0ff1",
        ("reports.read", "stock.write"),
    ),
    "bob": User("c9469f5f35239292d734ca1847b94425", "4c555ce054f6200a223989e39948d77ad9a92257b6f5308f39f88be7fe9d2680"),
    "grace": User(
        "917c413d2a95c740b67aebaacf176bda",
        "d7af26ff55bae53f56578fd5c753673403f6df7c629373d4ed9d219faed68c3e",
        roles=("admin",),
    ),
}
NOBODY = User("00" * 16, "00" * 32)


async def login_page(req: Request) -> tuple[FT, ...]:
    """Return the page with the form."""
    return await _login_page(req, safe_next(req.query_params.get("next", "/")))


async def log_in(req: Request) -> Response | tuple[FT, ...]:
    """Check name and password, and go where the visitor wanted to go."""
    refuse_other_sites(req)
    form = {key: value for key, value in (await req.form()).items() if isinstance(value, str)}
    name, target = form.get("name", "").strip(), safe_next(form.get("next", "/"))
    user = await to_thread.run_sync(user_with_password, name, form.get("password", ""))
    if user is None:
        return await _login_page(req, target, name[:LONGEST_INPUT], "This name and password do not fit together.")
    if "session" in req.scope:
        # FastHTML keeps the login; FastState reads it by fasthtml_session_auth().
        req.session["auth"] = {"user_id": name, "permissions": user.permissions, "roles": user.roles}
    else:
        context: RequestContext = req.scope["faststate"]
        await context.login(name, permissions=user.permissions, roles=user.roles)
    return RedirectResponse(target, status_code=303)


async def log_out(req: Request) -> Response:
    """End the login, on every tab and machine that holds a copy of the cookie."""
    refuse_other_sites(req)
    if "session" in req.scope:
        req.session.clear()
    context: RequestContext = req.scope["faststate"]
    await context.logout()
    return RedirectResponse("/", status_code=303)


def user_with_password(name: str, password: str) -> User | None:
    """Return the user with this name and password; an unknown name takes as long as a wrong password."""
    user = USERS.get(name, NOBODY)
    given = password[:LONGEST_INPUT].encode("utf-8", "replace")
    digest = hashlib.pbkdf2_hmac("sha256", given, bytes.fromhex(user.salt), ITERATIONS)
    fits = hmac.compare_digest(digest, bytes.fromhex(user.digest))
    return user if fits and user is not NOBODY else None


def safe_next(target: str) -> str:
    """Return ``target`` if it is a path on this site, else the first page.

    Browsers read a backslash as a slash and skip control characters: ``/\\host`` would leave the site.
    """
    if not target.startswith("/") or target.startswith("//") or "\\" in target or not target.isprintable():
        return "/"
    parts = urlsplit(target)
    return "/" if parts.scheme or parts.netloc else target


def refuse_other_sites(req: Request) -> None:
    """Refuse a form that a page of another site sent, which could log a visitor in as somebody else."""
    site = req.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        origin = req.headers.get("origin")
        allowed = origin is None or urlsplit(origin).netloc == req.headers.get("host")
    if not allowed:
        raise AuthorizationError("This form belongs to another site.")


async def _login_page(req: Request, target: str, name: str = "", error: str = "") -> tuple[FT, ...]:
    """Return the page with the form, filled in again after a mistake."""
    return await frame(
        req,
        card("Your name, please", _form(target, name, error)),
        card("For this demonstration", _demo_users()),
        title="Log in",
        letter="L",
        lead="A plain form and a signed cookie. What you counted and wrote before stays yours.",
    )


def _form(target: str, name: str, error: str) -> FT:
    """Return the form."""
    return Form(
        Div(
            Label("Name", fr="name"),
            Input(id="name", value=name, autocomplete="username", autocapitalize="none", required=True),
            cls="field",
        ),
        Div(
            Label("Password", fr="password"),
            Input(id="password", type="password", autocomplete="current-password", required=True),
            cls="field",
        ),
        Input(type="hidden", name="next", value=target),
        P(error, cls="error", role="alert") if error else None,
        Button("Log in", type="submit"),
        method="post",
        action="/login",
        cls="form",
    )


def _demo_users() -> FT:
    """Return who there is to be."""
    return Dl(
        Dt("May read the reports"),
        Dd(Code("ada"), " with ", Code("lovelace")),
        Dt("May write the notice"),
        Dd(Code("grace"), " with ", Code("hopper")),
        Dt("May neither"),
        Dd(Code("bob"), " with ", Code("builder")),
        cls="users",
    )
