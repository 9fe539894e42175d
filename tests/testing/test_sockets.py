"""Sockets, pipes and children on a virtual loop: time does not run away from data that is on its way."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading

import pytest

from runcrew.testing import run_virtual, virtual_loop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back every line, until there are no more."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def talk(port: int, lines: int) -> list[bytes]:
    """The answers to so many lines, each asked for with a timeout over it."""
    answers = []
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(lines):
        writer.write(b"%d\n" % number)
        async with asyncio.timeout(5):
            answers.append(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answers


async def many_talks(clients: int, lines: int) -> float:
    """Several clients talk to one server; the virtual time that it took."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answers = await asyncio.gather(*(talk(port, lines) for _ in range(clients)))
        took = asyncio.get_running_loop().time()
        await asyncio.sleep(1)  # until the server has seen all of them go
    assert [[b"%d\n" % number for number in range(lines)]] * clients == answers
    return took


@pytest.mark.realtime
def test_no_time_passes_while_data_is_on_the_loopback() -> None:
    """A server and its clients on one virtual loop talk without one of their timeouts going off."""
    assert 0.0 == run_virtual(many_talks, 5, 100)


@pytest.mark.realtime
def test_shuffling_does_not_break_streams() -> None:
    """In 200 orders connections are made, used and closed without an error, and in no virtual time."""
    assert [0.0] * 200 == [run_virtual(many_talks, 3, 3, seed=seed) for seed in range(200)]


@pytest.mark.realtime
@pytest.mark.virtual
async def test_time_passes_over_a_connection_that_is_silent() -> None:
    """A timeout over a read goes off at its own time when nobody writes, and the connection works after it."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await reader.readline()
        assert 30.0 == asyncio.get_running_loop().time()
        writer.write(b"still there\n")
        assert b"still there\n" == await reader.readline()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(1)  # until the server has seen it go


@pytest.mark.realtime
@pytest.mark.virtual(autojump_after="500ms")
async def test_autojump_after_waits_for_what_comes_from_outside() -> None:
    """An answer that nobody here holds time for comes before the timeout, when there is real quiet before a jump."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        foreign = threading.Timer(0.01, theirs.sendall, (b"late",))
        foreign.start()
        async with asyncio.timeout(5):
            assert b"late" == await asyncio.get_running_loop().sock_recv(ours, 10)
        foreign.join()
    assert 0.0 == asyncio.get_running_loop().time()


@pytest.mark.realtime
@pytest.mark.virtual(autojump_after="5ms")
async def test_autojump_after_jumps_when_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each jump there is so much real time for an answer, once, and it lands where it should."""
    loop = virtual_loop()
    quiet: list[float] = []
    poll = loop._waiter.poll
    monkeypatch.setattr(loop._waiter, "poll", lambda timeout: quiet.append(timeout) or poll(timeout))
    for _ in range(5):
        await asyncio.sleep(3600)
    assert [0.005] * 5 == [timeout for timeout in quiet if timeout]
    assert 5 * 3600.0 == asyncio.get_running_loop().time()


@pytest.mark.realtime
@pytest.mark.virtual(autojump_after="1ms")
async def test_what_comes_from_outside_is_waited_for_without_any_timer() -> None:
    """A loop that expects answers from outside is not stuck for having no timer."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    foreign = threading.Timer(0.01, loop.call_soon_threadsafe, (came.set,))
    foreign.start()
    await came.wait()
    foreign.join()
    assert 0.0 == loop.time()


@pytest.mark.realtime
@pytest.mark.virtual
async def test_a_hold_covers_a_child_process() -> None:
    """With a hold over it, a child process ends before a timeout, and its output is there."""
    with virtual_loop().holding("the child"):
        async with asyncio.timeout(5):
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-S", "-c", "print('done')", stdout=asyncio.subprocess.PIPE
            )
            said, _ = await child.communicate()
    assert (b"done\n", 0) == (said, child.returncode)
    assert 0.0 == asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_a_descriptor_that_is_ready_comes_before_time() -> None:
    """What is in a pipe already is read before the next timer goes off."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    seen: list[str] = []
    loop.add_reader(reading, lambda: (seen.append("pipe"), loop.remove_reader(reading)))
    loop.call_later(1e-9, seen.append, "timer")
    os.write(writing, b"x")
    await asyncio.sleep(1)
    os.close(reading)
    os.close(writing)
    assert ["pipe", "timer"] == seen
