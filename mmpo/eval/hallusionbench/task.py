"""HallusionBench as a benchmark: asked through the engine, judged by a text model or by a yes/no rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmpo.chat.judging import opened, require_all
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.hallusionbench import files
from mmpo.eval.hallusionbench import judge as hbj
from mmpo.eval.hallusionbench import metrics as hb
from mmpo.eval.hallusionbench.settings import HallusionBenchSettings
from mmpo.eval.protocol import Grade, Part, Request, Response, cut_off
from mmpo.eval.task import Context, JudgedTask, benchmark


@benchmark("hallusionbench", settings=HallusionBenchSettings, needs="its questions and figures")
class HallusionBench(JudgedTask[HallusionBenchSettings, hb.HallusionQuestion, hbj.Verdicts]):
    """The published questions; those without an image are asked without one."""

    def __init__(self, settings: HallusionBenchSettings, context: Context) -> None:
        super().__init__(settings, context)
        own = self.settings
        if own.questions is None or own.images is None:
            raise UserError(
                "hallusionbench needs its questions and figures",
                hint="set eval.hallusionbench.questions to HallusionBench.json and .images to the folder with VD/ and "
                "VS/",
            )
        self.by_model = self.wants_model("eval.hallusionbench.judged_by", own.judged_by)
        if own.attribution and not self.by_model:
            raise UserError("eval.hallusionbench.attribution needs a judge", hint="set eval.judge (docs/judges.md)")
        questions = files.read_questions(own.questions)
        if own.question_set == "image":
            questions = [question for question in questions if question.image is not None]
        self.questions = questions[: context.limit]
        self.conventions = self._conventions()

    def parts(
        self, given: Sequence[tuple[hb.HallusionQuestion, Response]], judged: hbj.Verdicts | None = None
    ) -> list[Part]:
        """Score by verdicts made elsewhere, or by those of `judge`."""
        verdicts, same, unparsed = judged or self.judged(given)
        tally = hb.tally([question for question, _ in given], verdicts, same)
        return [Part(None, tally, len(given), cut_off(given), unparsed)]

    def grades(self, responses: Mapping[Request, Response]) -> Iterable[tuple[Request, Grade]]:
        given = self.answered(responses)
        for (question, _), verdict in zip(given, self.judged(given)[0], strict=True):
            read = {hb.RIGHT: "right", hb.UNCLEAR: "unclear"}.get(verdict, "wrong")
            expected = question.answer or question.details
            yield self.request(question), Grade(expected, read, hb.is_right(question, verdict), question.category)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            files.write_predictions(folder / f"result_{state}.json", _filled(self.answered(given)))

    def judge(self, given: Sequence[tuple[hb.HallusionQuestion, Response]]) -> hbj.Verdicts:
        own, answered = self.settings, _filled(given)
        if not self.by_model:
            verdicts = hb.yes_no_verdicts(answered, own.yes_no)
            return verdicts, None, verdicts.count(hb.UNCLEAR)
        with opened(self.context.judge, self.context.cache, "hallusionbench") as chat:
            first = hbj.correctness(chat, answered, mode=own.parser, template=own.correct_template)
            require_all(first, "hallusionbench")
            second = (
                hbj.sameness(chat, answered, mode=own.parser, template=own.same_template) if own.attribution else None
            )
            require_all([one for one in second or () if one is not None], "hallusionbench")
        return hbj.verdicts(first, second)

    def _conventions(self) -> list[str]:
        own = self.settings
        asked = f"question followed by {own.prompt_suffix!r}" if own.prompt_suffix else "question alone"
        if self.context.judge is not None and self.by_model:
            judged = f"judged by {self.context.judge.model} with {template_version(own.correct_template)}, read by the "
            judged += f"{own.parser} rule"
        else:
            judged = f"judged by yes and no, read by the {own.yes_no} rule; neither is unclear"
        return [
            f"HallusionBench: {len(self.questions)} of {hb.QUESTIONS} questions ({own.question_set}), {asked}, greedy, "
            f"at most {own.max_new_tokens} tokens; {judged}",
            "HallusionBench: its images are sets of figures here (intervals resample sets, which hold whole groups); "
            "unclear is right where no image is shown",
        ]

    def request(self, question: hb.HallusionQuestion) -> Request:
        root = None if question.image is None else self.settings.images
        return Request(
            question.image, question.question + self.settings.prompt_suffix, self.settings.max_new_tokens, root
        )


def _filled(given: Sequence[tuple[hb.HallusionQuestion, Response]]) -> list[hb.HallusionQuestion]:
    return [replace(question, prediction=response.text) for question, response in given]
