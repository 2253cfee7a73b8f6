"""What makes the counted instructions fail, and what only reports."""

from benchmarks.instructions import compare, conditions, differing


def test_a_count_that_grew_by_more_than_a_tenth_is_named():
    table, grown = compare({"page": 111, "delivery": 110}, {"page": 100, "delivery": 100})
    assert grown == ["page"]
    assert "1.110" in table


def test_an_operation_without_a_record_and_one_that_shrank_pass():
    assert compare({"page": 50, "event": 10**9}, {"page": 100})[1] == []


def test_another_version_is_told_apart():
    now = conditions()
    assert differing(now, now) == []
    older = {**now, "packages": {**now["packages"], "starlette": "0.1"}}
    assert differing(now, older) == [f"starlette: 0.1 -> {now['packages']['starlette']}"]
