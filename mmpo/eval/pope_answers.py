"""POPE answers made elsewhere: every published pairing of question and answer files, scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from mmpo.errors import UserError
from mmpo.eval.pope import (
    SPLITS,
    PopeAnswer,
    PopeQuestion,
    PopeResult,
    Split,
    llava_split,
    mean_over_splits,
    packed_splits,
    read_answers,
    read_splits,
    score,
    split_of,
)
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.yes_no import PARSERS

_ENDINGS = (".json", ".jsonl", ".gz")


def answers_of_splits(path: Path, questions: dict[str, list[PopeQuestion]]) -> dict[str, list[PopeAnswer]]:
    """The answers of each split: from a folder with one file a split, from LLaVA's single file, or from the one file
    of the one split.
    """
    if path.is_dir():
        files = {split_of(file): file for file in _files(path)}
        missing = [split for split in questions if split not in files]
        if missing:
            raise UserError(
                f"{path} has no answers of the split {missing[0]}",
                hint="name the files after their splits, e.g. answers_random.jsonl",
            )
        return {split: read_answers(files[split]) for split in questions}
    answers = read_answers(path)
    packed = packed_splits(answers)
    if packed and (len(questions) > 1 or len(packed) > 1):
        unknown = next((split for split in questions if split not in SPLITS), None)
        if unknown is not None:
            raise UserError(
                f"{path} holds the splits {', '.join(packed)}, but the questions are of {unknown!r}",
                hint="the name of a question file must say its split: random, popular or adversarial",
            )
        return {split: llava_split(answers, cast(Split, split)) for split in questions}
    if len(questions) > 1:
        raise UserError(
            f"{path} is one answer file for {len(questions)} splits, and its ids are not LLaVA's",
            hint="give a folder with one answer file a split, or one split's questions",
        )
    return dict.fromkeys(questions, answers)


def of_asked(questions: Sequence[PopeQuestion], answers: Sequence[PopeAnswer]) -> tuple[list[PopeAnswer], int]:
    """The answers to `questions` out of those to a larger file, joined by id, and how many others there were. RePOPE
    is scored so: its questions are POPE's without the ambiguous ones, under the same ids.
    """
    by_id = {answer.question_id: answer for answer in answers if answer.question_id is not None}
    if len(by_id) < len(answers):
        raise UserError("answers=superset joins by `question_id`, which some answers lack or have twice")
    for question in questions:
        if question.question_id not in by_id:
            raise UserError(f"{question.where}: no answer has its question id {question.question_id}")
    kept = [by_id[question.question_id] for question in questions]
    return kept, len(answers) - len(kept)


@scorer(
    "pope",
    parsers=tuple(PARSERS),
    needs=("questions",),
    options={
        "answers": "`superset`: the answers are to a larger file (POPE's, for RePOPE); join by id, count the rest"
    },
)
def score_pope(request: ScoreRequest) -> Scored:
    """POPE from a question file (or a folder of split files) and its answers."""
    assert request.questions is not None
    choice = request.options.get("answers", "exact")
    if choice not in ("exact", "superset"):
        raise UserError(f"answers={choice!r}", hint="leave it out, or answers=superset")
    parser = request.parser or "official"
    splits = read_splits(_files(request.questions) if request.questions.is_dir() else [request.questions])
    given = answers_of_splits(request.answers, splits)
    read = sum(map(len, given.values()))
    results: dict[str, PopeResult] = {}
    surplus = 0
    for split, questions in splits.items():
        answers = given[split]
        if choice == "superset":
            answers, others = of_asked(questions, answers)
            surplus += others
        results[split] = score(questions, answers, parser)
    unparsed = sum(result.unparsed for result in results.values())
    return Scored(
        metrics=_metrics(results),
        conventions=_conventions(parser, results.values()),
        read=read,
        scored=read - surplus,
        unparsed=unparsed,
        quarantined={"of a question that is not in the file": surplus} if surplus else {},
        warnings=_warnings(results),
    )


def _metrics(results: dict[str, PopeResult]) -> dict[str, Any]:
    shown = {
        split: {
            name: None if name in result.tally.undefined else value for name, value in result.metrics.items()
        } | {"questions": len(result.verdicts), "unparsed": result.unparsed}
        for split, result in results.items()
    }  # fmt: skip
    if len(results) == 1:
        metrics = next(iter(shown.values()))
        del metrics["unparsed"]
        return metrics
    return {**shown, **mean_over_splits(results).values}


_DEFAULTS = {
    "official": "text that says neither counts as yes",
    "llava": "text that says neither counts as yes",
    "opera": "text that says neither counts as yes",
    "vlmevalkit": "text that says neither is wrong in accuracy and a no in TP, FP, TN, FN",
    "lmms-eval": "text that is not exactly yes or no is wrong in accuracy and in none of TP, FP, TN, FN",
}


def _conventions(parser: str, results: Iterable[PopeResult]) -> list[str]:
    joined = sorted({result.matched_by for result in results})
    lines = [
        f"parser {parser}: {_DEFAULTS[parser]}",
        f"answers joined to questions by {' and '.join(joined)}; fractions; positive class yes",
        "yes_ratio counts the answers read as yes",
    ]
    if parser == "lmms-eval":
        lines[-1] += " (lmms-eval's own counts the labels, which gives 0.5 whatever the answers are)"
    return lines


def _warnings(results: dict[str, PopeResult]) -> list[str]:
    warnings = []
    for split, result in results.items():
        if result.unparsed:
            share = result.unparsed / len(result.verdicts)
            warnings.append(
                f"{split}: {result.unparsed:,} answers ({share:.1%}) hold neither yes nor no as the parser "
                f"{result.parser} reads them"
            )
        warnings += [f"{split}: {name} is undefined (nothing to divide by)" for name in result.tally.undefined]
    return warnings


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _ENDINGS)
    if not files:
        raise UserError(f"{folder} holds no JSON files")
    return files
