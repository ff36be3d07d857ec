"""Hallucination and temporal understanding in videos, by questions with short answers: VideoHallucer and TempCompass.

VideoHallucer (arXiv 2406.16338) pairs a basic question with one about something hallucinated; a pair counts only where
both are right. TempCompass (arXiv 2403.00476) asks about action, direction, speed, order and attribute change, as
yes/no, multiple choice, caption matching and captioning; its mean is over questions, not over dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpo.data.outside import names_its_file, read_json
from mmpo.errors import UserError
from mmpo.eval.statistics import ratio
from mmpo.eval.tally import Metric, Tally

Kind = Literal["videohallucer", "tempcompass"]
SIDES = ("basic", "hallucination")
PREDICTIONS = ("predict", "prediction", "pred")
DIMENSIONS = ("action", "direction", "speed", "order", "attribute_change")


@dataclass(frozen=True)
class TemporalQuestion:
    """One question. `group` joins the two of a VideoHallucer pair, `category` is its set or dimension, `side` basic or
    hallucination. `prediction` and `rating` (TempCompass: 0 or 1, by its own evaluation) are there in answer files."""

    id: str
    video: str
    question: str
    answer: str
    category: str
    group: str
    side: str = ""
    prediction: str | None = None
    rating: float | None = None


@names_its_file("VideoHallucer's or TempCompass's questions")
def read(path: str | Path) -> tuple[Kind, list[TemporalQuestion]]:
    """The questions of a file, or of a folder's JSON files, in either format. Raises UserError naming the place."""
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no .json files")
    kinds: set[Kind] = set()
    questions: list[TemporalQuestion] = []
    for file in files:
        data = read_json(file, unique=True)
        prefix = f"{file.stem}/" if path.is_dir() else ""
        if isinstance(data, list):
            kinds.add("videohallucer")
            questions += [q for i, row in enumerate(data) for q in _pair(row, file, i, prefix)]
        elif isinstance(data, dict):
            kinds.add("tempcompass")
            questions += [q for video, dims in data.items() for q in _dimensions(video, dims, file, prefix)]
        else:
            raise UserError(f"{file}: neither VideoHallucer's list nor TempCompass's map")
    if len(kinds) > 1:
        raise UserError(f"{path} holds both VideoHallucer's and TempCompass's files", hint="score them apart")
    return kinds.pop(), questions


def _pair(row: Any, file: Path, number: int, prefix: str) -> list[TemporalQuestion]:
    where = f"{file}:#{number + 1}"
    if not isinstance(row, Mapping) or not all(isinstance(row.get(side), Mapping) for side in SIDES):
        raise UserError(f"{where}: a VideoHallucer item holds `basic` and `hallucination`")
    category = str(row.get("type") or file.stem)
    return [_one(row[side], where, f"{prefix}{number}", category, side) for side in SIDES]


def _one(part: Mapping[str, Any], where: str, group: str, category: str, side: str) -> TemporalQuestion:
    try:
        video, question, answer = str(part["video"]), str(part["question"]), str(part["answer"])
    except KeyError as error:
        raise UserError(f"{where}: `{side}` has no {error}") from None
    if answer.strip().lower() not in ("yes", "no"):
        raise UserError(f"{where}: the right answer of `{side}` is {answer!r}, not yes or no")
    said = next((str(part[key]) for key in PREDICTIONS if part.get(key) is not None), None)
    return TemporalQuestion(f"{group}/{side}", video, question, answer.strip().lower(), category, group, side, said)


def _dimensions(video: str, dimensions: Any, file: Path, prefix: str) -> list[TemporalQuestion]:
    if not isinstance(dimensions, Mapping):
        raise UserError(f"{file}: {video}: expected a map of dimensions")
    found = []
    for dimension, rows in dimensions.items():
        for number, row in enumerate(rows if isinstance(rows, list) else []):
            where = f"{file}: {video}: {dimension} #{number + 1}"
            if not isinstance(row, Mapping) or not isinstance(row.get("question", row.get("mc_question")), str):
                raise UserError(f"{where}: no question")
            said = next((str(row[key]) for key in PREDICTIONS if row.get(key) is not None), None)
            rating = row.get("rating")
            name = f"{prefix}{video}/{dimension}/{number}"
            asked, answer = row.get("question", row.get("mc_question")), str(row.get("answer", ""))
            value = float(rating) if isinstance(rating, (int, float)) else None
            found.append(TemporalQuestion(name, video, asked, answer, str(dimension), name, "", said, value))
    return found


