"""What the shop promises."""

import pytest
from pydantic import ValidationError

from faststate_asgi import BadRequestError, StateNotFoundError
from sample_site.product import CATALOGUE, ProductState, price


def test_buying_moves_one_from_the_shelf() -> None:
    product = ProductState(name="Lantern", price_cents=4550, stock=2)
    product.buy()
    assert (product.stock, product.sold) == (1, 1)


def test_what_is_sold_out_cannot_be_bought() -> None:
    product = ProductState(name="Lantern", stock=1)
    product.buy()
    with pytest.raises(BadRequestError, match="Sold out"):
        product.buy()
    assert (product.stock, product.sold) == (0, 1)


def test_restocking_puts_five_on_the_shelf() -> None:
    product = ProductState(name="Lantern", stock=0)
    product.restock()
    assert product.stock == 5


def test_an_unknown_product_can_be_neither_bought_nor_restocked() -> None:
    product = ProductState()
    for change in (product.buy, product.restock):
        with pytest.raises(StateNotFoundError):
            change()
    assert product == ProductState()


def test_a_stock_below_nothing_is_refused() -> None:
    with pytest.raises(ValidationError):
        ProductState(name="Lantern", stock=-1)


@pytest.mark.parametrize(("cents", "text"), [(0, "€ 0.00"), (5, "€ 0.05"), (1995, "€ 19.95")])
def test_prices_have_two_decimals(cents: int, text: str) -> None:
    assert price(cents) == text


def test_the_catalogue_starts_with_something_to_sell() -> None:
    assert all(item.stock > 0 and item.price_cents > 0 and item.name for item in CATALOGUE.values())
