"""The video world as files: clips with captions, questions and exact events, in splits that share no clip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmpo.demo.video.clips import ScriptedClip, encode_clip, sample_clip
from mmpo.demo.video.narration import EXACT, VERBS, caption, questions, tempting, true_event
from mmpo.errors import UserError
from mmpo.files.atomic import write_bytes, write_json, write_text
from mmpo.progress import track

SPLITS = {"video_train": 301, "video_test": 303}
"""The number seeds the split; the model's own training clips have another (see `pretrain.py`)."""


def world_split(split: str, n: int, seed: int = 0) -> Iterator[ScriptedClip]:
    """The first `n` clips of a split; `seed` picks another world with the same rules."""
    if split not in SPLITS:
        raise UserError(f"the video world has no split {split!r}", hint=f"one of {', '.join(SPLITS)}")
    for index in range(n):
        yield sample_clip((seed, SPLITS[split], index))


def annotation(clip: ScriptedClip, video: str) -> dict[str, object]:
    """The clip as a row of mmpo's list of videos: exact caption, questions, things and events; and under `tracks` what
    each thing does, from or to which side, and at which beat it begins."""
    rng = np.random.default_rng((*clip.seed, 5))
    return {
        "id": Path(video).stem,
        "video": video,
        "caption": caption(clip),
        "qa": [vars(turn) for turn in questions(clip, rng, EXACT)],
        "objects": list(clip.things),
        "events": [list(event) for event in clip.events],
        "place": clip.place,
        "tracks": [{"thing": t.thing, "does": t.course, "side": t.side, "beat": t.start} for t in clip.tracks],
    }


def temporal_pair(clip: ScriptedClip, video: str) -> dict[str, object]:
    """One VideoHallucer item: a question about an event that happens, and one about a tempting one that does not."""
    rng = np.random.default_rng((*clip.seed, 6))
    sides = (("basic", true_event(clip, rng), "yes"), ("hallucination", tempting(clip, rng), "no"))
    return {"type": "event"} | {
        side: {"video": video, "question": f"Does the {who} {VERBS[does]}?", "answer": answer}
        for side, (who, does), answer in sides
    }


def write_split(folder: str | Path, split: str, n: int, seed: int = 0) -> Path:
    """Write `n` clips of `split` into `folder`: `clips/*.mp4`, `videos.jsonl` and `temporal.json`."""
    out = Path(folder)
    (out / "clips").mkdir(parents=True, exist_ok=True)
    rows, pairs = [], []
    for index, clip in track(enumerate(world_split(split, n, seed)), f"draw {split}", n):
        name = f"clips/{split}_{index:05d}.mp4"
        write_bytes(out / name, encode_clip(clip))
        rows.append(annotation(clip, name))
        pairs.append(temporal_pair(clip, name))
    write_text(out / "videos.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_json(out / "temporal.json", pairs)
    return out
