"""The parts of the watcher: what it reads, what it asks, what it keeps."""

from __future__ import annotations

import asyncio
import http.client
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import runcrew as rc
from runcrew.events import Restarted

Load = Callable[[str], ModuleType]
GOOD = '[[target]]\nname = "a"\nurl = "http://h/"\n'


@pytest.fixture
def targets(example: Load) -> ModuleType:
    """The module that reads targets.toml."""
    return example("watch/targets.py")


@pytest.fixture
def watch(example: Load) -> ModuleType:
    """The program itself."""
    return example("watch/watch.py")


# --- targets.toml ---------------------------------------------------------------------------------


def test_targets_are_read(targets: ModuleType, tmp_path: Path) -> None:
    """Each [[target]] becomes one, with its defaults and its place."""
    file = tmp_path / "t.toml"
    file.write_text(
        '# two\n[[target]]\nname = "a"\nurl = "http://h:{steady}/"\nevery = 0.5\n\n' + GOOD.replace('"a"', '"b"')
    )
    first, second = targets.read_targets(file, ("steady",))
    assert ("a", "http://h:{steady}/", 0.5, "3s", f"{file}:2") == (
        first.name, first.url, first.every, first.timeout, first.place,
    )  # fmt: skip
    assert ("b", "2s", f"{file}:7") == (second.name, second.every, second.place)


def test_a_mark_in_front_does_no_harm(targets: ModuleType, tmp_path: Path) -> None:
    """A file that an editor has saved with a byte order mark is read as one without."""
    (tmp_path / "t.toml").write_text(GOOD, encoding="utf-8-sig")
    assert ["a"] == [target.name for target in targets.read_targets(tmp_path / "t.toml")]


