"""The shop: each product is a record of its own, and everybody sees the same stock."""

from dataclasses import dataclass

from fasthtml.common import FT, A, Article, Button, Div, Img, P, Span
from pydantic import Field
from starlette.requests import Request

from faststate_asgi import (
    BadRequestError,
    FastState,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateNotFoundError,
    StateScope,
    event,
    state_registry,
)

from .layout import card, frame


@dataclass(frozen=True, slots=True)
class Item:
    """What the shop sells: what does not change."""

    name: str
    price_cents: int
    stock: int
    text: str


CATALOGUE = {
    "compass": Item("Brass compass", 8900, 12, "Points north. Every other direction is up to you."),
    "lantern": Item("Storm lantern", 4550, 7, "Burns through wind and rain, and looks fine on a desk."),
    "rope": Item("Hemp rope, 20\u00a0m", 1995, 40, "For knots that hold and knots that must come undone."),
    "barometer": Item("Ship's barometer", 14900, 3, "Tells you about the storm before the storm does."),
}


class ProductState(ReactiveState):
    """One product on the shelf, the same for all."""

    name: str = ""
    price_cents: int = 0
    stock: int = Field(0, ge=0)
    sold: int = 0

    @event
    def buy(self) -> None:
        """Take one from the shelf."""
        self.must_exist()
        if self.stock == 0:
            raise BadRequestError("Sold out. Somebody was faster.")
        self.stock -= 1
        self.sold += 1

    @event(permissions="stock.write")
    def restock(self) -> None:
        """Put five more on the shelf."""
        self.must_exist()
        self.stock += 5

    def must_exist(self) -> None:
        """Refuse products that there are not."""
        if not self.name:
            raise StateNotFoundError("No such product.")


state_registry.register(
    ProductState,
    StateConfig(scope=StateScope.RECORD, record_key="record_id", namespace="product", public=True, auto_persist=True),
)


async def fill_shelves(faststate: FastState) -> None:
    """Put the catalogue into the store, unless it is there from an earlier run."""
    for record_id, item in CATALOGUE.items():
        async with faststate.transaction(ProductState, record_id=record_id) as product:
            if not product.name:
                product.name, product.price_cents, product.stock = item.name, item.price_cents, item.stock


async def every_product(context: RequestContext) -> tuple[ProductState, ...]:
    """Return all products, in the order of the catalogue."""
    return tuple([await context.get(ProductState, record_id=record_id) for record_id in CATALOGUE])


async def shop(req: Request) -> tuple[FT, ...]:
    """Return the list of all products."""
    products = await every_product(req.scope["faststate"])
    return await frame(
        req,
        Div(*(_tile(key, product) for key, product in zip(CATALOGUE, products, strict=True)), cls="tiles"),
        title="The ship chandler",
        letter="P",
        lead="Four products, four records, one stream. Buy something in another tab and watch this shelf.",
        states=products,
    )


async def page(req: Request, record_id: str) -> tuple[FT, ...]:
    """Return the page of one product."""
    if record_id not in CATALOGUE:
        raise StateNotFoundError("There is no such product.")
    product = await ProductState.aget(req)
    return await frame(
        req,
        _offer(record_id, product),
        title=product.name,
        letter="P",
        lead=CATALOGUE[record_id].text,
        states=(product,),
        code=(ProductState,),
    )


def price(cents: int) -> str:
    """Return a price as people write it."""
    return f"€ {cents // 100}.{cents % 100:02}"


def picture(record_id: str) -> FT:
    """Return the drawing of a product; its name always stands beside it."""
    return Img(src=f"/static/products/{record_id}.svg", alt="", width="160", height="160", cls="picture")


def _tile(record_id: str, product: ProductState) -> FT:
    """Return a product in the list."""
    return Article(
        picture(record_id),
        Div(
            A(product.name, href=f"/product/{record_id}", cls="tile-link"),
            P(price(product.price_cents), cls="price"),
            _stock(product),
            cls="tile-text",
        ),
        cls="card tile",
    )


def _stock(product: ProductState) -> FT:
    """Return how many are left, kept up to date."""
    stock = product.signal.stock
    return P(
        Span(product.stock, {"data-text": stock}, cls="stock"),
        " in stock",
        {"data-class:is-out": f"{stock} == 0"},
        cls="stock-line is-out" if product.stock == 0 else "stock-line",
    )


def _offer(record_id: str, product: ProductState) -> FT:
    """Return the product with its price, its stock and the button."""
    return card(
        "On the shelf",
        Div(
            picture(record_id),
            Div(
                P(price(product.price_cents), cls="price large"),
                _stock(product),
                P(Span(product.sold, {"data-text": product.signal.sold}), " sold so far", cls="muted"),
                Button(
                    "Buy one",
                    {
                        "data-on:click": product.actions.buy(),
                        "data-attr:disabled": f"{product.signal.stock} == 0",
                    },
                    type="button",
                    disabled=product.stock == 0,
                ),
                P(A("Back to the shop", href="/products")),
                cls="offer-text",
            ),
            cls="offer",
        ),
    )
