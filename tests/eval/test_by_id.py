"""A list of questions that registers no scorer: its answers are found by id (the worked example in `tests/plugins`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import Field

from mmpo.errors import UserError
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.scoring import Scored, ScoreRequest, score, scorers
from mmpo.eval.section import ADDED, Section
from mmpo.eval.statistics.tally import Tally, share
from mmpo.eval.task import BENCHMARKS, Context, QuestionTask, benchmark


@dataclass(frozen=True)
class Sum:
    id: int
    text: str
    right: str
    kind: str


class Asked(Section):
    """Sums."""

    sums: list[int] = Field([1, 2, 3], description="Which.")


class Sums(QuestionTask[Asked, Sum]):
    """Sums, whole and by kind."""

    def __init__(self, settings: Asked, context: Context) -> None:
        super().__init__(settings, context)
        self.questions = [Sum(n, f"{n} + {n}?", str(2 * n), "odd" if n % 2 else "even") for n in settings.sums]

    def request(self, question: Sum) -> Request:
        return Request(None, question.text, 4)

    def parts(self, given: Sequence[tuple[Sum, Response]]) -> list[Part]:
        def part(kind: str | None) -> Part:
            own = [(one, response) for one, response in given if kind in (None, one.kind)]
            counts = np.array([[response.text == one.right, 1] for one, response in own])
            tally = Tally(tuple(one.text for one, _ in own), counts, (share("right", 0, 1, "higher"),))
            unread = sum(not response.text.isdigit() for _, response in own)
            return Part(kind, tally, len(own), cut_off(own), unread, total=kind is None)

        return [part(None), part("odd"), part("even")]


@pytest.fixture
def alone() -> Iterator[None]:
    """What a test registers is gone after it."""
    yield
    for registry in (BENCHMARKS, ADDED):
        registry.forget([__name__])


def scored(folder: Path, answers: dict[int, str], **options: str) -> Scored:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps({"id": key, "answer": text}) + "\n" for key, text in answers.items()))
    return score("sums", ScoreRequest(path, options=options))


@pytest.mark.usefixtures("alone")
def test_parts_are_groups_of_numbers_and_unread_answers_count_once(tmp_path: Path) -> None:
    benchmark("sums", settings=Asked)(Sums)
    assert scorers()["sums"].options == {"sums": "Which."}
    found = scored(tmp_path, {1: "2", 2: "many", 3: "7"})
    assert found.metrics == {"right": 1 / 3, "odd": {"right": 0.5}, "even": {"right": 0.0}}
    assert (found.read, found.scored, found.unparsed) == (3, 3, 1) and found.intervals["odd"].keys() == {"right"}
    other = scored(tmp_path, {4: "8", 7: "14"}, sums="[4, 7]")
    assert other.metrics == {"right": 1.0, "odd": {"right": 1.0}, "even": {"right": 1.0}}
    with pytest.raises(UserError, match="none of the 2 answers holds what sums looks for"):
        scored(tmp_path, {1: "one", 2: "two"})
    with pytest.raises(UserError, match="several of its 2 questions have one id"):
        scored(tmp_path, {1: "2"}, sums="[1, 1]")


@pytest.mark.usefixtures("alone")
def test_questions_without_an_id_say_what_to_define(tmp_path: Path) -> None:
    class Bare(Sums):
        def __init__(self, settings: Asked, context: Context) -> None:
            super().__init__(settings, context)
            self.questions = [(1, "1 + 1?")]  # type: ignore[list-item]

    benchmark("sums", settings=Asked)(Bare)
    with pytest.raises(UserError, match="Bare doesn't say how its questions are called\n  hint: define id_of"):
        scored(tmp_path, {1: "2"})
