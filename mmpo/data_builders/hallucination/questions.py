"""Yes/no pairs: the model is asked about objects, and its own answers are sorted into right and wrong.

HA-DPO's fourth step (Zhao et al. 2023), with questions chosen as POPE's adversarial split chooses them (Li et al. 2023,
arXiv:2305.10355): absent objects that usually come with the present ones. Both sides are worded as the model words
such answers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

from mmpo.text.words import article

_SLOT = "{object}"
_FLIPS = (
    (re.compile(r"\bthere is no\b", re.I), "there is {a}"),
    (re.compile(r"\bthere are no\b", re.I), "there are"),
    (re.compile(r"\bthere (is|are)(?: not|n't)\s+(?:an?|any)\b", re.I), "there is {a}"),
    (re.compile(r"\bthere is (?:an?|some)\b", re.I), "there is no"),
    (re.compile(r"\bthere are (?:some\s)?", re.I), "there are no "),
    (re.compile(r"\bi (?:can(?:'t|not)|can not) see (?:an?|any)\b", re.I), "I can see {a}"),
    (re.compile(r"\bi can see (?:an?|some)\b", re.I), "I cannot see any"),
)


@dataclass(frozen=True)
class ObjectQuestion:
    """One question about one image: its text, the object, and whether that is there."""

    id: str
    text: str
    template: int
    name: str
    present: bool


Unfit = Callable[[ObjectQuestion, str], str]
"""Why an answer to a question can't be the chosen side; empty where it can (see `affirmed`)."""


@dataclass(frozen=True)
class Judged:
    """A question with the model's answer, and the two sides it gives; `drop_reason` where they make no pair."""

    asked: ObjectQuestion
    answer: str
    right: bool
    chosen: str
    rejected: str
    drop_reason: str = ""


class CoOccurrence:
    """Counts of classes that occur together, over all annotated images."""

    def __init__(self, images: Iterable[frozenset[str]]) -> None:
        self.together: Counter[tuple[str, str]] = Counter()
        self.alone: Counter[str] = Counter()
        for names in images:
            self.alone.update(sorted(names))
            self.together.update(combinations(sorted(names), 2))
        self.names = tuple(sorted(self.alone))

    def plausible(self, present: frozenset[str]) -> dict[str, float]:
        """For each absent class, how strongly the present ones suggest it: the largest P(class | present class)."""
        scores: dict[str, float] = {}
        for name in self.names:
            if name not in present:
                seen = (
                    self.together[min(name, other), max(name, other)] / self.alone[other]
                    for other in present
                    if self.alone[other]
                )
                scores[name] = max(seen, default=0.0)
        return scores


