"""POPE's files and scores: hand-written twins of the published cases, and everything that must not pass silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.pope import metrics as pope
from mmpo.eval.pope.metrics import PopeAnswer, PopeQuestion


def question(number: int, label: str = "yes", image: str | None = None, text: str | None = None) -> PopeQuestion:
    return PopeQuestion(number, image or f"{number}.jpg", text or "Is there a dog in the image?", label)  # type: ignore[arg-type]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"}


def test_official_lines_are_read_and_written_unchanged(tmp_path: Path) -> None:
    path = write(tmp_path / "q.json", [ROW, {**ROW, "question_id": 2, "image": "b.jpg", "label": "no"}])
    questions = pope.read_questions(path)
    assert [(q.question_id, q.image, q.label) for q in questions] == [(1, "a.jpg", "yes"), (2, "b.jpg", "no")]
    assert questions[1].where == f"{path}:2"
    pope.write_questions(tmp_path / "again.json", questions)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_array_without_final_newline(tmp_path: Path) -> None:
    path = tmp_path / "seem.json"
    path.write_text(json.dumps([ROW, {**ROW, "question_id": 2}], indent=4))
    assert len(pope.read_questions(path)) == 2


def test_pope_v2(tmp_path: Path) -> None:
    path = tmp_path / "v2.json"
    rows = [{"image_id": 7, "image_name": "x.png", "target_object": "dog", "query": "Is there a dog?", "label": "No"}]
    path.write_text(json.dumps(rows))
    assert pope.read_questions(path) == [PopeQuestion(1, "x.png", "Is there a dog?", "no")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {**ROW, "question_id": 2, "label": "maybe"}], "q.json:2: label 'maybe' is neither yes nor no"),
        ([ROW, {**ROW, "question_id": 1}], r"q.json:2: question id 1 is already used at .*q.json:1"),
        ([{"question_id": 1, "text": "x", "label": "yes"}], "q.json:1: no `image`"),
        ([{**ROW, "label": True}], "q.json:1: `label` must be text"),
        ([{**ROW, "question_id": "1"}], "q.json:1: `question_id` must be a whole number"),
        ([{**ROW, "question_id": True}], "q.json:1: `question_id` must be a whole number"),
    ],
)
def test_question_errors_name_the_line(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pope.read_questions(write(tmp_path / "q.json", rows))


def test_answers_official_and_llava(tmp_path: Path) -> None:
    official = pope.read_answers(write(tmp_path / "a.json", [{"question": "Is there a dog?", "answer": "No"}]))
    assert official == [PopeAnswer("No", None, "Is there a dog?")]
    llava = pope.read_answers(write(tmp_path / "b.json", [{"question_id": 20000003, "prompt": "p", "text": ""}]))
    assert llava == [PopeAnswer("", 20000003, "p")]
    with pytest.raises(UserError, match=r"c\.json:1: no `answer`; the record has `output`"):
        pope.read_answers(write(tmp_path / "c.json", [{"output": "yes"}]))


def test_written_answers_read_back(tmp_path: Path) -> None:
    questions = [question(1), question(2, "no")]
    pope.write_answers(tmp_path / "a.jsonl", questions, ["Yes", "Nö"])
    answers = pope.read_answers(tmp_path / "a.jsonl")
    assert [(a.question_id, a.text, a.question) for a in answers] == [
        (1, "Yes", questions[0].text),
        (2, "Nö", questions[1].text),
    ]


def test_llava_splits_by_id() -> None:
    answers = [
        PopeAnswer("a", 1),
        PopeAnswer("r", 10_000_001),
        PopeAnswer("p", 20_000_001),
        PopeAnswer("q", 20_000_002),
    ]
    assert [(a.text, a.question_id) for a in pope.llava_split(answers, "popular")] == [("p", 1), ("q", 2)]
    assert [a.text for a in pope.llava_split(answers, "adversarial")] == ["a"]
    with pytest.raises(UserError, match="f:3: no `question_id`"):
        pope.llava_split([PopeAnswer("x", where="f:3")], "random")


def test_metrics_of_a_small_table() -> None:
    labels = ["yes"] * 5 + ["no"] * 5
    texts = ["Yes"] * 4 + ["No"] + ["Yes"] * 2 + ["No"] * 3
    result = pope.score([question(i + 1, label) for i, label in enumerate(labels)], texts)
    assert list(result.metrics) == ["TP", "FP", "TN", "FN", "accuracy", "precision", "recall", "F1", "yes_ratio"]
    assert result.counts == {"TP": 4, "FP": 2, "TN": 3, "FN": 1}
    assert result.metrics["accuracy"] == pytest.approx(0.7)
    assert result.metrics["precision"] == pytest.approx(4 / 6)
    assert result.metrics["recall"] == pytest.approx(0.8)
    assert result.metrics["F1"] == pytest.approx(8 / 11)
    assert result.metrics["yes_ratio"] == pytest.approx(0.6)  # of the answers; the labels are half and half
    assert result.unparsed == 0 and result.matched_by == "position" and result.parser == "official"


def test_constant_answers() -> None:
    questions = [question(i, "yes" if i % 2 else "no") for i in range(1, 101)]
    yes, no = (pope.score(questions, [text] * 100) for text in ("Yes", "No"))
    assert yes.metrics["F1"] == pytest.approx(2 / 3) and yes.metrics["yes_ratio"] == 1
    assert no.metrics["accuracy"] == 0.5 and no.metrics["precision"] == 0 and no.tally.undefined == ("precision",)


@pytest.mark.parametrize(
    ("parser", "counts", "accuracy", "yes_ratio"),
    [
        ("official", {"TP": 2, "FP": 2, "TN": 0, "FN": 0}, 0.5, 1.0),  # unclear is yes
        ("vlmevalkit", {"TP": 1, "FP": 1, "TN": 1, "FN": 1}, 0.25, 0.5),  # unclear is wrong, and a no
        ("lmms-eval", {"TP": 1, "FP": 1, "TN": 0, "FN": 0}, 0.25, 0.5),  # unclear is wrong, and nothing else
    ],
)
def test_conventions_for_unclear_answers(parser: str, counts: dict, accuracy: float, yes_ratio: float) -> None:
    questions = [question(1, "yes"), question(2, "yes"), question(3, "no"), question(4, "no")]
    result = pope.score(questions, ["Yes", "Perhaps", "Yes", "Perhaps"], parser)
    assert result.counts == counts
    assert (result.metrics["accuracy"], result.metrics["yes_ratio"]) == (accuracy, yes_ratio)
    assert result.unparsed == 2
    assert result.verdicts[1].found is False


def test_empty_answers_are_counted_not_dropped() -> None:
    result = pope.score([question(1), question(2, "no")], ["", ""])
    assert result.unparsed == 2 and sum(result.counts.values()) == 2


def test_answers_are_joined_by_id_where_both_have_the_same_ids() -> None:
    questions = [question(1, "yes"), question(2, "no")]
    swapped = [PopeAnswer("No", 2), PopeAnswer("Yes", 1)]
    result = pope.score(questions, swapped)
    assert result.matched_by == "question_id" and result.metrics["accuracy"] == 1
    shifted = pope.score(questions, [PopeAnswer("No", 12), PopeAnswer("Yes", 11)])
    assert shifted.matched_by == "position" and shifted.metrics["accuracy"] == 0


def test_unequal_lengths_name_the_first_unmatched_line(tmp_path: Path) -> None:
    questions = pope.read_questions(write(tmp_path / "q.json", [{**ROW, "question_id": i} for i in (1, 2, 3)]))
    answers = pope.read_answers(write(tmp_path / "a.json", [{"answer": "Yes"}] * 2))
    with pytest.raises(UserError, match=r"3 questions but 2 answers; .*q\.json:3 is the first without an answer"):
        pope.score(questions, answers)
    with pytest.raises(UserError, match=r"1 questions but 2 answers; .*a\.json:2 is the first without a question"):
        pope.score(questions[:1], answers)
    with pytest.raises(UserError, match="number 2 is the first without a question"):
        pope.score(questions[:1], ["Yes", "No"])


def test_no_questions() -> None:
    with pytest.raises(UserError, match="no POPE questions"):
        pope.score([], [])


def test_an_answer_to_another_question_is_refused() -> None:
    questions = [question(1, text="Is there a dog in the image?"), question(2, text="Is there a cat in the image?")]
    given = [PopeAnswer("Yes", question=q.text + "\nAnswer with one word.") for q in questions]
    assert pope.score(questions, given).metrics["recall"] == 1
    with pytest.raises(UserError, match=r"answers 'Is there a cat.*but the question at 1 is 'Is there a dog"):
        pope.score(questions, given[::-1])


def test_the_old_typing_error_is_the_same_question() -> None:
    old = PopeAnswer("Yes", question="Is there an umbrella in the imange?")
    assert pope.score([question(1, text="Is there an umbrella in the image?")], [old]).metrics["recall"] == 1


def test_one_id_answered_twice_is_refused() -> None:
    with pytest.raises(UserError, match="b:2: question id 1 is already answered at b:1"):
        pope.score([question(1), question(2)], [PopeAnswer("Yes", 1, where="b:1"), PopeAnswer("No", 1, where="b:2")])


def test_counts_are_kept_by_image() -> None:
    questions = [question(1, "yes", "a"), question(2, "no", "b"), question(3, "no", "a", text="Is there a cat?")]
    tally = pope.score(questions, ["Yes", "Yes", "No"]).tally
    assert tally.images == ("a", "b")
    assert tally.counts.tolist() == [[1, 0, 1, 0, 2, 1, 2], [0, 1, 0, 0, 0, 1, 1]]
    assert tally.outcomes["b", questions[1].text] is False


def test_mean_over_splits_keeps_images_together() -> None:
    first = pope.score([question(1, "yes", "a"), question(2, "no", "b")], ["Yes", "No"])
    second = pope.score([question(1, "yes", "b"), question(2, "no", "a")], ["Yes", "Yes"])
    mean = pope.mean_over_splits({"random": first, "popular": second})
    assert mean.images == ("a", "b") and mean.counts.shape == (2, 14)
    assert mean.values == {"mean_F1": pytest.approx((1 + 2 / 3) / 2), "mean_accuracy": pytest.approx(0.75)}


def test_a_question_that_is_there_twice_counts_twice(tmp_path: Path) -> None:
    """Each SEEM adversarial file has one."""
    path = write(tmp_path / "q.json", [ROW, {**ROW, "question_id": 2}])
    result = pope.score(pope.read_questions(path), ["Yes", "Yes"])
    assert result.counts["TP"] == 2 and len(result.tally.outcomes) == 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Is there a dog in the image?", "dog"),
        ("Is there an umbrella in the imange?", "umbrella"),
        ("Is there a Wine Glass in this picture?", "wine glass"),
        ("Does it rain?", None),
    ],
)
def test_the_asked_object(text: str, name: str | None) -> None:
    assert pope.asked_object(text) == name
