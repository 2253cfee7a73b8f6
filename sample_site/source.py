"""The panel that shows a page's own Python code, coloured by the standard library's tokenizer."""

import inspect
import io
import keyword
import token
import tokenize
from collections.abc import Iterator
from functools import cache

from fasthtml.common import FT, Code, Figcaption, Figure, Pre, Span

_KINDS = {token.STRING: "code-string", token.COMMENT: "code-comment", token.NUMBER: "code-number"}


def code_panel(*objects: type) -> FT:
    """Return the source of some classes, as it is running."""
    parts = [part for item in objects for part in (*_coloured(item), "\n\n")]
    return Figure(
        Figcaption("The code behind this page"),
        Pre(Code(*parts[:-1]), tabindex="0", role="region", aria_label="Python source"),
        cls="code",
    )


@cache
def _coloured(item: type) -> tuple[FT | str, ...]:
    """Return the source of ``item`` as text and coloured spans."""
    text = inspect.getsource(item).rstrip()
    lines = text.splitlines(keepends=True)
    return tuple(_spans(text, lines))


def _spans(text: str, lines: list[str]) -> Iterator[FT | str]:
    """Yield each token, and what is between two of them as it stands."""
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    done = 0
    for item in tokenize.generate_tokens(io.StringIO(text).readline):
        cls = _class_of(item)
        if cls:
            start = offsets[item.start[0] - 1] + item.start[1]
            yield text[done:start]
            yield Span(item.string, cls=cls)
            done = start + len(item.string)
    yield text[done:]


def _class_of(item: tokenize.TokenInfo) -> str:
    """Return the style of a token, or an empty text for plain ones."""
    if item.type == token.NAME and (keyword.iskeyword(item.string) or item.string == "self"):
        return "code-keyword"
    if item.type == token.OP and item.string == "@":
        return "code-keyword"
    return _KINDS.get(item.type, "")
