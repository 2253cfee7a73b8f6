"""Designs of states: preferences with a fixed choice, a contact form, a cart that knows its own prices."""

from typing import Annotated, Any, Literal

import pytest
from fasthtml.common import Div
from pydantic import Field
from starlette.responses import JSONResponse

from faststate_asgi import FastStateMiddleware, ReactiveState, StateRegistry, event
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class UserPreferences(ReactiveState):
    """What a visitor likes."""

    theme: str = "light"
    language: str = "en"
    notifications: bool = True

    @event
    def update_theme(self, theme: str) -> Any:
        """Take one of three themes, and answer with an error for any other."""
        if theme not in ("light", "dark", "auto"):
            return Div("Invalid theme", cls="error")
        self.theme = theme
        return None

    @event
    def toggle_notifications(self) -> None:
        """Turn notifications on or off."""
        self.notifications = not self.notifications


class DeliveryError(Exception):
    """The message could not be delivered; its text is for the log only."""


outbox: list[tuple[str, str, str]] = []


async def deliver(name: str, email: str, message: str) -> None:
    """Put a message into the outbox; ``bounce@`` addresses fail."""
    if email.startswith("bounce@"):
        raise DeliveryError("smtp-7 refused: password=hunter2")
    outbox.append((name, email, message))


class ContactForm(ReactiveState):
    """A form that validates itself and shows that it is being sent."""

    name: str = ""
    email: str = ""
    message: str = ""
    errors: dict[str, str] = Field(default_factory=dict)
    is_submitting: bool = False

    @event
    def update_field(self, field: Literal["name", "email", "message"], value: str) -> None:
        """Change one of the three fields and forget its error."""
        setattr(self, field, value)
        self.errors.pop(field, None)

    @event
    async def validate_and_submit(self) -> Any:
        """Check everything, then send; what is shown in between is committed by the yield."""
        self.errors = self._problems()
        if self.errors:
            return
        self.is_submitting = True
        yield
        try:
            await deliver(self.name, self.email, self.message)
            self.name = self.email = self.message = ""
            self.errors = {"success": "Thank you for your message!"}
        except DeliveryError:
            self.errors = {"submit": "Your message could not be sent. Please try again."}
        finally:
            self.is_submitting = False

    def _problems(self) -> dict[str, str]:
        rules = {
            "name": (bool(self.name.strip()), "Name is required"),
            "email": ("@" in self.email, "Valid email is required"),
            "message": (len(self.message) >= 10, "Message must be at least 10 characters"),
        }
        return {field: text for field, (holds, text) in rules.items() if not holds}


CATALOGUE = {1: ("Tea", 450), 2: ("Cup", 1200)}
DISCOUNTS = {"SPRING": 500, "HUGE": 1_000_000}


class ShoppingCart(ReactiveState):
    """Prices and names come from the shop, money is whole cents, and the total is never below zero."""

    items: list[dict[str, Any]] = Field(default_factory=list)
    total: int = 0
    discount: int = 0

    @event
    def add_item(self, product_id: int, quantity: Annotated[int, Field(ge=1, le=99)] = 1) -> Any:
        """Put a product into the cart, or more of it."""
        if product_id not in CATALOGUE:
            return Div("No such product", cls="error")
        name, price = CATALOGUE[product_id]
        for item in self.items:
            if item["product_id"] == product_id:
                item["quantity"] += quantity
                break
        else:
            self.items.append({"product_id": product_id, "name": name, "price": price, "quantity": quantity})
        self._calculate_total()
        return None

    @event
    def remove_item(self, product_id: int) -> None:
        """Take a product out of the cart."""
        self.items = [item for item in self.items if item["product_id"] != product_id]
        self._calculate_total()

    @event
    def update_quantity(self, product_id: int, quantity: Annotated[int, Field(le=99)]) -> None:
        """Set how many; none or fewer removes the product."""
        if quantity <= 0:
            self.remove_item(product_id)
            return
        for item in self.items:
            if item["product_id"] == product_id:
                item["quantity"] = quantity
        self._calculate_total()

    @event
    def apply_discount(self, discount_code: str) -> Any:
        """Accept a known code."""
        if discount_code not in DISCOUNTS:
            return Div("Invalid discount code", cls="error")
        self.discount = DISCOUNTS[discount_code]
        self._calculate_total()
        return None

    def _calculate_total(self) -> None:
        subtotal = sum(item["price"] * item["quantity"] for item in self.items)
        self.total = max(0, subtotal - self.discount)


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """One address for each state that tells what is stored."""
    app, rt = new_app()
    for state_class in (UserPreferences, ContactForm, ShoppingCart):
        registry.register(state_class)

    @rt("/preferences")
    def preferences(prefs: UserPreferences) -> Any:
        return JSONResponse(prefs.signals())

    @rt("/contact")
    def contact(form: ContactForm) -> Any:
        return JSONResponse(form.signals())

    @rt("/cart")
    def show_cart(cart: ShoppingCart) -> Any:
        return JSONResponse(cart.signals())

    return wrap(app)


async def test_a_valid_theme_patches_only_the_theme(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call(UserPreferences.update_theme, "dark")).signals == {"theme": "dark"}
        stored = (await client.get("/preferences")).json()
    assert stored == {"theme": "dark", "language": "en", "notifications": True}


