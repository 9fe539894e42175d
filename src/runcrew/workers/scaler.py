"""Scaler: carries out, from time to time, what is decided about the number of workers of one group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from runcrew import clock
from runcrew.events import Scaled
from runcrew.workers.group import Group
from runcrew.workers.scale import Decision, Load, Scale, Scaling

_log: Final = logging.getLogger("runcrew")

#: So many changes are kept, the last ones.
KEPT: Final = 64


class Scaler:
    """Scales one group from `start` to `stop`. For one life of its door."""

    def __init__(
        self,
        group: Group,
        scale: Scale,
        *,
        least: int,
        most: int | None,
        observe: Callable[[], Load],
        decided: Callable[[Decision], None] | None = None,
    ) -> None:
        """observe: gives the load as it is; called on the loop, in the group's context, at each look.
        decided: hears of each change when it has begun, has been logged, and the event `Scaled` was emitted; None:
            nobody needs to. What either of them raises is logged, and the next look comes.
        """
        self._group = group
        self._scale = scale
        self._scaling = Scaling(scale, least, most)
        self._observe = observe
        self._decided = decided
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        #: The last changes, the latest at the end.
        self.decisions: tuple[Decision, ...] = ()

    def start(self) -> None:
        """Look from here on; the first look comes after the first pause. Not after `stop`."""
        if self._timer is None and not self._stopped:
            self._look_later()

    def stop(self) -> None:
        """Look no more, and change nothing from here on. Idempotent."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        # Out of step, since what comes and goes with the looks would be seen always there or never.
        pause = self._scale.every * clock.current().random.uniform(0.75, 1.25)
        self._timer = self._group.loop.call_later(pause, self._look, context=self._group.context)

    def _look(self) -> None:
        self._timer = None
        try:
            self._decide()
        except Exception as error:
            _log.error("%s: scaling failed", self._group.name, exc_info=error, extra=self._extra)
        if not self._stopped:
            self._look_later()

    def _decide(self) -> None:
        decision = self._scaling.decide(self._observe())
        if self._stopped or decision.after == decision.before:
            return
        group, hub = self._group, self._group.home.hub
        decision = replace(decision, at=clock.current().now())
        self.decisions = (*self.decisions[1 - KEPT :], decision)
        group.resize(decision.after)
        _log.info("%s: %s", group.name, decision, extra=self._extra)
        if hub.wants(Scaled):
            told = decision.inputs
            hub.emit(
                Scaled(
                    decision.at, group.home.name, decision.before, decision.after, decision.reason,
                    told.arrival, told.completion, told.busy, told.utilisation, told.waiting, told.age, told.demand,
                )
            )  # fmt: skip
        if self._decided is not None:
            self._decided(decision)

    @property
    def _extra(self) -> dict[str, str]:
        return {"service": self._group.home.name}
