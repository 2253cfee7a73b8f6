"""How many events per second does one core serve, and what part of the raw floor is that?

`python -m benchmarks.events [--seconds 3] [--rounds 5] [--quick] [--only TEXT]`: small states and states with 1 000 rows,
with session, user and permission; the same counter written with other packages in the same rounds.
"""

from benchmarks import rounds
from benchmarks.rounds import FLOOR, Variant

OWN = ("async", "inline", "thread")
PACKAGE = "benchmarks.apps:app"
SIGNED_IN = "benchmarks.apps:signed_in"
EVENTS = "/faststate/events"
STARLETTE, FASTHTML = "benchmarks.rivals:starlette_datastar", "benchmarks.rivals:fasthtml_datastar"

VARIANTS = (
    FLOOR,
    Variant("async, session", PACKAGE, f"{EVENTS}/SessionCounter/increment_async", "session"),
    Variant("inline, session", PACKAGE, f"{EVENTS}/SessionCounter/increment_inline", "session"),
    Variant("thread, session", PACKAGE, f"{EVENTS}/SessionCounter/increment_thread", "session"),
    Variant("async, global", PACKAGE, f"{EVENTS}/GlobalCounter/increment_async", "global"),
    Variant("inline, global", PACKAGE, f"{EVENTS}/GlobalCounter/increment_inline", "global"),
    Variant("thread, global", PACKAGE, f"{EVENTS}/GlobalCounter/increment_thread", "global"),
    Variant("async, user", SIGNED_IN, f"{EVENTS}/UserCounter/increment", "session"),
    Variant("async, user, permission", SIGNED_IN, f"{EVENTS}/UserCounter/increment_if_allowed", "session"),
    Variant("async, beside 1 000 rows", PACKAGE, f"{EVENTS}/Table/increment_async", "session"),
    Variant("inline, beside 1 000 rows", PACKAGE, f"{EVENTS}/Table/increment_inline", "session"),
    Variant("thread, beside 1 000 rows", PACKAGE, f"{EVENTS}/Table/increment_thread", "session"),
    Variant("async, in one of 1 000 rows", PACKAGE, f"{EVENTS}/Table/increment_row", "session"),
    Variant("Starlette + datastar_py", STARLETTE, "/increment"),
    Variant("Starlette, user, permission", "benchmarks.rivals:starlette_signed_in", "/increment"),
    Variant("Starlette, in one of 1 000 rows", STARLETTE, "/increment_row"),
    Variant("FastHTML + datastar_py", FASTHTML, "/increment"),
    Variant("FastHTML, user, permission", "benchmarks.rivals:fasthtml_signed_in", "/increment"),
    Variant("FastHTML, in one of 1 000 rows", FASTHTML, "/increment_row"),
)


def main() -> None:
    """Run what the command line asks for."""
    arguments = rounds.parse_arguments(__doc__)
    rounds.run("events", VARIANTS, arguments, "Events/s, one server core, 32 connections", OWN)


if __name__ == "__main__":
    main()
