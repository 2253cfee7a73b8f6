"""What does the text of an action cost, which a page has in each of its buttons?

`python -m benchmarks.actions [--quick]`, in this process. The floor joins the same text from its parts; the others have no
action of their own, so their rows are what their documents have people write: an attribute with an address.
"""

import json
from collections.abc import Callable

import uvloop
from datastar_py.attributes import attribute_generator
from fasthtml.common import Button, to_xml

from benchmarks import apps, costs, report

PATH = "/faststate/events/SessionCounter/increment_inline"
BUTTON = f"@post('{PATH}', {{payload: %s}})"


def by_hand() -> str:
    """Return an action's text with nothing but its arguments put in."""
    return BUTTON % json.dumps({"amount": 2})


ACTIONS: dict[str, Callable[[], object]] = {
    "floor: json.dumps and %": by_hand,
    "faststate: Counter.increment(2)": lambda: str(apps.SessionCounter.increment_inline(2)),
    "datastar_py: attribute": lambda: str(attribute_generator.on("click", by_hand())),
    "floor: FastHTML button without": lambda: to_xml(Button("+2")),
    "faststate: FastHTML button": lambda: to_xml(
        Button("+2", **{"data-on:click": str(apps.SessionCounter.increment_inline(2))})
    ),
    "FastHTML: hx_post, hx_vals": lambda: to_xml(Button("+2", hx_post=PATH, hx_vals=json.dumps({"amount": 2}))),
}


async def main() -> None:
    """Run what the command line asks for."""
    arguments, before = costs.parse_arguments(__doc__), report.environment()
    costs.pin()
    works = {name: costs.repeated(call) for name, call in ACTIONS.items()}
    rows = costs.figures("action", await costs.measure(works, 1000, is_quick=arguments.quick))
    costs.tell("actions", "Processor us for the text of an action", rows, before, file=not arguments.no_file)


if __name__ == "__main__":
    uvloop.run(main())
