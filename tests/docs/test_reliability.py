"""Every test that the page about reliability names is there."""

import re

import pytest

from tests import services

PAGE = services.ROOT / "docs" / "reliability.md"
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE.read_text())))


@pytest.mark.parametrize("name", NAMED)
def test_a_promise_is_shown_by_a_test_that_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert (services.ROOT / path).is_file()
    assert not function or f"def {function}(" in (services.ROOT / path).read_text()


def test_every_promise_names_a_test() -> None:
    rows = [
        line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| Promise")
    ]
    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row] == []
