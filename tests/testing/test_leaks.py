"""What every test of this suite is looked at for: each kind of thing left behind is found, once it is planted."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def planted(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, loop_errors: list[str]) -> pytest.Pytester:
    """A project with the conftest of this suite, and little grace."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8").replace("GRACE = 2.0", "GRACE = 0.02"))
    return pytester


def outcomes(planted: pytest.Pytester, source: str) -> tuple[dict[str, int], str]:
    """What became of the tests in `source`, and what was said."""
    planted.makepyfile(source)
    result = planted.runpytest("-p", "no:cacheprovider", "-p", "runcrew.testing.plugin")
    return result.parseoutcomes(), result.stdout.str()


def test_a_clean_test_passes(planted: pytest.Pytester) -> None:
    """A test that ends its threads and tasks is not bothered, nor is one whose thread takes a moment to end."""
    assert {"passed": 2} == outcomes(
        planted,
        """
        import asyncio, threading, time
        from runcrew.testing import run_virtual

        def test_threads_and_tasks():
            run_virtual(asyncio.to_thread, print)
            thread = threading.Thread(target=print)
            thread.start()
            thread.join()

        def test_a_moment():
            threading.Thread(target=time.sleep, args=(0.001,), name="runcrew-7").start()
        """,
    )[0]


def test_a_thread_left_behind_is_found(planted: pytest.Pytester) -> None:
    """A thread that would keep Python from ending is found and named."""
    found, said = outcomes(
        planted,
        """
        import threading, time

        def test_it():
            threading.Thread(target=time.sleep, args=(0.2,), name="the leak").start()
        """,
    )
    assert {"passed": 1, "errors": 1} == found
    assert "the leak" in said


def test_a_busy_thread_of_ours_is_found(planted: pytest.Pytester) -> None:
    """A daemon thread of the library that is still doing a job is found, and one that waits for work is not."""
    found, said = outcomes(
        planted,
        """
        import threading
        from runcrew.backends.threads import Threads

        def test_idle():
            Threads(1, name="runcrew-idle", idle="200ms").submit(print).result()

        def test_busy():
            Threads(1, name="runcrew-busy", idle=0).submit(threading.Event().wait, 0.2)

        def test_of_others():
            threading.Thread(target=threading.Event().wait, args=(0.2,), name="other", daemon=True).start()
        """,
    )
    assert {"passed": 3, "errors": 1} == found
    assert "Thread(runcrew-busy" in said
    assert "Thread(runcrew-idle" not in said


def test_an_error_nobody_heard_of_is_found(planted: pytest.Pytester, loop_errors: list[str]) -> None:
    """A task that failed without anybody asking, and an error in a callback, are found."""
    found, said = outcomes(
        planted,
        """
        import asyncio, pytest

        async def fails():
            raise LookupError("unheard")

        @pytest.mark.virtual
        async def test_task():
            asyncio.create_task(fails())
            await asyncio.sleep(1)

        @pytest.mark.virtual
        async def test_callback():
            asyncio.get_running_loop().call_soon(divmod, 1, 0)
            await asyncio.sleep(1)

        @pytest.mark.virtual
        async def test_expected(loop_errors):
            asyncio.get_running_loop().call_soon(divmod, 1, 0)
            await asyncio.sleep(1)
            assert ["ZeroDivisionError"] == [said.splitlines()[-1].split(":")[0] for said in loop_errors]
            loop_errors.clear()
        """,
    )
    assert {"passed": 3, "errors": 2} == found
    assert "LookupError: unheard" in said
    assert 3 == len(loop_errors)
    loop_errors.clear()


def test_a_lost_task_is_found(planted: pytest.Pytester, loop_errors: list[str]) -> None:
    """A pending task that nobody refers to any more is found, at the latest after its module."""
    found, said = outcomes(
        planted,
        """
        import asyncio

        def test_it():
            loop = asyncio.new_event_loop()
            loop.run_until_complete(asyncio.sleep(0))
            task = loop.create_task(asyncio.sleep(1), name="the lost one")
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()
        """,
    )
    assert {"passed": 1, "errors": 1} == found
    assert "Task was destroyed but it is pending" in said
    loop_errors.clear()


@pytest.mark.realtime
def test_a_child_left_behind_is_found(planted: pytest.Pytester) -> None:
    """A child process that outlives its test is found, where the system lists children."""
    found, _ = outcomes(
        planted,
        """
        import subprocess

        def test_it(request):
            child = subprocess.Popen(["sleep", "10"])
            request.config.add_cleanup(lambda: (child.kill(), child.wait()))
        """,
    )
    listed = any(Path("/proc/self/task").glob("*/children"))
    assert ({"passed": 1, "errors": 1} if listed else {"passed": 1}) == found
