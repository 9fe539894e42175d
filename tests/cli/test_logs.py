"""Logs on stderr: text for people and JSON for machines, safe whatever is in them."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.cli.logs import JsonFormatter, TextFormatter, report_fields, set_up
from runcrew.cli.safe import LONGEST, cut, safe, safe_lines
from runcrew.lifecycle import HookError, StopReport


def record(message: Any = "hello", *args: Any, level: int = logging.WARNING, **extra: Any) -> logging.LogRecord:
    """A log record as a logger makes it."""
    return logging.getLogger("shop").makeRecord("shop", level, "shop.py", 1, message, args, None, extra=extra or None)


def in_json(made: logging.LogRecord) -> dict[str, Any]:
    """What a reader of the log gets."""
    line = JsonFormatter().format(made)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return parsed


def failing(error: BaseException) -> logging.LogRecord:
    """A record that carries an exception which has been raised."""
    made = record("it failed")
    try:
        raise error
    except BaseException:
        made.exc_info = sys.exc_info()
    return made


@given(st.text())
def test_safe_text_is_one_visible_line(text: str) -> None:
    """Whatever comes in, every character that goes out can be seen, and an ordinary text stays as it is."""
    assert safe(text).isprintable()
    assert not text.isprintable() or safe(text) == text


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\r\nb", r"a\r\nb"),
        ("a\x00b\x7f", r"a\x00b\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_shown_as_escapes(bad: str, shown: str) -> None:
    """Escape sequences, line breaks, direction marks and halves of pairs are written out, not carried out."""
    assert shown == safe(bad)


def test_lines_stay_lines_where_they_are_meant() -> None:
    """A text of several lines keeps them, each set in and safe by itself."""
    assert "  a\n  b\\x1b" == safe_lines("a\nb\x1b", "  ")


def test_a_text_line_says_time_level_and_message() -> None:
    """A record is one line: time, level, message."""
    line = TextFormatter().format(record("%s is %d", "answer", 42))
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d WARNING answer is 42", line)


def test_a_message_cannot_forge_a_line() -> None:
    """A line break in an argument makes no second line of the log."""
    line = TextFormatter().format(record("user %s", "eve\n12:00:00.000 INFO all is well\x1b[2K"))
    assert r"user eve\n12:00:00.000 INFO all is well\x1b[2K" in line
    assert "\n" not in line


def test_a_traceback_is_set_in() -> None:
    """Lines of a traceback begin with spaces, also those that an error message has brought along."""
    first, *rest = TextFormatter().format(failing(ValueError("bad\nworse\x1b"))).split("\n")
    assert first.endswith("it failed")
    assert all(line.startswith("    ") for line in rest)
    assert r"    worse\x1b" == rest[-1]


def test_json_has_the_fields_that_it_promises() -> None:
    """Time, level, logger and message, and whatever came by `extra=`."""
    found = in_json(record("retry %d", 3, service="poll", run="1-2", attempt=3))
    assert "+00:00" == found.pop("time")[-6:]
    assert {
        "level": "WARNING", "logger": "shop", "message": "retry 3", "service": "poll", "run": "1-2", "attempt": 3,
    } == found  # fmt: skip


def test_json_tells_an_exception() -> None:
    """An exception comes as its class and message, and as its traceback."""
    found = in_json(failing(ValueError("bad\nworse")))
    assert "ValueError: bad\nworse" == found["error"]
    assert found["traceback"].startswith("Traceback")


def test_a_field_cannot_take_the_place_of_a_promised_one() -> None:
    """An extra field with a promised name is kept under another."""
    found = in_json(record("true", level_="x", time="noon", logger="forged"))
    assert ("true", "shop", "forged", "noon") == (
        found["message"], found["logger"], found["extra_logger"], found["extra_time"],
    )  # fmt: skip


class Mute(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError


class Bad(Exception):
    """An error whose text cannot be made, with an exception that is none for `except Exception`."""

    def __str__(self) -> str:
        raise SystemExit


def test_an_error_without_a_text_is_told() -> None:
    """An error whose text cannot be made is in the log, as an argument, as the exception and in a report."""
    made = failing(Bad())
    assert "Bad: (a Bad whose text cannot be made: SystemExit)" == in_json(made)["error"]
    assert "Bad" in TextFormatter().format(made)
    assert "%s (its arguments do not fit: SystemExit)" == in_json(record("%s", Bad()))["message"]
    report = StopReport("shop", errors=(Mute(),), hook_errors=(HookError("shop", "hook", "on_stopped", Mute()),))
    fields = report_fields(report, 1)
    assert ["Mute: (its text cannot be made)"] == fields["errors"]
    assert "Mute: (its text cannot be made)" == fields["hook_errors"][0]["error"]


def test_what_is_cut() -> None:
    """A text of the greatest length stays as it is; a longer one to its beginning and how much there is more."""
    assert "x" * LONGEST == cut("x" * LONGEST)
    assert f"{'x' * LONGEST}… (7 more characters)" == cut("x" * (LONGEST + 7))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_line_has_an_end(formatter: logging.Formatter) -> None:
    """However long a message, an error, a field or its name is, the log gets no more of it than what is of use."""
    huge = "x" * 1_000_000
    made = failing(ValueError(huge))
    made.msg, made.field, made.deep = huge, huge, {huge: [Text(huge)]}
    said = formatter.format(made)
    assert 7 * LONGEST > len(said)
    assert "990000 more characters)" in said


class Text:
    """An object with a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (b"raw", "b'raw'"),
        ({1: (2, None)}, {"1": [2, None]}),
        ([True, 1.5], [True, 1.5]),
        (ValueError("x"), "x"),
        (Mute(), "(a Mute whose text cannot be made: RuntimeError)"),
    ],
)
def test_any_value_becomes_json(value: Any, said: Any) -> None:
    """What JSON cannot say becomes text; nothing is lost and nothing fails."""
    assert said == in_json(record(field=value))["field"]


