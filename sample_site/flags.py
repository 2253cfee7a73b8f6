"""The signal flags that mark the pages, drawn as squares of 36 by 36."""

from dataclasses import dataclass

from fasthtml.common import FT
from fasthtml.svg import Path, Svg

_FIELD = "M0 0h36v36H0z"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its name in the spelling alphabet, what it says at sea, and its areas as (colour, path)."""

    name: str
    meaning: str
    areas: tuple[tuple[str, str], ...]


FLAGS = {
    "A": Flag("Alfa", "I have a diver down", (("white", "M0 0h18v36H0z"), ("blue", "M18 0h18l-9 18 9 18H18z"))),
    "C": Flag("Charlie", "Affirmative", (("blue", _FIELD), ("white", "M0 7h36v22H0z"), ("red", "M0 14h36v8H0z"))),
    "F": Flag("Foxtrot", "Communicate with me", (("white", _FIELD), ("red", "M18 2l16 16-16 16L2 18z"))),
    "H": Flag("Hotel", "I have a pilot on board", (("white", _FIELD), ("red", "M18 0h18v36H18z"))),
    "I": Flag(
        "India",
        "I am altering my course to port",
        (("yellow", _FIELD), ("black", "M18 9a9 9 0 1 0 0 18a9 9 0 1 0 0-18z")),
    ),
    "J": Flag("Juliett", "Keep well clear of me", (("blue", _FIELD), ("white", "M0 12h36v12H0z"))),
    "K": Flag("Kilo", "I wish to communicate with you", (("yellow", _FIELD), ("blue", "M18 0h18v36H18z"))),
    "L": Flag("Lima", "Stop instantly", (("yellow", _FIELD), ("black", "M18 0h18v18H18zM0 18h18v18H0z"))),
    "O": Flag("Oscar", "Man overboard", (("yellow", _FIELD), ("red", "M0 0h36v36z"))),
    "P": Flag("Papa", "All aboard, we are about to sail", (("blue", _FIELD), ("white", "M11 11h14v14H11z"))),
    "R": Flag("Romeo", "Received", (("red", _FIELD), ("yellow", "M14 0h8v14h14v8H22v14h-8V22H0v-8h14z"))),
    "V": Flag(
        "Victor",
        "I require assistance",
        (("white", _FIELD), ("red", "M0 0h6l12 12L30 0h6v6L24 18l12 12v6h-6L18 24 6 36H0v-6l12-12L0 6z")),
    ),
    "X": Flag(
        "X-ray",
        "Stop what you intend to do",
        (("white", _FIELD), ("blue", "M14 0h8v14h14v8H22v14h-8V22H0v-8h14z")),
    ),
}


def flag(letter: str, cls: str = "flag") -> FT:
    """Return the drawing of a flag; it is decoration, so screen readers skip it."""
    areas = [Path(d=path, cls=f"flag-{colour}") for colour, path in FLAGS[letter].areas]
    return Svg(*areas, viewBox="0 0 36 36", cls=cls, aria_hidden="true", focusable="false")
