"""What the shared counter promises."""

import pytest
from fasthtml.common import to_xml

from sample_site.counter import HEIGHT, KEPT, MARGIN, WIDTH, CounterState, curve_of


def test_increment_adds_what_it_is_given() -> None:
    counter = CounterState()
    counter.increment(2)
    counter.increment()
    counter.increment(-1)
    assert counter.total == 2
    assert counter.recent == [0, 2, 3, 2]


def test_only_the_last_values_are_kept() -> None:
    counter = CounterState()
    for _ in range(KEPT + 5):
        counter.increment()
    assert len(counter.recent) == KEPT
    assert counter.recent[-1] == counter.total == KEPT + 5


def test_two_counters_do_not_share_their_values() -> None:
    CounterState().increment(5)
    assert CounterState().recent == [0]


def test_the_values_behind_the_curve_stay_on_the_server() -> None:
    assert CounterState(total=4).signals() == {"counter": {"total": 4}}


@pytest.mark.parametrize("values", [[0], [5, 5, 5], [0, 10], [-3, 2**60, 7]])
def test_the_curve_stays_inside_its_frame(values: list[int]) -> None:
    markup = to_xml(curve_of(values))
    points = markup.split('points="')[1].split('"')[0].split()
    for point in points:
        x, y = map(float, point.split(","))
        assert MARGIN <= x <= WIDTH - MARGIN
        assert MARGIN <= y <= HEIGHT - MARGIN
    assert len(points) == len(values)