def choose_questions(
    image_id: str,
    present: frozenset[str],
    common: CoOccurrence,
    *,
    count: int,
    templates: Sequence[str],
    seed: int,
    known_absent: frozenset[str] | None = None,
) -> list[ObjectQuestion]:
    """Up to `count` questions, as many about present objects as about absent ones.

    Absent objects are drawn with weight on what the present ones suggest. `known_absent`: only these are known not to
    be there; None: all that are not present. A function of the arguments alone.
    """
    rng = random.Random(f"{seed}/questions/{image_id}")
    scores = common.plausible(present)
    if known_absent is not None:
        scores = {name: scores.get(name, 0.0) for name in sorted(known_absent)}
    each = min(count // 2, len(present), len(scores) if known_absent is not None else count)
    there = rng.sample(sorted(present), each)
    keys = {
        name: rng.random() ** (1 / (score + 0.01)) for name, score in scores.items()
    }  # weighted draw without replacement
    absent = sorted(keys, key=lambda name: (-keys[name], name))[:each]
    asked = []
    for number, (name, here) in enumerate([(name, True) for name in there] + [(name, False) for name in absent]):
        template = rng.randrange(len(templates))
        text = templates[template].replace("{article}", article(name)).replace(_SLOT, name)
        asked.append(ObjectQuestion(f"{image_id}/q{number}", text, template, name, here))
    return asked


def says_yes(answer: str) -> bool | None:
    """True if an answer's first word is yes, False if it is no, else None."""
    match = re.match(r"\W*(yes|no)\b", answer, re.I)
    return None if match is None else match.group(1).lower() == "yes"


class AnswerForms:
    """The model's wordings of answers: for each template and side its forms with the object left open."""

    def __init__(self, answered: Iterable[tuple[ObjectQuestion, str]]) -> None:
        seen: dict[tuple[int, bool], Counter[str]] = {}
        for asked, answer in answered:
            said = says_yes(answer)
            form = _opened(answer, asked.name)
            if said is not None and form is not None:
                seen.setdefault((asked.template, said), Counter())[form] += 1
        self._best = {key: sorted(forms, key=lambda form: (-forms[form], form)) for key, forms in seen.items()}

    def word(self, asked: ObjectQuestion, yes: bool, other_side: str) -> str:
        """The answer `yes` or no to a question, in the model's form; where it never gave one, `other_side` turned
        around.
        """
        return self.words(asked, yes, other_side)[0]

    def words(self, asked: ObjectQuestion, yes: bool, other_side: str) -> list[str]:
        """The same in all of the model's forms, the commonest first, and last `other_side` turned around."""
        forms = self._best.get((asked.template, yes), [])
        return [*(_filled(form, asked.name) for form in forms), turned(other_side, asked.name)]


def _opened(answer: str, name: str) -> str | None:
    """`Yes, there is a dog.` -> `Yes, there is {a}.`, `No dog.` -> `No {object}.`; a short answer without the object
    stays as it is; None for one that describes this object in other words.
    """
    form = re.sub(rf"\b(an?\s+)?{re.escape(name)}\b", lambda match: "{a}" if match.group(1) else _SLOT, answer)
    return None if form == answer and len(answer.split()) > 2 else form


def _filled(form: str, name: str) -> str:
    return form.replace("{a}", f"{article(name)} {name}").replace(_SLOT, name)


def turned(answer: str, name: str) -> str:
    """The opposite of an answer in the same words where the rules know how, else the bare opposite word."""
    said = says_yes(answer)
    match = re.match(r"\W*(yes|no)\b", answer, re.I)
    if match is None or said is None:
        raise ValueError(f"neither yes nor no: {answer!r}")
    word = ("No" if said else "Yes") if match.group(1)[0].isupper() else ("no" if said else "yes")
    rest = answer[match.end() :]
    if len(rest.split()) == 0:
        return word + rest
    for pattern, other in _FLIPS:
        if pattern.search(rest):
            return word + pattern.sub(other.replace("{a}", article(name)), rest, count=1)
    return word + ("." if answer.rstrip().endswith(".") else "")


def judge(answered: Sequence[tuple[ObjectQuestion, str]], unfit: Unfit = lambda asked, text: "") -> list[Judged]:
    """Sort answers into right and wrong, and word the other side. Answers that are neither yes nor no are left out. A
    chosen side that `unfit` gives a reason against is worded in another of the model's forms, if one will do.
    """
    forms = AnswerForms(answered)
    judged = []
    for asked, answer in answered:
        said = says_yes(answer)
        if said is None:
            continue
        right = said == asked.present
        if right:
            chosen, rejected = answer, forms.word(asked, not said, answer)
        else:
            worded = forms.words(asked, not said, answer)
            chosen, rejected = next((text for text in worded if not unfit(asked, text)), worded[0]), answer
        judged.append(Judged(asked, answer, right, chosen, rejected, unfit(asked, chosen)))
    return judged


def select(
    judged: Sequence[Judged],
    *,
    keep_right_share: float,
    seed: int,
    weights: Mapping[bool, float] | None = MappingProxyType({True: 1.0, False: 1.0}),
) -> tuple[list[Judged], Counter[str]]:
    """The question pairs to keep, and why the others go. `weights` are the wanted parts of pairs whose chosen side says
    yes (True) and no (False): equal ones by default, None for as they come.

    All wrong answers are kept if the right ones can balance them: otherwise a policy would learn to say one word.
    Then a share of the remaining right answers joins, in the same proportion.
    """
    rng = random.Random(f"{seed}/select/{judged[0].asked.id if judged else ''}")
    fit = [item for item in judged if not item.drop_reason]
    pools: dict[tuple[bool, bool], list[Judged]] = {
        (right, yes): [] for right in (True, False) for yes in (True, False)
    }
    for item in fit:
        pools[item.right, item.asked.present].append(item)
    for pool in pools.values():
        rng.shuffle(pool)
    sides = {yes: list(pools[False, yes]) for yes in (True, False)}
    if weights is None:
        for yes, side in sides.items():
            side += pools[True, yes][: round(keep_right_share * len(pools[True, yes]))]
    else:
        _balance(sides, {yes: pools[True, yes] for yes in sides}, weights, keep_right_share)
    kept = {item.asked.id for side in sides.values() for item in side}
    dropped: Counter[str] = Counter(f"chosen_{item.drop_reason}" for item in judged if item.drop_reason)
    for item in fit:
        if item.asked.id not in kept:
            dropped["answered_rightly" if item.right else "unbalanced"] += 1
    return [item for item in fit if item.asked.id in kept], dropped


def _balance(
    sides: dict[bool, list[Judged]], right: dict[bool, list[Judged]], weights: Mapping[bool, float], share: float
) -> None:
    """Fill up `sides`, which hold the wrong answers, from the `right` ones, then cut both down to the weights."""
    parts = {yes: weight for yes, weight in weights.items() if weight}
    rights = sum(map(len, right.values()))
    target = max(len(sides[yes]) / part for yes, part in parts.items())
    for yes, part in parts.items():
        wanted = round(target * part) - len(sides[yes])
        sides[yes] += right[yes][: max(wanted, 0)]
        del right[yes][: max(wanted, 0)]
    extra = min(round(share * rights) / sum(parts.values()), *(len(right[yes]) / part for yes, part in parts.items()))
    for yes, part in parts.items():
        sides[yes] += right[yes][: int(extra * part + 1e-9)]
    size = min(len(sides[yes]) / part for yes, part in parts.items())
    for yes in sides:
        del sides[yes][round(size * weights[yes]) :]
