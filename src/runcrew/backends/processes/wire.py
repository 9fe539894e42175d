"""Wire: how a parent and its child process talk, in four pipes.

- *requests*, parent to child: what to set up, functions, jobs, and that a run should end;
- *tokens*, parent to child: the number of each job that may begin, eight bytes each, in order. The child takes one just
  before it begins a run. The parent can read the pipe too, and so take back what has not begun: the system hands
  each token to one of the two, and both know which;
- *results*, child to parent: what came of each run, written when it has ended and before the next one begins;
- *bell*, child to parent: that there are results to read. To wake somebody up costs more than a small job does, so it
  is not rung for each of many small ones. Who cannot wait looks into the results by himself.

So a child can be killed at any moment, and it is known exactly which run was under way. A frame is a header and a
payload; what is in a payload is pickled, with large buffers beside the pickle and not in it (protocol 5).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from operator import itemgetter
from struct import Struct
from typing import Any, Final, TypeAlias

from runcrew.errors import NotPicklable, brief

Buffer: TypeAlias = "bytes | bytearray | memoryview"
#: kind, number, when it began and ended (ticks of the child's monotonic clock), payload.
Frame: TypeAlias = "tuple[int, int, float, float, Buffer]"

#: kind, number, began, ended, length of what follows.
HEAD: Final = Struct("<BQddQ")
TOKEN: Final = Struct("<Q")

# From the parent.
SETUP: Final = 1
FUNCTION: Final = 2  # numbered, for the jobs that follow
JOBS: Final = 3  # a list of (number, function, arguments, run[, attempt, due, timeout]); those are pickled, or a tuple
# of what cannot fail to travel, or None: they are in a frame of their own
ARGUMENTS: Final = 4  # of the job of that number, which follows: large ones
TELL: Final = 5  # the run of that number should end

# From the child.
READY: Final = 16
NOT_READY: Final = 17
NOTHING: Final = 18  # the run succeeded and gave None
VALUE: Final = 19
ERROR: Final = 20  # (pickled error or None, its text, its traceback as text)
UNFIT: Final = 21  # the resource did not pass its check; as ERROR
PROGRESS: Final = 22
SERVES: Final = 25  # the job says that what it serves is up
IDLE: Final = 27  # the job waits for something to do (began is 1), or goes on
LOGGED: Final = 26  # what is in it was logged
FULL: Final = 23  # it has come to use too much memory, and begins nothing more
CLOSED: Final = 24  # the resource was taken down; as ERROR, or without a payload

#: Added to the kind where large buffers follow the pickle.
BUFFERS: Final = 64
#: Added to the kind of a result whose job has looked at its run: what it has seen is to stay so.
LOOKED: Final = 128

_COUNT: Final = Struct("<Q")
_LENGTH_OF: Final = itemgetter(4)
#: So much is read at once.
CHUNK: Final = 1 << 16
#: A frame that says it is longer than this is no frame.
_ABSURD: Final = 1 << 44


def dumps(value: object) -> tuple[int, list[Buffer]]:
    """Pickled: what to add to the kind of its frame, and the pieces of the payload."""
    buffers: list[pickle.PickleBuffer] = []
    return in_pieces(pickle.dumps(value, 5, buffer_callback=buffers.append), buffers)


def in_pieces(data: bytes, buffers: list[pickle.PickleBuffer]) -> tuple[int, list[Buffer]]:
    """The same for what has been pickled, with the buffers that are beside it."""
    if not buffers:
        return 0, [data]
    raw = [buffer.raw() for buffer in buffers]
    sizes = [len(data), *(len(view) for view in raw)]
    head = _COUNT.pack(len(sizes)) + b"".join(map(_COUNT.pack, sizes))
    return BUFFERS, [head, data, *raw]


def loads(kind: int, payload: Buffer) -> Any:
    """The reverse."""
    if not kind & BUFFERS:
        return pickle.loads(payload)  # noqa: S301 - between a process and its own child
    view = memoryview(payload)
    if view.readonly:  # what is made of the buffers lies in them, and is to be written into as before
        view = memoryview(bytearray(view))
    (count,) = _COUNT.unpack_from(view)
    sizes = [_COUNT.unpack_from(view, 8 * (n + 1))[0] for n in range(count)]
    at = 8 * (count + 1)
    parts: list[memoryview] = []
    for size in sizes:
        parts.append(view[at : at + size])
        at += size
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - the same


def frame(
    kind: int, number: int = 0, pieces: Sequence[Buffer] = (), began: float = 0.0, ended: float = 0.0
) -> list[Buffer]:
    """A frame, in pieces to be written one after the other."""
    length = sum(map(len, pieces))
    head = HEAD.pack(kind, number, began, ended, length)
    if length <= CHUNK:  # one piece: copying is cheaper than another call
        return [b"".join([head, *pieces])]
    return [head, *pieces]


class Frames:
    """Puts frames together from what was read."""

    __slots__ = ("_have", "_need", "_parts")

    def __init__(self) -> None:
        self._parts: list[Buffer] = []
        self._have = 0
        self._need = HEAD.size

    @property
    def unfinished(self) -> bool:
        """Whether the rest of a frame is still to come."""
        return bool(self._parts)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with this. Raises ValueError for what are no frames."""
        whole: Buffer = data
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            # Writable, since what is made of large buffers lies in it.
            whole = memoryview(bytearray().join(self._parts)) if self._need > CHUNK else b"".join(self._parts)
            self._parts = []
        at, end, size = 0, len(whole), HEAD.size
        if not end % size:
            # Mostly they are all heads alone. The first that is not says so, whatever the others are taken to be.
            heads = list(HEAD.iter_unpack(whole))
            if not sum(map(_LENGTH_OF, heads)):
                return [(kind, number, began, ended, b"") for kind, number, began, ended, _ in heads]
        found: list[Frame] = []
        need = size
        while end - at >= size:
            kind, number, began, ended, length = HEAD.unpack_from(whole, at)
            if not length:
                found.append((kind, number, began, ended, b""))
                at += size
                continue
            start = at + size
            if end - start < length:
                need = size + length
                if length > _ABSURD:
                    raise ValueError("what was read makes no sense")
                break
            found.append((kind, number, began, ended, whole[start : start + length]))
            at = start + length
        if at < end:
            self._parts = [bytes(whole[at:])]
            self._have, self._need = end - at, need
        return found


def tokens(numbers: Sequence[int]) -> bytes:
    """What lets these begin."""
    return b"".join(map(TOKEN.pack, numbers))


def read_tokens(fd: int) -> list[int]:
    """Take all that are there out of the pipe, which is not blocking."""
    found: list[int] = []
    while True:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return found
        if not data:
            return found
        found += [number for (number,) in TOKEN.iter_unpack(data)]


def not_picklable(what: str, error: BaseException) -> NotPicklable:
    """Says what could not travel between processes, and why."""
    wrong = NotPicklable(f"{what} cannot travel between processes: {brief(error)}")
    wrong.__cause__ = error
    return wrong
