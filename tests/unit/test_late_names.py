"""Classes with annotations that name what is defined below them: they keep every promise of a class without."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, SecretStr

from faststate_asgi import (
    Bound,
    ConfigurationError,
    Html,
    Private,
    ReactiveState,
    StateRegistry,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped


class LateVault(ReactiveState):
    """Names the classes below."""

    number: int = 0
    keys: Private[list[LateKey]] = []
    kind: Bound[LateKind] = "a"

    @event
    def add(self, text: str) -> None:
        """Keep a secret."""
        self.keys.append(LateKey(text=text))
        self.number += 1

    @fragment(on="keys")
    def count(self) -> Html:
        """Show how many there are."""
        return Html(f"<b id='count'>{len(self.keys)}</b>")


class LaterVault(LateVault):
    """Inherits them."""


class LateKey(BaseModel):
    """Is private."""

    text: str


LateKind = Literal["a", "b"]


class LateSafe(ReactiveState):
    """Is used before anything else knows of it."""

    owner: Private[LateOwner | None] = None


class LateDial(ReactiveState):
    """Is known by its setter first."""

    kind: Bound[LateMood] = "a"


class LateKnob(ReactiveState):
    """Is known by ``setter`` first."""

    kind: Bound[LateMood] = "a"


class LateOwner(BaseModel):
    """Is private."""

    text: str


LateMood = Literal["a", "b"]


class LateSecret(ReactiveState):
    """Has a field that is refused, and one that hides it."""

    password: SecretStr = SecretStr("")
    last: LastKey | None = None


class LastKey(BaseModel):
    """Defined last."""


class LateMistake(ReactiveState):
    """Has one field that is refused, and one that would be private."""

    pins: Private[list[LastKey]] = []
    token: list[Private[LastMood]] = []


LastMood = Literal["a", "b"]


class LateNowhere(ReactiveState):
    """Names what nobody defines."""

    pin: Private[str] = ""
    other: NobodyDefinesThis | None = None  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@pytest.mark.anyio
@pytest.mark.parametrize("cls", [LateVault, LaterVault])
async def test_private_fields_with_late_names_reach_no_page(cls: type[LateVault]) -> None:
    async with FastStateClient(wrapped((cls, GLOBAL))) as client:
        answer = await client.call(f"{cls.__name__}/add", {"text": "canary"})
        async with client.stream(cls.__name__) as stream:
            frame = await stream.next()
        assert answer.signals == {"number": 1}
        assert "<b id='count'>1</b>" in answer.text
        assert "canary" not in answer.text + str(frame.lines)
        assert (await client.call(f"{cls.__name__}/set_kind", {"kind": "b"})).signals == {"kind": "b"}
        assert (await client.call(f"{cls.__name__}/set_kind", {"kind": "c"}, datastar=False)).status == 422


def test_a_plain_object_hides_private_fields_with_late_names() -> None:
    safe = LateSafe(owner=LateOwner(text="canary"))
    assert "canary" not in f"{safe!r} {safe.signals()} {safe.model_dump()}"


def test_setters_of_fields_with_late_names_are_there_before_the_class_is_used() -> None:
    assert "set_kind" in str(LateDial.set_kind())  # type: ignore[attr-defined]
    assert "set_kind" in str(LateKnob.setter("kind"))


def test_secrets_are_refused_beside_late_names_as_well() -> None:
    with pytest.raises(ConfigurationError, match="asterisks"):
        StateRegistry().register(LateSecret)


def test_a_name_that_is_missing_when_the_class_is_registered_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"'NobodyDefinesThis'.*define or import it"):
        StateRegistry().register(LateNowhere)


@pytest.mark.filterwarnings("ignore:The 'exclude' attribute")
def test_what_is_refused_once_is_not_accepted_the_next_time() -> None:
    registry = StateRegistry()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="around the whole annotation"):
            registry.register(LateMistake)
    with pytest.raises(ConfigurationError, match="around the whole annotation"):
        LateMistake().signals()
