"""Where the signals of a state are in a page."""

import pytest

from faststate_asgi import Private, ReactiveState, StateRegistry
from tests.hardening.wrapping import RECORD


class Account(ReactiveState):
    """Has a field that is a signal and one that is none."""

    balance: int = 0
    pin: Private[str] = "1234"


def test_signal_expressions_follow_the_namespace() -> None:
    registry = StateRegistry()

    class Plain(Account):
        """Flat."""

    class Product(Account):
        """Nested by its id."""

    registry.register(Plain)
    registry.register(Product, RECORD)
    assert Plain.signal.balance == "$balance"
    with pytest.raises(AttributeError, match="instance"):
        _ = Product.signal.balance
    with pytest.raises(AttributeError, match="no signal 'pin'"):
        _ = Plain.signal.pin
