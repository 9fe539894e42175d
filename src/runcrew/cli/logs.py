"""What the command line says while it works: logging, set up on stderr as text for people or as JSON."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from runcrew import clock
from runcrew.cli.safe import cut, safe, safe_lines
from runcrew.errors import brief
from runcrew.lifecycle import StopReport

Format = Literal["text", "json"]
FORMATS: Final = get_args(Format)

#: What every log record has; whatever else is on one came in by `extra=`.
_USUAL: Final = frozenset([*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"])
_NAMES: Final = ("time", "level", "logger", "message", "error", "traceback")


def set_up(form: Format, verbose: int) -> None:
    """Send logs to stderr: everything from INFO up; with one -v runcrew's DEBUG too, with two everybody's.

    A program that configures logging by itself, when its module is loaded, has the last word.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    logging.getLogger("runcrew").setLevel(logging.DEBUG if verbose else logging.NOTSET)


class TextFormatter(logging.Formatter):
    """`09:30:00.125 WARNING message`, in local time; a traceback follows, set in."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line, and the lines of its traceback if it has one."""
        time = clock.utc(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        parts = [f"{time} {record.levelname:<7} {safe(cut(_message(record)))}"]
        if trace := _traceback(self, record):
            parts.append(safe_lines(cut(trace), "    "))
        return "\n".join(parts)


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, the fields of `extra=`, error and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line of JSON, in ASCII, without control characters."""
        fields: dict[str, Any] = {
            "time": clock.utc(record.created).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        for key, value in record.__dict__.items():
            if key not in _USUAL:
                fields[f"extra_{key}" if key in _NAMES else key] = value
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, _ = record.exc_info
            fields["error"] = f"{kind.__name__}: {_text(error)}"
        if trace := _traceback(self, record):
            fields["traceback"] = trace
        # json leaves DEL as it is, the one control character that it does not escape.
        return json.dumps(_plain(fields), allow_nan=False).replace("\x7f", "\\u007f")


def report_fields(report: StopReport, code: int) -> Mapping[str, Any]:
    """A stop report, and the exit code that follows from it, as fields for a log record."""
    return {
        "service": report.service,
        "exit_code": code,
        "finished": report.finished,
        "cancelled": report.cancelled,
        "never_started": report.never_started,
        "would_not_stop": [{"service": s.service, "what": s.what, "stack": s.stack} for s in report.would_not_stop],
        "hook_errors": [
            {"service": h.service, "hook": h.hook, "moment": h.moment, "error": brief(h.error)}
            for h in report.hook_errors
        ],
        "errors": [brief(error) for error in report.errors],
        "elapsed": report.elapsed,
    }


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # wrong arguments, or an argument whose text cannot be made: tell what there is
        return f"{_text(record.msg)} (its arguments do not fit: {type(error).__name__})"


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts: list[str] = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _plain(value: Any, depth: int = 0) -> Any:
    """A value that JSON can say; whatever it cannot say becomes its text. What is long is cut."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < 8 and issubclass(type(value), Mapping):
        return {cut(_text(key)): _plain(item, depth + 1) for key, item in value.items()}
    if depth < 8 and issubclass(type(value), (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    return cut(_text(value))


def _text(value: Any) -> str:
    try:
        return str(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a text of the user's raises must not come out where something is logged
        return f"(a {type(value).__name__} whose text cannot be made: {type(error).__name__})"
