"""Evaluations of published question files: images in a folder of their own, questions without image, shared answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from mmpo.errors import UserError
from mmpo.eval import task as registry
from mmpo.eval.harness import evaluate
from mmpo.eval.pope import metrics as pope
from mmpo.eval.protocol import Part, Request, Response
from mmpo.eval.section import Section
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.eval.statistics.tally import Metric, Tally
from mmpo.eval.task import Benchmark, Task
from tests.eval.evaluating import answers_in, settings

OBJECTS = ("dog", "cat", "cup")


def question_file(path: Path, images: Sequence[str], *, negatives: Sequence[str] = ("bus", "car", "bed")) -> Path:
    rows = []
    for image in images:
        for present, absent in zip(OBJECTS, negatives, strict=True):
            for name, label in ((present, "yes"), (absent, "no")):
                text = f"Is there a {name} in the image?"
                rows.append({"question_id": len(rows) + 1, "image": image, "text": text, "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def published(world: Path, files: Sequence[Path], **changes: object):  # type: ignore[no-untyped-def]
    """Settings that ask question files, with no annotated images."""
    asked = {
        "questions": [str(file) for file in files], "image_folder": str(world / "images"), "max_new_tokens": 4,
    }  # fmt: skip
    bare = {"annotations": None, "images": None, "adapter": None, "benchmarks": ["pope"], "pope": asked}
    return settings(world, **(bare | changes))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("questions")
    images = [f"{n}.png" for n in range(4)]
    return [
        question_file(folder / "coco_pope_random.json", images),
        question_file(folder / "coco_pope_popular.json", images, negatives=("chair", "car", "book")),
    ]


@pytest.fixture(scope="module")
def finished(world: Path, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("published")
    evaluate(published(world, files, adapter=str(world / "adapter"), cache=str(run / "cache")), run)
    return run


def test_question_files_need_no_annotations(finished: Path) -> None:
    card = Scorecard.read(finished / "scorecard.json")
    assert [(c.split, c.state, c.questions, c.images) for c in card.counts if c.state == "after"] == [
        ("random", "after", 24, 4), ("popular", "after", 24, 4), ("all splits", "after", 48, 4),
    ]  # fmt: skip
    assert "questions of coco_pope_random.json, coco_pope_popular.json" in card.conventions[0]


def test_what_splits_share_is_asked_once(finished: Path) -> None:
    rows = [row for row in answers_in(finished) if row["state"] == "before"]
    assert len(rows) == 4 * (3 + 3 + 2)  # "car" is asked in both splits


def test_probabilities_give_an_auroc_with_interval_and_test(finished: Path) -> None:
    from sklearn.metrics import roc_auc_score

    card = Scorecard.read(finished / "scorecard.json")
    row = card.row("pope", "AUROC", "random")
    for state in ("before", "after"):
        p_yes = {(r["image"], r["prompt"]): r["p_yes"] for r in answers_in(finished) if r["state"] == state}
        questions = pope.read_questions(finished / "pope/questions_random.jsonl")
        expected = roc_auc_score([q.label == "yes" for q in questions], [p_yes[q.image, q.text] for q in questions])
        estimate = getattr(row, state)
        assert estimate.value == pytest.approx(expected)
        assert estimate.low <= estimate.value <= estimate.high
    assert row.change is not None and row.change.test == "bootstrap"


def test_near_ties_are_listed_and_counted(finished: Path) -> None:
    listed = [json.loads(line) for line in (finished / "near_ties.jsonl").read_text().splitlines()]
    close = [r for r in answers_in(finished) if abs(np.log(r["p_yes"] / (1 - r["p_yes"]))) < 0.25]
    assert close and {(r["state"], r["image"], r["prompt"]) for r in listed} == {
        (r["state"], r["image"], r["prompt"]) for r in close
    }
    card = Scorecard.read(finished / "scorecard.json")
    count = next(c for c in card.counts if (c.split, c.state) == ("all splits", "after"))
    assert count.near_ties == sum(row["state"] == "after" for row in listed)
    assert f"{count.near_ties} near-ties" in card.to_markdown()


def test_the_self_check_is_recorded_and_said(finished: Path) -> None:
    made = json.loads((finished / "engine.json").read_text())
    assert made.keys() == {"before", "after"}
    for state in made.values():
        assert state["asked"] == 3 and state["different"] == [] and state["unshared_reason"] == ""
        assert state["answers"] == 32 and state["seconds"] > 0
    card = Scorecard.read(finished / "scorecard.json")
    assert any("asked again with nothing shared and gave the same" in line for line in card.conventions)


def test_a_check_that_fails_is_a_warning(world: Path, files: list[Path], tmp_path: Path) -> None:
    broken = {"asked": 3, "near_ties": [], "different": ["row 1: token 0"], "answers": 1, "seconds": 1.0}
    state = {**broken, "unshared_reason": "the self-check found other answers"}
    (tmp_path / "engine.json").write_text(json.dumps({"after": state}))
    card = evaluate(published(world, files), tmp_path)
    assert any("sharing changed (after: row 1: token 0)" in line for line in card.warnings)


def test_categories_are_the_asked_objects(finished: Path) -> None:
    card = Scorecard.read(finished / "scorecard.json")
    assert [c.name for c in card.categories] == ["bed", "book", "bus", "car", "cat", "chair", "cup", "dog"]
    dog = card.categories[-1]
    assert dog.questions == 4 and dog.before is not None and dog.p is not None
    assert dog.q is not None and dog.q >= dog.p
    assert "| POPE dog | 4 |" in card.to_markdown()


def test_another_run_finds_the_answers_in_the_cache(
    world: Path, files: list[Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_model(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("mmpo.models.live.load_vlm", no_model)
    chosen = published(world, files, adapter=str(world / "adapter"), cache=str(finished / "cache"))
    card = evaluate(chosen, tmp_path)
    assert card.rows == Scorecard.read(finished / "scorecard.json").rows
    assert {r["key"] for r in answers_in(tmp_path)} == {r["key"] for r in answers_in(finished)}
    with pytest.raises(AssertionError, match="the model was loaded"):
        evaluate(chosen.model_copy(update={"cache": str(tmp_path / "empty")}), tmp_path / "other")


def test_corrected_labels_stand_beside_the_published_ones(
    world: Path, files: list[Path], finished: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in files[0].read_text().splitlines()][1:]  # one is dropped, one relabelled
    rows[3]["label"] = "yes" if rows[3]["label"] == "no" else "no"
    corrected = tmp_path / "coco_repope_random.json"
    corrected.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {
        "questions": [str(file) for file in files], "image_folder": str(world / "images"), "max_new_tokens": 4,
    }  # fmt: skip
    both = published(world, files, cache=str(finished / "cache"), pope={**asked, "corrected": [str(corrected)]})
    evaluate(both, tmp_path / "run")
    card = Scorecard.read(tmp_path / "run" / "scorecard.json")
    after = {(r["image"], r["prompt"]): r["answer"] for r in answers_in(tmp_path / "run") if r["state"] == "after"}
    for split, file, parser in (("random", files[0], "official"), ("random RePOPE", corrected, "dash")):
        questions = pope.read_questions(file)
        expected = pope.score(questions, [after[q.image, q.text] for q in questions], parser)
        assert card.row("pope", "F1", split).after.value == pytest.approx(expected.metrics["F1"])
    assert "RePOPE" in " ".join(card.conventions)
    wrong = published(world, files[1:], pope={**asked, "questions": [str(files[1])], "corrected": [str(corrected)]})
    with pytest.raises(UserError, match="has the split random, but `questions` have none"):
        evaluate(wrong, tmp_path / "wrong")


def test_a_cache_that_was_cut_off_is_completed(world: Path, files: list[Path], finished: Path, tmp_path: Path) -> None:
    (written,) = (finished / "cache").glob("answers-*.jsonl")
    (tmp_path / "cache").mkdir()
    half = written.read_bytes()[: written.stat().st_size // 2]
    (tmp_path / "cache" / written.name).write_bytes(half)
    chosen = published(world, files, adapter=str(world / "adapter"), cache=str(tmp_path / "cache"))
    assert evaluate(chosen, tmp_path / "run").rows == Scorecard.read(finished / "scorecard.json").rows
    first, second = sorted((tmp_path / "cache").glob("answers-*.jsonl"), key=lambda path: path.name != written.name)
    assert first.read_bytes() == half  # another process may still be writing it
    assert second.read_bytes().count(b"\n") == len(answers_in(finished)) - half.count(b"\n")


def test_missing_images_are_counted_and_said(world: Path, tmp_path: Path) -> None:
    file = question_file(tmp_path / "pope_random.json", ["0.png", "10.png", "../secret.png", "1.png"])
    card = evaluate(published(world, [file]), tmp_path / "run")
    assert card.quarantined == {"path_escape": 1, "truncated": 1}
    assert card.counts[0].questions == 12
    assert "pope: 12 of 24 questions are about images that cannot be used and were not asked" in card.warnings[0]
    rejects = [json.loads(line) for line in (tmp_path / "run/rejects.jsonl").read_text().splitlines()]
    assert {row["path"] for row in rejects} == {"10.png", "../secret.png"}


@pytest.mark.parametrize(
    ("pope_settings", "message"),
    [
        ({"questions": ["FILE"], "image_folder": "empty"}, "6 of 6 questions are about images that cannot be used"),
        ({"questions": ["FILE"]}, "names files, but not where their images are"),
        ({"questions": ["none.json"], "image_folder": "empty"}, "none.json does not exist"),
        ({"questions": ["FILE", "FILE"], "image_folder": "empty"}, "a second file of the split 'random'"),
        ({}, "pope is built from annotated images, and the evaluation names none"),
    ],
)
def test_mistakes_in_the_settings(world: Path, tmp_path: Path, pope_settings: dict, message: str) -> None:
    file = question_file(tmp_path / "pope_random.json", ["0.png"])
    (tmp_path / "empty").mkdir()
    asked = {key: str(tmp_path / value) if key == "image_folder" else [
        str(file) if name == "FILE" else str(tmp_path / name) for name in value
    ] for key, value in pope_settings.items()}  # fmt: skip
    with pytest.raises(UserError, match=message):
        evaluate(published(world, [], pope=asked), tmp_path / "run")


def test_many_unread_answers_are_a_warning(finished: Path) -> None:
    card = Scorecard.read(finished / "scorecard.json")
    counts = {(c.split, c.state): c for c in card.counts}
    unread = counts["random", "after"].unparsed  # a random model says neither
    assert unread and any(w.startswith(f"POPE random, after: {unread} of 24 answers") for w in card.warnings)
    assert not any("all splits, after" in w for w in card.warnings)


def test_limit_counts_images_of_the_file(world: Path, files: list[Path], tmp_path: Path) -> None:
    card = evaluate(published(world, files[:1], limit=2), tmp_path)
    assert card.counts[0].images == 2 and card.counts[0].questions == 12


class Notes(Task[Section]):
    """A benchmark of free questions, with and without image, in two folders."""

    questions: ClassVar[Sequence[Request]] = ()

    def requests(self) -> Sequence[Request]:
        return self.questions

    def score(self, responses: Mapping[Request, Response]) -> list[Part]:
        lengths = np.array([[len(responses[request].text), 1] for request in self.questions])
        images = tuple(str(number) for number in range(len(self.questions)))
        tally = Tally(images, lengths, (Metric("length", lambda c: c[..., 0] / c[..., 1], "neither", percent=False),))
        return [Part(None, tally, len(self.questions), 0)]


def ask_notes(monkeypatch: pytest.MonkeyPatch, world: Path, run: Path, requests: Sequence[Request]) -> list[dict]:
    monkeypatch.setattr(Notes, "questions", requests)
    monkeypatch.setattr(registry, "BENCHMARKS", {"chair": Benchmark("chair", Notes, Section, "nothing")})
    evaluate(published(world, [], benchmarks=["chair"]), run)
    return answers_in(run)


def test_questions_without_image(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpo.models.families.loading import load_vlm
    from mmpo.models.generation.answer import AnswerEngine

    root = str(world / "images")
    texts = ["What is a dog?", "What is a cup?"]
    requests = [Request(None, text, 6) for text in texts] + [Request("0.png", texts[0], 6, root)]
    rows = ask_notes(monkeypatch, world, tmp_path, requests)
    assert [(row["image"], row["prompt"]) for row in rows] == [(None, texts[0]), (None, texts[1]), ("0.png", texts[0])]
    alone = AnswerEngine(load_vlm(world / "model"), sharing="off")
    expected = [answer.text for answer in alone.answer([((), texts)], max_new_tokens=6)]
    assert [row["answer"] for row in rows[:2]] == expected
    assert rows[0]["answer"] != rows[2]["answer"]


def test_the_same_picture_under_two_names_is_asked_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(world / "images/0.png", other / "copy.png")
    requests = [
        Request("0.png", "Is it red?", 4, str(world / "images")),
        Request("copy.png", "Is it red?", 4, str(other)),
    ]
    rows = ask_notes(monkeypatch, world, tmp_path / "run", requests)
    assert [row["image"] for row in rows] == ["0.png"]


def test_a_benchmark_that_takes_no_part_result_stops(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(name, "Is it red?", 4, str(world / "images")) for name in ("0.png", "11.png")]
    with pytest.raises(UserError, match=r"chair: 1 of 2 questions are about images that cannot be used.*missing"):
        ask_notes(monkeypatch, world, tmp_path, requests)


def test_a_changed_picture_under_the_same_name_is_asked_again(
    world: Path, files: list[Path], finished: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(world / "images", tmp_path / "images")
    shutil.copy(images / "5.png", images / "0.png")
    run = shutil.copytree(finished, tmp_path / "run")
    chosen = published(world, files, adapter=str(world / "adapter"))
    chosen.pope.image_folder = str(images)
    before = answers_in(run)
    evaluate(chosen, run)
    new = answers_in(run)[len(before) :]
    assert {row["image"] for row in new} == {"0.png"} and len(new) == len(before) / 4


def test_an_error_while_asking_is_no_empty_answer(
    world: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmpo.models.generation import continuing

    real, calls = continuing.generate_shared, []

    def fails_later(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(continuing, "generate_shared", fails_later)
    chosen = published(world, files, tokens_per_batch=256)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(chosen, tmp_path)
    saved = answers_in(tmp_path)
    assert saved and not (tmp_path / "scorecard.json").exists()
    monkeypatch.undo()
    card = evaluate(chosen, tmp_path)
    kept = {row["key"]: row for row in answers_in(tmp_path)}
    assert all(kept[row["key"]].items() >= (row.items() - {("seal", row["seal"])}) for row in saved)
    assert card.rows == evaluate(chosen, tmp_path / "whole").rows
