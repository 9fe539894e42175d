"""per_worker: middleware that each worker of a pool or a queue has for itself, in the middle of what all share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from runcrew import clock
from runcrew.abc import Handler, Middleware
from runcrew.errors import ConfigError, brief
from runcrew.job import Outcome, Run, Status
from runcrew.policies.guard import check_plain, named


def per_worker(factory: Callable[[], Middleware]) -> PerWorker:
    """Middleware made once for each worker: `middleware=[counter, rc.per_worker(lambda: rc.Pace(every="1s"))]`.

    factory: called without arguments at a worker's first run, on the event loop; gives a middleware (a `Counter`, a
    `Pace`, a function that takes a handler and returns one), which that worker keeps as long as it lives. What else
    is in the same list stays shared by all workers. Where it raises, or gives what is no middleware, that run fails,
    and it is asked again for the next one.

    For whatever has workers: pools and queues. Raises ConfigError for a factory that cannot be called so; and so do
    doors without workers, to which this is given.
    """
    return PerWorker(factory)


class PerWorker:
    """What `rc.per_worker` gives. Any number of pools and queues may have it: a worker is of one of them alone."""

    __slots__ = ("__name__", "factory")

    def __init__(self, factory: Callable[[], Middleware]) -> None:
        check_plain(factory, "per_worker", "nothing and returns a middleware")
        try:
            inspect.signature(factory).bind()
        except TypeError as error:
            raise ConfigError(
                f"per_worker: {named(factory)} cannot be called without arguments ({error}): give a function that "
                "makes a middleware, as in rc.per_worker(lambda: limit(5))"
            ) from None
        except ValueError:  # written in C, and does not say what it takes
            pass
        self.factory = factory
        #: For messages, and for those who describe what they were given.
        self.__name__ = f"per_worker({named(factory)})"

    def __repr__(self) -> str:
        return f"<{self.__name__}>"

    def __call__(self, handler: Handler, /) -> NoReturn:
        """What a chain does that has no workers: raises ConfigError."""
        raise ConfigError(
            f"middleware: {self.__name__} makes one for each worker, and here are none: give it to a pool or a queue, "
            "or give the middleware itself"
        )

    def layer(self, handler: Handler, wrapped: Callable[[Handler, Middleware], Handler]) -> Handler:
        """The one handler for all workers: it finds the worker's own, which it has made at the first run.

        wrapped: puts a middleware around a handler; raises ConfigError for what is none.
        """
        key = object()

        async def handle(run: Run) -> Outcome[Any]:
            layers: dict[Any, Handler] | None = run.worker.layers
            if layers is None:
                layers = run.worker.layers = {}
            own = layers.get(key)
            if own is None:
                try:
                    own = layers[key] = wrapped(handler, self.factory())
                except BaseException as error:
                    said = f"{self.__name__} failed: {brief(error)}"
                    return run.finished(Status.FAILED, clock.current().now(), error=error, reason=said)
            return await own(run)

        return handle
