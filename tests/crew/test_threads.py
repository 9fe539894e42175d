"""What a crew leaves behind of threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

import runcrew as rc


@pytest.mark.realtime
def test_no_thread_is_left_when_a_crew_has_ended() -> None:
    """When `stop` returns, the threads of jobs and hooks have ended, also those that would leave a little later."""
    crew = rc.Crew("shop", loop_block=None, on_stopped=lambda: None)

    @crew.oneshot
    def work() -> None:
        pass

    async def main() -> list[threading.Thread]:
        before = threading.enumerate()
        async with crew:
            await asyncio.sleep(0.05)
        return [thread for thread in threading.enumerate() if thread not in before]

    assert [] == asyncio.run(main())
