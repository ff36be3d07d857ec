"""SHR: sentences, judges' replies, metrics, the rule judge, and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo.chat import open_chat
from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.errors import UserError
from mmpo.eval.scoring import ScoreRequest
from mmpo.eval.shr.files import ShrImage, ShrRegion, read_facts, read_images, read_responses
from mmpo.eval.shr.judge import ShrRuleJudge, from_annotated, model_rows, region_lines
from mmpo.eval.shr.metrics import ShrRow, gram_diversity, metrics, read_judgement, sentences, tally, text_metrics
from mmpo.eval.shr.score import score_shr
from mmpo.eval.shr.settings import ShrSettings
from mmpo.text.vocabulary import ObjectVocabulary, coco
from tests.chat.server import ChatServer

IMAGE = ShrImage(
    "7",
    (ShrRegion("Two cows in a meadow", (10, 20, 30, 40)), ShrRegion("a man's hat")),
    ("cow", "meadow", "man"),
    ("The sky is clear.", "There are no dogs in the image."),
    (100, 200),
)


def write_images(folder: Path) -> Path:
    """The published files for two images, written by hand."""
    region = {"region_id": 1, "x": 0, "y": 0, "width": 50, "height": 100, "image_id": 7}
    images = [
        {
            "image_id": "7",
            "image": {"width": 100, "height": 200, "image_id": 7, "url": "x"},
            "objects": {"image_id": 7, "objects": [{"names": ["cow"], "x": 1, "y": 2, "w": 3, "h": 4}]},
            "regions": {"id": 7, "regions": [{**region, "phrase": "a cow on grass"}]},
        },
        {
            "image_id": "8",
            "image": {"width": 100, "height": 200, "image_id": 8, "url": "x"},
            "objects": {"image_id": 8, "objects": [{"names": ["dog", "puppy"], "x": 1, "y": 2, "w": 3, "h": 4}]},
            "regions": {"id": 8, "regions": [{**region, "phrase": "a sleeping puppy"}]},
        },
    ]
    (folder / "val_images_final.json").write_text(json.dumps(images))
    (folder / "shr_factual_part1.jsonl").write_text('{"7": ["A man stands there."]}\n')
    (folder / "shr_factual_part2.jsonl").write_text('{"8": []}\n')
    return folder


def test_sentences_follow_the_published_rule() -> None:
    text = "A dog runs. It is 2.5 m long.  A dog runs. dog. A dog runs fast.\nMr. Smith. "
    assert sentences(text) == ["A dog runs", "It is 2", "5 m long", "A dog runs fast", "Mr", "Smith"]
    assert sentences("") == [] and sentences(" . .") == []


def test_the_specified_example() -> None:
    """2 hallucinations, 1 correct, 1 not to be judged, 1 unparsed: ratio 0.5, 5 sentences an image."""
    row = ShrRow(
        "1", "a b. c. d e f. g. h", ("a b", "c", "d e f", "g", "h"),
        ("hallucination", "hallucination", "correct", "cannot judge", None),
    )  # fmt: skip
    found = metrics([tally([row])])
    assert found["hal_sents_ratio"] == 0.5 and found["sents_per_image"] == 5 and found["num_images"] == 1
    assert found["hal_words_ratio"] == round(3 / 7, 3) and found["words_per_image"] == 8
    assert found["hal_sents_per_image"] == 2 and found["hal_words_per_image"] == 3
    assert found["SHR"] == 50.0 and found["mean_hal_ratio"] == 0.5


def test_ratios_are_over_all_images_and_the_mean_over_runs() -> None:
    one = ShrRow("1", "a", ("a",), ("hallucination",))
    two = ShrRow("2", "b. c. d", ("b", "c", "d"), ("correct", "correct", "correct"))
    better = ShrRow("1", "a", ("a",), ("correct",))
    assert metrics([tally([one, two])])["hal_sents_ratio"] == 0.25
    both = metrics([tally([one, two]), tally([better, two])])
    assert both["hal_sents_ratio"] == 0.25 and both["mean_hal_ratio"] == 0.125 and both["SHR"] == 12.5
    nothing = metrics([tally([ShrRow("1", "a", ("a",), (None,))])])
    assert nothing["hal_sents_ratio"] is None and nothing["SHR"] is None


def test_grams() -> None:
    assert gram_diversity("a a b", 1) == pytest.approx(2 / 3)
    assert gram_diversity("a, a: b?", 1) == pytest.approx(2 / 3)
    assert gram_diversity("a b a b", 2) == pytest.approx(2 / 3)
    assert gram_diversity("a b", 3) is None
    assert text_metrics(["a a b", "x y"]) == {
        "gram-1-repetition": round((2 / 3 + 1) / 2, 3),
        "gram-2-repetition": 1.0,
        "gram-3-repetition": 1.0,
        "gram-4-repetition": None,
    }


@pytest.mark.parametrize(
    ("reply", "strict", "tolerant"),
    [
        ("Judgement:\n1. hallucination: x\n2. correct: y\n3. cannot judge: z", "hcn", "hcn"),
        ("Sure.\nJudgement:\n\n1. Hallucination: x\n2. CORRECT: y\n\n3. cannot judge: z\n", "hcn", "hcn"),
        ("Judgement:\n1. hallucination: x\n2. correct: y\n3. cannot judge: z\nThat is all.", "???", "hcn"),
        ("Judgement:\n1. hallucination\n2. correct. Indeed\n3. cannot judge", "h?n", "hcn"),
        ("Judgement:\n 1. hallucination: x\n 2. correct: y\n 3. correct: z", "???", "hcc"),
        ("1. hallucination: x\n2. correct: y\n3. correct: z", "???", "hcc"),
        ("Judgment:\n**1.** **hallucination**: x\n- 2) `correct` - y\n(3) can't judge: z", "???", "hcn"),
        ("Judgement:\n1. hallucination: x\n3. correct: z", "???", "h?c"),
        ("Judgement:\n1. hallucination: x\n2. correct: a\n2. hallucination: b\n3. correct: c", "???", "h?c"),
        ("Judgement:\n1. incorrect: x\n2. maybe: y\n3. correctly: z", "???", "???"),
        ("<think>1. correct: no</think>\nJudgement:\n1. hallucination: x\n2. correct: y\n3. correct: z", "hcc", "hcc"),
        ("no verdict at all", "???", "???"),
    ],
)
def test_replies_of_judges(reply: str, strict: str, tolerant: str) -> None:
    letters = {"h": "hallucination", "c": "correct", "n": "cannot judge", "?": None}
    assert read_judgement(reply, 3, "strict") == [letters[letter] for letter in strict]
    assert read_judgement(reply, 3, "tolerant") == [letters[letter] for letter in tolerant]


def test_the_rule_judge() -> None:
    judge = ShrRuleJudge(coco())
    assert judge.present(IMAGE) == {"cow", "person"}
    row = judge.row(
        IMAGE, "Two cows stand with a man. A dog sleeps. The mood is calm. There is no dog. A cow and a car."
    )
    assert row.classes == ("correct", "hallucination", "cannot judge", "cannot judge", "hallucination")
    assert row.reasons[1] == "not in this picture: dog"
    own = ShrRuleJudge(ObjectVocabulary.from_names(["hat", "sky"]))
    assert own.row(IMAGE, "A hat").classes == ("correct",)


def test_rule_judge_and_the_builders_detector_agree(tmp_path: Path) -> None:
    """Both read claims with one function: a pair is built and a model is measured by the same verdicts."""
    objects = (AnnotatedObject("cow"), AnnotatedObject("person"))
    image = AnnotatedImage("1", "1.jpg", tmp_path, 9, 9, objects, ("A dog and a cow.",))
    detector, judge = Detector(coco()), ShrRuleJudge(coco())
    for sentence in ("Two cows", "No cat is here", "An orange shirt", "A woman without a hat, and a bus", "Calm"):
        (by_detector,) = detector.check(sentence, detector.truth(image))
        (by_judge,) = judge.row(from_annotated(image), sentence).classes
        assert by_judge == {"unchecked": "cannot judge"}.get(by_detector.verdict, by_detector.verdict)


def test_cut_off_judge_replies_are_said(tmp_path: Path) -> None:
    answers = tmp_path / "responses.json"
    answers.write_text(json.dumps({"7": "A cow."}))
    script = ChatServer("Judgement:\n1. correct: a", lambda p, a: "length")
    with script as server, open_chat(server.settings()) as chat:
        found = score_shr(ScoreRequest(answers, annotations=write_images(tmp_path), judge=chat))
    assert found.warnings == ["1 of 1 judge replies were cut off at the token limit"]


def test_region_lines_carry_boxes() -> None:
    assert region_lines(IMAGE) == ["[0.1, 0.1, 0.4, 0.3]: Two cows in a meadow", "a man's hat"]


def test_the_judge_sees_notes_and_numbered_sentences() -> None:
    def answer(prompt: str) -> str:
        return "Judgement:\n1. correct: yes\n2. hallucination: no dog"

    with ChatServer(answer) as server, open_chat(server.settings()) as chat:
        rows, replies = model_rows(chat, [(IMAGE, "A cow. A dog."), (IMAGE, "")], ShrSettings())
    assert [row.classes for row in rows] == [("correct", "hallucination"), ()] and len(replies) == 1
    prompt = server.requests[0]["messages"][0]["content"]
    region = "[0.1, 0.1, 0.4, 0.3]: Two cows in a meadow"
    for expected in (region, "\nThe sky is clear.\n", "1. A cow\n2. A dog\n", "Judgement:"):
        assert expected in prompt


def test_published_files_are_read(tmp_path: Path) -> None:
    images = read_images(write_images(tmp_path))
    assert list(images) == ["7", "8"] and images["8"].objects == ("dog", "puppy")
    assert images["7"].facts == ("A man stands there.",) and images["7"].size == (100, 200)
    assert images["7"].regions[0] == ShrRegion("a cow on grass", (0, 0, 50, 100))
    assert read_images(tmp_path / "val_images_final.json") == images
    (tmp_path / "shr_factual_part2.jsonl").write_text('{"8": "no list"}\n')
    with pytest.raises(UserError, match=r"shr_factual_part2.jsonl:1: image 8"):
        read_images(tmp_path)
    (tmp_path / "shr_factual_part2.jsonl").unlink()
    (tmp_path / "val_images_final.json").write_text('[{"image_id": "7"}]')
    with pytest.raises(UserError, match=r"val_images_final.json:#1"):
        read_images(tmp_path / "val_images_final.json")


def test_responses_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"7": "A cow.", "8": ""}')
    assert read_responses(path) == {"7": "A cow.", "8": ""}
    path.write_text('{"image_id": 7, "response": "A cow."}\n{"image_id": "8", "text": ""}\n')
    assert read_responses(path) == {"7": "A cow.", "8": ""}
    path.write_text('{"image_id": 7, "response": "A"}\n{"image_id": "7", "response": "B"}\n')
    with pytest.raises(UserError, match=r"a.json:2: image 7 has a response already"):
        read_responses(path)
    path.write_text('{"7": 3}')
    with pytest.raises(UserError, match="image 7"):
        read_responses(path)


def test_scoring_by_rules_and_by_a_judge(tmp_path: Path) -> None:
    write_images(tmp_path)
    answers = tmp_path / "responses.json"
    answers.write_text(json.dumps({"7": "A cow. A man. A dog.", "8": "A puppy. A cat sleeps."}))
    saved = tmp_path / "judgement.json"
    rules = score_shr(ScoreRequest(answers, annotations=tmp_path, options={"judgements": str(saved)}))
    assert rules.metrics["SHR"] == 40.0 and rules.metrics["num_images"] == 2 and rules.unparsed == 0
    assert "judged by rules" in rules.conventions[0]

    def answer(prompt: str) -> str:
        return "Judgement:\n1. correct: a\n2. hallucination: b" + ("\n3. perhaps: c" if "3. A dog" in prompt else "")

    with ChatServer(answer) as server, open_chat(server.settings(), tmp_path / "cache.jsonl") as chat:
        request = ScoreRequest(answers, annotations=tmp_path, judge=chat, options={"judgements": str(saved)})
        judged = score_shr(request)
        assert judged.metrics["hal_sents_ratio"] == 0.5 and judged.metrics["n_sentences"] == 5
        assert judged.unparsed == 1 and "1 of 5 sentences" in judged.warnings[0]
        strict = score_shr(ScoreRequest(answers, annotations=tmp_path, judge=chat, parser="strict"))
        assert strict.unparsed == 1 and len(server.requests) == 2
    again = score_shr(ScoreRequest(saved))
    assert again.metrics == judged.metrics and "judged elsewhere" in again.conventions[0]


def test_judgements_made_elsewhere(tmp_path: Path) -> None:
    """The specified example as a file; strict and tolerant reading of the raw replies only when asked for."""
    classes = ["hallucination", "Hallucination", "correct", "cannot judge", None]
    listed = [
        {"model_response": f"{name}.", "judgement": None, "classification": found}
        for name, found in zip("abcde", classes, strict=True)
    ]
    entry = {"mode_response": "a. b. c. d. e.", "raw_judgement": "Judgement:\n1. correct: x\nbye", "judgement": listed}
    path = tmp_path / "judgement.json"
    path.write_text(json.dumps({"0": {"7": entry}}))
    found = score_shr(ScoreRequest(path))
    assert found.metrics["hal_sents_ratio"] == 0.5 and found.metrics["sents_per_image"] == 5 and found.unparsed == 1
    assert score_shr(ScoreRequest(path, parser="strict")).unparsed == 5
    tolerant = score_shr(ScoreRequest(path, parser="tolerant"))
    assert tolerant.unparsed == 4 and tolerant.metrics["hal_sents_ratio"] == 0
    path.write_text(json.dumps({"0": {"7": {"judgement": listed}}}))
    assert score_shr(ScoreRequest(path)).metrics["hal_sents_ratio"] == 0.5
    for bad in ({"model_response": "a."}, {"judgement": [{}]}, [], {"model_response": 3, "raw_judgement": "x"}):
        path.write_text(json.dumps({"0": {"7": bad}}))
        with pytest.raises(UserError, match="run 0: image 7"):
            score_shr(ScoreRequest(path))


def test_what_the_judge_could_not_be_asked_is_left_out_and_counted(tmp_path: Path) -> None:
    write_images(tmp_path)
    answers = tmp_path / "responses.json"
    answers.write_text(json.dumps({"7": "A cow.", "8": "A puppy."}))
    script = ChatServer("Judgement:\n1. correct: a", lambda p, a: "400" if "puppy" in p else None)
    with script as server, open_chat(server.settings()) as chat:
        found = score_shr(ScoreRequest(answers, annotations=tmp_path, judge=chat, options={"runs": "2"}))
    assert (found.read, found.scored, found.quarantined) == (2, 1, {"judge_bad_request": 1})
    assert any("1 responses were not judged" in line and "HTTP 400" in line for line in found.warnings)
    assert "SHR" not in found.intervals  # several runs: only the first run's numbers have one
    assert found.metrics["num_images"] == 1 and found.metrics["SHR"] == 0.0


def test_without_annotations_only_the_words_are_counted(tmp_path: Path) -> None:
    answers = tmp_path / "responses.json"
    answers.write_text(json.dumps({"7": "A cow. A cow."}))
    found = score_shr(ScoreRequest(answers))
    assert set(found.metrics) == {f"gram-{n}-repetition" for n in (1, 2, 3, 4)} and found.warnings


def test_any_annotated_images(tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "a.jpg", "objects": ["cup"]}, {"id": "b", "image": "b.jpg", "objects": ["spoon"]}]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    answers = tmp_path / "responses.json"
    answers.write_text(json.dumps({"a": "Cups. A spoon.", "b.jpg": "A spoon."}))
    found = score_shr(ScoreRequest(answers, annotations=tmp_path / "own.jsonl"))
    assert found.metrics["hal_sents_ratio"] == 0.333
    assert found.intervals["SHR"] == pytest.approx([0, 50])  # 1 of 2 sentences about one image, 0 of 1 about the other
    answers.write_text(json.dumps({"z": "Cups."}))
    with pytest.raises(UserError, match="image z is not in"):
        score_shr(ScoreRequest(answers, annotations=tmp_path / "own.jsonl"))


def test_published_images(published_data: Path) -> None:
    """200 images, 51.0 regions (41-89) and 34.3 objects each; facts for 165 of them, 262 in all."""
    folder = published_data / "huofushuo_SID" / "eval_utils" / "shr"
    images = read_images(folder)
    regions = [len(image.regions) for image in images.values()]
    assert len(images) == 200 and (min(regions), max(regions)) == (41, 89)
    assert round(sum(regions) / 200, 1) == 51.0
    raw = json.loads((folder / "val_images_final.json").read_text())
    assert round(sum(len(entry["objects"]["objects"]) for entry in raw) / 200, 1) == 34.3
    facts = read_facts(sorted(folder.glob("shr_factual*.jsonl")))
    assert (len(facts), sum(map(len, facts.values())), list(facts.values()).count(())) == (165, 262, 19)
    assert sum(len(image.facts) for image in images.values()) == 262
    truth = {identity: " ".join(f"{region.phrase}." for region in image.regions) for identity, image in images.items()}
    judge = ShrRuleJudge(coco())
    rows = [judge.row(images[identity], text) for identity, text in list(truth.items())[:40]]
    assert not any(name == "hallucination" for row in rows for name in row.classes)