async def test_an_invalid_theme_changes_nothing_and_says_so(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(UserPreferences.update_theme, "pink")
        stored = (await client.get("/preferences")).json()
    assert answer.signals == {}
    (patch,) = answer.elements
    assert patch.html == '<div class="error">Invalid theme</div>'
    assert (patch.selector, patch.mode) == ("#updates", "inner")
    assert stored["theme"] == "light"


async def test_a_toggle_flips_and_flips_back(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call(UserPreferences.toggle_notifications)).signals == {"notifications": False}
        assert (await client.call(UserPreferences.toggle_notifications)).signals == {"notifications": True}


async def test_an_empty_form_shows_an_error_for_each_field(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(ContactForm.validate_and_submit)
    assert answer.signals == {
        "errors": {
            "name": "Name is required",
            "email": "Valid email is required",
            "message": "Message must be at least 10 characters",
        }
    }


async def test_changing_a_field_clears_its_error_and_keeps_the_others(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        await client.call(ContactForm.validate_and_submit)
        answer = await client.call(ContactForm.update_field, "name", "Ada")
        stored = (await client.get("/contact")).json()
    assert answer.signals["name"] == "Ada"
    assert set(answer.signals["errors"]) == {"email", "message"}
    assert set(stored["errors"]) == {"email", "message"}
    assert "null" not in answer.text


async def test_a_valid_form_is_sent_once_and_cleared(site: FastStateMiddleware, patches: Any) -> None:
    outbox.clear()
    async with FastStateClient(site) as client:
        for field, value in {"name": "Ada", "email": "ada@example.org", "message": "Hello, machine!"}.items():
            await client.call(ContactForm.update_field, field, value)
        answer = await client.call(ContactForm.validate_and_submit)
        stored = (await client.get("/contact")).json()
    assert patches(answer)[0] == {"is_submitting": True}
    assert stored == {
        "name": "",
        "email": "",
        "message": "",
        "errors": {"success": "Thank you for your message!"},
        "is_submitting": False,
    }
    assert answer.signals["is_submitting"] is False
    assert outbox == [("Ada", "ada@example.org", "Hello, machine!")]


async def test_a_failed_delivery_keeps_the_fields_and_hides_the_reason(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        for field, value in {
            "name": "Ada",
            "email": "bounce@example.org",
            "message": "Hello, machine!",
        }.items():
            await client.call(ContactForm.update_field, field, value)
        answer = await client.call(ContactForm.validate_and_submit)
        stored = (await client.get("/contact")).json()
    assert stored["errors"] == {"submit": "Your message could not be sent. Please try again."}
    assert (stored["name"], stored["is_submitting"]) == ("Ada", False)
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("field", ["errors", "is_submitting", "id", "validate_and_submit", "__class__", "version"])
async def test_a_forbidden_field_name_is_refused(site: FastStateMiddleware, field: str) -> None:
    async with FastStateClient(site) as client:
        before = (await client.get("/contact")).json()
        answer = await client.call(ContactForm.update_field, field, "x")
        assert (await client.get("/contact")).json() == before
    assert answer.error["status"] == 422
    assert "field" in answer.error["fields"]


async def test_adding_a_product_twice_sums_its_quantity(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        await client.call(ShoppingCart.add_item, 1, 2)
        await client.call(ShoppingCart.add_item, 1)
        answer = await client.call(ShoppingCart.add_item, 2)
    assert [(item["name"], item["quantity"]) for item in answer.signals["items"]] == [("Tea", 3), ("Cup", 1)]
    assert answer.signals["total"] == 3 * 450 + 1200


async def test_a_price_from_the_browser_is_ignored(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        payload = {"product_id": 1, "price": 1, "name": "Gold", "total": 0, "discount": 449}
        answer = await client.call("ShoppingCart/add_item", payload)
        stored = (await client.get("/cart")).json()
    assert answer.signals["total"] == 450
    assert stored == {
        "items": [{"product_id": 1, "name": "Tea", "price": 450, "quantity": 1}],
        "total": 450,
        "discount": 0,
    }


@pytest.mark.parametrize("quantity", [0, -3, 100])
async def test_a_quantity_out_of_range_is_refused(site: FastStateMiddleware, quantity: int) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(ShoppingCart.add_item, 1, quantity)
        assert (await client.get("/cart")).json()["items"] == []
    assert answer.error["status"] == 422
    assert "quantity" in answer.error["fields"]


@pytest.mark.parametrize("quantity", [0, -1])
async def test_setting_no_quantity_removes_the_product(site: FastStateMiddleware, quantity: int) -> None:
    async with FastStateClient(site) as client:
        await client.call(ShoppingCart.add_item, 1, 2)
        await client.call(ShoppingCart.add_item, 2)
        answer = await client.call(ShoppingCart.update_quantity, 1, quantity)
    assert [item["product_id"] for item in answer.signals["items"]] == [2]
    assert answer.signals["total"] == 1200


async def test_an_unknown_discount_code_leaves_the_discount(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        await client.call(ShoppingCart.add_item, 2)
        assert (await client.call(ShoppingCart.apply_discount, "SPRING")).signals == {
            "discount": 500,
            "total": 700,
        }
        answer = await client.call(ShoppingCart.apply_discount, "FREE")
        stored = (await client.get("/cart")).json()
    assert answer.signals == {}
    assert answer.elements[0].html == '<div class="error">Invalid discount code</div>'
    assert (stored["discount"], stored["total"]) == (500, 700)


async def test_a_discount_above_the_price_costs_nothing_and_earns_nothing(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        await client.call(ShoppingCart.add_item, 1)
        assert (await client.call(ShoppingCart.apply_discount, "HUGE")).signals["total"] == 0


async def test_a_helper_with_an_underscore_is_no_event(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call("ShoppingCart/_calculate_total", {})).status == 404
