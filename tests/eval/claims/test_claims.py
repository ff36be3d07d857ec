"""Wrong claims: counted by hand on small texts, exact on the demo's language, shared with CHAIR in an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpo.data.annotations.read import read_annotations
from mmpo.demo.language import CARELESS, EXACT, describe
from mmpo.demo.things import CENTERED, DOUBLED, VOCABULARY
from mmpo.demo.world import annotation, world_split
from mmpo.errors import UserError
from mmpo.eval.claims import metrics as claims
from mmpo.eval.harness import evaluate
from mmpo.eval.protocol import AnnotatedSet, Request, Response
from mmpo.eval.scoring import Scored, ScoreRequest, score
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.compare import Bootstrap, compare
from mmpo.eval.statistics.rows import MetricRow
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.text.vocabulary import ObjectVocabulary
from tests.eval.evaluating import answers_in, settings, task

SIZE = {"width": 300, "height": 300}
ROWS: list[dict[str, Any]] = [
    {
        "image": "1.jpg", "id": 1, **SIZE,
        "objects": [
            {"name": "dog", "bbox": [0, 0, 40, 40], "attributes": {"color": "brown"}},
            {"name": "car", "bbox": [250, 0, 40, 40], "attributes": {"color": "red"}},
            {"name": "car", "bbox": [250, 200, 40, 40], "attributes": {"color": "blue"}},
        ],
    },
    {"image": "2.jpg", "id": 2, **SIZE, "objects": [{"name": "cat", "bbox": [130, 130, 40, 40]}]},
    {"image": "3.jpg", "id": 3, **SIZE, "objects": []},
]  # fmt: skip
CAPTIONS = [
    {"image_id": 1, "caption": "There is a brown dog on the right and three cars on the right. There is a bench."},
    {"image_id": 2, "caption": "There is a black cat in the middle. There is a cat."},
    {"image_id": 3, "caption": "Fog, as far as one can see."},
]
"""Worked by hand, read as lists of everything (x: wrong, ?: undecided).

