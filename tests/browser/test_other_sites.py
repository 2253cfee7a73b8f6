"""Pages of other origins that a visitor has open, and what they can make his browser do here: nothing."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SITE, Tabs
from tests.browser.dom import press

pytestmark = pytest.mark.browser

REFUSED = r"status of 403|Failed to fetch|blocked by CORS|ERR_BLOCKED_BY_(RESPONSE|ORB)|ERR_FAILED|Cross-Origin-Resource-Policy"
_FORM_POST = """
(url) => {
  const frame = document.createElement('iframe')
  frame.name = 'target'
  const form = document.createElement('form')
  Object.assign(form, {method: 'post', action: url, enctype: 'text/plain', target: 'target'})
  const input = document.createElement('input')
  Object.assign(input, {name: '{"amount": 1, "x": "', value: '"}'})
  form.append(input)
  document.body.append(frame, form)
  form.submit()
}
"""
_FETCH = """
(url) => fetch(url, {method: 'POST', mode: 'no-cors', credentials: 'include', body: '{"amount": 1}'})
  .then(answer => answer.type, error => 'refused')
"""
_FETCH_CORS = """
(url) => fetch(url, {method: 'POST', credentials: 'include', body: '{"amount": 1}',
                     headers: {'Datastar-Request': 'true', 'Content-Type': 'application/json'}})
  .then(answer => 'read', error => 'refused')
"""
_IMAGE = """
(url) => new Promise(resolve => {
  const image = new Image()
  image.onload = () => resolve('loaded')
  image.onerror = () => resolve('refused')
  image.src = url
})
"""
_BEACON = "(url) => String(navigator.sendBeacon(url, '{\"amount\": 1}'))"
_EVENT_SOURCE = """
(url) => new Promise(resolve => {
  const source = new EventSource(url, {withCredentials: true})
  const end = (text) => { source.close(); resolve(text) }
  source.onopen = () => end('open')
  source.onmessage = () => end('message')
  source.onerror = () => end('refused')
})
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_executes_no_event_and_reads_no_stream(
    serve: Any, site: Any, tabs: Tabs, datastar_bundle: Any, host: str
) -> None:
    """What it would gain: clicks in the visitor's name, and all that his pages show."""
    tabs.allow(REFUSED)
    other = serve(SITE, env={"FASTSTATE_DATASTAR_URL": str(datastar_bundle)})
    session = tabs.session()
    page = tabs.open(site.url, session)
    press(page, "Add")
    press(page, "Count")
    expect(page.locator("#total")).to_have_text("1")
    expect(page.locator("#count")).to_have_text("1")
    # The same request from a page of the site itself is executed, so what follows is no blank shot.
    own = tabs.open(site.url + "/attack", session, is_live=False)
    assert own.evaluate(_FETCH, site.url + "/faststate/events/Shared/add") == "basic"
    expect(page.locator("#total")).to_have_text("2")
    attacker = tabs.open(f"http://{host}:{other.port}/attack", session, is_live=False)
    _attack(attacker, site.url)
    # Whatever one of these had done would stand before this.
    press(page, "Add")
    expect(page.locator("#total")).to_have_text("3")
    expect(page.locator("#count")).to_have_text("1")
    assert session.request.get(site.url + "/total").text() == "3"


def _attack(page: Page, victim: str) -> None:
    """Tries every way that needs no permission of the other side."""
    events = f"{victim}/faststate/events"
    for path in ("Shared/add", "Tally/increment"):
        with page.expect_response(f"{events}/{path}") as answer:
            page.evaluate(_FORM_POST, f"{events}/{path}")
        assert answer.value.status == 403
        assert page.evaluate(_FETCH, f"{events}/{path}") in ("opaque", "refused")
        assert page.evaluate(_FETCH_CORS, f"{events}/{path}") == "refused"
        assert page.evaluate(_BEACON, f"{events}/{path}") == "true"
    for way in (_IMAGE, _EVENT_SOURCE):
        assert page.evaluate(way, f"{events}/Shared/bump") == "refused"
        assert page.evaluate(way, f"{victim}/faststate/sse?states=Tally,Shared") == "refused"
