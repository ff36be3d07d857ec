"""A video build, from a list of videos to a folder of preference pairs.

    run_dir/
      source.json              what the build was started from; another source or other settings are refused
      frames/00000/…           the frames that the model saw, by unit
      units/00000.json …       what each unit gave: pairs without frames, rewards, counts; whole or not there
      replies.*.jsonl          what judge, captioner and questioner said; never asked again
      pairs/                   the dataset: shards, card.json, README.md, rejects.jsonl
      build_result.json        the result in numbers; written last

Killed at any moment and run again, a build goes on behind its last unit and ends with the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, cast

import mmpo
from mmpo.chat import open_chat
from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.shards import PairWriter
from mmpo.data.video_lists import VideoItem, read_videos
from mmpo.data_builders.units import (
    Advance,
    Work,
    add_up,
    check_source,
    check_sums,
    count_table,
    digest,
    file_digest,
    finish_units,
    ordered,
    read_outcomes,
    read_unit,
)
from mmpo.data_builders.video.builder import SCORES, VideoBuilder, Watched
from mmpo.data_builders.video.rewards import ModelRewarder, Rewarder, RuleRewarder
from mmpo.data_builders.video.settings import VideoBuildResult, VideoRewardSettings
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import read_json, write_bytes, write_json
from mmpo.files.paths import follows_links
from mmpo.locks import in_own_folder
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.progress import task
from mmpo.resuming import deciding

logger = logging.getLogger("mmpo.build")

TOKEN_BUDGET = 16384
RESULT = "build_result.json"
LENGTH_RATIO = (0.8, 1.25)
"""Mean words of chosen over rejected outside of this are warned about: then length alone tells the sides apart."""


@follows_links
@in_own_folder
def build(settings: VideoRewardSettings, run_dir: Path) -> VideoBuildResult:
    """Build the pairs of `settings` into `run_dir/pairs`. A finished build returns its result.

    Raises UserError for settings that don't fit the files or what is in `run_dir`, and where a judge can't be reached.
    Videos that can't be used end in `pairs/rejects.jsonl`, never in an error.
    """
    run_dir = Path(run_dir)
    everything = read_videos(settings.videos, settings.root, settings.captions)
    items = everything[: settings.limit]
    if not items:
        raise UserError(f"{settings.videos}: no videos are listed there")
    if settings.judge.by == "rules" and not any(item.objects or item.events for item in everything):
        raise UserError(
            f"{settings.videos}: no video has `objects` or `events`, so rules can't judge",
            hint="annotate the videos, or set judge: {by: model, model: {backend: server, …}}",
        )
    recipe = deciding(settings)
    digests = {name: file_digest(path) for name in ("videos", "captions") if (path := getattr(settings, name))}
    source = {"settings": recipe, "mmpo": mmpo.__version__, **{f"content of {name}": d for name, d in digests.items()}}
    check_source(run_dir, source)
    if (run_dir / RESULT).exists():
        return VideoBuildResult.model_validate(read_json(run_dir / RESULT))

    def begin(stack: ExitStack) -> Work[VideoItem]:
        builder = _builder(settings, everything, run_dir, stack)

        def work(number: int, part: Sequence[VideoItem], advance: Advance) -> dict[str, Any]:
            found, tally = builder.build(part)
            rows = [_outcome(run_dir, number, place, video) for place, video in enumerate(found)]
            advance(len(part))
            return {"tally": vars(tally), "judge": builder.rewarder.identity, "outcomes": rows}

        return work

    label = "answering questions about videos"
    paths = finish_units(run_dir / "units", items, settings.shard_size, label, begin)
    result = _assemble(recipe, run_dir, items, paths)
    write_json(run_dir / RESULT, result.model_dump(mode="json"))
    logger.info("%s", count_table(result.counts))
    return result


def _builder(
    settings: VideoRewardSettings, everything: list[VideoItem], run_dir: Path, stack: ExitStack
) -> VideoBuilder:
    def chat(role: str, chosen: Any) -> Any:
        return None if chosen is None else stack.enter_context(open_chat(chosen, run_dir / f"replies.{role}.jsonl"))

    judge = chat("judge", settings.judge.model)
    rewarder: Rewarder = RuleRewarder(everything) if judge is None else ModelRewarder(judge, settings.judge)
    captioner, questioner = chat("captioner", settings.captioner), chat("questioner", settings.questioner)
    vlm = load_vlm(
        settings.model,
        dtype=settings.dtype,
        video_input=settings.video_input,
        trust_remote_code=settings.trust_remote_code,
        allow_network=settings.allow_network,
    )
    engine = AnswerEngine(vlm, max_new_tokens=settings.max_new_tokens, token_budget=TOKEN_BUDGET)
    return VideoBuilder(settings, engine, rewarder, mmpo.__version__, captioner, questioner)


def _outcome(run_dir: Path, unit: int, place: int, video: Watched | Quarantined) -> dict[str, Any]:
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
        remedy = f"delete {unit} and run the same command again: only this part is made anew"
        raise UserError(f"{path}: damaged or gone", hint=remedy)
    return data


def _assemble(recipe: dict[str, Any], run_dir: Path, items: list[VideoItem], units: list[Path]) -> VideoBuildResult:
    """Write the dataset from the finished units. It is quick, and resumes as the writer does."""
    total: dict[str, Counter[str]] = {}
    judges = set()
    for path in units:
        unit = read_unit(path)
        add_up(total, unit["tally"])
        judges.add(unit["judge"])
    writer = PairWriter(run_dir / "pairs", recipe=recipe, scores=SCORES)
    with task("writing pairs", total=len(items)) as running:
        running.advance(writer.sources_done)
        for item, outcome in islice(zip(items, read_outcomes(units), strict=True), writer.sources_done, None):
            if outcome["pairs"]:
                frames = [_frame(run_dir, *of) for of in zip(outcome["frames"], outcome["digests"], strict=True)]
                writer.add(*(_pair(row, frames, outcome["times"]) for row in outcome["pairs"]))
            else:
                writer.reject(item.id, Quarantined(outcome["stage"], outcome["reason"], outcome["detail"]))
            running.advance()
    result = _result(total, writer, len(items), "; ".join(sorted(judges)))
    writer.close(title="Video pairs from rewards", notes=_notes(result))
    return result


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


def _result(total: dict[str, Counter[str]], writer: PairWriter, videos: int, judge: str) -> VideoBuildResult:
    rejected = {reason.replace("/", ": "): count for reason, count in writer.counts.reasons.items()}
    counts = {
        "videos": ordered({"in": videos, "paired": writer.counts.kept, **rejected}),
        "questions": ordered(total["questions"]),
        "answers": ordered(total["answers"], ("in", "scored")),
    }
    check_sums(counts)
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
        images=videos,
        images_used=writer.counts.kept,
        pairs_made=writer.counts.pairs,
        judge=judge,
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


def _notes(result: VideoBuildResult) -> str:
    """What the dataset's page says about the build."""
    rewards = ", ".join(f"{score}: {count}" for score, count in result.scores.items())
    lines = [
        f"{result.pairs_made} pairs about {result.images_used} videos (chosen {result.chosen_words:.1f} words, "
        f"rejected {result.rejected_words:.1f}). Judge: {result.judge}. Rewards given: {rewards}.",
        *(f"Warning: {warning}." for warning in result.warnings),
        count_table(result.counts),
    ]
    return "\n\n".join(lines)