def test_the_default_targets_are_good(watch: ModuleType) -> None:
    """The packaged targets.toml can be watched as it is."""
    crew = watch.crew()
    crew.check()
    assert {"migrate", "results", "threads", "probes", "servers", "chaos"} < {*crew}
    assert ["steady", "flaky", "north", "east", "south", "west"] == list(crew)[-6:]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [1,\n\n2", ":3: this is not TOML"),
        ("a = 1\nb = = 2\n", ":2: this is not TOML"),
        ("", ":1: there is nothing to watch: write a [[target]]"),
        ("target = []", ":1: there is nothing to watch"),
        ("target = [1]", ":1: 1 is no table"),
        (GOOD + "\n[other]\nx = 1\n", ":5: 'other' is unknown here"),
        (GOOD + 'everi = "2s"\n', ":4: 'everi' is unknown: a target has name, url, every, timeout"),
        ('[[target]]\nurl = "http://h/"\n', ":1: this target has no name"),
        ('[[target]]\nname = "a"\n', ":1: this target has no url"),
        (GOOD + '\n[[target]]\nname = ""\nurl = "http://h/"\n', ":6: this target has no name"),
        ('[[target]]\nname = " "\nurl = "http://h/"\n', ":2: this target has no name"),
        (GOOD + f"every = {'9' * 5000}\n", ":4: a number here has too many digits"),
        (f"x = {'[' * 20_000}", ": this is nested too deeply to be read"),
        (f"target = [{list(range(1000))}]", ":1: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14"),
        ('[[target]]\nname = 7\nurl = "http://h/"\n', ":2: name = 7 has the wrong type"),
        (GOOD + "every = true\n", ":4: every = True has the wrong type"),
        (GOOD + "every = [1]\n", ':4: every = [1] has the wrong type: give a span such as "10s"'),
        ('[[target]]\nname = "a"\nurl = "h/path"\n', ":3: url = 'h/path': this cannot be watched"),
        ('[[target]]\nname = "a"\nurl = "http://h:99999/"\n', ":3: url"),
        ('[[target]]\nname = "a"\nurl = "http://a..b/"\n', ":3: url = 'http://a..b/': this cannot be watched"),
        ('[[target]]\nname = "a"\nurl = "http://{nobody}/"\n', ":3: url = 'http://{nobody}/': {nobody} stands for no"),
        ('[[target]]\nname = "a\\u001b[2J"\nurl = "http://h/"\n', r":2: name = 'a\x1b[2J' cannot be printed"),
        ('target = [{name = "a", url = 3}]\n', ":1: url = 3 has the wrong type"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(targets: ModuleType, tmp_path: Path, text: str, words: str) -> None:
    """A bad file is refused with the file, the line, the value and what to do."""
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(rc.ConfigError) as caught:
        targets.read_targets(file, ("steady",))
    assert str(caught.value).startswith(f"{file}{words}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('every = "0s"', "every: '0s' is zero"),
        ('every = "soon"', "every: 'soon' does not parse"),
        ("every = -1", "every: -1 is negative"),
        ("every = nan", "every: nan is not a finite span"),
        ('timeout = "0s"', "timeout: '0s' is zero"),
        ("timeout = inf", "timeout: inf is not a finite span"),
    ],
)
def test_bad_spans_are_told_with_the_place(watch: ModuleType, tmp_path: Path, line: str, words: str) -> None:
    """What runcrew itself refuses is told with the file and the line of the key."""
    file = tmp_path / "t.toml"
    file.write_text(f"\n{GOOD}{line}\n")
    with pytest.raises(rc.ConfigError) as caught:
        watch.build(targets=file)
    assert str(caught.value).startswith(f"{file}:5: {words}")


@pytest.mark.parametrize("name", ["a", "migrate", "results", "timer"])
def test_two_targets_with_one_name_are_refused(watch: ModuleType, tmp_path: Path, name: str) -> None:
    """A name that is taken, by another target or by the program itself, is refused with the line of the second."""
    file = tmp_path / "t.toml"
    file.write_text(GOOD + "\n" + GOOD.replace('"a"', f'"{name}"'))
    with pytest.raises(rc.ConfigError, match=f"has a child named '{name}' already") as caught:
        watch.build(targets=file, lasts="1s")
    assert str(caught.value).startswith("--for: " if name == "timer" else f"{file}:5: ")


def test_a_file_that_cannot_be_read(targets: ModuleType, tmp_path: Path) -> None:
    """A missing file, a directory and a file that is no text are each refused for what they are."""
    for path, words in ((tmp_path / "no.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(rc.ConfigError, match=words):
            targets.read_targets(path)
    (tmp_path / "t.toml").write_bytes(b"# one\n# two\nname = '\xff'\n")
    with pytest.raises(rc.ConfigError, match=r"t\.toml:3: this is not UTF-8"):
        targets.read_targets(tmp_path / "t.toml")


def test_names_of_urls(targets: ModuleType) -> None:
    """A URL from the command line is called by its host and path, and never as another."""
    names: list[str] = []
    for url in ("https://h/a/", "http://h:80/a?b=c", "https://h/a", "http://h/@me"):
        names.append(targets.target_of(url, names).name)
    assert ["h/a", "h:80/a", "h/a (2)", "h/@me"] == names


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h/a",
        "ftp://h/",
        "http://",
        "http://h:0/",
        "http://me:secret@h/",
        "http://h/ a",
        "http://h/{x}",
        "http://h/{",
    ],
)
def test_what_is_no_url_is_refused(targets: ModuleType, url: str) -> None:
    """What cannot be asked over HTTP is refused."""
    with pytest.raises(rc.ConfigError):
        targets.target_of(url, [])


# --- asking -----------------------------------------------------------------------------------


@pytest.fixture
def answers() -> Iterator[tuple[str, list[str]]]:
    """A server that answers `/STATUS` with that status, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(int(self.path.strip("/")[:3]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.realtime
def test_what_an_answer_means(example: Load, answers: tuple[str, list[str]]) -> None:
    """2xx and 3xx are good; 404 and 410 are final; other answers from 400 on may be right the next time."""
    probe, (base, asked) = example("watch/probe.py"), answers
    for status in (200, 204, 301):
        assert status == probe.ask(f"{base}/{status}", 2)[0]
    for status, kind in ((404, probe.Gone), (410, probe.Gone), (429, probe.BadStatus), (500, probe.BadStatus)):
        with pytest.raises(probe.BadStatus) as caught:
            probe.ask(f"{base}/{status}", 2)
        assert (kind, status) == (type(caught.value), caught.value.status)
    assert 200 == probe.ask(f"{base}/200/ü?q=a b", 2)[0]
    assert "/200/%C3%BC?q=a%20b" == asked[-1]


@pytest.mark.realtime
def test_nobody_and_silence(example: Load) -> None:
    """A server that says nothing is a TimeoutError, and where nobody listens the connection is refused."""
    probe = example("watch/probe.py")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            probe.ask(url, 0.05)
    with pytest.raises(ConnectionRefusedError):
        probe.ask(url, 1)


@pytest.mark.realtime
@pytest.mark.parametrize(("said", "error"), [(b"", ConnectionError), (b"nonsense\r\n\r\n", http.client.HTTPException)])
def test_hanging_up_and_nonsense(example: Load, said: bytes, error: type[Exception]) -> None:
    """A server that hangs up, or does not speak HTTP, raises what the rule for that knows."""
    probe = example("watch/probe.py")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(error):
            probe.ask(f"http://127.0.0.1:{server.getsockname()[1]}/", 2)
        thread.join()


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (ConnectionRefusedError(), "refused"),
        (ConnectionResetError(), "hung up"),
        (http.client.BadStatusLine("x"), "hung up"),
        (http.client.RemoteDisconnected("gone"), "hung up"),
        (TimeoutError(), "too slow"),
        (rc.RunTimeout(), "too slow"),
        (ValueError(), None),
        (OSError(), "unreachable"),
        (socket.gaierror(), "unreachable"),
        (ssl.SSLError(), "unreachable"),
        (sqlite3.OperationalError(), None),
    ],
)
def test_which_rule_answers_which_error(watch: ModuleType, error: Exception, rule: str | None) -> None:
    """Each kind of error has the rule that is meant for it, as the first that matches."""
    assert rule == next((r.name for r in watch.RULES if r.matches(error)), None)


def test_gone_is_final(watch: ModuleType) -> None:
    """A 404 is retried by no rule, a 500 by its own."""
    assert "bad status" == next(r.name for r in watch.RULES if r.matches(watch.probe.BadStatus(500)))
    assert [] == [r.name for r in watch.RULES if r.matches(watch.probe.Gone(404))]


# --- keeping ------------------------------------------------------------------------------------


@pytest.fixture
def store(example: Load) -> ModuleType:
    """The module that keeps what came of it."""
    return example("watch/store.py")


def result(store: ModuleType, target: str, ms: float | None = None, attempt: int = 1) -> Any:
    """A result; a bad one where it took no time."""
    return store.Result(target, "run", attempt, 200 if ms else 500, ms, None if ms else "BadStatus: 500")


def test_results_are_kept_and_summed_up(store: ModuleType, tmp_path: Path) -> None:
    """What goes in comes out, summed up by target, over all connections."""
    file = store.Store(tmp_path / "w.db")
    assert [] == list(file.summary())
    assert tmp_path / "w.db" == file.prepare()
    with contextmanager(file.connection)() as one, contextmanager(file.connection)() as two:
        store.add(one, result(store, "b", 3.0))
        store.add(two, result(store, "a"))
        store.add(one, result(store, "a", 1.0, attempt=2))
        store.add(two, result(store, "a", 2.0))
        store.add_alert(one, "a", "down")
    rows = [(row.target, row.ok, row.failed, row.retried, row.alerts, row.p50) for row in file.summary()]
    assert [("a", 2, 1, 1, 1, 1.5), ("b", 1, 0, 0, 0, 3.0)] == rows
    assert ["w.db"] == [path.name for path in tmp_path.iterdir()], "closed, and so nothing is left beside it"


def test_an_old_file_is_gone_on_with(store: ModuleType, tmp_path: Path) -> None:
    """Prepared again, the file still has what was in it."""
    counts: list[int] = []
    for _ in range(2):
        file = store.Store(tmp_path / "w.db")
        file.prepare()
        with contextmanager(file.connection)() as db:
            store.add(db, result(store, "a", 1.0))
        counts += [row.ok for row in file.summary()]
    assert [1, 2] == counts


def test_an_error_of_the_file_makes_its_connection_suspect(store: ModuleType) -> None:
    """And no other error does."""
    assert not store.is_healthy(sqlite3.OperationalError("disk I/O error"))
    assert store.is_healthy(rc.StopTree())


def test_a_bad_place_is_refused(example: Load, tmp_path: Path) -> None:
    """A path without a directory, a directory, and a file of another kind are refused before anything starts."""
    store = example("watch/store.py").Store
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at\n" * 10)
    for path, words in (
        (tmp_path / "no/w.db", "no directory"),
        (tmp_path, "unable to open"),
        (tmp_path / "text", "not a"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (Path("/proc/w.db"), r"cannot be written .*: give the path"),
    ):
        with pytest.raises(rc.ConfigError, match=words):
            store(path)
    store(tmp_path / "new.db")
    assert ["text"] == [file.name for file in tmp_path.iterdir()], "to look leaves nothing behind"


# --- all together, with an endpoint that does what the test says --------------------------------------------


@pytest.fixture
def answers_of(watch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say what comes of asking: a status each, 200 for ever after the last."""

    def these(*statuses: int) -> None:
        script = iter(statuses)

        def ask(url: str, timeout: float) -> tuple[int, float, bytes]:
            if (status := next(script, 200)) != 200:
                raise watch.probe.BadStatus(status)
            return status, 1.0, b"a page"

        monkeypatch.setattr(watch.probe, "ask", ask)

    return these


def a_crew(watch: ModuleType, tmp_path: Path) -> rc.Crew:
    """Polls one target every 10 s."""
    (tmp_path / "t.toml").write_text(GOOD + "every = 10\n")
    crew: rc.Crew = watch.build(targets=tmp_path / "t.toml", db=tmp_path / "w.db")
    return crew


def kept(tmp_path: Path, query: str) -> list[Any]:
    """What is in the file."""
    with closing(sqlite3.connect(tmp_path / "w.db")) as db:
        return db.execute(query).fetchall()


@pytest.mark.virtual
async def test_a_target_that_goes_down_and_comes_up_is_told_once_each(
    watch: ModuleType, answers_of: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two failures in a row are a fall, the next success is a rise; a single failure is neither."""
    answers_of(200, 500, 200, 500, 500, 500, 200)
    async with a_crew(watch, tmp_path):
        await asyncio.sleep(35)
    assert [("a", "down: BadStatus: 500 Internal Server Error"), ("a", "up again")] == kept(
        tmp_path, "select target, said from alert order by at"
    )
    assert [(1, 200), (1, 500), (2, 200), (1, 500), (2, 500), (3, 500), (4, 200), (1, 200)] == kept(
        tmp_path, "select attempt, status from result order by at"
    )
    said = [line[9:] for line in capsys.readouterr().out.splitlines()]
    assert 1 == said.count("a            up again")
    assert 4 == len([line for line in said if "  200  " in line])
    assert "a            4 ok, 4 failed, 4 retried, 2 alerts, p50 1.0 ms" == said[-1]


@pytest.mark.virtual
async def test_what_was_accepted_is_in_the_file_after_a_stop(
    watch: ModuleType, answers_of: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits when the stop comes is stored all the same, alerts before results, which are less urgent."""
    answers_of()
    crew = a_crew(watch, tmp_path)
    results: Any = crew["results"]
    await crew.start()
    await asyncio.sleep(1)
    await results.resize(0)
    capsys.readouterr()
    for number in range(20):
        await results.submit(watch.keep, watch.store.Result("b", "run", 1, 200, float(number), None, "d" * 64, 7))
    for number in range(20):
        await results.submit(watch.keep_alert, "b", f"alert {number}", priority=rc.HIGH)
    assert {0: 20, 10: 20} == results.stats().levels
    report = await crew.stop()
    assert report.clean
    assert 20 == len(kept(tmp_path, "select * from alert where target = 'b'"))
    assert 20 == len(kept(tmp_path, "select * from result where target = 'b'"))
    said = capsys.readouterr().out.splitlines()[:40]
    assert ["alert"] * 20 + ["200"] * 20 == [line.split()[2] for line in said]


@pytest.mark.virtual
async def test_each_connection_lives_in_a_thread_of_its_own(watch: ModuleType, tmp_path: Path) -> None:
    """Two workers, two threads, two connections; a connection that failed is replaced and the job done again."""
    crew = a_crew(watch, tmp_path)
    results: Any = crew["results"]
    seen: dict[int, int] = {}
    both = threading.Barrier(2)

    def look(db: sqlite3.Connection) -> None:
        both.wait(10)
        seen[threading.get_ident()] = id(db)

    trouble = iter([sqlite3.OperationalError("disk I/O error"), None])

    def fail_once(db: sqlite3.Connection) -> int:
        if (error := next(trouble)) is not None:
            raise error
        return id(db)

    async with crew:
        await asyncio.gather(results.run(look), results.run(look))
        assert (2, 2) == (len(seen), len(set(seen.values())))
        await results.run(fail_once)
        assert (1, 1) == (results.stats().requeued, results.stats().replaced)


@pytest.mark.virtual
async def test_what_cannot_be_stored_is_the_polls_own_failure(
    watch: ModuleType, answers_of: Callable[..., None], tmp_path: Path
) -> None:
    """An error of the file comes out in the poll that wanted it stored, and the crew restarts that."""
    answers_of()
    crew = a_crew(watch, tmp_path)
    restarts: list[BaseException | None] = []
    crew.subscribe(lambda event: restarts.append(event.error), Restarted)
    await crew.start()
    await asyncio.sleep(1)
    with closing(sqlite3.connect(tmp_path / "w.db")) as db:
        db.execute("drop table result")
    await asyncio.sleep(20)
    report = await crew.kill()
    assert restarts
    assert all(isinstance(error, sqlite3.OperationalError) for error in restarts)
    assert ["summary"] == [error.hook.rpartition(".")[2] for error in report.hook_errors], "which finds no table"


# --- the pool of probes -----------------------------------------------------------------------------------------


@pytest.fixture
def answers_in(watch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say how long asking takes, from now on."""

    def seconds(span: float) -> None:
        def ask(url: str, timeout: float) -> tuple[int, float, bytes]:
            rc.current_run().sleep(span)
            return 200, span * 1000, b"a page"

        monkeypatch.setattr(watch.probe, "ask", ask)

    return seconds


def many(watch: ModuleType, tmp_path: Path, targets: int) -> rc.Crew:
    """Polls so many targets every second."""
    tables = [f'[[target]]\nname = "t{n}"\nurl = "http://h/{n}"\nevery = "1s"\n' for n in range(targets)]
    (tmp_path / "t.toml").write_text("\n".join(tables))
    crew: rc.Crew = watch.build(targets=tmp_path / "t.toml", db=tmp_path / "w.db")
    return crew


@pytest.mark.virtual
async def test_probes_grow_with_slow_targets_and_shrink_again(
    watch: ModuleType, answers_in: Callable[[float], None], tmp_path: Path
) -> None:
    """Ten targets that take 0.9 s of each second need ten probes at most, and back to two when they are quick."""
    answers_in(0.01)
    crew = many(watch, tmp_path, 10)
    probes: Any = crew["probes"]
    async with crew:
        await asyncio.sleep(20)
        assert (2, ()) == (probes.size, probes.stats().decisions), "what is quick needs no more"
        answers_in(0.9)
        await asyncio.sleep(20)
        assert 10 == probes.size
        before = kept(tmp_path, "select count(*) from result")[0][0]
        await asyncio.sleep(20)
        assert 190 <= kept(tmp_path, "select count(*) from result")[0][0] - before, "all keep their pace"
        answers_in(0.01)
        await asyncio.sleep(20)
        assert (2, 2) == (probes.size, probes.stats().alive)
    sizes = [decision.after for decision in probes.stats().decisions]
    most = sizes.index(10)
    assert sizes == sorted(sizes[: most + 1]) + sorted(sizes[most + 1 :], reverse=True), "up, and then down"


@pytest.mark.virtual
async def test_polls_that_are_under_way_are_answered_before_the_probes_leave(
    watch: ModuleType, answers_in: Callable[[float], None], tmp_path: Path
) -> None:
    """A stop finishes all polls of that moment, also those that still wait for a probe; then nothing is left over."""
    answers_in(0.4)
    crew = many(watch, tmp_path, 8)
    await crew.start()
    await asyncio.sleep(0.1)
    report = await crew.stop()
    assert report.clean
    assert 8 == kept(tmp_path, "select count(*) from result where error is null")[0][0]
    assert [0] * 3 == [crew[name].stats().runs.failed for name in ("probes", "threads", "results")]  # type: ignore[attr-defined]


@pytest.mark.virtual
async def test_one_that_hangs_does_not_hold_up_the_others(
    watch: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A target that never answers has one probe until its time is up; the other serves the rest."""

    def ask(url: str, timeout: float) -> tuple[int, float, bytes]:
        rc.current_run().sleep(1e6 if url.endswith("/0") else 0.01)
        return 200, 10.0, b"a page"

    monkeypatch.setattr(watch.probe, "ask", ask)
    async with many(watch, tmp_path, 5):
        await asyncio.sleep(30.5)
    counts = dict(kept(tmp_path, "select target, count(*) from result where error is null group by target"))
    assert {f"t{n}": 31 for n in range(1, 5)} == counts
    failed = [error.partition(":")[0] for (error,) in kept(tmp_path, "select error from result where target = 't0'")]
    assert {"RunTimeout"} == set(failed)
    assert 3 <= len(failed)
