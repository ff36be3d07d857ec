"""Sentence pairs with a verified beginning: the rules on a scripted model, and the whole on the demo model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.pair import join_text
from mmpo.data.reader import read_pairs
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.from_candidates.maker import Made, Opinions
from mmpo.data_builders.from_candidates.makers.sentences import Sentences, SentencesSettings
from mmpo.errors import Quarantined
from mmpo.evidence.records import CombinedOpinion, Opinion, Presence
from tests.data_builders.from_candidates.pictures import context, judged, said

VERDICTS: dict[str, Presence] = {
    "cat": "present", "table": "present", "chair": "present", "dog": "absent", "horse": "absent", "bird": "uncertain",
}  # fmt: skip


@dataclass
class Said:
    """What the maker reads of an answer."""

    text: str
    stopped: bool = True
    truncated: bool = False


class Script:
    """An engine that says next sentences by the beginning: texts, `$` behind one that ends the description, `~` behind
    one that is cut off. It notes what it was asked."""

    def __init__(self, lines: dict[str, Sequence[str]]) -> None:
        self.lines = lines
        self.asked: list[str] = []

    def sample_many(self, prompts: Sequence[Any], k: int, **options: Any) -> Iterator[list[Said]]:
        assert options["stop"] == "sentence"
        for _, messages in prompts:
            begun = join_text(messages[1:])
            self.asked.append(begun)
            texts = [*self.lines.get(begun, []), *[""] * k][:k]
            yield [Said(text.rstrip("$~"), not text.endswith("$") and bool(text), text.endswith("~")) for text in texts]


def opinion(name: str, verdict: Presence) -> CombinedOpinion:
    return CombinedOpinion(name, verdict, 0.9, {"hand": Opinion(verdict, 1.0)})


def made_by(
    tmp_path: Path, lines: dict[str, Sequence[str]], known: dict[str, Presence] = VERDICTS, **settings: Any
) -> tuple[Made, Script, list[list[str]]]:
    """The outcome of one picture, what the model was asked, and the classes that the evidence was asked about."""
    script, asked = Script(lines), []

    def evidence(pictures: Sequence[JudgedPicture], names: Sequence[Sequence[str]]) -> list[Opinions]:
        asked.extend(list(own) for own in names)
        return [{name: opinion(name, VERDICTS[name]) for name in own} for own in names]

    given = context(tmp_path, engine=lambda: script, evidence=evidence, picture=lambda _: b"")
    maker = Sentences(SentencesSettings(**{"samples": 4} | settings), given)
    ticks: list[int] = []
    [made] = maker.make(0, [judged("a.png", ["A cat."], known)], lambda: ticks.append(1))
    assert ticks == [1]
    return made, script, asked


def sides(made: Made) -> list[tuple[str, str, str]]:
    assert not isinstance(made, Quarantined), made
    return [(pair.begun, pair.chosen.text, pair.rejected.text) for pair in made]


def test_a_factual_against_a_hallucinated_sentence_behind_a_clean_beginning(tmp_path: Path) -> None:
    lines = {
        "": ["A dog sits.", "A cat sits.", "A cat sits.", "A bird sits."],
        "A cat sits.": [" A chair stands.", " The cat sleeps.", " The horse sleeps.", " A dog sleeps."],
        "A cat sits. A chair stands.": [" The chair is old.$", " The dog is old.$"],
    }
    made, script, _ = made_by(tmp_path, lines)
    assert sides(made) == [
        ("", "A cat sits.", "A dog sits."),
        ("A cat sits.", " The cat sleeps.", " The horse sleeps."),
        ("A cat sits. A chair stands.", " The chair is old.", " The dog is old."),
    ]
    assert script.asked == list(lines)  # an exploring sentence goes on; the description ended behind the last
    assert isinstance(made, list)
    assert [pair.unfinished for pair in made] == [True, True, False]
    assert [pair.key for pair in made] == ["p0c0s2x1", "p0c1s2x3", "p0c2s1x2"]
    assert made[1].punished == {"horse"} and made[1].rejected.absent == {"horse"}
    assert made[1].about["beginning_names"] == ["cat"]
    assert [(row["name"], row["verdict"]) for row in made[1].about["claims"]] == [
        ("cat", "present"),
        ("horse", "absent"),
    ]
    json.dumps(made[1].about)


def test_a_step_of_hallucinated_sentences_ends_the_picture(tmp_path: Path) -> None:
    made, script, _ = made_by(tmp_path, {"": ["A dog.", "A horse.", "A cat and a dog.", "A bird and a cat."]})
    assert isinstance(made, Quarantined) and made.reason == "nothing_factual"
    assert "absent" not in made.reason and script.asked == [""]


def test_an_uncertain_claim_is_neither_side_and_never_in_a_beginning(tmp_path: Path) -> None:
    made, script, _ = made_by(
        tmp_path, {"": ["A cat and a bird.", "A bird.", "A cat."], "A cat.": [" A bird and a cat."]}
    )
    assert isinstance(made, Quarantined) and made.reason == "nothing_absent"
    assert script.asked == ["", "A cat."]


def test_a_sentence_that_names_nothing_goes_on_where_no_factual_one_does(tmp_path: Path) -> None:
    lines = {"": ["A kitchen.", "A dog."], "A kitchen.": [" A cat sits.", " A horse sits.", " It is old."]}
    made, script, _ = made_by(tmp_path, lines, steps=3)
    assert script.asked == ["", "A kitchen.", "A kitchen. A cat sits."]
    assert sides(made) == [("A kitchen.", " A cat sits.", " A horse sits.")]  # nothing to be coherent with yet


def test_what_is_denied_is_no_claim(tmp_path: Path) -> None:
    made, _, _ = made_by(tmp_path, {"": ["There is no dog.", "A cat sits.", "No horse is here."]})
    assert isinstance(made, Quarantined) and made.reason == "nothing_absent"


def test_the_picture_ends_when_more_than_half_are_empty_and_repeats_are_none(tmp_path: Path) -> None:
    lines = {
        "": ["A cat.", "A cat.", "A cat.", "A dog."],
        "A cat.": [" The cat is red.", " The dog is red."],
        "A cat. The cat is red.": [" The cat is big.$"],
        "A cat. The cat is red. The cat is big.": [" The cat is big.", " The dog is big."],
    }
    made, script, _ = made_by(tmp_path, lines)
    assert len(sides(made)) == 2
    assert script.asked == list(lines)[:3]


def test_cut_off_repeated_and_joined_samples_are_not_used(tmp_path: Path) -> None:
    lines = {
        "": ["A cat and~", "A cat.", "<image> A cat.", "A dog."],
        "A cat.": ["s sleep.", "ss dog.", " The cat.", " A dog~"],
    }
    made, _, _ = made_by(tmp_path, lines, steps=2)
    assert sides(made) == [("", "A cat.", "A dog.")]


def test_the_sides_have_about_as_many_words(tmp_path: Path) -> None:
    lines = {
        "": [
            "A cat sits on an old table near the big chair.",
            "A dog.",
            "A horse stands near an old table and a chair.",
        ]
    }
    made, _, _ = made_by(tmp_path, lines)
    assert [rejected for _, _, rejected in sides(made)] == ["A horse stands near an old table and a chair."]
    short, _, _ = made_by(tmp_path, {"": lines[""][:2]})
    assert isinstance(short, Quarantined) and short.reason == "no_pair_sentence"


def test_at_most_so_many_pairs_have_one_beginning(tmp_path: Path) -> None:
    lines = {"": ["A cat.", "A chair.", "A table.", "A dog.", "A horse.", "A horse and a dog."]}
    made, _, _ = made_by(tmp_path, lines, samples=6, steps=1)
    assert sides(made) == [("", "A cat.", "A dog."), ("", "A chair.", "A horse.")]


def test_new_classes_are_asked_about_once(tmp_path: Path) -> None:
    lines = {"": ["A cat.", "A dog."], "A cat.": [" A cat, a dog.", " The cat sits."]}
    made, _, asked = made_by(tmp_path, lines, known={"cat": "present"})
    assert asked == [["dog"]]
    assert [pair[2] for pair in sides(made)] == ["A dog.", " A cat, a dog."]
    assert isinstance(made, list) and [row["verdict"] for row in made[0].about["claims"]] == ["present", "absent"]


def test_nothing_said_and_a_lost_picture_have_reasons(tmp_path: Path) -> None:
    made, _, _ = made_by(tmp_path, {})
    assert isinstance(made, Quarantined) and made.reason == "no_sentence"

    def gone(_: Any) -> bytes:
        raise Quarantined("decode", "changed", "a.png")

    maker = Sentences(SentencesSettings(), context(tmp_path, picture=gone))
    [lost] = maker.make(0, [judged("a.png", ["A cat."], VERDICTS)], lambda: None)
    assert isinstance(lost, Quarantined) and lost.reason == "changed"


@pytest.mark.parametrize("wrong", [{"samples": 1}, {"steps": 0}, {"temperature": 0}, {"pairs": 3}, {"longest": 0.5}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SentencesSettings(**wrong)


@pytest.mark.slow
def test_the_demo_model_from_candidates_to_a_data_set(tmp_path: Path) -> None:
    """The real model and the world's truth: clean beginnings, sides that begin with a space, counts that add up, the
    same bytes in another run whatever the pictures of a unit."""
    from mmpo.data.image_digests import pixel_digest
    from mmpo.data_builders.candidates.tables import write_candidates_card, write_tables
    from mmpo.data_builders.from_candidates.build import MakerModels, PairsFromCandidates
    from mmpo.data_builders.from_candidates.settings import PairsFromCandidatesSettings
    from mmpo.data_builders.run import run
    from mmpo.demo import model_path
    from mmpo.demo.world import write_split
    from mmpo.files.images import load_image
    from mmpo.models.families.loading import load_vlm
    from mmpo.models.generation.answer import AnswerEngine
    from mmpo.text.claims import claimed
    from mmpo.text.vocabulary import ObjectVocabulary

    world = write_split(tmp_path / "world", "dev", 6)
    rows = [json.loads(line) for line in (world / "annotations.jsonl").read_text().splitlines()]
    words = json.loads((world / "vocabulary.json").read_text())
    vocabulary = ObjectVocabulary(words)
    truth = {row["image"]: {item["name"] for item in row["objects"]} for row in rows}

    def verdicts(image: str, names: Sequence[str]) -> Opinions:
        return {name: opinion(name, "present" if name in truth[image] else "absent") for name in names}

    def evidence(pictures: Sequence[JudgedPicture], names: Sequence[Sequence[str]]) -> list[Opinions]:
        return [verdicts(picture.image, own) for picture, own in zip(pictures, names, strict=True)]

    vlm = load_vlm(model_path())
    described = {
        "builder": "candidates", "model": str(model_path()), "images": str(world), "evidence": [{"source": "self"}],
    }  # fmt: skip

    def build(name: str, per_shard: int) -> list[Any]:
        pictures = []
        for image in truth:
            one = judged(image, [said(0, "Nice.", {}, prompt="Describe this image in detail.")], {})
            key = pixel_digest(load_image((world / image).read_bytes()))
            pictures.append(JudgedPicture(image, key, one.dhash, image, 96, 96, one.candidates, {}))
        folder = tmp_path / name / "candidates"
        write_tables(folder, pictures, per_shard)
        facts = {
            "pictures_per_shard": per_shard, "root": str(world), "settings": described, "vocabulary": words,
            "evidence": {"sources": {}},
        }  # fmt: skip
        write_candidates_card(folder, facts, "# Candidates\n")
        settings = PairsFromCandidatesSettings(
            builder="pairs_from_candidates",
            candidates=folder,
            pairs={
                "maker": "sentences",
                "samples": 10,
                "steps": 3,
                "longest": 2.0,
                "shortest": 0.5,
                "guards": {"length": None},
            },  # type: ignore[arg-type]
        )

        def models(stack: ExitStack) -> MakerModels:
            return MakerModels("demo", lambda: AnswerEngine(vlm), evidence)

        result = run(settings, tmp_path / name / "run", partial(PairsFromCandidates, models=models))
        for table in result.counts.values():
            assert sum(table.values()) == 2 * table["in"]
        assert result.pairs_made > 0, result.counts
        return list(read_pairs(tmp_path / name / "run" / "pairs"))

    pairs = build("one", 6)
    for pair in pairs:
        about = pair.provenance
        begun = join_text(pair.prompt[1:])
        named = {mention.name for mention in claimed(begun, vocabulary)}
        own = truth[about["source"]]
        assert named <= own and named == set(about["beginning_names"])
        assert bool(begun) == pair.chosen_text.startswith(" ") == pair.rejected_text.startswith(" ")
        chosen, rejected = (
            {mention.name for mention in claimed(text, vocabulary)} for text in (pair.chosen_text, pair.rejected_text)
        )
        assert chosen <= own and not rejected <= own
        assert about["maker"] == "sentences" and all(about["samples"])
        assert {row["name"] for row in about["claims"]} == named | (chosen ^ rejected)
    assert any(len(pair.prompt) == 2 for pair in pairs)
    assert [pair.id for pair in build("two", 2)] == [pair.id for pair in pairs]
