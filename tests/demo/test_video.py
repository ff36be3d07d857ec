"""The video world: clips that show what their annotations say, and how claims about them are counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmpo.chat.video_rules import VideoRuleJudge
from mmpo.data.video_lists import read_videos
from mmpo.demo.by_kind import KindShare, shares
from mmpo.demo.things import PARTNER
from mmpo.demo.video import clips, narration, world
from mmpo.demo.video.accuracy import Told, asked_of, outcomes, read_events, side_of
from mmpo.errors import UserError
from mmpo.eval.temporal.metrics import read as read_temporal
from mmpo.video import probe, read_frames

SOME = [clips.sample_clip((0, 9, index)) for index in range(120)]


def visible(clip: clips.ScriptedClip, thing: str) -> list[int | None]:
    """Where the middle of a thing is in each key frame; None where it is not in the picture."""
    places = []
    for scene in clip.scenes():
        boxes = [item.box for item in scene.items if item.thing == thing]
        places.append(boxes[0][0] + boxes[0][2] // 2 if boxes else None)
    return places


def test_the_frames_show_what_the_events_say() -> None:
    courses = set()
    for clip in SOME:
        for track in clip.tracks:
            courses.add(track.course)
            places = visible(clip, track.thing)
            seen = [place is not None for place in places]
            assert (seen[0], seen[-1]) == {
                "stays": (True, True),
                "enters": (False, True),
                "leaves": (True, False),
                "passes": (False, False),
            }[track.course]
            known = [place for place in places if place is not None]
            if track.course == "stays":
                assert len(set(known)) == 1
                continue
            assert len(known) >= 2
            to_right = known[0] < known[-1]
            assert to_right == (track.side == ("right" if track.course == "leaves" else "left")), track
        assert clip.moving
        assert len(set(clip.things)) == len(clip.things)
    assert courses == set(clips.COURSES)


def test_clips_are_drawn_from_the_seed_and_their_pixels_move() -> None:
    one, same, other = (clips.sample_clip((0, 1, index)) for index in (3, 3, 4))
    assert clips.encode_clip(one) == clips.encode_clip(same) != clips.encode_clip(other)
    frames = one.frames()
    changed = np.abs(frames[0].astype(int) - frames[-1]).max(-1) > 8
    boxes = np.zeros_like(changed)
    for beat in (0, clips.BEATS):
        for x, y, width, height in (item.box for item in one.scene(beat).items):
            boxes[y : y + height, max(0, x) : x + width] = True
    assert changed.any() and not (changed & ~boxes).any(), "only things change, and only where they are or were"


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_the_files_hold_the_frames(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clips.encode_clip(SOME[0]))
    info = probe(path)
    assert info.codec == "h264" and info.n_frames == clips.BEATS * clips.FRAMES_PER_BEAT + 1
    frames = read_frames(path, num=clips.KEY_FRAMES, backend=backend)  # type: ignore[arg-type]
    assert frames.indices == tuple(beat * clips.FRAMES_PER_BEAT for beat in range(clips.KEY_FRAMES))
    assert frames.times == pytest.approx([beat * clips.FRAMES_PER_BEAT / clips.FPS for beat in range(4)])
    drawn = np.stack([np.asarray(scene.draw()) for scene in SOME[0].scenes()])
    assert np.abs(drawn.astype(int) - frames.array).mean() < 4


def test_exact_answers_satisfy_the_judge_and_careless_ones_do_not() -> None:
    judge = VideoRuleJudge.over(
        [thing for clip in SOME for thing in clip.things], [event for clip in SOME for event in clip.events]
    )
    faults = 0
    for clip in SOME:
        known = {"caption": narration.caption(clip), "objects": clip.things, "events": clip.events}
        for turn in narration.questions(clip, np.random.default_rng(clip.seed)):
            assert judge.reward(turn.answer, reference=turn.answer, **known).score == 5.0, turn
        exact = narration.describe(clip, np.random.default_rng(0))
        careless = narration.describe(clip, np.random.default_rng(0), narration.ClipNoise(companion=1.0, again=1.0))
        made_up = [PARTNER[thing] for thing in clip.things if PARTNER[thing] not in clip.things]
        assert judge.absent_objects(careless.answer, clip.things) == made_up
        again = [(t.thing, "leaves") for t in clip.tracks if t.course == "enters"]
        assert set(again) <= set(judge.false_events(careless.answer, clip.events))
        score = judge.reward(careless.answer, reference=exact.answer, **known).score
        assert score is not None and (score <= 2) == bool(made_up or again)
        faults += bool(made_up or again)
    assert faults > 60


def test_yes_and_no_agree_with_the_events() -> None:
    for clip in SOME:
        rng = np.random.default_rng(clip.seed)
        assert narration.true_event(clip, rng) in clip.events
        assert narration.tempting(clip, rng) not in clip.events
        order = narration.ask_order(clip, rng)
        starts = {track.thing: track.start for track in clip.moving}
        if order is None:
            assert len(set(starts.values())) == 1
        else:
            assert starts[order.answer.removeprefix("The ").rstrip(".")] == min(starts.values())


def test_world_as_files(tmp_path: Path) -> None:
    folder = world.write_split(tmp_path / "w", "video_train", 3)
    again = world.write_split(tmp_path / "again", "video_train", 3)
    assert (folder / "videos.jsonl").read_bytes() == (again / "videos.jsonl").read_bytes()
    items = read_videos(folder / "videos.jsonl")
    drawn = list(world.world_split("video_train", 3))
    assert [item.events for item in items] == [clip.events for clip in drawn]
    assert all((folder / item.video).exists() and len(item.qa) >= 7 for item in items)
    kind, questions = read_temporal(folder / "temporal.json")
    assert kind == "videohallucer" and [q.answer for q in questions] == ["yes", "no"] * 3
    rows = [json.loads(line) for line in (folder / "videos.jsonl").read_text().splitlines()]
    assert [[t["thing"] for t in row["tracks"]] for row in rows] == [list(clip.things) for clip in drawn]
    assert set(world.SPLITS.values()).isdisjoint({101, 102, 103, 104, 300})
    with pytest.raises(UserError):
        list(world.world_split("nope", 1))


def a_clip(*tracks: tuple[str, str, str, int]) -> clips.ScriptedClip:
    """A clip of (thing, course, side, start) in their order."""
    made = [clips.Track(*one[:1], None, 30, False, *one[1:], 40, 10) for one in tracks]  # type: ignore[arg-type]
    return clips.ScriptedClip("farm", tuple(made), (0, 9, 0))


HAND_MADE = a_clip(("cow", "enters", "left", 0), ("pig", "passes", "right", 1), ("horse", "stays", "left", 0))


def test_events_are_read_with_their_sides() -> None:
    answer = "The cow enters from the left. Later the pig passes from right to left. The traffic light stays."
    assert read_events(answer) == [
        Told("cow", "enters", "left"), Told("pig", "passes", "right"), Told("traffic light", "stays", None),
    ]  # fmt: skip
    assert read_events("There is no cow in the video.") == []
    assert [side_of(HAND_MADE, "pig", does) for does in ("passes", "enters", "leaves")] == ["right", "right", "left"]


def test_exact_answers_are_right_in_every_kind() -> None:
    for clip in SOME:
        for turn in asked_of(clip):
            assert all(right for _, right in outcomes(turn, turn.answer, clip)), turn


def test_accuracy_by_kind_is_exact() -> None:
    """A description with a thing and an event made up, one side wrong, the order turned, and one thing left out."""
    said = (
        "The pig passes from right to left. The cow enters from the right. The cow leaves to the left. The dog stays."
    )
    turn = narration.describe(HAND_MADE, np.random.default_rng(0))
    found = shares(outcomes(turn, said, HAND_MADE))
    assert found["description: things that are there"] == KindShare(3, 4)
    assert found["description: events that happen"] == KindShare(2, 3)
    assert found["description: sides"] == KindShare(1, 2)
    assert found["description: order"] == KindShare(0, 1)
    assert found["description: things mentioned"] == KindShare(2, 3)
    assert found["description: mentioned once"] == KindShare(4, 4)

    def right(question: str, exact: str, answer: str) -> dict[str, KindShare]:
        return shares(outcomes(narration.Turn(question, exact), answer, HAND_MADE))

    course = right("What does the cow do?", "The cow enters from the left.", "The cow leaves to the left.")
    assert course == {"what does it do: event": KindShare(0, 1)}
    absent = right("What does the dog do?", "There is no dog in the video.", "The dog enters from the left.")
    assert absent == {"what does it do: absent things denied": KindShare(0, 1)}
    assert right("Does the pig leave?", "Yes", "Yes, the pig leaves.") == {"does it: what happens": KindShare(1, 1)}
    assert right("Does the cow leave?", "No", "Yes") == {"does it: what does not": KindShare(0, 1)}
    assert right("Is there a dog in the video?", "No", "Yes") == {"is there: what is not": KindShare(0, 1)}
    moves = right("Which moves first, the pig or the cow?", "The cow.", "The pig.")
    assert moves == {"which moves first": KindShare(0, 1)}
