"""TempCompass's language model: it decides about answers that no rule reads, and answers a multiple-choice question
from a caption alone (rules 4 and 5 of the published scripts; the prompts are ours).

The published scripts ask again, up to ten times at temperature 1, until a reply is readable; here the judge is greedy,
is asked once, and what can't be read counts as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, judge, not_judged, unparsed
from mmpo.chat.templates import render, template_version
from mmpo.errors import UserError
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.temporal.files import TemporalQuestion, read
from mmpo.eval.temporal.metrics import is_right
from mmpo.eval.temporal.tempcompass import read_caption_answer, read_correctness

MATCH, CAPTION = "tempcompass_match", "tempcompass_caption"


def rated_by(
    chat: ChatModel, questions: Sequence[TemporalQuestion], parser: str, request: ScoreRequest
) -> tuple[list[TemporalQuestion], list[str]]:
    """The questions, with the judge's ratings where no rule gave one; and notes about how.

    Raises UserError where captions are to be rated and no multiple-choice question of their video is known.
    """
    open_ones = [q for q in questions if q.prediction is not None and is_right("tempcompass", q, parser) is None]
    captions = [q for q in open_ones if q.part == "captioning"]
    others = [q for q in open_ones if q.part != "captioning"]
    choices = _first_choices(captions, request) if captions else {}
    said = judge(
        chat,
        [render(MATCH, question=q.question, reference=q.answer, answer=q.prediction) for q in others],
        read_correctness,
        max_tokens=128,
    )
    ratings = {q.id: one for q, one in zip(others, said, strict=True)}
    for q, one in zip(
        captions,
        judge(
            chat,
            [render(CAPTION, caption=q.prediction, question=choices[_about(q)].question) for q in captions],
            lambda reply: reply,
        ),
        strict=True,
    ):
        value = None if one.value is None else read_caption_answer(one.value, choices[_about(q)].answer)
        ratings[q.id] = Judgement(value, one.text, one.failure)
    asked = list(ratings.values())
    if not asked:
        return list(questions), []
    templates = [name for name, ones in ((MATCH, others), (CAPTION, captions)) if ones]
    how = f"{len(asked)} answers that no rule reads were rated by {chat.identity} with " + " and ".join(
        template_version(name) for name in templates
    )
    unread = unparsed(asked)
    notes = [how, *([f"{unread} of its replies hold no verdict and count as wrong"] if unread else [])]
    rated = [
        replace(q, rating=None if ratings[q.id].failure else float(ratings[q.id].value or 0)) if q.id in ratings else q
        for q in questions
    ]
    return rated, [*notes, *not_judged(asked)]


def _about(question: TemporalQuestion) -> tuple[str, str]:
    return question.video, question.category


def _first_choices(
    captions: Sequence[TemporalQuestion], request: ScoreRequest
) -> dict[tuple[str, str], TemporalQuestion]:
    """The first multiple-choice question of each caption's video and dimension."""
    source = Path(request.options["multi_choice"]) if "multi_choice" in request.options else request.questions
    found: dict[tuple[str, str], TemporalQuestion] = {}
    for question in read(source)[1] if source is not None else []:
        if question.part == "multi-choice":
            found.setdefault(_about(question), question)
    without = next((q for q in captions if _about(q) not in found), None)
    if without is not None:
        raise UserError(
            f"{request.answers}: no multiple-choice question about {without.video}, {without.category}, from which its "
            "caption is rated",
            hint="--set multi_choice=multi-choice.json (TempCompass's questions)",
        )
    return found
