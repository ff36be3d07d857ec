"""What the demo model learns from its own repeats: where it is cut off, and how the annotator goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import LlavaProcessor

from mmpo.demo import model_path
from mmpo.demo.language import Turn
from mmpo.demo.scene import Item, Scene
from tools.demo_models import on_policy_stage, pretrain
from tools.demo_models.caption_training import make_batch
from tools.demo_models.on_policy_stage import continued_turn, mended_rows

LEFT, MIDDLE, RIGHT = (0, 0, 20, 20), (54, 0, 20, 20), (108, 0, 20, 20)
SCENE = Scene(
    "farm",
    (Item("pig", None, LEFT, False), Item("car", "red", MIDDLE, False), Item("pig", None, RIGHT, False)),
    (0,),
)


@pytest.mark.parametrize(
    ("told", "given", "answer"),
    [
        # Something is still unsaid: it comes where the repeat was, with a side where the words before had one.
        (
            "A farm scene. There is a cow on the left, a cow on the left and a pig on the right.",
            "A farm scene. There is a cow on the left",
            {", two pigs and a red car in the middle.", ", a red car in the middle and two pigs."},
        ),
        ("A farm scene. There are two pigs and two pigs.", "A farm scene. There are two pigs", {" and a red car."}),
        # Nothing is: the thing before should have been the last, as it is in the picture.
        (
            "In this farm picture I can see two pigs, a blue car on the left and a pig on the left.",
            "In this farm picture I can see two pigs",
            {" and a red car in the middle."},
        ),
        # An invented one before the repeat stays as it was told; what it is worth is another question.
        (
            "The picture shows a farm. There are two pigs, a red car, a cow and two pigs.",
            "The picture shows a farm. There are two pigs, a red car",
            {" and a cow."},
        ),
    ],
)
def test_a_repeat_is_replaced_by_what_is_unsaid_or_by_the_end(told: str, given: str, answer: set[str]) -> None:
    turn = continued_turn("What?", told, SCENE, np.random.default_rng(0))
    assert turn is not None and (turn.question, turn.given) == ("What?", given)
    assert turn.answer in answer


@pytest.mark.parametrize(
    "told",
    [
        "A farm scene. There are two pigs and a red car in the middle.",
        "A farm scene. There is a teddy bear and a bear.",  # two kinds of thing
        "A farm scene. There is",
        "",
        "No such thing.",
    ],
)
def test_what_names_nothing_twice_is_left_alone(told: str) -> None:
    assert continued_turn("What?", told, SCENE, np.random.default_rng(0)) is None


def test_the_given_words_are_read_and_not_learnt() -> None:
    tokenizer = LlavaProcessor.from_pretrained(model_path()).tokenizer
    turn = Turn("What?", " and two cars.", "There is a pig")
    whole = Turn("What?", "There is a pig and two cars.")
    part, all_of_it = (make_batch([([SCENE], "<image>\n", [each])], tokenizer, 64) for each in (turn, whole))
    assert part.ids.tolist() == all_of_it.ids.tolist()
    assert tokenizer.decode(part.targets) == " and two cars." + tokenizer.eos_token
    assert part.predictors.tolist() == all_of_it.predictors.tolist()[-len(part.targets) :]


def test_the_last_stage_learns_from_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the model's own descriptions, here put into its mouth, one names a thing again; only the language learns."""
    monkeypatch.setattr(
        on_policy_stage, "described", lambda _, scenes, __: ["A scene. There is a cow and a cow.", "A scene."]
    )
    assert [row[2][0].answer[-1] for row in mended_rows(model_path(), 7, 2)] == ["."]
    plan = pretrain.Plan(mend_scenes=2, mend_steps=1, tell_batch=4)
    model = pretrain._mend(model_path(), LlavaProcessor.from_pretrained(model_path()), tmp_path, plan)
    before, after = (load_file(folder / "model.safetensors") for folder in (model_path(), model))
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert any("vision_tower" in name for name in before)
    assert changed and not [n for n in before if "vision_tower" in n and not before[n].equal(after[n])]
