"""MMHal-Bench: template, ratings, scoring by a judge and by saved replies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmpo.chat import open_chat
from mmpo.chat.judging import read_rating
from mmpo.errors import UserError
from mmpo.eval.mmhal import metrics as mmhal
from mmpo.eval.mmhal.task import score_mmhal
from mmpo.eval.scoring import ScoreRequest
from tests.chat.server import ChatServer


def record(number: int, answer: str = "a dog") -> dict:
    return {
        "question_type": mmhal.TYPES[number % 8],
        "question_topic": "animal",
        "image_id": f"img{number}",
        "image_src": f"https://example.org/x/photo{number}_o.jpg",
        "image_content": ["Dog", "Tree"],
        "question": f"What is number {number}?",
        "gt_answer": "A dog under a tree.",
        "model_answer": answer,
    }


def template(folder: Path, count: int = 8, answer: str = "a dog") -> Path:
    path = folder / "answers.json"
    path.write_text(json.dumps([record(number, answer) for number in range(count)]))
    return path


def test_golden_means() -> None:
    types = [mmhal.TYPES[number % 8] for number in range(96)]
    all_three = mmhal.metrics(types, [3] * 96)
    assert all_three["score"] == 3.0 and all_three["hallucination_rate"] == 0.0
    assert all_three["informativeness"] == 0.0 and set(all_three["score_by_type"]) == set(mmhal.TYPES)
    alternating = mmhal.metrics(types, [6, 0] * 48)
    assert alternating["score"] == 3.0 and alternating["hallucination_rate"] == 0.5
    assert alternating["informativeness"] == 50.0
    assert alternating["score_by_type"]["attribute"] == 6 and alternating["score_by_type"]["adversarial"] == 0
    unread = mmhal.metrics(types, [None, *[6] * 95])
    assert unread["n_unparsed"] == 1 and unread["hallucination_rate"] == pytest.approx(1 / 96)
    assert [mmhal.informativeness(rating) for rating in range(7)] == [0, 1, 2, 0, 1, 2, 3]


def test_saved_replies_of_the_published_script(tmp_path: Path) -> None:
    replies = ["Rating: 6", "rating: 3, not informative", "Rating: 2 ... Rating: 4", "", *["Rating: 5"] * 4]
    saved = tmp_path / "replies.json"
    saved.write_text(json.dumps([{"choices": [{"message": {"content": text}}]} for text in replies[:4]] + replies[4:]))
    found = score_mmhal(ScoreRequest(template(tmp_path), options={"judgements": str(saved)}))
    assert found.metrics["score"] == pytest.approx((6 + 3 + 0 + 0 + 20) / 8)
    assert found.metrics["hallucination_rate"] == 0.25 and found.unparsed == found.metrics["n_unparsed"] == 2
    assert any("2 judge replies" in warning for warning in found.warnings)
    assert any("8 records" in warning for warning in found.warnings)
    low, high = found.intervals["score"]
    assert low < found.metrics["score"] < high and found.intervals["informativeness"][1] <= 100
    assert 0 < found.intervals["hallucination_rate"][0] < 0.25
    saved.write_text(json.dumps(["**Rating**: 5"] * 8))
    bold = score_mmhal(ScoreRequest(template(tmp_path), options={"judgements": str(saved)}))
    assert bold.metrics["score"] == 0 and any("--parser tolerant reads 8 of them" in line for line in bold.warnings)
    saved.write_text("[1]")
    with pytest.raises(UserError, match="#1"):
        score_mmhal(ScoreRequest(template(tmp_path), options={"judgements": str(saved)}))


def test_types_are_the_records_own_not_their_position(tmp_path: Path) -> None:
    rows = [record(number) for number in range(8)]
    path = tmp_path / "shuffled.json"
    path.write_text(json.dumps(rows[::-1]))
    saved = tmp_path / "replies.json"
    saved.write_text(json.dumps(["Rating: 6", *["Rating: 0"] * 7]))
    found = score_mmhal(ScoreRequest(path, options={"judgements": str(saved)}))
    assert found.metrics["score_by_type"]["other"] == 6 and found.metrics["score_by_type"]["attribute"] == 0


def test_the_judge_is_told_everything_and_rates(tmp_path: Path) -> None:
    def answer(prompt: str) -> str:
        number = int(re.search(r"number (\d+)", prompt).group(1))  # type: ignore[union-attr]
        return f"Well.\nRating: {number % 7}" if number != 5 else "I can't"

    script = ChatServer(answer, lambda p, a: "400" if "number 6" in p else None)
    with script as server, open_chat(server.settings(), tmp_path / "cache.jsonl") as chat:
        found = score_mmhal(ScoreRequest(template(tmp_path), judge=chat))
        again = score_mmhal(ScoreRequest(template(tmp_path), judge=chat))
    assert found.metrics["score"] == pytest.approx((0 + 1 + 2 + 3 + 4 + 0 + 0) / 7)  # 5 unread, 6 failed, 7 -> 0
    assert (found.read, found.scored, found.unparsed) == (8, 7, 1) and found.quarantined == {"judge_bad_request": 1}
    assert any("1 answers were not judged" in w and "bad_request: HTTP 400" in w for w in found.warnings)
    assert again.metrics == found.metrics and server.attempts.most_common(1)[0][1] == 2  # only the failed one again
    prompt = server.requests[0]["messages"][0]["content"]
    for expected in ("Dog, Tree", "What is number", "A dog under a tree.", "Answer of the model: a dog", "Rating: K"):
        assert expected in prompt
    assert read_rating(prompt, "strict") is None  # a judge that repeats its instructions gives no rating


def test_answers_beside_the_template(tmp_path: Path) -> None:
    empty = template(tmp_path, answer="")
    with pytest.raises(UserError, match="every `model_answer` is empty"):
        score_mmhal(ScoreRequest(empty))
    questions = mmhal.read_template(empty)
    answers = tmp_path / "mine.jsonl"
    rows = [{"image_id": f"img{number}", "answer": f"answer {number}"} for number in reversed(range(8))]
    answers.write_text("\n".join(map(json.dumps, rows)))
    assert [one.answer for one in mmhal.read_answers(answers, questions)] == [f"answer {n}" for n in range(8)]
    rows = [{"text": f"answer {number}"} for number in range(8)]
    answers.write_text("\n".join(map(json.dumps, rows)))
    assert mmhal.read_answers(answers, questions)[3].answer == "answer 3"
    for bad, message in (
        (rows[:7], "7 answers"),
        ([{"image_id": "img0", "text": "a"}] * 8, "answered twice"),
        ([{"image_id": "other", "text": "a"}] * 8, "not in the template"),
        ([{"question": "else", "text": "a"}] * 8, "another question"),
    ):
        answers.write_text("\n".join(map(json.dumps, bad)))
        with pytest.raises(UserError, match=message):
            mmhal.read_answers(answers, questions)


def test_mistakes_in_the_template(tmp_path: Path) -> None:
    for change, message in (
        ({"question_type": "odd"}, "question type 'odd'"),
        ({"image_content": "Dog"}, "image_content"),
        ({"gt_answer": None}, "gt_answer"),
    ):
        path = tmp_path / "bad.json"
        path.write_text(json.dumps([record(0), {**record(1), **change}]))
        with pytest.raises(UserError, match=message) as error:
            mmhal.read_template(path)
        assert "bad.json:#2" in str(error.value)
    path.write_text(json.dumps([record(0), record(0)]))
    with pytest.raises(UserError, match="the same question"):
        mmhal.read_template(path)
    with pytest.raises(UserError, match="needs --judge"):
        score_mmhal(ScoreRequest(template(tmp_path)))


def test_images_are_found_by_id_or_url(tmp_path: Path) -> None:
    one = mmhal.read_template(template(tmp_path))[3]
    assert mmhal.image_file(tmp_path, one) == "img3.jpg"
    (tmp_path / "photo3_o.jpg").write_bytes(b"x")
    assert mmhal.image_file(tmp_path, one) == "photo3_o.jpg"
    (tmp_path / "photo3_o.jpg").unlink()
    (tmp_path / "img3.png").write_bytes(b"x")
    assert mmhal.image_file(tmp_path, one) == "img3.png"


def test_the_published_template(published_data: Path, tmp_path: Path) -> None:
    """96 records, 8 types with 12 topics each; the type of record i is position i mod 8; written back unchanged."""
    path = published_data / "RLHF-V_RLHF-V" / "eval" / "data" / "mmhal-bench_answer_template.json"
    records = mmhal.read_template(path)
    assert len(records) == mmhal.RECORDS
    assert [one.type for one in records] == [mmhal.TYPES[number % 8] for number in range(96)]
    assert len({one.topic for one in records}) == 12 and not any(one.answer for one in records)
    mmhal.write_template(tmp_path / "out.json", records, [""] * 96)
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(path.read_text())
    filled = json.loads(path.read_text())
    for entry in filled:
        entry["model_answer"] = "I can't tell."
    (tmp_path / "filled.json").write_text(json.dumps(filled))
    (tmp_path / "replies.json").write_text(json.dumps(["Rating: 6", "Rating: 0"] * 48))
    found = score_mmhal(ScoreRequest(tmp_path / "filled.json", options={"judgements": str(tmp_path / "replies.json")}))
    assert (found.metrics["score"], found.metrics["hallucination_rate"]) == (3.0, 0.5) and not found.warnings
