"""The figures in the documents are those of a kept result."""

import json

import pytest

from benchmarks import readme, report


@pytest.mark.parametrize("document", list(readme.BLOCKS), ids=lambda path: path.name)
def test_a_document_shows_the_newest_kept_results(document) -> None:
    assert document.read_text(encoding="utf-8") == readme.renewed(document)


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*-*.json")), ids=lambda path: path.name)
def test_a_kept_result_says_where_it_comes_from(path) -> None:
    environment = json.loads(path.read_text(encoding="utf-8"))["environment"]
    assert all(environment[name] for name in ("processor", "cores", "python", "packages", "commit", "command"))
