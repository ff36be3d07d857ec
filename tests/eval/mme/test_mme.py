"""MME: parsers, scores, every packaging of its files, and what must not pass silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.harness import evaluate
from mmpo.eval.mme import files as mme_files
from mmpo.eval.mme import metrics as mme
from mmpo.eval.mme.metrics import MmeQuestion
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.statistics.scorecard import Scorecard
from tests.eval.evaluating import answers_in, settings
from tests.tiny import tiny_image


@pytest.mark.parametrize(
    ("text", "official", "lmms_eval", "vlmevalkit"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("yes.", "yes", "yes", "yes"),
        (" No", "no", "no", "no"),
        ("NO", "no", "no", "no"),
        ("no\n", "no", "no", "no"),
        ('"yes', "yes", "yes", "yes"),
        ("Not visible", "no", "no", None),
        ("I think yes", None, None, "yes"),
        ("  Yes", None, "yes", "yes"),
        ("**yes**", None, None, None),
        ("", None, None, None),
        ("Know", "no", "no", None),
        ("snow", "no", "no", None),
        ("nose", "no", "no", None),
        ("Yes, no doubt", "yes", "yes", None),
        ("y", None, "yes", None),
        ("N.", None, "no", None),
    ],
)
def test_parsers(text: str, official: str | None, lmms_eval: str | None, vlmevalkit: str | None) -> None:
    expected = {"official": official, "lmms-eval": lmms_eval, "vlmevalkit": vlmevalkit}
    assert {name: rule(text).label for name, rule in mme.PARSERS.items()} == expected


def pair(image: str, subtask: str = "existence") -> list[MmeQuestion]:
    return [
        MmeQuestion(subtask, image, "Is there a dog in this image? Please answer yes or no.", "yes"),
        MmeQuestion(subtask, image, "Is there a cat in this image?  Please answer yes or no.", "no"),
    ]


FOUR = [question for number in range(4) for question in pair(f"{number}.jpg")]
ANSWERS = ["Yes", "No", "Yes", "yes, a cat", "No", "no", "maybe", "No"]  # both, first, second, second of four images


def test_scores_by_hand() -> None:
    result = mme.score(FOUR, ANSWERS)["existence"]
    assert result.metrics == {
        "acc": 5 / 8, "acc+": 1 / 4, "score": 87.5, "yes_ratio": 3 / 8, "questions": 8, "images": 4, "other": 1,
        "TP": 2, "FN": 1, "TN": 3, "FP": 1, "precision": 2 / 3, "recall": 2 / 3,
    }  # fmt: skip
    assert result.positional == 87.5
    assert result.tally.counts.tolist() == [[2, 2, 1, 1, 1], [1, 2, 0, 1, 2], [1, 2, 0, 1, 0], [1, 2, 0, 1, 0]]


def test_pairs_are_found_by_image_whatever_the_order() -> None:
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    result = mme.score([FOUR[i] for i in order], [ANSWERS[i] for i in order])["existence"]
    assert result.tally.values["score"] == 87.5
    assert result.positional == 100 * 5 / 8 + 100 * 2 / 4  # neighbours are different images now


def test_groups_add_up_and_resample_together() -> None:
    questions = [q for subtask in mme.IMAGES for q in pair("0001.jpg", subtask)]
    results = mme.score(questions, ["Yes", "No"] * 14)
    assert mme.sums(results) == {"perception": 2000.0, "cognition": 800.0, "hallucination": 800.0, "total": 2800.0}
    tally = mme.group_tally(results, "cognition")
    assert tally is not None and tally.values == {"score": 800.0, "yes_ratio": 0.5}
    assert len(tally.images) == 4  # the same file name in two subtasks is two images
    del results["OCR"]
    assert mme.group_tally(results, "perception") is None and mme.sums(results)["total"] is None
    assert list(results)[:2] == ["existence", "count"]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (FOUR[:3], r"1.jpg has 1 question \(yes\); MME asks one that is answered by yes and one by no"),
        ([FOUR[0], FOUR[0]], r"0.jpg has 2 questions \(yes and yes\)"),
        ([*FOUR[:2], MmeQuestion("existence", "0.jpg", "And a cup?", "no", "f:3")], r"f:3: 0.jpg has 3 questions"),
    ],
)
def test_what_is_no_pair_is_refused(questions: list[MmeQuestion], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mme.score(questions, ["Yes"] * len(questions))


def test_lengths_and_parser_names() -> None:
    with pytest.raises(UserError, match="8 MME questions but 7 answers"):
        mme.score(FOUR, ANSWERS[:7])
    with pytest.raises(UserError, match="MME has no parser 'llava'"):
        mme.score(FOUR, ANSWERS, "llava")


# --- files -------------------------------------------------------------------------------------------------------

ROWS = [
    ("0001.png", "Is there a dog? Please answer yes or no.", "Yes"),
    ("0001.png", "Is there a cat?  Please answer yes or no.", "No"),
    ("0002.png", "Is there a cup? Please answer yes or no.", "Yes"),
    ("0002.png", "Is there a bus? Please answer yes or no.", "No"),
]


def tool_folder(folder: Path, responses: list[str] | None = None, subtask: str = "count") -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["\t".join([*row, *([responses[i]] if responses else [])]) + "\n" for i, row in enumerate(ROWS)]
    (folder / f"{subtask}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def image_folder(folder: Path, layout: str, subtask: str = "count") -> Path:
    """The benchmark's own folder, `flat` or `split`, with real images."""
    home = folder / subtask
    images, texts = (home / "images", home / "questions_answers_YN") if layout == "split" else (home, home)
    images.mkdir(parents=True)
    texts.mkdir(exist_ok=True)
    for number, (name, question, label) in enumerate(ROWS):
        tiny_image(number // 2).save(images / name)
        with open(texts / name.replace("png", "txt"), "a", encoding="utf-8") as file:
            file.write(f"{question}\t{label}\n")
    return folder


def hub_rows(folder: Path, form: str) -> Path:
    """The benchmark as rows, in Parquet with embedded images or in JSON Lines."""
    folder.mkdir()
    rows = [
        {"question_id": f"count/{name}", "image": {"bytes": png(number // 2), "path": None}, "question": question,
         "answer": label, "category": "count"}
        for number, (name, question, label) in enumerate(ROWS)
    ]  # fmt: skip
    if form == "parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(folder / "test-00000-of-00001.parquet")
        (folder / "dataset_infos.json").write_text("{}")
        return folder
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "image"}) + "\n" for row in rows))
    return path


