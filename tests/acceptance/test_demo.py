"""`runcrew demo` as a newcomer runs it: real servers, real kills, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.realtime, pytest.mark.timeout(300)]

Start = Callable[..., Any]

RESULT = r"^\d\d:\d\d:\d\d (steady|flaky) +200 +\d+\.\d ms  [0-9a-f]{8} by process \d+"
ALERT = r"^\d\d:\d\d:\d\d (\S+) +(down: .*|up again)$"


def is_gone(demo: Any) -> None:
    """Nothing of an ended demo is alive: no server, no port that is listened at, nobody who hashes."""
    assert demo.servers()
    assert [] == [pid for pid in demo.hashers() if not demo.is_gone(pid)]
    assert [] == [pid for pid in demo.servers() if not demo.is_gone(pid)]
    assert [] == [port for port in dict.fromkeys(demo.ports()) if demo.listens(port)]


def test_it_ends_by_itself_after_its_time(start: Start, tmp_path: Path) -> None:
    """With --for it ends by itself, with 0 and a report."""
    demo = start("demo", "--for", "1s")
    assert 0 == demo.end(), demo.said
    assert [] == [pid for pid in (*demo.servers(), *demo.hashers()) if not demo.is_gone(pid)]
    assert "watch stops: timer ended" in demo.said
    assert "watch stopped in" in demo.said
    assert "0 would not stop" in demo.said


def test_it_kills_its_own_servers_and_gets_over_it(start: Start) -> None:
    """Its servers are restarted after a kill, at the same ports, and a poll that was refused succeeds as a retry."""
    demo = start("demo")
    demo.wait_for(r"servers: process \d+ listens", times=2)
    demo.wait_for(r"200 .*\(attempt \d+\)")
    demo.signal()
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    first, second = demo.servers()[:2]
    assert first != second
    assert len(dict.fromkeys(demo.ports())) == 3, "the ports stay the same over restarts"
    killed = demo.line(rf"chaos: SIGKILL to the servers' process {first}")
    restarted = demo.line("watch restarts servers in")
    again = demo.line(rf"servers: process {second} listens")
    assert killed < restarted < again


def test_its_probes_grow_and_shrink(start: Start) -> None:
    """While some targets answer slowly the pool of probes gets more workers; when they are quick again, it has two."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(r"probes: 2 -> \d workers: workers are at work for \d+% of their time")
    demo.wait_for(r"probes: 3 -> 2 workers: no more than \S+ were at work within 1.5s")
    demo.signal()
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    sizes = [(int(a), int(b)) for a, b in re.findall(r"probes: (\d) -> (\d) workers", demo.said)]
    assert max(after for _, after in sizes) >= 4, "four are slow at a time"
    assert [after for _, after in sizes][:-1] == [before for before, _ in sizes][1:], "each goes on from the last"


def test_the_summary_is_what_the_file_says(start: Start, tmp_path: Path) -> None:
    """Every result is in the SQLite file, and the summary at the end is made from it."""
    demo = start("demo", "--no-chaos", "--db", "watch.db")
    for target in ("steady", "flaky"):
        demo.wait_for(rf" {target} +200 ", times=2)
    demo.wait_for(ALERT, times=2)
    demo.signal()
    assert 0 == demo.end(), demo.said
    with sqlite3.connect(tmp_path / "watch.db") as db:
        rows = db.execute("select target, attempt, status, ms, error from result").fetchall()
        alerts = db.execute("select target, said from alert order by at").fetchall()
    db.close()
    assert not (tmp_path / "watch.db-wal").exists(), "closed, and so nothing is left beside it"
    told = {
        line.split()[1]: [int(n) for n in re.findall(r"(\d+) (?:ok|failed|retried|alerts)", line)]
        for line in demo.out[-6:]
    }
    for target in ("steady", "flaky"):
        mine = [row for row in rows if row[0] == target]
        good = [row for row in mine if row[4] is None]
        fell_or_rose = [said for name, said in alerts if name == target]
        assert [len(good), len(mine) - len(good), len([row for row in mine if row[1] > 1]), len(fell_or_rose)] == told[
            target
        ]
        assert len(good) == len([line for line in demo.out if re.search(RESULT, line) and target in line])
    assert sorted(alerts) == sorted(match.groups() for line in demo.out if (match := re.search(ALERT, line)))
    assert "chaos" not in demo.said
    assert 1 == len(demo.servers())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(start: Start, number: signal.Signals) -> None:
    """SIGTERM or Ctrl-C in the middle ends it within the grace time, with 0, and nothing is alive afterwards."""
    demo = start("demo")
    demo.wait_for(RESULT, times=3)
    demo.signal(number)
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    assert f"{number.name}: draining" in demo.said
    assert "watch stopped in" in demo.said