def first_yes_no(text: str) -> str | None:
    """`yes` or `no`: the first of the two words in a text."""
    match = re.search(r"\b(yes|no)\b", text.lower())
    return match.group(1) if match else None


def is_right(kind: Kind, question: TemporalQuestion) -> bool | None:
    """Whether the prediction is right; None where no rule reads it (which counts as wrong).

    VideoHallucer: the first word yes or no. TempCompass: the file's own rating where it has one; else, as its script
    without a language model: equal texts, yes or no at the beginning, a letter A to D alone or before a full stop or
    bracket.
    """
    said = (question.prediction or "").strip()
    if kind == "videohallucer":
        found = first_yes_no(said)
        return None if found is None else found == question.answer
    if question.rating is not None:
        return question.rating >= 1
    if not said:
        return None
    right = question.answer.strip()
    if said.lower() == right.lower():
        return True
    if right.lower() in ("yes", "no"):
        found = next((word for word in ("yes", "no") if said.lower().startswith(word)), None)
        return None if found is None else found == right.lower()
    letter, wanted = re.match(r"([A-D])(?:[.):]|$)", said), re.match(r"([A-D])(?:[.):]|$)", right)
    return letter.group(1) == wanted.group(1) if letter and wanted else None


def metrics(kind: Kind, questions: Sequence[TemporalQuestion]) -> dict[str, Any]:
    """All numbers, in percent, over everything and by category."""
    by: dict[str, list[TemporalQuestion]] = {}
    for question in questions:
        by.setdefault(question.category, []).append(question)
    numbers = _hallucer if kind == "videohallucer" else _compass
    return {**numbers(questions), "categories": {name: numbers(group) for name, group in by.items()}}


def _hallucer(questions: Sequence[TemporalQuestion]) -> dict[str, Any]:
    counts = tally("videohallucer", questions).counts.sum(0)
    values = {metric.name: float(metric.formula(counts)) for metric in HALLUCER}
    return {name: 100 * value for name, value in values.items()} | {
        "pairs": int(counts[5]),
        "questions": len(questions),
    }


def _compass(questions: Sequence[TemporalQuestion]) -> dict[str, Any]:
    rights = [float(bool(is_right("tempcompass", question))) for question in questions]
    rated = [r if q.rating is None else q.rating for q, r in zip(questions, rights, strict=True)]
    return {"accuracy": 100 * sum(rated) / len(rated) if rated else None, "questions": len(questions)}


def _share(name: str, above: int, below: int, better: Literal["higher", "lower", "neither"]) -> Metric:
    return Metric(name, lambda c: ratio(c[..., above], c[..., below]), better, denominator=lambda c: c[..., below])


# Columns: right basic, basic, right hallucination, hallucination, right pairs, pairs, said yes, true yes, questions,
# wrong yes, wrong.
HALLUCER = (
    _share("basic", 0, 1, "higher"),
    _share("hallucination", 2, 3, "higher"),
    _share("overall", 4, 5, "higher"),
    _share("yes_ratio", 6, 8, "neither"),
    Metric("yes_difference", lambda c: ratio(c[..., 6] - c[..., 7], c[..., 8]), "neither"),
    _share("false_positive_ratio", 9, 10, "lower"),
)
COMPASS = (_share("accuracy", 0, 1, "higher"),)


def tally(kind: Kind, questions: Sequence[TemporalQuestion]) -> Tally:
    """Counts by video. Overall is over pairs, which count for the video of their first question."""
    place: dict[str, int] = {}
    for question in questions:
        place.setdefault(question.video, len(place))
    rights = {question.id: bool(is_right(kind, question)) for question in questions}
    if kind == "tempcompass":
        counts = np.zeros((len(place), 2), dtype=np.int64)
        for question in questions:
            counts[place[question.video]] += (rights[question.id], 1)
        categories = {question.id: question.category for question in questions}
        return Tally(tuple(place), counts, COMPASS, rights, "accuracy", categories=categories)
    counts = np.zeros((len(place), 11), dtype=np.int64)
    groups: dict[str, list[TemporalQuestion]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
        row, right = counts[place[question.video]], rights[question.id]
        side = 0 if question.side == "basic" else 2
        row[side] += right
        row[side + 1] += 1
        yes = first_yes_no(question.prediction or "") == "yes"
        row[6:11] += (yes, question.answer == "yes", 1, yes and not right, not right)
    pairs = {name: all(rights[question.id] for question in group) for name, group in groups.items()}
    for name, group in groups.items():
        counts[place[group[0].video], 4:6] += (pairs[name], 1)
    return Tally(tuple(place), counts, HALLUCER, pairs, "overall")
