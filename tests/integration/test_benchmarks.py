"""Short runs of the benchmarks: each prints its table and writes its JSON and its plot."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import foreign
from tests.services import ROOT

DEADLINE_S = 100


def run(folder, name: str, *options: str, deadline_s: float = DEADLINE_S) -> tuple[str, dict]:
    """Returns what a benchmark printed and wrote."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options],
        cwd=ROOT,
        env={**os.environ, "BENCHMARK_RESULTS": str(folder)},
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = folder.glob("*.json")
    assert written.with_suffix(".svg").read_text().startswith("<svg")
    return done.stdout, json.loads(written.read_text())


def test_events_counts_every_event_of_a_user_who_may_and_names_the_floor_first(tmp_path):
    printed, result = run(tmp_path, "events", "--seconds", "0.2", "--rounds", "1", "--only", "permission")
    assert "| async, user, permission" in printed
    names = [one["variant"] for one in result["variants"]]
    assert names == ["floor", "async, user, permission", "Starlette, user, permission", "FastHTML, user, permission"]
    assert all(one["events_per_s"] > 0 and one["failures"] == 0 for one in result["variants"])
    assert [one["lost"] for one in result["variants"]] == [None, 0, None, None]
    assert result["environment"]["command"].startswith("python -m benchmarks.events --seconds 0.2")


def test_an_event_in_a_thousand_rows_is_counted_where_the_whole_list_is_answered(tmp_path):
    _, result = run(tmp_path, "events", "--seconds", "0.2", "--rounds", "1", "--only", "async, in one")
    floor, rows = result["variants"]
    assert (rows["lost"], rows["failures"]) == (0, 0)
    assert floor["of_the_floor"] == 1


def test_fan_out_reaches_every_stream_once_beside_its_rivals(tmp_path):
    _, result = run(tmp_path, "fanout", "--seconds", "0.1", "--rounds", "1", "--streams", "20")
    assert {"faststate", "sse-starlette", "Starlette + datastar_py"} <= {one["variant"] for one in result["variants"]}
    assert all(one["uneven"] == 0 and one["deliveries_per_s"] > 0 for one in result["variants"])


@pytest.mark.parametrize("name", ["pages", "actions"])
def test_a_small_cost_is_a_ratio_to_the_floor(tmp_path, name):
    printed, result = run(tmp_path, name, "--quick")
    floor, *others = result["variants"]
    assert floor["variant"] in printed
    assert floor["of_the_floor"] == 1
    assert all(one["of_the_floor"] == round(floor["cpu_us"] / one["cpu_us"], 3) for one in others)


def test_a_store_is_a_ratio_to_the_floor_and_to_memory(tmp_path):
    _, result = run(tmp_path, "stores", "--seconds", "0.2", "--rounds", "1", "--only", "sqlite")
    figures = {one["variant"]: one for one in result["variants"]}
    hot = figures["sqlite, hot key"]
    assert (hot["lost"], hot["failures"]) == (0, 0)
    assert hot["of_memory"] > 0
    assert hot["of_the_floor"] > 0
    assert (figures["memory, 32 keys"]["of_memory"], figures["floor"]["of_memory"]) == (1, None)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into another process")
@pytest.mark.parametrize("load", ["event", "broadcast"])
def test_a_profile_names_the_functions_of_the_package_and_draws_them(load):
    command = [sys.executable, "-m", "benchmarks.profile", load, "--seconds", "1", "--no-file"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| `faststate_asgi` " in done.stdout
    assert "(uvicorn/" in done.stdout
    assert "<svg" in (ROOT / ".cache" / "profiles" / f"{load}.svg").read_text()