def test_what_contains_itself_ends_somewhere() -> None:
    """A list that contains itself is told to a depth."""
    endless: list[Any] = []
    endless.append(endless)
    assert in_json(record(field=endless))["field"]


@given(st.text())
def test_json_has_no_control_characters(text: str) -> None:
    """A line of JSON is printable ASCII, and says the same text."""
    made = record("%s", text)
    assert JsonFormatter().format(made).isascii()
    assert JsonFormatter().format(made).isprintable()
    assert text == in_json(made)["message"]


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_arguments_that_do_not_fit_lose_no_record(formatter: logging.Formatter) -> None:
    """A record whose arguments do not fit its message is told as it is."""
    assert "two %s %s (its arguments do not fit: TypeError)" in formatter.format(record("two %s %s", 1))


@pytest.mark.parametrize(
    ("verbose", "heard"),
    [(0, ["r-info", "o-info"]), (1, ["r-debug", "r-info", "o-info"]), (2, ["r-debug", "r-info", "o-debug", "o-info"])],
)
def test_verbosity(monkeypatch: pytest.MonkeyPatch, verbose: int, heard: list[str]) -> None:
    """INFO of everything; with one -v DEBUG of runcrew as well; with two, of everything."""
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    set_up("text", verbose)
    for name, short in (("runcrew.job", "r"), ("other", "o")):
        logging.getLogger(name).debug("%s-debug", short)
        logging.getLogger(name).info("%s-info", short)
    assert heard == [line.split()[-1] for line in err.getvalue().splitlines()]


def test_a_report_becomes_fields() -> None:
    """All that a report says is in its fields, and JSON can say them."""
    report = StopReport("shop", finished=2, cancelled=1, errors=(ValueError("x"),), elapsed=0.5)
    fields = report_fields(report, 1)
    assert {"service": "shop", "exit_code": 1, "finished": 2, "cancelled": 1, "errors": ["ValueError: x"]}.items() <= (
        json.loads(json.dumps(fields)).items()
    )
