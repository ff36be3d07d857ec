"""MME against the published files: LaVIN's answers as the scoring tool ships them, and LLaVA-1.5-13B's."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.mme import files as mme_files
from mmpo.eval.mme import metrics as mme
from mmpo.eval.scoring import Scored, ScoreRequest, score

TOOL = "BradyFU_MME/eval_tool/LaVIN"
LLAVA = "haotian-liu_LLaVA/playground/data/eval/MME/answers/llava-v1.5-13b.jsonl"

LAVIN_SCORES = {
    "existence": 185.0, "count": 88.33333, "position": 63.33333, "color": 75.0, "posters": 79.59184,
    "celebrity": 47.35294, "scene": 136.75, "landmark": 93.5, "artwork": 87.25, "OCR": 107.5,
    "commonsense_reasoning": 87.14286, "numerical_calculation": 65.0, "text_translation": 47.5,
    "code_reasoning": 50.0,
}  # fmt: skip
LLAVA_SCORES = {
    "existence": 185.00, "count": 155.00, "position": 133.33, "color": 170.00, "posters": 160.54, "celebrity": 152.94,
    "scene": 161.25, "landmark": 170.50, "artwork": 117.75, "OCR": 125.00, "commonsense_reasoning": 127.86,
    "numerical_calculation": 42.50, "text_translation": 77.50, "code_reasoning": 47.50,
}  # fmt: skip


@pytest.fixture(scope="module")
def lavin(published_data: Path) -> Scored:
    return score("mme", ScoreRequest(published_data / TOOL))


@pytest.fixture(scope="module")
def llava(published_data: Path) -> Scored:
    return score("mme", ScoreRequest(published_data / LLAVA, questions=published_data / TOOL))


def test_the_tools_questions(published_data: Path) -> None:
    questions = mme_files.read_questions(published_data / TOOL)
    assert len(questions) == 2374
    for subtask, images in mme.IMAGES.items():
        own = [question for question in questions if question.subtask == subtask]
        assert len({question.image for question in own}) == images
        assert [question.label for question in own] == ["yes", "no"] * images
    assert sum("  Please" in question.text for question in questions) == 7


def test_lavin(lavin: Scored) -> None:
    assert {name: lavin.metrics[name]["score"] for name in LAVIN_SCORES} == pytest.approx(LAVIN_SCORES, abs=1e-5)
    assert lavin.metrics["perception"] == pytest.approx(963.6114445778312, abs=1e-9)  # as the tool prints it
    assert lavin.metrics["cognition"] == pytest.approx(249.6428571, abs=1e-6)
    others = {name: lavin.metrics[name]["other"] for name in LAVIN_SCORES if lavin.metrics[name]["other"]}
    assert others == {"landmark": 1, "commonsense_reasoning": 11} and lavin.unparsed == 12
    assert (lavin.read, lavin.scored) == (2374, 2374)
    assert "published_script" not in lavin.metrics  # neighbouring lines are one image's, so both ways agree


def test_llava(llava: Scored) -> None:
    assert {name: llava.metrics[name]["score"] for name in LLAVA_SCORES} == pytest.approx(LLAVA_SCORES, abs=5e-3)
    assert llava.metrics["perception"] == pytest.approx(1531.3187, abs=1e-4)
    assert llava.metrics["cognition"] == pytest.approx(295.3571, abs=1e-4)
    assert llava.metrics["hallucination"] == pytest.approx(643.3333, abs=1e-4)
    assert llava.metrics["total"] == llava.metrics["perception"] + llava.metrics["cognition"]
    assert llava.unparsed == 11


@pytest.mark.parametrize(
    ("answer", "subtask", "perception", "cognition"), [("Yes", 50, 500, 200), ("No", 50, 500, 200), ("?", 0, 0, 0)]
)
def test_constant_answers(
    published_data: Path, answer: str, subtask: float, perception: float, cognition: float
) -> None:
    questions = mme_files.read_questions(published_data / TOOL)
    results = mme.score(questions, [answer] * len(questions))
    assert {result.tally.values["score"] for result in results.values()} == {subtask}
    assert mme.sums(results)["perception"] == perception and mme.sums(results)["cognition"] == cognition
    assert results["existence"].metrics["recall"] == {"Yes": 1.0, "No": 0.0, "?": None}[answer]


def test_shuffled_files_keep_the_score_and_say_what_the_script_would_give(
    published_data: Path, lavin: Scored, tmp_path: Path
) -> None:
    folder = shutil.copytree(published_data / TOOL, tmp_path / "LaVIN")
    lines = (folder / "count.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    (folder / "count.txt").write_text("".join(lines), encoding="utf-8")
    shuffled = score("mme", ScoreRequest(folder))
    assert shuffled.metrics["count"] == lavin.metrics["count"]
    assert shuffled.metrics["perception"] == pytest.approx(lavin.metrics["perception"])
    script = shuffled.metrics["published_script"]
    right = lavin.metrics["count"]["score"]
    assert script["count"] != pytest.approx(right)
    assert script["perception"] == pytest.approx(lavin.metrics["perception"] - right + script["count"])
    assert any("neighbouring lines" in warning for warning in shuffled.warnings)
    positional = score("mme", ScoreRequest(published_data / TOOL, options={"pairs": "positional"}))
    assert positional.metrics == lavin.metrics


def test_every_subtask_counts(published_data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published_data / TOOL, tmp_path / "LaVIN")
    (folder / "artwork.txt").unlink()
    scored = score("mme", ScoreRequest(folder))
    assert scored.metrics["perception"] is None and scored.metrics["total"] is None
    assert scored.metrics["cognition"] == pytest.approx(249.6428571, abs=1e-6)
    assert "perception is incomplete, so it has no sum: artwork missing" in scored.warnings


def test_answers_of_another_set_are_refused(published_data: Path, tmp_path: Path) -> None:
    cut = (published_data / LLAVA).read_text(encoding="utf-8").splitlines(keepends=True)[:-1]
    (tmp_path / "answers.jsonl").write_text("".join(cut), encoding="utf-8")
    with pytest.raises(UserError, match="2374 questions but 2373 answers; the first without one is"):
        score("mme", ScoreRequest(tmp_path / "answers.jsonl", questions=published_data / TOOL))


@pytest.mark.parametrize(("parser", "perception"), [("lmms-eval", 1531.3187), ("vlmevalkit", 1531.3187)])
def test_other_parsers_agree_on_short_answers(published_data: Path, parser: str, perception: float) -> None:
    scored = score("mme", ScoreRequest(published_data / LLAVA, questions=published_data / TOOL, parser=parser))
    assert scored.metrics["perception"] == pytest.approx(perception, abs=1e-4)
    assert f"parser {parser}" in scored.conventions[0]
