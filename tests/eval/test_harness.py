"""Whole evaluations of a tiny LLaVA with an adapter: before/after, resuming, broken images."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.harness import evaluate
from mmpo.eval.pope import metrics as pope
from mmpo.eval.statistics.scorecard import Scorecard
from tests.eval.evaluating import answers_in, settings


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished")
    evaluate(settings(world), run)
    return run


def test_everything_is_written(finished: Path) -> None:
    card = Scorecard.read(finished / "scorecard.json")
    assert card.compared and card.to_markdown() == (finished / "scorecard.md").read_text()
    assert {(row.benchmark, row.split) for row in card.rows} == {
        ("pope", "random"), ("pope", "popular"), ("pope", "adversarial"), ("pope", "all splits"), ("chair", None),
    }  # fmt: skip
    assert {count.state for count in card.counts} == {"before", "after"}
    assert card.row("pope", "F1", "adversarial").change is not None


def test_broken_images_are_counted_not_scored(finished: Path) -> None:
    card = Scorecard.read(finished / "scorecard.json")
    assert sum(card.quarantined.values()) == 2
    rejects = [json.loads(line) for line in (finished / "rejects.jsonl").read_text().splitlines()]
    assert [(row["path"], row["stage"]) for row in rejects] == [("10.png", "decode"), ("11.png", "decode")]
    assert {count.images for count in card.counts} == {10}
    assert not {"10.png", "11.png"} & {row["image"] for row in answers_in(finished)}


def test_shared_questions_are_asked_once(finished: Path) -> None:
    rows = answers_in(finished)
    assert len({row["key"] for row in rows}) == len(rows)
    asked = {(row["state"], row["image"], row["prompt"]) for row in rows}
    assert len(asked) == len(rows)
    questions = [q for split in pope.SPLITS for q in pope.read_questions(finished / f"pope/questions_{split}.jsonl")]
    distinct = {(q.image, q.text) for q in questions}
    assert len(questions) == 180 and len(distinct) < 150
    assert len(rows) == 2 * (len(distinct) + 10)


@pytest.mark.parametrize("state", ["before", "after"])
def test_answers_are_those_of_the_model_asked_alone(world: Path, finished: Path, state: str) -> None:
    from mmpo.models.families.loading import load_vlm
    from mmpo.models.generation.answer import AnswerEngine

    vlm = load_vlm(world / "model", adapter=world / "adapter" if state == "after" else None)
    alone = AnswerEngine(vlm, sharing="off", image_root=world / "images")
    rows = [row for row in answers_in(finished) if row["state"] == state][::9]
    assert len({row["image"] for row in rows}) > 4
    for row in rows:
        limit = 8 if row["prompt"] == "Describe the image." else 4
        answer = next(alone.answer([(row["image"], [row["prompt"]])], max_new_tokens=limit))
        assert (answer.text, answer.truncated) == (row["answer"], row["truncated"])


def test_before_and_after_differ(finished: Path) -> None:
    by_state = {
        state: {(r["image"], r["prompt"]): r["answer"] for r in answers_in(finished) if r["state"] == state}
        for state in ("before", "after")
    }
    assert by_state["before"].keys() == by_state["after"].keys()
    assert by_state["before"] != by_state["after"]


def test_written_files_score_to_the_same_numbers(finished: Path) -> None:
    card = Scorecard.read(finished / "scorecard.json")
    questions = pope.read_questions(finished / "pope/questions_popular.jsonl")
    for state in ("before", "after"):
        result = pope.score(questions, pope.read_answers(finished / f"pope/answers_popular_{state}.jsonl"))
        for name, value in result.tally.values.items():
            estimate = getattr(card.row("pope", name, "popular"), state)
            assert estimate.value == value and estimate.low <= value <= estimate.high
        assert len(chair.read_captions(finished / f"chair/sentences_{state}.jsonl")) == 10


def test_running_again_asks_nothing_and_changes_nothing(world: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "again")
    evaluate(settings(world), run)
    for path in finished.rglob("*.*"):
        assert (run / path.relative_to(finished)).read_bytes() == path.read_bytes(), path.name


def test_a_cut_answer_file_is_completed(world: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    data = (finished / "answers.jsonl").read_bytes()
    (run / "answers.jsonl").write_bytes(data[: len(data) // 3])  # ends within a line
    evaluate(settings(world), run)
    assert (run / "scorecard.json").read_bytes() == (finished / "scorecard.json").read_bytes()
    assert {row["key"]: row["answer"] for row in answers_in(run)} == {
        r["key"]: r["answer"] for r in answers_in(finished)
    }
    assert len(answers_in(run)) == len(answers_in(finished))


@pytest.mark.slow  # the same in this process: a_cut_answer_file_is_completed, a_resumed_run_gives_the_same_…
def test_a_killed_run_continues(world: Path, finished: Path, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from mmpo.eval.answers import AnswerLog\n"
        "from mmpo.eval.harness import evaluate\n"
        "from mmpo.eval.settings import EvalSettings\n"
        "AnswerLog.FLUSH_SECONDS = 0\n"
        "evaluate(EvalSettings.model_validate_json(sys.argv[1]), sys.argv[2])\n"
    )
    chosen = settings(world, tokens_per_batch=256)  # small batches, so that the kill falls between some
    process = subprocess.Popen([sys.executable, "-c", script, chosen.model_dump_json(), str(tmp_path)])
    log, deadline = tmp_path / "answers.jsonl", time.monotonic() + 300
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") >= 20:
                break
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    saved = len(answers_in(tmp_path)) if log.read_bytes().endswith(b"\n") else log.read_bytes().count(b"\n")
    assert 20 <= saved < len(answers_in(finished))
    evaluate(chosen, tmp_path)
    assert (tmp_path / "scorecard.json").read_bytes() == (finished / "scorecard.json").read_bytes()
    assert len(answers_in(tmp_path)) == len(answers_in(finished))
    evaluate(chosen, tmp_path / "whole")
    assert {row["key"]: row["p_yes"] for row in answers_in(tmp_path)} == {
        row["key"]: row["p_yes"] for row in answers_in(tmp_path / "whole")
    }, "to the last digit, in the same small batches"


def test_another_adapter_under_the_same_name_is_asked_again(world: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    moved = shutil.copytree(world / "adapter2", tmp_path / "adapter")
    first = len(answers_in(run))
    card = evaluate(settings(world, adapter=str(moved)), run)
    new = answers_in(run)[first:]
    assert {row["state"] for row in new} == {"after"} and len(new) == first // 2
    assert card.rows != Scorecard.read(finished / "scorecard.json").rows


def test_one_model_without_comparison(world: Path, tmp_path: Path) -> None:
    card = evaluate(settings(world, adapter=None, benchmarks=["chair"]), tmp_path)
    assert not card.compared and [row.metric for row in card.rows] == ["CHAIRi", "CHAIRs", "Recall", "Len"]
    assert {row["state"] for row in answers_in(tmp_path)} == {"after"}


def test_limit_and_compare_none(world: Path, tmp_path: Path) -> None:
    card = evaluate(settings(world, compare="none", limit=4, benchmarks=["chair"]), tmp_path)
    assert not card.compared and card.counts[0].images == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "nowhere"}, "nowhere: no such adapter folder"),
        ({"model": "no/such/model/folder"}, "no such model folder"),
        ({"annotations": "none.jsonl"}, "none.jsonl: no such annotation file"),
        ({"chair": {"vocabulary": "none.txt"}}, "none.txt"),
    ],
)
def test_mistakes_are_said_before_the_model_loads(world: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(settings(world, **changes), tmp_path)
    assert not (tmp_path / "scorecard.json").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([{"image": "10.png", "objects": ["dog"]}], "none of the 1 images .* can be used; the first: decode"),
        ([{"id": "x", "image": "1.png"}, {"id": "y", "image": "1.png"}], "1.png is listed more than once"),
    ],
)
def test_annotations_that_give_nothing(world: Path, tmp_path: Path, rows: list[dict], message: str) -> None:
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=message):
        evaluate(settings(world, annotations=str(path)), tmp_path / "run")


def test_pope_on_few_images_reduces_and_says_so(world: Path, tmp_path: Path) -> None:
    """More images or questions than there are: fewer, with a warning on top of the scorecard, never the end."""
    card = evaluate(settings(world, benchmarks=["pope"], pope={"images": 11, "questions_per_image": 8}), tmp_path)
    assert card.warnings[0] == "POPE: 6 questions an image instead of 8: no image has more objects"
    assert card.warnings[1].startswith("POPE: only 10 of 10 images qualify") and "11 were asked for" in card.warnings[1]
    assert {count.questions for count in card.counts if count.split == "random"} == {60}
    assert card.warnings[1] in (tmp_path / "scorecard.md").read_text()


def test_two_of_eleven_images_is_loud_and_none_is_skipped(world: Path, tmp_path: Path) -> None:
    rows = [{"image": f"{n}.png", "objects": ["dog"] if n else ["cat", "cup", "bus"]} for n in range(9)]
    rows[1]["objects"] = ["book", "chair", "bed"]
    annotations = tmp_path / "few.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = evaluate(settings(world, annotations=str(annotations), benchmarks=["pope"]), tmp_path / "few")
    assert (
        card.warnings[0].startswith("POPE: only 2 of 9 images qualify") and "12 questions a split" in card.warnings[0]
    )
    for row in rows:
        row["objects"] = ["dog"]
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = evaluate(settings(world, annotations=str(annotations), benchmarks=["pope", "chair"]), tmp_path / "none")
    assert {row.benchmark for row in card.rows} == {"chair"}
    assert "POPE: none of 9 images" in card.warnings[0] and card.warnings[0].endswith("it is skipped")
    with pytest.raises(UserError, match="POPE: none of 9 images"):
        evaluate(settings(world, annotations=str(annotations), benchmarks=["pope"]), tmp_path / "alone")


@pytest.mark.parametrize("lost", [(1, 2), (0, 3), (2, 7)])
def test_a_resumed_run_gives_the_same_probabilities_to_the_last_digit(
    world: Path, finished: Path, tmp_path: Path, lost: tuple[int, int]
) -> None:
    """Batches are formed over all questions, so that the rest is computed in the same company as before."""
    first, every = lost
    run = shutil.copytree(finished, tmp_path / "run")
    rows = answers_in(run)
    kept = [row for number, row in enumerate(rows) if number % every != first % every]
    (run / "answers.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    (run / "scorecard.json").unlink()
    evaluate(settings(world), run)
    again = answers_in(run)
    assert len(again) == len(rows), "what was there is not asked again"
    names = ("p_yes", "margin", "answer")
    assert {row["key"]: [row[n] for n in names] for row in again} == {
        row["key"]: [row[n] for n in names] for row in rows
    }
    assert (run / "scorecard.json").read_bytes() == (finished / "scorecard.json").read_bytes()
