"""Nothing readable is refused by every scorer; MME's lines as pairs; one image under several names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.eval.image_ids import keys_for, number_of
from mmpo.eval.scoring import Scored, ScoreRequest, score, scorer
from mmpo.registry import Registry


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pope_that_reads_nothing(tmp_path: Path) -> None:
    questions = lines(tmp_path / "q.json", [
        {"question_id": n, "image": "a.jpg", "text": f"Is there a {name}?", "label": label}
        for n, (name, label) in enumerate([("dog", "yes"), ("cat", "no")])
    ])  # fmt: skip
    answers = lines(tmp_path / "a.jsonl", [{"question_id": n, "answer": "Un chien."} for n in range(2)])
    with pytest.raises(UserError, match="none of the 2 answers holds what pope") as caught:
        score("pope", ScoreRequest(answers, questions=questions))
    assert "opera" in str(caught.value)
    answers = lines(
        tmp_path / "a.jsonl", [{"question_id": 0, "answer": "Un chien."}, {"question_id": 1, "answer": "no"}]
    )
    assert score("pope", ScoreRequest(answers, questions=questions)).unparsed == 1, "one of two can be read"


def test_others_that_read_nothing(tmp_path: Path) -> None:
    mme = tmp_path / "mme"
    mme.mkdir()
    (mme / "existence.txt").write_text("a.jpg\tq1?\tYes\thm\na.jpg\tq2?\tNo\thm\n")
    with pytest.raises(UserError, match="mme"):
        score("mme", ScoreRequest(mme))
    side = {"video": "a", "question": "q?", "answer": "yes", "predict": "maybe"}
    hallucer = tmp_path / "h.json"
    hallucer.write_text(json.dumps([{"basic": side, "hallucination": {**side, "answer": "no"}}]))
    with pytest.raises(UserError, match=r"videohallucer \(official\)"):
        score("videohallucer", ScoreRequest(hallucer))
    for half in ("predict",):
        bare = {key: value for key, value in side.items() if key != half}
        hallucer.write_text(json.dumps([{"basic": bare, "hallucination": {**bare, "answer": "no"}}]))
    with pytest.raises(UserError, match="none of the 2 answers"):
        score("videohallucer", ScoreRequest(hallucer))


def test_whatever_is_registered_is_held_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmpo.eval.scoring.SCORERS", Registry("scorers"))
    given = {"result": Scored({"x": 0.0}, [], read=3, scored=3, unparsed=3)}

    @scorer("own", parsers=("a", "b"))
    def own(request: ScoreRequest) -> Scored:
        return given["result"]

    def ask() -> Scored:
        return score("own", ScoreRequest(tmp_path))

    with pytest.raises(UserError, match="none of the 3"):
        ask()
    given["result"] = Scored({"x": 0.0}, [], read=3, scored=3, unparsed=2)
    assert ask().unparsed == 2
    given["result"] = Scored({"x": 0.0}, [], read=1, scored=1, unparsed=1, readable_of=4)
    assert ask().unparsed == 1, "one of four sentences"
    given["result"] = Scored({"x": None}, [], read=2, scored=0, quarantined={"judge_timeout": 2})
    with pytest.raises(UserError, match="2 judge_timeout"):
        ask()


def test_mmes_lines_as_pairs_on_a_shuffled_file(tmp_path: Path) -> None:
    """Lines two by two as the published script takes them: labels may repeat in a pair. Worked by hand."""
    rows = [
        ("a.jpg", "Yes", "yes"), ("b.jpg", "Yes", "yes"),  # both right
        ("a.jpg", "No", "no"), ("c.jpg", "Yes", "no"),  # one right
        ("b.jpg", "No", "yes"), ("c.jpg", "No", "no"),  # one right
    ]  # fmt: skip
    (tmp_path / "existence.txt").write_text(
        "".join(f"{image}\tIs it {label} {image}?\t{label}\t{said}\n" for image, label, said in rows)
    )
    found = score("mme", ScoreRequest(tmp_path, options={"pairs": "positional"})).metrics["existence"]
    assert found["score"] == pytest.approx(100 * 4 / 6 + 100 / 3)
    by_image = score("mme", ScoreRequest(tmp_path)).metrics
    assert by_image["existence"]["score"] == pytest.approx(100 * 4 / 6 + 100 / 3)  # a right, b and c half
    assert "published_script" not in by_image, "here both give one number"
    (tmp_path / "existence.txt").write_text("a.jpg\tq?\tYes\tyes\n")
    with pytest.raises(UserError, match="two by two"):
        score("mme", ScoreRequest(tmp_path, options={"pairs": "positional"}))


@pytest.mark.parametrize(
    ("name", "number"),
    [("2239", "2239"), ("000000002239.jpg", "2239"), ("COCO_val2014_000000002239.jpg", "2239"),
     ("val2014/COCO_train2014_000000002239", "2239"), ("0", "0"), ("000.png", "0"), ("a2239.jpg", None), ("12.5", None),
     ("1_2", None), ("", None), ("C:\\x\\0007.JPEG", "7")],
)  # fmt: skip
def test_an_images_number(name: str, number: str | None) -> None:
    assert number_of(name) == number


def test_which_key_a_name_means() -> None:
    known = {"2239": ("dog",), "COCO_val2014_000000000007.jpg": ("cat",), "8": (), "0008.jpg": ("cup",)}
    assert keys_for(["000000002239.jpg", "7"], known) == {
        "000000002239.jpg": "2239", "7": "COCO_val2014_000000000007.jpg"
    }  # fmt: skip
    assert keys_for(["8", "0008.jpg"], known) == {"8": "8", "0008.jpg": "0008.jpg"}, "two images with like names"
    assert keys_for(["00008.jpg", "none"], known) == {}, "not decidable, and not there"
    with pytest.raises(UserError, match="are one image"):
        keys_for(["2239", "000000002239.jpg"], known)


@pytest.mark.parametrize("image", [2239, "2239", "000000002239.jpg", "COCO_val2014_000000002239.jpg", "x/000000002239"])
@pytest.mark.parametrize("key", ["2239", "000000002239", "COCO_val2014_000000002239.jpg"])
@pytest.mark.parametrize("benchmark", ["chair", "object_halbench"])
def test_captions_meet_their_image(tmp_path: Path, benchmark: str, image: object, key: str) -> None:
    (tmp_path / "gt.json").write_text(json.dumps({key: ["dog"]}))
    answers = lines(
        tmp_path / "a.jsonl", [{"image_id": image, "caption": "A dog and a cat.", "answer": "A dog and a cat."}]
    )
    request = ScoreRequest(answers, annotations=tmp_path / "gt.json", options={"vocabulary": "coco"})
    assert score(benchmark, request).metrics["CHAIRi"] == 50.0
