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
    PopeSplit,
    llava_split,
    match,
    outcome_counts,
    packed_splits,
    read_answers,
    read_splits,
    spelled,
    split_of,
)
from mmpo.eval.pope.settings import PopeSettings
from mmpo.eval.pope.task import Pope
from mmpo.eval.protocol import Part, Response
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
        return {split: llava_split(answers, cast(PopeSplit, split)) for split in questions}
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
    parsers=(*PARSERS, "vcd"),
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
    pairs: list[tuple[tuple[str, PopeQuestion], Response]] = []
    joined: set[str] = set()
    foreign: set[str] = set()
    for split, questions in splits.items():
        answers = given[split]
        if not questions:
            raise UserError(f"the split {split} has no questions to score")
        if asked is not None:
            if split not in asked:
                raise UserError(f"{request.options['asked']} has no split {split!r}", hint=f"it has {', '.join(asked)}")
            answers = of_asked(questions, asked[split], answers)
        ordered, how = match(questions, answers)
        pairs += [((split, q), Response(answer.text, False)) for q, answer in zip(questions, ordered, strict=True)]
        joined.add(how)
        if how == "position" and any(a.question_id is not None and a.question is None for a in ordered):
            foreign.add(split)
    settings = PopeSettings.model_validate({"parser": parser})
    parts = Pope.on([question for question, _ in pairs], settings).parts(pairs, settle)
    own = {str(part.split): part for part in parts if not part.total}
    numbers: dict[str, Any] = {split: _numbers(part, splits[split], parser) for split, part in own.items()}
    bounds: dict[str, Any] = {split: intervals(part.tally) for split, part in own.items()}
    if len(own) == 1:
        numbers, bounds = next(iter(numbers.values())), next(iter(bounds.values()))
    else:
        numbers |= parts[-1].tally.values
        bounds |= intervals(parts[-1].tally)
    read, scored = sum(map(len, given.values())), len(pairs)
    return Scored(
        metrics=numbers,
        conventions=_conventions(parser, joined, judged),
        read=read,
        scored=scored,
        unparsed=sum(part.unparsed or 0 for part in own.values()),
        quarantined={"the question is not in the file": read - scored} if read > scored else {},
        warnings=[line for split, part in own.items() for line in _warnings(split, part, parser, split in foreign)],
        intervals=bounds,
    )


def _splits(path: Path) -> dict[str, list[PopeQuestion]]:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    return read_splits(_files(path) if path.is_dir() else [path])


def _numbers(part: Part, questions: Sequence[PopeQuestion], parser: str) -> dict[str, Any]:
    found = {**outcome_counts(part.tally), **part.tally.shown(), "questions": part.questions}
    if parser == "lmms-eval":
        found["lmms_eval_yes_ratio"] = sum(question.label == "yes" for question in questions) / len(questions)
    return found


_DEFAULTS = {
    "official": "text that says neither counts as yes",
    "llava": "text that says neither counts as yes",
    "opera": "text that says neither counts as yes",
    "vlmevalkit": "text that says neither is wrong in accuracy and a no in TP, FP, TN, FN",
    "lmms-eval": "text that is not exactly yes or no is wrong in accuracy and in none of TP, FP, TN, FN",
    "dash": "text with neither yes nor no in it is left out of every number",
    "vcd": "the right answer's letters anywhere make an answer right; text that says neither is wrong",
}


def _conventions(parser: str, joined: Iterable[str], judged: str) -> list[str]:
    lines = [
        f"parser {parser}: {judged}{_DEFAULTS[parser]}",
        f"answers joined to questions by {' and '.join(sorted(joined))}; fractions; positive class yes",
        "yes_ratio counts the answers read as yes",
    ]
    if parser == "lmms-eval":
        lines[-1] += "; lmms_eval_yes_ratio is what lmms-eval prints: it counts the labels, whatever the answers are"
    return lines


def _warnings(split: str, part: Part, parser: str, foreign: bool) -> list[str]:
    warnings = []
    if part.unparsed:
        share = part.unparsed / part.questions
        warnings.append(
            f"{split}: {part.unparsed:,} answers ({share:.1%}) hold neither yes nor no as the parser "
            f"{parser} reads them"
        )
    if foreign:
        warnings.append(
            f"{split}: the answers' question ids are not those of the questions, and no question is quoted; they are "
            "joined by position, so their order must be that of the question file"
        )
    return warnings + [f"{split}: {name} is undefined (nothing to divide by)" for name in part.tally.undefined]


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _ENDINGS)
    if not files:
        raise UserError(f"{folder} holds no JSON files")
    named = [path for path in files if split_of(path) in SPLITS]  # the published folder has frequencies beside them
    return named or files
