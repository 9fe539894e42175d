"""Text that came from elsewhere, made safe for a terminal."""

from __future__ import annotations

from typing import Final

#: Characters of one text that are told; what is longer comes from an error that carries its data along.
LONGEST: Final = 10_000


def safe(text: str) -> str:
    """`text` as one line in which every character is visible: what is not printable is written as an escape.

    So no error message, file name or key can move the cursor, colour the screen, hide what follows or begin
    a line that looks like one of ours.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def safe_lines(text: str, indent: str = "") -> str:
    """Text that may have several lines: each of them safe, and set in by `indent`."""
    return "\n".join(indent + safe(line) for line in text.split("\n"))


def cut(text: str) -> str:
    """`text`, or its first LONGEST characters and how many more there are."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST} more characters)"
