"""Plans of registered classes: what cannot be kept has none, and new states are made from what has a default."""

import pytest
from pydantic import BaseModel, Field, PrivateAttr, create_model

from faststate_asgi import ConfigurationError, InvalidStateError, ReactiveState, StateRegistry
from tests.hardening.wrapping import RECORD, wrapped


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            create_model("Extra", __base__=type("Base", (ReactiveState,), {"model_config": {"extra": "allow"}})),
            "extra=",
        ),
        (create_model("Excluding", __base__=ReactiveState, a=(int, Field(0, exclude_if=bool))), "exclude_if"),
        (create_model("Typed", __base__=ReactiveState, a=(type[BaseModel], BaseModel)), "cannot be stored"),
        (create_model("Groß", __base__=ReactiveState, a=(int, 0)), "name="),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_a_class_that_cannot_be_kept_is_refused(state: type[ReactiveState], message: str) -> None:
    registry = StateRegistry()
    with pytest.raises(ConfigurationError, match=message):
        registry.register(state)
    assert state not in registry


class Order(ReactiveState):
    """Has a required field beside others of every kind."""

    label: str
    copies: str = Field(default_factory=lambda data: f"{data['label']}!")
    items: list[int] = []
    total: int = 0
    _seen: dict[str, int] = PrivateAttr(default_factory=dict)
    _limit: int = 3
    _unset: int


class Only(ReactiveState):
    """Has one plain field, which is required, and one that is not plain."""

    label: str
    items: list[int] = []


class Second(ReactiveState):
    """Has one plain field, and one that is not plain and required."""

    total: int = 0
    items: list[int]


@pytest.mark.anyio
async def test_a_state_with_required_fields_is_made_in_a_transaction() -> None:
    app = wrapped(*((cls, RECORD) for cls in (Order, Only, Second)))
    async with app.faststate as engine:
        for cls, field in ((Order, "label"), (Only, "label"), (Second, "items")):
            with pytest.raises(InvalidStateError, match=rf"{cls.__name__}.{field}: Field required"):
                async with engine.transaction(cls, record_id="1"):
                    """Leave the required field unset."""
        async with engine.transaction(Order, record_id="1") as order:
            order._seen["a"] = order._limit
            assert not hasattr(order, "_unset")
            order.label = "first"
        async with engine.transaction(Only, record_id="1") as only:
            only.label = "first"
        async with engine.transaction(Second, record_id="1") as second:
            second.items = [1]
        stored = await engine.get(Order, record_id="1")
        assert (stored.label, stored.copies, stored.items, stored._limit) == ("first", "first!", [], 3)
        assert (await engine.get(Only, record_id="1")).label == "first"
        assert (await engine.get(Second, record_id="1")).items == [1]
