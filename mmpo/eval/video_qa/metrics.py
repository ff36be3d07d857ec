"""Open-ended video question answering: published question and answer files, and the numbers of judged answers.

Two protocols. `zero_shot` is Video-ChatGPT's (MSVD-QA, MSRVTT-QA, TGIF-QA, ActivityNet-QA): a judge that reads
question, right answer and prediction says yes or no and gives a score from 0 to 5. `reward` is LLaVA-Hound's for its
own sets (arXiv 2404.01258): a judge that also reads a caption of the video gives 1 to 5, and 3 or more is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data.records import read_records, read_table
from mmpo.errors import UserError
from mmpo.eval.statistics.tally import Tally, share

RIGHT_FROM = 3.0
"""The least reward of a right answer in the protocol `reward`."""

IDS = ("question_id", "id", "qid")
VIDEOS = ("video_name", "video_id", "video", "gif_name", "modal_path")
QUESTIONS = ("question", "query", "Q", "q")
REFERENCES = ("answer", "A", "a", "gt_answer")
PREDICTIONS = ("pred", "prediction", "predict", "output", "text", "response")


@dataclass(frozen=True)
class VideoQuestion:
    """One question with its right answer. `video` is its name in the file, `where` the line it stands on."""

    id: str
    video: str
    question: str
    answer: str
    where: str = ""


@dataclass(frozen=True)
class VideoAnswer:
    """A model's answer; `failed` where the file says that it could not answer."""

    id: str | None
    text: str
    failed: bool = False
    where: str = ""


@dataclass(frozen=True)
class JudgedAnswer:
    """A judged answer: right or wrong, and its score; each None where the judge's reply did not hold it. `made_up`,
    where rules judge: whether it holds a thing that is not in the video, and an event.
    """

    question: VideoQuestion
    right: bool | None
    score: float | None
    made_up: tuple[bool, bool] | None = None


