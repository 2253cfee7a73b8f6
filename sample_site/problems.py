"""The pages for what is not there, and for what is not allowed."""

from fasthtml.common import FT, A, P
from starlette.requests import Request

from .layout import card, frame


async def not_found(req: Request, exc: Exception) -> tuple[FT, ...]:
    """Return the page for an address that leads nowhere."""
    return await frame(
        req,
        card("Where now?", P(A("Back to the first page", href="/")), P(A("To the shop", href="/products"))),
        title="There is nothing here",
        letter="O",
        lead="The page that you asked for is not aboard. It may have moved, or it never was.",
    )


async def not_allowed(req: Request, exc: Exception) -> tuple[FT, ...]:
    """Return the page for somebody who is known, and may not come in."""
    return await frame(
        req,
        card(
            "What you can do",
            P(
                "Log out, and come back as somebody with the permission. In this demonstration that is ada for the reports, "
                "and grace for the harbour office."
            ),
            P(A("Back to the first page", href="/")),
        ),
        title="Not for you",
        letter="X",
        lead=f"{str(getattr(exc, 'detail', 'This page asks for a permission')).rstrip('.')}.",
    )
