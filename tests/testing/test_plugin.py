"""The pytest plugin: it runs what is marked, and is not felt anywhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest

PLUGIN = ("-p", "runcrew.testing.plugin")
#: Unset, it makes pytest-asyncio warn.
SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture
def outside(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Somebody else's project, which loads no plugin by itself: that takes a second for each run."""
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = --strict-markers -p no:cacheprovider\n")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def test_a_marked_test_runs_on_virtual_time(outside: pytest.Pytester) -> None:
    """An async test with the marker runs on a fresh loop, with fixtures, parameters and its class."""
    outside.makepyfile("""
        import asyncio, datetime, pytest
        from runcrew import clock
        from runcrew.testing import virtual_loop

        @pytest.fixture
        def span(request):
            before = request.node.obj
            yield 3600
            assert before == request.node.obj

        @pytest.mark.virtual
        @pytest.mark.parametrize("times", [1, 2])
        async def test_parameters_and_fixtures(span, times):
            for _ in range(times):
                await asyncio.sleep(span)
            assert times * 3600 == virtual_loop().time()

        @pytest.mark.virtual
        class TestClass:
            async def test_method(self):
                assert 0 == virtual_loop().time()
                await asyncio.sleep(1)

        @pytest.mark.virtual(start=datetime.datetime(2031, 1, 1, tzinfo=datetime.UTC), seed=3, patience=None)
        async def test_options():
            assert 2031 == clock.utc(clock.current().now()).year
            assert clock.Clock(3).random.random() == clock.current().random.random()
    """)
    outside.runpytest(*PLUGIN).assert_outcomes(passed=4)


