"""The sample site: ``uvicorn sample_site.main:app --port 5001``.

With ``FASTSTATE_DEBUG=true`` it runs as it is; elsewhere it needs a ``FASTSTATE_SECRET_KEY`` and the tables that
``python -m faststate_asgi create-tables`` makes. ``FASTSTATE_STORE`` says where its states live; the default is memory.
``SAMPLE_LOGIN=fasthtml`` keeps logins in FastHTML's own session instead of FastState's; the pages are the same.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from fasthtml.common import FastHTML
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles

from faststate_asgi import FastStateMiddleware, fasthtml_session_auth

from . import account, admin, chat, contact, counter, home, job, problems, product, profile, reports
from .layout import SecurityHeaders, head


async def fill_shelves() -> None:
    """Make the shop ready before the first visitor."""
    await product.fill_shelves(app.faststate)


def session_options() -> dict[str, Any]:
    """Return what FastHTML is told about sessions: it needs none, unless it keeps the logins."""
    if os.environ.get("SAMPLE_LOGIN") != "fasthtml":
        # Without a key FastHTML would write one into a file.
        return {"sess_cls": None, "secret_key": "no session of FastHTML's own"}
    key = os.environ.get("FASTSTATE_SECRET_KEY")
    return {"secret_key": key and hashlib.sha256(f"FastHTML {key}".encode()).hexdigest()}


SESSION = session_options()
site = FastHTML(
    default_hdrs=False,
    hdrs=head(),
    htmlkw={"lang": "en"},
    canonical=False,
    **SESSION,
    exception_handlers={403: problems.not_allowed, 404: problems.not_found},
    middleware=[Middleware(SecurityHeaders)],
    on_startup=[fill_shelves],
)

site.get("/")(home.page)
site.get("/counter")(counter.page)
site.get("/chat")(chat.page)
site.get("/contact")(contact.page)
site.get("/job")(job.page)
site.get("/products")(product.shop)
site.get("/product/{record_id}")(product.page)
site.get("/reports")(reports.page)
site.get("/profile")(profile.page)
site.get("/admin")(admin.page)
site.get("/login")(account.login_page)
site.post("/login")(account.log_in)
site.post("/logout")(account.log_out)
site.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")

authenticate = None if "sess_cls" in SESSION else fasthtml_session_auth(site)
app = FastStateMiddleware(site, login_url="/login", authenticate=authenticate)
