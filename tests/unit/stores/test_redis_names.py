"""All that Redis keeps of one state is in one slot, so that a cluster stays possible."""

from hypothesis import given
from hypothesis import strategies as st

from faststate_asgi import StateKey, StateScope
from faststate_asgi.stores.redis import channel_name, fence_name, lease_name, state_name

SLOTS = 16384
ids = st.text(min_size=1, max_size=40).filter(lambda text: len(text.encode("utf-8", "surrogatepass")) <= 256)


def slot_of(name: str) -> int:
    """Return the slot as the cluster specification says: CRC16 (XMODEM) of what is between the first braces."""
    tag, opened = name.encode(), name.find("{")
    closed = name.find("}", opened + 1)
    if opened >= 0 and closed > opened + 1:
        tag = name[opened + 1 : closed].encode()
    crc = 0
    for byte in tag:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc % SLOTS


def test_the_slot_is_the_one_of_the_specification() -> None:
    assert slot_of("123456789") == 0x31C3 % SLOTS
    assert slot_of("{user1000}.following") == slot_of("user1000")
    assert slot_of("foo{}bar") != slot_of("")


@given(ids, ids, st.sampled_from(["session", "component", "record", "user"]))
def test_state_lease_fence_and_channel_of_any_key_are_in_one_slot(own: str, other: str, scope: str) -> None:
    key = {
        "session": StateKey(StateScope.SESSION, "Item", session_id=own),
        "component": StateKey(StateScope.COMPONENT, "Item", session_id=own, component_id=other),
        "record": StateKey(StateScope.RECORD, "Item", record_id=own),
        "user": StateKey(StateScope.USER, "Item", user_id=own),
    }[scope]
    names = [state_name(key), lease_name(key), fence_name(key), channel_name(key)]
    assert len(set(names)) == 4
    assert len({slot_of(name) for name in names}) == 1
    assert all(name.count("{") == name.count("}") == 1 for name in names), "no id brings braces of its own"


def test_states_are_spread_over_the_slots() -> None:
    slots = {slot_of(state_name(StateKey(StateScope.RECORD, "Item", record_id=str(n)))) for n in range(1000)}
    assert len(slots) > 900
