"""mmpo eval score BENCHMARK"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import JsonOption, group
from mmpo.cli.judge_option import judge_settings, key_value
from mmpo.cli.visible import echo


@group("eval").command("score")
def score(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Its name; `help` lists them.")],
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The answers, in the benchmark's published format.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(metavar="FILE", help="The published question file.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is in each image, where the benchmark needs it.")
    ] = None,
    parser: Annotated[
        str | None, typer.Option(metavar="NAME", help="The rule that reads an answer; the benchmark's own by default.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the benchmark. Repeatable."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|KEY=VALUE",
            help="The text model that judges: a YAML file, or backend=…, model=…, base_url=…. Repeatable.",
        ),
    ] = None,
    judge_cache: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the judge's replies are kept, so that none is paid for twice.")
    ] = Path("judge-replies.jsonl"),
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="A module to import first, which registers a scorer. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score answers made elsewhere, from a benchmark's published files. No model is loaded.

    The numbers carry the names of the benchmark's own script, and the lines
    below them say which convention they follow.

    [bold]Examples[/bold]

      mmpo eval score help
      mmpo eval score pope --questions coco_pope_random.json --answers my.jsonl
      mmpo eval score mme --answers Your_Results/ --json
      mmpo eval score mmhal --answers answers.json --judge judge.yaml
    """
    from mmpo import plugins
    from mmpo.cli import console
    from mmpo.cli.score_table import show
    from mmpo.errors import UserError
    from mmpo.eval.scoring import ScoreRequest, scorers
    from mmpo.preflight.commands import examine_score

    for module in plugin or ():
        plugins.load(module)
    if benchmark == "help":
        _list_benchmarks()
        return
    if benchmark in scorers() and answers is None:
        raise UserError("--answers is missing", hint=f"mmpo eval score {benchmark} --answers FILE")
    options = dict(key_value(text, "--set") for text in set_ or ())
    request = ScoreRequest(answers or Path(), questions, annotations, parser, None, options)
    settings = judge_settings(judge) if judge else None
    scorer, warnings = examine_score(benchmark, request, judge=settings, replies=judge_cache)
    for warning in warnings:
        console.warn(warning)
    if settings is not None:
        from dataclasses import replace

        from mmpo.chat import open_chat

        with open_chat(settings, cache=judge_cache) as chat:
            scored = scorer.run(replace(request, judge=chat))
    else:
        scored = scorer.run(request)
    if as_json:
        echo(json.dumps(scored.as_json(benchmark), indent=2, ensure_ascii=False, allow_nan=False))
        return
    show(scored, benchmark)
    console.next_steps([("ask a model of yours the same questions", "mmpo recipe show own-images > my.yaml")])


def _list_benchmarks() -> None:
    from mmpo.cli import console
    from mmpo.eval.scoring import scorers

    for name, found in scorers().items():
        needs = "".join(f" --{need} …" for need in found.needs)
        console.heading(f"mmpo eval score {name}{needs} --answers …")
        if found.parsers:
            console.line(f"--parser: {', '.join(found.parsers)} (the first is the default)")
        for key, text in found.options.items():
            console.line(f"--set {key}=…: {text}")
