"""What must keep running: OneShot, Interval, and the Supervisor that watches over them."""

from runcrew.supervise.interval import Interval as Interval
from runcrew.supervise.oneshot import OneShot as OneShot
from runcrew.supervise.service import ServiceStats as ServiceStats
from runcrew.supervise.supervisor import Supervisor as Supervisor
from runcrew.supervise.supervisor import SupervisorStats as SupervisorStats
