"""The pytest plugin: the marker `virtual`, which runs an `async def` test on a fresh virtual loop.

It touches no test without the marker, and imports nothing before the first one that has it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from types import MethodType
from typing import Any

import pytest

_OPTIONS = ("seed", "start", "autojump_after", "patience")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "virtual(seed=None, start=None, autojump_after=None, patience=30): "
        "run this async test on a fresh event loop of virtual time (see runcrew.testing.run_virtual).",
    )


@pytest.hookimpl
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: Any) -> None:
    """Take back what anyio has put on a test that it takes for its own: it would run once for each of its backends.

    Called after anyio's hook, which comes first, and before pytest's own, which comes last. A test that is
    marked `anyio` as well has asked for its backends.
    """
    own: list[pytest.Mark] = [mark for mark in getattr(obj, "pytestmark", ()) if isinstance(mark, pytest.Mark)]
    names = [mark.name for mark in own] + [mark.name for mark in collector.iter_markers()]
    if "virtual" in names and "anyio" not in names and _is_async(obj):
        obj.pytestmark = [mark for mark in own if (mark.name, mark.args) != ("usefixtures", ("anyio_backend",))]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A marked test is set up and run as any function is.

    pytest-asyncio gives it a class that would run it on a real loop, before `pytest_pyfunc_call` sees it.
    """
    if isinstance(item, pytest.Function) and item.get_closest_marker("virtual") and _is_async(item.obj):
        for step in (pytest.Function.setup, pytest.Function.runtest):
            setattr(item, step.__name__, MethodType(step, item))


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, None]:
    """While a marked test is called, a plain function stands in the place of its coroutine function.

    So whatever else calls tests (pytest itself, hypothesis, another plugin) finds nothing unusual.
    A plain `def` test under the marker runs as it is: a whole module can be marked.
    """
    marker = pyfuncitem.get_closest_marker("virtual")
    property_test = getattr(pyfuncitem.obj, "hypothesis", None)
    holder, attribute = (pyfuncitem, "obj") if property_test is None else (property_test, "inner_test")
    test = getattr(holder, attribute)
    if marker is None or not inspect.iscoroutinefunction(test):
        yield
        return
    setattr(holder, attribute, _plain(test, _options(marker)))
    try:
        yield
    finally:
        setattr(holder, attribute, test)


def _is_async(test: Any) -> bool:
    """Also of a property test, which is a plain function around an async one."""
    return inspect.iscoroutinefunction(getattr(getattr(test, "hypothesis", None), "inner_test", test))


def _options(marker: pytest.Mark) -> dict[str, Any]:
    unknown = [repr(value) for value in marker.args] + [name for name in marker.kwargs if name not in _OPTIONS]
    if unknown:
        raise pytest.UsageError(
            f"the marker virtual takes the keywords {', '.join(_OPTIONS)}, not {', '.join(unknown)}"
        )
    return dict(marker.kwargs)


def _plain(test: Callable[..., Any], options: dict[str, Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def on_virtual_time(*args: Any, **kwargs: Any) -> None:
        from runcrew.testing.run import run_virtual

        run_virtual(functools.partial(test, *args, **kwargs), **options)

    return on_virtual_time
