"""Hashes one page: nothing but work for a processor, which a queue gives to a process of its own.

A process finds its job by name, so that is a function of a module; and what it is given and gives back travels pickled.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

#: One round would do to see that a page has changed. So many stand for work that keeps a processor busy.
ROUNDS = 200


class Hashed(NamedTuple):
    """The digest of a page, and the process that has made it."""

    digest: str
    pid: int


def hash_page(page: bytes) -> Hashed:
    """Hash it, and what came of that with it, again and again."""
    digest = b""
    for _ in range(ROUNDS):
        digest = hashlib.sha256(digest + page).digest()
    return Hashed(digest.hex(), os.getpid())
