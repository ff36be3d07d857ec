"""TempCompass and VideoHallucer to the letter: the published functions' outputs, and Video-LLaVA's released numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.chat import open_chat
from mmpo.errors import UserError
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.temporal.tempcompass import rate, read_caption_answer, read_correctness, task_of
from mmpo.eval.temporal.videohallucer import official, published_bias, set_of
from tests.chat.server import ChatServer

MATCH = "Which?\nOption 1: The man is dribbling a basketball.\nOption 2: A man is dunking a basketball."
GOLD = "Option 2: A man is dunking a basketball."


@pytest.mark.parametrize(
    ("said", "rating"),
    [
        *(
            (text, 1)
            for text in (
                "Option 2",
                "Option 2.",
                "2",
                "2.",
                "A man is dunking a basketball.",
                "2) A man is dunking a basketball.",
                "Option 2) A man is dunking a basketball.",
                GOLD,
                "O.ption 2",
                " Option 2</s>",
                "2</s>.",
            )
        ),
        *((text, 0) for text in ("1", "Option 1", "B) The man is dribbling a basketball.")),
        *(
            (text, None)
            for text in (
                "option 2",
                "2)",
                "Option 2:",
                "Option2",
                "A man is dunking a basketball",
                "The answer is Option 2.",
                "",
            )
        ),
        (None, None),
    ],
)
def test_caption_matching(said: str | None, rating: int | None) -> None:
    assert rate("caption_matching", MATCH, GOLD, said) == rating


def test_caption_matching_cuts_at_the_second_piece() -> None:
    question, gold = "Which?\nCaption A: Time: slow.\nCaption B: Time: fast.", "Caption A: Time: slow."
    assert rate("caption_matching", question, gold, "Time") == 1
    assert rate("caption_matching", question, gold, "Time: slow.") is None
    assert rate("caption_matching", "Which?\nSentence A: x.\nSentence B: y.", "Sentence B: y.", "Sentence A.") == 0
    assert rate("caption_matching", "Which?\nan option without a name", "Sentence B: y.", "b") is None


@pytest.mark.parametrize(
    ("said", "rating"),
    [
        ("A", 1),
        ("B", 0),
        ("A. running", 1),
        ("A) running", 1),
        ("A.", 1),
        ("B) x", 0),
        ("E", None),
        ("A: running", None),
        ("a", None),
        ("(A)", None),
        ("Option A", None),
        ("running", None),
        ("AB", None),
        ("A running", None),
    ],
)
def test_multiple_choice(said: str, rating: int | None) -> None:
    assert rate("multi-choice", "What?\nA. running\nB. x", "A. running", said) == rating


@pytest.mark.parametrize(
    ("said", "gold", "rating"),
    [
        ("Yes.", "yes", 1),
        ("YES", "no", 0),
        ("Nothing", "no", 1),
        ("Not sure", "no", 1),
        ("Yesterday", "yes", 1),
        (" no", "no", 1),
        ("Well, no", "no", None),
        ("", "yes", None),
    ],
)
def test_yes_no(said: str, gold: str, rating: int | None) -> None:
    assert rate("yes_no", "Is it?", gold, said) == rating


def test_a_language_models_replies() -> None:
    for reply, verdict in (
        ("It is not Correct", 1),
        ("correct", None),
        ("Correct", 1),
        ("Incorrect, not Correct", 0),
        ("This is Incorrect", 0),
        ("", None),
    ):
        assert read_correctness(reply) == verdict, reply
    for reply, right in (
        ("Reasoning: x\nAnswer: B. dunking", 1),
        ("B. dunking", 1),
        ("Answer: B", 0),
        ("Answer: B.dunking", 0),
        ("Answer: B. x or C. y", 0),
        ("Answer: A. x\nAnswer: B. dunking", 1),
        ("A. x", 0),
    ):
        assert read_caption_answer(reply, "B. dunking") == right, reply


def test_the_task_of_an_item() -> None:
    plain = Path("results.json")
    assert task_of(Path("yes_no.json"), "", "A. x") == "yes_no"
    assert task_of(Path("caption_matching.json"), "", "") == "caption_matching"
    assert task_of(Path("video-llava_captioning.json"), "", "") == "captioning"
    assert task_of(Path("multi-choice.json"), "", "") == "multi-choice"
    assert task_of(plain, "Is it?", "no") == "yes_no"
    assert task_of(plain, MATCH, GOLD) == "caption_matching"
    assert task_of(plain, "x\nInformation A: y\nGenerated Caption:", "B. z") == "captioning"
    assert task_of(plain, "What?\nA. x\nB. y", "A. x") == "multi-choice"


def compass(path: Path, rows: list[dict[str, Any]], dimension: str = "action", video: str = "7") -> Path:
    path.write_text(json.dumps({video: {dimension: rows}}))
    return path


def test_a_small_twin_of_the_released_files(tmp_path: Path) -> None:
    """Predictions under `prediction` or `response`, rated files, captions with and without ratings."""
    rows = [
        {"question": MATCH, "answer": GOLD, "prediction": "Option 2."},
        {"question": MATCH, "answer": GOLD, "response": "1"},
        {"question": MATCH, "answer": GOLD, "prediction": "the second"},
    ]
    found = score("tempcompass", ScoreRequest(compass(tmp_path / "caption_matching.json", rows)))
    assert found.metrics["accuracy"] == pytest.approx(100 / 3)
    assert (found.metrics["right"], found.metrics["questions"], found.unparsed) == (1, 3, 1)
    rated = [
        {
            "question": MATCH,
            "gt-answer": GOLD,
            "video-llm-prediction": "the second",
            "match_success": False,
            "rating": 1,
        },
        {"question": MATCH, "gt-answer": GOLD, "video-llm-prediction": "1", "match_success": True, "rating": 0},
    ]
    found = score("tempcompass", ScoreRequest(compass(tmp_path / "caption_matching.json", rated)))
    assert found.metrics["accuracy"] == 50.0 and found.unparsed == 0
    captions = [
        {
            "chatgpt-reasoning": "r",
            "chatgpt-answer": "A. x",
            "video-llm-prediction": "It ...",
            "gt-answer": "A. x",
            "rating": r,
        }
        for r in (1, 1, 0, -1)
    ]
    found = score("tempcompass", ScoreRequest(compass(tmp_path / "captioning.json", captions)))
    assert found.metrics["accuracy"] == 25.0, "the published sum adds the -1 of a failed call"
    assert any("-1" in warning for warning in found.warnings)
    unrated = [{"question": "…\nGenerated Caption:", "answer": "A. x", "prediction": "It flies."}]
    with pytest.raises(UserError, match="captions"):
        score("tempcompass", ScoreRequest(compass(tmp_path / "captioning.json", unrated)))
    folder = tmp_path / "both"
    folder.mkdir()
    compass(folder / "captioning.json", unrated)
    compass(folder / "yes_no.json", [{"question": "Is it?", "answer": "no", "prediction": "No"}])
    found = score("tempcompass", ScoreRequest(folder))
    assert found.metrics["accuracy"] == 100.0 and (found.read, found.scored) == (2, 1)
    assert found.quarantined == {"caption_without_rating": 1}
    assert found.metrics["tasks"] == {"yes_no": {"accuracy": 100.0, "right": 1, "matched": 1, "questions": 1}}


def test_answers_go_with_their_own_questions(tmp_path: Path) -> None:
    asked = compass(tmp_path / "yes_no.json", [{"question": "Is it?", "answer": "no"}] * 2)
    answers = tmp_path / "a"
    answers.mkdir()
    other = compass(answers / "yes_no.json", [{"question": "Was it?", "answer": "no", "prediction": "no"}])
    with pytest.raises(UserError, match="another question"):
        score("tempcompass", ScoreRequest(other, questions=asked))
    other = compass(answers / "yes_no.json", [{"question": "Is it?", "answer": "no", "prediction": "no"}], video="8")
    with pytest.raises(UserError, match="not in"):
        score("tempcompass", ScoreRequest(other, questions=asked))


def test_the_former_reader_has_a_name(tmp_path: Path) -> None:
    rows = [{"question": "What?\nA. x\nB. y", "answer": "A. x", "prediction": said} for said in ("a. X", "A: x", "B")]
    path = compass(tmp_path / "multi-choice.json", rows)
    assert score("tempcompass", ScoreRequest(path)).metrics["right"] == 0
    assert score("tempcompass", ScoreRequest(path, parser="tolerant")).metrics["right"] == 2


TABLE = {
    "multi-choice": ([257, 118, 113, 114, 118], [338, 335, 317, 302, 288], 1580),
    "yes_no": ([440, 256, 270, 188, 229], [592, 494, 537, 382, 448], 2453),
    "caption_matching": ([261, 176, 170, 176, 168], [297, 327, 291, 300, 288], 1496),
}
DIMENSIONS = ("action", "direction", "speed", "order", "attribute_change")


@pytest.mark.parametrize("task", TABLE)
def test_video_llavas_released_predictions(published_data: Path, task: str) -> None:
    right, count, matched = TABLE[task]
    path = published_data / "llyx97_TempCompass" / "predictions" / "video-llava" / f"{task}.json"
    found = score("tempcompass", ScoreRequest(path)).metrics
    assert [found["categories"][name]["right"] for name in DIMENSIONS] == right
    assert [found["categories"][name]["questions"] for name in DIMENSIONS] == count
    assert found["accuracy"] == pytest.approx(100 * sum(right) / sum(count)) and found["matched"] == matched


def test_video_llavas_rated_files(published_data: Path) -> None:
    folder = published_data / "llyx97_TempCompass"
    rated = folder / "auto_eval_results" / "video-llava"
    found = score("tempcompass", ScoreRequest(rated / "caption_matching.json")).metrics
    assert (found["right"], found["questions"]) == (952, 1503)
    found = score("tempcompass", ScoreRequest(rated / "captioning.json")).metrics
    assert [found["categories"][name]["right"] for name in DIMENSIONS] == [201, 125, 90, 153, 129]
    assert found["accuracy"] == pytest.approx(100 * 698 / 2004)
    with pytest.raises(UserError, match="captions"):
        score("tempcompass", ScoreRequest(folder / "predictions" / "video-llava" / "captioning.json"))
    request = ScoreRequest(
        folder / "predictions" / "video-llava" / "caption_matching.json",
        questions=folder / "questions",
        options={"meta": str(folder / "meta_info.json")},
    )
    found = score("tempcompass", request).metrics
    assert found["right"] == 951 and sum(row["right"] for row in found["fine"].values()) == 951


@pytest.mark.parametrize(
    ("basic", "hallucination", "right"),
    [
        ("Yes.", "No.", (1, 1)),
        ("No, yes", "No", (1, 1)),
        ("There is a baby.", "No baby", (0, 1)),
        ("Yesterday", "none", (0, 0)),
        ("yes", "No-one", (1, 1)),
        ("YES!", "not", (1, 0)),
        ("yes and no", "yes and no", (1, 1)),
    ],
)
def test_videohallucers_rule(basic: str, hallucination: str, right: tuple[int, int]) -> None:
    assert (bool(official(basic, "yes")), bool(official(hallucination, "no"))) == right


def hallucer(basic: str, other: str, kind: str | None = None) -> dict[str, Any]:
    one = {"video": "a.mp4", "question": "Does it run?", "answer": "yes", "predict": basic}
    two = {"video": "b.mp4", "question": "Does it fly?", "answer": "no", "predict": other}
    return {"basic": one, "hallucination": two, **({"type": kind} if kind else {})}


def test_videohallucers_published_bias(tmp_path: Path) -> None:
    said = [("Yes", "No"), ("Yes", "Yes"), ("No", "No"), ("No", "Yes"), ("Yes", "maybe")]
    wanted = {"yes_difference": 0.0, "no_difference": -0.2, "false_positive_ratio": 0.4}
    rights = [(bool(official(b, "yes")), bool(official(h, "no"))) for b, h in said]
    assert published_bias(rights) == pytest.approx(wanted)
    path = tmp_path / "temporal_model.json"
    path.write_text(json.dumps([hallucer(b, h) for b, h in said]))
    found = score("videohallucer", ScoreRequest(path)).metrics
    assert found["overall"] == 20.0 and found["bias_published"] == pytest.approx(wanted)
    assert published_bias([]) == {"yes_difference": None, "no_difference": None, "false_positive_ratio": None}


def test_videohallucers_overall_is_the_mean_of_its_sets(tmp_path: Path) -> None:
    """Sets by the files' names, whatever `type` says; the unweighted mean beside the mean over pairs."""
    files = {
        "obj_rel_m.json": [
            hallucer("yes", "no", "subject"),
            hallucer("yes", "no", "relation"),
            hallucer("no", "no", "x"),
            hallucer("yes", "yes", "x"),
        ],
        "temporal_m.json": [hallucer("no", "no")],
        "semantic_m.json": [hallucer("Yes, no", "no")],
        "fact_m.json": [hallucer("yes", "no"), hallucer("yes", "")],
        "nonfact_m.json": [hallucer("yes", "no")],
    }
    for name, rows in files.items():
        (tmp_path / name).write_text(json.dumps(rows))
    found = score("videohallucer", ScoreRequest(tmp_path))
    by_set = {name: row["overall"] for name, row in found.metrics["sets"].items()}
    assert by_set == {
        "object_relation": 50.0,
        "temporal": 0.0,
        "semantic_detail": 100.0,
        "external_factual": 50.0,
        "external_nonfactual": 100.0,
    }
    assert found.metrics["overall"] == 60.0 and found.metrics["leaderboard"] == 60.0
    assert found.metrics["over_pairs"]["overall"] == pytest.approx(500 / 9)
    assert found.metrics["categories"]["subject"]["overall"] == 100.0
    first = score("videohallucer", ScoreRequest(tmp_path, parser="first-word"))
    assert first.metrics["sets"]["semantic_detail"]["overall"] == 100.0
    (tmp_path / "temporal_m.json").write_text(json.dumps([hallucer("No, yes", "no")]))
    assert score("videohallucer", ScoreRequest(tmp_path)).metrics["sets"]["temporal"]["overall"] == 100.0
    again = score("videohallucer", ScoreRequest(tmp_path, parser="first-word"))
    assert again.metrics["sets"]["temporal"]["overall"] == 0.0
    assert set_of(Path("fact_detect/fact_detect_yn.json")) == "fact_detect" and set_of(Path("x/mine.json")) is None
    assert set_of(Path("object_relation/questions.json")) == "object_relation"
    assert set_of(Path("external_nonfactual/a.json")) == "external_nonfactual"


