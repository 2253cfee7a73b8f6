"""The tables of the documentation say what the package has."""

import re
from dataclasses import fields

import pytest

import faststate_asgi
from faststate_asgi import FastStateError, Settings, StateScope
from faststate_asgi.settings import DATASTAR_CDN
from tests import services
from tests.docs.blocks import PAGES, section_text, table_rows

GLOSSARY = (
    "state", "key", "scope", "event", "action", "turn", "lease", "fence", "version", "snapshot", "patch", "fragment",
    "frame", "stream", "hub", "store", "transport", "identity", "session",
)  # fmt: skip
UNITS = {"s": 1, "days": 86400, "MiB": 1 << 20, "": 1}


def names_in(text: str) -> set[str]:
    """Return what stands alone between back-ticks."""
    return set(re.findall(r"`([\w.]+)`", text))


def default_in(cell: str) -> object:
    """Return the value that a cell of the settings table means."""
    number = re.fullmatch(r"(\d+)(?: (s|days|MiB))?", cell)
    if number:
        return int(number[1]) * UNITS[number[2] or ""]
    words = {"none": None, "true": True, "false": False, "the pinned CDN address": DATASTAR_CDN}
    return words[cell] if cell in words else cell.strip("`")


def test_the_settings_table_has_every_setting_in_its_order() -> None:
    named = [row[0].strip("`") for row in table_rows("README.md", "Settings")]
    assert named == [item.name for item in fields(Settings)]


@pytest.mark.parametrize("row", table_rows("README.md", "Settings"), ids=lambda row: row[0].strip("`"))
def test_the_default_of_a_setting_is_right(row: list[str]) -> None:
    value = getattr(Settings(), row[0].strip("`"))
    assert default_in(row[1]) == (None if value == () else value)
    assert row[2].endswith((".", "`.")), "a meaning is a sentence"


def test_the_glossary_has_every_word() -> None:
    assert [row[0] for row in table_rows("README.md", "Glossary")] == list(GLOSSARY)


def test_the_tables_of_public_names_are_complete() -> None:
    assert names_in(section_text("README.md", "Public names")) - {"faststate_asgi", "timeout"} == set(
        faststate_asgi.__all__
    )


def test_the_errors_have_the_status_that_the_table_says() -> None:
    rows = [row for row in table_rows("README.md", "Public names") if row[0].endswith("Error`")]
    assert rows
    for name, status, _ in rows:
        error: type[FastStateError] = getattr(faststate_asgi, name.strip("`"))
        assert error.status == int(status), name


def test_the_table_of_scopes_is_complete() -> None:
    scopes = [re.findall(r"StateScope\.(\w+)", row[0])[0] for row in table_rows("README.md", "States and scopes")]
    assert scopes == [scope.name for scope in StateScope]


def test_the_architecture_names_every_module() -> None:
    package = services.ROOT / "faststate_asgi"
    there = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    named = {row[0].strip("`") for row in table_rows("docs/architecture.md", "Modules")}
    assert there | folders <= named, "a module is missing in the table"
    assert named <= there | folders | {"__main__.py"}, "the table names a module that is gone"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    here = services.ROOT / page
    text = re.sub(r"```.*?```", "", here.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = here if not path else here.parent / path
        assert other.is_file(), target
        headings = re.findall(r"^#+ (.+)$", other.read_text(), re.M)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


def test_every_message_in_the_troubleshooting_is_one_of_ours() -> None:
    sources = "".join(path.read_text() for path in (services.ROOT / "faststate_asgi").rglob("*.py"))
    for message, _ in table_rows("docs/troubleshooting.md", "Exceptions"):
        assert message.strip("`").replace("...", "").strip() in sources, message
