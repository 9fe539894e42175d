"""Who does it: workers, what they own, how many there are, and whether and when what failed is begun again."""

from __future__ import annotations

from runcrew.workers.change import Change as Change
from runcrew.workers.group import Group as Group
from runcrew.workers.own_thread import OwnThread as OwnThread
from runcrew.workers.own_thread import Work as Work
from runcrew.workers.resource import UNSET as UNSET
from runcrew.workers.resource import Recipe as Recipe
from runcrew.workers.resource import Unfit as Unfit
from runcrew.workers.resource import Unset as Unset
from runcrew.workers.restart import GiveUp as GiveUp
from runcrew.workers.restart import Intensity as Intensity
from runcrew.workers.restart import Restart as Restart
from runcrew.workers.restart import Restarts as Restarts
from runcrew.workers.scale import Decision as Decision
from runcrew.workers.scale import Inputs as Inputs
from runcrew.workers.scale import Load as Load
from runcrew.workers.scale import Scale as Scale
from runcrew.workers.scale import Scaling as Scaling
from runcrew.workers.scaler import Scaler as Scaler
from runcrew.workers.worker import ABANDONED as ABANDONED
from runcrew.workers.worker import BUSY as BUSY
from runcrew.workers.worker import FREE as FREE
from runcrew.workers.worker import Worker as Worker
