"""Which objects a caption mentions, and where."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.text.vocabulary import Mention, ObjectVocabulary, coco

# Lines in the form of CHAIR's file, with the traits of the real one that matter: doubled spaces and capitals.
CHAIR_LINES = """\
person, man, woman, baby, people, passenger
bicycle, bike
motorcycle, scooter,  motor bike, motor cycle, motorbike
airplane, plane, air plane, jet
bus
train, locomotive
fire hydrant, hydrant
cow, bison 
elephant
tie, bow, bow tie
sports ball, ball
tennis racket, racket
wine glass
cup
fork
knife
orange
cake,  cheesecake
chair, seat, stool
dining table, table
toilet, commode
laptop, computer, laptop computer
cell phone, phone, iPhone
oven, stove, stove top oven
"""
# The test vectors that hold under any way of finding base forms.
CHAIR_CASES = [
    ("a baby elephant near a fire hydrant", "elephant, fire hydrant"),
    ("the toilet seat", "toilet"),
    ("the seat of the toilet", "toilet"),
    ("a bow tie", "tie"),
    ("a motor bike", ""),
    ("a motorbike", "motorcycle"),
    ("a train track", ""),
    ("train tracks", ""),
    ("a passenger train", "train"),
    ("a passenger jet", "airplane"),
    ("a dining table", "dining table"),
    ("stove top oven", "oven, oven"),
    ("an orange shirt", "orange"),
    ("two wine glasses", "wine glass"),
    ("several knives and forks", "knife, fork"),
    ("an iPhone and a phone", "cell phone"),
    ("a cheesecake", ""),
    ("two baby elephants on a seat", "elephant, chair"),
    ("Man, woman; a sports ball!", "person, person, sports ball"),
]


def names(vocabulary: ObjectVocabulary, text: str) -> str:
    return ", ".join(mention.name for mention in vocabulary.find(text))


@pytest.fixture(scope="module")
def chair(tmp_path_factory: pytest.TempPathFactory) -> ObjectVocabulary:
    path = tmp_path_factory.mktemp("chair") / "synonyms.txt"
    path.write_text(CHAIR_LINES)
    return ObjectVocabulary.from_file(path, chair_merges=True)


@pytest.mark.parametrize(("text", "expected"), CHAIR_CASES)
def test_reads_as_chair_reads(chair: ObjectVocabulary, text: str, expected: str) -> None:
    assert names(chair, text) == expected


def test_the_published_synonyms(published_data: Path) -> None:
    path = published_data / "LisaAnne_Hallucination" / "data" / "synonyms.txt"
    vocabulary = ObjectVocabulary.from_file(path, chair_merges=True)
    assert len(vocabulary) == 80 and set(vocabulary.names) == set(coco().names)
    for text, expected in CHAIR_CASES:
        assert names(vocabulary, text) == expected, text


def test_mentions_say_where() -> None:
    text = "Two Wine-Glasses by a man's dog."
    assert coco().find(text) == [
        Mention(4, 16, "Wine-Glasses", "wine glass"),
        Mention(22, 25, "man", "person"),
        Mention(28, 31, "dog", "dog"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Dogs, CATS and sheep", "dog, cat, sheep"),
        ("a wine glass", "wine glass"),
        ("wine, glass", ""),
        ("a fire\n hydrant", "fire hydrant"),
        ("hot dogs", "hot dog"),
        ("a hotdog", "hot dog"),
        ("dogma, catalog, carpet, scar", ""),
        ("a bear-shaped lamp and a man-made lake", ""),
        ("a half-dog", ""),
        ("dog- and cat-free", "dog"),
        ("the dogs' bowls", "dog, bowl"),
        ("cats/dogs", "cat, dog"),
        ("men and women, people and a policeman", "person, person, person, person"),
        ("three mice, two knives, buses", "mouse, knife, bus"),
        ("a train on the train tracks", "train"),
        ("a baby elephant and a baby", "elephant, person"),
        ("un éléphant, two elephants", "elephant"),
        ("a pair of skis and scissors", "skis, scissors"),
        ("a glass of orange juice", ""),
        ("teddy bears", "teddy bear"),
    ],
)
def test_coco_words(text: str, expected: str) -> None:
    assert names(coco(), text) == expected


def test_coco_has_its_80_classes() -> None:
    assert len(coco()) == 80 and coco().names[0] == "person" and coco().names[-1] == "toothbrush"
    for name in coco().names:
        assert names(coco(), f"there is a {name} here") == name


def test_name_of_words_in_any_form(chair: ObjectVocabulary) -> None:
    assert coco().name_of("Sofas") == "couch" and coco().name_of("wine_glass") == "wine glass"
    assert [coco().name_of(name) for name in ("aeroplane", "tvmonitor", "pottedplant")] == [
        "airplane",
        "tv",
        "potted plant",
    ]
    assert coco().name_of("dining table") == "dining table" == chair.name_of("dining table")
    assert coco().name_of("red sofa") is None and coco().name_of("sofa and chair") is None
    assert "sofa" in coco() and "dragon" not in coco() and 3 not in coco()


def test_classes_of_ones_own() -> None:
    vocabulary = ObjectVocabulary({"Traffic_Cone": ["pylon"], "glass": []}, ignore=["hour glass"])
    found = names(vocabulary, "traffic cones, a pylon, an hour glass, two glasses")
    assert found == "Traffic_Cone, Traffic_Cone, glass"
    assert names(ObjectVocabulary.from_names(["owl", "tawny owl"]), "a tawny owl, an owl") == "tawny owl, owl"


def test_a_word_given_wins_over_a_plural_made() -> None:
    vocabulary = ObjectVocabulary({"glass": [], "glasses": ["spectacles"]})
    assert names(vocabulary, "a glass and her glasses") == "glass, glasses"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.txt", "dog,puppy\n\ncat\n"),
        ("a.json", '{"dog": ["puppy"], "cat": []}'),
        ("a.yaml", "dog: [puppy]\ncat:\n"),
    ],
)
def test_files(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    vocabulary = ObjectVocabulary.from_file(tmp_path / file)
    assert vocabulary.names == ("dog", "cat") and vocabulary.synonyms["dog"] == ("dog", "puppy")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.txt", "dog, puppy\ndog, pup\n", "a.txt:2: the class 'dog' has a line already"),
        ("a.txt", "dog, pet\ncat, pet\n", "a.txt: the word 'pet' stands for two classes, 'dog' and 'cat'"),
        ("a.txt", "dog, --\n", "an entry without letters: '--'"),
        ("a.txt", "\n", "has no classes"),
        ("a.json", "[1]", "a.json: expected a map"),
        ("a.json", "{", "a.json:1: not valid JSON"),
        ("a.yaml", "dog: puppy", "a.yaml: 'dog' must be a name with a list"),
        ("a.yaml", "dog: [1]", "an entry without letters: 1"),
        ("a.yml", "a: [", "a.yml:1: not valid YAML"),
    ],
)
def test_odd_files_are_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError) as caught:
        ObjectVocabulary.from_file(tmp_path / file)
    assert message in str(caught.value) and "\n" not in caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ObjectVocabulary.from_file(tmp_path / "none.txt")


def test_fast_enough_for_every_caption() -> None:
    """Thousands of captions a second; the bar here leaves a busy machine room."""
    caption = "The image features a busy kitchen with two men near a dining table, several wine glasses and a dog. " * 3
    coco().find(caption)
    started = time.process_time()
    for _ in range(300):
        assert len(coco().find(caption)) == 12
    assert time.process_time() - started < 1


def test_categories_of_a_file_with_cocos_words() -> None:
    words = ObjectVocabulary.from_categories(["Dog", "man", "person", "Traffic_Light", "gizmo", "dog"])
    assert words.names == ("Dog", "man", "person", "Traffic_Light", "gizmo")
    named = [
        (mention.word, mention.name) for mention in words.find("A man and a woman walk two puppies at a stoplight.")
    ]
    assert named == [("man", "man"), ("woman", "person"), ("puppies", "Dog"), ("stoplight", "Traffic_Light")]
    assert words.name_of("dogs") == "Dog" and words.name_of("cat") is None
    assert not words.find("the dog house")
    everything = ObjectVocabulary.from_categories(coco().names)
    assert everything.entries == coco().entries and everything.ignored == coco().ignored
    plain = ObjectVocabulary.from_categories(["widget"])
    assert plain.synonyms == {"widget": ("widget",)} and not plain.ignored
