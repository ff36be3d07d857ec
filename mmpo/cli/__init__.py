"""The command line. One command is one file in `mmpo/cli/commands`; it is found by being there.

Nothing here imports torch or a stage before a command runs, so that `mmpo --help` answers at once.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `mmpo` command."""
    from mmpo.cli.app import load_commands

    load_commands()(prog_name="mmpo")


__all__ = ["main"]
