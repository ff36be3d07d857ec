"""POPE against the published files: question files, the builder's conformance, LLaVA-1.5-13B's answers, HA-DPO's
table.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.pope import build as pope_builder
from mmpo.eval.pope import metrics as pope
from mmpo.eval.pope.build import ImageObjects
from mmpo.eval.scoring import ScoreRequest, score

COCO = "RUCAIBox_POPE/output/coco/coco_pope_{}.json"


def published_images(folder: Path) -> list[ImageObjects]:
    lines = (folder / "derived/coco_pope_500_objects.jsonl").read_text(encoding="utf-8").splitlines()
    return [ImageObjects(row["image"], tuple(row["objects"])) for row in map(json.loads, lines)]


@pytest.mark.parametrize("split", pope.SPLITS)
def test_current_files_are_read_whole(published_data: Path, split: str, tmp_path: Path) -> None:
    path = published_data / COCO.format(split)
    questions = pope.read_questions(path)
    assert len(questions) == 3000
    assert sum(question.label == "yes" for question in questions) == 1500
    assert len({question.image for question in questions}) == 500
    pope.write_questions(tmp_path / "again.json", questions)
    ours, theirs = (tmp_path / "again.json").read_bytes(), path.read_bytes()
    assert ours == theirs.replace(b"\r\n", b"\n")  # two of the files have Windows line ends


def test_builder_counts_what_the_published_side_files_count(published_data: Path) -> None:
    images = published_images(published_data)
    side = published_data / "RUCAIBox_POPE/at_28f884a/output/coco"
    frequencies = pope_builder.frequencies(images)
    published = json.loads((side / "coco_ground_truth_objects.json").read_text())
    assert list(frequencies.items()) == list(published.items())
    assert sum(frequencies.values()) == 2164
    assert "hair drier" not in frequencies
    partners = pope_builder.co_occurrence(images)
    theirs = json.loads((side / "coco_co_occur.json").read_text())
    assert partners.keys() == theirs.keys()
    for name, ranked in theirs.items():
        assert set(partners[name]) == set(ranked), name


def test_builder_reproduces_the_published_questions(published_data: Path) -> None:
    images = published_images(published_data)
    built = pope_builder.build(images, article="official")
    same = {}
    for split in ("popular", "adversarial"):
        theirs = pope.read_questions(published_data / COCO.format(split))
        assert [q.image for q in built[split].questions] == [q.image for q in theirs]
        same[split] = sum(
            (ours.text, ours.label, ours.question_id) == (q.text, q.label, q.question_id)
            for ours, q in zip(built[split].questions, theirs, strict=True)
        )
    assert same["popular"] == 3000
    # Three negatives are random fallbacks that may or may not repeat, one is a tie.
    assert 2996 <= same["adversarial"] <= 2999
    assert built["adversarial"].fallbacks == 3
    assert built["popular"].fallbacks == 0


@pytest.mark.parametrize("split", pope.SPLITS)
def test_no_published_negative_is_in_its_image_and_every_positive_is(published_data: Path, split: str) -> None:
    objects = {image.image: set(image.objects) for image in published_images(published_data)}
    for question in pope.read_questions(published_data / COCO.format(split)):
        name = question.text.removeprefix("Is there a").removeprefix("n").removesuffix(" in the image?").strip()
        assert (name in objects[question.image]) == (question.label == "yes"), question


@pytest.mark.parametrize(("split", "count"), [("random", 3000), ("popular", 3000), ("adversarial", 3000)])
def test_constant_answers(published_data: Path, split: str, count: int) -> None:
    questions = pope.read_questions(published_data / COCO.format(split))
    yes = pope.score(questions, ["Yes"] * count).metrics
    assert yes["accuracy"] == 0.5 and yes["precision"] == 0.5 and yes["recall"] == 1 and yes["yes_ratio"] == 1
    assert yes["F1"] == pytest.approx(2 / 3)
    no = pope.score(questions, ["No"] * count)
    assert no.metrics["accuracy"] == 0.5 and no.metrics["recall"] == 0 and no.metrics["F1"] == 0
    assert no.tally.undefined == ("precision",)


LLAVA_13B = {
    "random": (2910, 1182, 31, 1379, 318, 0.880069, 0.974444, 0.788, 0.871360, 0.416838),
    "popular": (3000, 1182, 59, 1441, 318, 0.874333, 0.952458, 0.788, 0.862459, 0.413667),
    "adversarial": (3000, 1182, 117, 1383, 318, 0.855000, 0.909931, 0.788, 0.844587, 0.433000),
}


@pytest.fixture(scope="module")
def llava_results(published_data: Path) -> dict[str, pope.PopeResult]:
    answers = pope.read_answers(
        published_data / "haotian-liu_LLaVA/playground/data/eval/pope/answers/llava-v1.5-13b.jsonl.gz"
    )
    files = {split: published_data / COCO.format(split) for split in pope.SPLITS}
    files["random"] = published_data / "RUCAIBox_POPE/at_e3e3926/output/coco/coco_pope_random.json"
    return {
        split: pope.score(pope.read_questions(path), pope.llava_split(answers, split), parser="llava")
        for split, path in files.items()
    }


@pytest.mark.parametrize("split", LLAVA_13B)
def test_llava_answers_give_the_published_numbers(llava_results: dict[str, pope.PopeResult], split: str) -> None:
    result, expected = llava_results[split], LLAVA_13B[split]
    assert len(result.verdicts) == expected[0]
    assert tuple(result.counts.values()) == expected[1:5]
    names = ("accuracy", "precision", "recall", "F1", "yes_ratio")
    assert [round(result.metrics[name], 6) for name in names] == pytest.approx(expected[5:], abs=1e-6)
    assert result.unparsed == 0
    assert result.matched_by == "question_id"


def test_llava_answers_by_the_command(published_data: Path, tmp_path: Path) -> None:
    """All splits from one folder and LLaVA's one file, as `mmpo eval score pope` takes them."""
    for split in pope.SPLITS:
        version = "at_e3e3926/output" if split == "random" else "output"
        name = f"coco_pope_{split}.json"
        shutil.copy(published_data / f"RUCAIBox_POPE/{version}/coco/{name}", tmp_path / name)
    answers = published_data / "haotian-liu_LLaVA/playground/data/eval/pope/answers/llava-v1.5-13b.jsonl.gz"
    scored = score("pope", ScoreRequest(answers, questions=tmp_path, parser="llava"))
    assert [round(scored.metrics[split]["F1"], 6) for split in LLAVA_13B] == [0.871360, 0.862459, 0.844587]
    assert scored.metrics["mean_F1"] == pytest.approx(0.859469, abs=1e-6)
    assert (scored.read, scored.scored, scored.unparsed) == (8910, 8910, 0)
    low, high = scored.intervals["random"]["F1"]
    assert 0.85 < low < 0.871360 < high < 0.89


