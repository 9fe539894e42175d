"""Who does it: so far, the decision to restart what failed."""

from runcrew.workers.restart import GiveUp as GiveUp
from runcrew.workers.restart import Intensity as Intensity
from runcrew.workers.restart import Restart as Restart
from runcrew.workers.restart import Restarts as Restarts
