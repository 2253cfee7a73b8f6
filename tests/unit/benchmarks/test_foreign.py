"""The packages that have an environment of their own are measured beside the floor in the same rounds."""

import sys

import pytest

from benchmarks import foreign
from benchmarks.nicegui import first_frame, frame
from tests.unit.benchmarks.test_runs import run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), [("nicegui", "NiceGUI, a click"), ("starmodel", "StarModel 0.1")])
def test_every_click_and_event_of_the_other_package_is_counted(tmp_path, name, row):
    printed, result = run(tmp_path, name, "--seconds", "0.3", "--rounds", "1", deadline_s=400)
    figures = {one["variant"]: one for one in result["variants"]}
    assert f"| {row}" in printed
    assert next(iter(figures)) == "floor"
    assert (figures[row]["failures"], figures[row]["lost"]) == (0, 0)
    assert figures[row]["events_per_s"] > 0
    assert name in result["other_packages"]


def test_what_cannot_be_installed_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match="Invalid requirement"):
        foreign.interpreter("broken", ["--no-index", "not a package"])
    assert not (tmp_path / "broken" / "installed.json").exists()


def test_what_is_installed_elsewhere_is_named():
    assert foreign.versions(sys.executable, "pytest") == {"pytest": pytest.__version__}


def test_a_frame_is_read_when_it_is_whole():
    long, short = b"x" * 300, b"\x81\x02ok"
    data = b"\x81\x7e\x01\x2c" + long + short
    assert first_frame(data[:3]) is None
    assert first_frame(data[:100]) is None
    assert first_frame(data) == (long, 304)
    assert first_frame(short) == (b"ok", 4)


def test_a_click_is_a_masked_text_frame():
    assert frame("3") == b"\x81\xfe\x00\x01\x00\x00\x00\x003"
