"""A right description against the same one with one value wrong: another number, colour or place.

A model is wrong about a colour in few of its descriptions, so its own mistakes are few pairs, and what they teach
drowns in the pairs about objects. Every right description has values that can be put wrong. A thing gets the colour of
another thing in the picture where it can, as that is how models confuse them. Each value of a kind is put wrong as
often as it is put in another's place, so that no value becomes the better word.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mmpo.data.evidence import ACROSS, Truth
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.repair import with_value
from mmpo.data_builders.hallucination.value_questions import VALUE_KINDS
from mmpo.text.described import COLORS, same_color
from mmpo.text.scene_claims import Claim, ClaimKind, Number

Value = str | int
UPRIGHT = ("top", "bottom")


@dataclass(frozen=True)
class Misstatement:
    """The text with a wrong value, and which: `kind` and `name` of the claim, its right value and the wrong one."""

    text: str
    kind: ClaimKind
    name: str
    right: Value
    wrong: Value


class Misstater:
    """Puts values wrong; remembers which, over the descriptions of a unit of work, and keeps the balance.

    `colors` are the wrong colours to choose from, as the annotations of the unit name them, where no other thing in the
    picture has another colour.
    """

    def __init__(self, detector: Detector, colors: Iterable[str]) -> None:
        self.detector = detector
        self.colors = sorted({same_color(color) for color in colors})
        self.kinds: Counter[ClaimKind] = Counter()
        self.surplus: Counter[tuple[ClaimKind, Value]] = Counter()

    def misstate(self, text: str, truth: Truth, count: int, rng: random.Random) -> Iterator[Misstatement]:
        """Up to `count` misstatements of a text in which nothing is wrong, another claim each. Colours that another
        thing in the picture could lend its own come first, then the kind with the fewest so far.
        """
        decided = self.detector.decided(text, truth)
        if any(right is False for _, right in decided):
            return
        claims = [claim for claim, right in decided if right and claim.kind in VALUE_KINDS]
        for _ in range(count):
            rng.shuffle(claims)
            claims.sort(key=lambda claim: (not _lent(claim, truth), self.kinds[claim.kind]))
            found = next((made for claim in claims if (made := self._of(text, claim, truth, rng))), None)
            if found is None:
                return
            claim, misstatement = found
            claims.remove(claim)
            self.kinds[claim.kind] += 1
            self.surplus[claim.kind, misstatement.right] += 1
            self.surplus[claim.kind, misstatement.wrong] -= 1
            yield misstatement

    def _of(self, text: str, claim: Claim, truth: Truth, rng: random.Random) -> tuple[Claim, Misstatement] | None:
        """The claim put wrong, where the balance allows it and exactly this claim becomes wrong by it."""
        right = claim.value.least if isinstance(claim.value, Number) else claim.value
        others = _lent(claim, truth) or self._others(claim.kind, right)
        rng.shuffle(others)
        for wrong in sorted(others, key=lambda value: -self.surplus[claim.kind, value]):
            if self.surplus[claim.kind, right] - self.surplus[claim.kind, wrong] >= 2:
                return None
            changed = with_value(text, claim, wrong, self.detector.vocabulary)
            if changed is not None and changed != text and self._only_wrong(changed, claim, truth):
                return claim, Misstatement(changed, claim.kind, claim.name, right, wrong)
        return None

    def _others(self, kind: ClaimKind, right: Value) -> list[Value]:
        """Wrong values: for a number its neighbours, which are what a glance takes it for."""
        if isinstance(right, int):
            return [value for value in (right - 1, right + 1) if value >= 1]
        across = UPRIGHT if right in UPRIGHT else ACROSS
        return [value for value in (across if kind == "place" else self.colors) if value != right]

    def _only_wrong(self, text: str, claim: Claim, truth: Truth) -> bool:
        wrong = [(found.kind, found.name) for found, right in self.detector.decided(text, truth) if right is False]
        return wrong == [(claim.kind, claim.name)]


def _lent(claim: Claim, truth: Truth) -> list[Value]:
    """The colours of the other things in the picture, where the claim is about a colour that none of them has."""
    if claim.kind != "color":
        return []
    found = [
        same_color(color)
        for name, items in sorted(truth.objects.items())
        for item in items
        if name != claim.name and isinstance(color := item.attributes.get("color"), str) and color.lower() in COLORS
    ]
    return [color for color in dict.fromkeys(found) if color != claim.value]
