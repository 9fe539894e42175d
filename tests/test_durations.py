"""Spans of time as users write them."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcrew.durations import LONGEST, optional, seconds, text
from runcrew.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "span"),
    [
        (0, 0.0),
        (1.5, 1.5),
        (10, 10.0),
        (timedelta(minutes=1, milliseconds=250), 60.25),
        ("10s", 10.0),
        ("1h30m", 5400.0),
        (" 1H 30M ", 5400.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("20us", 20e-6),
        ("20µs", 20e-6),
        ("1d", 86_400.0),
        ("1w", 604_800.0),
        ("1w2d3h4m5s6ms7us", 604_800 + 2 * 86_400 + 3 * 3600 + 4 * 60 + 5 + 6e-3 + 7e-6),
        (LONGEST, LONGEST),
    ],
)
def test_what_users_write_becomes_seconds(value: float | str | timedelta, span: float) -> None:
    """Numbers are seconds, and a string has numbers with units."""
    assert math.isclose(span, seconds(value), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-1, "negative"),
        (-0.001, "negative"),
        (timedelta(seconds=-1), "negative"),
        (math.nan, "not a finite span"),
        (math.inf, "not a finite span"),
        (-math.inf, "not a finite span"),
        (10**400, "not a finite span"),
        (1e308, "longer than a year"),
        (timedelta.max, "longer than a year"),
        ("53w", "longer than a year"),
        ("", "does not parse"),
        ("10", "does not parse"),
        ("s", "does not parse"),
        ("-1s", "does not parse"),
        ("1e3s", "does not parse"),
        ("nan", "does not parse"),
        ("inf", "does not parse"),
        ("10 parsecs", "does not parse"),
        ("1s2s", "names the unit 's' twice"),
        (True, "not a span of time"),
        (None, "not a span of time"),
        (b"1s", "not a span of time"),
        (Decimal(1), "not a span of time"),
        (Fraction(1, 2), "not a span of time"),
        ([], "not a span of time"),
    ],
)
def test_nonsense_is_refused_with_its_name_and_the_value(value: object, why: str) -> None:
    """Whatever is no span is refused where it is given, and the message has the name, the value and the reason."""
    with pytest.raises(ConfigError, match=why) as caught:
        seconds(value, "every")  # type: ignore[arg-type]
    assert str(caught.value).startswith("every: ")
    assert (isinstance(value, int) and value > 10**300) or repr(value) in str(caught.value)


def test_zero_is_refused_where_it_makes_no_sense() -> None:
    """Zero means zero; where that cannot be meant, it is refused rather than read as something else."""
    assert 0.0 == seconds(0, "delay")
    for zero in (0, 0.0, "0s", timedelta(0)):
        with pytest.raises(ConfigError, match=r"every: .* is zero"):
            seconds(zero, "every", zero=False)


def test_none_means_none() -> None:
    """What is optional stays None, and zero stays zero."""
    assert None is optional(None)
    assert 0.0 == optional(0)
    with pytest.raises(ConfigError, match="timeout: -1 is negative"):
        optional(-1, "timeout")


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (0, "0s"),
        (1e-6, "1us"),
        (0.00025, "250us"),
        (0.25, "250ms"),
        (0.9999, "1s"),
        (2.5, "2.5s"),
        (59.94, "59.9s"),
        (60, "1m"),
        (90, "1m 30s"),
        (5400, "1h 30m"),
        (86_400, "1d"),
        (90_061, "1d 1h"),
        (-1.5, "-1.5s"),
    ],
)
def test_a_span_for_people(span: float, said: str) -> None:
    """Spans are shown short, in the two largest units that matter."""
    assert said == text(span)


@given(st.floats(1e-6, LONGEST))
def test_what_is_shown_is_what_it_was(span: float) -> None:
    """What people read parses back to about the same span."""
    assert math.isclose(span, seconds(text(span)), rel_tol=0.05)


@given(st.text(max_size=12))
def test_any_string_is_a_span_or_refused(value: str) -> None:
    """No string does anything but parse, or raise ConfigError."""
    with suppress(ConfigError):
        assert 0 <= seconds(value) <= LONGEST