def png(number: int) -> bytes:
    from mmpo.files.images import encode_image

    return encode_image(tiny_image(number))


EXPECTED = [MmeQuestion("count", name, question, "yes" if label == "Yes" else "no") for name, question, label in ROWS]


def test_every_packaging_gives_the_same_questions(tmp_path: Path) -> None:
    for path in (
        tool_folder(tmp_path / "tool"),
        tool_folder(tmp_path / "filled", ["Yes"] * 4),
        image_folder(tmp_path / "flat", "flat"),
        image_folder(tmp_path / "split", "split"),
        hub_rows(tmp_path / "hub", "parquet"),
        hub_rows(tmp_path / "lines", "jsonl"),
    ):
        assert mme_files.read_questions(path) == EXPECTED, path.name


def test_llavas_answers_are_joined_by_image_and_words(tmp_path: Path) -> None:
    rows = [
        {"question_id": f"count/images/{name.replace('png', 'jpg')}", "text": answer,
         "prompt": mme.bare(question) + "\nAnswer the question using a single word or phrase."}
        for (name, question, _), answer in zip(ROWS, ["Yes", "No", "No", "No"], strict=True)
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    scored = score("mme", ScoreRequest(path, questions=tool_folder(tmp_path / "tool")))
    assert scored.metrics["count"]["acc"] == 0.75 and scored.metrics["count"]["acc+"] == 0.5
    assert "count: 2 images; the published benchmark has 30" in scored.warnings


def test_rows_with_responses(tmp_path: Path) -> None:
    rows = [
        {"question_id": f"count/{name}", "question": question, "answer": label, "response": "Yes"}
        for name, question, label in ROWS
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = score("mme", ScoreRequest(path, questions=hub_rows(tmp_path / "hub", "parquet")))
    assert scored.metrics["count"]["score"] == 50.0


def test_written_tool_files_read_back(tmp_path: Path) -> None:
    mme_files.write_tool_files(tmp_path, EXPECTED, ["Yes", "No,\tnot\nreally", "", "no"])
    questions, answers, tabs = mme_files.read_tool_answers(tmp_path)
    assert [q.key for q in questions] == [q.key for q in EXPECTED] and tabs == 0
    assert [answer.text for answer in answers] == ["Yes", "No, not really", "", "no"]


def test_tabs_in_a_response_are_read_and_said(tmp_path: Path) -> None:
    scored = score("mme", ScoreRequest(tool_folder(tmp_path / "t", ["Yes\tit is", "No", "Yes", "No"])))
    assert scored.metrics["count"]["score"] == 200.0
    assert scored.warnings[0].startswith("1 responses hold tabs, on which the published script stops")


def test_an_odd_number_of_lines_stops_the_script_but_names_the_image_here(tmp_path: Path) -> None:
    folder = tool_folder(tmp_path / "t", ["Yes"] * 4)
    text = (folder / "count.txt").read_text().splitlines(keepends=True)[:-1]
    (folder / "count.txt").write_text("".join(text))
    with pytest.raises(UserError, match=r"count\.txt:3: 0002.png has 1 question"):
        score("mme", ScoreRequest(folder))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str) -> None:
    folder = tool_folder(tmp_path / "t", ["Yes", "No", "Yés", "No"])
    text = (folder / "count.txt").read_text(encoding="utf-8").replace("\n", "\r\n")
    (folder / "count.txt").write_bytes((text + "\r\n").encode(encoding))
    scored = score("mme", ScoreRequest(folder))
    assert (scored.read, scored.unparsed, scored.metrics["count"]["acc"]) == (4, 1, 0.75)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0003.png\tIs it red?\tMaybe\tYes", r"count\.txt:5: label 'Maybe' is neither yes nor no"),
        ("0003.png\tIs it red?", r"count\.txt:5: 2 columns between tabs, expected at least 3"),
        ("and it goes on here", r"count\.txt:5: 1 column between tabs"),
        ("0003.png\tIs it red?\tYes", r"count\.txt:5: no response; the line has only image, question and label"),
        ("../x.png\tIs it red?\tYes\tYes", r"count\.txt:5: '../x.png' is no file name"),
        ("\tIs it red?\tYes\tYes", r"count\.txt:5: '' is no file name"),
        (
            "\t".join([*ROWS[0], "Yes"]),
            r"count\.txt:5: count/0001 'Is there a dog\?' is already asked at .*count\.txt:1",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    folder = tool_folder(tmp_path / "t", ["Yes"] * 4)
    with open(folder / "count.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        score("mme", ScoreRequest(folder))


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    folder = tool_folder(tmp_path / "t", ["Yes"] * 4)
    (folder / "count.txt").write_bytes((folder / "count.txt").read_bytes() + b"0003.png\tIs it \xff?\tYes\tYes\n")
    with pytest.raises(UserError, match=r"count\.txt:5: not UTF-8 text"):
        score("mme", ScoreRequest(folder))


def write_answers(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD = [{"question_id": f"count/{name}", "prompt": question, "text": "Yes"} for name, question, _ in ROWS]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, GOOD[0]], r"a\.jsonl:5: count/0001 'Is there a dog\?' is already answered at .*a\.jsonl:1"),
        (GOOD[:3], "4 questions but 3 answers; the first without one is count/0002 'Is there a bus"),
        ([{**GOOD[0], "prompt": "Is it red?"}, *GOOD[1:]], r"a\.jsonl:1: count/0001 'Is it red\?' is no question of"),
        ([{**GOOD[0], "question_id": "counts/0001.png"}], r"a\.jsonl:1: 'counts' is no subtask of MME"),
        ([{"question_id": "count/0001.png", "prompt": "x"}], r"a\.jsonl:1: no `response`"),
        ([{**GOOD[0], "question_id": 7}], r"a\.jsonl:1: `question_id` must be text"),
    ],
)
def test_bad_answer_files(tmp_path: Path, rows: list[dict], message: str) -> None:
    path = write_answers(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=message):
        score("mme", ScoreRequest(path, questions=tool_folder(tmp_path / "tool")))


