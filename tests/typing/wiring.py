"""What type checkers know about wrapping an app and about who is logged in."""

from typing import assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware

from faststate_asgi import FastState, FastStateMiddleware, Identity

SITE = Starlette(middleware=[Middleware(FastStateMiddleware, secret_key="k" * 32)])
assert_type(FastStateMiddleware(SITE, debug=True), FastStateMiddleware)
assert_type(FastStateMiddleware(app=SITE, debug=True), FastStateMiddleware)
assert_type(FastStateMiddleware(SITE, FastState(debug=True)), FastStateMiddleware)
assert_type(FastStateMiddleware(SITE, debug=True).faststate, FastState)
assert_type(Identity(7, ["reports.read"], roles="boss").permissions, frozenset[str])
