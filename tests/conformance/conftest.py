"""What has to conform stands in `kinds.py`, beside the suites."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("runcrew.testing.backends")  # a failure shows what was compared
