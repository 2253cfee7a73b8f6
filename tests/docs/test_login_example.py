"""What the README says of its login example."""

import asyncio
from typing import Any

from faststate_asgi.testing import FastStateClient
from tests.docs.blocks import programs


def test_login_opens_the_notes_and_logout_closes_them(namespace: dict[str, Any]) -> None:
    next(block for block in programs() if block.file_name == "login_app.py").run_in(namespace)

    async def visit() -> None:
        async with FastStateClient(namespace["app"]) as client:
            refused = await client.get("/notes")
            assert (refused.status, refused.headers["location"]) == (303, "/login?next=/notes")
            assert (await client.post("/login", data={"name": "ada"})).status == 303
            assert (await client.call("NotesState/write", {"text": "milk"})).error is None
            assert "milk" in (await client.get("/notes")).text
            assert "Hello ada" in (await client.get("/")).text
            assert (await client.call("NotesState/clear")).error is None
            assert (await client.post("/logout")).status == 303
            assert (await client.call("NotesState/write", {"text": "x"}, datastar=False)).status == 401
            assert "stranger" in (await client.get("/")).text

    asyncio.run(visit())
