"""What a demo model sees, by kind, from answers and descriptions made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmpo.demo.by_kind import KindShare
from mmpo.demo.language import EXACT, NUMBERS, describe
from mmpo.demo.scene import SIDES, Item, Scene
from mmpo.demo.seen_by_kind import Seen, SeenByKind, is_right, questions, seen_by_kind, table
from mmpo.demo.world import world_split

CAR = Item("car", "red", (4, 20, 30, 30), False)
SCENE = Scene("street", (CAR, Item("bus", None, (80, 20, 30, 30), False), replace(CAR, box=(70, 60, 30, 30))), (1, 2))
ALONE = Scene("street", (CAR,), (1, 3))


def of_kind(kind: str, scene: Scene = ALONE) -> Seen:
    return next(seen for seen in questions([scene]) if seen.kind == kind)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("place", ["The car is on the left.", "On the left"], ["It is on the right.", "Left, or on the right", ""]),
        ("color", ["The car is red.", "Red"], ["The car is blue.", "red and blue", "coloured"]),
        ("count", ["There is one car.", "1", "One."], ["There are two cars.", "There are 3", "one or two", "many"]),
    ],
)  # fmt: skip
def test_answers_are_read_by_their_deciding_word(kind: str, right: list[str], wrong: list[str]) -> None:
    seen = of_kind(kind)
    assert [is_right(seen, answer) for answer in right] == [True] * len(right)
    assert [is_right(seen, answer) for answer in wrong] == [False] * len(wrong)


def test_yes_and_no_count_at_the_beginning() -> None:
    yes, no = (next(s for s in questions([ALONE]) if s.group == group) for group in ("present", "absent"))
    assert is_right(yes, "Yes, there is a car.") and is_right(no, "no") and is_right(no, "No, there is no car.")
    assert not is_right(yes, "No.") and not is_right(no, "Yes") and not is_right(no, "There is no car.")


def test_questions_have_one_right_answer_and_counts_of_every_number() -> None:
    scenes = list(world_split("test", 30, seed=4))
    asked = questions(scenes, world_split("dev", 400, seed=4))
    assert all(is_right(seen, seen.turn.answer) for seen in asked)
    groups = [(seen.kind, seen.group) for seen in asked]
    assert groups.count(("count", "two")) == groups.count(("count", "three")) == 10
    assert groups.count(("yes/no", "present")) == groups.count(("yes/no", "absent")) == 60
    partners = [seen for seen in asked if seen.group == "companion"]
    assert len(partners) == sum(bool(scene.missing_partners) for scene in scenes)
    assert all(is_right(seen, "No.") for seen in partners)
    assert {group for kind, group in groups if kind == "place"} == set(SIDES)
    for seen in asked:
        if seen.kind == "count":
            assert NUMBERS.index(seen.group) in {seen.scene.count(thing) for thing in seen.scene.things}


def test_no_question_is_about_which_of_two_cars() -> None:
    assert {seen.turn.question for seen in questions([SCENE]) if seen.kind == "place"} == {"Where is the bus?"}
    assert not [seen for seen in questions([SCENE]) if seen.kind == "color"]


def test_a_model_that_always_says_one_and_on_the_left() -> None:
    scenes = list(world_split("test", 30, seed=4))
    asked = questions(scenes, world_split("dev", 400, seed=4))
    said = {"place": "It is on the left.", "color": "It is red.", "count": "There is one.", "yes/no": "Yes"}
    told = ["A kitchen with a cup on the left and a cup on the left."] * len(scenes)
    found = seen_by_kind(asked, [said[seen.kind] for seen in asked], scenes, told)
    assert found.balanced_counts == pytest.approx(1 / 3)
    assert found.answers["yes/no"]["present"] == KindShare(60, 60) and found.answers["yes/no"]["absent"] == KindShare(
        0, 60
    )
    left = sum(seen.group == "on the left" for seen in asked if seen.kind == "place")
    assert found.answered("place").right == left
    assert found.named_again.right == sum(scene.count("cup") < 2 for scene in scenes)
    with_cup = sum(scene.count("cup") > 0 for scene in scenes)
    assert found.described["object"] == KindShare(2 * with_cup, 60)


def test_exact_answers_and_descriptions_are_all_right_and_one_change_is_one_error() -> None:
    scenes = list(world_split("test", 30, seed=4))
    asked = questions(scenes, world_split("dev", 400, seed=4))
    told = [describe(scene, np.random.default_rng(n), EXACT).answer for n, scene in enumerate(scenes)]
    exact = seen_by_kind(asked, [seen.turn.answer for seen in asked], scenes, told)
    assert exact.balanced_counts == 1.0 and exact.named_again.right == 0
    shares = [*exact.described.values(), *(exact.answered(kind) for kind in exact.answers)]
    assert all(share.right == share.asked for share in shares)
    first = next(n for n, text in enumerate(told) if "on the left" in text)
    changed = [*told[:first], told[first].replace("on the left", "on the right", 1), *told[first + 1 :]]
    found = seen_by_kind(asked, [seen.turn.answer for seen in asked], scenes, changed)
    assert found.described["place"] == replace(exact.described["place"], right=exact.described["place"].asked - 1)


def test_the_table_has_a_row_for_every_kind_and_a_column_for_each_state() -> None:
    base = SeenByKind({"place": {"on the left": KindShare(1, 4)}}, {"object": KindShare(3, 4)}, KindShare(0, 4))
    lines = table({"base": base, "tuned": replace(base, described={})}).splitlines()
    assert lines[0] == "| % [95 %] | base | tuned |"
    assert "| *Where is the …?* right | 25.0 [4.6, 69.9] of 4 | 25.0 [4.6, 69.9] of 4 |" in lines
    assert "| objects right in descriptions | 75.0 [30.1, 95.4] of 4 | – |" in lines
    assert "| mean of these three | – | – |" in lines
