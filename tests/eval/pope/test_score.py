"""POPE answers made elsewhere, in every published pairing of files, and what must not pass silently."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.pope.metrics import SPLITS
from mmpo.eval.scoring import Scored, ScoreRequest, score

IMAGES = ("COCO_val2014_000000000001.jpg", "COCO_val2014_000000000002.jpg")
NEGATIVE = {"random": "bus", "popular": "car", "adversarial": "bench"}


def questions(split: str, *, first: int = 1, image_key: str = "image", text_key: str = "text") -> list[dict]:
    rows = []
    for image in IMAGES:
        for name, label in (("dog", "yes"), (NEGATIVE[split], "no")):
            text = f"Is there a {name} in the image?"
            rows.append({"question_id": first + len(rows), image_key: image, text_key: text, "label": label})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def official(rows: list[dict], texts: list[str]) -> list[dict]:
    return [{"question": row["text"], "answer": text} for row, text in zip(rows, texts, strict=True)]


TEXTS = ["Yes, a dog.", "No", "no", "Yes"]


def scored(tmp_path: Path, questions: list[dict], answers: list[dict], **request: object) -> Scored:
    asked, given = write(tmp_path / "coco_pope_random.json", questions), write(tmp_path / "answers.json", answers)
    return score("pope", ScoreRequest(given, questions=asked, **request))  # type: ignore[arg-type]


def test_one_file_gives_flat_metrics_in_the_official_order(tmp_path: Path) -> None:
    asked = questions("random")
    result = scored(tmp_path, asked, official(asked, TEXTS))
    assert result.metrics == {
        "TP": 1, "FP": 1, "TN": 1, "FN": 1, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "F1": 0.5,
        "yes_ratio": 0.5, "questions": 4,
    }  # fmt: skip
    assert list(result.metrics)[:4] == ["TP", "FP", "TN", "FN"]
    assert (result.read, result.scored, result.unparsed, result.quarantined) == (4, 4, 0, {})
    assert result.conventions[0].startswith("parser official: text that says neither counts as yes")


@pytest.mark.parametrize("form", ["seem", "v2", "at_7ef3026", "gz", "crlf", "bom", "utf-16"])
def test_question_files_of_every_version(tmp_path: Path, form: str) -> None:
    rows = questions("random", first=0 if form == "at_7ef3026" else 1)
    path = tmp_path / "coco_pope_random.json"
    if form == "seem":
        path.write_text(json.dumps(rows, indent=4))
    elif form == "v2":
        keys = {"text": "query", "image": "image_name"}
        v2 = [{keys.get(k, k): v for k, v in row.items() if k != "question_id"} | {"image_id": 7} for row in rows]
        path.write_text(json.dumps([row | {"label": row["label"].capitalize()} for row in v2]))
    elif form == "at_7ef3026":
        write(path, [row | {"image_id": 7} for row in rows])
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(
            gzip.compress(text.encode()) if form == "gz"
            else text.replace("\n", "\r\n").encode() if form == "crlf"
            else text.encode("utf-8-sig" if form == "bom" else form)
        )  # fmt: skip
    given = write(tmp_path / "answers.json", [{"answer": text} for text in TEXTS])
    assert score("pope", ScoreRequest(given, questions=path)).metrics["accuracy"] == 0.5


def llava_answers() -> list[dict]:
    """LLaVA's one file with all splits: adversarial, random, popular, ids shifted."""
    rows = []
    for split, offset in (("adversarial", 0), ("random", 10_000_000), ("popular", 20_000_000)):
        for row, text in zip(questions(split), TEXTS, strict=True):
            prompt = row["text"] + "\nAnswer the question using a single word or phrase."
            rows.append({"question_id": offset + row["question_id"], "prompt": prompt, "text": text})
    return rows


def split_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "questions"
    folder.mkdir()
    for split in SPLITS:
        write(folder / f"coco_pope_{split}.json", questions(split))
    (folder / "coco_co_occur.json").write_text('{"dog": ["cat"]}')  # as beside the published files
    return folder


