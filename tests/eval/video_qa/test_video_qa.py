from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.chat import open_chat
from mmpo.errors import UserError
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.video_qa.metrics import (
    JudgedAnswer,
    VideoQuestion,
    match,
    metrics,
    read_answers,
    read_questions,
    tally,
    with_videos,
)
from tests.chat.server import ChatServer


def write(path: Path, rows: Any, lines: bool = False) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    path.write_text(text)
    return path


def test_every_published_form_of_questions(tmp_path: Path) -> None:
    msvd = write(tmp_path / "msvd.json", [{"id": 7, "question": "what?", "answer": "dog", "video_id": 1301}])
    assert read_questions(msvd)[0] == VideoQuestion("7", "1301", "what?", "dog", f"{msvd}:#1")
    assert with_videos(read_questions(msvd), "vid{video}.avi")[0].video == "vid1301.avi"
    asked = write(tmp_path / "q.json", [{"video_name": "v_1", "question": "who?", "question_id": "v_1_0"}])
    right = write(tmp_path / "a.json", [{"question_id": "v_1_0", "answer": "ann", "type": 3}])
    assert read_questions(asked, right)[0].answer == "ann"
    with pytest.raises(UserError, match="no right answer"):
        read_questions(asked)
    tgif = tmp_path / "Test_frameqa_question.csv"
    tgif.write_text(
        "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\nt_1\twhat is it?\tcat\t0\tv1\t3\nt_1\twho?\tman\t0\tv1\t4\n"
    )
    questions = read_questions(tgif)
    assert [(q.video, q.answer, q.id) for q in questions] == [("t_1", "cat", "0"), ("t_1", "man", "1")]
    rows = [
        {
            "id": "v_0",
            "video": "f/v",
            "conversations": [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
        }
    ]
    hound = read_questions(write(tmp_path / "hound.jsonl", rows, lines=True))
    assert (hound[0].question, hound[0].answer) == ("What?", "A cat.")
    with pytest.raises(UserError, match="more than once"):
        read_questions(write(tmp_path / "twice.jsonl", [*rows, *rows], lines=True))


def test_answers_of_both_tools(tmp_path: Path) -> None:
    rows = [{"id": "1", "question": "what?", "answer": "dog", "pred": "a dog"}]
    answers, questions = read_answers(write(tmp_path / "merge.jsonl", rows, lines=True))
    assert answers[0].text == "a dog" and questions[0].answer == "dog"
    told = [
        {"id": "1", "query": "what?", "answer": "dog", "model_prediction": {"status": "success", "message": "a dog"}},
        {
            "id": "2",
            "query": "who?",
            "answer": "ann",
            "model_prediction": {"status": "error", "message": "out of memory"},
        },
    ]
    answers, questions = read_answers(write(tmp_path / "hound.jsonl", told, lines=True))
    assert [answer.failed for answer in answers] == [False, True] and len(questions) == 2
    with pytest.raises(UserError, match="no prediction"):
        read_answers(write(tmp_path / "bad.jsonl", [{"id": "1"}], lines=True))


def test_joining(tmp_path: Path) -> None:
    questions = [VideoQuestion(str(i), "v", "?", "a") for i in range(3)]
    answers, _ = read_answers(write(tmp_path / "a.json", [{"id": "2", "pred": "x"}, {"id": "9", "pred": "y"}]))
    pairs, unknown = match(questions, answers)
    assert [(q.id, a.text) for q, a in pairs] == [("2", "x")] and unknown == 1
    plain, _ = read_answers(write(tmp_path / "b.json", [{"pred": "x"}, {"pred": "y"}]))
    with pytest.raises(UserError, match="without ids"):
        match(questions, plain)
    with pytest.raises(UserError, match="answered twice"):
        match(questions, [*answers, *answers])


def test_the_two_denominators() -> None:
    q = VideoQuestion("1", "v", "?", "a")
    judged = [
        JudgedAnswer(q, True, 4.0),
        JudgedAnswer(q, False, None),
        JudgedAnswer(q, None, 2.0),
        JudgedAnswer(q, None, None),
    ]
    found = metrics(tally(judged))
    assert (found["accuracy"], found["score"]) == (50.0, 3.0)
    assert (found["n_total"], found["n_accuracy"], found["n_score"], found["n_failed"]) == (4, 2, 2, 2)
    assert metrics(tally(judged), count_failed_as_wrong=True, asked=5)["accuracy"] == 20.0
    counted = tally([JudgedAnswer(VideoQuestion(str(i), f"v{i % 2}", "?", "a"), bool(i), 3.0) for i in range(4)])
    assert counted.values == {"accuracy": 0.75, "score": 3.0} and counted.images == ("v0", "v1")


def judge(prompt: str) -> str:
    return "{'pred': 'yes', 'score': 5}" if "Predicted answer: a dog" in prompt else "I can not say, no score"


def test_scored_by_a_judge(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "question": "what?", "answer": "dog", "pred": "a dog"},
        {"id": "2", "question": "what?", "answer": "cat", "pred": "a tree"},
    ]
    path = write(tmp_path / "merge.jsonl", rows, lines=True)
    with (
        ChatServer(judge, lambda prompt, attempt: "500" if attempt == 1 else None) as server,
        open_chat(server.settings()) as chat,
    ):
        found = score("video_qa", ScoreRequest(path, judge=chat))
        assert (found.read, found.scored, found.unparsed) == (2, 2, 1)
        assert found.metrics["accuracy"] == 100.0 and found.metrics["n_failed"] == 1
        strict = score("video_qa", ScoreRequest(path, judge=chat, options={"count_failed_as_wrong": "true"}))
        assert strict.metrics["accuracy"] == 50.0
        published = score("video_qa", ScoreRequest(path, judge=chat, parser="video_chatgpt"))
        assert published.metrics["accuracy"] == 50.0 and published.unparsed == 0
        with pytest.raises(UserError, match="no protocol"):
            score("video_qa", ScoreRequest(path, judge=chat, options={"protocol": "other"}))


def test_rewards_with_captions(tmp_path: Path) -> None:
    told = [
        {
            "id": "v1_0",
            "query": "what?",
            "answer": "dog",
            "modal_path": "f/v1",
            "model_prediction": {"status": "success", "message": "a dog"},
        },
        {
            "id": "v2_0",
            "query": "what?",
            "answer": "cat",
            "modal_path": "f/v2",
            "model_prediction": {"status": "success", "message": "a tree"},
        },
        {
            "id": "v1_1",
            "query": "who?",
            "answer": "cat",
            "modal_path": "f/v1",
            "model_prediction": {"status": "error", "message": "x"},
        },
    ]
    path = write(tmp_path / "a.jsonl", told, lines=True)
    captions = write(tmp_path / "c.jsonl", [{"id": "v1", "caption": "A dog runs."}], lines=True)
    with ChatServer("Explanation: fine\nScore: 4") as server, open_chat(server.settings()) as chat:
        request = ScoreRequest(path, annotations=captions, judge=chat, options={"protocol": "reward"})
        found = score("video_qa", request)
        assert found.metrics["accuracy"] == 100.0 and found.metrics["score"] == 4.0
        assert (found.read, found.scored) == (3, 1)
        assert found.quarantined == {"the file says that it failed": 1, "no caption of its video": 1}
        assert any("A dog runs." in prompt for prompt in server.answered)