def test_a_file_that_was_never_filled_is_no_missing_subtask(tmp_path: Path) -> None:
    folder = tool_folder(tmp_path / "tool", ["Yes"] * 4)
    (folder / "existence.txt").write_text("")
    with pytest.raises(UserError, match=r"existence\.txt is empty\n  hint: was the writer stopped"):
        score("mme", ScoreRequest(folder))


def test_a_half_written_answer_file(tmp_path: Path) -> None:
    path = write_answers(tmp_path / "a.jsonl", GOOD)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.jsonl:4: not valid JSON") as caught:
        score("mme", ScoreRequest(path, questions=tool_folder(tmp_path / "tool")))
    assert "cut off" in str(caught.value)


def test_answer_files_need_questions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="an MME answer file needs --questions"):
        score("mme", ScoreRequest(write_answers(tmp_path / "a.jsonl", GOOD)))


def test_other_labels_than_the_published_ones_are_refused(tmp_path: Path) -> None:
    answered = tool_folder(tmp_path / "answered", ["Yes"] * 4)
    questions = tool_folder(tmp_path / "tool")
    assert score("mme", ScoreRequest(answered, questions=questions)).metrics["count"]["acc"] == 0.5
    text = (answered / "count.txt").read_text()
    (answered / "count.txt").write_text(text.replace("\tNo\t", "\tYes\t"))
    with pytest.raises(UserError, match=r"count\.txt:2: label yes, but no at .*count\.txt:2"):
        score("mme", ScoreRequest(answered, questions=questions))
    (answered / "count.txt").write_text("\n".join(text.splitlines()[:2]) + "\n")
    with pytest.raises(UserError, match=r"2 questions have no answer; the first is 'Is there a cup"):
        score("mme", ScoreRequest(answered, questions=questions))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "holds no MME questions"),
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"no parquet"), "cannot be read as Parquet"),
    ],
)
def test_paths_that_hold_nothing(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "x.parquet"
    make(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        mme_files.read_questions(path)


def test_a_question_without_image_file_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "mme", "split")
    (folder / "count/images/0002.png").unlink()
    with pytest.raises(UserError, match=r"0002\.txt: no image 0002\.jpg or \.png"):
        mme_files.read_questions(folder)


# --- asked -------------------------------------------------------------------------------------------------------


def asking(world: Path, **changes: object):  # type: ignore[no-untyped-def]
    return settings(world, benchmarks=["mme"], adapter=None, **changes)


@pytest.mark.parametrize("form", ["flat", "split", "parquet", "tool"])
def test_published_questions_are_asked_in_every_packaging(world: Path, tmp_path: Path, form: str) -> None:
    chosen: dict = {"max_new_tokens": 4}
    if form == "parquet":
        chosen["questions"] = str(hub_rows(tmp_path / "hub", "parquet"))
    elif form == "tool":
        chosen["questions"] = str(tool_folder(tmp_path / "tool"))
        chosen["image_folder"] = str(image_folder(tmp_path / "mme", "split"))
    else:
        chosen["questions"] = str(image_folder(tmp_path / "mme", form))
    card = evaluate(asking(world, annotations=None, images=None, mme=chosen), tmp_path / "run")
    assert [(row.split, row.metric) for row in card.rows] == [
        ("count", name) for name in ("acc", "acc+", "score", "yes_ratio", "AUROC")
    ]
    rows = answers_in(tmp_path / "run")
    assert [row["prompt"] for row in rows] == [f"{mme.bare(text)} Please answer yes or no." for _, text, _ in ROWS]
    with pytest.raises(UserError, match="none of the 4 answers"):
        score("mme", ScoreRequest(tmp_path / "run/mme/after"))
    assert card.counts[0].unparsed == 4 and not any(row.after.defined for row in card.rows)
    assert any("none of the 4 answers could be read" in warning for warning in card.warnings)


def test_built_pairs_before_and_after(world: Path, tmp_path: Path) -> None:
    chosen = {"subtasks": ["existence"], "images": 6, "instruction": "\nAnswer with one word.", "max_new_tokens": 4}
    card = evaluate(settings(world, benchmarks=["mme"], mme=chosen), tmp_path)
    assert {row.split for row in card.rows} == {"existence"} and card.compared
    assert card.row("mme", "acc", "existence").change is not None
    assert "pairs built from 10 annotated images, seed 0; images: existence 6" in card.conventions[0]
    assert all(row["prompt"].endswith("in this image?\nAnswer with one word.") for row in answers_in(tmp_path))
    assert Scorecard.read(tmp_path / "scorecard.json") == card


def test_limit_and_missing_subtasks(world: Path, tmp_path: Path) -> None:
    folder = str(image_folder(tmp_path / "mme", "flat"))
    card = evaluate(asking(world, annotations=None, images=None, limit=1, mme={"questions": folder}), tmp_path / "run")
    assert card.counts[0].images == 1 and card.counts[0].questions == 2
    with pytest.raises(UserError, match="has no questions of MME's 'OCR'"):
        evaluate(asking(world, annotations=None, mme={"questions": folder, "subtasks": ["OCR"]}), tmp_path / "no")
