"""Whether and how a run is carried out: retry, timeout, deadline, concurrency, dedupe, and middleware."""

from __future__ import annotations

from runcrew.policies.attempts import MemoryAttempts as MemoryAttempts
from runcrew.policies.backoff import Backoff as Backoff
from runcrew.policies.backoff import Constant as Constant
from runcrew.policies.backoff import Exponential as Exponential
from runcrew.policies.backoff import Jitter as Jitter
from runcrew.policies.backoff import checked as checked
from runcrew.policies.compile import Options as Options
from runcrew.policies.compile import chain as chain
from runcrew.policies.compile import describe as describe
from runcrew.policies.concurrency import Concurrency as Concurrency
from runcrew.policies.counter import Counter as Counter
from runcrew.policies.counter import Numbers as Numbers
from runcrew.policies.counter import Source as Source
from runcrew.policies.dedupe import Dedupe as Dedupe
from runcrew.policies.elapsed import Elapsed as Elapsed
from runcrew.policies.elapsed import TimedSource as TimedSource
from runcrew.policies.elapsed import Times as Times
from runcrew.policies.elapsed import Timings as Timings
from runcrew.policies.pace import Pace as Pace
from runcrew.policies.per_worker import PerWorker as PerWorker
from runcrew.policies.per_worker import per_worker as per_worker
from runcrew.policies.policy import Policy as Policy
from runcrew.policies.policy import call as call
from runcrew.policies.policy import policy as policy
from runcrew.policies.policy import wrap as wrap
from runcrew.policies.retry import UNLIMITED as UNLIMITED
from runcrew.policies.retry import Budget as Budget
from runcrew.policies.retry import GiveUp as GiveUp
from runcrew.policies.retry import Retry as Retry
from runcrew.policies.retry import RetryState as RetryState
from runcrew.policies.retry import Rules as Rules
from runcrew.policies.retry import Unlimited as Unlimited
from runcrew.policies.retry import Wait as Wait
from runcrew.policies.retry import decide as decide
from runcrew.policies.retry import retry_each as retry_each
from runcrew.policies.retrying import retrying as retrying
