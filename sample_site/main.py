"""The sample site: ``uvicorn sample_site.main:app --port 5001``.

With ``FASTSTATE_DEBUG=true`` it runs as it is; elsewhere it needs a ``FASTSTATE_SECRET_KEY`` and the tables that
``python -m faststate_asgi create-tables`` makes. ``FASTSTATE_STORE`` says where its states live; the default is memory.
"""

from pathlib import Path

from fasthtml.common import FastHTML
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles

from faststate_asgi import FastStateMiddleware

from . import account, chat, contact, counter, home, job, problems, product, reports
from .layout import SecurityHeaders, head


async def fill_shelves() -> None:
    """Make the shop ready before the first visitor."""
    await product.fill_shelves(app.faststate)


site = FastHTML(
    default_hdrs=False,
    hdrs=head(),
    htmlkw={"lang": "en"},
    canonical=False,
    sess_cls=None,  # the session is FastState's, so FastHTML needs none
    secret_key="no session of FastHTML's own",  # noqa: S106 - else a file with a key is written
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
site.get("/login")(account.login_page)
site.post("/login")(account.log_in)
site.post("/logout")(account.log_out)
site.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")

app = FastStateMiddleware(site, login_url="/login")