@pytest.mark.parametrize(
    ("sets", "overall"),
    [((66, 48.5, 55.5, 26, 70.5), 53.3), ((57.5, 35.5, 65, 5, 43), 41.2), ((34.5, 13.5, 12, 3, 26), 17.8)],
)
def test_the_leaderboards_mean(sets: tuple[float, ...], overall: float, tmp_path: Path) -> None:
    """Files of 200 pairs (176 of temporal) with so many right as the leaderboard's percentages say."""
    names = ("obj_rel", "temporal", "semantic", "fact", "nonfact")
    for name, percent in zip(names, sets, strict=True):
        right = round(2 * percent)
        rows = [hallucer("yes", "no")] * right + [hallucer("no", "no")] * (200 - right)
        (tmp_path / f"{name}_m.json").write_text(json.dumps(rows))
    assert round(score("videohallucer", ScoreRequest(tmp_path)).metrics["leaderboard"], 1) == overall


def test_a_judge_rates_what_no_rule_reads(tmp_path: Path) -> None:
    rows = [{"question": MATCH, "answer": GOLD, "prediction": said} for said in ("the second", "the first", "1")]
    folder = tmp_path / "answers"
    folder.mkdir()
    compass(folder / "caption_matching.json", rows)
    captions = [
        {"question": "…\nGenerated Caption:", "answer": "A. dunk", "prediction": said} for said in ("dunks", "runs")
    ]
    compass(folder / "captioning.json", captions)
    choices = compass(tmp_path / "multi-choice.json", [{"question": "What?\nA. run\nB. dunk", "answer": "B. dunk"}])

    def reply(text: str) -> str:
        if "Description:" in text:
            return "Reasoning: x\nAnswer: B. dunk" if "dunks" in text else "Reasoning: x\nAnswer: A. run"
        return "Correct" if "the second" in text else "I would say Incorrect"

    with ChatServer(reply) as server, open_chat(server.settings(), None) as chat:
        with pytest.raises(UserError, match="multiple-choice"):
            score("tempcompass", ScoreRequest(folder, judge=chat))
        found = score("tempcompass", ScoreRequest(folder, judge=chat, options={"multi_choice": str(choices)}))
    assert found.metrics["tasks"]["caption_matching"]["right"] == 1
    assert found.metrics["tasks"]["captioning"]["right"] == 1 and found.scored == 5 and found.unparsed == 0
