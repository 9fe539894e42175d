"""Closing an event loop of our own: as `asyncio.run` does it, but nothing that goes on for ever is waited for."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Final

from runcrew.lifecycle.tasks import task_stack

_log: Final = logging.getLogger("runcrew")

#: How long what is left may take to end, in seconds.
PATIENCE: Final = 1.0


def close(runner: asyncio.Runner) -> bool:
    """Cancel what is left on its loop, and close that. False: something goes on, was logged, and is left to itself."""
    loop = runner.get_loop()
    if _tasks_end(loop) and _threads_end(loop):
        runner.close()
        return True
    loop.close()
    return False


def _tasks_end(loop: asyncio.AbstractEventLoop) -> bool:
    left: Any = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        _, left = loop.run_until_complete(asyncio.wait(left, timeout=PATIENCE))
    for task in left:
        _log.error("%s does not heed its cancellation:\n%s", task.get_name(), task_stack(task))
        task._log_destroy_pending = False  # it has just been said
    return not left


def _threads_end(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the threads of `asyncio.to_thread` end. There is none on most loops."""
    executor = getattr(loop, "_default_executor", None)
    if executor is None:
        return True
    waiter = threading.Thread(target=executor.shutdown, name="runcrew-close", daemon=True)
    waiter.start()
    waiter.join(PATIENCE)
    if waiter.is_alive():
        _log.error("a thread of asyncio.to_thread, or of the loop's executor, does not end")
    return not waiter.is_alive()
