"""The children of one supervisor: who they are, who waits for whom, and who may join them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from runcrew.abc import Service
from runcrew.errors import AlreadyStarted, ConfigError
from runcrew.lifecycle import BaseService
from runcrew.supervise.child import Census, Child
from runcrew.supervise.graph import check, check_circle, with_phases

_log: Final = logging.getLogger("runcrew")


class Children(dict[str, Child]):
    """Children by name, in the order of adding."""

    def __init__(self, of: BaseService, serves: Callable[[Service], bool]) -> None:
        """serves: whether a child is there for the others, and so up before them and stopped after them."""
        super().__init__()
        self._of = of
        self._serves = serves
        #: Those that serve, as far as is known in this life.
        self._servers: dict[str, None] = {}
        self.census = Census()
        self._by_service: dict[int, Child] = {}

    def __setitem__(self, name: str, child: Child) -> None:
        super().__setitem__(name, child)
        self._by_service[id(child.service)] = child

    def __delitem__(self, name: str) -> None:
        child = self[name]
        child.end()  # it counts no longer
        del self._by_service[id(child.service)]
        self._servers.pop(name, None)
        super().__delitem__(name)

    def named(self, name: str) -> Child:
        """The child of this name. Raises KeyError, with the names that there are."""
        if name not in self:
            raise KeyError(f"{self._of.name} has no child named {name!r}; it has {', '.join(self) or 'none'}")
        return self[name]

    def with_service(self, service: Service) -> Child | None:
        """The child that is this service, or None."""
        return self._by_service.get(id(service))

    def ours(self) -> Iterator[tuple[Child, BaseService]]:
        """Those whose services are of our own kind."""
        for child in self.values():
            if isinstance(child.service, BaseService):
                yield child, child.service

    def graph(self) -> dict[str, Sequence[str]]:
        """Who depends on whom; without those that are being removed."""
        return {name: child.depends_on for name, child in self.items() if child.removal is None}

    def in_phases(self) -> dict[str, list[str]]:
        """The same, and what follows from phases."""
        self._servers = {name: None for name, child in self.items() if self._serves(child.service)}
        graph = self.graph()
        return with_phases(graph, [name for name in self._servers if name in graph])

    def place_all(self) -> None:
        """Say of each child whom it waits for before it starts."""
        for name, needs in self.in_phases().items():
            self[name].starts_after = needs

    def place_last(self, child: Child) -> None:
        """The same for one that has just been added while the others live: nobody waits for it."""
        if self._serves(child.service):
            self._servers[child.name] = None
            child.starts_after = child.depends_on
        else:
            child.starts_after = (*child.depends_on, *self._servers)

    def check(self) -> None:
        """Raise ConfigError where a dependency is not there, or dependencies go in a circle."""
        check(self.graph(), self._of.name)

    def check_new(self, service: object, name: object, needs: Sequence[str], *, complete: bool) -> None:
        """Raise ConfigError (AlreadyStarted for a service that runs) where this service cannot be added.

        complete: whether what it needs must be there; otherwise it may be added later.
        """
        of = self._of
        if isinstance(service, type) or not isinstance(service, Service):
            raise ConfigError(f"{service!r} is not a service: give an object with start(), stop() and wait()")
        if not isinstance(name, str):
            raise ConfigError(f"name: {name!r} is not a string: give this child another name=")
        if name in self:
            raise ConfigError(f"{of.name} has a child named {name!r} already: give this one another name=")
        if (twin := self.with_service(service)) is not None:
            raise ConfigError(f"{twin.name} is a child of {of.name} already: it cannot run twice at a time")
        if isinstance(service, BaseService):
            self._check_ours(service)
        if needs:  # one that needs nobody closes no circle
            (check if complete else check_circle)({**self.graph(), name: needs}, of.name)

    def _check_ours(self, service: BaseService) -> None:
        of, parent = self._of, service._parent
        if service is of or service in of._ancestors():
            raise ConfigError(f"{of.name} cannot be a child of itself")
        if parent is not None:
            raise ConfigError(f"{service.name} is a child of {parent.name} already: a service has one supervisor")
        if service.state.alive:
            raise AlreadyStarted(f"{service.name} is {service.state} already: add it first, its supervisor starts it")

    def stats(self) -> dict[str, Any]:
        """What those that have a `stats()` say of themselves."""
        said = {name: _stats_of(child.service) for name, child in self.items()}
        return {name: stats for name, stats in said.items() if stats is not None}


def _stats_of(service: Any) -> Any:
    try:
        return service.stats() if hasattr(service, "stats") else None
    except Exception:
        _log.exception("the stats() of %r failed", service)
        return None
