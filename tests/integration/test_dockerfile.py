"""The Dockerfile builds from a clean checkout, and what it builds serves the sample site without root."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.services import ROOT, free_port, require
from tests.tools.dockerfile_steps import Image, built, is_ignored, parse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def index_answers() -> bool:
    """Returns whether pip can reach a package index."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "--retries",
        "0",
        "--timeout",
        "10",
        "index",
        "versions",
        "hatchling",
    ]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    require("a package index", index_answers())
    with built() as image:
        yield image


@pytest.fixture
def container(image: Image) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The image's command with nothing set but a secret, once its health check passes."""
    port = free_port()
    site = image.start(image.command, port, {"FASTSTATE_SECRET_KEY": "0123456789abcdef" * 4})
    try:
        end = time.monotonic() + 60
        while not image.is_healthy(port):
            assert site.poll() is None, "the server left"
            assert time.monotonic() < end, "the container never became healthy"
        yield site, port
    finally:
        site.terminate()
        site.wait(20)


def test_a_healthy_container_serves_the_sample_site(container: tuple[subprocess.Popen[bytes], int]) -> None:
    _, port = container
    page = httpx.get(f"http://127.0.0.1:{port}/")
    assert page.status_code == 200
    assert "data-on:click" in page.text


@pytest.mark.usefixtures("container")
def test_the_data_are_in_the_folder_for_a_volume(image: Image) -> None:
    assert (image.root / "app" / "data" / "sample.db").is_file()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_container_does_not_run_as_root(container: tuple[subprocess.Popen[bytes], int]) -> None:
    site, _ = container
    owners = Path(f"/proc/{site.pid}/status").read_text().split("Uid:")[1].split()[:4]
    assert owners == ["10001"] * 4


def test_the_health_check_fails_when_nobody_answers(image: Image) -> None:
    assert not image.is_healthy(free_port())


def test_the_image_holds_the_package_with_its_data_and_no_tests(image: Image) -> None:
    package = next(image.root.glob("opt/venv/lib/python3*/site-packages/faststate_asgi"))
    assert (package / "py.typed").is_file()
    assert not list(image.root.glob("opt/venv/lib/python3*/site-packages/tests"))
    assert sorted(path.name for path in (image.root / "app").iterdir()) == ["data", "sample_site"]


def test_secrets_and_databases_never_reach_the_builder() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    kept_out = [
        ".env",
        ".git/config",
        "app.db",
        "sample_site/app.db",
        "sample_site/.env",
        "tests/conftest.py",
        "sample_site/__pycache__/main.pyc",
    ]
    assert [path for path in kept_out if not is_ignored(path, patterns)] == []
    assert not is_ignored("sample_site/main.py", patterns)


def test_continued_lines_and_comments_are_read_as_docker_does() -> None:
    steps = parse("# syntax\nFROM a AS b\nENV A=1 \\\n    # why\n    B=2\n")
    assert [(step.name, step.words()) for step in steps] == [
        ("FROM", ["a", "AS", "b"]),
        ("ENV", ["A=1", "B=2"]),
    ]