def test_three_splits_with_llavas_single_answer_file(tmp_path: Path) -> None:
    given = write(tmp_path / "llava.jsonl", llava_answers())
    result = score("pope", ScoreRequest(given, questions=split_folder(tmp_path), parser="llava"))
    assert list(result.metrics) == ["random", "popular", "adversarial", "mean_F1", "mean_accuracy"]
    assert result.metrics["mean_F1"] == 0.5 and result.metrics["popular"]["TP"] == 1
    assert (result.read, result.scored) == (12, 12)
    alone = score("pope", ScoreRequest(given, questions=tmp_path / "questions/coco_pope_popular.json"))
    assert alone.metrics["F1"] == 0.5 and alone.read == 4


def test_three_splits_with_a_folder_of_answers(tmp_path: Path) -> None:
    asked, given = split_folder(tmp_path), tmp_path / "answers"
    given.mkdir()
    for split in SPLITS:
        write(given / f"my_{split}.json", official(questions(split), TEXTS))
    assert score("pope", ScoreRequest(given, questions=asked)).metrics["mean_accuracy"] == 0.5
    (given / "my_popular.json").unlink()
    with pytest.raises(UserError, match="has no answers of the split popular"):
        score("pope", ScoreRequest(given, questions=asked))


def test_splits_that_cannot_be_told_apart(tmp_path: Path) -> None:
    packed = write(tmp_path / "llava.jsonl", llava_answers())
    unnamed = write(tmp_path / "mine.json", questions("random"))
    with pytest.raises(
        UserError, match="holds the splits random, popular, adversarial, but the questions are of 'mine'"
    ):
        score("pope", ScoreRequest(packed, questions=unnamed))
    plain = write(tmp_path / "plain.jsonl", [{"answer": "Yes"}] * 12)
    with pytest.raises(UserError, match="is one answer file for 3 splits, and its ids are not LLaVA's"):
        score("pope", ScoreRequest(plain, questions=split_folder(tmp_path)))


def test_repope_takes_the_answers_to_pope(tmp_path: Path) -> None:
    asked = questions("random")
    kept = [
        {**asked[3], "question_id": 1},
        {**asked[0], "question_id": 2, "label": "no"},
    ]  # fewer, relabelled, renumbered
    repope = write(tmp_path / "coco_repope_random.json", kept)
    full = write(tmp_path / "coco_pope_random.json", asked)
    given = write(tmp_path / "answers.json", official(asked, TEXTS))
    result = score("pope", ScoreRequest(given, questions=repope, options={"asked": str(full)}))
    assert result.metrics["FP"] == 2 and result.metrics["accuracy"] == 0.0
    assert (result.read, result.scored) == (4, 2)
    assert result.quarantined == {"the question is not in the file": 2}
    with pytest.raises(UserError, match="2 questions but 4 answers"):
        score("pope", ScoreRequest(given, questions=repope))
    write(full, [row for row in asked if row["label"] == "yes"])
    half = write(tmp_path / "half.json", official(asked, TEXTS)[::2])
    with pytest.raises(UserError, match=r"repope_random\.json:1: 'Is there a bus.*is not among the asked ones"):
        score("pope", ScoreRequest(half, questions=repope, options={"asked": str(full)}))


def test_unparsed_answers_are_counted_and_said(tmp_path: Path) -> None:
    asked = questions("random")
    texts = ["", "maybe", "Yes", "No"]
    for parser, counts, accuracy in (
        ("official", (2, 1, 1, 0), 0.75), ("opera", (2, 1, 1, 0), 0.75), ("llava", (2, 1, 1, 0), 0.75),
        ("vlmevalkit", (1, 0, 2, 1), 0.5), ("lmms-eval", (1, 0, 1, 0), 0.5),
    ):  # fmt: skip
        result = scored(tmp_path, asked, official(asked, texts), parser=parser)
        assert tuple(result.metrics[name] for name in ("TP", "FP", "TN", "FN")) == counts, parser
        assert (result.metrics["accuracy"], result.unparsed) == (accuracy, 2), parser
        assert "2 answers (50.0%) hold neither yes nor no" in result.warnings[0]
        assert f"parser {parser}" in result.conventions[0]


