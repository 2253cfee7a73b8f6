"""Two releases of an app side by side on one store, as during a deploy: neither loses what the other one stores."""

import asyncio
from pathlib import Path

import pytest

from faststate_asgi import (
    FastState,
    Private,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    StoreUnavailableError,
)
from tests.apps.shared_clients import STORES, store_of

pytestmark = pytest.mark.anyio
TIMES = [60, pytest.param(1000, marks=[pytest.mark.full, pytest.mark.timeout(300)])]


class OldOrder(ReactiveState):
    """The order of the release that runs now."""

    lines: int = 0
    coupon: str = ""
    by_old: int = 0


class NewOrder(ReactiveState):
    """The next release lost a field and has two new ones."""

    lines: int = 0
    by_new: int = 0
    gift: dict[str, int] = {}
    secret: Private[str] = ""


class RetypedOrder(ReactiveState):
    """A release after that, whose lines are a list."""

    lines: list[str] = []


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    return store_of(request, tmp_path)


def release(url: str, cls: type[ReactiveState], version: int = 1, **config: object) -> FastState:
    """Return one release's engine; the class is called Order in all of them."""
    registry = StateRegistry()
    settings = StateConfig(scope=StateScope.GLOBAL, name="Order", schema_version=version, **config)  # type: ignore[arg-type]
    registry.register(cls, settings)
    return FastState(registry=registry, store=url, debug=True)


@pytest.mark.parametrize("times", TIMES)
async def test_old_and_new_processes_take_turns_and_lose_no_field(store_url: str, times: int) -> None:
    async with release(store_url, OldOrder) as old, release(store_url, NewOrder) as new:
        async with old.transaction(OldOrder) as order:
            order.coupon = "from the old one"
        async with new.transaction(NewOrder) as order:
            order.secret = "from the new one"

        async def work_old() -> None:
            for _ in range(times // 2):
                async with old.transaction(OldOrder) as order:
                    order.lines += 1
                    order.by_old += 1

        async def work_new() -> None:
            for number in range(times // 2):
                async with new.transaction(NewOrder) as order:
                    order.lines += 1
                    order.by_new += 1
                    order.gift[str(number % 7)] = number

        await asyncio.gather(work_old(), work_new())
        seen_by_old, seen_by_new = await old.get(OldOrder), await new.get(NewOrder)
        assert (seen_by_old.lines, seen_by_old.by_old, seen_by_old.coupon) == (times, times // 2, "from the old one")
        assert (seen_by_new.lines, seen_by_new.by_new, seen_by_new.secret) == (times, times // 2, "from the new one")
        assert len(seen_by_new.gift) == 7


async def test_a_state_that_was_upgraded_fails_alone_in_the_older_release(store_url: str) -> None:
    def upgrade(data: dict[str, object], from_version: int) -> dict[str, object]:
        assert from_version == 1
        return {"lines": ["?"] * int(str(data["lines"]))}

    async with release(store_url, OldOrder) as old, release(store_url, RetypedOrder, 2, upgrade=upgrade) as new:
        async with old.transaction(OldOrder) as order:
            order.lines = 2
        assert (await new.get(RetypedOrder)).lines == ["?", "?"]
        async with new.transaction(RetypedOrder) as order:
            order.lines.append("lamp")
        assert (await new.get(RetypedOrder)).lines == ["?", "?", "lamp"]
        with pytest.raises(StoreUnavailableError):
            await old.get(OldOrder)
        with pytest.raises(Exception, match=r"(?i)order|valid"):
            async with old.transaction(OldOrder) as order:
                order.lines = 0
        assert (await new.get(RetypedOrder)).lines == ["?", "?", "lamp"], "the older release did not overwrite it"
