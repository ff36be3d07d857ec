"""Pairs of videos. Beside what every build leaves behind (`mmpo.data_builders.run`):

run_dir/
  frames/00000/…       the frames that the model saw, by unit
  replies.*.jsonl      replies of judge, captioner and questioner; never asked again
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import mmpo
from mmpo.chat import open_chat
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.video_lists import VideoItem, read_videos
from mmpo.data_builders.models import open_answerer
from mmpo.data_builders.run import Builder, Written
from mmpo.data_builders.units import Advance, Units, Work, count_table, digest, file_digest, ordered
from mmpo.data_builders.video.builder import SCORES, VideoBuilder, VideoWork
from mmpo.data_builders.video.rewards import ModelRewarder, Rewarder, RuleRewarder
from mmpo.data_builders.video.settings import VideoBuildResult, VideoRewardSettings
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import write_bytes

LENGTH_RATIO = (0.8, 1.25)
"""Mean words of chosen over rejected outside of this are warned about: then length alone separates the sides."""


class VideoPairs(Builder[VideoRewardSettings, VideoItem, VideoBuildResult]):
    """Pairs from rewards of sampled answers (after LLaVA-Hound-DPO)."""

    result = VideoBuildResult
    label = "answering questions about videos"
    title = "Video pairs from rewards"
    scores = SCORES

    @cached_property
    def listed(self) -> list[VideoItem]:
        return read_videos(self.settings.videos, self.settings.root, self.settings.captions)

    def plan(self) -> Sequence[VideoItem]:
        items = self.listed[: self.settings.limit]
        if not items:
            raise UserError(f"{self.settings.videos}: no videos are listed there")
        if self.settings.judge.by == "rules" and not any(item.objects or item.events for item in self.listed):
            raise UserError(
                f"{self.settings.videos}: no video has `objects` or `events`, so rules can't judge",
                hint="annotate the videos, or set judge: {by: model, model: {backend: server, …}}",
            )
        return items

    def source(self) -> dict[str, Any]:
        files = {"videos": self.settings.videos, "captions": self.settings.captions}
        return super().source() | {f"content of {name}": file_digest(path) for name, path in files.items() if path}

    def open(self, stack: ExitStack) -> Work[VideoItem]:
        settings, run_dir = self.settings, self.run_dir

        def chat(role: str, chosen: Any) -> Any:
            return None if chosen is None else stack.enter_context(open_chat(chosen, run_dir / f"replies.{role}.jsonl"))

        judge = chat("judge", settings.judge.model)
        rewarder: Rewarder = RuleRewarder(self.listed) if judge is None else ModelRewarder(judge, settings.judge)
        captioner, questioner = chat("captioner", settings.captioner), chat("questioner", settings.questioner)
        engine = open_answerer(settings.model, settings, run_dir, stack, video_input=settings.video_input)
        builder = VideoBuilder(settings, engine, rewarder, mmpo.__version__, captioner, questioner)

        def work(number: int, part: Sequence[VideoItem], advance: Advance) -> dict[str, Any]:
            found, tally = builder.build(part)
            rows = [_outcome(run_dir, number, place, video) for place, video in enumerate(found)]
            advance(len(part))
            return {"tally": vars(tally), "judge": rewarder.identity, "outcomes": rows}

        return work

    def pairs(self, source: VideoItem, outcome: Mapping[str, Any], units: Units[VideoItem]) -> list[PreferencePair]:
        if not outcome["pairs"]:
            raise Quarantined(outcome["stage"], outcome["reason"], outcome["detail"])
        frames = [_frame(self.run_dir, *of) for of in zip(outcome["frames"], outcome["digests"], strict=True)]
        return [_pair(row, frames, outcome["times"]) for row in outcome["pairs"]]

    def summary(self, units: Units[VideoItem], written: Written) -> VideoBuildResult:
        return _result(units, written)

    def notes(self, result: VideoBuildResult) -> str:
        rewards = ", ".join(f"{score}: {count}" for score, count in result.scores.items())
        lines = [
            f"{result.pairs_made} pairs about {result.images_used} videos (chosen {result.chosen_words:.1f} words, "
            f"rejected {result.rejected_words:.1f}). Judge: {result.judge}. Rewards given: {rewards}.",
            *(f"Warning: {warning}." for warning in result.warnings),
            count_table(result.counts),
        ]
        return "\n\n".join(lines)


def _outcome(run_dir: Path, unit: int, place: int, video: VideoWork | Quarantined) -> dict[str, Any]:
    """The row of one video; the frames of a video with pairs are written beside it."""
    if isinstance(video, Quarantined):
        return {"pairs": [], "stage": video.stage, "reason": video.reason, "detail": video.detail}
    names, digests = [], []
    for number, frame in enumerate(video.clip.frames):
        name = f"frames/{unit:05d}/{place:04d}-{number:03d}.jpeg"
        write_bytes(run_dir / name, cast(bytes, frame))  # as `Clip.of` makes them
        names.append(name)
        digests.append(digest(cast(bytes, frame)))
    return {"pairs": video.pairs, "frames": names, "digests": digests, "times": list(video.clip.times)}


def _frame(run_dir: Path, name: str, wanted: str) -> bytes:
    """A frame that `_outcome` wrote. UserError where it is gone or no longer that."""
    path = run_dir / name
    data = path.read_bytes() if path.exists() else b""
    if digest(data) != wanted:
        unit = run_dir / "units" / f"{path.parent.name}.json"
        remedy = f"delete {unit} and run the same command again: only this part is made again"
        raise UserError(f"{path}: damaged or gone", hint=remedy)
    return data


def _pair(row: dict[str, Any], frames: list[bytes], times: list[float]) -> PreferencePair:
    return PreferencePair(
        id=row["id"],
        prompt=[{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": row["question"]}]}],
        chosen=[text_message("assistant", row["chosen"])],
        rejected=[text_message("assistant", row["rejected"])],
        videos=[{"frames": list(frames), "times": list(times)}],
        scores=row["scores"],
        provenance=row["provenance"],
    )


def _result(units: Units[VideoItem], written: Written) -> VideoBuildResult:
    total = units.tally
    counts = {
        "videos": ordered(written.table),
        "questions": ordered(total["questions"]),
        "answers": ordered(total["answers"], ("in", "scored")),
    }
    sums = total["totals"]
    n, pairs = sums["n"], sums["pairs"]
    chosen, rejected_words = (sums[f"{side}_words"] / pairs if pairs else 0.0 for side in ("chosen", "rejected"))
    warnings = []
    if pairs and not LENGTH_RATIO[0] <= chosen / max(rejected_words, 1e-9) <= LENGTH_RATIO[1]:
        warnings.append(
            f"chosen answers have {chosen:.1f} words, rejected ones {rejected_words:.1f}: length tells them apart"
        )
    return VideoBuildResult(
        pairs="pairs",
        images=written.table["in"],
        images_used=written.table["paired"],
        pairs_made=written.pairs,
        judge="; ".join(sorted({unit["judge"] for unit in units.facts})),
        counts=counts,
        scores={key: total["scores"][key] for key in sorted(total["scores"], key=float)},
        decoded_by=dict(sorted(total["backends"].items())),
        mean_score=round(sums["s"] / n, 4) if n else 0.0,
        length_correlation=_correlation(sums),
        chosen_words=round(chosen, 4),
        rejected_words=round(rejected_words, 4),
        warnings=warnings,
    )


def _correlation(sums: Counter[str]) -> float | None:
    """Pearson's r of reward and words from their sums."""
    n = sums["n"]
    spread = (n * sums["ss"] - sums["s"] ** 2) * (n * sums["ww"] - sums["w"] ** 2)
    return round((n * sums["sw"] - sums["s"] * sums["w"]) / math.sqrt(spread), 4) if n > 1 and spread > 1e-9 else None
