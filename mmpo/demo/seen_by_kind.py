"""Accuracy of a demo model by kind: places, colours, counts, presence; in answers and in descriptions, against the
exact scenes.

    python -m mmpo.demo.seen_by_kind [MODEL] [--adapter DIR] [--images 300]

CHAIR and POPE know classes only. Here every question about a scene has one right answer, and every word of a
description can be checked.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmpo.data.annotations.records import AnnotatedImage, AnnotatedObject
from mmpo.data.truth import Truth, truth_of
from mmpo.demo import by_kind, model_path
from mmpo.demo.by_kind import KindShare, before_after
from mmpo.demo.drawing import SIZE
from mmpo.demo.language import DETAILED, NUMBERS, Turn, ask_color, ask_count, ask_existence, ask_side
from mmpo.demo.scene import SIDES, Scene
from mmpo.demo.things import COLORS, PARTNER, THINGS, VOCABULARY
from mmpo.demo.world import world_split
from mmpo.errors import in_one_line
from mmpo.eval.claims import metrics as claims
from mmpo.text.vocabulary import ObjectVocabulary

if TYPE_CHECKING:
    from mmpo.models.generation.answer import AnswerEngine

SeenKind = Literal["place", "color", "count", "yes/no"]
COUNTS = (1, 2, 3)
SCANNED = 30
"""The multiple of the scenes asked for that are searched for things that occur twice or three times."""
HEADING = "% [95 %]"
QUESTION_TOKENS, DESCRIPTION_TOKENS = 16, 96

_NUMBER = re.compile(rf"\b(?:{'|'.join(NUMBERS)}|\d+)\b", re.I)
_COLOR = re.compile(rf"\b(?:{'|'.join(COLORS)})\b", re.I)
_SIDE = re.compile("|".join(SIDES), re.I)
_YES_NO = re.compile(r"\s*(yes|no)\b", re.I)


@dataclass(frozen=True)
class Seen:
    """A question about a scene, of a kind and within it of a group (`two` of the counts, `absent` of yes/no)."""

    kind: SeenKind
    group: str
    scene: Scene
    turn: Turn


@dataclass(frozen=True)
class SeenByKind:
    """Right answers by kind and group, and right claims of descriptions by kind; `named_again` of the objects that
    descriptions bring in (see `mmpo.eval.claims.metrics`).
    """

    answers: Mapping[SeenKind, Mapping[str, KindShare]]
    described: Mapping[str, KindShare]
    named_again: KindShare

    def answered(self, kind: SeenKind) -> KindShare:
        """All questions of a kind."""
        groups = self.answers.get(kind, {}).values()
        return sum(groups, KindShare())

    @property
    def balanced_counts(self) -> float | None:
        """The mean of the accuracies for one, two and three; None where one of them was never asked."""
        shares = [self.answers.get("count", {}).get(NUMBERS[count], KindShare()) for count in COUNTS]
        return (
            float(np.mean([share.right / share.asked for share in shares]))
            if all(share.asked for share in shares)
            else None
        )


def questions(scenes: Sequence[Scene], more: Iterable[Scene] = ()) -> list[Seen]:
    """Of each scene: where every thing is that is alone of its kind, which colour it has, how many of one thing there
    are, and whether two present things, two absent ones, and one whose usual companion is present are there. A third
    as many things that occur twice, and three times, as there are `scenes`; `more` scenes are looked through for them.
    """
    found: list[Seen] = []
    counted: dict[int, int] = defaultdict(int)
    for scene in scenes:
        rng = np.random.default_rng((*scene.seed, 7))
        alone = [item for item in scene.items if scene.count(item.thing) == 1]
        found += [Seen("place", item.side, scene, ask_side(item)) for item in alone]
        found += [Seen("color", item.color, scene, ask_color(item)) for item in alone if item.color]
        found += [Seen("count", "one", scene, ask_count(scene, item.thing)) for item in alone[:1]]
        absent = [thing for thing in THINGS if thing not in scene.things and PARTNER[thing] not in scene.things]
        for group, number, pool in (("present", 2, scene.things), ("absent", 2, absent),
                                    ("companion", 1, scene.missing_partners)):  # fmt: skip
            chosen = rng.permutation(pool)[:number]
            found += [Seen("yes/no", group, scene, ask_existence(scene, str(thing), rng)) for thing in chosen]
    for scene in (*scenes, *more):
        for thing in scene.things:
            number = scene.count(thing)
            if number in COUNTS[1:] and counted[number] < -(-len(scenes) // 3):
                counted[number] += 1
                found.append(Seen("count", NUMBERS[number], scene, ask_count(scene, thing)))
        if all(counted[number] >= -(-len(scenes) // 3) for number in COUNTS[1:]):
            break
    return found


def is_right(seen: Seen, answer: str) -> bool:
    """True if an answer agrees with the exact one: the same side, colour or number and no other, the same yes or
    no at its beginning.
    """
    pattern = {"place": _SIDE, "color": _COLOR, "count": _NUMBER, "yes/no": _YES_NO}[seen.kind]

    def said(text: str) -> set[str]:
        if seen.kind == "yes/no":
            begins = _YES_NO.match(text)
            return {begins[1].lower()} if begins else set()
        words = {match.group().lower() for match in pattern.finditer(text)}
        return {NUMBERS[int(word)] if word.isdigit() and int(word) < len(NUMBERS) else word for word in words}

    return said(answer) == said(seen.turn.answer)


def truth_of_scene(scene: Scene, vocabulary: ObjectVocabulary) -> Truth:
    """The scene as an annotation that decides every claim."""
    objects = tuple(
        AnnotatedObject(
            item.thing,
            tuple(map(float, item.box)),  # type: ignore[arg-type]
            {"side": item.side, **({"color": item.color} if item.color else {})},
        )
        for item in scene.items
    )
    return truth_of(AnnotatedImage("scene", "scene.png", Path(), SIZE, SIZE, objects), vocabulary)


def seen_by_kind(
    asked: Sequence[Seen], answers: Sequence[str], scenes: Sequence[Scene], descriptions: Sequence[str]
) -> SeenByKind:
    """Judge the answers to `asked`, and a description of each of `scenes`."""
    rights: dict[SeenKind, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for seen, answer in zip(asked, answers, strict=True):
        rights[seen.kind][seen.group].append(is_right(seen, answer))
    vocabulary = ObjectVocabulary(VOCABULARY)
    truth = {str(number): truth_of_scene(scene, vocabulary) for number, scene in enumerate(scenes)}
    texts = {str(number): text for number, text in enumerate(descriptions)}
    result = claims.score(texts, truth, vocabulary, exhaustive=True)
    totals = {kind: result.totals(kind) for kind in result.by_kind}
    again = sum(claim.again for row in result.rows for claim in row.claims)
    named = sum(row.named for row in result.rows)
    return SeenByKind(
        {
            kind: {group: KindShare(sum(each), len(each)) for group, each in groups.items()}
            for kind, groups in rights.items()
        },
        {kind: KindShare(decided - wrong, decided) for kind, (_, decided, wrong) in totals.items()},
        KindShare(again, named),
    )


def measure(
    model: str | Path, adapter: str | Path | None = None, *, split: str = "test", images: int = 300, seed: int = 0
) -> dict[str, SeenByKind]:
    """Ask a model about `images` held-out scenes: `base`, and with an adapter `tuned`."""
    scenes = list(world_split(split, images, seed))
    asked = questions(scenes, _more(split, images, seed))
    about = list({id(seen.scene): seen.scene for seen in asked}.values())

    def look(engine: AnswerEngine) -> SeenByKind:
        groups = [(scene.draw(), [seen.turn.question for seen in asked if seen.scene is scene]) for scene in about]
        replies = iter(engine.answer(groups, max_new_tokens=QUESTION_TOKENS))
        by_seen = {id(seen): next(replies).text for scene in about for seen in asked if seen.scene is scene}
        told = list(engine.describe([scene.draw() for scene in scenes], DETAILED[0]))
        return seen_by_kind(asked, [by_seen[id(seen)] for seen in asked], scenes, told)

    return before_after(model, adapter, look, max_new_tokens=DESCRIPTION_TOKENS)


def _more(split: str, images: int, seed: int) -> Iterator[Scene]:
    """The scenes of the split behind the first `images`."""
    for number, scene in enumerate(world_split(split, SCANNED * images, seed)):
        if number >= images:
            yield scene


def table(measured: Mapping[str, SeenByKind]) -> str:
    """Accuracy in percent with 95% intervals (Wilson's) as a Markdown table, a column for each state."""
    return by_kind.table({name: _rows(state) for name, state in measured.items()}, HEADING)


def _rows(state: SeenByKind) -> dict[str, KindShare | str]:
    counts, affirmed = state.answers.get("count", {}), state.answers.get("yes/no", {})
    balanced = "–" if state.balanced_counts is None else f"{100 * state.balanced_counts:.1f}"
    groups = {"present": "present", "absent": "absent", "companion": "absent companions of present"}
    kinds = {"object": "objects", "place": "places", "count": "counts", "color": "colours"}
    how_many = "*How many … are there?* right where there are"
    return {
        "*Where is the …?* right": state.answered("place"),
        "*What color is the …?* right": state.answered("color"),
        **{f"{how_many} {NUMBERS[number]}": counts.get(NUMBERS[number], KindShare()) for number in COUNTS},
        "mean of these three": balanced,
        **{f"*Is there …?* right, {name} things": affirmed.get(group, KindShare()) for group, name in groups.items()},
        **{f"{name} right in descriptions": state.described.get(kind, KindShare()) for kind, name in kinds.items()},
        "named again in descriptions": state.named_again,
    }


def main() -> None:
    """`python -m mmpo.demo.seen_by_kind [MODEL] [--adapter DIR] [--images N] [--seed N] [--json]`."""

    def rows(model: Path, adapter: Path | None, images: int, seed: int) -> dict[str, dict[str, KindShare | str]]:
        found = measure(model, adapter, images=images, seed=seed)
        return {name: _rows(state) for name, state in found.items()}

    by_kind.command(__doc__, rows, model_path, "images", 300, HEADING)


if __name__ == "__main__":
    in_one_line(main)
