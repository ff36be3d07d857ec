"""Open-ended video QA on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

from mmpo.chat.judging import failures, unparsed
from mmpo.chat.templates import template_version
from mmpo.data.records import read_records
from mmpo.errors import UserError
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.video_qa.judge import TEMPLATES, Parser, caption_of, verdicts
from mmpo.eval.video_qa.metrics import (
    Protocol,
    VideoAnswer,
    VideoQuestion,
    match,
    metrics,
    read_answers,
    read_questions,
)


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
    protocol = _protocol(request.options.get("protocol", "zero_shot"))
    parser = cast(Parser, request.parser or "tolerant")
    strict = request.options.get("count_failed_as_wrong", "false").lower() in ("true", "1", "yes")
    pairs, asked, strangers, answers = _joined(request, protocol)
    failed = sum(answer.failed for _, answer in pairs)
    answered = [(question, answer.text) for question, answer in pairs if not answer.failed]
    captions = _captions(request) if protocol == "reward" else {}
    without = [q for q, _ in answered if protocol == "reward" and not caption_of(captions, q)]
    answered = [(q, text) for q, text in answered if protocol == "zero_shot" or caption_of(captions, q)]
    template = request.options.get("template")
    judged, raw = verdicts(
        request.judge, answered, protocol=protocol, parser=parser, template=template, captions=captions
    )
    lost = {
        "the question is not in the file": strangers,
        "the file says that it failed": failed,
        "no caption of its video": len(without),
        **failures(raw),
    }
    kept = [one for one, said in zip(judged, raw, strict=True) if said.failure is None]
    missing = len(asked) - len(pairs)
    return Scored(
        metrics=metrics(kept, count_failed_as_wrong=strict, asked=len(asked) if strict else None),
        conventions=[
            f"{protocol}: judged by {request.judge.identity} with {template_version(template or TEMPLATES[protocol])}, "
            f"replies read by the rule {parser}",
            "accuracy in percent of n_accuracy answers, score the mean of n_score; the two denominators differ where a "
            "reply holds only one of them",
            "numbers compare within one judge and prompt only: another version of a judge moves accuracy by 15 points",
        ],
        read=len(answers),
        scored=len(kept),
        unparsed=unparsed(raw),
        quarantined={reason: count for reason, count in lost.items() if count},
        warnings=[f"{missing} of {len(asked)} questions have no answer"] if missing else [],
    )


def _protocol(name: str) -> Protocol:
    if name not in get_args(Protocol):
        raise UserError(f"video_qa has no protocol {name!r}", hint=f"one of {', '.join(get_args(Protocol))}")
    return cast(Protocol, name)


def _joined(
    request: ScoreRequest, protocol: Protocol
) -> tuple[list[tuple[VideoQuestion, VideoAnswer]], Sequence[VideoQuestion], int, list[VideoAnswer]]:
    answers, beside = read_answers(request.answers)
    if request.questions is not None:
        apart = request.annotations if protocol == "zero_shot" else None
        questions = read_questions(request.questions, apart)
    elif beside:
        questions = beside
    else:
        raise UserError(f"{request.answers} holds no questions and right answers", hint="give --questions")
    pairs, strangers = match(questions, answers)
    return pairs, questions, strangers, answers


def _captions(request: ScoreRequest) -> dict[str, str]:
    if request.annotations is None:
        raise UserError(
            "the protocol reward needs captions", hint="--annotations FILE with {id or video, caption} rows"
        )
    found: dict[str, str] = {}
    for where, row in read_records(request.annotations):
        caption = row.get("caption")
        names = [str(row[key]) for key in ("id", "video", "video_name") if key in row]
        if not isinstance(caption, str) or not names:
            raise UserError(f"{where}: a caption row needs `caption`, and `id` or `video`")
        found.update(dict.fromkeys(names, caption))
    return found
