"""Question pairs of a unit of work: what each image is asked, the model's own answers, and the pairs that they make.

Yes/no questions are drawn (`questions`) or a text model's; those about numbers, colours and places come from the
annotation (`value_questions`). All questions about an image are asked from one reading of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mmpo.data.pair import placeholder_in
from mmpo.data.truth import Truth
from mmpo.data_builders.hallucination.affirmed import EvidenceReader
from mmpo.data_builders.hallucination.generations import Generation, KeptAnswers
from mmpo.data_builders.hallucination.judges import QuestionMaker
from mmpo.data_builders.hallucination.questions import CoOccurrence, ObjectQuestion, choose_questions, judge, select
from mmpo.data_builders.hallucination.settings import QuestionSettings
from mmpo.data_builders.hallucination.value_questions import (
    ValueAsked,
    ValueKind,
    choose_value_questions,
    judge_values,
    select_values,
)
from mmpo.errors import Quarantined
from mmpo.text.vocabulary import ObjectVocabulary

Q = TypeVar("Q", ObjectQuestion, ValueAsked)

AnswerCheck = Callable[[ObjectQuestion | ValueAsked, str], str]
"""Why an answer to a question can't be the chosen side; empty where it can (see `affirmed`)."""


@dataclass(frozen=True)
class QuestionPair:
    """Two answers to a question. `id` is the question's; `about` is for the pair's provenance."""

    id: str
    question: str
    chosen: str
    rejected: str
    about: dict[str, Any]


@dataclass
class Interview:
    """The pairs of each image, and where all questions went: each table has `in`, and as much in its others together.
    `totals` counts the pairs whose right answer is yes, and those about numbers, colours and places.
    """

    pairs: list[list[QuestionPair]]
    questions: Counter[str] = field(default_factory=Counter)
    value_questions: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)


