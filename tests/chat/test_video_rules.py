from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.chat.video_rules import VideoRuleJudge, overlap, polarity, stem
from mmpo.data.video_lists import QA, read_videos
from mmpo.errors import UserError

JUDGE = VideoRuleJudge.over(["ball", "cube", "star"], [("ball", "enters"), ("cube", "leaves"), ("star", "turns")])
SEEN = {
    "caption": "A ball enters and a cube leaves.",
    "objects": ["ball", "cube"],
    "events": [("ball", "enters"), ("cube", "leaves")],
}


def reward(candidate: str, reference: str) -> float | None:
    return JUDGE.reward(candidate, reference=reference, **SEEN).score  # type: ignore[arg-type]


def test_agreement_pays_and_inventions_cost() -> None:
    assert reward("The ball enters.", "The ball enters.") == 5
    assert reward("A ball is entering.", "The ball enters.") == 5
    assert reward("The cube.", "The ball enters.") == 1
    assert reward("The star enters.", "The ball enters.") == 2
    assert reward("The ball leaves.", "The ball enters.") == 2
    assert reward("No, it does not.", "Yes, the ball enters.") == 1
    assert reward("Yes, the ball enters.", "Yes, the ball enters.") == 5


def test_the_explanation_names_the_fault() -> None:
    said = JUDGE.reward("The star enters.", reference="The ball enters.", **SEEN).explanation  # type: ignore[arg-type]
    assert "star is not in the video" in said and "star never enters" in said
    assert JUDGE.false_events("The cube does not enter.", SEEN["events"]) == []  # type: ignore[arg-type]


def test_small_parts() -> None:
    assert stem("enters") == stem("entered") == stem("entering") == stem("enter")
    assert polarity("Yes, it is") == "yes" and polarity("Nothing") == ""
    assert overlap("red ball", "the red cube") == 0.5 and overlap("", "") == 1.0


def test_lists_of_videos(tmp_path: Path) -> None:
    rows = [
        {
            "id": "a",
            "video": "a.mp4",
            "caption": "A ball.",
            "qa": [{"question": "What?", "answer": "A ball."}],
            "objects": ["ball"],
            "events": [["ball", "enters", "left"]],
        },
        {"video": "b.mp4"},
        {
            "id": "c_0",
            "video": "c",
            "conversations": [{"from": "human", "value": "<video>\nWho?"}, {"from": "gpt", "value": "Ann."}],
        },
        {
            "id": "c_1",
            "video": "c",
            "conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}],
        },
    ]
    path = tmp_path / "videos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "captions.jsonl").write_text('{"video": "b.mp4", "caption": "B."}\n{"id": "c", "caption": "C."}\n')
    a, b, c = read_videos(path, captions=tmp_path / "captions.jsonl")
    assert (a.id, a.qa, a.events, a.root) == ("a", (QA("What?", "A ball."),), (("ball", "enters"),), str(tmp_path))
    assert (b.id, b.caption, b.qa) == ("b.mp4", "B.", ())
    assert (c.id, c.caption, [qa.question for qa in c.qa]) == ("c", "C.", ["Who?", "Where?"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "no `video`"),
        ('{"video": "a", "qa": [{"question": "x"}]}', "qa"),
        ('{"video": "a", "qa": [{"question": "x", "answer": " "}]}', "qa"),
        ('{"video": "a", "conversations": []}', "human and a gpt turn"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "videos.jsonl"
    path.write_text('{"video": "ok.mp4"}\n' + line + "\n")
    with pytest.raises(UserError, match=says) as error:
        read_videos(path)
    assert f"{path}:2" in error.value.message
