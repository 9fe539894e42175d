"""What is known of the work while it runs: counters kept by direct calls, read as immutable snapshots."""

from runcrew.insight.meter import Meter as Meter
from runcrew.insight.meter import RunStats as RunStats
