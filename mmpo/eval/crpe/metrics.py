"""CRPE (Wang et al. 2024, arXiv:2402.19474): questions read, answers read, samples of four counted.

Each question is there four times, one after another, with its options turned round; a sample counts where all four are
answered right. The options stand in the text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.crpe.settings import CrpeReader
from mmpo.eval.multiple_choice.metrics import read_option
from mmpo.eval.statistics.tally import Metric, Tally, by_image, share
from mmpo.statistics import ratio

TURNS = 4
RELATIONS = ("subject", "predicate", "object")
"""The categories whose mean is the published overall number."""
LETTERS = "ABCD"


@dataclass(frozen=True)
class CrpeQuestion:
    """One turn of a question about `image`; `answer` is a letter, `sample` names the four turns."""

    id: str
    image: str
    text: str
    category: str
    answer: str
    sample: str


def read_questions(paths: Iterable[str | Path]) -> list[CrpeQuestion]:
    """The questions in their order, which says what belongs together. Raises UserError naming a wrong row, and where a
    category's rows are no multiple of four."""
    found: list[CrpeQuestion] = []
    ids: set[str] = set()
    seen: dict[str, int] = defaultdict(int)
    for path in paths:
        for where, row in read_records(path):
            name, answer = str(row.get("question_id", "")), text_of(row, ("correct_option",), where)
            if not name or name in ids:
                raise UserError(f"{where}: `question_id` must be there, each once; found {name!r}")
            if answer not in LETTERS or len(answer) != 1:
                raise UserError(f"{where}: `correct_option` must be one of {', '.join(LETTERS)}, found {answer!r}")
            ids.add(name)
            category = text_of(row, ("category",), where)
            sample = f"{category} {seen[category] // TURNS + 1}"
            seen[category] += 1
            image, text = text_of(row, ("image",), where), text_of(row, ("text",), where)
            found.append(CrpeQuestion(name, image, text, category, answer, sample))
    for category, number in seen.items():
        if number % TURNS:
            raise UserError(
                f"{number} questions of the category {category!r}: they come in fours, options turned round"
            )
    return found


def read_letter(text: str, parser: CrpeReader) -> str | None:
    """The letter of an answer, or None (wrong): it alone (official), or wherever it is named."""
    if parser == "official":
        return text if len(text) == 1 else None
    option = read_option(text, [""] * len(LETTERS))
    return None if option is None else LETTERS[option]


ACCURACY = share("accuracy", 2, 3, "higher", "samples with all four turns right", independent=True, headline=1)
SINGLE = share("single_accuracy", 0, 1, "higher", "right answers, turn by turn")


def score(
    questions: Sequence[CrpeQuestion], texts: Sequence[str], parser: CrpeReader = "official"
) -> tuple[dict[str, Tally], int]:
    """Counts by sample, of samples that are complete, for each category, and `relations`, the plain mean of the three
    of relations, where all are there; how many answers name no letter."""
    read = [read_letter(text, parser) for text in texts]
    right = {question.id: letter == question.answer for question, letter in zip(questions, read, strict=True)}
    tallies: dict[str, Tally] = {}
    for category in dict.fromkeys(question.category for question in questions):
        own = [question for question in questions if question.category == category]
        rows = np.array([[right[question.id], 1, 0, 0] for question in own], dtype=np.int64)
        samples, counts = by_image([question.sample for question in own], rows)
        counts[:, 3] = counts[:, 1] == TURNS
        counts[:, 2] = counts[:, 0] == TURNS
        outcomes = {question.id: right[question.id] for question in own}
        tallies[category] = Tally(samples, counts, (ACCURACY, SINGLE), outcomes, "single_accuracy")
    if all(name in tallies for name in RELATIONS):
        tallies["relations"] = _mean(tallies)
    return tallies, read.count(None)


def _mean(tallies: Mapping[str, Tally]) -> Tally:
    """The three relations side by side: their columns in one table, so that samples are resampled within each."""
    own = [tallies[name] for name in RELATIONS]
    samples = tuple(sample for tally in own for sample in tally.images)
    counts = np.zeros((len(samples), 2 * len(own)), dtype=np.int64)
    start = 0
    for number, tally in enumerate(own):
        counts[start : start + len(tally.images), 2 * number : 2 * number + 2] = tally.counts[:, 2:]
        start += len(tally.images)

    def mean(c: np.ndarray) -> np.ndarray:
        return np.mean([ratio(c[..., 2 * n], c[..., 2 * n + 1]) for n in range(len(own))], axis=0)

    metric = Metric(
        "overall", mean, "higher", "mean of subject, predicate and object", headline=2,
        denominator=lambda c: np.min([c[..., 2 * n + 1] for n in range(len(own))], axis=0),
    )  # fmt: skip
    outcomes = {name: right for tally in own for name, right in tally.outcomes.items()}
    return Tally(samples, counts, (metric,), outcomes)
