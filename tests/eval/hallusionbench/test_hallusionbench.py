"""HallusionBench: groups, golden values, error attribution, both judges, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmpo.chat import open_chat
from mmpo.errors import UserError
from mmpo.eval.hallusionbench import files
from mmpo.eval.hallusionbench import metrics as hb
from mmpo.eval.hallusionbench.score import score_hallusionbench
from mmpo.eval.scoring import ScoreRequest
from tests.chat.server import ChatServer


def record(key: str, visual: int, answer: int, prediction: str | None = None) -> dict:
    """`key` is category/subcategory/set/figure/question."""
    category, subcategory, set_id, figure_id, question_id = key.split("/")
    row = {
        "category": category, "subcategory": subcategory, "visual_input": str(visual), "set_id": set_id,
        "figure_id": figure_id, "question_id": question_id, "sample_note": "n",
        "question": f"Is it {question_id} in {set_id}?", "gt_answer_details": "It is so.", "gt_answer": str(answer),
        "filename": f"./{category}/{subcategory}/{set_id}_{figure_id}.png" if visual else None,
    }  # fmt: skip
    return row if prediction is None else {**row, "model_prediction": prediction}


ROWS = [
    record("VS/chart/0/0/0", 0, 0), record("VS/chart/0/1/0", 1, 1), record("VS/chart/0/2/0", 2, 0),
    record("VS/chart/0/0/1", 0, 1), record("VS/chart/0/1/1", 1, 1), record("VS/chart/0/2/1", 2, 0),
    record("VD/ocr/0/0/0", 1, 1), record("VD/ocr/0/1/0", 2, 0), record("VS/ocr/0/1/0", 1, 1),
]  # fmt: skip


def write(folder: Path, rows: list[dict], name: str = "rows.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> list[hb.HallusionQuestion]:
    return files.read_questions(write(tmp_path, ROWS))


def test_groups_are_of_the_full_key(questions: list[hb.HallusionQuestion]) -> None:
    """VD ocr and VS ocr share set and question numbers and must not fall together."""
    verdicts = [1, 1, 1, 1, 1, 0, 1, 1, 0]
    found = hb.metrics(hb.tally(questions, verdicts))
    assert found["n_question_groups"] == 4 and found["n_figures"] == 5
    assert found["aAcc"] == round(100 * 7 / 9, 4)
    assert found["qAcc"] == 50.0  # question 0 of the chart, and VD ocr
    assert found["fAcc"] == 60.0  # chart figure 1, both figures of VD ocr; figure 0 of VS is left out
    assert found["easy_aAcc"] == 75.0 and found["hard_aAcc"] == round(200 / 3, 4)
    assert found["consistency"] == {"correct": 60.0, "inconsistent": 20.0, "wrong": 20.0}
    assert found["aAcc_by_category"] == {"VD": 100.0, "VS": round(500 / 7, 4)}
    assert found["average"] == pytest.approx((found["aAcc"] + 60 + 50) / 3, abs=1e-4)


def test_unclear_is_right_only_where_no_image_is_shown(questions: list[hb.HallusionQuestion]) -> None:
    found = hb.metrics(hb.tally(questions, [2] * 9))
    assert found["aAcc"] == round(100 * 2 / 9, 4) and found["fAcc"] == 0


def test_bias(questions: list[hb.HallusionQuestion]) -> None:
    yes = hb.metrics(hb.tally(questions, [int(q.answer == "yes") for q in questions]))["yes_no_bias"]
    assert yes == {"diff": round(4 / 9, 4), "fp_ratio": 1.0}
    no = hb.metrics(hb.tally(questions, [int(q.answer == "no") for q in questions]))["yes_no_bias"]
    assert no == {"diff": -round(5 / 9, 4), "fp_ratio": 0.0}
    assert hb.metrics(hb.tally(questions, [1] * 9))["yes_no_bias"] == {"diff": 0.0, "fp_ratio": None}


LH, VI, MIX = "language_hallucination", "visual_illusion", "mixed"


@pytest.mark.parametrize(
    ("category", "figure", "visual", "verdict", "zero", "same", "expected"),
    [
        ("VD", "0", 1, 0, 0, 0, VI), ("VD", "0", 1, 2, 2, 0, VI), ("VD", "0", 1, 1, 1, 0, None),
        ("VD", "1", 2, 0, 1, 1, MIX), ("VD", "1", 2, 0, 1, 0, VI), ("VD", "1", 2, 0, 0, 1, VI),
        ("VD", "1", 2, 2, 1, 1, VI), ("VD", "1", 2, 1, 0, 0, None),
        ("VS", "0", 0, 0, 0, 0, LH), ("VS", "0", 0, 2, 2, 0, None),
        ("VS", "1", 1, 0, 0, 1, LH), ("VS", "1", 1, 0, 0, 0, MIX), ("VS", "1", 1, 2, 0, 0, MIX),
        ("VS", "1", 1, 2, 0, 1, MIX), ("VS", "1", 1, 0, 2, 1, VI), ("VS", "1", 1, 2, 2, 0, VI),
        ("VS", "1", 1, 2, 1, 0, VI), ("VS", "1", 1, 0, 1, 1, VI), ("VS", "2", 2, 0, 1, 1, LH),
        ("VS", "2", 2, 0, 1, 0, VI), ("VS", "1", 1, 0, None, 0, None),
    ],
)  # fmt: skip
def test_error_attribution(
    category: str, figure: str, visual: int, verdict: int, zero: int | None, same: int, expected: str | None
) -> None:
    question = hb.HallusionQuestion(category, "x", "0", figure, "0", visual, "q", "d", "yes")
    assert hb.cause(question, verdict, zero, same) == expected


def test_attribution_shares(questions: list[hb.HallusionQuestion]) -> None:
    def shares(verdicts: list[int], same: list[int]) -> dict:
        return hb.metrics(hb.tally(questions, verdicts, same))["attribution"]

    found = shares([0, 0, 0, 1, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1, 0, 0, 0])
    # VS figure 0 wrong: LH; VS figure 1 same as a wrong one: LH; figure 2 not the same: mixed; figure 2 of question 1,
    # edited and the same as a right one: LH; VD both wrong: VI, VI
    assert found == {LH: 50.0, VI: round(200 / 6, 4), MIX: round(100 / 6, 4)}
    assert shares([1] * 9, [0] * 9) == {LH: None, VI: None, MIX: None}


def test_without_a_judge(tmp_path: Path) -> None:
    said = ["No.", "Yes, it is.", "no", "I cannot see an image", "Yes", "Yes", "yes", "No", "maybe"]
    rows = [{**row, "model_prediction": text} for row, text in zip(ROWS, said, strict=True)]
    found = score_hallusionbench(ScoreRequest(write(tmp_path, rows)))
    # "I cannot see" is unclear and right without an image; the fifth says yes to a no; the last is unclear and wrong
    assert found.metrics["aAcc"] == round(100 * 7 / 9, 4) and found.unparsed == 2
    assert found.metrics["attribution"] is None and "vlmevalkit" in found.conventions[1]
    low, high = found.intervals["aAcc"]
    assert low < found.metrics["aAcc"] < high <= 100
    assert found.intervals.keys() == {"aAcc", "qAcc", "fAcc", "easy_aAcc", "hard_aAcc", "yes_no_bias"}
    low, high = found.intervals["yes_no_bias"]["diff"]
    assert low <= found.metrics["yes_no_bias"]["diff"] <= high
    only = score_hallusionbench(ScoreRequest(write(tmp_path, rows), options={"question_set": "image"}))
    assert only.scored == 7 and only.quarantined == {"without_image": 2} and only.read == 9
    official = score_hallusionbench(ScoreRequest(write(tmp_path, rows), options={"yes_no": "official"}))
    assert official.unparsed == 0 and "official" in official.conventions[1]


def test_both_judges(tmp_path: Path) -> None:
    def answer(prompt: str) -> str:
        if "same or different" in prompt:
            return "same" if prompt.count("right") == 2 or prompt.count("bad") == 2 else "different"
        return "incorrect" if "Answer of the model: bad" in prompt else "correct"

    said = ["right", "bad", "right", "bad", "bad", "right", "right", "right", "right"]
    rows = [{**row, "model_prediction": text} for row, text in zip(ROWS, said, strict=True)]
    path = write(tmp_path, rows)
    with ChatServer(answer) as server, open_chat(server.settings(), tmp_path / "cache.jsonl") as chat:
        found = score_hallusionbench(ScoreRequest(path, judge=chat, options={"attribution": "yes"}))
        asked = len(server.requests)
        score_hallusionbench(ScoreRequest(path, judge=chat, options={"attribution": "yes"}))
        assert len(server.requests) == asked
    assert found.metrics["aAcc"] == round(100 * 6 / 9, 4)
    assert found.intervals["attribution"].keys() == {LH, VI, MIX}
    # figure 1 of question 0: wrong where figure 0 is right: VI. question 1: figure 0 wrong: LH, figure 1 the same: LH
    assert found.metrics["attribution"] == {LH: round(200 / 3, 4), VI: round(100 / 3, 4), MIX: 0.0}


def test_answers_the_judge_could_not_be_asked(tmp_path: Path) -> None:
    rows = [{**row, "model_prediction": f"said {number}"} for number, row in enumerate(ROWS)]
    script = ChatServer("correct", lambda p, a: "400" if "said 4" in p else None)
    with script as server, open_chat(server.settings()) as chat:
        found = score_hallusionbench(ScoreRequest(write(tmp_path, rows), judge=chat))
    assert (found.read, found.scored, found.quarantined) == (9, 8, {"judge_bad_request": 1})
    assert found.metrics["aAcc"] == 100.0 and any("groups are smaller" in warning for warning in found.warnings)
    assert any("1 answers were not judged" in w and "HTTP 400" in w for w in found.warnings)


def test_predictions_beside_the_questions(tmp_path: Path) -> None:
    questions = write(tmp_path, ROWS, "questions.json")
    rows = [{**row, "model_prediction": "Yes"} for row in ROWS]
    for row in rows:
        del row["gt_answer"]
    answers = write(tmp_path, rows, "answers.json")
    with pytest.raises(UserError, match="no `gt_answer`"):
        score_hallusionbench(ScoreRequest(answers))
    found = score_hallusionbench(ScoreRequest(answers, questions=questions))
    assert found.metrics["aAcc"] == round(100 * 5 / 9, 4)
    fewer = write(tmp_path, [*rows[:5], {**rows[5], "question": "Another?"}], "fewer.json")
    with pytest.raises(UserError, match="other words"):
        score_hallusionbench(ScoreRequest(fewer, questions=questions))
    part = score_hallusionbench(ScoreRequest(fewer, questions=questions, options={"partial": "yes"}))
    assert (part.read, part.scored, part.quarantined) == (6, 5, {"other_words": 1})
    with pytest.raises(UserError, match="4 of 9 questions have no answer"):
        score_hallusionbench(ScoreRequest(write(tmp_path, rows[:5], "x.json"), questions=questions))


def test_mistakes_in_files(tmp_path: Path) -> None:
    for change, message in (
        ({"set_id": None}, "set_id"),
        ({"category": "VX"}, "category"),
        ({"gt_answer": "2"}, "gt_answer"),
        ({"model_prediction": 3}, "model_prediction"),
    ):
        with pytest.raises(UserError, match=message) as error:
            files.read_questions(write(tmp_path, [ROWS[0], {**ROWS[1], **change}]))
        assert "rows.json:#2" in str(error.value)
    with pytest.raises(UserError, match="already at"):
        files.read_questions(write(tmp_path, [ROWS[0], ROWS[0]]))
    with pytest.raises(UserError, match="no `model_prediction`"):
        score_hallusionbench(ScoreRequest(write(tmp_path, ROWS)))


def test_the_tally_has_the_same_numbers(questions: list[hb.HallusionQuestion]) -> None:
    verdicts, same = [1, 0, 2, 2, 1, 0, 0, 1, 1], [0, 1, 0, 0, 1, 1, 0, 0, 0]
    counted = hb.tally(questions, verdicts, same)
    found = hb.metrics(counted)
    for name in ("aAcc", "qAcc", "fAcc", "easy_aAcc", "hard_aAcc"):
        assert 100 * counted.values[name] == pytest.approx(found[name], abs=1e-4)
    assert counted.values["yes_bias"] == pytest.approx(found["yes_no_bias"]["diff"], abs=1e-4)
    assert counted.values["fp_ratio"] == pytest.approx(found["yes_no_bias"]["fp_ratio"], abs=1e-4)
    for name in hb.CAUSES:
        assert 100 * counted.values[name] == pytest.approx(found["attribution"][name], abs=1e-4)
    assert counted.images == ("VS/chart/0", "VD/ocr/0", "VS/ocr/0") and len(counted.outcomes) == 9


GOLDEN = ("aAcc", "qAcc", "easy_aAcc", "hard_aAcc", "fAcc")


def test_golden_values(published_data: Path) -> None:
    """Constant verdicts on the 1,129 questions, and constant answers to the 951 that have an image."""
    path = published_data / "tianyi-lab_HallusionBench" / "HallusionBench.json"
    questions = files.read_questions(path)
    yes, no = [int(q.answer == "yes") for q in questions], [int(q.answer == "no") for q in questions]
    for verdicts, expected in (
        (yes, (42.8698, 3.956, 46.3736, 34.186, 7.2254)),
        (no, (57.1302, 19.3407, 53.1868, 58.1395, 12.1387)),
        ([2] * 1129, (15.7662, 0, 1.7582, 0, 0)),
        ([1] * 1129, (100, 100, 100, 100, 100)),
    ):
        found = hb.metrics(hb.tally(questions, verdicts))
        assert tuple(found[name] for name in GOLDEN) == expected
    assert (found["n_questions"], found["n_question_groups"], found["n_figures"]) == (1129, 455, 346)
    assert yes.count(1) == 484 and no.count(1) == 645
    with_image = [question for question in questions if question.image is not None]
    assert len(with_image) == 951
    for said, expected in (("Yes.", (42.1661, 7.2254, 4.6154)), ("No.", (57.8339, 12.1387, 20.0))):
        answered = [replace(question, prediction=said) for question in with_image]
        found = hb.metrics(hb.tally(answered, hb.yes_no_verdicts(answered)))
        assert tuple(found[name] for name in ("aAcc", "fAcc", "qAcc")) == expected
    assert hb.tally(questions, no).values["qAcc"] == pytest.approx(0.193407, abs=1e-6)


def test_the_published_sample(published_data: Path) -> None:
    """254 predictions of an older release, which name no answer: they are a part of the current questions."""
    folder = published_data / "tianyi-lab_HallusionBench"
    request = ScoreRequest(
        folder / "HallusionBench_result_sample.json",
        questions=folder / "HallusionBench.json",
        options={"partial": "yes"},
    )
    found = score_hallusionbench(request)
    assert (found.read, found.scored, found.quarantined) == (254, 254, {})
    assert 0 < found.metrics["aAcc"] < 100
