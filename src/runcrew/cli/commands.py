"""The commands. Each imports what it needs when it is called, so that `--version` and `--help` are quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from runcrew.errors import ConfigError
    from runcrew.lifecycle import BaseService

F = TypeVar("F", bound=Callable[..., Any])

_CONFIG = 2


@dataclass
class Talk:
    """What was said about logs, before the command's name or after it."""

    form: str = "text"
    verbose: int = 0


def _talk(command: F) -> F:
    """Options that every command takes, and the group as well."""

    def heard(context: click.Context, option: click.Parameter, value: Any) -> None:
        talk = context.ensure_object(Talk)
        if option.name == "verbose":
            talk.verbose += value
        elif value is not None:
            talk.form = value

    form = click.option(
        "--log-format", type=click.Choice(["text", "json"]), expose_value=False, callback=heard,
        help="Logs on stderr for people (text, the default), or one JSON object a line.",
    )  # fmt: skip
    verbose = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=heard,
        help="Log more: -v what runcrew does in detail, -vv what everything does.",
    )  # fmt: skip
    return form(verbose(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@_talk
@click.version_option(package_name="runcrew", message="%(package)s %(version)s")
def main() -> None:
    """Runs the background work of a Python service.

    TARGET is module:attr or path/file.py:attr: a Crew, another Service, or a function without arguments that
    makes one. The attribute may be dotted; without one it is `crew`. The current directory is importable.

    \b
    Exit codes:
      0  a clean end, also by a signal
      1  a permanent failure
      2  nothing was started: wrong usage or configuration
      3  something would not stop
      4  all ended well, but a hook failed
    """


@main.command()
@click.argument("target")
@click.option("--grace", default="25s", show_default=True, help="How long a drain may take after a signal.")
@_talk
@click.pass_obj
def run(talk: Talk, /, target: str, grace: str) -> None:
    """Run TARGET until it ends.

    SIGTERM or Ctrl-C drains it within the grace time, a second signal kills it, a third exits at once.
    The report of the stop goes to stderr.
    """
    from runcrew.durations import seconds
    from runcrew.errors import ConfigError

    _set_up_logs(talk)
    try:
        span = seconds(grace, "--grace")
        service = _checked(target)
    except ConfigError as error:
        _refuse(error, talk)
    _run(service, span, talk)


@main.command()
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="The tree as one JSON object.")
@_talk
@click.pass_obj
def check(talk: Talk, /, target: str, as_json: bool) -> None:
    """Load TARGET, check it, and print its tree; run nothing.

    Below each job stands the chain that its runs go through, outermost first.
    """
    import json

    from runcrew.cli.tree import facts, lines
    from runcrew.errors import ConfigError

    _set_up_logs(talk)
    try:
        service = _checked(target)
    except ConfigError as error:
        _refuse(error, talk)
    known = facts(service)
    if as_json:
        click.echo(json.dumps(known, indent=2))
    else:
        for line in lines(known):
            click.echo(line)


@main.command()
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--for", "lasts", metavar="SPAN", help="End after this long, such as 10s. Default: at Ctrl-C.")
@click.option("--targets", type=click.Path(path_type=Path), metavar="FILE", help="What to watch, instead of its own.")
@click.option(
    "--db", type=click.Path(path_type=Path), metavar="PATH", help="The SQLite file. Default: a temporary one."
)
@click.option("--no-chaos", is_flag=True, help="Do not kill the demo's own servers.")
@_talk
@click.pass_obj
def demo(talk: Talk, /, **options: Any) -> None:
    """Watch endpoints over HTTP: two flaky servers of its own, and the URLs given.

    The program is examples/watch. Every result goes to a SQLite file; a line for each good one to stdout.
    It kills its own servers twice, to show how what depends on them gets over it.
    """
    from runcrew.cli.demo import program
    from runcrew.errors import ConfigError

    _set_up_logs(talk)
    try:
        service = program().build(**options)
    except ConfigError as error:
        _refuse(error, talk)
    _run(service, 25.0, talk)


def _set_up_logs(talk: Talk) -> None:
    from runcrew.cli.logs import set_up

    set_up("json" if talk.form == "json" else "text", talk.verbose)


def _checked(target: str) -> BaseService:
    """The service that TARGET names, with its dependencies looked through. Raises ConfigError."""
    from runcrew.cli.target import load
    from runcrew.supervise import Supervisor

    service = load(target)
    if isinstance(service, Supervisor):
        service.check()
    return service


def _run(service: BaseService, grace: float, talk: Talk) -> NoReturn:
    """Run it as the program, tell the report on stderr, exit with the code."""
    import logging

    from runcrew.cli.logs import report_fields
    from runcrew.cli.safe import safe_lines
    from runcrew.program import run_with_report

    ended = _heed_signals_around(service)
    code, report = run_with_report(service, grace=grace)
    ended.append(int(code))
    if report is not None and talk.form == "json":
        level = logging.WARNING if code else logging.INFO
        logging.getLogger("runcrew").log(level, "%s stopped", report.service, extra=report_fields(report, int(code)))
    elif report is not None:
        click.echo(safe_lines(str(report)), err=True)
    sys.exit(int(code))


def _heed_signals_around(service: BaseService) -> list[int]:
    """Decide what a signal does before the service hears signals, and after its end: the process ends at once.

    Without this, a second Ctrl-C that comes when all has ended would turn a clean end into a failure. Put
    the exit code into the list that is given, as soon as it is known.
    """
    import atexit
    import contextlib
    import os
    import signal
    import threading

    ended: list[int] = []

    def hurry(number: int, _: object) -> None:
        if service.state.over and not ended:
            return  # its code will be known in a moment
        with contextlib.suppress(Exception):  # nobody reads it, or it is being written to just now
            sys.stdout.flush()
        os._exit(ended[0] if ended else 128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, hurry)
            atexit.register(signal.signal, number, signal.SIG_IGN)  # the interpreter is about to forget ours
    return ended


def _refuse(error: ConfigError, talk: Talk) -> NoReturn:
    """Say what is wrong, and end before anything has been started."""
    import logging

    from runcrew.cli.safe import cut, safe

    detail = getattr(error, "detail", "")
    if talk.form == "json":
        logging.getLogger("runcrew").error("%s", error, extra={"exit_code": _CONFIG, "detail": detail})
    else:
        if detail:
            click.echo(detail, err=True)
        click.echo(f"runcrew: {safe(cut(str(error)))}", err=True)
    sys.exit(_CONFIG)
