"""Every test that the page about security names is there, and says what an attacker would gain."""

import ast
import re
from functools import cache

import pytest

from tests import services

PAGE = services.ROOT / "docs" / "security.md"
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE.read_text())))


@cache
def docstrings(path: str) -> dict[str, str | None]:
    """Return the tests of a file, with what they say."""
    tree = ast.parse((services.ROOT / path).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name: ast.get_docstring(node) for node in functions}


@pytest.mark.parametrize("name", NAMED)
def test_a_threat_is_met_by_a_test_that_exists_and_says_what_is_at_stake(name: str) -> None:
    path, _, function = name.partition("::")
    assert (services.ROOT / path).is_file()
    text = docstrings(path)[function]
    assert text is not None
    assert len(text) > 40


def test_every_threat_names_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| Threat")]
    assert len(rows) > 45
    assert [row for row in rows if "`tests/" not in row] == []


def test_every_test_of_the_newer_files_says_what_is_at_stake() -> None:
    names = ("sessions", "limits", "secrets", "what_leaves", "doors_of_processes", "visitors", "floods", "owners")
    for name in names:
        path = f"tests/hardening/test_{name}.py"
        silent = [test for test, text in docstrings(path).items() if test.startswith("test_") and not text]
        assert silent == [], path
