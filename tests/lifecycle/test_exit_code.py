"""An exit of the program out of a block keeps its code."""

from __future__ import annotations

import gc
import weakref

import pytest

import runcrew as rc


async def fails() -> None:
    """A job that fails at once."""
    raise OSError("not there")


@pytest.mark.virtual
async def test_an_exit_keeps_its_code_where_the_service_failed_too() -> None:
    """SystemExit goes on its way, and says what else there was."""
    with pytest.raises(SystemExit) as left:
        async with rc.OneShot(fails) as service:
            with pytest.raises(OSError, match="not there"):
                await service.wait()
            raise SystemExit(7)
    assert 7 == left.value.code
    assert ["and fails failed: OSError: not there"] == left.value.__notes__


@pytest.mark.virtual
async def test_a_service_does_not_keep_the_one_in_whose_job_it_was_started() -> None:
    """When both have ended, what one has started in a job of the other keeps nothing of it alive."""

    async def quick() -> None: ...

    successor = rc.OneShot(quick)
    starter = rc.OneShot(successor.run)
    await starter.run()
    kept = weakref.ref(starter)
    del starter
    gc.collect()
    assert kept() is None
