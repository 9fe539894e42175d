"""Reads targets.toml: what is watched, how often, and where in the file it says so."""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import runcrew as rc
from runcrew.durations import seconds

KEYS = ("name", "url", "every", "timeout")


@dataclass(frozen=True)
class Target:
    """One endpoint. `place` says where it was given, for error messages."""

    name: str
    url: str
    every: str | float = "2s"
    timeout: str | float = "3s"
    place: str = ""


def read_targets(path: Path, builtin: tuple[str, ...] = ()) -> list[Target]:
    """All targets of a file. Raises rc.ConfigError, with the file and the line, for what is wrong in it.

    builtin: the names that may stand for a port in a url, as {name}.
    """
    text = _read(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise rc.ConfigError(f"{path}:{line}: this is not TOML: {error}; correct it") from None
    except RecursionError:
        raise rc.ConfigError(f"{path}: this is nested too deeply to be read: write plain [[target]] tables") from None
    except ValueError:  # the one that Python itself raises: an integer with too many digits
        place = f"{path}:{_line_of_digits(text)}"
        raise rc.ConfigError(f"{place}: a number here has too many digits to be read: write a shorter one") from None
    for key in tables:
        if key != "target":
            raise rc.ConfigError(f"{path}:{_line_of(text, key)}: {key!r} is unknown here: write [[target]] tables")
    entries = tables.get("target")
    if not isinstance(entries, list) or not entries:
        raise rc.ConfigError(f"{path}:1: there is nothing to watch: write a [[target]] with a name and a url")
    return [_target(path, text, number, entry, builtin) for number, entry in enumerate(entries)]


def target_of(url: str, taken: list[str]) -> Target:
    """A target for a URL that was given on the command line, with a name that is not taken yet."""
    problem = _url_problem(url, ())
    if problem:
        raise rc.ConfigError(f"{url}: {problem}")
    parts = urlsplit(url)
    base = name = parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")
    number = 2
    while name in taken:
        name, number = f"{base} ({number})", number + 1
    return Target(name, url, place=url)


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise rc.ConfigError(f"{path}: {error.strerror}: give a file that can be read, as --targets FILE") from None
    try:
        return raw.decode("utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise rc.ConfigError(f"{path}:{line}: this is not UTF-8 text: save the file as UTF-8") from None


def _target(path: Path, text: str, number: int, entry: Any, builtin: tuple[str, ...]) -> Target:
    def place(key: str = "") -> str:
        return f"{path}:{_line_of_entry(text, number, key)}"

    if not isinstance(entry, dict):
        raise rc.ConfigError(f"{place()}: {_shown(entry)} is no table: write [[target]], and the keys below it")
    for key, value in entry.items():
        if key not in KEYS:
            raise rc.ConfigError(f"{place(key)}: {key!r} is unknown: a target has {', '.join(KEYS)}")
        span = key in ("every", "timeout")
        if not isinstance(value, str | float | int if span else str) or isinstance(value, bool):
            needs = 'a span such as "10s"' if span else "text in quotes"
            raise rc.ConfigError(f"{place(key)}: {key} = {_shown(value)} has the wrong type: give {needs}")
    for key in ("name", "url"):
        if not entry.get(key, "").strip():
            raise rc.ConfigError(f'{place(key)}: this target has no {key}: add a line {key} = "…"')
    if not entry["name"].isprintable():
        raise rc.ConfigError(f"{place('name')}: name = {entry['name']!r} cannot be printed: use letters and digits")
    if problem := _url_problem(entry["url"], builtin):
        raise rc.ConfigError(f"{place('url')}: url = {entry['url']!r}: {problem}")
    for key in ("every", "timeout"):
        if key in entry:
            try:
                seconds(entry[key], key, zero=False)
            except rc.ConfigError as error:
                raise rc.ConfigError(f"{place(key)}: {error}") from None
    return Target(**entry, place=place())


def _shown(value: Any) -> str:
    """A value as it is told: what is very long only in part."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _url_problem(url: str, builtin: tuple[str, ...]) -> str:
    """What is wrong with a URL, or nothing."""
    for name in re.findall(r"\{(.*?)\}", url):
        if name not in builtin:
            return f"{{{name}}} stands for no server of the demo" + (
                f": it has {', '.join(builtin)}" if builtin else ""
            )
    try:
        parts = urlsplit(re.sub(r"\{.*?\}", "1", url))
        (parts.hostname or "").encode("idna")  # as a connection does, which refuses `a..b`
        good = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        good = False
    if not good or not url.isprintable() or re.search(r"[ {}]", re.sub(r"\{.*?\}", "", url)):
        return "this cannot be watched: write it as http://host/path or https://host/path, without a password"
    return ""


def _line_of_digits(text: str) -> int:
    """The line of the first number that is longer than Python reads."""
    found = re.search(rf"[0-9_]{{{sys.get_int_max_str_digits()}}}", text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _line_of(text: str, key: str) -> int:
    """The first line that begins with a key, or opens a table of that name; 1 where none is found."""
    pattern = re.compile(rf"\s*(\[\[?\s*)?[\"']?{re.escape(key)}\b")
    lines = text.split("\n")
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)


def _line_of_entry(text: str, number: int, key: str) -> int:
    """The line of a key in the [[target]] of that number (from 0), or the line where that table begins."""
    lines = text.split("\n")
    heads = [at for at, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*target\s*\]\]", line)]
    if number >= len(heads):  # written in another way, as target = [{…}]
        return _line_of(text, "target")
    end = heads[number + 1] - 1 if number + 1 < len(heads) else len(lines)
    for at in range(heads[number] + 1, end + 1):
        if key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", lines[at - 1]):
            return at
    return heads[number]
