"""mmpo build parts PAIRS, mmpo build similarity PAIRS"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmpo.cli.app import JsonOption, group
from mmpo.cli.visible import echo

if TYPE_CHECKING:
    from mmpo.data.card import Counts

PairsArgument = Annotated[Path, typer.Argument(metavar="PAIRS", help="A folder of pairs.")]
NewFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the pairs.")]


@group("build").command("parts")
def parts(
    pairs: PairsArgument,
    out: NewFolder,
    judge: Annotated[
        list[str],
        typer.Option(
            metavar="FILE|KEY=VALUE",
            help="The text model: a YAML file, or backend=…, model=…, base_url=…. Repeatable.",
        ),
    ],
    kind: Annotated[
        Literal["segment", "step"], typer.Option(help="segment: for dpo_2d. step: for full_step_dpo.")
    ] = "segment",
    aspect: Annotated[
        list[str] | None, typer.Option(metavar="WORDS", help="What a sentence is scored for. Repeatable for segments.")
    ] = None,
    highest: Annotated[int, typer.Option(min=1, help="The best score that the judge gives; stored as 1.")] = 4,
    pictures: Annotated[bool, typer.Option(help="Show the judge the images of a pair.")] = True,
    template: Annotated[str, typer.Option(metavar="NAME|FILE", help="The judge's prompt.")] = "part_scores",
    judge_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where its replies are kept. Left out: judge.jsonl in --out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a text model score the sentences of both responses of every pair.

    The scores become chosen_parts and rejected_parts, which dpo_2d and
    full_step_dpo read. Stopped and started again, it continues; a reply
    is never paid for twice.

    [bold]Example[/bold]

      mmpo build parts runs/mine/build/pairs --out scored \\
          --judge backend=server --judge model=NAME \\
          --judge base_url=http://127.0.0.1:8000/v1 \\
          --aspect correctness --aspect completeness
    """
    from mmpo.chat import open_chat
    from mmpo.cli.judge_option import judge_settings
    from mmpo.data_builders.part_scores import ASPECTS, PartScorer
    from mmpo.data_builders.rewriting import rewrite

    settings = judge_settings(judge)
    with open_chat(settings, cache=judge_cache or out / "judge.jsonl") as chat:
        scorer = PartScorer(
            chat, pairs, kind=kind, aspects=aspect or ASPECTS, highest=highest, pictures=pictures, template=template
        )
        counts = rewrite(pairs, out, scorer, recipe=scorer.recipe, title="scoring sentences")
    objective = "full_step_dpo" if kind == "step" else "dpo_2d"
    _tell(counts, out, f"train.objective: {{{objective}: {{}}}}", as_json)


@group("build").command("similarity")
def similarity(
    pairs: PairsArgument,
    out: NewFolder,
    embedder: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="A text encoder of transformers, or a model in sentence-transformers' layout."
        ),
    ],
    score: Annotated[str, typer.Option(metavar="NAME", help="Name of the score.")] = "similarity",
    as_json: JsonOption = False,
) -> None:
    """Give every pair the cosine of the embeddings of question and chosen response.

    It becomes the score `similarity`, which sem_dpo reads.

    [bold]Example[/bold]

      mmpo build similarity runs/mine/build/pairs --out scored \\
          --embedder models/all-MiniLM-L6-v2
    """
    from mmpo.data_builders.rewriting import rewrite
    from mmpo.data_builders.similarities import SimilarityScorer
    from mmpo.models.embedding import TextEmbedder

    scorer = SimilarityScorer(TextEmbedder(embedder), score)
    counts = rewrite(pairs, out, scorer, recipe=scorer.recipe, scores=[score], title="embedding")
    _tell(counts, out, "train.objective: {sem_dpo: {alpha: 1.0}}", as_json)


def _tell(counts: Counts, out: Path, then: str, as_json: bool) -> None:
    from mmpo.cli import console

    lost = dict(sorted(counts.reasons.items()))
    if as_json:
        echo(json.dumps({"pairs": counts.pairs, "rejected": counts.rejected, "reasons": lost, "out": str(out)}))
        return
    told = ", ".join(f"{count:,} {reason}" for reason, count in lost.items())
    console.line(f"{counts.pairs:,} pairs in {out}" + (f"; {counts.rejected:,} left out ({told})" if lost else ""))
    console.line(f"train on them: train.pairs: {out}, {then}")
