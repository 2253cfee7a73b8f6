"""Sites under a real server: they start, listen, and answer their first page."""

import urllib.request
from typing import Any


def page_at(url: str) -> tuple[int, str]:
    """Return status and text of a page."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.status, response.read().decode()


def test_a_site_starts_under_uvicorn_and_answers(serve: Any, read_markup: Any) -> None:
    server = serve("tests.examples.counter_site:app")
    status, text = page_at(server.url + "/")
    page = read_markup(text)
    assert status == 200
    assert page.one("h1").text == "Count: 0"
    assert page.signals == {"count": 0, "message": "Welcome to FastState!"}


def test_the_sample_site_starts_under_uvicorn_and_answers(serve: Any, read_markup: Any) -> None:
    server = serve("sample_site.main:app", env={"FASTSTATE_SECRET_KEY": "only-for-example-tests-" + "x" * 32})
    status, text = page_at(server.url + "/")
    page = read_markup(text)
    assert status == 200
    assert page.all("script", type="module")
    assert any("data-on:click" in button.attributes for button in page.all("button"))
    assert any("/faststate/sse?states=" in e.attributes.get("data-init", "") for e in page.elements)
