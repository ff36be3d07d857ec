"""Pairs from questions about numbers, colours and places: `How many cups are in the image?`

The model is asked, its answer is read as claims are, and the pair is that answer with the true value against the same
answer with a wrong one. A policy must not learn that one value is the better answer: over a unit of work each value is
chosen as often as it is rejected, as far as the answers allow.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mmpo.data.truth import ACROSS, Truth, is_at
from mmpo.data_builders.hallucination.repair import number_word, other_place, with_value
from mmpo.text.described import AT, COLORS, same_color, side_of
from mmpo.text.function_words import NUMBERS
from mmpo.text.scene_claims import Claim, Number, read_claims
from mmpo.text.vocabulary import ObjectVocabulary
from mmpo.text.words import MASS, is_plural, plural

ValueKind = Literal["count", "color", "place"]
VALUE_KINDS: tuple[ValueKind, ...] = get_args(ValueKind)

MOST = 4
"""The largest number that a wrong answer is given, where the right one is smaller."""

_BARE = r"\W*(?:(?:it|they|there)(?:['’]s|['’]re|\s+is|\s+are)\s+)?(?P<value>{})\W*"
_BARE_ANSWERS = {
    "count": re.compile(_BARE.format(rf"{'|'.join(NUMBERS)}|\d+"), re.I),
    "color": re.compile(_BARE.format("|".join(sorted(COLORS))), re.I),
    "place": re.compile(_BARE.format(AT), re.I),
}


@dataclass(frozen=True)
class ValueAsked:
    """A question about one image: its text, what it is about, and the right value (a number, a colour, a side)."""

    id: str
    text: str
    kind: ValueKind
    name: str
    right: str | int


@dataclass(frozen=True)
class ValueAnswer:
    """The value that an answer gives, and how the answer reads with others; None where it can't be worded so."""

    value: str | int
    bare: bool
    worded: Callable[[str | int], str | None]


@dataclass(frozen=True)
class ValueJudged:
    """A question with the model's answer; `rejected` is empty until a wrong value is drawn for a right answer."""

    asked: ValueAsked
    said: str | int
    chosen: str
    rejected: str
    worded: Callable[[str | int], str | None]
    drop_reason: str = ""

    @property
    def right(self) -> bool:
        return self.said == self.asked.right


@dataclass(frozen=True)
class ValuePair:
    """A pair to keep, with the value that its rejected side gives."""

    judged: ValueJudged
    wrong: str | int
    rejected: str


def choose_value_questions(
    image_id: str,
    truth: Truth,
    *,
    per_image: Mapping[ValueKind, int],
    templates: Mapping[ValueKind, Sequence[str]],
    seed: int,
) -> list[ValueAsked]:
    """Questions whose answers the annotation knows: numbers of any class, colours and places of classes with a single
    object. Every second question about a number is about several objects, where there are some. A function of the
    arguments alone.
    """
    rng = random.Random(f"{seed}/values/{image_id}")
    asked: list[ValueAsked] = []
    for kind in VALUE_KINDS:
        known = {name: value for name in sorted(truth.objects) if (value := _value_of(kind, name, truth)) is not None}
        names = rng.sample(list(known), len(known))
        if kind == "count" and rng.random() < 0.5:
            names.sort(key=lambda name: known[name] == 1)
        for number, name in enumerate(names[: per_image[kind]]):
            text = rng.choice(list(templates[kind])).replace("{objects}", plural(name)).replace("{object}", name)
            asked.append(ValueAsked(f"{image_id}/{kind}{number}", text, kind, name, known[name]))
    return asked


def _value_of(kind: ValueKind, name: str, truth: Truth) -> str | int | None:
    items = truth.marked(name)
    if not items or is_plural(name) or name.split()[-1] in MASS:
        return None
    if kind == "count":
        return len(items)
    if len(items) > 1:
        return None
    if kind == "color":
        color = items[0].attributes.get("color")
        return same_color(color) if isinstance(color, str) and color.lower() in COLORS else None
    sides = [side for side in ACROSS if is_at(items[0], side, truth) is not False]
    return sides[0] if len(sides) == 1 else None


def read_answer(answer: str, asked: ValueAsked, vocabulary: ObjectVocabulary) -> ValueAnswer | None:
    """The value that an answer gives to a question: in a claim about the object, or by itself (`Two.`, `It is red.`).
    None where it gives none, or several.
    """
    claims = [
        claim
        for claim in read_claims(answer, vocabulary, exhaustive=True)
        if claim.kind == asked.kind and claim.name == asked.name
    ]
    if len(claims) == 1 and claims[0].about.spread is None:
        claim = claims[0]

        def worded(value: str | int) -> str | None:
            return with_value(answer, claim, value, vocabulary, spelt=True)

        return ValueAnswer(_claimed_value(claim), False, worded)
    match = None if claims else _BARE_ANSWERS[asked.kind].fullmatch(answer)
    if match is None:
        return None
    said = match["value"]
    read = _bare_value(asked.kind, said, match)

    def replaced(value: str | int) -> str:
        words = _bare_words(said, value)
        return answer[: match.start("value")] + words + answer[match.end("value") :]

    return ValueAnswer(read, True, replaced)


def _claimed_value(claim: Claim) -> str | int:
    return claim.value.least if isinstance(claim.value, Number) else claim.value