def read_questions(path: str | Path, answers: str | Path | None = None) -> list[VideoQuestion]:
    """The questions of a file: JSON or JSON Lines rows (MSVD, MSRVTT, ActivityNet, LLaVA-Hound's conversations) or
    TGIF-QA's tab-separated table. `answers` is the second file of the form in which right answers stand apart.

    Raises UserError naming file and line.
    """
    path = Path(path)
    rows = _table(path) if path.suffix in (".csv", ".tsv") else list(read_records(path))
    references = {} if answers is None else dict(_references(Path(answers)))
    questions = [_question(row, where, number, references) for number, (where, row) in enumerate(rows)]
    twice = next((name for name, count in Counter(q.id for q in questions).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{path}: the question {twice} is there more than once")
    return questions


def read_answers(path: str | Path) -> tuple[list[VideoAnswer], list[VideoQuestion]]:
    """The answers of a file, and the questions that stand beside them (none where the file has only answers).

    Rows as Video-ChatGPT and Video-LLaVA write them (`pred`), or LLaVA-Hound (`model_prediction` with a status).
    """
    answers: list[VideoAnswer] = []
    questions: list[VideoQuestion] = []
    for number, (where, row) in enumerate(read_records(path)):
        name = _first(row, IDS)
        told = row.get("model_prediction")
        if isinstance(told, Mapping):
            failed = told.get("status") != "success"
            answers.append(VideoAnswer(name, "" if failed else str(told.get("message", "")), failed, where))
        else:
            text = _first(row, PREDICTIONS)
            if text is None:
                raise UserError(f"{where}: no prediction", hint=f"one of {', '.join(PREDICTIONS)}, or model_prediction")
            answers.append(VideoAnswer(name, text, False, where))
        if _first(row, QUESTIONS) is not None and _first(row, REFERENCES) is not None:
            questions.append(_question(row, where, number, {}))
    return answers, questions if len(questions) == len(answers) else []


def read_captions(path: str | Path) -> dict[str, str]:
    """Captions of videos by the id and the video that stand beside them. Raises UserError naming file and line."""
    found: dict[str, str] = {}
    for where, row in read_records(path):
        caption = row.get("caption")
        names = [str(row[key]) for key in ("id", "video", "video_name") if key in row]
        if not isinstance(caption, str) or not names:
            raise UserError(f"{where}: a caption row needs `caption`, and `id` or `video`")
        found.update(dict.fromkeys(names, caption))
    return found


def match(
    questions: Sequence[VideoQuestion], answers: Sequence[VideoAnswer]
) -> tuple[list[tuple[VideoQuestion, VideoAnswer]], int]:
    """Answers joined to questions by id, or by order where no answer has one; and how many answers fit no question.

    Raises UserError for an id that is answered twice, and for lists of different length without ids.
    """
    if all(answer.id is None for answer in answers):
        if len(answers) != len(questions):
            raise UserError(f"{len(answers)} answers without ids for {len(questions)} questions")
        return list(zip(questions, answers, strict=True)), 0
    given: dict[str, VideoAnswer] = {}
    for answer in answers:
        if answer.id is None or answer.id in given:
            raise UserError(f"{answer.where}: {'no id' if answer.id is None else f'{answer.id} is answered twice'}")
        given[answer.id] = answer
    pairs = [(question, given[question.id]) for question in questions if question.id in given]
    return pairs, len(given) - len(pairs)


METRICS = (
    share("accuracy", 0, 1, "higher", "share of answers that are judged right", watched=True),
    share("score", 2, 3, "higher", "mean of the judge's marks", percent=False, highest=5.0, headline=1),
)
RULE_METRICS = (
    share("hallucination", 5, 1, "lower", "answers with a thing or an event that is not in the video"),
    share("absent_objects", 6, 1, "lower", "answers with a thing that is not there"),
    share("false_events", 7, 1, "lower", "answers with an event that does not happen"),
)


def tally(judged: Sequence[JudgedAnswer]) -> Tally:
    """Counts by video. A reply without yes or no counts as wrong here, so that before and after have the same
    questions."""
    place: dict[str, int] = {}
    for one in judged:
        place.setdefault(one.question.video, len(place))
    counts = np.zeros((len(place), 8))
    for one in judged:
        absent, false = one.made_up or (False, False)
        counts[place[one.question.video]] += (
            bool(one.right), 1, one.score or 0, one.score is not None, one.right is not None, absent or false, absent,
            false,
        )  # fmt: skip
    by_rules = any(one.made_up is not None for one in judged)
    outcomes = {one.question.id: bool(one.right) for one in judged}
    return Tally(tuple(place), counts, (*METRICS, *RULE_METRICS) if by_rules else METRICS, outcomes, "accuracy")


def metrics(counted: Tally, *, count_failed_as_wrong: bool = False, asked: int | None = None) -> dict[str, Any]:
    """`accuracy` (percent) and mean `score` with the denominator of each: they differ, because a reply may hold one
    without the other. `asked` is the number of all questions; with `count_failed_as_wrong` it divides the accuracy.
    """
    right, answers, score, scored, read = (float(total) for total in counted.counts.sum(0)[:5])
    total = int(answers) if asked is None else asked
    below = total if count_failed_as_wrong else int(read)
    return {
        "accuracy": 100 * right / below if below else None,
        "score": score / scored if scored else None,
        "n_total": total,
        "n_accuracy": below,
        "n_score": int(scored),
        "n_failed": total - int(read),
    }


def _question(row: Mapping[str, Any], where: str, number: int, references: Mapping[str, str]) -> VideoQuestion:
    name = _first(row, IDS) or str(number)
    video = _first(row, VIDEOS) or ""
    if "conversations" in row:
        try:
            said = {turn["from"]: str(turn["value"]) for turn in row["conversations"]}
            question = said["human"].replace("<video>", "").replace("<image>", "").strip()
            return VideoQuestion(name, video, question, said["gpt"].strip(), where)
        except (KeyError, TypeError):
            raise UserError(f"{where}: `conversations` needs a human and a gpt turn") from None
    asked = _first(row, QUESTIONS)
    reference = _first(row, REFERENCES)
    reference = references.get(name) if reference is None else reference
    if asked is None or reference is None:
        missing = "question" if asked is None else "right answer"
        raise UserError(
            f"{where}: no {missing}", hint="a file of right answers that stands apart is given as --annotations"
        )
    return VideoQuestion(name, video, asked.replace("<video>", "").strip(), reference, where)


def _references(path: Path) -> Iterable[tuple[str, str]]:
    for where, row in read_records(path):
        name, answer = _first(row, IDS), _first(row, REFERENCES)
        if name is None or answer is None:
            raise UserError(f"{where}: a right answer needs `question_id` and `answer`")
        yield name, answer


def _table(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [
        (where, {key: value for key, value in row.items() if key != "vid_id"})  # several questions share a video
        for where, row in read_table(path)
    ]


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of `keys` with a value, as text."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value).strip()
    return None


def with_videos(questions: Sequence[VideoQuestion], pattern: str) -> list[VideoQuestion]:
    """The questions with file names for videos: `{video}` in `pattern` stands for the name in the file, as in
    `video{video}.mp4`."""
    return [replace(question, video=pattern.replace("{video}", question.video)) for question in questions]
