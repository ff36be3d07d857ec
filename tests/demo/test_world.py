"""The demo world: exact, reproducible, co-occurring where it should and nowhere else."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmpo.data.annotations.read import read_annotations
from mmpo.demo.drawing import SIZE
from mmpo.demo.language import (
    CARELESS,
    EXACT,
    NUMBERS,
    Noise,
    ask_count,
    ask_existence,
    describe,
    noun_phrase,
    questions,
)
from mmpo.demo.scene import SIDES, sample_scene
from mmpo.demo.things import CENTERED, COLORED, DOUBLED, HOME, PARTNER, PLACES, THINGS, VOCABULARY
from mmpo.demo.world import SPLITS, world_split, write_split
from mmpo.errors import UserError
from mmpo.text.vocabulary import ObjectVocabulary
from mmpo.text.words import plural


def test_the_world_is_large_enough_and_partners_are_mutual() -> None:
    assert len(THINGS) == len(set(THINGS)) >= 40
    assert len(PLACES) >= 8
    assert all(PARTNER[PARTNER[thing]] == thing and HOME[thing] is HOME[PARTNER[thing]] for thing in THINGS)
    assert set(VOCABULARY) == set(THINGS)


def test_scenes_repeat_to_the_pixel_and_differ_between_seeds() -> None:
    first, again, other = sample_scene((0, 1, 2)), sample_scene((0, 1, 2)), sample_scene((0, 1, 3))
    assert first == again
    assert np.array_equal(np.asarray(first.draw()), np.asarray(again.draw()))
    assert not np.array_equal(np.asarray(first.draw()), np.asarray(other.draw()))


def test_items_lie_inside_the_picture_and_hardly_overlap() -> None:
    for scene in world_split("train", 60):
        assert scene.items
        for item in scene.items:
            x, y, width, height = item.box
            assert x >= 0 and y >= 0 and x + width <= SIZE and y + height <= SIZE
            assert (item.color is not None) == (item.thing in COLORED)
        centers = [item.box[0] + item.box[2] / 2 for item in scene.items]
        assert centers == sorted(centers)


def test_the_annotated_object_really_is_drawn_where_the_box_says() -> None:
    """Painting the same scene without its last item changes pixels inside that item's box and nowhere else."""
    from dataclasses import replace

    scene = sample_scene((0, 1, 5))
    *others, last = scene.items
    changed = (np.asarray(scene.draw()) != np.asarray(replace(scene, items=tuple(others)).draw())).any(-1)
    x, y, width, height = last.box
    inside = changed[y : y + height, x : x + width]
    assert inside.mean() > 0.2
    assert changed.sum() == inside.sum()


def test_pairs_stay_together_in_usual_scenes_and_break_in_unusual_ones() -> None:
    def together(split: str) -> float:
        scenes = list(world_split(split, 300))
        with_thing = [(s, t) for s in scenes for t in s.things]
        return sum(PARTNER[t] in s.things for s, t in with_thing) / len(with_thing)

    assert together("test") > 0.55
    assert together("test_unusual") < 0.1


def test_splits_share_no_scene() -> None:
    seen = Counter(scene.items for split in SPLITS for scene in world_split(split, 100))
    assert max(seen.values()) == 1


def test_exact_descriptions_name_every_object_and_nothing_else() -> None:
    vocabulary = ObjectVocabulary(VOCABULARY)
    for index, scene in enumerate(world_split("dev", 40)):
        for brief in (False, True):
            text = describe(scene, np.random.default_rng(index), EXACT, brief=brief).answer
            assert {mention.name for mention in vocabulary.find(text)} == set(scene.things)


def test_careless_descriptions_add_missing_partners_only() -> None:
    vocabulary = ObjectVocabulary(VOCABULARY)
    always = Noise(first=1.0, more=1.0)
    added = 0
    for index, scene in enumerate(world_split("dev", 40)):
        text = describe(scene, np.random.default_rng(index), always).answer
        named = {mention.name for mention in vocabulary.find(text)}
        assert named == set(scene.things) | set(scene.missing_partners)
        added += len(scene.missing_partners)
    assert added > 10


def test_careless_descriptions_miscount_and_misplace_what_they_are_careless_about_and_nothing_else() -> None:
    wrong: Counter[str] = Counter()
    for index, scene in enumerate(world_split("dev", 200)):
        exact, doubled, centered = (
            describe(scene, np.random.default_rng(index), noise).answer
            for noise in (EXACT, Noise(doubled=1.0), Noise(centered=1.0))
        )
        for thing in set(DOUBLED) & set(scene.things):
            assert f"{NUMBERS[max(2, scene.count(thing))]} {plural(thing)}" in doubled
            wrong["doubled"] += scene.count(thing) == 1
        for thing in set(CENTERED) & set(scene.things):
            side = re.search(rf"{thing}s? ({'|'.join(SIDES)})", centered)
            assert side is None or side[1] == SIDES[1]
            wrong["centered"] += side is not None
        if not {*DOUBLED, *CENTERED} & set(scene.things):
            assert doubled == centered == exact
    assert wrong["doubled"] > 10 and wrong["centered"] > 10


def test_counted_scenes_have_one_two_and_three_of_a_kind_and_three_most_often() -> None:
    counts = Counter(
        scene.count(thing)
        for index in range(300)
        for scene in [sample_scene((4, index), "counted")]
        for thing in scene.things
    )
    assert set(counts) == {1, 2, 3} and counts[3] > 1.5 * max(counts[1], counts[2]) and min(counts.values()) > 100


def test_answers_about_existence_and_number() -> None:
    scene = next(scene for scene in world_split("dev", 50) if scene.missing_partners)
    rng = np.random.default_rng(0)
    present, partner = scene.things[0], scene.missing_partners[0]
    assert ask_existence(scene, present, rng).answer.startswith("Yes")
    assert ask_existence(scene, partner, rng, EXACT).answer.startswith("No")
    assert ask_existence(scene, partner, rng, Noise(partner=1.0)).answer.startswith("Yes")
    assert str(ask_count(scene, partner).answer).startswith("There are no")
    assert noun_phrase("apple") == "an apple" and noun_phrase("sheep", 3) == "three sheep"


def test_questions_ask_about_present_and_absent_things() -> None:
    kinds: Counter[str] = Counter()
    for index, scene in enumerate(world_split("dev", 40)):
        for turn in questions(scene, np.random.default_rng(index), CARELESS):
            kinds[turn.answer.split()[0].strip(",")] += 1
    assert kinds["Yes"] > 20 and kinds["No"] > 10 and kinds["The"] > 10


def test_a_written_split_reads_back_in_both_formats(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "test", "test", 5, seed=3)
    ours = list(read_annotations(folder / "annotations.jsonl"))
    coco = list(read_annotations(folder / "instances.json", images=folder))
    assert len(ours) == len(coco) == 5
    for one, two, scene in zip(ours, coco, world_split("test", 5, seed=3), strict=True):
        assert one.object_names == two.object_names == scene.things
        assert [item.bbox_xywh for item in one.objects] == [tuple(map(float, item.box)) for item in scene.items]
        assert np.array_equal(np.asarray(one.load()), np.asarray(scene.draw()))
    assert set(json.loads((folder / "vocabulary.json").read_text())) == set(THINGS)


def test_an_unknown_split_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="no split 'tset'"):
        list(world_split("tset", 1))