def test_a_second_signal_cuts_short(start: Start, tmp_path: Path) -> None:
    """A poll of a server that never answers holds the drain up; a second signal ends that, and says what hung."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        file = tmp_path / "mine.toml"
        file.write_text(
            f'[[target]]\nname = "silent"\nurl = "{url}"\ntimeout = "1h"\n'
            '[[target]]\nname = "steady"\nurl = "http://127.0.0.1:{steady}/"\nevery = "100ms"\n'
        )
        demo = start("demo", "--no-chaos", "--targets", str(file), "--db", "watch.db")
        demo.wait_for(RESULT, times=3)
        demo.signal()
        demo.wait_for("SIGTERM: draining")
        demo.signal()
        assert 3 == demo.end(), demo.said
    is_gone(demo)
    assert "SIGTERM again: killing" in demo.said
    assert "would not stop: " in demo.said
    assert "connection.getresponse()" in demo.said, "the line where it hangs"
    with closing(sqlite3.connect(tmp_path / "watch.db")) as db:
        stored = db.execute("select count(*) from result").fetchone()[0]
    assert stored == len([line for line in demo.out if re.search(RESULT, line)])


def test_ctrl_c_in_a_terminal_reaches_only_the_demo(start: Start) -> None:
    """A SIGINT to the whole process group, as a terminal sends it, ends it as well as one to itself."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(RESULT, times=2)
    os.killpg(demo.pid, signal.SIGINT)
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    assert "restarts servers" not in demo.said


def test_a_signal_while_it_starts(start: Start) -> None:
    """A signal before anything is ready ends it with 0, or is the death of a process that has begun nothing."""
    demo = start("demo", "-v")
    demo.wait_for(r"migrate: new -> starting|watch: new -> starting")
    demo.signal()
    assert 0 == demo.end(), demo.said
    assert [] == [pid for pid in demo.servers() if not demo.is_gone(pid)]


def test_killed_it_leaves_nothing(start: Start) -> None:
    """When the demo is killed with SIGKILL, its servers and those who hash notice, and end by themselves."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(RESULT)
    below = demo.descendants()
    assert {*demo.servers(), *demo.hashers()} < {*below}
    assert 4 == len(below), "servers, a fork server, and two who hash"
    demo.signal(signal.SIGKILL)
    assert -signal.SIGKILL == demo.end()
    is_gone(demo)
    assert [] == [pid for pid in below if not demo.is_gone(pid)]


def test_pages_are_hashed_in_other_processes(start: Start) -> None:
    """Two processes that are not the demo hash its pages, each page to the same digest; they end with it."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(RESULT, times=3)
    below = demo.descendants()
    demo.signal()
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    assert [] == [pid for pid in below if not demo.is_gone(pid)]
    assert 1 <= len(demo.hashers()) <= 2
    assert demo.pid not in demo.hashers()
    digests = [match[1] for line in demo.out if (match := re.search(r" ([0-9a-f]{8}) by process", line))]
    assert 1 == len(dict.fromkeys(digests)), "it is one page"
    assert f"hashes: {len(digests)} pages" in demo.said


def test_one_who_hashes_is_killed_by_somebody(start: Start) -> None:
    """A process that hashes and is killed is replaced, and no poll has failed for it."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(RESULT)
    before = demo.descendants()
    os.kill(demo.hashers()[0], signal.SIGKILL)
    demo.wait_for(rf"by process (?!{'|'.join(map(str, before))})\d+\b")
    demo.signal()
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    assert "0 would not stop" in demo.said
    assert "ProcessDied:" not in "\n".join(line for line in demo.err if "attempt" in line)


def test_who_makes_the_processes_is_killed_by_somebody(start: Start) -> None:
    """Where the fork server is killed all who hash die with it, and another one makes others."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(RESULT)
    before = demo.descendants()
    (server,) = [pid for pid in demo.children() if pid not in demo.servers()]
    assert demo.hashers()[0] not in demo.children()
    os.kill(server, signal.SIGKILL)
    demo.wait_for(rf"by process (?!{'|'.join(map(str, before))})\d+\b")
    demo.signal()
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    assert [] == [pid for pid in before if not demo.is_gone(pid)]


