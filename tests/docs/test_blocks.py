"""Every Python block of the documentation runs as it stands."""

import ast
import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faststate_asgi.testing import FastStateClient
from tests import services
from tests.docs.blocks import PAGES, Block, blocks_of, programs, with_packages

KNOWN_WORDS = frozenset({"setup", "output"})


def ensure_installed(block: Block) -> None:
    """Skip where a package is missing that the block imports; in CI that fails."""
    for package in block.packages:
        services.require(package, importlib.util.find_spec(package) is not None)


def run_program(folder: Path, block: Block, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Write a program into an empty folder and run it there."""
    assert block.file_name is not None
    (folder / block.file_name).write_text(block.text)
    environment = {**os.environ, "PYTHONPATH": str(services.ROOT)}
    command = [sys.executable, *arguments, block.file_name]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_can_be_read(page: str) -> None:
    for block in blocks_of(page):
        assert block.language, f"{block.place}: say which language this is"
        unknown = [
            w for w in block.words if w not in KNOWN_WORDS and not w.startswith("needs=") and w != block.file_name
        ]
        assert not unknown, f"{block.place}: unknown words {unknown}"
        if block.language == "python":
            block.code()


def setup_of(page: str) -> list[Block]:
    """Return what stands before every fragment of a page."""
    return [block for block in blocks_of(page) if "setup" in block.words]


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.is_fragment for b in blocks_of(page))])
def test_the_fragments_of_a_page_run_from_top_to_bottom(page: str, namespace: dict[str, Any]) -> None:
    for block in [*setup_of(page), *(b for b in blocks_of(page) if b.is_fragment and not b.packages)]:
        block.run_in(namespace)


@pytest.mark.parametrize("block", with_packages(), ids=lambda b: b.place)
def test_a_fragment_with_another_package_runs(block: Block, namespace: dict[str, Any]) -> None:
    ensure_installed(block)
    for part in [*setup_of(block.page), block]:
        part.run_in(namespace)


APPS = [block for block in programs() if block.file_name not in ("script.py", "test_app.py")]


@pytest.mark.parametrize("block", APPS, ids=lambda b: b.place)
def test_the_app_answers_with_its_page(block: Block, namespace: dict[str, Any]) -> None:
    ensure_installed(block)
    block.run_in(namespace)

    async def first_visit() -> None:
        async with FastStateClient(namespace["app"]) as client:
            page = await client.get("/")
            assert page.status == 200
            assert "/faststate/sse?states=CounterState" in page.text or "Hello stranger" in page.text

    asyncio.run(first_visit())


@pytest.mark.parametrize("block", [b for b in programs() if b.file_name == "script.py"], ids=lambda b: b.place)
def test_the_script_prints_what_the_page_says(block: Block, folder: Path) -> None:
    expected = next(b for b in blocks_of(block.page) if "output" in b.words and b.line > block.line)
    finished = run_program(folder, block)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == expected.text


def test_the_tests_of_the_readme_pass_on_its_example(folder: Path) -> None:
    example, tests = (next(b for b in programs() if b.file_name == name) for name in ("app.py", "test_app.py"))
    (folder / "app.py").write_text(example.text)
    finished = run_program(folder, tests, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert finished.returncode == 0, finished.stdout
    assert "3 passed" in finished.stdout


def test_the_example_has_about_thirty_lines() -> None:
    example = next(block for block in programs() if block.file_name == "app.py")
    assert len(ast.unparse(ast.parse(example.text)).splitlines()) <= 30
    assert len(example.text.splitlines()) <= 35