class Interviewer:
    """Asks the model about images and makes pairs of its answers. Yes/no questions are the `maker`'s, where there is
    one, else drawn by what `common` knows to come together.
    """

    def __init__(
        self,
        settings: QuestionSettings,
        seed: int,
        listener: KeptAnswers,
        vocabulary: ObjectVocabulary,
        common: CoOccurrence,
        maker: QuestionMaker | None = None,
    ) -> None:
        self.settings, self.seed, self.listener = settings, seed, listener
        self.vocabulary, self.common, self.maker = vocabulary, common, maker
        self.evidence = EvidenceReader(vocabulary)

    def ask(
        self, unit: int, images: Sequence[tuple[bytes, Truth]], described: Mapping[str, tuple[str, str]]
    ) -> Interview:
        """The pairs from a unit's `images`: pictures with the known facts about them. `described`: by image, both sides
        of its first description pair; a `maker` asks about those images only.
        """
        truths = [truth for _, truth in images]
        found = Interview([[] for _ in images])
        yes_no = self._made(truths, described, found.questions) if self.maker else [self._drawn(t) for t in truths]
        values = [self._values(truth) for truth in truths]
        asked: list[list[ObjectQuestion | ValueAsked]] = [
            [*some, *more] for some, more in zip(yes_no, values, strict=True)
        ]
        owners = {question.id: number for number, questions in enumerate(asked) for question in questions}
        groups = [
            (picture, [(question.id, question.text) for question in questions])
            for (picture, _), questions in zip(images, asked, strict=True)
            if questions
        ]
        answers = dict(zip(owners, self.listener.answers(unit, groups, self.settings.max_new_tokens), strict=True))

        def unfit(question: ObjectQuestion | ValueAsked, answer: str) -> str:
            return self.evidence.answer(answer, truths[owners[question.id]], question.name)

        value_answers = _usable([question for group in values for question in group], answers, found.value_questions)
        yes_no_answers = _usable([question for group in yes_no for question in group], answers, found.questions)
        for pair in (
            *self._value_pairs(value_answers, unfit, found),
            *self._yes_no_pairs(yes_no_answers, unfit, found),
        ):
            found.pairs[owners[pair.id]].append(pair)
        return found

    def _drawn(self, truth: Truth) -> list[ObjectQuestion]:
        return choose_questions(
            truth.image.id,
            truth.names,
            self.common,
            count=self.settings.questions_per_image,
            templates=self.settings.templates,
            seed=self.seed,
            known_absent=truth.absent,
        )

    def _made(
        self, truths: Sequence[Truth], described: Mapping[str, tuple[str, str]], counts: Counter[str]
    ) -> list[list[ObjectQuestion]]:
        """A text model's questions about each image that has a description pair; one whose answer the evidence does not
        support, or does not decide, is not asked, and none is asked twice.
        """
        assert self.maker is not None
        made = dict(zip(described, self.maker.make(list(described.values())), strict=True))
        chosen: list[list[ObjectQuestion]] = []
        template = 0
        for truth in truths:
            chosen.append([])
            found = made.get(truth.image.id, [])
            seen: set[str] = set()
            for question in [found] if isinstance(found, Quarantined) else found:
                if isinstance(question, Quarantined):
                    reason = f"{question.stage}: {question.reason}"
                elif (text := question.question.casefold()) in seen:
                    reason = "question_repeated"
                elif placeholder_in(text):
                    reason = "question_image_tag"
                else:
                    seen.add(text)
                    unfit = self.evidence.question(question.question, question.yes, question.object, truth)
                    reason = f"answer_{unfit}" if unfit else ""
                    if not unfit:
                        # Each has wording of its own: answers to others say nothing about how this one is answered.
                        template -= 1
                        name = f"{truth.image.id}/q{len(chosen[-1])}"
                        chosen[-1].append(
                            ObjectQuestion(name, question.question, template, question.object, question.yes)
                        )
                if reason:
                    counts["in"] += 1
                    counts[reason] += 1
        return chosen

    def _values(self, truth: Truth) -> list[ValueAsked]:
        qa = self.settings
        per_image: dict[ValueKind, int] = {
            "count": qa.counts_per_image, "color": qa.colors_per_image, "place": qa.places_per_image,
        }  # fmt: skip
        templates: dict[ValueKind, list[str]] = {
            "count": qa.count_templates, "color": qa.color_templates, "place": qa.place_templates,
        }  # fmt: skip
        return choose_value_questions(truth.image.id, truth, per_image=per_image, templates=templates, seed=self.seed)

    def _yes_no_pairs(
        self, answered: Sequence[tuple[ObjectQuestion, str]], unfit: AnswerCheck, found: Interview
    ) -> Iterator[QuestionPair]:
        qa = self.settings
        judged = judge(answered, unfit)
        kept, dropped = select(judged, keep_right_share=qa.keep_right_share, seed=self.seed, weights=qa.weights())
        found.questions.update(dropped, paired=len(kept), neither_yes_nor_no=len(answered) - len(judged))
        found.totals["yes"] += sum(item.asked.present for item in kept)
        for item in kept:
            about = {
                "kind": "question",
                "object": item.asked.name,
                "present": item.asked.present,
                "answered_rightly": item.right,
            }
            yield QuestionPair(item.asked.id, item.asked.text, item.chosen, item.rejected, about)

    def _value_pairs(
        self, answered: Sequence[tuple[ValueAsked, str]], unfit: AnswerCheck, found: Interview
    ) -> Iterator[QuestionPair]:
        qa = self.settings
        judged = judge_values(answered, self.vocabulary, unfit)
        kept, dropped = select_values(
            judged, keep_right_share=qa.keep_right_share, balanced=qa.balance != "none", seed=self.seed
        )
        found.value_questions.update(dropped, paired=len(kept), no_value=len(answered) - len(judged))
        for pair in kept:
            asked = pair.judged.asked
            found.totals[f"{asked.kind}_questions"] += 1
            about = {
                "kind": "value_question",
                "asks": asked.kind,
                "object": asked.name,
                "right": asked.right,
                "wrong": pair.wrong,
                "answered_rightly": pair.judged.right,
            }
            yield QuestionPair(asked.id, asked.text, pair.judged.chosen, pair.rejected, about)


def _usable(asked: Sequence[Q], answers: Mapping[str, Generation], counts: Counter[str]) -> list[tuple[Q, str]]:
    """The questions with the answers that are whole and hold no image tag; `counts` gets how many are asked, and how
    many of these are not.
    """
    ended = [(question, answers[question.id][0]) for question in asked if not answers[question.id][1]]
    usable = [(question, text) for question, text in ended if not placeholder_in(text)]
    counts["in"] += len(asked)
    counts["unfinished"] += len(asked) - len(ended)
    counts["image_tag"] += len(ended) - len(usable)
    return usable
