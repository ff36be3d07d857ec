"""POPE answers made elsewhere: every published pairing of question and answer files, scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.pope import judge
from mmpo.eval.pope.metrics import (
    SPLITS,
    PopeAnswer,
    PopeQuestion,
    PopeResult,
    Split,
    llava_split,
    match,
    mean_over_splits,
    packed_splits,
    read_answers,
    read_splits,
    score,
    spelled,
    split_of,
)
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
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


def of_asked(
    questions: Sequence[PopeQuestion], asked: Sequence[PopeQuestion], answers: Sequence[PopeAnswer]
) -> list[PopeAnswer]:
    """The answers to `questions` out of those that were given to `asked`, a file with the same questions and more;
    joined by image and words. RePOPE is scored so: its questions are POPE's without the ambiguous ones.

    Raises UserError where a question is not among the asked ones.
    """
    given, _ = match(asked, answers)
    by_words = {(q.image, spelled(q.text)): answer for q, answer in zip(asked, given, strict=True)}
    for question in questions:
        if (question.image, spelled(question.text)) not in by_words:
            raise UserError(f"{question.where}: {question.text!r} about {question.image} is not among the asked ones")
    return [
        PopeAnswer(by_words[q.image, spelled(q.text)].text, where=by_words[q.image, spelled(q.text)].where)
        for q in questions
    ]


@scorer(
    "pope",
    parsers=tuple(PARSERS),
    needs=("questions",),
    options={
        "asked": "the question file (or folder) that was asked, where --questions holds only a part of it (RePOPE)",
        "judge_template": "with --judge: its prompt, a packaged name or a .j2 file (yes_no_match)",
    },
)
def score_pope(request: ScoreRequest) -> Scored:
    """POPE from a question file (or a folder of split files) and its answers."""
    assert request.questions is not None
    parser = request.parser or "official"
    settle, judged = None, ""
    if request.judge is not None:
        if parser != judge.PARSER:
            raise UserError(f"--judge goes with --parser {judge.PARSER}, not {parser}")
        template = request.options.get("judge_template", judge.TEMPLATE)
        settle = partial(judge.settled, request.judge, template=template)
        judged = f"answers that it can't read decided by {request.judge.identity} with {template_version(template)}; "
    splits = _splits(request.questions)
    given = answers_of_splits(request.answers, splits)
    asked = _splits(Path(request.options["asked"])) if "asked" in request.options else None
    results: dict[str, PopeResult] = {}
    for split, questions in splits.items():
        answers = given[split]
        if asked is not None:
            if split not in asked:
                raise UserError(f"{request.options['asked']} has no split {split!r}", hint=f"it has {', '.join(asked)}")
            answers = of_asked(questions, asked[split], answers)
        results[split] = score(questions, answers, parser, settle=settle)
    read = sum(map(len, given.values()))
    scored = sum(len(result.verdicts) for result in results.values())
    return Scored(
        metrics=_metrics(results),
        conventions=_conventions(parser, results.values(), judged),
        read=read,
        scored=scored,
        unparsed=sum(result.unparsed for result in results.values()),
        quarantined={"the question is not in the file": read - scored} if read > scored else {},
        warnings=_warnings(results),
        intervals=_intervals(results),
    )


def _splits(path: Path) -> dict[str, list[PopeQuestion]]:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    return read_splits(_files(path) if path.is_dir() else [path])


def _metrics(results: dict[str, PopeResult]) -> dict[str, Any]:
    shown: dict[str, dict[str, Any]] = {}
    for split, result in results.items():
        undefined = result.tally.undefined
        shown[split] = {name: None if name in undefined else value for name, value in result.metrics.items()}
        shown[split]["questions"] = len(result.verdicts)
        if result.parser == "lmms-eval":
            counts = result.label_counts
            shown[split]["lmms_eval_yes_ratio"] = counts["yes"] / (counts["yes"] + counts["no"])
    if len(results) == 1:
        return next(iter(shown.values()))
    return {**shown, **mean_over_splits(results).values}


def _intervals(results: dict[str, PopeResult]) -> dict[str, Any]:
    own = {split: intervals(result.tally) for split, result in results.items()}
    return next(iter(own.values())) if len(own) == 1 else {**own, **intervals(mean_over_splits(results))}


_DEFAULTS = {
    "official": "text that says neither counts as yes",
    "llava": "text that says neither counts as yes",
    "opera": "text that says neither counts as yes",
    "vlmevalkit": "text that says neither is wrong in accuracy and a no in TP, FP, TN, FN",
    "lmms-eval": "text that is not exactly yes or no is wrong in accuracy and in none of TP, FP, TN, FN",
}


def _conventions(parser: str, results: Iterable[PopeResult], judged: str = "") -> list[str]:
    joined = sorted({result.matched_by for result in results})
    lines = [
        f"parser {parser}: {judged}{_DEFAULTS[parser]}",
        f"answers joined to questions by {' and '.join(joined)}; fractions; positive class yes",
        "yes_ratio counts the answers read as yes",
    ]
    if parser == "lmms-eval":
        lines[-1] += "; lmms_eval_yes_ratio is what lmms-eval prints: it counts the labels, whatever the answers are"
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
        if result.foreign_ids:
            warnings.append(
                f"{split}: the answers' question ids are not those of the questions, and no question is quoted; they "
                "are joined by position, so their order must be that of the question file"
            )
        warnings += [f"{split}: {name} is undefined (nothing to divide by)" for name in result.tally.undefined]
    return warnings


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _ENDINGS)
    if not files:
        raise UserError(f"{folder} holds no JSON files")
    named = [path for path in files if split_of(path) in SPLITS]  # the published folder has frequencies beside them
    return named or files
