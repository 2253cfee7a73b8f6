"""FastAPI, Litestar, Quart and Django: the same states, record ids from their paths, and the right refusals."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Annotated, Any

import django
import litestar
import pytest
import quart
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from django.utils.functional import empty
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from faststate_asgi import Inject, ReactiveState, StateConfig, StateScope, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import RECORD, wrapped

pytestmark = pytest.mark.anyio


class Visits(ReactiveState):
    """One session's."""

    count: int = 0

    @event
    def add(self, amount: int = 1) -> None:
        self.count += amount


class Product(ReactiveState):
    """A record."""

    title: str = ""


class Account(ReactiveState):
    """Needs a login."""

    name: str = ""


def fastapi_site() -> Any:
    site = FastAPI(default_response_class=PlainTextResponse)

    @site.get("/visits")
    async def visits(visits: Annotated[Visits, Inject()]) -> Any:
        return str(visits.count)

    @site.get("/product/{record_id}")
    def product(product: Annotated[Product, Inject()]) -> Any:
        return str(product.key)

    @site.get("/account")
    async def account(account: Annotated[Account, Inject()]) -> Any:
        return account.name

    return site


def litestar_site() -> Any:
    @litestar.get("/visits")
    async def visits(request: litestar.Request[Any, Any, Any]) -> str:
        return str((await Visits.aget(request)).count)

    @litestar.get("/product/{record_id:int}", sync_to_thread=True)
    def product(request: litestar.Request[Any, Any, Any]) -> str:
        return str(Product.get(request).key)

    @litestar.get("/account")
    async def account(request: litestar.Request[Any, Any, Any]) -> str:
        return (await Account.aget(request)).name

    return litestar.Litestar([visits, product, account])


def quart_site() -> Any:
    site = quart.Quart(__name__)

    @site.get("/visits")
    async def visits() -> str:
        return str((await Visits.aget(quart.request)).count)

    @site.get("/product/<record_id>")
    async def product(record_id: str) -> str:
        return str((await Product.aget(quart.request)).key)

    @site.get("/account")
    async def account() -> str:
        return (await Account.aget(quart.request)).name

    return site


def django_site() -> Any:
    async def visits(request: Any) -> Any:
        return HttpResponse(str((await Visits.aget(request)).count))

    def product(request: Any, record_id: int) -> Any:
        return HttpResponse(str(Product.get(request).key))

    async def account(request: Any) -> Any:
        return HttpResponse((await Account.aget(request)).name)

    urls = ModuleType("faststate_django_urls")
    urls.urlpatterns = [  # type: ignore[attr-defined]  # what Django looks for
        path("visits", visits),
        path("product/<int:record_id>", product),
        path("account", account),
    ]
    sys.modules[urls.__name__] = urls
    django_settings.configure(
        ROOT_URLCONF=urls.__name__, SECRET_KEY="only for this test", ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None
    )
    django.setup()
    return get_asgi_application()


@pytest.fixture(autouse=True)
def own_django_settings() -> Iterator[None]:
    """Django has one configuration for a whole process; the one of this test ends with it."""
    before = vars(django_settings).get("_wrapped", empty)
    django_settings._wrapped = empty
    yield
    django_settings._wrapped = before


@pytest.mark.parametrize("site", [fastapi_site, litestar_site, quart_site, django_site])
async def test_states_records_and_refusals_are_the_same_everywhere(site: Callable[[], Any]) -> None:
    user = StateConfig(scope=StateScope.USER, namespace=True)
    inner = site()
    app = wrapped(Visits, (Product, RECORD), (Account, user), app=inner)
    async with FastStateClient(app) as client:
        assert (await client.get("/visits")).text == "0"
        await client.call(Visits.add, 3)
        assert (await client.get("/visits")).text == "3"
        assert (await client.get("/product/7?record_id=8")).text == "record:Product:7"
        refused = await client.get("/account")
        assert refused.status == 401
        assert "log in" in refused.text
    async with FastStateClient(wrapped((Account, user), app=inner, login_url="/login")) as client:
        page = await client.get("/account")
    assert (page.status, page.headers["location"]) == (303, "/login?next=/account")
