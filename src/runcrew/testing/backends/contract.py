"""The contract of backends, as tests."""

from __future__ import annotations

from typing import Any

from runcrew.testing.backends.deaths import Deaths
from runcrew.testing.backends.ending import Endings
from runcrew.testing.backends.harness import NotAsked, needs_of
from runcrew.testing.backends.inside import Sight
from runcrew.testing.backends.values import Values


class BackendContract(Values, Endings, Sight, Deaths):
    """Tests for a backend: pytest runs them for each subclass whose name begins with `Test`.

        class TestMine(BackendContract):
            def make(self):
                return Mine()

    make: gives the backend, a new one each time; called on the event loop of the test, and once before there is one.
    close(backend): async; gives back what it holds. Does nothing, unless you define it.

    Attributes say what it is. Tests that do not apply are not seen by pytest at all.

    runs_async, runs_plain: the forms of job that it runs; default: plain ones alone. What it does not run, its
        `check(job)` has to refuse.
    inline: whether plain jobs run on the event loop itself, where they may not sleep; default False.
    virtual: whether virtual time holds while a job runs, as it does for what `asyncio.to_thread` and
        `loop.run_in_executor` carry out; default True. False: the tests run in real time.
    unit: in real time, the seconds of one unit of time of the tests; default 0.05.
    same_objects: whether values, arguments and errors are the very objects; default True. False: pickled copies.
    context: whether context variables reach the job; default True.
    reports: whether what the job says by `progress()`, `ready()` and `log` reaches the program while it runs; default
        True.
    kills: whether it ends a job that does not listen; default False. The backend has to say the same by an
        attribute of that name.
    own_process: whether the death of a job's process is told as ProcessDied; default False.

    The jobs are picklable: a process in which `runcrew` can be imported can run them. They take notes in files.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not (cls.runs_async or cls.runs_plain):
            raise TypeError(f"{cls.__name__}: it runs neither async nor plain jobs: set runs_async or runs_plain")
        for name in dir(BackendContract):
            test = getattr(cls, name)
            found = test.test if isinstance(test, NotAsked) else test
            needs = needs_of(found)
            if needs is None:
                continue
            if not needs.met(cls):
                setattr(cls, name, NotAsked(found))
            elif found is not test:
                setattr(cls, name, found)
