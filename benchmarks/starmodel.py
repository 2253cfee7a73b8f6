"""How does an event compare with one of StarModel, the nearest package?

`python -m benchmarks.starmodel [--seconds 3] [--rounds 5] [--quick]` makes an environment for it first. With `--port` and
`--core` it is the server with StarModel's counter.

StarModel 0.1 asks for Python 3.12 but runs on 3.11, and for a datastar-py of its own. It keeps the state in the process's
memory: one object for all who have no cookie of its, without any turn or check.
"""

from typing import Any

from benchmarks import foreign
from benchmarks.rounds import Variant

INSTALLS = (
    ["--no-deps", "--ignore-requires-python", "starmodel==0.1.0"],
    ["datastar-py==0.4.3", "python-fasthtml>=0.12.19", "sqlmodel>=0.0.24"],
)
PACKAGES = ("starmodel", "datastar-py", "python-fasthtml", "starlette", "uvicorn", "uvloop")
OTHERS = ("async, global", "inline, global", "Starlette + datastar_py", "FastHTML + datastar_py")


def counter_app() -> Any:
    """Return FastHTML with StarModel's counter."""
    from fasthtml.common import FastHTML
    from starmodel import State, event, states_rt

    async def increment(self: Any, amount: int) -> None:
        self.count += amount

    body = {
        "__module__": __name__,
        "__annotations__": {"count": int},
        "count": 0,
        "increment": event(method="post")(increment),
    }
    type(State)("Counter", (State,), body)
    app = FastHTML()
    states_rt.to_app(app)
    return app


RIVAL = foreign.Rival(
    "starmodel",
    __doc__,
    counter_app,
    INSTALLS,
    PACKAGES,
    OTHERS,
    Variant("StarModel 0.1", "benchmarks.starmodel", "/Counter/increment", "global"),
)

if __name__ == "__main__":
    RIVAL.main()
