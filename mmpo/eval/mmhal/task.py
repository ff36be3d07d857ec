"""MMHal-Bench as a benchmark, and on answers made elsewhere: asked, rated by the judge, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mmpo.chat import ChatModel
from mmpo.chat.judging import (
    Judgement,
    cut_off,
    failures,
    judge,
    not_judged,
    opened,
    read_rating,
    require_all,
    unparsed,
)
from mmpo.chat.templates import render, template_version
from mmpo.errors import UserError
from mmpo.eval.mmhal import metrics as mmhal
from mmpo.eval.mmhal.settings import MmhalSettings
from mmpo.eval.protocol import Part, Request, Response
from mmpo.eval.protocol import cut_off as answers_cut_off
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Context, JudgedTask, benchmark

TEMPLATE = "mmhal_judge"
COMPARABLE = (
    "MMHal scores compare only within one judge and one judge's prompt; the published ones are gpt-4-0314's with "
    "another prompt"
)


@benchmark("mmhal", settings=MmhalSettings, needs="its questions and images, and a judge")
class Mmhal(JudgedTask[MmhalSettings, mmhal.MmhalRecord, list[Judgement[int]]]):
    """The published questions, asked through the engine and rated by `eval.judge`."""

    partial = True

    def __init__(self, settings: MmhalSettings, context: Context) -> None:
        super().__init__(settings, context)
        if self.settings.questions is None or self.settings.images is None:
            raise UserError(
                "mmhal needs its questions and images",
                hint="set eval.mmhal.questions to the answer template and eval.mmhal.images to the folder of images",
            )
        if self.context.judge is None:
            raise UserError("mmhal needs a judge", hint="set eval.judge (docs/judges.md)")
        self.questions = mmhal.read_template(self.settings.questions)[: context.limit]
        self.conventions = [
            f"MMHal-Bench: {len(self.questions)} of {mmhal.RECORDS} questions, greedy, at most "
            f"{self.settings.max_new_tokens} tokens; rated 0 to 6 by {self.context.judge.model} with "
            f"{template_version(self.settings.template)}, below {mmhal.HALLUCINATED_BELOW} is a hallucination; "
            f"replies read by the {self.settings.parser} rule, unreadable ones count as 0",
            COMPARABLE,
        ]

    def judge(self, given: Sequence[tuple[mmhal.MmhalRecord, Response]]) -> list[Judgement[int]]:
        with opened(self.context.judge, self.context.cache, "mmhal") as chat:
            found = self.rated(chat, given)
        require_all(found, "mmhal")
        return found

    def rated(self, chat: ChatModel, given: Sequence[tuple[mmhal.MmhalRecord, Response]]) -> list[Judgement[int]]:
        """The ratings of `chat`, and where it gave none why."""
        prompts = [
            render(
                self.settings.template,
                image_content=record.image_content_text,
                question=record.question,
                standard_answer=record.standard_answer,
                answer=response.text,
            )
            for record, response in given
        ]
        read = partial(read_rating, mode=self.settings.parser, highest=mmhal.HIGHEST)
        return judge(chat, prompts, read, label="rating answers")

    def parts(
        self, given: Sequence[tuple[mmhal.MmhalRecord, Response]], ratings: list[Judgement[int]] | None = None
    ) -> list[Part]:
        """Score by ratings made elsewhere, or by those of eval.judge."""
        ratings = self.judged(given) if ratings is None else ratings
        unread = sum(one.value is None for one in ratings)
        counted = mmhal.tally([record for record, _ in given], ratings)
        return [Part(None, counted, len(given), answers_cut_off(given), unread)]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            answered = self.answered(given)
            mmhal.write_template(
                folder / f"answers_{state}.json",
                [record for record, _ in answered],
                [response.text for _, response in answered],
            )

    def request(self, question: mmhal.MmhalRecord) -> Request:
        folder = str(self.settings.images)
        return Request(mmhal.image_file(folder, question), question.question, self.settings.max_new_tokens, folder)


@scorer(
    "mmhal",
    parsers=("strict", "tolerant"),
    options={
        "template": f"the judge's prompt, a packaged name or a .j2 file ({TEMPLATE})",
        "judgements": "file of judge replies saved before, in the order of the answers; takes the place of --judge",
    },
)
def score_mmhal(request: ScoreRequest) -> Scored:
    """MMHal-Bench of a filled template (or of answers beside the template), by the judge or by saved judge replies."""
    if request.questions is None:
        records = mmhal.read_template(request.answers)
    else:
        records = mmhal.read_answers(request.answers, mmhal.read_template(request.questions))
    if not any(record.answer.strip() for record in records):
        raise UserError(f"{request.answers}: every `model_answer` is empty", hint="fill in the model's answers")
    own = {"parser": request.parser or "strict", "template": request.options.get("template", TEMPLATE)}
    task = Mmhal.on(records, MmhalSettings.model_validate(own))
    given = [(record, Response(record.answer, False)) for record in records]
    judgements, how = _judged(request, task, given)
    kept = [place for place, one in enumerate(judgements) if one.failure is None]
    failed = failures(judgements)
    if not kept:
        raise UserError(f"no answer was judged: {failed}", hint="run again: replies that come are kept")
    (part,) = task.parts([given[place] for place in kept], [judgements[place] for place in kept])
    return Scored(
        metrics=mmhal.metrics([records[place].type for place in kept], [judgements[place].value for place in kept]),
        conventions=[
            f"score 0 to 6; hallucination_rate is the fraction of scores below {mmhal.HALLUCINATED_BELOW}; "
            f"informativeness in percent (RLHF-V); types as the records say; {how}, read by the {task.settings.parser} "
            "rule, unreadable ones count as 0",
            COMPARABLE,
        ],
        read=len(records),
        scored=part.questions,
        unparsed=part.unparsed or 0,
        quarantined=failed,
        warnings=_warnings(records, judgements),
        intervals={**intervals(part.tally), "informativeness": intervals(part.tally, percent=True)["informativeness"]},
    )


def _judged(
    request: ScoreRequest, task: Mmhal, given: Sequence[tuple[mmhal.MmhalRecord, Response]]
) -> tuple[list[Judgement[int]], str]:
    saved = request.options.get("judgements")
    if saved is not None:
        texts = mmhal.read_judge_replies(saved)
        if len(texts) != len(given):
            raise UserError(f"{saved} has {len(texts)} replies for {len(given)} answers")
        mode = task.settings.parser
        return [Judgement(read_rating(text, mode, mmhal.HIGHEST), text) for text in texts], f"replies from {saved}"
    if request.judge is None:
        raise UserError("mmhal needs --judge, or saved replies with --set judgements=FILE", hint="see docs/judges.md")
    how = f"rated by {request.judge.identity} with {template_version(task.settings.template)}"
    return task.rated(request.judge, given), how


def _warnings(records: Sequence[mmhal.MmhalRecord], judgements: Sequence[Judgement[int]]) -> list[str]:
    warnings = []
    if len(records) != mmhal.RECORDS:
        warnings.append(f"{len(records)} records; the benchmark has {mmhal.RECORDS}")
    if unread := unparsed(judgements):
        warnings.append(f"{unread} judge replies hold no single readable rating; each counts as a full hallucination")
        texts = [one.text for one in judgements if one.value is None and one.text is not None]
        if readable := sum(read_rating(text, "tolerant", mmhal.HIGHEST) is not None for text in texts):
            warnings[-1] += f" (--parser tolerant reads {readable} of them)"
    warnings += not_judged(judgements) + cut_off(judgements)
    if empty := sum(not record.answer.strip() for record in records):
        warnings.append(f"{empty} answers are empty")
    return warnings
