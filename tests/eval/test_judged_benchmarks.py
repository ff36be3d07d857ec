"""SHR, MMHal-Bench and HallusionBench as whole evaluations of a tiny LLaVA with an adapter, judged over real HTTP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.eval.hallusionbench import files as hb
from mmpo.eval.harness import evaluate
from mmpo.eval.mmhal import metrics as mmhal
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import ScoreRequest, score
from mmpo.eval.statistics.scorecard import Scorecard
from tests.chat.server import ChatServer
from tests.eval.evaluating import answers_in, settings, task
from tests.eval.hallusionbench.test_hallusionbench import ROWS
from tests.eval.mmhal.test_mmhal import record
from tests.eval.shr.test_shr import write_images

SHORT = {"max_new_tokens": 6}


def verdict(prompt: str) -> str:
    """A judge of all three benchmarks whose verdict hangs on the answer's length, so that before and after differ."""
    if "Judgement:" in prompt:
        listed = prompt.split("Statements:\n")[1].split("\n\nGive each")[0].splitlines()
        lines = [f"{n}. {'hallucination' if len(line) % 2 else 'correct'}: x" for n, line in enumerate(listed, start=1)]
        return "\n".join(["Judgement:", *lines])
    if "Rating: K" in prompt:
        return f"So.\nRating: {len(prompt) % 7}"
    return "same" if "same or different" in prompt else ("correct", "incorrect", "unclear")[len(prompt) % 3]


@pytest.fixture(scope="module")
def material(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Question files and image folders of the two published benchmarks."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "mmhal").mkdir()
    (folder / "mmhal.json").write_text(json.dumps([record(number, "") for number in range(5)]))
    for number in range(4):  # the fifth is missing, as some of the published images are
        shutil.copy(world / f"images/{number}.png", folder / f"mmhal/img{number}.png")
    (folder / "hb.json").write_text(json.dumps(ROWS))
    for number, question in enumerate(hb.read_questions(folder / "hb.json")):
        if question.image is not None:
            target = folder / "hb" / question.image
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(world / f"images/{number}.png", target)
    return folder


def judged(world: Path, material: Path, server: ChatServer | None, **changes: object):  # type: ignore[no-untyped-def]
    values: dict = {
        "benchmarks": ["shr", "mmhal", "hallusionbench"],
        "shr": SHORT,
        "mmhal": {**SHORT, "questions": str(material / "mmhal.json"), "images": str(material / "mmhal")},
        "hallusionbench": {
            **SHORT, "questions": str(material / "hb.json"), "images": str(material / "hb"), "attribution": True,
        },
        "judge": None if server is None else server.settings().model_dump(),
    }  # fmt: skip
    return settings(world, **(values | changes))


def test_three_judged_benchmarks(world: Path, material: Path, tmp_path: Path) -> None:
    with ChatServer(verdict) as server:
        asked = judged(world, material, server)
        card = evaluate(asked, tmp_path)
        requests = len(server.requests)
        again = evaluate(asked, tmp_path)
        assert len(server.requests) == requests and again == card
        assert max(server.attempts.values()) == 1
    names = {(row.benchmark, row.metric) for row in card.rows}
    assert names >= {
        ("shr", "hal_sents_ratio"), ("shr", "gram-4-repetition"), ("mmhal", "score"), ("mmhal", "hallucination_rate"),
        ("hallusionbench", "aAcc"), ("hallusionbench", "qAcc"), ("hallusionbench", "fAcc"),
        ("hallusionbench", "language_hallucination"),
    }  # fmt: skip
    assert card.row("hallusionbench", "aAcc").change.test == "mcnemar"  # type: ignore[union-attr]
    assert any("mmhal: 1 of 5 questions are about images" in warning for warning in card.warnings)
    assert any("judged by scripted-1" in note for note in card.conventions)
    assert {row["image"] is None for row in answers_in(tmp_path)} == {True, False}
    for state in ("before", "after"):
        shr = score("shr", ScoreRequest(tmp_path / f"shr/judgement_{state}.json"))
        assert getattr(card.row("shr", "hal_sents_ratio"), state).value == pytest.approx(
            shr.metrics["hal_sents_ratio"], abs=5e-4
        )
        filled = mmhal.read_template(tmp_path / f"mmhal/answers_{state}.json")
        assert [one.image_id for one in filled] == [f"img{number}" for number in range(4)]
        predicted = hb.read_questions(tmp_path / f"hallusionbench/result_{state}.json")
        assert len(predicted) == 9 and all(one.prediction is not None for one in predicted)


def test_published_shr_files_bring_their_own_images(world: Path, tmp_path: Path) -> None:
    published = {**SHORT, "annotations": str(write_images(tmp_path)), "images": "vg"}
    asked = settings(world, benchmarks=["shr"], annotations=None, images=None, shr=published, limit=1)
    bench = task("shr", asked)
    (request,) = bench.requests()
    assert (request.image, request.root, request.prompt) == ("7.jpg", "vg", "Describe this image in detail.")
    (part,) = bench.score({request: Response("A cow. A man. A zebra. Calm.", truncated=True)})
    assert part.tally.values["hal_sents_ratio"] == 0.25 and (part.truncated, part.unparsed) == (1, None)


def test_without_a_judge_rules_decide(world: Path, material: Path, tmp_path: Path) -> None:
    bench = {**SHORT, "questions": str(material / "hb.json"), "images": str(material / "hb"), "question_set": "image"}
    asked = judged(world, material, None, benchmarks=["shr", "hallusionbench"], hallusionbench=bench)
    card = evaluate(asked, tmp_path)
    assert any("judged by rules over the annotations" in note for note in card.conventions)
    assert any("7 of 1129 questions (image)" in note and "vlmevalkit" in note for note in card.conventions)
    saved = json.loads((tmp_path / "shr/judgement_after.json").read_text())["0"]
    assert len(saved) == 10
    assert all(one["judgement"] for entry in saved.values() for one in entry["judgement"])  # a reason for each


def test_a_judge_that_fails_stops_the_evaluation_and_keeps_the_replies(
    world: Path, material: Path, tmp_path: Path
) -> None:
    broken = True
    with ChatServer(verdict, lambda prompt, attempt: "500" if broken and "number 1" in prompt else None) as server:
        asked = judged(world, material, server, benchmarks=["mmhal"])
        asked.judge.retries = 0  # type: ignore[union-attr]
        with pytest.raises(UserError, match="mmhal: 1 of 4 questions to the judge got no reply"):
            evaluate(asked, tmp_path)
        broken = False
        card = evaluate(asked, tmp_path)
        assert max(server.answered.values()) == 1
    assert Scorecard.read(tmp_path / "scorecard.json") == card


def test_what_is_missing_is_said_before_anything_is_asked(world: Path, material: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"benchmarks": ["mmhal"]}, "mmhal needs a judge"),
        ({"benchmarks": ["mmhal"], "mmhal": {}}, "mmhal needs its questions"),
        ({"benchmarks": ["hallusionbench"]}, "attribution needs a judge"),
        ({"benchmarks": ["shr"], "shr": {"judged_by": "model"}}, "eval.judge is not set"),
        ({"benchmarks": ["shr"], "shr": {"annotations": "x"}}, "needs eval.shr.images"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(judged(world, material, None, **changes), tmp_path)
    assert not (tmp_path / "answers.jsonl").exists()
