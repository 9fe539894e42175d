"""The two pools of threads that everything uses which was not given another. Nothing starts before the first call."""

from __future__ import annotations

import os
from typing import Final

from runcrew.backends.threads import Threads

_shared: Final = Threads(min(32, (os.cpu_count() or 1) + 4), name="runcrew")
_services: Final = Threads(None, name="runcrew-service")


def shared() -> Threads:
    """The pool for calls: at most `min(32, cpus + 4)` of them at a time."""
    return _shared


def services() -> Threads:
    """The pool for jobs that live as long as their service: each gets a thread, and none waits for another."""
    return _services
