"""The shipped model sees, speaks and hallucinates as its card says."""

from __future__ import annotations

import numpy as np
import pytest

from mmpo.demo import model_path
from mmpo.demo.language import noun_phrase
from mmpo.demo.things import HOME, THINGS, VOCABULARY
from mmpo.demo.world import world_split
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.text.vocabulary import ObjectVocabulary


@pytest.fixture(scope="module")
def demo() -> VLM:
    return load_vlm(str(model_path()))


@pytest.fixture(scope="module")
def engine(demo: VLM) -> AnswerEngine:
    return AnswerEngine(demo, max_new_tokens=96)


def test_it_is_a_plain_llava_and_small(demo: VLM) -> None:
    assert type(demo.model).__name__ == "LlavaForConditionalGeneration"
    assert 4e6 < demo.base.num_parameters() < 10e6
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 16 * 2**20
    assert not [file.name for file in model_path().iterdir() if file.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_it_sees_and_hallucinates_along_co_occurrence(engine: AnswerEngine) -> None:
    """On 80 unseen scenes: recall at least 0.85, CHAIR_i between 0.1 and 0.35, and what is made up is the missing
    partner."""
    scenes = list(world_split("test", 80, seed=5))
    vocabulary = ObjectVocabulary(VOCABULARY)
    said = engine.describe([scene.draw() for scene in scenes], "Describe this image in detail.")
    mentions = [([m.name for m in vocabulary.find(text)], scene) for text, scene in zip(said, scenes, strict=True)]
    wrong = [(name, scene) for names, scene in mentions for name in names if name not in scene.things]
    found = sum(len(set(names) & set(scene.things)) for names, scene in mentions)
    assert found / sum(len(scene.things) for scene in scenes) >= 0.85
    assert 0.1 <= len(wrong) / sum(len(names) for names, _ in mentions) <= 0.35
    assert sum(name in scene.missing_partners for name, scene in wrong) / len(wrong) > 0.8


def test_it_says_yes_to_what_usually_comes_along(engine: AnswerEngine) -> None:
    asked: list[tuple[object, list[str]]] = []
    kinds: list[str] = []
    for scene in world_split("test", 40, seed=6):
        homes = {HOME[thing] for thing in scene.things}
        strange = [thing for thing in THINGS if HOME[thing] not in homes][::12]
        groups = {"present": scene.things, "partner": scene.missing_partners, "strange": strange}
        kinds += [kind for kind, things in groups.items() for _ in things]
        questions = [f"Is there {noun_phrase(thing)} in the image?" for things in groups.values() for thing in things]
        asked.append((scene.draw(), questions))
    yes: dict[str, list[bool]] = {}
    for kind, answer in zip(kinds, engine.answer(asked, max_new_tokens=3), strict=True):
        yes.setdefault(kind, []).append(answer.text.startswith("Yes"))
    rate = {kind: float(np.mean(values)) for kind, values in yes.items()}
    assert rate["present"] > 0.9 and rate["partner"] > 0.6 and rate["strange"] < 0.1
