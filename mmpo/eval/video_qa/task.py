"""Open-ended video QA as a benchmark: asked through the engine on frames, judged before and after alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmpo.chat.judging import opened, require_all
from mmpo.chat.video_rules import IDENTITY, VideoRuleJudge
from mmpo.data.records import read_records, write_lines
from mmpo.data.video_lists import VideoItem, read_videos
from mmpo.errors import UserError
from mmpo.eval.protocol import FrameChoice, Grade, Part, Request, Response, cut_off
from mmpo.eval.task import Context, JudgedTask, benchmark
from mmpo.eval.video_qa.judge import verdicts
from mmpo.eval.video_qa.metrics import (
    RIGHT_FROM,
    JudgedAnswer,
    VideoQuestion,
    read_captions,
    read_questions,
    tally,
    with_videos,
)
from mmpo.eval.video_qa.settings import VideoQaSettings


@benchmark("video_qa", settings=VideoQaSettings, needs="questions and videos, and a judge or annotated videos")
class VideoQa(JudgedTask[VideoQaSettings, VideoQuestion, list[JudgedAnswer]]):
    """Questions about videos. `partial`: videos that can't be read are left out and counted."""

    partial = True

    def __init__(self, settings: VideoQaSettings, context: Context) -> None:
        super().__init__(settings, context)
        own = self.settings
        if own.questions is None:
            raise UserError("video_qa needs its questions", hint="set eval.video_qa.questions, and .videos")
        if own.judged_by == "model" and self.context.judge is None:
            raise UserError(
                "video_qa needs a judge", hint="set eval.judge (docs/judges.md), or eval.video_qa.judged_by: rules"
            )
        self.items = _items(own.questions)
        if own.judged_by == "rules" and not any(item.objects or item.events for item in self.items.values()):
            raise UserError(
                f"{own.questions}: no video has `objects` or `events`, so rules can't judge",
                hint="give mmpo's own list of videos (docs/video.md), or judge by a model",
            )
        questions = _of_items(self.items) or read_questions(own.questions, own.answers)
        self.questions = with_videos(questions[: context.limit], own.video_pattern)
        if own.protocol == "reward" and own.judged_by == "model" and not self._captions():
            raise UserError("the protocol reward needs captions", hint="set eval.video_qa.captions")
        judge = context.judge
        who = IDENTITY if judge is None or own.judged_by == "rules" else f"{judge.model}, {own.protocol}"
        self.conventions = [
            f"video_qa: {len(self.questions)} questions, {own.frames.num} frames ({own.frames.sampling}, longer side "
            f"at most {own.frames.max_side}), greedy, at most {own.max_new_tokens} tokens; judged by {who}, replies "
            f"read by the rule {own.parser}, unreadable ones count as wrong; numbers compare within one judge only"
        ]

    def parts(
        self, given: Sequence[tuple[VideoQuestion, Response]], judged: list[JudgedAnswer] | None = None
    ) -> list[Part]:
        """Score by verdicts made elsewhere, or by those of `judge`."""
        judged = self.judged(given) if judged is None else judged
        return [Part(None, tally(judged), len(given), cut_off(given), sum(one.right is None for one in judged))]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            rows = [
                {"id": q.id, "video": q.video, "question": q.question, "answer": q.answer, "pred": response.text}
                for q, response in self.answered(given)
            ]
            write_lines(folder / f"answers_{state}.jsonl", rows)

    def grades(self, responses: Mapping[Request, Response]) -> Iterable[tuple[Request, Grade]]:
        given = self.answered(responses)
        for (question, _), one in zip(given, self.judged(given), strict=True):
            score = None if one.score is None else f"score {one.score:g}"
            yield self.request(question), Grade(question.answer, score, one.right)

    def judge(self, given: Sequence[tuple[VideoQuestion, Response]]) -> list[JudgedAnswer]:
        if self.settings.judged_by == "rules":
            return self._by_rules(given)
        with opened(self.context.judge, self.context.cache, "video_qa") as chat:
            judged, raw = verdicts(chat, given, self.settings, self._captions())
        require_all(raw, "video_qa")
        return judged

    def _by_rules(self, given: Sequence[tuple[VideoQuestion, Response]]) -> list[JudgedAnswer]:
        """Rewards by rules, and what the answers make up."""
        everything = list(self.items.values())
        judge = VideoRuleJudge.over(
            [name for item in everything for name in (*item.objects, *(who for who, _ in item.events))],
            [event for item in everything for event in item.events],
        )
        judged = []
        for question, response in given:
            item, text = self.items[question.id.rpartition("/")[0]], response.text
            reward = judge.reward(
                text, reference=question.answer, caption=item.caption, objects=item.objects, events=item.events
            )
            right = reward.score is not None and reward.score >= RIGHT_FROM
            absent = bool(judge.absent_objects(text, item.objects, f"{item.caption} {question.answer}"))
            false = bool(judge.false_events(text, item.events))
            judged.append(JudgedAnswer(question, right, reward.score, (absent, false)))
        return judged

    def _captions(self) -> dict[str, str]:
        found = {
            f"{item.id}/{number}": item.caption
            for item in self.items.values()
            if item.caption
            for number in range(len(item.qa))
        }
        if self.settings.captions is not None:
            found |= read_captions(self.settings.captions)
        return found

    def request(self, question: VideoQuestion) -> Request:
        own = self.settings
        root = own.videos or str(Path(str(own.questions)).parent)
        frames = FrameChoice(own.frames.num, own.frames.sampling, own.frames.max_side)
        return Request(question.video, question.question + own.prompt_suffix, own.max_new_tokens, root, frames)


def _items(path: str) -> dict[str, VideoItem]:
    """mmpo's own list of videos, by id; empty for a file of another form."""
    if not path.endswith(".jsonl"):
        return {}
    first = next((row for _, row in read_records(path)), {})
    if not isinstance(first.get("video"), str) or "qa" not in first:
        return {}
    return {item.id: item for item in read_videos(path)}


def _of_items(items: Mapping[str, VideoItem]) -> list[VideoQuestion]:
    return [
        VideoQuestion(f"{item.id}/{number}", item.video, qa.question, qa.answer)
        for item in items.values()
        for number, qa in enumerate(item.qa)
    ]
