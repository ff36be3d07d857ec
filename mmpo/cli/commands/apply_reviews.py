"""mmpo apply-reviews FOLDER"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmpo.cli.app import JsonOption, app
from mmpo.cli.visible import echo


@app.command("apply-reviews")
def apply_reviews(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What was reviewed.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", metavar="FILE", help="Decisions; FOLDER/reviews.jsonl by default. Repeatable."),
    ] = None,
    reviewed_only: Annotated[
        bool, typer.Option("--reviewed-only", help="Leave out pairs that nobody looked at.")
    ] = False,
    keep_unsure: Annotated[
        bool, typer.Option("--keep-unsure", help="Keep pairs that reviewers are unsure of or disagree about.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make use of the decisions of mmpo review: a new folder, and nothing changed in the old one.

    Of pairs: accepted, swapped and edited ones, with who decided in their
    provenance; what was dropped is in rejects.jsonl. Of an evaluation: a file
    of corrected labels, and the share of right answers on both label sets. Of
    candidates: the verdicts that are wrong, and how often each holds.
    Decisions about content that has changed since are refused.

    [bold]Examples[/bold]

      mmpo apply-reviews runs/mine/build/pairs --out pairs-reviewed
      mmpo apply-reviews pairs --file anna.jsonl --file ben.jsonl --out both
      mmpo apply-reviews runs/mine/eval --out corrected
    """
    from mmpo.cli import console
    from mmpo.data.reviews import FILE
    from mmpo.data_builders.candidates.tables import is_candidates
    from mmpo.errors import UserError
    from mmpo.eval.graded import ANSWERS
    from mmpo.review.apply import apply_to_claims, apply_to_labels, apply_to_pairs

    files = file or [folder / FILE]
    labels, claims = (folder / ANSWERS).is_file(), is_candidates(folder)
    if (labels or claims) and (reviewed_only or keep_unsure):
        raise UserError("--reviewed-only and --keep-unsure belong to pairs", hint=f"{folder} holds none")
    if labels:
        result = apply_to_labels(folder, files, out)
    elif claims:
        result = apply_to_claims(folder, files, out)
    else:
        result = apply_to_pairs(folder, files, out, reviewed_only=reviewed_only, keep_unsure=keep_unsure)
    if as_json:
        echo(json.dumps(asdict(result), indent=2, ensure_ascii=False))
        return
    console.heading(
        f"{result.made:,} {'corrected labels' if labels else 'verdicts that are wrong' if claims else 'pairs'} in {out}"
    )
    console.line(", ".join(f"{count:,} {verdict.replace('_', ' ')}" for verdict, count in result.counts.items()))
    for note in result.notes:
        console.line(note)
