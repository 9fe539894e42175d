"""Processes as the place where runs happen: children of a fork server, each of which serves one worker."""

from __future__ import annotations

from runcrew.backends.processes.attempt import KILL_AFTER as KILL_AFTER
from runcrew.backends.processes.attempt import Attempt as Attempt
from runcrew.backends.processes.attempt import report_progress as report_progress
from runcrew.backends.processes.backend import Processes as Processes
from runcrew.backends.processes.process import Process as Process
from runcrew.backends.processes.server import Lost as Lost
from runcrew.backends.processes.server import shed as shed
from runcrew.backends.processes.travel import anchor_of as anchor_of
from runcrew.backends.processes.travel import error_of as error_of
from runcrew.backends.processes.travel import setup_of as setup_of
from runcrew.backends.processes.travel import value_of as value_of
