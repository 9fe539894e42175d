"""Whose turn it is on the event loop: what keeps workers whose runs end at once from keeping it to themselves.

All workers of all pools of a loop share one slice of time in each of its rounds. Who comes to its end waits, behind
those that wait already, for a later round: so everything else has its turn in between, and each of the workers too.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from runcrew.pool.tape import BATCH

#: How long runs follow one another in one round of the loop, in seconds.
SLICE: Final = 0.001

#: So many runs follow one another in a slice in which no time passes.
FEW: Final = 32


class Turns:
    """The turns of one loop's workers."""

    __slots__ = ("__weakref__", "_context", "_fresh", "_loop", "_now", "_still", "_waiting", "ends", "most", "round")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now
        #: Nobody's: what is begun here is for all.
        self._context = contextvars.Context()
        self._waiting: deque[asyncio.Future[None]] = deque()
        #: Whether no slice has begun in this round.
        self._fresh = True
        #: Whether time stands still while runs end, and so many have ended that some of it should have passed.
        self._still = False
        #: Counts the rounds. Who began in an earlier one than this has let the loop go round by waiting for something,
        #: and needs no turn: it is not one of those that keep it to themselves.
        self.round = 0
        #: So many runs follow one another before the rest is looked at.
        self.most = BATCH
        #: When the slice of this round ends; 0.0: there is none, or it is used up.
        self.ends = 0.0

    def take(self, now: float) -> bool:
        """Whether a run may begin now. False: `wait` first."""
        if now < self.ends:
            return True
        if not self._fresh or self._waiting:
            return False
        self._begin(now)
        return True

    def stands_still(self) -> None:
        """Many runs have ended, and no time has passed: it is virtual. As if the slice were used up, a slice of time
        passes now, in which the loop may be idle; otherwise whoever waits for a time to come would wait for ever."""
        self.ends = 0.0
        self._still = True
        self.most = FEW

    async def wait(self, turn: asyncio.Future[None]) -> None:
        """Wait for the turn; then a run may begin. Cancelling it gives the turn to the next.

        turn: resolved when it has come; who wants to begin nothing any more resolves it, and does not wait.
        """
        self._waiting.append(turn)
        if self._fresh and len(self._waiting) == 1:
            self._loop.call_soon(self._next, context=self._context)
        try:
            await turn
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled():
                self._next()
            raise
        if turn in self._waiting:
            self._waiting.remove(turn)
        else:
            self._begin(self._now())

    def _begin(self, now: float) -> None:
        self.ends = now + SLICE
        if self._fresh:
            self._fresh = False
            self._loop.call_soon(self._next_round, context=self._context)

    def _next_round(self) -> None:
        if self._still:
            self._still = False
            self._loop.call_later(SLICE, self._next_round, context=self._context)
            return
        self._fresh, self.ends = True, 0.0
        self.round += 1
        self._next()

    def _next(self) -> None:
        """The one that has waited for longest goes on, in the round after this one. It begins the next slice."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


#: By the id of the loop, as long as a pool has them: they hold the loop, so nobody else has its id.
_by_loop: Final[WeakValueDictionary[int, Turns]] = WeakValueDictionary()


def turns_of(loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> Turns:
    """The turns of a loop, which all pools on it share. `now`: reads its time."""
    turns = _by_loop.get(id(loop))
    if turns is None:
        turns = _by_loop[id(loop)] = Turns(loop, now)
    return turns
