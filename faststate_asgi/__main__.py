"""The command line: ``create-tables [APP]``, ``purge``, ``routes APP`` and ``check APP``.

Settings come from ``FASTSTATE_*`` variables, or from the app where one is named.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from .backends import Backends
from .checks import findings, route_findings
from .engine import FastState
from .errors import ConfigurationError, FastStateError
from .registry import StateRegistry
from .settings import make_settings

PURGE_BATCH = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for findings, 2 for what cannot work."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (FastStateError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faststate_asgi", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("create-tables", _create_tables, "make the tables that are missing"),
        ("purge", _purge, "delete what has expired"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--store", help="the database, instead of FASTSTATE_STORE and FASTSTATE_DATABASE_URL")
        command.set_defaults(run=run)
        if run is _create_tables:
            command.add_argument(
                "app",
                nargs="?",
                help="module:attribute of the wrapped app, whose table=True states get their tables too",
            )
    for name, run, text in (
        ("routes", _routes, "list the events of an app"),
        ("check", _check, "report what looks like a mistake in an app's states and routes"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("app", help="module:attribute of the wrapped app")
        command.set_defaults(run=run)
    return parser


def _backends(options: argparse.Namespace) -> Backends:
    """Return the stores of the environment, or of the app where one is named; ``--store`` wins."""
    given = {"store": options.store} if options.store else {}
    if not getattr(options, "app", None):
        return Backends(make_settings(given), StateRegistry())
    engine = _engine_of(options.app)
    backends = Backends(make_settings(given), engine.registry) if given else engine.backends
    backends.check()
    return backends


def _create_tables(options: argparse.Namespace) -> int:
    async def run() -> None:
        from .stores.sql import SqlStore

        store = _backends(options).stores.get("database")
        if not isinstance(store, SqlStore):
            raise ConfigurationError("there is no database: set FASTSTATE_STORE, FASTSTATE_DATABASE_URL or --store")
        await store.open()
        try:
            await store.create_tables()
        finally:
            await store.aclose()

    asyncio.run(run())
    print("the tables are there")
    return 0


def _purge(options: argparse.Namespace) -> int:
    async def run() -> int:
        purged = 0
        for store in _backends(options).stores.values():
            await store.open()
            try:
                await store.ping()  # Redis is not asked to delete anything
                while count := await store.purge(PURGE_BATCH):
                    purged += count
            finally:
                await store.aclose()
        return purged

    print(f"{asyncio.run(run())} expired entries deleted")
    return 0


def _engine_of(path: str) -> FastState:
    """Return the engine of the app that ``module:attribute`` names."""
    engine: FastState = _wrapped(path).faststate
    return engine


def _wrapped(path: str) -> Any:
    """Return what is wrapped in the app that ``module:attribute`` names, looking through outer middlewares.

    Raises:
        ConfigurationError: there is no such app, or it is not wrapped.
    """
    sys.path.insert(0, os.getcwd())
    module, _, attribute = path.partition(":")
    try:
        app: Any = getattr(importlib.import_module(module), attribute or "app")
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(f"{path} cannot be imported as module:attribute ({exc})") from exc
    for _ in range(20):
        if isinstance(getattr(app, "faststate", None), FastState):
            return app
        app = getattr(app, "app", None)
    raise ConfigurationError(f"{path} is not wrapped in FastStateMiddleware")


def _routes(options: argparse.Namespace) -> int:
    engine = _engine_of(options.app)
    for plan in engine.registry.plans:
        for spec in plan.events.values():
            print(f"{spec.method:6} {engine.settings.mount_path}/events/{spec.path}  ({plan.scope.value})")
    return 0


def _check(options: argparse.Namespace) -> int:
    app = _wrapped(options.app)
    engine: FastState = app.faststate
    engine.check()
    found = findings(engine.registry) + route_findings(app)
    for finding in found:
        print(finding)
    print(f"{len(engine.registry)} states, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
