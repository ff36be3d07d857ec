"""Object HalBench on hand-written files: words, a judge over real HTTP, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmpo.chat import open_chat
from mmpo.cli.app import load_commands
from mmpo.errors import UserError
from mmpo.eval.object_halbench.judge import NameMatcher, read_objects
from mmpo.eval.object_halbench.metrics import answer_reader, read_answers, read_questions
from mmpo.eval.scoring import Scored, ScoreRequest, score
from mmpo.text.vocabulary import ObjectVocabulary
from tests.chat.server import ChatServer
from tests.text.test_word_forms import needs_spacy

SYNONYMS = """\
person, man, woman, pedestrian
dining table, table, coffee table
motorcycle, motor bike, motorbike
truck, lorry
toilet
chair, seat
dog, puppy
cup, mug
sports ball, ball
"""
TABLE = {"1": ["dog", "person"], "2": ["cup"], "3": ["chair"], "4": []}
ANSWERS = [
    {"image_id": 1, "question": "Describe it.", "answer": "A man, a woman and a dog at a coffee table."},
    {"image_id": 2, "question": "Describe it.", "answer": "Two mugs on the shelf, two more mugs below."},
    {"image_id": 3, "prompt": "Describe it.", "text": "Assistant: Nothing to see here."},
    {"image_id": 4, "question": "Describe it.", "answer": "A dog."},
]


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    (tmp_path / "gt.json").write_text(json.dumps(TABLE))
    lines(tmp_path / "answers.jsonl", ANSWERS)
    return tmp_path


@pytest.fixture
def vocabulary(files: Path) -> ObjectVocabulary:
    return ObjectVocabulary.from_file(files / "synonyms.txt")


def scored(files: Path, judge: ChatServer | None = None, parser: str | None = None, **options: str) -> Scored:
    options = {"vocabulary": str(files / "synonyms.txt")} | options
    request = ScoreRequest(files / "answers.jsonl", annotations=files / "gt.json", parser=parser, options=options)
    if judge is None:
        return score("object_halbench", request)
    with open_chat(judge.settings(retries=2)) as chat:
        return score("object_halbench", ScoreRequest(**{**vars(request), "judge": chat}))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a coffee table", ["dining table"]),
        ("the dining table", ["dining table"]),
        ("a motor bike", ["motorcycle"]),
        ("train track and home plate", []),
        ("the seat of the toilet", ["toilet"]),
        ("a baby dog and pedestrians", ["dog", "person"]),
        ("men and women", ["person"]),
    ],
)
def test_words_of_an_answer(vocabulary: ObjectVocabulary, text: str, names: list[str]) -> None:
    (reading,) = answer_reader(vocabulary).read([text])
    assert [mention.name for mention in reading.mentions] == names


def test_rates_from_words(files: Path) -> None:
    result = scored(files, sentences=str(files / "rows.jsonl"))
    # mentions: man, woman, dog, TABLE; mugs, mugs; none; DOG
    assert result.metrics == pytest.approx(
        {
            "CHAIRs": 100 * 2 / 4,
            "CHAIRs_refine": 100 * 2 / 3,
            "CHAIRi": 100 * 2 / 7,
            "correct_rate": 100 * 1 / 3,
            "object_correct_rate": 100 * 5 / 7,
            "obj_rec": 100 * 3 / 4,
            "avg_word_len": (11 + 9 + 4 + 2) / 4,
            "with_objects": 3,
            "mentions": 7,
        }
    )
    assert (result.read, result.scored, result.unparsed) == (4, 4, 0)
    assert result.warnings == ["4 answers are scored; the benchmark has 300"]
    low, high = result.intervals["CHAIRs"]
    assert 0 < low < 50 < high < 100 and result.intervals["avg_word_len"][1] > 6.75
    rows = [json.loads(line) for line in (files / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["hallucinated"] == [["coffee table", "dining table"]] and rows[2]["missed"] == ["chair"]


def test_nothing_named_is_undefined(files: Path) -> None:
    lines(files / "answers.jsonl", [{"image_id": 4, "answer": "Nothing at all."}])
    result = scored(files)
    assert result.metrics["CHAIRs"] == 0
    assert result.metrics["CHAIRs_refine"] is None and result.metrics["correct_rate"] is None


def listed(prompt: str) -> str:
    if "shelf" in prompt:
        return 'Here they are:\n["mug", "shelf", "mug"]'
    return '["man", "woman", "dog", "coffee table"]' if "woman" in prompt else "[]"


def test_objects_listed_by_a_judge(files: Path) -> None:
    with ChatServer(listed, fault=lambda prompt, attempt: "500" if attempt == 1 else None) as server:
        result = scored(files, server)
    assert len(server.answered) == 3  # an answer of three words or fewer is not asked about
    # man, woman, dog, TABLE; mug (once); none; none
    assert result.metrics["CHAIRi"] == pytest.approx(100 / 5)
    assert result.metrics["CHAIRs_refine"] == pytest.approx(100 / 2)
    assert result.metrics["mentions"] == 5 and result.quarantined == {}
    assert any("object_halbench_extract@" in line for line in result.conventions)


def test_a_judge_without_a_list_is_counted(files: Path) -> None:
    with ChatServer(lambda prompt: "I can't say." if "shelf" in prompt else listed(prompt)) as server:
        result = scored(files, server)
    assert result.quarantined == {"judge_unparsed": 1} and (result.read, result.scored) == (4, 3)
    assert "1 judge replies hold no list of objects; their answers are left out" in result.warnings


def test_failures_of_the_judge_are_counted(files: Path) -> None:
    with ChatServer(listed, fault=lambda prompt, attempt: "400" if "shelf" in prompt else None) as server:
        result = scored(files, server)
    assert sum(result.quarantined.values()) == 1 and result.scored == 3
    assert any("1 answers were not judged" in line and "HTTP 400" in line for line in result.warnings)
    with (
        ChatServer("no list", fault=lambda prompt, attempt: "400") as server,
        pytest.raises(UserError, match="none of the 1 answers can be scored"),
    ):
        lines(files / "answers.jsonl", ANSWERS[:1])
        scored(files, server)


@pytest.mark.parametrize(
    ("reply", "strict", "tolerant"),
    [
        ('["a", "b"]', ["a", "b"], ["a", "b"]),
        ('Objects:\n["a"]', ["a"], ["a"]),
        ('```json\n["a"]\n```', None, ["a"]),
        ('<think>["x"]</think>["a"]', None, ["a"]),
        ('["x"] is wrong, so ["a"].', None, ["a"]),
        ("[]", [], []),
        ('{"a": 1}', ["a"], None),
        ("[1, 2]", None, None),
        ("no objects", None, None),
        ("", None, None),
    ],
)
def test_lists_in_replies(reply: str, strict: list[str] | None, tolerant: list[str] | None) -> None:
    assert read_objects(reply, "strict") == strict
    assert read_objects(reply, "tolerant") == tolerant


@needs_spacy
def test_names_are_nouns_or_phrases(vocabulary: ObjectVocabulary) -> None:
    names = ["red ball", "fire truck", "wooden coffee table", "The Dogs", "toilet", "seat", "man"]
    matcher = NameMatcher(answer_reader(vocabulary), names)
    assert matcher.named(names) == (
        ("ball", "sports ball"), ("coffee table", "dining table"), ("dog", "dog"), ("toilet", "toilet"),
        ("man", "person"),
    )  # fmt: skip
    assert matcher.named(["man", "man"]) == (("man", "person"),)


def test_answers_by_position(files: Path) -> None:
    questions = read_questions(lines(files / "q.jsonl", [{"image_id": n, "question": f"q{n}"} for n in (5, 6)]))
    path = lines(files / "a.jsonl", [{"answer": "one"}, {"answer": "two"}])
    assert [(a.image_id, a.question) for a in read_answers(path, questions)] == [("5", "q5"), ("6", "q6")]
    with pytest.raises(UserError, match="give the question file"):
        read_answers(path)
    with pytest.raises(UserError, match="2 answers without `image_id` to 1 questions"):
        read_answers(path, questions[:1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ANSWERS[0], ANSWERS[0]], r"answers.jsonl:2: image 1 is answered at .*:1 already"),
        ([{"image_id": 9, "answer": "x"}], r"answers.jsonl:1: image 9 has no ground-truth objects"),
        ([{"image_id": 1}], r"answers.jsonl:1: no `answer`"),
        ([{"image_id": None, "answer": "x"}], "`image_id` must be a number or a name"),
    ],
)
def test_mistakes_name_the_line(files: Path, rows: list[dict], message: str) -> None:
    lines(files / "answers.jsonl", rows)
    with pytest.raises(UserError, match=message):
        scored(files)


def test_unknown_names_in_the_table(files: Path) -> None:
    (files / "gt.json").write_text('{"1": ["unicorn"]}')
    with pytest.raises(UserError, match="'unicorn' is not in the vocabulary of 9 names"):
        scored(files)


def test_command_line(files: Path) -> None:
    arguments = [
        "eval", "score", "object_halbench", "--answers", str(files / "answers.jsonl"), "--annotations",
        str(files / "gt.json"), "--set", f"vocabulary={files / 'synonyms.txt'}", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(load_commands(), arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["CHAIRi"] == pytest.approx(100 * 2 / 7)
