"""Pool: what should never stop looping."""

from __future__ import annotations

from runcrew.pool.pool import Pool as Pool
from runcrew.pool.setup import PoolOptions as PoolOptions
from runcrew.pool.stats import PoolStats as PoolStats
