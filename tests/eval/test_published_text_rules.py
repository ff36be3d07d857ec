"""The rules of published scripts on texts, with what their own functions return: SHR, Object HalBench, LLaVA-Hound's
reward, VLMEvalKit's yes and no.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.chat.video_replies import read_reward
from mmpo.eval.object_halbench.judge import NameMatcher, read_objects
from mmpo.eval.object_halbench.metrics import answer_reader
from mmpo.eval.shr.files import ShrImage, ShrRegion
from mmpo.eval.shr.judge import region_lines
from mmpo.eval.shr.metrics import gram_diversity, read_judgement
from mmpo.eval.yes_no import parse
from mmpo.text.vocabulary import ObjectVocabulary

LETTERS = {"h": "hallucination", "c": "correct", "n": "cannot judge", "?": None}


@pytest.mark.parametrize(
    ("reply", "classes"),
    [
        ("```\nJudgement:\n1. hallucination: no dog\n2. correct: a cat\n```", "hc"),
        ("Judgement:\n1. hallucination: no dog\n2. correct: a cat\nEnd", "hc"),
        ("Judgement:\n1. hallucination: no dog\n---\n2. correct: a cat", "hc"),
        ("Judgement:\n1. hallucination: no dog\n   \n2. correct: a cat\n\n", "hc"),
        ("Judgement:\n1. hallucination: no dog\n2. correct: a cat\nI hope this helps", "??"),
        ("Judgement:\n1. correct : a dog\n2. correct: a cat", "?c"),
        ("Judgement:\n1.hallucination: no dog\n2. Correct: a cat", "?c"),
        ("Judgement:\n1. **hallucination**: a\n2. cannot judge: b", "?n"),
        ("Judgement:\n1.\tcorrect: a\n2. correct: b", "?c"),
        ("Judgement:\n 1. correct: a\n2. correct: b", "?c"),
        ("Judgement:\n1. hallucination\n2. correct - a cat", "h?"),
        ("Judgement: 1. hallucination: x\n2. correct: a cat", "??"),
        ("Judgement:\n1.\n2. correct: a\n3. correct: b", "cc"),
        ("Judgement\n1. correct: a\n2. correct: b", "??"),
        ("Judgement:\n1. correct: a\n2. correct: b\n### Instruction: go on", "cc"),
        ("### Judgement:\n1. correct: a\n2. correct: b", "??"),
    ],
)
def test_shrs_strict_rule(reply: str, classes: str) -> None:
    assert read_judgement(reply, 2, "strict") == [LETTERS[letter] for letter in classes]


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("a  b a b", 2, 2 / 3),
        ("a\nb c", 1, 1.0),
        ("the end.\nthe end.", 1, 1.0),
        ("yes, yes: yes?", 1, 1 / 3),
        ("a\tb a\tb", 1, 0.5),
        ("A a", 1, 1.0),
        ("a  b ", 3, None),
        ("", 1, None),
    ],
)
def test_shrs_grams(text: str, n: int, value: float | None) -> None:
    assert gram_diversity(text, n) == (None if value is None else pytest.approx(value))


def test_shrs_region_lines() -> None:
    regions = [
        ShrRegion("a dog", (10, 0, 50, 100)),
        ShrRegion("a dog", (10, 0, 50, 100)),
        ShrRegion("", (0, 0, 1, 1)),
        ShrRegion("grass", (-1, 98, 110, 4)),
        ShrRegion("a third", (100 / 3, 0, 0, 200 / 3)),
    ]
    assert region_lines(ShrImage("1", tuple(regions), (), (), (100, 100))) == [
        "[0.1, 0.0, 0.6, 1.0]: a dog",
        "[0.1, 0.0, 0.6, 1.0]: a dog",
        "[-0.01, 0.98, 1.09, 1.02]: grass",
        "[0.33, 0.0, 0.33, 0.67]: a third",
    ]
    assert region_lines(ShrImage("1", (ShrRegion("a dog", (1, 2, 3, 4)),), (), (), None)) == ["a dog"]


SYNONYMS = """\
oven, stove, stove top oven
dining table, table, coffee table
motorcycle, motor bike, motorbike
toilet
chair, seat
tie
cat, kitten
train
sports ball, ball
truck, fire truck
hot dog
wine glass
cell phone, iPhone
"""


@pytest.fixture
def vocabulary(tmp_path: Path) -> ObjectVocabulary:
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    return ObjectVocabulary.from_file(tmp_path / "synonyms.txt")


GOLDEN = [
    ("A stove top oven.", ["oven", "oven"]),
    ("coffee table and a dining table", ["dining table", "dining table"]),
    ("a motor bike", ["motorcycle"]),
    ("toilet seat", ["toilet"]),
    ("seat of the toilet", ["toilet"]),
    ("bow tie", ["tie"]),
    ("adult cat", ["cat"]),
    ("a train track and the home plate", []),
    ("sports balls", ["sports ball"]),
    ("fire truck", ["truck"]),
    ("hot dog stand", ["hot dog"]),
    ("an iPhone", []),
]


@pytest.mark.parametrize(("text", "names"), GOLDEN)
def test_object_halbench_without_a_judge(vocabulary: ObjectVocabulary, text: str, names: list[str]) -> None:
    (reading,) = answer_reader(vocabulary).read([text])
    assert [mention.name for mention in reading.mentions] == names


@pytest.mark.parametrize(("text", "names"), GOLDEN[:-2])
def test_object_halbench_with_the_published_table(published_data: Path, text: str, names: list[str]) -> None:
    table = published_data / "RLHF-V_RLHF-V" / "eval" / "data" / "synonyms_refine.txt"
    vocabulary = ObjectVocabulary.from_file(table)
    (reading,) = answer_reader(vocabulary).read([text])
    assert [mention.name for mention in reading.mentions] == names


def test_object_halbenchs_listed_names(vocabulary: ObjectVocabulary) -> None:
    names = ["stove top oven", "an iPhone", "an iphone", "Fire truck"]
    matcher = NameMatcher(answer_reader(vocabulary), names)
    assert matcher.named(["stove top oven"]) == (("stove top oven", "oven"),)
    assert matcher.named(["an iPhone"]) == (("iphone", "cell phone"),)
    assert matcher.named(["an iphone"]) == ()
    assert matcher.named(["Fire truck"]) == (("fire truck", "truck"),)
    for text, found in (
        ('["a", "b"]', ["a", "b"]),
        ('Here:\n["a"]', ["a"]),
        ("()", None),
        ('["a",]', None),
        ('{"a": 1}', ["a"]),
        ('"ab"', ["a", "b"]),
        ("Here:\n[]", None),
        ('["a"]\nDone', None),
        ("7", None),
        ("", None),
    ):
        assert read_objects(text, "strict") == found, text


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 4.", 4),
        ("Score: 4/5", 4),
        ("Score: 4.5.6", 4.5),
        ("Score:4", 4),
        ("Q1 and A2 agree. 3", 3),
        ("v2.5", 5),
        ("3rd place, rated 4", 4),
        ("4x 5", 5),
        ("x4", 1),
        ("1_000 2", 2),
        ("1.2.3", 2.1),
        ("4,5", 4.5),
        ("1 2 2 3 3", 2.5),
        ("-4", 4),
        ("10%", 10),
        ("ten", 1),
        ("Score: 3\nScore: 5", 3),
        ("", 1),
    ],
)
def test_llava_hounds_reward(reply: str, score: float) -> None:
    assert read_reward(reply, "llava_hound").score == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("x. " * 31 + "no.", "no"),
        ("x. " * 32 + "no.", None),
        ("yes.yes.", None),
        ("1.no", None),
        ("2. No", "no"),
        ("(yes)", "yes"),
        ("no - one", "no"),
        ("no-one", "no"),
        ("no,1,000 dogs", None),
        ("1,000 no-one", None),
        ("yes/no", None),
        ("no?yes", None),
        ("**No**", None),
        ("'No'", None),
        ("Yes:", None),
        ("yes…", None),
        ("`no`", "no"),
        ("nan", None),
        ("No.", "no"),
        ("3.5 no.", "no"),
    ],
)
def test_vlmevalkits_yes_and_no(text: str, label: str | None) -> None:
    assert parse(text, "vlmevalkit").label == label
