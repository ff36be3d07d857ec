"""mmpo diagnose RUN|PAIRS"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpo.cli.app import JsonOption, app
from mmpo.cli.visible import echo

if TYPE_CHECKING:
    from mmpo.diagnose.run import Diagnosis
    from mmpo.diagnose.settings import DiagnoseSettings


@app.command()
def diagnose(
    target: Annotated[
        Path, typer.Argument(metavar="RUN|PAIRS", help="A run that trained, or a folder of pairs with --model.")
    ],
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="With PAIRS: the model.")] = None,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", metavar="DIR", help="With PAIRS: an adapter. Without it: pairs before a training."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="NAME=FOLDER", help="Further pairs to try the adapter on. Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", metavar="PART,…", help="Leave out what takes long: ches, separability, perception, samples."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="At most N pairs of each folder, drawn at random.")
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", metavar="B", min=1e-6, help="DPO's beta; that of the run, else 0.1.")
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="P", help="Share of raters who prefer the chosen response; 0.75."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Pairs computed together; 8.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Longest answer that is sampled, in tokens; 64.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write; by default TARGET/diagnose.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what pairs teach, and what an adapter has learnt from them.

    Before a training (PAIRS and --model): how many pairs the model ranks
    right already, the best that DPO could reach from there, which pairs look
    alike to the model (CHES), whether style alone tells the sides apart,
    whether the picture matters.

    After one (RUN, or PAIRS with --model and --adapter) also: which pairs
    flipped, where the probability went, whether the preference holds on
    pairs that were held out and on others (--also), how answers drifted.

    Each number comes with a sentence; [bold]docs/diagnose.md[/bold] says what
    to do about each. A diagnosis that was stopped goes on where it was.

    [bold]Examples[/bold]

      mmpo diagnose runs/mine
      mmpo diagnose runs/mine --also other-photos=other/pairs
      mmpo diagnose runs/mine/build/pairs --model MODEL --limit 500
      mmpo diagnose PAIRS --model MODEL --adapter ADAPTER --without samples
    """
    from mmpo.api.choice import ModelChoice
    from mmpo.cli import console
    from mmpo.cli.logs import quiet_libraries, silence_libraries
    from mmpo.diagnose.target import target as target_of
    from mmpo.diagnose.target import without as parts
    from mmpo.preflight.things import check_writable
    from mmpo.progress import reporting

    silence_libraries()
    found = target_of(
        target, model=model, adapter=adapter, also=_named(also or ()), without=parts(without or ()), limit=limit,
        beta=beta, agreement=agreement, batch_size=batch_size, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    folder = out or found.folder
    check_writable(folder)
    settings = found.settings
    ModelChoice(settings.model, settings.adapter, {"trust_remote_code": settings.trust_remote_code}).check()
    from mmpo.diagnose.run import diagnose as run

    quiet_libraries()
    if as_json:
        run(settings, folder)
        echo(json.dumps(json.loads((folder / "diagnose.json").read_text(encoding="utf-8")), ensure_ascii=False))
        return
    with reporting(console.reporter()):
        diagnosis = run(settings, folder)
    show(diagnosis)
    console.next_steps(_next(target, settings, diagnosis))


def _named(words: list[str] | tuple[()]) -> dict[str, Path]:
    """`NAME=FOLDER` options. Raises UserError for another form, and for a name that comes twice."""
    from mmpo.errors import UserError

    found: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--also {word}: NAME=FOLDER belongs here", hint="--also other-photos=other/pairs")
        if name in found:
            raise UserError(f"--also {name} comes twice", hint="give each folder a name of its own")
        found[name] = Path(folder)
    return found


def show(diagnosis: Diagnosis) -> None:
    """A table for each subject, the counts, and what was not measured."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from mmpo.cli import console
    from mmpo.diagnose.page import HEADINGS, interval, number
    from mmpo.diagnose.readings import in_short

    styles = {"warning": "bold red", "look": "yellow", "fine": ""}
    for subject, heading in HEADINGS.items():
        own = [one for one in diagnosis.readings if one.subject == subject]
        if not own:
            continue
        table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, show_header=False, pad_edge=False)
        for name, ratio in (("number", 3), ("value", None), ("interval", None), ("level", None), ("sentence", 6)):
            table.add_column(name, justify="right" if name == "value" else "left", ratio=ratio, overflow="fold")
        for one in own:
            level = Text("" if one.grave == "fine" else one.grave, style=styles[one.grave])
            table.add_row(Text(one.name), number(one.value), interval(one), level, Text(one.sentence))
        console.out.print(table)
    console.heading(in_short(diagnosis.readings))
    for advice in dict.fromkeys(one.advice for one in diagnosis.readings if one.advice):
        console.line(f"- {advice}")
    for name, counts in diagnosis.counts.items():
        console.line(f"{name}: " + ", ".join(f"{count:,} {key}" for key, count in counts.items()))
    for name, why in diagnosis.left_out.items():
        console.line(f"not measured: {name}: {why}")
    console.line(f"written to {diagnosis.folder / 'diagnose.md'}, diagnose.json and charts")


def _next(target: Path, settings: DiagnoseSettings, diagnosis: Diagnosis) -> list[tuple[str, str]]:
    from mmpo.cli.console import command_line

    if settings.adapter is None:
        train = command_line("mmpo", "train", "RECIPE", "--set", f"train.pairs={settings.pairs}")
        return [("train on these pairs, then diagnose the run", train)]
    if not settings.also:
        return [
            ("try what was learnt on other pairs", command_line("mmpo", "diagnose", target, "--also", "NAME=PAIRS"))
        ]
    return []
