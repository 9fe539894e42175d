"""What is known of the work while it runs: counters kept by direct calls, read as immutable snapshots."""

from runcrew.insight.collector import Collector as Collector
from runcrew.insight.collector import CollectorContract as CollectorContract
from runcrew.insight.collector import Metrics as Metrics
from runcrew.insight.collector import check_collector as check_collector
from runcrew.insight.digest import Digest as Digest
from runcrew.insight.digest import Summary as Summary
from runcrew.insight.meter import Meter as Meter
from runcrew.insight.meter import RunStats as RunStats
from runcrew.insight.rates import Rate as Rate
