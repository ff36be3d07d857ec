from __future__ import annotations

import random
from typing import Any

import pytest

from mmpo.chat.video_replies import VideoVerdict, read_questions, read_reward, read_verdict

REWARDS: list[tuple[str | None, float | None, float | None]] = [  # reply, published script, ours
    ("Score: 4", 4, 4),
    ("Score: 3.5", 3.5, 3.5),
    ("Score: 4/5", 4, 4),
    ("Score: 5.", 5, 5),
    ("Score:4", 4, 4),
    ("**Score:** 4", 4, 4),
    ("score: 4", 4, 4),
    ("Explanation: the 3 dogs and 3 men in 2 frames. score 4", 3, 4),
    ("Rating 2 of 5", 3.5, None),
    ("Score: 45", 45, None),
    ("Score: -1", 1, None),
    ("Score: four", 1, 4),
    ("Score: 2 would be harsh. Score: 4", 2, 4),
    ("Score: 2 would be harsh.\nScore: 4", 2, 4),
    ("no numbers at all", 1, None),
    ("", 1, None),
    (None, None, None),
    ("Explanation: fine\n### Score: 5/5", 5, 5),
    ("<think>Score: 1</think>\nExplanation: good\nScore: 4", 1, 4),
    ("Score: 2/10", 2, None),
    ("Final score is 3", 3, 3),
    ("A score of 3", 3, 3),
]


@pytest.mark.parametrize(("reply", "published", "ours"), REWARDS)
def test_rewards(reply: str | None, published: float | None, ours: float | None) -> None:
    assert read_reward(reply).score == ours
    assert read_reward(reply, "llava_hound").score == published


def test_a_reward_keeps_its_explanation_and_says_why_it_is_none() -> None:
    read = read_reward("**Explanation:** The dog is\nnot there.\n**Score:** 2")
    assert (read.score, read.explanation) == (2, "The dog is\nnot there.")
    assert read_reward("Score: 9").why == "9 is out of range" and read_reward("fine").why == "no score"


VERDICTS: list[tuple[str, VideoVerdict, VideoVerdict]] = [  # reply, published script, ours
    ("{'pred': 'yes', 'score': 4.8}", VideoVerdict(True, 4), VideoVerdict(True, 4.8)),
    ('{"pred": "no", "score": 2}', VideoVerdict(False, 2), VideoVerdict(False, 2)),
    ("{'pred': 'no', 'score': '3'}", VideoVerdict(False, None), VideoVerdict(False, 3)),
    ("{'pred':'yes','score':-1}", VideoVerdict(True, None), VideoVerdict(True, None)),
    ("Yes, score 4", VideoVerdict(True, None), VideoVerdict(None, None)),
    ("{'pred': 'no', 'score': 1} the eyes", VideoVerdict(True, 1), VideoVerdict(False, 1)),
    ("```json\n{'pred': 'yes', 'score': 5}\n```", VideoVerdict(True, 5), VideoVerdict(True, 5)),
    ("{'Pred': ' Yes. ', 'SCORE': 3}", VideoVerdict(True, 3), VideoVerdict(True, 3)),
    ("{'pred': 'maybe', 'score': true}", VideoVerdict(None, None), VideoVerdict(None, None)),
    ("I know nothing", VideoVerdict(False, None), VideoVerdict(None, None)),
]


@pytest.mark.parametrize(("reply", "published", "ours"), VERDICTS)
def test_verdicts(reply: str, published: VideoVerdict, ours: VideoVerdict) -> None:
    assert read_verdict(reply) == ours
    assert read_verdict(reply, "video_chatgpt") == published


WELL = "Q1: What is it?\nA1: A ball.\n\nQ2: What does it do?\nA2: It rolls\nand stops.\nQ3: Where?\nA3: Left."
THREE = [("What is it?", "A ball."), ("What does it do?", "It rolls\nand stops."), ("Where?", "Left.")]


@pytest.mark.parametrize(
    ("reply", "script", "post", "ours"),
    [
        (WELL, 3, 3, 3),
        ("Q1: a?\n A1: b\nQ2: c?\nA2: d", 1, 0, 2),
        ("Q1: a?\nA2: b\nQ2: c?\nA2: d\nQ3: e?\nA3: f", 3, 0, 0),
        ("Q1: a? A1: b\nQ2: c? A2: d\nQ3: e? A3: f", 0, 0, 3),
        ("**Q1:** a?\n**A1:** b\n**Q2:** c?\n**A2:** d\n**Q3:** e?\n**A3:** f", 0, 0, 3),
        ("nothing here", 0, 0, 0),
        ("Q1: a?\nQ2: c?\nA2: d", 1, 0, 0),
    ],
)
def test_questions(reply: str, script: int, post: int, ours: int) -> None:
    assert len(read_questions(reply, "prompt_script")[0]) == script
    assert len(read_questions(reply, "post_processing")[0]) == post
    assert len(read_questions(reply)[0]) == ours


def test_what_was_asked_and_why_not() -> None:
    assert read_questions(WELL) == (THREE, "") and read_questions(WELL, "post_processing")[0] == THREE
    garbled = read_questions("Q1: a?\n A1: b\nQ2: c?\nA2: d", "prompt_script")[0]
    assert garbled == [("a?\n A1: b\nQ2: c?", "d")]
    assert read_questions("Q1: a?\nA2: b")[1] == "numbers_differ"
    assert read_questions(WELL, expected=2)[1] == "not_2"
    assert read_questions("**Q1:** a?\n**A1:** b")[0] == [("a?", "b")]


def test_random_texts_never_raise() -> None:
    rng = random.Random(0)
    alphabet = [
        "Score: ",
        "score",
        "4",
        "-",
        "{",
        "}",
        "'pred'",
        ":",
        "'yes'",
        "Q1:",
        "A1:",
        "\n",
        "**",
        " ",
        "é",
        "9" * 40,
        "[" * 50,
        "\0",
    ]
    for _ in range(3000):
        text: Any = "".join(rng.choice(alphabet) for _ in range(rng.randrange(0, 40)))
        score = read_reward(text).score
        assert score is None or 1 <= score <= 5
        read_reward(text, "llava_hound")
        verdict = read_verdict(text)
        assert verdict.score is None or 0 <= verdict.score <= 5
        read_verdict(text, "video_chatgpt")
        for rule in ("tolerant", "prompt_script", "post_processing"):
            read_questions(text, rule)  # type: ignore[arg-type]
