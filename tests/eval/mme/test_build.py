"""MME's pairs of questions, built from annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.errors import UserError
from mmpo.eval.mme import build as mme_pairs
from mmpo.eval.mme import metrics as mme


def annotated(name: str, *objects: AnnotatedObject) -> AnnotatedImage:
    return AnnotatedImage(name, f"{name}.png", Path("/none"), 100, 100, objects)


def thing(name: str, x: float | None = None, width: float = 10, **attributes: object) -> AnnotatedObject:
    return AnnotatedObject(name, None if x is None else (x, 0.0, width, 10.0), attributes)


SCENES = [
    annotated("a", thing("dog", 0, color="brown"), thing("cup", 50, color="red")),
    annotated("b", thing("bus", 0, color="red"), thing("bus", 40, color="blue"), thing("skis", 80)),
    annotated("c", thing("apple")),
]


def test_pairs_say_what_is_and_what_is_not() -> None:
    built = mme_pairs.build(SCENES, seed=1)
    assert built.keys() == {"existence", "count", "position", "color"}
    for questions in built.values():
        mme.check_pairs(questions)
        assert [q.label for q in questions] == ["yes", "no"] * (len(questions) // 2)
    names = {"a": ("dog", "cup"), "b": ("bus", "skis"), "c": ("apple",)}
    for question in built["existence"]:
        present = any(word in question.text for word in names[question.image[0]])
        assert present == (question.label == "yes"), question
    count = {q.image: q.text for q in built["count"] if q.label == "yes"}
    assert count == {
        "a.png": count["a.png"], "b.png": "Are there a total of two buses in the image?"
    } and count["a.png"] in ("Is there only one dog in the image?", "Is there only one cup in the image?")  # fmt: skip
    wrong = {q.image: q.text for q in built["count"] if q.label == "no"}
    assert wrong["b.png"] in ("Is there only one bus in the image?", "Are there a total of three buses in the image?")
    assert "total of two" in wrong["a.png"]
    right, left = ("Is the dog on the left side of the cup?", "Is the cup on the right side of the dog?"), (
        "Is the cup on the left side of the dog?", "Is the dog on the right side of the cup?"
    )  # fmt: skip
    yes, no = built["position"]
    assert yes.image == "a.png" and yes.text in right and no.text in left and len(built["position"]) == 2
    colors = {q.text: q.label for q in built["color"] if q.image == "b.png"}
    assert sorted(colors.values()) == ["no", "yes"]
    assert colors.get("Is there a brown bus in the image?") == "no"  # b has a red one and a blue one
    for text, label in colors.items():
        assert (label == "yes") == ("red bus" in text or "blue bus" in text)


def test_pairs_depend_on_seed_and_image_alone() -> None:
    first = mme_pairs.build(SCENES, ["existence"], seed=1)["existence"]
    assert mme_pairs.build(SCENES, ["existence"], seed=1)["existence"] == first
    assert mme_pairs.build(list(reversed(SCENES)), ["existence"], seed=1)["existence"] != first  # order of the file
    assert {q.text for q in mme_pairs.build(list(reversed(SCENES)), ["existence"], seed=1)["existence"]} == {
        q.text for q in first
    }
    assert any(mme_pairs.build(SCENES, ["existence"], seed=s)["existence"] != first for s in range(2, 6))
    assert len(mme_pairs.build(SCENES, ["existence"], limit=2)["existence"]) == 4


def test_grammar_of_plural_things() -> None:
    scene = annotated("s", thing("skis", 0, color="red"), thing("orange", 50, color="orange"))
    texts = [q.text for qs in mme_pairs.build([scene, SCENES[0]], seed=0).values() for q in qs if q.image == "s.png"]
    assert any(text.startswith(("Are the skis on the", "Is the orange on the")) for text in texts)
    assert not any("a skis" in text or "a orange" in text for text in texts)


@pytest.mark.parametrize(
    ("image", "subtask"),
    [
        (annotated("x", thing("dog")), "count"),  # no box: how many there are is not known
        (annotated("x", thing("dog", 0, crowd=True)), "count"),
        (annotated("x", *(thing("dog", 5 * n) for n in range(12))), "count"),
        (annotated("x", thing("dog", 0, 60), thing("cat", 50)), "position"),  # they overlap sideways
        (annotated("x", thing("dog", 0), thing("dog", 50), thing("cat", 80)), "position"),  # which dog?
        (annotated("x", thing("dog", 0, color="red"), thing("dog", 50)), "color"),  # one dog's colour is not known
        (annotated("x", thing("dog", 0, color="red")), "color"),  # no other colour in the set
        (annotated("x", thing("dog")), "existence"),  # nothing else in the set
    ],
)
def test_what_the_annotation_does_not_decide_is_not_asked(image: AnnotatedImage, subtask: str) -> None:
    with pytest.raises(UserError, match=f"no image's annotation gives a pair for MME's {subtask}"):
        mme_pairs.build([image], [subtask])


def test_other_subtasks_cannot_be_built() -> None:
    with pytest.raises(UserError, match="MME's posters cannot be built from annotations"):
        mme_pairs.build(SCENES, ["posters"])
