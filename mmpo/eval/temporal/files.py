"""The files of VideoHallucer and TempCompass, as published: questions, predictions, and TempCompass's rated answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmpo.errors import UserError
from mmpo.eval.temporal.tempcompass import TaskName, task_of
from mmpo.eval.temporal.videohallucer import set_of
from mmpo.outside import names_its_file, read_json

TemporalBenchmark = Literal["videohallucer", "tempcompass"]
SIDES = ("basic", "hallucination")
PREDICTIONS = ("predict", "prediction", "pred", "response", "video-llm-prediction")
GOLDS = ("answer", "gt-answer")


@dataclass(frozen=True)
class TemporalQuestion:
    """One question. `group` joins the two of a VideoHallucer pair, `category` is its `type` or dimension, `side` basic
    or hallucination, `part` VideoHallucer's set or TempCompass's task. `prediction` and `rating` (TempCompass: by its
    own evaluation 1 or 0, -1 where its language model failed) are there in answer files.
    """

    id: str
    video: str
    question: str
    answer: str
    category: str
    group: str
    side: str = ""
    prediction: str | None = None
    rating: float | None = None
    part: str = ""


@names_its_file("VideoHallucer's or TempCompass's questions")
def read(path: str | Path) -> tuple[TemporalBenchmark, list[TemporalQuestion]]:
    """The questions of a file, or of the JSON files in a folder (or in its folders), in either format. Raises UserError
    naming the place.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.json")) or sorted(path.glob("*/*.json"))
    if not files:
        raise UserError(f"{path} holds no .json files")
    kinds: set[TemporalBenchmark] = set()
    questions: list[TemporalQuestion] = []
    for file in files:
        if file.name == "meta_info.json":
            continue
        data = read_json(file, unique=True)
        if isinstance(data, list):
            kinds.add("videohallucer")
            part = set_of(file) or ""
            name = part or (file.stem if path.is_dir() else "")
            questions += [q for i, row in enumerate(data) for q in _pair(row, file, f"{name}/{i}", part)]
        elif isinstance(data, dict):
            kinds.add("tempcompass")
            questions += [q for video, dims in data.items() for q in _dimensions(video, dims, file)]
        else:
            raise UserError(f"{file}: neither VideoHallucer's list nor TempCompass's map")
    if len(kinds) > 1:
        raise UserError(f"{path} holds both VideoHallucer's and TempCompass's files", hint="score them apart")
    if not questions:
        raise UserError(f"{path} holds no questions")
    twice = next((name for name, count in Counter(q.id for q in questions).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"{path}: two files hold {twice}", hint="one file a set or task; are there two models' answers?"
        )
    return kinds.pop(), questions


def _pair(row: Any, file: Path, group: str, part: str) -> list[TemporalQuestion]:
    where = f"{file}:#{int(group.rpartition('/')[2]) + 1}"
    if not isinstance(row, Mapping) or not all(isinstance(row.get(side), Mapping) for side in SIDES):
        raise UserError(f"{where}: a VideoHallucer item holds `basic` and `hallucination`")
    category = str(row.get("type") or part or file.stem)
    return [_one(row[side], where, group, category, side, part) for side in SIDES]


def _one(half: Mapping[str, Any], where: str, group: str, category: str, side: str, part: str) -> TemporalQuestion:
    try:
        video, question, answer = str(half["video"]), str(half["question"]), str(half["answer"])
    except KeyError as error:
        raise UserError(f"{where}: `{side}` has no {error}") from None
    if answer.strip().lower() not in ("yes", "no"):
        raise UserError(f"{where}: the right answer of `{side}` is {answer!r}, not yes or no")
    return TemporalQuestion(
        f"{group}/{side}", video, question, answer.strip().lower(), category, group, side, _said(half), None, part
    )


def _dimensions(video: str, dimensions: Any, file: Path) -> list[TemporalQuestion]:
    if not isinstance(dimensions, Mapping):
        raise UserError(f"{file}: {video}: expected a map of dimensions")
    found = []
    for dimension, rows in dimensions.items():
        for number, row in enumerate(rows if isinstance(rows, list) else []):
            where = f"{file}: {video}: {dimension} #{number + 1}"
            if not isinstance(row, Mapping):
                raise UserError(f"{where}: not an object")
            asked = row.get("question", row.get("mc_question"))
            rating = row.get("rating")
            if not isinstance(asked, str) and rating is None:
                raise UserError(f"{where}: no question")
            if isinstance(rating, bool) or not (rating is None or rating in (-1, 0, 1)):
                raise UserError(f"{where}: `rating` is {rating!r}", hint="1, 0, or -1 where the judge failed")
            gold = next((str(row[key]) for key in GOLDS if key in row), None)
            if gold is None and rating is None:
                raise UserError(f"{where}: no right answer", hint=f"`{GOLDS[0]}`, or `{GOLDS[1]}` in a rated file")
            task: TaskName = task_of(file, asked or "", gold or "")
            name = f"{task}/{video}/{dimension}/{number}"
            value = None if rating is None else float(rating)
            found.append(
                TemporalQuestion(
                    name, video, asked or "", gold or "", str(dimension), name, "", _said(row), value, task
                )
            )
    return found


def _said(row: Mapping[str, Any]) -> str | None:
    return next((str(row[key]) for key in PREDICTIONS if row.get(key) is not None), None)