def test_a_marked_test_can_fail(outside: pytest.Pytester) -> None:
    """A failing assertion, an expected failure, a skip inside and a stuck loop are reported as pytest does."""
    outside.makepyfile("""
        import asyncio, pytest
        pytestmark = pytest.mark.virtual

        async def test_fails():
            await asyncio.sleep(1)
            one = 1
            assert one == 2

        async def test_stuck():
            await asyncio.Event().wait()

        @pytest.mark.xfail(strict=True)
        async def test_expected():
            raise ValueError

        async def test_skips():
            pytest.skip("not today")

        def test_plain():
            "A plain test in a marked module runs as it is."
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
    """)
    result = outside.runpytest(*PLUGIN)
    result.assert_outcomes(failed=2, xfailed=1, skipped=1, passed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2*", "*nobody will ever wake this loop*"])


def test_unmarked_tests_are_left_alone(outside: pytest.Pytester) -> None:
    """An async test without the marker is pytest's own business, as if the plugin were not there."""
    outside.makepyfile("""
        async def test_of_somebody_else():
            pass

        def test_plain():
            pass
    """)
    with_it, without_it = outside.runpytest(*PLUGIN), outside.runpytest()
    assert with_it.parseoutcomes() == without_it.parseoutcomes()
    assert {"failed": 1, "passed": 1} == with_it.parseoutcomes()


@pytest.mark.parametrize("option", ["sead=1", "1"])
def test_an_unknown_option_is_told(outside: pytest.Pytester, option: str) -> None:
    """A misspelt option of the marker is an error that names it and those there are."""
    outside.makepyfile(f"""
        import pytest

        @pytest.mark.virtual({option})
        async def test_it():
            pass
    """)
    result = outside.runpytest(*PLUGIN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*takes the keywords seed, start, autojump_after, patience, not {option[:4]}*"])


def test_property_tests_run_every_example_on_a_fresh_loop(outside: pytest.Pytester) -> None:
    """Under hypothesis each example has a loop of its own, and a failing one is shrunk as usual."""
    outside.makepyfile("""
        import asyncio, pytest
        from hypothesis import given, settings, strategies as st
        from runcrew.testing import virtual_loop

        @pytest.mark.virtual
        @settings(max_examples=20, database=None)
        @given(st.integers(0, 100))
        async def test_each(span):
            assert 0 == virtual_loop().time()
            await asyncio.sleep(span)

        @pytest.mark.virtual
        @settings(max_examples=100, database=None)
        @given(st.integers(0, 100))
        async def test_shrinks(span):
            await asyncio.sleep(span)
            assert virtual_loop().time() < 10
    """)
    result = outside.runpytest(*PLUGIN, "-p", "_hypothesis_pytestplugin")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*span=10,*"])


def test_it_lives_with_other_plugins(outside: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its entry point like all others it runs its own tests, and anyio's those that have only its mark."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    outside.makepyfile("""
        import asyncio, pytest
        from runcrew.testing import VirtualLoop, virtual_loop

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_anyio():
            assert not isinstance(asyncio.get_running_loop(), VirtualLoop)

        @pytest.mark.virtual
        async def test_virtual():
            virtual_loop()

        @pytest.mark.anyio
        @pytest.mark.virtual
        async def test_both():
            virtual_loop()
    """)
    outside.runpytest(*SCOPE).assert_outcomes(passed=3)


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_it_comes_before_pytest_asyncio(outside: pytest.Pytester, mode: str) -> None:
    """Whatever pytest-asyncio takes for its own: a test with our marker runs on virtual time, any other as it says."""
    outside.makepyfile("""
        import asyncio, pytest
        from hypothesis import given, settings, strategies as st
        from runcrew.testing import VirtualLoop, virtual_loop

        pytestmark = pytest.mark.asyncio

        @pytest.mark.virtual
        @pytest.mark.parametrize("hours", [1, 2])
        async def test_function(hours, tmp_path):
            loop = virtual_loop()
            await asyncio.sleep(hours * 3600)
            assert hours * 3600 == loop.time()

        @pytest.mark.virtual
        class TestClass:
            async def test_method(self):
                virtual_loop()

            @staticmethod
            async def test_static():
                virtual_loop()

        @pytest.mark.virtual
        @settings(max_examples=5, database=None)
        @given(st.integers(0, 100))
        async def test_property(span):
            assert 0 == virtual_loop().time()
            await asyncio.sleep(span)

        @pytest.mark.virtual
        async def test_skips():
            pytest.skip("not today")

        @pytest.mark.virtual
        async def test_fails():
            one = 1
            assert one == 2

        async def test_late_mark():
            virtual_loop()

        async def test_of_theirs():
            assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
    """)
    outside.makeconftest("""
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                if item.name == "test_late_mark":
                    item.add_marker(pytest.mark.virtual)
    """)
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "_hypothesis_pytestplugin")
    result = outside.runpytest(*PLUGIN, *plugins, "-o", f"asyncio_mode={mode}", *SCOPE)
    result.assert_outcomes(passed=7, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2*"])


def test_it_comes_before_anyio_in_auto_mode(outside: pytest.Pytester) -> None:
    """Where anyio takes every async test, ours runs once and on virtual time, whatever carries the marker."""
    outside.makepyfile("""
        import asyncio, pytest
        from runcrew.testing import virtual_loop

        @pytest.mark.virtual
        async def test_function():
            virtual_loop()

        @pytest.mark.virtual
        class TestClass:
            async def test_method(self):
                virtual_loop()

        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_of_theirs():
            with pytest.raises(RuntimeError):
                virtual_loop()
    """)
    result = outside.runpytest(*PLUGIN, "-p", "anyio.pytest_plugin", "-o", "anyio_mode=auto", "-v")
    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*test_function[[]*")


def test_the_marker_is_listed(outside: pytest.Pytester) -> None:
    """`pytest --markers` explains the marker."""
    outside.runpytest(*PLUGIN, "--markers").stdout.fnmatch_lines(
        ["@pytest.mark.virtual(seed=None, *): run this async test on*"]
    )


@pytest.mark.realtime
def test_the_plugin_imports_nothing_heavy() -> None:
    """Loading the plugin loads neither the loop nor asyncio; the names of the package come when they are asked for."""
    source = """
import sys, pytest
before = list(sys.modules)
import runcrew.testing.plugin
print(sorted(name for name in sys.modules if name not in before))
from runcrew import testing
for name in testing.__all__:
    getattr(testing, name)
assert [] == [name for name in testing.__all__ if name not in dir(testing)]
try:
    testing.nonsense
except AttributeError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    loaded, refused = said.splitlines()
    assert "['runcrew', 'runcrew.testing', 'runcrew.testing.plugin']" == loaded
    assert "module 'runcrew.testing' has no attribute 'nonsense'" == refused
