"""What the long job promises."""

import pytest

from sample_site.job import STEPS, JobState, step_seconds

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLE_JOB_STEP", "0")


async def test_the_bar_goes_from_nothing_to_all_in_equal_steps() -> None:
    job = JobState()
    seen = [(job.percent, job.running) async for _ in job.start()]
    assert seen == [(100 * number // len(STEPS), True) for number in range(len(STEPS))] + [(100, False)]
    assert job.doing == "Arrived."


async def test_stop_ends_the_voyage_at_its_next_step() -> None:
    job = JobState()
    voyage = job.start()
    await anext(voyage)
    await anext(voyage)
    job.stop()
    assert [step async for step in voyage] == []
    assert (job.percent, job.running, job.doing) == (10, False, "Turned back.")


async def test_a_second_start_replaces_the_first() -> None:
    job = JobState()
    first, second = job.start(), job.start()
    await anext(first)
    await anext(second)
    assert [step async for step in first] == []
    assert job.running
    assert len([step async for step in second]) == len(STEPS)
    assert job.percent == 100


async def test_stop_without_a_voyage_changes_nothing() -> None:
    job = JobState()
    job.stop()
    assert job == JobState()


async def test_a_step_takes_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAMPLE_JOB_STEP")
    assert step_seconds() == 0.3
