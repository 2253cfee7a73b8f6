"""A long job that reports its progress: each ``yield`` stores and shows what has changed."""

import asyncio
import os
from collections.abc import AsyncIterator

from fasthtml.common import FT, Button, Div, P, Progress, Span
from starlette.requests import Request

from faststate_asgi import Private, ReactiveState, StateConfig, event, state_registry

from .layout import card, frame

STEPS = (
    "Casting off",
    "Leaving the harbour",
    "Setting the sails",
    "Passing the lighthouse",
    "Taking a bearing",
    "Riding out a squall",
    "Mending a sail",
    "Sighting land",
    "Taking the pilot aboard",
    "Making fast",
)


class JobState(ReactiveState):
    """One visitor's voyage."""

    percent: int = 0
    doing: str = "Ready to sail."
    running: bool = False
    voyage: Private[int] = 0

    @event
    async def start(self) -> AsyncIterator[None]:
        """Sail, until another start or a stop ends it."""
        self.voyage += 1
        mine = self.voyage
        self.percent, self.running = 0, True
        for number, step in enumerate(STEPS, 1):
            self.doing = f"{step}…"
            yield
            await asyncio.sleep(step_seconds())
            if self.voyage != mine:
                return
            self.percent = 100 * number // len(STEPS)
        self.doing, self.running = "Arrived.", False
        yield

    @event
    def stop(self) -> None:
        """Give up the voyage."""
        if self.running:
            self.voyage += 1
            self.doing, self.running = "Turned back.", False


# A voyage that a restart has cut off is forgotten after an hour.
state_registry.register(JobState, StateConfig(namespace="job", ttl=3600))


def step_seconds() -> float:
    """Return how long one step takes: ``SAMPLE_JOB_STEP`` in the environment, else 0.3."""
    return float(os.environ.get("SAMPLE_JOB_STEP", "0.3"))


async def page(req: Request, job: JobState) -> tuple[FT, ...]:
    """Return the page of the voyage."""
    percent = JobState.signal.percent
    return await frame(
        req,
        card(
            "A voyage in ten steps",
            Div(Span(job.percent, {"data-text": percent}), Span("%", cls="unit"), cls="number"),
            Progress(
                {"data-attr:value": percent},
                value=str(job.percent),
                max="100",
                id="progress",
                aria_label="Progress of the voyage",
            ),
            P(job.doing, {"data-text": JobState.signal.doing}, id="doing", cls="doing", role="status"),
            Div(
                Button("Set sail", {"data-on:click": JobState.start()}, type="button"),
                Button(
                    "Turn back",
                    {"data-on:click": JobState.stop(), "data-attr:disabled": f"!{JobState.signal.running}"},
                    type="button",
                    disabled=not job.running,
                    cls="quiet",
                ),
                cls="buttons",
            ),
            cls="counter",
        ),
        title="A long job, step by step",
        letter="J",
        lead="The event is a generator. Each yield ends one transaction: what changed is stored and shown. "
        "Close the tab and come back, the voyage goes on without you.",
        states=(job,),
        code=(JobState,),
    )
