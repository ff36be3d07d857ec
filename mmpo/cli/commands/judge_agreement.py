"""mmpo eval judge-agreement PAIRS"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import JsonOption, group
from mmpo.cli.visible import echo


@group("eval").command("judge-agreement")
def judge_agreement(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="A folder of pairs that builder video_rewards made.")],
    judge: Annotated[
        list[str],
        typer.Option(
            metavar="FILE|KEY=VALUE",
            help="A judge that takes pictures: a YAML file, or backend=…, model=…, base_url=…. Repeatable.",
        ),
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many pairs.")] = None,
    template: Annotated[str, typer.Option(metavar="NAME|FILE", help="The judge's prompt.")] = "video_frames_reward",
    judge_cache: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the judge's replies are kept, so that none is paid for twice.")
    ] = Path("judge-replies.jsonl"),
    as_json: JsonOption = False,
) -> None:
    """Compare the rewards of video pairs with those of a judge that sees the frames.

    The judge that rewarded the answers read a caption only. This asks
    another one, with the frames, and says how often both prefer the same
    answer and how their rewards correlate.

    [bold]Example[/bold]

      mmpo eval judge-agreement runs/mine/build/pairs \\
          --judge backend=server --judge model=NAME \\
          --judge base_url=http://127.0.0.1:8000/v1
    """
    from mmpo.chat import open_chat
    from mmpo.cli import console
    from mmpo.cli.judge_option import judge_settings
    from mmpo.data.shards import read_pairs
    from mmpo.eval import judge_agreement as found

    read = list(islice(read_pairs(pairs), limit))
    with open_chat(judge_settings(judge), cache=judge_cache) as chat:
        rows = found.compared(read, found.frames_rewards(chat, read, template))
        first = "; ".join(sorted({str(pair.provenance.get("judge", "unknown")) for pair in read}))
        result = found.agreement(rows, first, found.judge_name(chat, template))
    if as_json:
        echo(json.dumps(result.as_json(), indent=2))
        return
    console.heading(f"{result.judged:,} of {result.pairs:,} pairs judged twice")
    console.line(f"first:  {result.first}")
    console.line(f"second: {result.second}")
    for name in ("agreement", "pearson", "spearman"):
        value, interval = getattr(result, name), result.intervals.get(name)
        span = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        console.line(f"{name}: {'undefined' if value is None else f'{value:.3f}{span}'}")
    console.line(f"the second judge prefers neither in {result.ties:,}; it gave no reward in {result.unjudged:,}")
