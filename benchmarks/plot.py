"""Bars as an SVG that a README can show: one row for each variant, no library."""

from collections.abc import Sequence
from html import escape

WIDTH, ROW, LABEL, VALUE = 800, 26, 270, 140
OWN, OTHER, FLOOR = "#2563eb", "#94a3b8", "#cbd5e1"


def bars(title: str, rows: Sequence[tuple[str, float, str]], own: str | tuple[str, ...] = "faststate") -> str:
    """Return an SVG of horizontal bars.

    Args:
        title: what is measured, and in what.
        rows: label, value and the text beside its bar.
        own: rows whose label begins so are drawn in colour, those of a floor paler than all.
    """
    largest = max(value for _, value, _ in rows)
    height = 40 + ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="22" font-weight="bold">{escape(title)}</text>',
    ]
    for index, (label, value, text) in enumerate(rows):
        top = 36 + ROW * index
        length = max(1.0, (WIDTH - LABEL - VALUE) * value / largest)
        colour = OWN if label.startswith(own) else FLOOR if label.startswith("floor") else OTHER
        parts += [
            f'<text x="{LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{ROW - 8}" fill="{colour}"/>',
            f'<text x="{LABEL + length + 6:.1f}" y="{top + 14}">{escape(text)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
