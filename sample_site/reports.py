"""What the shop has sold: only for those who may read reports."""

from fasthtml.common import FT, Button, Div, Meter, P, Span, Table, Tbody, Td, Th, Thead, Tr
from starlette.requests import Request

from faststate_asgi import Identity, ReactiveState, StateConfig, StateScope, event, state_registry

from .layout import card, frame
from .product import CATALOGUE, ProductState, every_product, price


class ReportState(ReactiveState):
    """The report's signature."""

    signed_by: str = ""

    @event
    def sign(self, identity: Identity) -> None:
        """Put one's name under the report."""
        self.signed_by = identity.user_id or ""

    @event
    def withdraw(self) -> None:
        """Take the name away again."""
        self.signed_by = ""


state_registry.register(
    ReportState,
    StateConfig(scope=StateScope.GLOBAL, namespace="report", permissions=("reports.read",), auto_persist=True),
)


async def page(req: Request, report: ReportState) -> tuple[FT, ...]:
    """Return the report; who may not read it never comes this far."""
    products = await every_product(req.scope["faststate"])
    return await frame(
        req,
        card("Stock and sales", _table(products), cls="flush"),
        card("Signature", *_signature(report)),
        title="The harbour master's report",
        letter="R",
        lead="The state of this page asks for a permission, and every way to it is checked: the page, its "
        "events and its stream. The table moves while customers buy.",
        states=(report, *products),
        code=(ReportState,),
    )


def _table(products: tuple[ProductState, ...]) -> FT:
    """Return what is left and what was sold."""
    heads = (Th(title, scope="col") for title in ("Product", "Sold", "Left", "Shelf"))
    rows = (_row(key, product) for key, product in zip(CATALOGUE, products, strict=True))
    return Div(
        Table(Thead(Tr(*heads)), Tbody(*rows)),
        cls="table",
        tabindex="0",
        role="region",
        aria_label="Stock and sales",
    )


def _row(record_id: str, product: ProductState) -> FT:
    """Return one product with its button."""
    stock = product.signal.stock
    return Tr(
        Th(product.name, Span(price(product.price_cents), cls="muted"), scope="row"),
        Td(product.sold, {"data-text": product.signal.sold}, cls="figure"),
        Td(
            Span(product.stock, {"data-text": stock}, cls="figure"),
            Meter(
                {"data-attr:value": stock},
                value=str(product.stock),
                max=str(CATALOGUE[record_id].stock),
                aria_label=f"{product.name}: how full the shelf is",
            ),
        ),
        Td(
            Button(
                "+5",
                {"data-on:click": product.actions.restock()},
                type="button",
                cls="quiet small",
                aria_label=f"Five more of {product.name}",
            )
        ),
    )


def _signature(report: ReportState) -> tuple[FT, ...]:
    """Return who signed, and the buttons."""
    signed_by = ReportState.signal.signed_by
    return (
        P(
            Span("Signed by "),
            Span(
                report.signed_by or "nobody yet",
                {"data-text": f"{signed_by} || 'nobody yet'"},
                id="signed-by",
                cls="user",
            ),
        ),
        Div(
            Button("Sign", {"data-on:click": ReportState.sign()}, type="button"),
            Button("Withdraw", {"data-on:click": ReportState.withdraw()}, type="button", cls="quiet"),
            cls="buttons start",
        ),
    )
