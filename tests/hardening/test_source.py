"""What the package's source must not contain, and in which direction its modules import each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import faststate_asgi

PACKAGE = Path(faststate_asgi.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "jsonpickle", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    """Data that is unpickled or evaluated is code of whoever wrote it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").partition(".")[0] not in FORBIDDEN_MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_shares_mutable_module_state(path: Path) -> None:
    for node in parsed(path).body:
        names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if isinstance(node, ast.Assign) and names != ["__all__"]:
            assert not isinstance(node.value, ast.List | ast.Set), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_type_error_is_silenced_without_its_code(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert "type: ignore" not in line or "type: ignore[" in line, number


# -- layers ------------------------------------------------------------------------------------------------------------


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_at_load(body: list[ast.stmt]) -> Iterator[ast.ImportFrom | ast.Import]:
    """Yield the imports that run when the module is imported."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_for_type_checkers(node):
            assert isinstance(node, ast.If)
            yield from imports_at_load(node.orelse)
        elif isinstance(node, ast.If | ast.Try):
            yield from imports_at_load(node.body)


def module_of(path: Path) -> str:
    """Return ``stores.memory`` for the file of that module, ``stores`` for a package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported(module: str) -> set[str]:
    """Return the modules of the package that a module imports when it is loaded."""
    path = MODULES[module]
    here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in imports_at_load(parsed(path).body):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [part for part in here[: len(here) - node.level + 1] if part]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                child = f"{target}.{alias.name}".strip(".")
                found.add(child if child in MODULES else target)
    return found - {module}


LAYERS = (
    ("errors",),
    (
        "keys",
        "patches",
        "current",
        "echo",
        "order",
        "from_thread",
        "headers",
        "limits",
        "login_page",
        "metrics",
        "parameters",
        "readers",
        "schemas",
        "settings",
        "steps",
        "eager",
        "stop_signals",
        "watchdog",
        "workers",
    ),
    ("frames", "guards", "codec", "key_column", "messages", "stores.base", "transports.base"),
    ("actions", "identity", "answers", "responses", "origins", "bonds", "stores.memory", "transports.local"),
    ("signals", "events", "fields", "live"),
    ("state",),
    ("config", "plans", "registry", "incoming", "binding", "checks", "own_ids", "spares", "wanted"),
    ("updates",),
    ("mirror", "mailboxes", "turns", "nested"),
    ("hub",),
    (
        "calls",
        "running",
        "repeats",
        "generators",
        "batches",
        "immediate",
        "alone",
        "transactions",
        "runtime",
        "visit",
        "context",
    ),
    ("streaming", "routes", "injected", "event_answers", "event_request", "dispatch"),
    ("subapp",),
    ("backends", "announcer", "housekeeping", "outside", "sync", "vitals", "engine"),
    ("middleware", "integrations.starlette", "integrations.fasthtml", "integrations.fastapi"),
    ("",),
)
"""From the ground up: a module imports modules of lower rows, and of its own row only what stands left of it."""

ROW = {module: index for index, row in enumerate(LAYERS) for module in row}
UNRANKED = ("testing", "stores", "transports", "integrations", "__main__")
"""Adapters and tools: they may use what is below them, and the tests after this one say who may use them."""


def cycles() -> list[list[str]]:
    """Return the import cycles, found by walking down from each module."""
    found: list[list[str]] = []

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
            return
        if module not in done:
            for other in sorted(imported(module)):
                walk(other, [*path, module])
            done.add(module)

    done: set[str] = set()
    for module in MODULES:
        walk(module, [])
    return found


def test_no_import_goes_round_in_a_circle() -> None:
    assert cycles() == []


@pytest.mark.parametrize("module", sorted(MODULES), ids=lambda module: module or "__init__")
def test_a_module_imports_only_from_below(module: str) -> None:
    if module not in ROW:
        assert module.startswith(UNRANKED), f"{module} has no place in the table of layers yet"
        return
    for other in imported(module):
        if other in ROW:
            row = LAYERS[ROW[module]]
            is_left = ROW[other] == ROW[module] and row.index(other) < row.index(module)
            assert ROW[other] < ROW[module] or is_left, f"{module} imports {other}"


def test_nothing_below_the_tests_imports_the_testing_tools() -> None:
    for module in MODULES:
        if not module.startswith("testing"):
            assert not any(other.startswith("testing") for other in imported(module)), module


def test_only_one_module_names_concrete_stores_and_transports() -> None:
    concrete = {name for name in MODULES if name.startswith(("stores.", "transports."))}
    concrete -= {"stores.base", "transports.base"}
    for module in MODULES:
        if module != "backends" and not module.startswith(("stores", "transports", "testing")):
            assert not imported(module) & concrete, module


def test_no_module_imports_a_framework_when_it_is_loaded() -> None:
    optional = {"fasthtml", "fastcore", "fastapi", "litestar", "redis", "asyncpg", "aiosqlite", "uvicorn"}
    lazy = {"integrations._fastapi_depends"}
    for module, path in MODULES.items():
        for node in imports_at_load(parsed(path).body):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            tops = {name.partition(".")[0] for name in names}
            drivers = module.startswith(("stores.", "transports.")) or module in lazy
            assert drivers or not tops & optional, f"{module}: {tops & optional}"