1: object dog, car, bench x; count 1 dog, 3 cars x, 1 bench ?; color brown; place dog right x, cars right.
2: object cat, cat; count two x (the second cat, in a list of everything); color black ? (no colour is marked); place
middle. The second cat is no new one.
"""
OBJECT, COUNT, COLOR, PLACE = (5, 5, 1), (4, 3, 2), (2, 1, 0), (3, 3, 1)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    return lines(tmp_path / "annotations.jsonl", ROWS)


def scored(answers: Path, annotations: Path, **options: str) -> Scored:
    return score("claims", ScoreRequest(answers, annotations=annotations, options=options))


def test_counted_by_hand(tmp_path: Path, annotations: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"dog": [], "car": [], "cat": [], "bench": []}))
    options = {"exhaustive": "yes", "vocabulary": str(words), "sentences": str(tmp_path / "claims.jsonl")}
    result = scored(lines(tmp_path / "a.jsonl", CAPTIONS), annotations, **options)
    expected = {"object": OBJECT, "count": COUNT, "color": COLOR, "place": PLACE}
    found = {kind: result.metrics[kind] for kind in expected}
    assert {
        kind: (one["claims"], one["decided_claims"], one["wrong_claims"]) for kind, one in found.items()
    } == expected
    read, decided, wrong = (sum(column) for column in zip(*expected.values(), strict=True))
    assert result.metrics["wrong"] == pytest.approx(100 * wrong / decided)
    assert result.metrics["decided"] == pytest.approx(100 * decided / read)
    assert found["color"]["wrong"] == 0 and found["place"]["wrong"] == pytest.approx(100 / 3)
    assert result.metrics["claims"] == pytest.approx(read / 3)
    assert result.metrics["repeats"] == pytest.approx(100 / 5), "the second cat, of five things brought in"
    assert "relation" not in result.metrics, "nothing of the kind was read"
    assert result.intervals["wrong"][0] < result.metrics["wrong"] < result.intervals["wrong"][1]
    assert result.intervals["place"]["wrong"][0] <= 100 / 3 <= result.intervals["place"]["wrong"][1]
    assert (result.read, result.scored, result.unparsed) == (3, 3, 1)
    assert any(line.startswith("1 descriptions make no claim") for line in result.warnings)
    rows = [json.loads(line) for line in (tmp_path / "claims.jsonl").open()]
    false = [
        (one["kind"], one["text"], one["instead"]) for row in rows for one in row["claims"] if one["right"] is False
    ]
    assert ("object", "bench", None) in false and ("place", "on the right", "left") in false
    assert [instead for kind, _, instead in false if kind == "count"] == [2, 0]
    assert [one["name"] for row in rows for one in row["claims"] if one["again"]] == ["cat"]


def test_a_dog_is_a_count_only_where_everything_is_listed(tmp_path: Path, annotations: Path) -> None:
    captions = lines(tmp_path / "a.jsonl", [{"image_id": 1, "caption": "A dog sleeps beside a car."}])
    loose = scored(captions, annotations).metrics
    assert loose["wrong"] == 0 and "count" not in loose
    strict = scored(captions, annotations, exhaustive="yes").metrics
    assert strict["count"]["wrong_claims"] == 1, "there are two cars"


def test_a_table_of_objects_decides_objects_only(tmp_path: Path) -> None:
    table = tmp_path / "gt.json"
    table.write_text(json.dumps({"7": ["dog", "person"]}))
    caption = "There are two dogs on the left. There is a cat."
    captions = lines(tmp_path / "a.jsonl", [{"image_id": "000000000007.jpg", "caption": caption}])
    found = scored(captions, table).metrics
    assert (found["object"]["decided_claims"], found["object"]["wrong_claims"]) == (2, 1)
    assert found["count"]["wrong"] is None and found["place"]["decided_claims"] == 0


def test_another_of_a_kind_is_no_repeat_where_the_picture_has_it(tmp_path: Path, annotations: Path) -> None:
    texts = {
        "There is a red car on the right and a blue car on the right.": 0,
        "There are two cars. The cars are on the right.": 0,
        "There are two cars and a red car.": 1,
        "There is a cat and a cat.": 1,
    }
    for text, again in texts.items():
        captions = lines(tmp_path / "a.jsonl", [{"image_id": 1, "caption": text}])
        out = tmp_path / "claims.jsonl"
        scored(captions, annotations, exhaustive="yes", vocabulary="coco", sentences=str(out))
        row = json.loads(out.read_text())
        assert sum(one["again"] for one in row["claims"]) == again, text


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """120 scenes of the demo: their annotations, and descriptions by an exact and by a careless annotator."""
    folder = tmp_path_factory.mktemp("demo")
    scenes = list(world_split("test", 120, seed=3))
    rows = [annotation(scene, f"{n}.png", np.random.default_rng(n)) for n, scene in enumerate(scenes)]
    images = list(read_annotations(lines(folder / "annotations.jsonl", rows)))
    vocabulary = ObjectVocabulary(VOCABULARY)
    truth = claims.truths(images, {}, vocabulary)
    texts = {
        noise: {
            f"{n}.png": describe(scene, np.random.default_rng((n, 9)), noise).answer for n, scene in enumerate(scenes)
        }
        for noise in (EXACT, CARELESS)
    }
    return scenes, truth, vocabulary, texts


def test_exact_descriptions_of_the_demo_have_no_wrong_claim_and_none_undecided(demo: Any) -> None:
    _, truth, vocabulary, texts = demo
    result = claims.score(texts[EXACT], truth, vocabulary, exhaustive=True)
    wrong = [(row.caption, one) for row in result.rows for one in row.claims if one.right is not True]
    assert not wrong, wrong[:3]
    assert result.overall.values["repeats"] == 0
    read = {kind: result.totals(kind)[0] for kind in result.by_kind}
    assert read["object"] == read["count"] > 300 and read["place"] > 150 and read["color"] > 30


def test_what_a_careless_annotator_makes_up_is_found_and_nothing_else(demo: Any) -> None:
    scenes, truth, vocabulary, texts = demo
    result = claims.score(texts[CARELESS], truth, vocabulary, exhaustive=True)
    for row, scene in zip(result.rows, scenes, strict=True):
        wrong = [one for one in row.claims if one.right is False]
        made_up = {one.name for one in row.claims if one.kind == "object" and one.name not in scene.things}
        assert {one.name for one in wrong if one.kind == "object"} == made_up
        moved = {thing for thing in CENTERED if scene.count(thing) > 1}  # "two cars in the middle": one is there
        assert {one.name for one in wrong if one.kind == "count"} <= {*DOUBLED, *moved}
        assert {one.name for one in wrong if one.kind == "place"} <= set(CENTERED)
        assert not [one for one in wrong if one.kind not in ("object", "count", "place")]
    assert result.totals("object")[2] > 50 and result.totals("count")[2] > 3 and result.totals("place")[2] > 3


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("on the left", "on the right", "place"),
        ("in the middle", "on the left", "place"),
        (" two ", " three ", "count"),
    ],
)
def test_one_wrong_word_is_one_wrong_claim(demo: Any, old: str, new: str, kind: str) -> None:
    _, truth, vocabulary, texts = demo
    changed = {image: text.replace(old, new, 1) for image, text in texts[EXACT].items() if old in text}
    result = claims.score(changed, truth, vocabulary, exhaustive=True)
    assert len(changed) > 10
    assert [sum(one.right is False for one in row.claims) for row in result.rows] == [1] * len(changed)
    assert result.totals(kind)[2] == len(changed)  # type: ignore[arg-type]


def test_before_and_after_are_paired_by_image(demo: Any) -> None:
    _, truth, vocabulary, texts = demo
    before, after = (claims.score(texts[noise], truth, vocabulary, exhaustive=True) for noise in (CARELESS, EXACT))
    row = compare("claims", None, before.overall, after.overall, Bootstrap(samples=500, seed=0))[0]
    assert row.metric == "wrong" and row.after.value == 0 and row.change is not None
    assert row.change.high < 0 and row.change.p < 0.01


def test_an_interval_of_a_rare_kind_rests_on_the_images_that_have_it(demo: Any) -> None:
    """No colour is wrong in 40 images; that says less than none in 120."""
    _, truth, vocabulary, texts = demo
    result = claims.score(texts[EXACT], truth, vocabulary, exhaustive=True)
    row = compare("claims", "color", None, result.by_kind["color"], Bootstrap(samples=200, seed=0))[0]
    having = result.texts("color")
    assert having < 120 and row.after.high == pytest.approx(3.8416 / (having + 3.8416), rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image_id": 9, "caption": "A dog."}], r"a.jsonl:1: image 9 is not in .*annotations.jsonl"),
        (
            [{"image_id": 1, "caption": "Fog."}, {"image_id": 2, "caption": ""}],
            "none of the 2 answers holds what claims",
        ),
        ([{"image_id": 1, "caption": 3}], "a.jsonl:1: `caption` must be text, found int"),
    ],
)
def test_mistakes(tmp_path: Path, annotations: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scored(lines(tmp_path / "a.jsonl", rows), annotations)
    with pytest.raises(UserError, match="exhaustive must be yes or no, got 'perhaps'"):
        scored(lines(tmp_path / "a.jsonl", [CAPTIONS[0]]), annotations, exhaustive="perhaps")


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scorecard]:
    run = tmp_path_factory.mktemp("run")
    return run, evaluate(settings(world, benchmarks=["claims", "chair"]), run)


def test_an_evaluation_describes_every_image_once_for_claims_and_chair(
    world: Path, finished: tuple[Path, Scorecard]
) -> None:
    run, card = finished
    assert len(answers_in(run)) == 2 * 10, "ten images, before and after"
    asked = {(c.benchmark, c.split, c.state): c.questions for c in card.counts}
    assert asked["claims", None, "after"] == asked["chair", None, "after"] == 10
    assert (run / "claims/claims_before.jsonl").is_file() and (run / "chair/sentences_before.jsonl").is_file()


def test_gibberish_has_no_numbers_and_a_warning_says_so(finished: tuple[Path, Scorecard]) -> None:
    _, card = finished
    row = card.row("claims", "wrong")
    assert not row.after.defined
    assert any("CLAIMS, after: none of the 10 answers could be read" in line for line in card.warnings)
    assert {r.split for r in card.rows if r.benchmark == "claims"} == {None}, (
        "kinds of which nothing was read are left out"
    )


def test_own_prompt_asks_anew(world: Path) -> None:
    images = list(read_annotations(world / "annotations.jsonl", world / "images"))
    material = AnnotatedSet(
        images, {image.path: image.object_names for image in images}, ObjectVocabulary.from_names(["dog"])
    )
    chosen: EvalSettings = settings(world, benchmarks=["claims"])
    assert task("claims", chosen, material).requests()[0] == Request("0.png", "Describe the image.", 8)
    chosen.claims.prompt, chosen.claims.max_new_tokens = "What is there?", 5
    assert task("claims", chosen, material).requests()[0] == Request("0.png", "What is there?", 5)


def verdict_of(before: dict[str, str], after: dict[str, str], annotations: Path) -> list[str]:
    """The lines about two sets of descriptions of the images of `annotations`."""
    images = list(read_annotations(annotations))
    vocabulary = ObjectVocabulary.from_names(["dog", "car", "cat"])
    chosen = EvalSettings.model_validate({"model": "m", "claims": {"exhaustive": True}})
    benchmark = task("claims", chosen, AnnotatedSet(images, {}, vocabulary))
    parts = [
        benchmark.score({request: Response(said[request.image or ""], False) for request in benchmark.requests()})
        for said in (before, after)
    ]
    rows: list[MetricRow] = []
    for one, two in zip(*parts, strict=True):
        if one.split is None or one.questions or two.questions:
            rows += compare("claims", one.split, one.tally, two.tally, Bootstrap(samples=500, seed=0))
    card = Scorecard(model="m", adapter="a", rows=rows, counts=[], conventions=[], warnings=[], quarantined={})
    return card.verdict()


def test_the_first_line_is_about_wrong_claims_and_names_kinds_that_got_worse(tmp_path: Path) -> None:
    one = {"name": "dog", "bbox": [0, 0, 40, 40]}
    rows = [{"image": f"{n}.png", **SIZE, "objects": [one]} for n in range(30)]
    annotations = lines(tmp_path / "annotations.jsonl", rows)
    made_up = {f"{n}.png": "There is a dog on the left, a car and a cat." for n in range(30)}
    misplaced = {f"{n}.png": "There is a dog on the right." for n in range(30)}
    first = verdict_of(made_up, misplaced, annotations)[0]
    assert first.startswith("Wrong claims: 40.0 → 33.3 % of those that the annotations decide")
    assert first.endswith("; worse: place 0.0 → 100.0")
    assert verdict_of(misplaced, made_up, annotations)[0].endswith("worse: object 0.0 → 66.7")
    exact = {f"{n}.png": "There is a dog on the left." for n in range(30)}
    better = verdict_of(made_up, exact, annotations)
    assert better[0].endswith("→ 0.0 % of those that the annotations decide; no kind is worse")
    assert better[1:] == ["Better: nothing", "Worse: nothing", "Not clear: nothing. Take care: no warnings"]
