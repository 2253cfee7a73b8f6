"""What the tests of the documentation share: a place where examples leave nothing behind."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import faststate_asgi
from faststate_asgi import StateRegistry, engine, vitals


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, as a reader begins with."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def namespace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The globals of a fresh module, with a registry that no other example uses."""
    registry = StateRegistry()
    for place in (faststate_asgi, engine, vitals):
        monkeypatch.setattr(place, "state_registry", registry)
    module = ModuleType(f"documented_{folder.name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return vars(module)
