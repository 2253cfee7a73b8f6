"""Environments of other packages, and the wire of NiceGUI."""

import sys

import pytest

from benchmarks import foreign
from benchmarks.nicegui import first_frame, frame


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
