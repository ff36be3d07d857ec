"""Pairs about videos from rewards: what one unit of videos gives. The steps of LLaVA-Hound-DPO (arXiv 2404.01258).

    frames -> caption -> questions -> K sampled answers -> rewards -> pairs

The video is decoded once; the frames that the model answered about are the ones that the pairs hold. All answers to a
question come from one prefill. Everything that is lost on the way is counted under its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpo.chat import ChatModel, ChatRequest
from mmpo.chat.judging import final_replies
from mmpo.chat.templates import render
from mmpo.chat.video_replies import Reward, read_questions
from mmpo.data.pair import placeholder_in
from mmpo.data.video_lists import QA, VideoItem, without_tags
from mmpo.data_builders.video.choose import choose, normalized
from mmpo.data_builders.video.rewards import Rewarder, VideoCandidate
from mmpo.data_builders.video.settings import VideoRewardSettings
from mmpo.errors import Quarantined
from mmpo.models.generation.answerer import Answerer
from mmpo.video import Limits, read_frames
from mmpo.video.clip import Clip

SCORES = ("chosen_reward", "rejected_reward")


@dataclass
class Answered:
    """One question with its sampled answers; the lists are parallel."""

    qa: QA
    number: int
    texts: list[str] = field(default_factory=list)
    rewards: list[Reward | None] = field(default_factory=list)


@dataclass
class VideoWork:
    """One video of a unit: its frames, its caption, its questions, its pairs without frames."""

    item: VideoItem
    clip: Clip
    indices: list[int]
    backend: str
    caption: str = ""
    caption_source: str = "given"
    questions: list[Answered] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class VideoTally:
    """Counts of questions and answers (`in` = `paired` or `scored` and the losses), rewards and lengths."""

    questions: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    scores: Counter[str] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)


@dataclass
class VideoBuilder:
    """Builds unit after unit. `captioner` and `questioner` are None where nothing has to be written."""

    settings: VideoRewardSettings
    engine: Answerer
    rewarder: Rewarder
    version: str
    captioner: ChatModel | None = None
    questioner: ChatModel | None = None

    def build(self, items: Sequence[VideoItem]) -> tuple[list[VideoWork | Quarantined], VideoTally]:
        """The result of each video: its pairs, or why there are none. Nothing but the unit decides it."""
        tally = VideoTally()
        found: list[VideoWork | Quarantined] = [self._watch(item, tally) for item in items]
        found = self._captioned(found)
        found = self._questioned(found)
        watched = [video for video in found if isinstance(video, VideoWork)]
        self._sample(watched, tally)
        self._reward(watched, tally)
        for video in watched:
            self._pair(video, tally)
        return [self._outcome(one) for one in found], tally

    def _outcome(self, video: VideoWork | Quarantined) -> VideoWork | Quarantined:
        if isinstance(video, Quarantined) or video.pairs:
            return video
        return Quarantined("filter", "no_pair", "no question had both a good and a bad answer")

    # ---- frames, captions, questions

    def _watch(self, item: VideoItem, tally: VideoTally) -> VideoWork | Quarantined:
        want = self.settings.frames
        try:
            frames = read_frames(
                item.video,
                num=want.num,
                sampling=want.sampling,
                max_side=want.max_side,
                on_error=want.on_error,
                limits=Limits(timeout=want.timeout),
                isolate=want.isolate,
                root=item.root,
            )
        except Quarantined as error:
            return error
        tally.backends[frames.report.backend] += 1
        return VideoWork(item, Clip.of(frames), list(frames.indices), frames.report.backend)

    def _captioned(self, videos: Sequence[VideoWork | Quarantined]) -> list[VideoWork | Quarantined]:
        """Every video with a caption that is long enough to be evidence."""
        missing = [video for video in videos if isinstance(video, VideoWork) and not video.item.caption]
        written: dict[int, str | Quarantined] = {}
        if missing and self.captioner is not None:
            requests = [
                ChatRequest.ask(
                    render(self.settings.caption_template, frames=len(video.clip.frames), times=list(video.clip.times)),
                    images=video.clip.frames,
                )
                for video in missing
            ]
            replies = final_replies(list(self.captioner.replies(requests, "writing captions")), "captioner")
            for video, reply in zip(missing, replies, strict=True):
                written[id(video)] = reply if isinstance(reply, Quarantined) else " ".join(reply.text.split())
        return [video if isinstance(video, Quarantined) else self._with_caption(video, written) for video in videos]

    def _with_caption(self, video: VideoWork, written: dict[int, str | Quarantined]) -> VideoWork | Quarantined:
        caption: str | Quarantined = video.item.caption
        if not caption:
            caption = written.get(id(video), "")
            video.caption_source = self.captioner.identity if self.captioner is not None else ""
        if isinstance(caption, Quarantined):
            return Quarantined("caption", caption.reason, caption.detail)
        words = len(caption.split())
        if not words:
            return Quarantined("caption", "missing", "no caption, and no captioner is set")
        if words < self.settings.min_caption_words:
            return Quarantined("caption", "too_short", f"{words} words")
        video.caption = caption
        return video

    def _questioned(self, videos: Sequence[VideoWork | Quarantined]) -> list[VideoWork | Quarantined]:
        """Every video with questions: the given ones, else written from the caption."""
        missing = [video for video in videos if isinstance(video, VideoWork) and not video.item.qa]
        written: dict[int, tuple[list[tuple[str, str]], Quarantined | None]] = {}
        if missing and self.questioner is not None:
            count = self.settings.questions_per_video
            requests = [
                ChatRequest.ask(render(self.settings.question_template, caption=video.caption, count=count))
                for video in missing
            ]
            replies = final_replies(list(self.questioner.replies(requests, "writing questions")), "questioner")
            for video, reply in zip(missing, replies, strict=True):
                if isinstance(reply, Quarantined):
                    written[id(video)] = ([], Quarantined("questions", reply.reason, reply.detail))
                else:
                    pairs, why = read_questions(reply.text)
                    written[id(video)] = (pairs, Quarantined("questions", why, reply.text[:200]) if why else None)
        result: list[VideoWork | Quarantined] = []
        for one in videos:
            if isinstance(one, Quarantined):
                result.append(one)
                continue
            pairs, failed = written.get(id(one), ([], None))
            questions = one.item.qa or tuple(QA(without_tags(question), answer) for question, answer in pairs)
            if failed is not None:
                result.append(failed)
            elif not questions:
                result.append(Quarantined("questions", "missing", "no questions, and no questioner is set"))
            else:
                one.questions = [Answered(qa, number) for number, qa in enumerate(questions)]
                result.append(one)
        return result

    # ---- answers, rewards, pairs

    def _sample(self, videos: Sequence[VideoWork], tally: VideoTally) -> None:
        """K answers to every question, one prefill each; answers that can't be used are left out here."""
        asked = [(video, question) for video in videos for question in video.questions]
        samples = self.engine.sample_many(
            [(video.clip, question.qa.question) for video, question in asked],
            self.settings.samples,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            seed=self.settings.seed,
            max_new_tokens=self.settings.max_new_tokens,
        )
        for (_, question), answers in zip(asked, samples, strict=True):
            seen: set[str] = set()
            for answer in answers:
                tally.answers["in"] += 1
                same = normalized(answer.text)
                if not answer.text.strip():
                    tally.answers["empty"] += 1
                elif answer.truncated:
                    tally.answers["cut_off"] += 1
                elif placeholder_in(answer.text):
                    tally.answers["image_tag"] += 1
                elif same in seen:
                    tally.answers["duplicate"] += 1
                else:
                    question.texts.append(answer.text)
                seen.add(same)

    def _reward(self, videos: Sequence[VideoWork], tally: VideoTally) -> None:
        places = [
            (question, VideoCandidate(video.item, video.caption, question.qa.question, question.qa.answer, text))
            for video in videos
            for question in video.questions
            for text in question.texts
        ]
        given = self.rewarder.rewards([candidate for _, candidate in places])
        for (question, candidate), reward in zip(places, given, strict=True):
            if isinstance(reward, Quarantined):
                tally.answers[f"judge_{reward.reason}"] += 1
                question.rewards.append(None)
                continue
            if reward.score is None:
                tally.answers["unparsed"] += 1
                question.rewards.append(None)
                continue
            question.rewards.append(reward)
            words = len(candidate.text.split())
            tally.answers["scored"] += 1
            tally.scores[f"{reward.score:g}"] += 1
            tally.totals.update(_moments(reward.score, words))

    def _pair(self, video: VideoWork, tally: VideoTally) -> None:
        for question in video.questions:
            tally.questions["in"] += 1
            scores = [None if reward is None else reward.score for reward in question.rewards]
            pairs, why = choose(
                scores,
                question.texts,
                threshold=self.settings.threshold,
                min_gap=self.settings.min_gap,
                count=self.settings.pairs_per_question,
                pick=self.settings.pick,
                seed=f"{self.settings.seed}/{video.item.id}/{question.number}",
            )
            tally.questions[why or "paired"] += 1
            for place, (good, bad) in enumerate(pairs):
                video.pairs.append(self._row(video, question, place, good, bad))
                tally.totals["chosen_words"] += len(question.texts[good].split())
                tally.totals["rejected_words"] += len(question.texts[bad].split())
                tally.totals["pairs"] += 1

    def _row(self, video: VideoWork, question: Answered, place: int, good: int, bad: int) -> dict[str, Any]:
        """A pair without its frames."""
        chosen, rejected = question.rewards[good], question.rewards[bad]
        assert chosen is not None and rejected is not None
        return {
            "id": f"{video.item.id}/q{question.number}p{place}",
            "question": question.qa.question,
            "chosen": question.texts[good],
            "rejected": question.texts[bad],
            "scores": {"chosen_reward": chosen.score, "rejected_reward": rejected.score},
            "provenance": {
                "builder": self.settings.builder,
                "version": self.version,
                "sources": [video.item.id],
                "seed": self.settings.seed,
                "judge": self.rewarder.identity,
                "video": video.item.video,
                "frame_numbers": video.indices,
                "decoded_by": video.backend,
                "caption": video.caption,
                "caption_source": video.caption_source,
                "reference": question.qa.answer,
                "chosen_explanation": chosen.explanation,
                "rejected_explanation": rejected.explanation,
            },
        }


def _moments(score: float, words: int) -> dict[str, Any]:
    """Sums for means and for the correlation of reward and length."""
    return {"n": 1, "s": score, "w": words, "ss": score * score, "ww": words * words, "sw": score * words}
