"""What is logged in a child comes out in the process that it works for, where it is known what becomes of it."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final

_log: Final = logging.getLogger("runcrew")
_format: Final = logging.Formatter()


def levels() -> dict[str, int]:
    """From which levels on something is logged here, by the name of the logger; "": of all others."""
    known = logging.root.manager.loggerDict
    set_here = {name: each.level for name, each in known.items() if isinstance(each, logging.Logger) and each.level}
    return {"": logging.root.level, **set_here}


class Forward(logging.Handler):
    """In a child: sends what is logged to its parent."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. What does not travel is told as text."""
        try:
            said = dict(record.__dict__, msg=record.getMessage(), args=None, exc_info=None)
            if record.exc_info and not record.exc_text:
                said["exc_text"] = _format.formatException(record.exc_info)
            try:
                data = pickle.dumps(said, 5)
            except Exception:
                data = pickle.dumps({key: _plain(value) for key, value in said.items()}, 5)
            self._send(data)
        except Exception:
            self.handleError(record)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def forward(send: Callable[[bytes], object], wanted: Mapping[str, int]) -> None:
    """In a child: have all that is logged sent, unless its main module has set up something else."""
    if logging.root.handlers:
        return
    logging.root.addHandler(Forward(send))
    for name, level in wanted.items():
        logging.getLogger(name or None).setLevel(level)


def heard(process: str, data: bytes) -> None:
    """Log here what a child has sent."""
    try:
        said: dict[str, Any] = pickle.loads(data)  # noqa: S301 - written by our own child
    except Exception as error:
        _log.warning("the process %s has logged what cannot be made again here: %s", process, error)
        return
    record = logging.makeLogRecord({**said, "processName": process})
    logger = logging.getLogger(record.name)
    try:
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # a filter of the program's own
        _log.debug("what the process %s has logged could not be handled here", process, exc_info=True)
