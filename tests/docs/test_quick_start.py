"""The quick start of the README, in an empty folder, command by command."""

import shlex
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests import services
from tests.conftest import Serve
from tests.docs.blocks import blocks_of, programs

PORT = "8000"
MAX_CURL_TIME = 28


def commands() -> list[tuple[str, str]]:
    """Return each command of the quick start with the output that the page shows for it."""
    found: list[tuple[str, str]] = []
    for block in blocks_of("README.md"):
        if block.section == "Quick start" and block.language == "console":
            first, _, output = block.text.partition("\n")
            assert first.startswith("$ "), block.place
            found.append((first.removeprefix("$ "), output))
    return found


@pytest.fixture
def site(serve: Serve, folder: Path) -> services.SiteServer:
    """The example, written by hand and started as the page says."""
    example = next(block for block in programs() if block.file_name == "app.py")
    (folder / "app.py").write_text(example.text)
    program, app, *options = shlex.split(commands()[0][0])
    assert (program, options) == ("uvicorn", ["--port", PORT])
    return serve(app, cwd=folder, env={"PYTHONPATH": str(services.ROOT)})


def run(command: str, site: services.SiteServer) -> str:
    """Run one command against the running site and return what it prints."""
    words = shlex.split(command.replace(f"http://127.0.0.1:{PORT}", site.url))
    finished = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert finished.returncode in (0, MAX_CURL_TIME), finished.stderr
    return finished.stdout


def test_every_command_prints_what_the_page_shows(site: services.SiteServer) -> None:
    page, event, refusal, stream = commands()[1:]
    assert "/faststate/sse?states=CounterState" in run(page[0], site)
    assert run(event[0], site).strip() == event[1].strip()
    assert run(refusal[0], site).strip() == refusal[1].strip()
    shown = run(stream[0], site)
    assert stream[1].strip() in shown
    assert shown.startswith("retry: ")


def test_the_folder_holds_only_what_debug_makes(site: services.SiteServer, folder: Path) -> None:
    left = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert left == {"app.py", ".faststate", ".sesskey"}
    assert (folder / ".faststate" / ".gitignore").read_text() == "*\n"


@pytest.fixture
def site_without_cdn(serve: Serve, folder: Path, datastar_bundle: Path) -> services.SiteServer:
    """The same site with the Datastar file served by itself."""
    example = next(block for block in programs() if block.file_name == "app.py")
    (folder / "app.py").write_text(example.text)
    env = {"PYTHONPATH": str(services.ROOT), "FASTSTATE_DATASTAR_URL": str(datastar_bundle)}
    return serve("app:app", cwd=folder, env=env)


@pytest.mark.browser
def test_a_click_in_one_window_moves_the_number_in_both(
    site_without_cdn: services.SiteServer, browser: Browser
) -> None:
    windows = [browser.new_context().new_page() for _ in range(2)]
    try:
        for window in windows:
            window.goto(site_without_cdn.url)
        windows[0].get_by_role("button", name="+10").click()
        for window in windows:
            expect(window.locator("h1")).to_have_text("10")
        windows[1].get_by_role("button", name="+1", exact=True).click()
        for window in windows:
            expect(window.locator("h1")).to_have_text("11")
    finally:
        for window in windows:
            window.context.close()
