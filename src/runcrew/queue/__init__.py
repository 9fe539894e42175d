"""Queue: what somebody asks for, done by workers that may each own a resource."""

from __future__ import annotations

from runcrew.queue.options import HIGH as HIGH
from runcrew.queue.options import LOW as LOW
from runcrew.queue.options import NORMAL as NORMAL
from runcrew.queue.options import SubmitOptions as SubmitOptions
from runcrew.queue.queue import Queue as Queue
from runcrew.queue.setup import NoResource as NoResource
from runcrew.queue.setup import QueueOptions as QueueOptions
from runcrew.queue.stats import QueueStats as QueueStats
from runcrew.queue.ticket import Ticket as Ticket
