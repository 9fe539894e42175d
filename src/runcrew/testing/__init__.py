"""Tools for tests: an event loop and a clock on which time passes in no time.

    import asyncio
    import pytest

    @pytest.mark.virtual
    async def test_an_hour():
        await asyncio.sleep(3600)           # over at once

Nothing is imported until it is used, so that the pytest plugin costs a test run that does not use it nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runcrew.testing.backends import BackendContract
    from runcrew.testing.cancel import cancel_everywhere
    from runcrew.testing.clock import VirtualClock
    from runcrew.testing.loop import VirtualLoop, virtual_loop
    from runcrew.testing.run import run_virtual
    from runcrew.testing.stuck import Stuck

__all__ = [
    "BackendContract",
    "Stuck",
    "VirtualClock",
    "VirtualLoop",
    "cancel_everywhere",
    "run_virtual",
    "virtual_loop",
]

_HOME = {
    "BackendContract": "backends",
    "Stuck": "stuck",
    "VirtualClock": "clock",
    "VirtualLoop": "loop",
    "cancel_everywhere": "cancel",
    "run_virtual": "run",
    "virtual_loop": "loop",
}


def __getattr__(name: str) -> Any:
    import importlib

    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