def test_a_server_killed_by_somebody_is_restarted(start: Start) -> None:
    """Without chaos of its own it gets over a kill from outside, with the same ports."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(RESULT)
    os.kill(demo.servers()[0], signal.SIGKILL)
    demo.wait_for(r"servers: process \d+ listens", times=2)
    before = len(demo.wait_for(RESULT))
    demo.wait_for(RESULT, times=before + 2)
    demo.signal()
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    assert 3 == len(dict.fromkeys(demo.ports()))


def test_urls_on_the_command_line_are_watched(start: Start) -> None:
    """A URL on the command line is polled beside the others; one where nobody listens does no harm to them."""
    one = start("demo", "--no-chaos")
    one.wait_for(RESULT)
    steady = one.ports()[0]
    two = start("demo", "--no-chaos", f"http://127.0.0.1:{steady}/some/path", "http://127.0.0.1:1/")
    two.wait_for(rf"127\.0\.0\.1:{steady}/some/path +200")
    two.wait_for(r"127\.0\.0\.1:1: attempt \d+ failed")
    two.wait_for(RESULT)
    two.signal()
    one.signal()
    assert (0, 0) == (one.end(), two.end()), two.said


def test_a_file_of_targets(start: Start, tmp_path: Path) -> None:
    """With --targets only what is in the file is watched, and no server is started that nothing asks."""
    one = start("demo", "--no-chaos")
    one.wait_for(RESULT)
    steady, flaky, _ = one.ports()
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[[target]]\nname = "good"\nurl = "http://127.0.0.1:{steady}/"\nevery = 0.2\n'
        f'[[target]]\nname = "bad"\nurl = "http://127.0.0.1:{flaky}/"\nevery = "100ms"\ntimeout = "10s"\n'
    )
    two = start("demo", "--targets", str(file))
    two.wait_for(r" good +200", times=3)
    two.wait_for(r"bad: attempt 1 failed, the next in .* by bad status: BadStatus: 500")
    two.signal()
    one.signal()
    assert (0, 0) == (one.end(), two.end()), two.said
    assert [] == two.servers()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [1,\n", "mine.toml:2: this is not TOML"),
        ('[[target]]\nname = "a"\n', "mine.toml:1: this target has no url"),
        ('\n[[target]]\nname = "a"\nurl = "http://h/"\nevery = "0s"\n', "mine.toml:5: every: '0s' is zero"),
    ],
)
def test_a_bad_file_starts_nothing(start: Start, tmp_path: Path, text: str, words: str) -> None:
    """A bad targets.toml is refused with 2, the file, the line, what is wrong and the remedy."""
    (tmp_path / "mine.toml").write_text(text)
    demo = start("demo", "--targets", "mine.toml")
    assert 2 == demo.end()
    assert ([], 1) == (demo.out, len(demo.err)), demo.said
    assert words in demo.err[0]


def test_its_logs_as_json(start: Start) -> None:
    """With --log-format json every line on stderr is an object, and stdout is as ever."""
    demo = start("--log-format", "json", "demo", "--no-chaos")
    demo.wait_for(RESULT)
    demo.signal()
    assert 0 == demo.end(), demo.said
    logged = [json.loads(line) for line in demo.err]
    assert "watch stopped" == logged[-1]["message"]


def test_a_reader_that_goes_away_ends_it(start: Start) -> None:
    """Where nobody reads standard output any more, as after `| head -1`, it ends well and says why."""
    demo = start("demo", "--no-chaos")
    demo.wait_for(RESULT)
    demo.no_reader = True
    assert 0 == demo.end(), demo.said
    is_gone(demo)
    assert "Traceback" not in demo.said
    assert "BrokenPipe" not in demo.said


@pytest.mark.parametrize("command", [["run", "watch.py:crew"], ["run", "watch.py:build"]])
def test_the_program_can_be_run_as_any_other(start: Start, tmp_path: Path, command: list[str]) -> None:
    """`runcrew run path/watch.py:crew` runs the same program."""
    folder = Path(__file__).parents[2] / "examples" / "watch"
    demo = start(command[0], str(folder / command[1]))
    demo.wait_for(RESULT, times=2)
    demo.signal()
    assert 0 == demo.end(), demo.said
    is_gone(demo)
