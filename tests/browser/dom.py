"""What tests read out of a page, exactly: no trimming and no folding of spaces."""

from typing import Any

from playwright.sync_api import Page

_WATCH = """
(selector) => {
  const element = document.querySelector(selector)
  window.seen = [element.textContent]
  new MutationObserver(() => {
    if (window.seen.at(-1) !== element.textContent) window.seen.push(element.textContent)
  }).observe(element, {childList: true, characterData: true, subtree: true})
}
"""
_WATCH_ANSWERS = """
() => {
  window.finished = 0
  document.addEventListener('datastar-fetch', (event) => {
    if (event.detail.type === 'finished' && ['BUTTON', 'FORM'].includes(event.detail.el.tagName)) window.finished += 1
  })
}
"""

_WATCH_WRITES = """
(selector) => {
  const element = document.querySelector(selector)
  const {get, set} = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(element), 'value')
  window.overwritten = []
  Object.defineProperty(element, 'value', {
    get() { return get.call(this) },
    set(value) {
      if (value !== get.call(this)) window.overwritten.push([get.call(this), value])
      set.call(this, value)
    }
  })
}
"""


def watch_writes(page: Page, selector: str) -> None:
    """Records each time that a script puts another text into a field than the one that stands there."""
    page.evaluate(_WATCH_WRITES, selector)


def overwritten(page: Page) -> list[list[str]]:
    """Returns what the watched field held and what it was overwritten with, in order."""
    texts: list[list[str]] = page.evaluate("() => window.overwritten")
    return texts


def wait_for_text(page: Page, selector: str, text: str) -> None:
    """Returns once the element's text is `text`, to the last character."""
    page.wait_for_function("([s, t]) => document.querySelector(s)?.textContent === t", arg=[selector, text])


def press(page: Page, name: str, times: int = 1) -> None:
    """Clicks a button in one go, `times` times without any pause."""
    page.evaluate(
        "([name, times]) => { const all = [...document.querySelectorAll('button')];"
        "const one = all.find(b => b.textContent === name); for (let i = 0; i < times; i++) one.click() }",
        [name, times],
    )


def watch_text(page: Page, selector: str) -> None:
    """Records every text that the element shows from now on."""
    page.evaluate(_WATCH, selector)


def watch_signal(page: Page, name: str) -> None:
    """Records every value of a signal from now on, also those that are gone before anything is painted."""
    page.evaluate(
        "(name) => { const e = document.createElement('i');"
        "e.setAttribute('data-effect', `(window.effects ??= []).push($${name})`); document.body.append(e) }",
        name,
    )
    page.wait_for_function("() => window.effects?.length")


def values(page: Page) -> list[Any]:
    """Returns the values that the watched signal has had, in order."""
    found: list[Any] = page.evaluate("() => window.effects")
    return found


def seen(page: Page) -> list[str]:
    """Returns what the watched element has shown, in order."""
    texts: list[str] = page.evaluate("() => window.seen")
    return texts


def count_answers(page: Page) -> None:
    """Counts the actions of buttons and forms whose answers have been applied from now on."""
    page.evaluate(_WATCH_ANSWERS)


def wait_for_answers(page: Page, count: int) -> None:
    """Returns once that many actions of buttons and forms are finished."""
    page.wait_for_function("(count) => window.finished >= count", arg=count)


def reopen(page: Page) -> None:
    """Lets the page open its stream again at once, without waiting for its turn to come back."""
    page.evaluate(
        "() => document.querySelector('[id^=faststate-live]').dispatchEvent(new CustomEvent('faststate-open'))"
    )


def hacked(page: Page) -> Any:
    """Returns what a marker script would have set; None when none ran."""
    return page.evaluate("() => window.hacked ?? null")
