"""Last stage of training the demo model: it learns from its own descriptions to say nothing twice.

Trained on the annotator's words alone, a model never sees what comes after a mistake of its own, and there it repeats
itself. So it describes training scenes, and where it names a thing again, it is shown how the annotator would have gone
on from the words before (DAgger: Ross, Gordon and Bagnell 2011, arXiv 1011.0686).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmpo.demo.language import DETAILED, Turn, group_phrase
from mmpo.demo.scene import SIDES, Scene
from mmpo.demo.seen_by_kind import DESCRIPTION_TOKENS
from mmpo.demo.things import THINGS
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.text.words import plural
from tools.demo_models.caption_training import Row
from tools.demo_models.tower_pretraining import training_scene

_LISTING = re.compile(r"^(.*?(?:There (?:is|are)|I can see) )(.+)\.$")
_NAMES = {name: thing for thing in THINGS for name in (thing, plural(thing))}
_NAMED = re.compile(rf"\b(?:{'|'.join(sorted(_NAMES, key=len, reverse=True))})\b")


def continued_turn(question: str, told: str, scene: Scene, rng: np.random.Generator) -> Turn | None:
    """`told` up to the first thing that is named again, and its continuation: with what is not yet named, or with the
    end. None where nothing is named again."""
    match = _LISTING.match(told)
    if match is None:
        return None
    phrases = re.split(r", | and ", match[2])
    things = [_NAMES[found[0]] if (found := _NAMED.search(phrase)) else "" for phrase in phrases]
    again = next((n for n, thing in enumerate(things) if thing in things[:n]), None)
    if again is None:
        return None
    with_side = any(side in phrase for phrase in phrases[:again] for side in SIDES)

    def phrase(thing: str) -> str:
        return group_phrase([item for item in scene.items if item.thing == thing], with_side)

    rest = [phrase(str(thing)) for thing in rng.permutation([t for t in scene.things if t not in things[:again]])]
    if not rest and again > 1:  # the one before should have been announced as the last
        again -= 1
        rest = [phrase(things[again]) if things[again] in scene.things else phrases[again]]
    given = match[1] + ", ".join(phrases[:again])
    more = "".join(f", {one}" for one in rest[:-1]) + "".join(f" and {one}" for one in rest[-1:])
    return Turn(question, f"{more}.", given)


def described(folder: Path, scenes: Sequence[Scene], questions: Sequence[str]) -> list[str]:
    """The answers of the model in `folder` to each question about its scene."""
    engine = AnswerEngine(load_vlm(str(folder)), max_new_tokens=DESCRIPTION_TOKENS)
    asked = [(scene.draw(), [question]) for scene, question in zip(scenes, questions, strict=True)]
    return [reply.text for reply in engine.answer(asked, max_new_tokens=DESCRIPTION_TOKENS)]


def mended_rows(folder: Path, seed: int, number: int) -> list[Row]:
    """A row for each of `number` training scenes whose description by the model in `folder` names a thing again."""
    scenes = [training_scene((seed, 6, index)) for index in range(number)]
    questions = [DETAILED[index % len(DETAILED)] for index in range(number)]
    rows: list[Row] = []
    told = described(folder, scenes, questions) if number else []
    for index, (scene, question, text) in enumerate(zip(scenes, questions, told, strict=True)):
        turn = continued_turn(question, text, scene, np.random.default_rng((seed, index)))
        rows += [([scene], "<image>\n", [turn])] if turn else []
    print(f"{len(rows)} of {number} descriptions name a thing again", flush=True)
    return rows
