"""The states of a service, and which may follow which.

         start()            ready              stop(), kill(), own end
    new ────────► starting ───────► running ──────────────────────────► stopping ──► stopped | failed
     │               │                                                     ▲              │
     │ stop()        └──────────────── stop(), kill(), failed start ───────┘              │
     ▼                                                                                    │
    stopped ◄─────────────────────────────────────────────────────────────────────────────┘
       └── start() from stopped or failed begins a new life (generation + 1)

new:       made, never started. `start()` takes it out; `stop()` makes it stopped.
starting:  begun, not ready. Its readiness takes it out, or a failure, or a stop.
running:   ready and at work. Its own end takes it out (success, permanent error), or a stop.
stopping:  takes nothing new. The end of its work takes it out, or the end of patience.
stopped:   ended as it should. failed: ended by a permanent error, which `wait()` raises.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a service is in its life. Compares equal to its plain string."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def alive(self) -> bool:
        """Whether a life is under way: starting, running or stopping."""
        return self in _ALIVE

    @property
    def over(self) -> bool:
        """Whether a life has ended: stopped or failed."""
        return self is State.STOPPED or self is State.FAILED


_ALIVE = (State.STARTING, State.RUNNING, State.STOPPING)
