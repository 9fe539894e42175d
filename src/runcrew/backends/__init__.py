"""Where a run happens: the event loop, or threads. And who watches that the loop is not blocked."""

from __future__ import annotations

from runcrew.backends.calls import Call as Call
from runcrew.backends.choice import choose as choose
from runcrew.backends.guard import LoopGuard as LoopGuard
from runcrew.backends.guarded import Turn as Turn
from runcrew.backends.guarded import await_job as await_job
from runcrew.backends.guarded import call_job as call_job
from runcrew.backends.guarded import call_job_in_thread as call_job_in_thread
from runcrew.backends.guarded import gave_awaitable as gave_awaitable
from runcrew.backends.guarded import is_awaitable as is_awaitable
from runcrew.backends.loop import LoopBackend as LoopBackend
from runcrew.backends.pools import services as services
from runcrew.backends.pools import shared as shared
from runcrew.backends.threaded import ThreadBackend as ThreadBackend
from runcrew.backends.threads import AbandonedCall as AbandonedCall
from runcrew.backends.threads import NoThread as NoThread
from runcrew.backends.threads import Threads as Threads
from runcrew.backends.threads import ThreadStats as ThreadStats