def _bare_value(kind: ValueKind, said: str, match: re.Match[str]) -> str | int:
    if kind == "count":
        return int(said) if said.isdigit() else NUMBERS.index(said.lower()) + 1
    return same_color(said) if kind == "color" else side_of(match["side"])


def _bare_words(said: str, value: str | int) -> str:
    if isinstance(value, int):
        words = str(value) if said.isdigit() else number_word(value)
    else:
        words = other_place(said, value) if value in ACROSS else value
    return words[:1].upper() + words[1:] if said[:1].isupper() else words


def judge_values(
    answered: Sequence[tuple[ValueAsked, str]],
    vocabulary: ObjectVocabulary,
    unfit: Callable[[ValueAsked, str], str] = lambda asked, text: "",
) -> list[ValueJudged]:
    """Sort answers into right and wrong; those that give no value are left out. The chosen side is the model's own
    answer with the right value; where `unfit` gives a reason against it, or it can't be worded, `drop_reason` says so.
    """
    judged = []
    for asked, answer in answered:
        read = read_answer(answer, asked, vocabulary)
        if read is None:
            continue
        right = read.value == asked.right
        chosen = answer if right else read.worded(asked.right)
        drop_reason = "unworded" if chosen is None else "" if read.bare else unfit(asked, chosen)
        judged.append(ValueJudged(asked, read.value, chosen or "", "" if right else answer, read.worded, drop_reason))
    return judged


def select_values(
    judged: Sequence[ValueJudged], *, keep_right_share: float, balanced: bool, seed: int
) -> tuple[list[ValuePair], Counter[str]]:
    """The pairs to keep, and why the others go. Wrong answers become pairs; right ones join, against a wrong value, so
    that each value is chosen as often as it is rejected, and a share of the rest besides. Wrong answers that the right
    ones can't balance go. Not `balanced`: all wrong answers, and the share of the right ones.
    """
    dropped: Counter[str] = Counter(f"chosen_{item.drop_reason}" for item in judged if item.drop_reason)
    kept: list[ValuePair] = []
    for kind in VALUE_KINDS:
        fit = [item for item in judged if not item.drop_reason and item.asked.kind == kind]
        rng = random.Random(f"{seed}/values/{kind}/{fit[0].asked.id if fit else ''}")
        wrong = [ValuePair(item, item.said, item.rejected) for item in fit if not item.right]
        right = [item for item in fit if item.right]
        rng.shuffle(right)
        pairs = _Balance(wrong, _values(kind, fit))
        share = round(keep_right_share * len(right))
        if balanced:
            right = [item for item in right if not pairs.join(item, only_if_better=True)]
        for item in right[:share]:
            pairs.join(item, only_if_better=False)
        if balanced:
            pairs.cut(rng)
        kept += pairs.kept
    ids = {pair.judged.asked.id for pair in kept}
    for item in judged:
        if not item.drop_reason and item.asked.id not in ids:
            dropped["answered_rightly" if item.right else "unbalanced"] += 1
    order = {item.asked.id: number for number, item in enumerate(judged)}
    return sorted(kept, key=lambda pair: order[pair.judged.asked.id]), dropped


def _values(kind: ValueKind, fit: Sequence[ValueJudged]) -> list[str | int]:
    """The values that a wrong answer may give: those that occur, and the usual ones."""
    seen: dict[str | int, None] = dict.fromkeys(item.said for item in fit if not item.right)
    seen |= dict.fromkeys(item.asked.right for item in fit)
    if kind == "count":
        seen = dict.fromkeys(value for value in seen if value) | dict.fromkeys(range(1, MOST + 1))
    return list(seen | dict.fromkeys(ACROSS)) if kind == "place" else list(seen)


class _Balance:
    """Pairs, and by how much each value is chosen more often than rejected."""

    def __init__(self, kept: list[ValuePair], values: Sequence[str | int]) -> None:
        self.kept, self.values = kept, values
        self.surplus: Counter[str | int] = Counter()
        for pair in kept:
            self.surplus[pair.judged.asked.right] += 1
            self.surplus[pair.wrong] -= 1

    def join(self, item: ValueJudged, *, only_if_better: bool) -> bool:
        """Add a right answer, against the wrong value that is chosen most; False where that can't be."""
        right = item.asked.right
        for wrong in self._most_chosen(right):
            if only_if_better and self.surplus[wrong] - self.surplus[right] < 2:
                return False
            rejected = item.worded(wrong)
            if rejected is not None and rejected != item.chosen:
                self.kept.append(ValuePair(item, wrong, rejected))
                self.surplus[right] += 1
                self.surplus[wrong] -= 1
                return True
        return False

    def _most_chosen(self, right: str | int) -> Iterator[str | int]:
        near = (lambda value: abs(value - right)) if isinstance(right, int) else lambda value: 0
        others = [value for value in self.values if value != right]
        yield from sorted(others, key=lambda value: (-self.surplus[value], near(value)))

    def cut(self, rng: random.Random) -> None:
        """Take out pairs whose chosen value is chosen too often, and whose rejected one too rarely."""
        pool = list(self.kept)
        rng.shuffle(pool)
        changed = True
        while changed:
            changed = False
            for pair in pool:
                right, wrong = pair.judged.asked.right, pair.wrong
                if pair in self.kept and self.surplus[right] - self.surplus[wrong] >= 2:
                    self.kept.remove(pair)
                    self.surplus[right] -= 1
                    self.surplus[wrong] += 1
                    changed = True
