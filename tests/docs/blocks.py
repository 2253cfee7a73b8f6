"""The code blocks of the documentation, and a way to run each as its reader would.

The words after the language say what a block is: a file name makes it a whole program, `setup` is put before every
fragment of its page, `output` is what the program before it prints, and `needs=` names a package that it imports.
"""

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

from tests import services

PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((services.ROOT / "docs").glob("*.md"))))
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands and what its first line says."""

    page: str
    section: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        """The place, as an editor opens it."""
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The name of the program's file; None for a fragment."""
        return next((word for word in self.words if word.endswith(".py")), None)

    @property
    def is_fragment(self) -> bool:
        """Whether the block is Python that needs its page's setup."""
        return self.language == "python" and self.file_name is None and "setup" not in self.words

    @property
    def packages(self) -> list[str]:
        """What the block imports beyond the package's own needs."""
        return [word.removeprefix("needs=") for word in self.words if word.startswith("needs=")]

    def code(self) -> CodeType:
        """Return the block compiled, with `await` allowed outside of functions; lines are those of the page."""
        source = "\n" * self.line + self.text
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(source, str(services.ROOT / self.page), "exec", flags=flags)
        return code

    def run_in(self, namespace: dict[str, Any]) -> None:
        """Run the block; where it awaits, on an event loop of its own."""
        code = self.code()
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, namespace))
        else:
            exec(code, namespace)


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page in their order."""
    return list(_read(page, (services.ROOT / page).read_text().split("\n")))


def _read(page: str, lines: list[str]) -> Iterator[Block]:
    section, start, inside, head = "", 0, list[str](), ""
    indent: str | None = None
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if indent is None and fence:
            indent, head, start, inside = fence["indent"], fence["info"].strip(), number, []
        elif indent is not None and fence and not fence["info"].strip():
            language, *words = head.split() or [""]
            yield Block(page, section, start, language, tuple(words), "\n".join(inside) + "\n")
            indent = None
        elif indent is not None:
            inside.append(line.removeprefix(indent))
        elif line.startswith("## "):
            section = line.removeprefix("## ").strip()
    assert indent is None, f"{page}:{start}: this block has no end"


def with_packages() -> list[Block]:
    """Return the fragments that import more than the package's own needs."""
    return [block for page in PAGES for block in blocks_of(page) if block.is_fragment and block.packages]


def programs() -> list[Block]:
    """Return all blocks that are whole programs."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == "python" and block.file_name]


def section_text(page: str, section: str) -> str:
    """Return the text of one section without its heading."""
    text = (services.ROOT / page).read_text()
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found is not None, f"{page} has no section {section!r}"
    return found[1]


def table_rows(page: str, section: str) -> list[list[str]]:
    """Return the rows of all tables of a section, heads and rulers left out."""
    lines = section_text(page, section).splitlines()
    tables = [i for i, line in enumerate(lines) if re.fullmatch(r"\|(-+\|)+", line)]
    rows: list[list[str]] = []
    for ruler in tables:
        for line in lines[ruler + 1 :]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
