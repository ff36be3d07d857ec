"""The chosen side of a yes/no pair says nothing that the evidence does not support, whatever makes the pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject, Region
from mmpo.data.shards import read_pairs
from mmpo.data_builders.hallucination.affirmed import EvidenceReader
from mmpo.data_builders.hallucination.build import build
from mmpo.data_builders.hallucination.detect import Detector, Truth
from mmpo.text.vocabulary import ObjectVocabulary, coco
from tests.chat.server import ChatServer
from tests.data_builders import careful, parrot
from tests.data_builders.hallucination.test_build import pairs_of, settings
from tests.tiny import save_model

WORDS = ObjectVocabulary(
    {
        "cat": ["kitten", "fox"], "dog": ["puppy"], "person": ["man", "woman", "people"], "sheep": ["lamb"],
        "car": [], "scissors": [], "orange": [], "cow": [], "ball": [],
    }
)  # fmt: skip
READER = EvidenceReader(WORDS)


def thing(name: str, x: int = 5, **attributes: Any) -> AnnotatedObject:
    return AnnotatedObject(name, (x, 40, 10, 10), attributes)


def truth(*things: AnnotatedObject, captions: tuple[str, ...] = (), regions: tuple[str, ...] = ()) -> Truth:
    image = AnnotatedImage("i", "i.png", Path("."), 100, 100, things, captions, tuple(map(Region, regions)))
    return Detector(WORDS).truth(image)


YARD = truth(
    thing("cat", color="black"), thing("dog", 80), thing("dog", 85), thing("person", 40), thing("cow", crowd=True),
    thing("scissors"), thing("sheep"), captions=("A lady with two oranges.", "There is no ball."),
)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "Yes", "yes.", "Yes, there is a cat.", "Yes, there is a cat in the image.", "Yes there is a cat in this photo.",
        "Yes, I can see a black cat on the left.", "Yes, there are dogs.", "Yes, there are two dogs on the right.",
        "Yes, there is a person.", "Yes, there are cows.", "Yes, there is a herd of cows in the picture.",
        "Yes, there are several cows.", "Yes, there is a pair of scissors.", "Yes, there are oranges.",
        "Yes, the image shows a cat and a dog.", "Yes, there is a sheep.", "Yes, a couple of dogs are visible.",
        "No", "No.", "No, there is no ball.", "No, there is no ball or car in the image.", "No ball.",
        "No, I don't see a ball.", "No, the image does not contain a car.", "No, a car is not visible.",
        "No, there isn't any ball, but there is a cat.", "No, I cannot see any car.",
        "No, there are no balls.", "No, there is a dog.",
    ],
)  # fmt: skip
def test_supported(text: str) -> None:
    assert READER.answer(text, YARD) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Yes, there is a car.", "Yes, there is a cat and a ball.", "Yes, there is a white cat.",
        "Yes, there is a cat on the right.", "Yes, there are three dogs.", "Yes, there is no cat.",
        "No, there is no dog.", "No, there is no ball or cat.", "No, there is a car.", "No there is a car.",
        "No, but there is a car.", "No, I don't see a sheep.", "No cats.", "Yes, there is a dog. A car stands near.",
        "No, there is no ball and a car.",
    ],
)  # fmt: skip
def test_contradicted(text: str) -> None:
    assert READER.answer(text, YARD) == "unsupported"


@pytest.mark.parametrize(
    "text",
    [
        "Yes, there is a fox.",  # a word for cats here; nobody called this one so
        "Yes, there is a wolf.", "Yes, there is a kitten.", "Yes, there is a man.", "Yes, there are cats.",
        "Yes, there are several dogs.", "Yes, there are people.", "Yes, a group of people.", "Yes, there are sheep.",
        "Yes, there is a flock of sheep.", "Yes, there is a pair of cats.", "Yes, there is a sleeping dog.",
        "Yes, there is a cat on a table.", "Yes, a cat with a dog.", "Yes, there is a big cat.",
        "Yes, the cat has a dog.",
        "Yes, there are five cows.", "No, there is no wolf.", "No, it is a bear.", "Yes, a couple of cows.",
    ],
)  # fmt: skip
def test_undecidable(text: str) -> None:
    assert READER.answer(text, YARD) in ("undecidable", "unsupported") and READER.answer(text, YARD)


def test_the_evidences_own_words_may_be_used() -> None:
    told = truth(thing("fox"), captions=("A woman rides.",), regions=("two puppies",))
    assert not READER.answer("Yes, there is a fox.", told) and not READER.answer("Yes, there is a woman.", told)
    assert not READER.answer("Yes, there is a puppy.", told) and not READER.answer("Yes, there are puppies.", told)
    assert READER.answer("Yes, there is a man.", told) == "undecidable"
    assert not READER.answer("No, there is no wolf.", told, "wolf")
    assert READER.answer("Yes, there is a wolf.", told, "wolf") == "undecidable"


def test_names_without_boxes_do_not_affirm_a_number() -> None:
    listed = truth(AnnotatedObject("dog"), AnnotatedObject("dog"))
    assert not READER.answer("Yes, there are dogs.", listed) and not READER.answer("Yes, there is a dog.", listed)
    assert READER.answer("Yes, there are two dogs.", listed) == "undecidable"
    assert READER.answer("Yes, there is a couple of dogs.", listed) == "undecidable"


@pytest.mark.parametrize(
    ("question", "yes", "name", "drop_reason"),
    [
        ("Is there a cat in the image?", True, "cat", ""),
        ("Is there a fox in the image?", True, "fox", "undecidable"),
        ("Is there a wolf?", True, "wolf", "undecidable"),
        ("Is there a car?", True, "car", "unsupported"),
        ("Are there two dogs?", True, "dog", ""),
        ("Are there three dogs?", True, "dog", "unsupported"),
        ("Are there cats?", True, "cat", "undecidable"),
        ("Is the dog brown?", True, "dog", "undecidable"),
        ("Is the cat next to the dog?", True, "cat", "undecidable"),
        ("Is there a white cat?", True, "cat", "unsupported"),
        ("Is it raining?", True, "rain", "undecidable"),
        ("Is there a picture?", True, "cat", "undecidable"),
        ("Is there no car?", True, "car", "undecidable"),
        ("Is there a car?", False, "car", ""),
        ("Is there a cat?", False, "cat", "unsupported"),
        ("Are there three dogs?", False, "dog", ""),
        ("Are there two dogs?", False, "dog", "unsupported"),
        ("Is there a fox?", False, "fox", "undecidable"),
        ("Is the dog brown?", False, "dog", "undecidable"),
        ("Is there a car next to the dog?", False, "car", ""),
        ("Is there a wolf?", False, "wolf", ""),
        ("Is there a lady?", False, "lady", "unsupported"),
    ],
)
def test_questions_of_a_text_model(question: str, yes: bool, name: str, drop_reason: str) -> None:
    assert READER.question(question, yes, name, YARD) == drop_reason


def test_coco_words() -> None:
    reader, street = EvidenceReader(coco()), truth(thing("person"))
    assert reader.answer("Yes, there is a person.", street) == ""
    assert reader.answer("Yes, there is a policeman.", street) == "undecidable"


FOXY = [
    (parrot.DESCRIBE, parrot.CAPTION),
    (parrot.question("cat"), "Yes, there is a fox."),
    (parrot.question("dog"), "No, there is no fox."),
    (parrot.question("bird"), "Yes, there is a bird on a fox."),
    (parrot.question("horse"), "No, there is no horse."),
    (parrot.question("cup"), "Yes, there is a cup."),
]


@pytest.fixture(scope="module")
def foxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(parrot.teach(FOXY), tmp_path_factory.mktemp("foxy"))


@pytest.mark.parametrize("words", [None, {"cat": ["fox"], "dog": [], "bird": [], "horse": [], "cup": []}])
def test_no_pair_of_a_build_affirms_a_fox(words: Any, foxy: Path, world: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"samples_per_image": 0, "omission_share": 0.0}
    if words is not None:
        (tmp_path / "words.json").write_text(json.dumps(words))
        changes["vocabulary"] = str(tmp_path / "words.json")
    qa = {"questions_per_image": 6, "keep_right_share": 1.0}
    result = build(settings(foxy, world, qa=qa, **changes), tmp_path)
    pairs = pairs_of(tmp_path, "question")
    assert pairs and not any("a fox" in pair.chosen_text for pair in pairs)
    lost = result.counts["questions"]
    assert lost["chosen_undecidable"] > 0 and sum(result.question_answers.values()) == len(pairs)
    present = {f"i{n}": parrot.SCENES[n % len(parrot.SCENES)] for n in range(12)}
    for pair in pairs:
        here = pair.provenance["object"] in present[str(pair.provenance["source"])]
        assert pair.chosen_text.lower().startswith("yes") is here is bool(pair.provenance["present"])


def test_several_questions_of_a_text_model(parrot_folder: Path, world: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(prompt: str) -> str:
        if "answered with yes or no" not in prompt:
            return careful.scripted(prompt)
        asked.append(prompt)
        made = [("dog", "yes"), ("horse", "no"), ("dog", "yes"), ("cat", "yes"), ("wolf", "yes"), ("bird", "maybe")]
        return "Sure!\n" + "\n\n".join(
            f"{n}.\nQuestion: Is there a {name} in the image?\nAnswer: {answer}\nObject: {name}"
            for n, (name, answer) in enumerate(made, start=1)
        )

    with ChatServer(reply) as server:
        chat = server.settings().model_dump()
        qa = {"writer": chat, "written_per_image": 6, "keep_right_share": 1.0, "balance": "none"}
        result = build(settings(parrot_folder, world, qa=qa, samples_per_image=0, omission_share=0.0), tmp_path)
    assert asked and "up to 6 different questions" in asked[0]
    lost = result.counts["questions"]
    images, rest = divmod(lost["in"], 6)
    assert images >= 5 and rest == 0 and lost["question_repeated"] > 0 and lost["questions: no_question"] == images
    assert lost["answer_undecidable"] >= images and lost["answer_unsupported"] > 0
    of_image: dict[Any, list[str]] = {}
    for pair in read_pairs(tmp_path / "pairs"):
        if pair.provenance["kind"] == "question":
            of_image.setdefault(pair.provenance["source"], []).append(pair.id)
    assert max(map(len, of_image.values())) > 1
    assert all(len(set(ids)) == len(ids) for ids in of_image.values())
