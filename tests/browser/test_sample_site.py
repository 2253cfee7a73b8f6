"""The sample site, page by page: it works, it fits, it can be read, and everything in it has a name."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import Tabs
from tests.browser.dom import hacked, press, seen, wait_for_text, watch_text

pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).parent / "screenshots"
WIDTHS = (1280, 390)
PATHS = (
    "/",
    "/counter",
    "/chat",
    "/contact",
    "/job",
    "/products",
    "/product/compass",
    "/reports",
    "/profile",
    "/admin",
    "/login",
    "/nowhere",
)
MISSING = r"status of 40[34]"
MARKER = "</script><script>window.hacked = 1</script> @post('/x') $x `'\"\u2028<b>"
# Every text, its colour over the colours behind it (WCAG 2.2, 1.4.3), where opacity is multiplied in.
_CONTRAST = """
() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1)
    canvas.fillStyle = text
    canvas.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
    return [r, g, b, a / 255]
  }
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1)
  const gradient = (text) => (text.match(/rgba?\\([^)]*\\)/g) ?? []).map(rgba)
  const behind = (element, x) => {
    const layers = []
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one)
      layers.push(rgba(style.backgroundColor))
      const colours = gradient(style.backgroundImage)
      if (colours.length) layers.push(x < 240 ? colours[0] : colours.at(-1))
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1])
  }
  const luminance = (colour) => {
    const [r, g, b] = colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const bad = []
  const check = (element, colour, text) => {
    const box = element.getBoundingClientRect()
    const base = behind(element, box.left)
    const [light, dark] = [luminance(over(rgba(colour), base)), luminance(base)].sort((a, b) => b - a)
    const ratio = (light + 0.05) / (dark + 0.05)
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className} "${text.trim().slice(0, 30)}"`)
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement
    if (!node.data.trim() || !element.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue
    check(element, getComputedStyle(element).color, node.data)
  }
  for (const field of document.querySelectorAll('input:not([type=hidden]), textarea')) {
    check(field, getComputedStyle(field).color, field.value || field.id)
    if (field.placeholder) check(field, getComputedStyle(field, '::placeholder').color, field.placeholder)
  }
  return bad
}
"""
_OVERFLOW = """
() => {
  const width = document.documentElement.clientWidth
  const inScroller = (element) => {
    for (let one = element.parentElement; one && one !== document.body; one = one.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(one).overflowX)) return true
    return false
  }
  const wide = [...document.body.querySelectorAll('*')].filter(element => {
    const box = element.getBoundingClientRect()
    return box.width > 0 && box.right > width + 1 && !inScroller(element)
  })
  return [document.documentElement.scrollWidth - width, ...wide.map(e => `${e.tagName}.${e.className}`)]
}
"""


@pytest.fixture(params=["faststate"])
def sample(serve: Any, datastar_bundle: Path, request: pytest.FixtureRequest) -> Any:
    """The sample site under uvicorn; the parameter says whose session keeps the logins."""
    env = {
        "FASTSTATE_DATASTAR_URL": str(datastar_bundle),
        "FASTSTATE_SECRET_KEY": "only-for-browser-tests-" + "x" * 32,
        "SAMPLE_JOB_STEP": "0.1",
        "SAMPLE_LOGIN": request.param,
    }
    return serve("sample_site.main:app", env=env)


def _open(tabs: Tabs, url: str, context: BrowserContext | None = None) -> Page:
    """Opens a page; if it has a stream, this waits until that is open."""
    page = tabs.open(url, context, is_live=False)
    if page.locator(".connection").count():
        expect(page.locator(".connection")).not_to_have_class("connection is-lost")
    return page


def _log_in(page: Page, name: str, password: str) -> None:
    """Fills in the form of the login page and sends it."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.locator("main").get_by_role("button", name="Log in").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_can_be_read_and_names_its_controls(sample: Any, tabs: Tabs, width: int, scheme: Any) -> None:
    tabs.allow(MISSING)
    session = tabs.session(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = _open(tabs, sample.url + "/login", session)
    found = _faults(page, "/login", width, scheme)
    _log_in(page, "ada", "lovelace")
    expect(page.locator(".account .user")).to_have_text("ada")
    for path in PATHS:
        if path != "/login":
            page = _open(tabs, sample.url + path, session)
            found += _faults(page, path, width, scheme)
            page.close()
    assert found == []


def test_the_checks_of_a_page_find_what_is_wrong_with_it(sample: Any, tabs: Tabs) -> None:
    page = _open(tabs, sample.url + "/login", tabs.session(viewport={"width": 390, "height": 900}))
    page.evaluate("""() => {
      document.querySelector('.lead').style.color = '#9aa4c0'
      document.querySelector('main button').textContent = ''
      document.querySelector('.card').style.width = '500px'
    }""")
    pale, wide, nameless = _faults(page, "/spoiled", 390, "light")
    assert 'P.lead "A plain form' in pale
    assert "px too wide: ['SECTION.card'" in wide
    assert nameless == "/spoiled at 390: no name: button"


def _faults(page: Page, path: str, width: int, scheme: str) -> list[str]:
    """Takes a picture of the page and returns what is wrong with it."""
    SCREENSHOTS.mkdir(exist_ok=True)
    name = path.strip("/").replace("/", "-") or "home"
    page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{scheme}.png", full_page=True)
    overflow, *wide = page.evaluate(_OVERFLOW)
    result = [f"{path} at {width}: {text}" for text in page.evaluate(_CONTRAST)]
    if overflow > 0 or wide:
        result.append(f"{path} at {width}: {overflow} px too wide: {wide}")
    return result + [f"{path} at {width}: no name: {line}" for line in _nameless(page)]


def _nameless(page: Page) -> list[str]:
    """Returns the lines of the accessibility tree that are controls without a name."""
    roles = ("button", "link", "textbox", "checkbox", "combobox", "progressbar", "meter", "img", "slider")
    lines = [line.strip(" -") for line in page.locator("body").aria_snapshot().splitlines()]
    return [line for line in lines if line.split(" ")[0].rstrip(":") in roles and '"' not in line]


def test_the_counter_of_one_visitor_is_his_own_in_all_his_tabs(sample: Any, tabs: Tabs) -> None:
    session = tabs.session()
    first, second, stranger = (_open(tabs, sample.url, one) for one in (session, session, None))
    for _ in range(3):
        first.get_by_role("button", name="Count up").click()
    second.get_by_role("button", name="Count down").click()
    for page in (first, second):
        expect(page.locator("#count")).to_have_text("2")
    first.locator("#note").fill(MARKER.replace("\u2028", " "))
    wait_for_text(second, ".echo", MARKER.replace("\u2028", " "))
    expect(stranger.locator("#count")).to_have_text("0")
    first.reload()
    expect(first.locator("#count")).to_have_text("2")
    expect(first.locator("#note")).to_have_value(MARKER.replace("\u2028", " "))
    assert [hacked(page) for page in (first, second)] == [None, None]


def test_the_note_keeps_every_letter_that_is_typed(sample: Any, tabs: Tabs) -> None:
    session = tabs.session()
    first, second = _open(tabs, sample.url, session), _open(tabs, sample.url, session)
    text = "Fast typing, then a pause"
    first.locator("#note").press_sequentially(text[:11], delay=20)
    first.locator("#note").press_sequentially(text[11:], delay=215)  # just longer than the debounce
    wait_for_text(second, ".echo", text)
    expect(first.locator("#note")).to_have_value(text)


def test_the_note_keeps_what_is_typed_while_an_older_text_is_on_its_way(sample: Any, tabs: Tabs) -> None:
    session = tabs.session()
    first, second = _open(tabs, sample.url, session), _open(tabs, sample.url, session)
    held: list[Route] = []
    first.route("**/set_note", lambda route: route.continue_() if held else held.append(route))
    with first.expect_request("**/set_note"):
        first.locator("#note").press_sequentially("abc")
    first.locator("#note").press_sequentially("def", delay=10)
    held[0].continue_()
    wait_for_text(second, ".echo", "abcdef")
    expect(first.locator("#note")).to_have_value("abcdef")


def test_the_shared_counter_and_its_drawing_move_in_both_browsers(sample: Any, tabs: Tabs) -> None:
    ada, bob = _open(tabs, sample.url + "/counter"), _open(tabs, sample.url + "/counter")
    ada.get_by_role("button", name="+10").click()
    expect(bob.locator("#total")).to_have_text("10")
    bob.get_by_role("button", name="−1").click()
    for page in (ada, bob):
        expect(page.locator("#total")).to_have_text("9")
        expect(page.locator("#curve")).to_have_attribute("aria-label", "The last values, from 0 to 10")


def test_what_is_said_in_the_chat_arrives_as_text(sample: Any, tabs: Tabs) -> None:
    ada, bob = _open(tabs, sample.url + "/chat"), _open(tabs, sample.url + "/chat")
    ada.get_by_label("Your name").fill("Ada <i>")
    ada.get_by_role("textbox", name="Message").fill(MARKER)
    ada.get_by_role("button", name="Send").click()
    for page in (ada, bob):
        wait_for_text(page, "#messages p", MARKER)
        wait_for_text(page, "#messages .who", "Ada <i>")
        assert hacked(page) is None
    expect(ada.get_by_role("textbox", name="Message")).to_have_value("")
    bob.reload()
    wait_for_text(bob, "#messages p", MARKER)


def test_the_contact_form_shows_its_errors_and_is_emptied_when_accepted(sample: Any, tabs: Tabs) -> None:
    page = _open(tabs, sample.url + "/contact")
    send = page.get_by_role("button", name="Send")
    send.click()
    expect(page.locator("#name-error")).to_have_text("Please tell us your name.")
    expect(page.locator("#email-error")).to_have_text("Please write an address such as ada@example.org.")
    expect(page.locator("#message-error")).to_have_text("Please write at least 10 characters.")
    expect(page.locator("#name")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Your e-mail address").fill("ada@example.org")
    send.click()
    expect(page.locator("#name-error")).to_have_text("")
    page.reload()
    expect(page.get_by_label("Your name")).to_have_value("Ada")
    page.get_by_label("Your message").fill("Ahoy, is anybody there?")
    send.click()
    expect(page.locator(".success")).to_have_text("Thank you, Ada!")
    expect(page.get_by_label("Your message")).to_have_value("")


def test_the_voyage_goes_through_every_step_and_may_be_given_up(sample: Any, tabs: Tabs) -> None:
    page = _open(tabs, sample.url + "/job")
    watch_text(page, ".number [data-text]")
    page.get_by_role("button", name="Set sail").click()
    expect(page.locator("#doing")).to_have_text("Arrived.")
    assert seen(page) == [f"{number * 10}" for number in range(11)]
    page.get_by_role("button", name="Set sail").click()
    page.get_by_role("button", name="Turn back").click()
    expect(page.locator("#doing")).to_have_text("Turned back.")
    page.reload()
    expect(page.locator("#doing")).to_have_text("Turned back.")


def test_the_last_piece_is_sold_once_and_everybody_sees_it(sample: Any, tabs: Tabs) -> None:
    ada, bob = _open(tabs, sample.url + "/product/barometer"), _open(tabs, sample.url + "/product/barometer")
    shelf = _open(tabs, sample.url + "/products")
    expect(ada.locator(".stock")).to_have_text("3")
    press(ada, "Buy one", 2)
    press(bob, "Buy one", 2)
    for page in (ada, bob):
        expect(page.locator(".stock")).to_have_text("0")
        expect(page.get_by_role("button", name="Buy one")).to_be_disabled()
    expect(shelf.locator(".tile", has_text="Ship's barometer").locator(".stock")).to_have_text("0")


BOTH_LOGINS = pytest.mark.parametrize("sample", ["faststate", "fasthtml"], indirect=True)


@BOTH_LOGINS
def test_reports_are_for_those_who_may_read_them(sample: Any, tabs: Tabs) -> None:
    tabs.allow(MISSING)
    session = tabs.session()
    page = _open(tabs, sample.url + "/reports", session)
    expect(page).to_have_url(sample.url + "/login?next=/reports")
    _log_in(page, "bob", "wrong")
    expect(page.get_by_role("alert").filter(visible=True)).to_have_text("This name and password do not fit together.")
    _log_in(page, "bob", "builder")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not for you")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(sample.url + "/")
    page.goto(sample.url + "/login?next=/reports")
    _log_in(page, "ada", "lovelace")
    expect(page).to_have_url(sample.url + "/reports")
    page.get_by_role("button", name="Sign").click()
    expect(page.locator("#signed-by")).to_have_text("ada")
    page.get_by_role("button", name="Five more of Storm lantern").click()
    expect(page.get_by_role("row", name="Storm lantern").locator(".figure").last).to_have_text("12")


@BOTH_LOGINS
def test_a_profile_is_a_users_own_and_the_notice_is_written_by_administrators(sample: Any, tabs: Tabs) -> None:
    tabs.allow(MISSING)
    ada, ada_too, grace = tabs.session(), tabs.session(), tabs.session()
    opened = []
    for session, name, password in ((ada, "ada", "lovelace"), (ada_too, "ada", "lovelace"), (grace, "grace", "hopper")):
        page = _open(tabs, sample.url + "/profile", session)
        expect(page).to_have_url(sample.url + "/login?next=/profile")
        _log_in(page, name, password)
        expect(page).to_have_url(sample.url + "/profile")
        expect(page.locator(".connection")).not_to_have_class("connection is-lost")
        opened.append(page)
    first, second, other = opened
    first.get_by_label("Call me").fill(MARKER[:40])
    first.get_by_role("button", name="Save").click()
    for page in (first, second):
        wait_for_text(page, "#called", MARKER[:40])
    expect(other.locator("#called")).to_have_text("sailor")
    refused = _open(tabs, sample.url + "/admin", ada)
    expect(refused.get_by_role("heading", level=1)).to_have_text("Not for you")
    office = _open(tabs, sample.url + "/admin", grace)
    office.get_by_label("Notice").fill("High tide at six")
    office.get_by_role("button", name="Publish").click()
    for page in (first, second, other, office):
        expect(page.locator("#notice")).to_have_text("High tide at six")
    assert [hacked(page) for page in (first, second, other, office)] == [None] * 4


@BOTH_LOGINS
def test_logging_out_in_one_tab_ends_the_other_tabs_stream(sample: Any, tabs: Tabs) -> None:
    tabs.allow(MISSING)
    session = tabs.session()
    page = _open(tabs, sample.url + "/login?next=/reports", session)
    _log_in(page, "ada", "lovelace")
    expect(page).to_have_url(sample.url + "/reports")
    expect(page.locator(".connection")).not_to_have_class("connection is-lost")
    other = _open(tabs, sample.url + "/", session)
    other.get_by_role("button", name="Log out").click()
    expect(other.get_by_role("link", name="Log in")).to_be_visible()
    expect(page.locator(".connection")).to_have_class("connection is-lost")
    expect(page.locator("#faststate-error")).to_be_visible()
    reports = _open(tabs, sample.url + "/reports", session)
    expect(reports).to_have_url(sample.url + "/login?next=/reports")
