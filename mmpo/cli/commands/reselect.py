"""mmpo build reselect RUN"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmpo.cli.app import JsonOption, group
from mmpo.cli.visible import echo


@group("build").command("reselect")
def reselect(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run folder of a multi-image build (or its build folder).")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the pairs.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A value of build.selection: min_perplexity=1.3. Repeatable; YAML."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Select again among the answers of a multi-image build, without a model.

    The build kept every answer with its attention, perplexity and geometry;
    other thresholds give other pairs in seconds.

    [bold]Examples[/bold]

      mmpo build reselect runs/mia --out pairs-strict --set thresholds=paper
      mmpo build reselect runs/mia --out pairs-all --set attention=false
      mmpo build reselect runs/mia --out pairs-2 --set 'sequence={2: 0.6}'
    """
    from mmpo.cli import console
    from mmpo.data_builders.mia.build import reselect as select_again
    from mmpo.errors import UserError
    from mmpo.outside import Unreadable
    from mmpo.recipes.source import parse_value

    changes: dict[str, Any] = {}
    for setting in set_ or ():
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {setting}: expected KEY=VALUE", hint="for example --set min_perplexity=1.3")
        try:
            changes[key.strip()] = parse_value(text)
        except Unreadable as error:
            raise error.at(f"--set {key}", lines=False) from None
    folder = run if (run / "source.json").exists() else run / "build"
    result = select_again(folder, out, changes)
    if as_json:
        echo(json.dumps(result.model_dump(mode="json"), indent=2))
        return
    for kind, table in result.counts.items():
        lost = ", ".join(f"{count:,} {reason}" for reason, count in table.items() if reason not in ("in", "paired"))
        kept = table.get("paired", table.get("used", 0))
        console.line(f"{kind}: {kept:,} of {table['in']:,}" + (f" ({lost})" if lost else ""))
    console.line(f"{result.pairs_made:,} pairs in {out}")