def test_llava_mean_f1(llava_results: dict[str, pope.PopeResult]) -> None:
    assert pope.mean_over_splits(llava_results).values["mean_F1"] == pytest.approx(0.859469, abs=1e-6)


def test_answers_of_another_version_are_refused(published_data: Path) -> None:
    answers = pope.llava_split(
        pope.read_answers(
            published_data / "haotian-liu_LLaVA/playground/data/eval/pope/answers/llava-v1.5-13b.jsonl.gz"
        ),
        "random",
    )
    questions = pope.read_questions(published_data / COCO.format("random"))
    with pytest.raises(UserError, match=r"3000 questions but 2910 answers; .*coco_pope_random\.json:2911 is the first"):
        pope.score(questions, answers)


# HA-DPO's table (arXiv 2311.16839): (TP, FP) of 1,500 present and 1,500 absent objects, and the published percentages,
# cut after the second decimal. Three cells cannot come from these counts, which give the other four cells of their
# rows: here stands what they should be, in HA_DPO_PRINTED what the paper prints.
HA_DPO = [
    (1497, 1463, 51.13, 50.57, 99.80, 67.13, 98.66),
    (1175, 91, 86.13, 92.81, 78.33, 84.96, 42.20),
    (1493, 1449, 51.46, 50.74, 99.53, 67.22, 98.06),
    (1175, 290, 79.50, 80.20, 78.33, 79.25, 48.83),
    (1495, 1457, 51.26, 50.64, 99.66, 67.16, 98.40),
    (1175, 405, 75.66, 74.36, 78.33, 76.29, 52.66),
    (1409, 248, 88.70, 85.03, 93.93, 89.26, 55.23),
    (1291, 96, 89.83, 93.07, 86.06, 89.43, 46.23),
    (1409, 468, 81.36, 75.06, 93.93, 83.44, 62.56),
    (1291, 218, 85.76, 85.55, 86.06, 85.80, 50.30),
    (1409, 674, 74.50, 67.64, 93.93, 78.64, 69.43),
    (1291, 370, 80.70, 77.72, 86.06, 81.68, 55.36),
    (1360, 172, 89.60, 88.77, 90.66, 89.70, 51.06),
    (1315, 99, 90.53, 92.99, 87.66, 90.25, 47.13),
    (1360, 274, 86.20, 83.23, 90.66, 86.79, 54.46),
    (1315, 178, 87.90, 88.07, 87.66, 87.87, 49.76),
    (1360, 467, 79.76, 74.43, 90.66, 81.75, 60.90),
    (1315, 371, 81.46, 77.99, 87.66, 82.54, 56.20),
]


HA_DPO_PRINTED = {(1493, 1449, "F1"): 67.72, (1291, 218, "yes_ratio"): 50.03, (1315, 178, "F1"): 87.81}


@pytest.mark.parametrize("row", HA_DPO)
def test_ha_dpo_table(row: tuple[float, ...]) -> None:
    tp, fp = int(row[0]), int(row[1])
    questions = [
        pope.PopeQuestion(i + 1, f"{i}.jpg", "Is there a dog?", "yes" if i < 1500 else "no") for i in range(3000)
    ]
    answers = ["Yes"] * tp + ["No"] * (1500 - tp) + ["Yes"] * fp + ["No"] * (1500 - fp)
    metrics = pope.score(questions, answers).metrics
    for name, value in zip(("accuracy", "precision", "recall", "F1", "yes_ratio"), row[2:], strict=True):
        cut = int(metrics[name] * 10_000 + 1e-9) / 100
        assert cut == pytest.approx(value), name
        assert HA_DPO_PRINTED.get((tp, fp, name)) != cut
