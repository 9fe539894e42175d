"""What a child's failure means that comes while its supervisor stops."""

from __future__ import annotations

import asyncio

import pytest

import runcrew as rc


async def busy() -> None:
    """Keeps what it depends on alive for a while after a stop has begun."""
    await asyncio.sleep(2)


@pytest.mark.virtual
async def test_what_a_restart_would_have_answered_is_not_permanent() -> None:
    """A child that would have been restarted, and has not been told to stop yet, fails without harm to the end."""

    async def serve() -> None:
        await asyncio.sleep(1.5)
        raise OSError("died by itself")

    crew = rc.Crew("shop")
    crew.add(rc.OneShot(serve, on_failure="restart"))
    crew.add(rc.Interval(busy, "10s"), depends_on=["serve"])
    await crew.start()
    await asyncio.sleep(1)
    report = await crew.stop()
    assert () == report.errors
    assert rc.State.STOPPED is crew.state


@pytest.mark.virtual
@pytest.mark.parametrize("on_failure", ["stop", "isolate"])
async def test_what_nothing_would_have_answered_is_permanent(on_failure: str) -> None:
    """A child whose failure nothing would have answered is reported, also while the supervisor stops."""

    async def serve() -> None:
        await asyncio.sleep(1.5)
        raise OSError("died by itself")

    crew = rc.Crew("shop")
    crew.add(rc.OneShot(serve), on_failure=on_failure)  # type: ignore[arg-type]
    crew.add(rc.Interval(busy, "10s"), depends_on=["serve"])
    await crew.start()
    await asyncio.sleep(1)
    assert ["died by itself"] == [str(error) for error in (await crew.stop()).errors]


@pytest.mark.virtual
async def test_an_error_of_the_clean_up_is_permanent() -> None:
    """What a child raises when it has been told to stop is reported, although failures of it are restarted."""

    async def serve() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("cannot clean up")

    crew = rc.Crew("shop")
    crew.add(rc.OneShot(serve, on_failure="restart"))
    await crew.start()
    await asyncio.sleep(1)
    assert ["cannot clean up"] == [str(error) for error in (await crew.stop()).errors]
    assert rc.State.FAILED is crew.state


@pytest.mark.virtual
@pytest.mark.parametrize("ready", ["succeeded", "signal"])
async def test_a_stop_before_a_child_is_ready_is_no_failure(ready: str) -> None:
    """A child that is stopped while it starts has not failed, and nor has its supervisor."""
    crew = rc.Crew("shop")
    crew.add(rc.OneShot(busy, ready=ready))  # type: ignore[arg-type]
    start = asyncio.create_task(crew.start())
    await asyncio.sleep(1)
    assert () == (await crew.stop()).errors
    assert rc.State.STOPPED is crew.state
    with pytest.raises(rc.ServiceStopped):
        await start


@pytest.mark.virtual
async def test_a_tick_that_was_left_to_finish_fails_as_any_other() -> None:
    """What a restart would have answered does no harm either where the stop has let the last attempt finish."""

    async def poll() -> None:
        await asyncio.sleep(2)
        raise OSError("not there")

    crew = rc.Crew("shop")
    crew.add(rc.Interval(poll, "10s", on_failure="restart"))
    await crew.start()
    await asyncio.sleep(1)
    report = await crew.stop()
    assert () == report.errors
    assert 1 == report.finished
    assert rc.State.STOPPED is crew.state
