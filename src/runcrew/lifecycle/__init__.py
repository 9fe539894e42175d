"""The life of a service: states, start and stop, hooks, what a stop reports, and one run under way."""

from runcrew.lifecycle.execution import Execution as Execution
from runcrew.lifecycle.hooks import Hook as Hook
from runcrew.lifecycle.hooks import Hooks as Hooks
from runcrew.lifecycle.latch import Latch as Latch
from runcrew.lifecycle.latch import Limit as Limit
from runcrew.lifecycle.report import HookError as HookError
from runcrew.lifecycle.report import StopReport as StopReport
from runcrew.lifecycle.report import Stuck as Stuck
from runcrew.lifecycle.service import BaseService as BaseService
from runcrew.lifecycle.state import State as State
