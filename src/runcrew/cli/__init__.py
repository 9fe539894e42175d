"""The command line: `runcrew run`, `runcrew check`, `runcrew demo`. The only part that imports click.

What a command finds out goes to stdout; what it has to say about that (logs, reports, errors) to stderr.
"""

from runcrew.cli.commands import main as main
