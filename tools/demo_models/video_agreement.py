"""Agreement of rewards with the truth: judges that read a caption against the exact annotation, on a demo run's pairs.

    python -m tools.demo_models.video_agreement RUN

The truth of an answer: its sentences compared with those of the exact answer, with sides and all (5: the same, 1: none
shared, F1 between; for yes and no, 5 or 1). Three judges by rules are compared with it: the one that made the pairs,
which reads annotations; one that knows only the caption's text; and one that reads a caption of the careless annotator.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.chat.video_rules import VideoRuleJudge, polarity
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import read_pairs
from mmpo.data.video_lists import read_videos
from mmpo.data_builders.video.choose import normalized
from mmpo.demo.video.clips import sample_clip
from mmpo.demo.video.narration import CARELESS, describe
from mmpo.demo.video.world import SPLITS
from mmpo.errors import in_one_line
from mmpo.eval.judge_agreement import Agreement, Compared, agreement
from mmpo.text.claims import split_sentences

SPLIT = "video_train"


def truth(answer: str, exact: str) -> float:
    """The agreement of an answer with the exact answer, from 1 to 5."""
    if polarity(exact):
        return 5.0 if polarity(answer) == polarity(exact) else 1.0
    said, true = ({normalized(sentence.text) for sentence in split_sentences(text)} for text in (answer, exact))
    return 1 + 4 * 2 * len(said & true) / max(1, len(said) + len(true))


def by_caption(judge: VideoRuleJudge, answer: str, reference: str, text: str) -> float:
    """The reward of a judge that knows of a video only what `text` says: its things and its events."""
    things, events = judge.absent_objects(text, ()), judge.false_events(text, ())
    given = judge.reward(answer, reference=reference, caption=text, objects=things, events=events)
    assert given.score is not None
    return given.score


def compare(pairs: Sequence[PreferencePair], judge: VideoRuleJudge) -> dict[str, Agreement]:
    """Each judge against the truth. `pairs` are those of the demo's recipe."""

    def careless(pair: PreferencePair) -> str:
        index = int(pair.provenance["sources"][0].rpartition("_")[2])
        clip = sample_clip((pair.provenance["seed"], SPLITS[SPLIT], index))
        return describe(clip, np.random.default_rng((*clip.seed, 7)), CARELESS).answer

    def reader(evidence: Callable[[PreferencePair], str]) -> Callable[[PreferencePair, str, str], float]:
        return lambda pair, answer, side: by_caption(judge, answer, pair.provenance["reference"], evidence(pair))

    def stored(pair: PreferencePair, answer: str, side: str) -> float:
        return float((pair.scores or {})[f"{side}_reward"])

    judges = {
        "annotations": stored,
        "exact caption": reader(lambda pair: str(pair.provenance["caption"])),
        "careless caption": reader(careless),
    }
    found = {}
    for name, reward in judges.items():
        rows = []
        for pair in pairs:
            sides = (("chosen", pair.chosen_text), ("rejected", pair.rejected_text))
            rewards = [reward(pair, answer, side) for side, answer in sides]
            exact = [truth(answer, str(pair.provenance["reference"])) for _, answer in sides]
            video = str(pair.provenance["sources"][0])
            rows.append(Compared(pair.id, video, (rewards[0], rewards[1]), (exact[0], exact[1])))
        found[name] = agreement(rows, f"rules over the {name}", "exact annotation")
    return found


def measure(run: Path) -> dict[str, Agreement]:
    """`compare` on a finished run of the recipe `video-demo`."""
    items = read_videos(run / "world" / SPLIT / "videos.jsonl")
    judge = VideoRuleJudge.over(
        [name for item in items for name in item.objects], [event for item in items for event in item.events]
    )
    return compare(list(read_pairs(run / "build" / "pairs")), judge)


def table(found: dict[str, Agreement]) -> str:
    """Markdown: a row for each judge."""

    def shown(one: Agreement, name: str) -> str:
        value, interval = getattr(one, name), one.intervals.get(name)
        if value is None:
            return "–"
        return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")

    names = ("agreement", "pearson", "spearman")
    lines = [f"| judge reads | pairs | {' | '.join(names)} |", "| --- | ---: | --- | --- | --- |"]
    for name, one in found.items():
        lines.append(f"| {name} | {one.pairs} | {' | '.join(shown(one, column) for column in names)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """`python -m tools.demo_models.video_agreement RUN [--json]`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of `mmpo demo video`")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = measure(arguments.run)
    as_json: dict[str, Any] = {name: one.as_json() for name, one in found.items()}
    print(json.dumps(as_json, indent=2) if arguments.json else table(found), end="")


if __name__ == "__main__":
    in_one_line(main)