def test_ids_of_another_file_are_said_where_nothing_shows_the_order(tmp_path: Path) -> None:
    asked = questions("random")
    ids = [{"question_id": 100 + row["question_id"], "answer": text} for row, text in zip(asked, TEXTS, strict=True)]
    warning = "random: the answers' question ids are not those of the questions"
    assert any(line.startswith(warning) for line in scored(tmp_path, asked, ids).warnings)
    quoting = [row | {"question": q["text"]} for row, q in zip(ids, asked, strict=True)]
    for fine in (quoting, official(asked, TEXTS), [row | {"question_id": row["question_id"] - 100} for row in ids]):
        assert not scored(tmp_path, asked, fine).warnings


def test_the_yes_ratio_counts_answers_not_labels(tmp_path: Path) -> None:
    asked = questions("random")
    result = scored(tmp_path, asked, official(asked, ["Yes"] * 4), parser="lmms-eval")
    assert result.metrics["yes_ratio"] == 1.0
    assert result.metrics["lmms_eval_yes_ratio"] == 0.5  # what that script prints, and why it says nothing
    assert "it counts the labels" in result.conventions[2]


def test_undefined_numbers_are_none_and_said(tmp_path: Path) -> None:
    asked = questions("random")
    result = scored(tmp_path, asked, official(asked, ["No"] * 4))
    assert result.metrics["precision"] is None and result.metrics["recall"] == 0.0
    assert "random: precision is undefined (nothing to divide by)" in result.warnings


ASKED = questions("random")


@pytest.mark.parametrize(
    ("asked", "answers", "message"),
    [
        (ASKED, official(ASKED, TEXTS)[:3], r"4 questions but 3 answers; .*random\.json:4 is the first without"),
        (ASKED[:3], official(ASKED, TEXTS), r"3 questions but 4 answers; .*answers\.json:4 is the first without"),
        ([*ASKED, ASKED[0]], official(ASKED, TEXTS), r"random\.json:5: question id 1 is already used at .*:1"),
        ([{**ASKED[0], "label": "Maybe"}], [{"answer": "Yes"}], r"random\.json:1: label 'Maybe' is neither yes nor no"),
        ([{**ASKED[0], "label": ""}], [{"answer": "Yes"}], r"random\.json:1: label '' is neither"),
        (
            [ASKED[0], {**ASKED[0], "question_id": 2, "label": "no"}], [{"answer": "Yes"}] * 2,
            r"random\.json:2: 'Is there a dog.*has the label no, and yes at .*random\.json:1",
        ),
        (ASKED, [{"answer": None}] * 4, r"answers\.json:1: `answer` must be text, found null"),
        (ASKED, [{"question_id": 1, "text": "Yes"}] * 4, r"answers\.json:2: question id 1 is already answered at .*:1"),
        (ASKED, official(ASKED, TEXTS)[::-1], r"answers\.json:1: answers 'Is there a bus"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_file_and_line(
    tmp_path: Path, asked: list[dict], answers: list[dict], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        scored(tmp_path, asked, answers)


def test_a_half_written_answer_file_is_no_shorter_benchmark(tmp_path: Path) -> None:
    given = write(tmp_path / "answers.json", official(ASKED, TEXTS))
    given.write_bytes(given.read_bytes()[:-12])
    with pytest.raises(UserError, match=r"answers\.json:4: not valid JSON") as caught:
        score("pope", ScoreRequest(given, questions=write(tmp_path / "pope_random.json", ASKED)))
    assert "cut off" in str(caught.value)


def test_an_empty_answer_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers\.json is empty"):
        scored(tmp_path, ASKED, [])
