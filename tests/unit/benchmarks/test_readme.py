"""The figures of the documents come from the repository's own results."""

import sys

import pytest

from benchmarks import readme, report


def test_results_that_are_kept_elsewhere_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme"])
    with pytest.raises(SystemExit, match="of the repository only"):
        readme.main()


def test_asking_for_help_writes_no_document(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["readme", "--help"])
    monkeypatch.setattr(readme, "BLOCKS", {None: {}})
    with pytest.raises(SystemExit) as ended:
        readme.main()
    assert ended.value.code == 0


def test_a_folder_for_results_is_made_with_those_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "of" / "today")
    report.write_result("question", {}, {})
    assert list((tmp_path / "of" / "today").glob("question-*.json"))
