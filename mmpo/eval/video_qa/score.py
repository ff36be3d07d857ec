"""Open-ended video QA on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from mmpo.chat.judging import failures
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.video_qa.judge import TEMPLATES, caption_of, verdicts
from mmpo.eval.video_qa.metrics import (
    VideoAnswer,
    VideoQuestion,
    match,
    metrics,
    read_answers,
    read_captions,
    read_questions,
)
from mmpo.eval.video_qa.settings import Parser, Protocol, VideoQaSettings
from mmpo.eval.video_qa.task import VideoQa


@scorer(
    "video_qa",
    parsers=get_args(Parser),
    needs=("judge",),
    options={
        "protocol": "zero_shot (yes/no and 0 to 5, the default) or reward (1 to 5, with captions as --annotations)",
        "template": "the judge's prompt, a packaged name or a .j2 file",
        "count_failed_as_wrong": "true: answers that are missing or could not be judged count as wrong",
    },
)
def score_video_qa(request: ScoreRequest) -> Scored:
    """MSVD, MSRVTT, ActivityNet, TGIF and SSv2 style answers, judged by a text model."""
    assert request.judge is not None
    protocol = request.options.get("protocol", "zero_shot")
    if protocol not in get_args(Protocol):
        raise UserError(f"video_qa has no protocol {protocol!r}", hint=f"one of {', '.join(get_args(Protocol))}")
    settings = VideoQaSettings.model_validate(
        {"protocol": protocol, "parser": request.parser or "tolerant", "template": request.options.get("template")}
    )
    strict = request.options.get("count_failed_as_wrong", "false").lower() in ("true", "1", "yes")
    pairs, asked, unknown, read = _joined(request, settings.protocol)
    given = [(question, Response(answer.text, False)) for question, answer in pairs if not answer.failed]
    failed, without, captions = len(pairs) - len(given), 0, {}
    if protocol == "reward":
        captions = _captions(request)
        known = [one for one in given if caption_of(captions, one[0])]
        given, without = known, len(given) - len(known)
    judged, raw = verdicts(request.judge, given, settings, captions)
    kept = [place for place, one in enumerate(raw) if one.failure is None]
    task = VideoQa.on([question for question, _ in given], settings)
    (part,) = task.parts([given[place] for place in kept], [judged[place] for place in kept])
    lost = {
        "the question is not in the file": unknown,
        "the file says that it failed": failed,
        "no caption of its video": without,
        **failures(raw),
    }
    missing = len(asked) - len(pairs)
    template = template_version(settings.template or TEMPLATES[settings.protocol])
    return Scored(
        metrics=metrics(part.tally, count_failed_as_wrong=strict, asked=len(asked) if strict else None),
        conventions=[
            f"{protocol}: judged by {request.judge.identity} with {template}, replies read by the rule "
            f"{settings.parser}",
            "accuracy in percent of n_accuracy answers, score the mean of n_score; the two denominators differ where a "
            "reply holds only one of them",
            "numbers compare within one judge and prompt only: another version of a judge moves accuracy by 15 points",
        ],
        read=read,
        scored=part.questions,
        unparsed=part.unparsed or 0,
        quarantined={reason: count for reason, count in lost.items() if count},
        warnings=[f"{missing} of {len(asked)} questions have no answer"] if missing else [],
    )


def _joined(
    request: ScoreRequest, protocol: Protocol
) -> tuple[list[tuple[VideoQuestion, VideoAnswer]], Sequence[VideoQuestion], int, int]:
    """Questions with their answers, all questions, how many answers fit none, and how many there are."""
    answers, beside = read_answers(request.answers)
    if request.questions is not None:
        apart = request.annotations if protocol == "zero_shot" else None
        questions = read_questions(request.questions, apart)
    elif beside:
        questions = beside
    else:
        raise UserError(f"{request.answers} holds no questions and right answers", hint="give --questions")
    pairs, unknown = match(questions, answers)
    return pairs, questions, unknown, len(answers)


def _captions(request: ScoreRequest) -> dict[str, str]:
    if request.annotations is None:
        raise UserError(
            "the protocol reward needs captions", hint="--annotations FILE with {id or video, caption} rows"
        )
    return read_captions(request.annotations)
