"""Frames and tokens: what a parent and its child process say to one another, without any process."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest

from runcrew.backends.processes import wire
from runcrew.errors import NotPicklable


class Block(bytearray):
    """Bytes that travel beside the pickle."""

    def __reduce_ex__(self, protocol: object) -> Any:
        return Block, (pickle.PickleBuffer(self),)


def frames_of(data: list[bytes]) -> list[tuple[int, int, float, float, bytes]]:
    """What is made of these pieces."""
    reader = wire.Frames()
    return [(k, n, b, e, bytes(payload)) for piece in data for k, n, b, e, payload in reader.feed(piece)]


def cut(data: bytes, sizes: Iterator[int]) -> list[bytes]:
    """The same bytes in pieces of these sizes."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = next(sizes)
        found.append(data[at : at + size])
        at += size
    return found


SIZES = (0, 1, 7, 8, 33, 4_095, 65_000, wire.CHUNK - 1, wire.CHUNK, wire.CHUNK + 1, 200_000)


def test_frames_come_whole_however_they_are_cut() -> None:
    """Frames of all sizes, in pieces of random sizes, come out as they went in, in order."""
    chance = random.Random(1)
    for turn in range(30):
        wanted = [
            (chance.choice((wire.NOTHING, wire.VALUE, wire.ERROR)), chance.getrandbits(63), 1.5, 2.5, os.urandom(size))
            for size in chance.sample(SIZES, 6)
        ]
        data = b"".join(b"".join(wire.frame(k, n, [p[:3], p[3:]], b, e)) for k, n, b, e, p in wanted)
        most = (1_000, 65_536, 300_000)[turn % 3]
        assert wanted == frames_of(cut(data, (chance.randint(1, most) for _ in data)))


def test_a_frame_may_come_byte_by_byte() -> None:
    """Heads are cut anywhere, too."""
    data = b"".join(
        wire.frame(wire.VALUE, 7, [b"abc"], 1.0, 2.0) + wire.frame(wire.NOTHING, 8) + wire.frame(wire.READY)
    )
    wanted = [(wire.VALUE, 7, 1.0, 2.0, b"abc"), (wire.NOTHING, 8, 0.0, 0.0, b""), (wire.READY, 0, 0.0, 0.0, b"")]
    assert wanted == frames_of([bytes([byte]) for byte in data])


def test_what_are_no_frames_are_refused() -> None:
    """A length that no frame can have is an error, and not a wait for ever."""
    with pytest.raises(ValueError, match="no sense"):
        list(wire.Frames().feed(b"\xff" * 100))


@pytest.mark.parametrize("size", SIZES)
def test_values_travel_with_their_buffers_and_may_be_written_into(size: int) -> None:
    """In and beside the pickle, through frames: the same value comes out, and is writable."""
    for value in (bytes(size), bytearray(size), [Block(b"x" * size), "text", Block(b"y" * 3)], None):
        kind, pieces = wire.dumps(value)
        ((came, _, _, _, payload),) = list(wire.Frames().feed(b"".join(wire.frame(wire.VALUE | kind, 1, pieces))))
        assert value == wire.loads(came, payload)


def test_large_frames_are_not_copied_into_one_piece() -> None:
    """What is large is written piece by piece; what is small in one."""
    big = Block(b"z" * 1_000_000)
    kind, pieces = wire.dumps(big)
    assert wire.BUFFERS == kind
    assert any(isinstance(piece, memoryview) and piece.obj is not None for piece in pieces)
    assert 1 < len(wire.frame(wire.VALUE | kind, 1, pieces))
    assert 1 == len(wire.frame(wire.VALUE, 1, [b"a", b"b"]))


def test_a_token_is_taken_by_one_of_the_two() -> None:
    """What was written is read once, in order; an empty pipe says so, and a closed one ends."""
    back, front = os.pipe()
    try:
        os.set_blocking(back, False)
        assert [] == wire.read_tokens(back)
        os.write(front, wire.tokens(range(1, 65)))
        assert wire.TOKEN.unpack(os.read(back, wire.TOKEN.size)) == (1,)  # as the child does
        assert list(range(2, 65)) == wire.read_tokens(back)
        assert [] == wire.read_tokens(back)
        os.write(front, wire.tokens([2**63]))
        assert [2**63] == wire.read_tokens(back)
    finally:
        os.close(front)
        assert [] == wire.read_tokens(back)
        os.close(back)


def test_all_tokens_that_may_be_out_fit_into_the_pipe_in_one_piece() -> None:
    """A write of so many tokens is not cut, so that each is whole for whoever reads it."""
    from runcrew.queue.ahead import MOST

    assert MOST * wire.TOKEN.size <= 4_096  # PIPE_BUF


def test_what_cannot_travel_says_what_and_why() -> None:
    """The words name the thing; the cause is what pickling raised."""
    error = ValueError("why")
    wrong = wire.not_picklable("the thing", error)
    assert isinstance(wrong, NotPicklable)
    assert isinstance(wrong, TypeError)
    assert "the thing cannot travel between processes: ValueError: why" == str(wrong)
    assert error is wrong.__cause__
