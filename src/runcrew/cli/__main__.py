"""`python -m runcrew.cli` is the same as `runcrew`."""

from runcrew.cli.commands import main

if __name__ == "__main__":
    main(prog_name="runcrew")
