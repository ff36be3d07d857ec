"""The typer application: its groups, the options that commands share, and how errors leave the program.

To add a command, put a file into `mmpo/cli/commands` that decorates a function with one of the groups here:

    @app.command()                       # mmpo inspect FILE
    @group("eval").command("score")      # mmpo eval score BENCHMARK, besides mmpo eval RECIPE

Import what is heavy inside the function.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmpo import plugins
from mmpo.cli.console import fail
from mmpo.errors import UserError
from mmpo.storage import storage_error

DEFAULT = "default"
"""Name of the command that a group runs when the first word is none of its own, as in `mmpo eval demo`."""

ORDER = ("demo", "run", "build", "select", "train", "eval", "recipe")
"""Commands in the order of the help; others follow by name."""


class Executor(str, Enum):
    """Who starts workers."""

    processes = "processes"
    ray = "ray"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `remedy` says how to continue."""

    def __init__(self, remedy: str) -> None:
        super().__init__(remedy)
        self.remedy = remedy


class Failed(Exception):
    """Something unforeseen went wrong in a run; its trace is in `log`."""

    def __init__(self, error: Exception, log: Path) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.log = log


class RootGroup(TyperGroup):
    """The top of the command line: orders the help, finds default commands, turns errors into one line each."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        commands = command.commands if isinstance(command, TyperGroup) else {}
        if DEFAULT in commands and (not rest or rest[0] not in commands):
            others = [
                f"mmpo {name} {key}: {one.get_short_help_str(90)}" for key, one in commands.items() if key != DEFAULT
            ]
            command = commands[DEFAULT]
            command.epilog = "\n\n".join(["There is also", *others]) if others else None
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if debugging():
                raise
            fail(error.message, error.hint)
            raise typer.Exit(2) from error
        except Failed as error:
            fail(
                str(error),
                f"this should not happen; the trace is at the end of {error.log}, please report it with that file"
                + (f", if it happens without {', '.join(plugins.loaded())} as well" if plugins.loaded() else ""),
            )
            raise typer.Exit(1) from error
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")) or debugging():
                raise
            told = plugins.crash(error, "MMPO_DEBUG=1 shows the trace") or storage_error(error)
            if told is None:
                raise
            fail(told.message, told.hint)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            fail("stopped", getattr(error, "remedy", None), label="")
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=RootGroup,
    name="mmpo",
    help="Make a vision-language model stop making things up: build preference pairs, train an adapter, measure it.",
    epilog="Start with [bold]mmpo demo[/bold]. It needs no data, no model of yours and no network.\n\n"
    "Then [bold]mmpo recipe show own-images > my.yaml[/bold], edit the paths in it, and [bold]mmpo run my.yaml[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_GROUPS = {
    "demo": "Build, train and evaluate on the small world and the small model that come with mmpo.",
    "build": "Make preference pairs from sources.",
    "train": "Train an adapter on preference pairs.",
    "eval": "Measure hallucination, before and after.",
    "radiology": "References to earlier exams in radiology reports: find them, take them out; films and findings.",
}
_EPILOGS = {
    "radiology": "For example [cyan]mmpo radiology edit reports.jsonl[/cyan]. Pairs are built with a recipe: "
    "[cyan]mmpo recipe show radiology > my.yaml[/cyan]",
}
_groups = {
    name: typer.Typer(help=text, epilog=_EPILOGS.get(name), no_args_is_help=True, rich_markup_mode="rich")
    for name, text in _GROUPS.items()
}
for _name, _group in _groups.items():
    app.add_typer(_group, name=_name)


def group(name: str) -> typer.Typer:
    """The group of commands `mmpo NAME …`. Its default command, `mmpo NAME RECIPE`, is registered under `DEFAULT`."""
    return _groups[name]


def load_commands() -> typer.Typer:
    """The application with every command of `mmpo/cli/commands`."""
    from mmpo.cli import commands

    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    return app


def debugging() -> bool:
    """True with MMPO_DEBUG=1: traces instead of one-line errors."""
    return os.environ.get("MMPO_DEBUG", "0") not in ("", "0")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        import mmpo

        typer.echo(mmpo.__version__)
        raise typer.Exit()


RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name (see `mmpo recipe list`) or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the recipe: --set train.max_steps=50. Repeatable; values are YAML.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run folder. Without it: a new runs/NAME-TIME.", file_okay=True),
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="A small part of everything: to see that it works, not to measure.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the latest runs/NAME-… of this recipe (or the one in --out) instead of a new one.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Share the work among N processes of this machine, a GPU each where there are GPUs.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Work on one folder from N machines or jobs: start the same command with 1/N to N/N.",
    ),
]
ExecutorOption = Annotated[
    Executor,
    typer.Option("--executor", help="Who starts the workers: this command, as processes, or Ray (docs/scaling.md)."),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="ADDRESS", help="The Ray cluster; left out, one is started on this machine."),
]
