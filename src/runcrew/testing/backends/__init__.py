"""A suite of tests for backends: whatever passes it can stand wherever runcrew takes a `backend=`."""

from __future__ import annotations

from runcrew.testing.backends.contract import BackendContract as BackendContract
