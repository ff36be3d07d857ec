"""A right against a wrong answer of the model to a question whose answer is known (IRPO, Pang et al. 2024,
arXiv:2404.19733, section 2). Train on them with `{dpo: …, sft: …}`, as the paper does.

An answer is read from its end where it says which is its final one, else as a whole. A question that was always, or
never, answered rightly makes no pair.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field, field_validator

from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.from_candidates.maker import MadePair, MakerSettings, PairMaker, PairSide, pair_maker
from mmpo.data_builders.hallucination.questions import says_yes
from mmpo.errors import Quarantined
from mmpo.text.function_words import NUMBERS

T = TypeVar("T")
FINAL = r"(?:final answer|answer)(?: is)?\s*[:=]?\s*(.+)"
SHORT = 20
"""Of answers with at most so many words, length is part of what they say: the guards of length leave them alone."""

_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS, start=1)} | {"none": "0", "zero": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_UNDECIDED = frozenset({"not", "no", "or", "either", "neither", "maybe", "unsure", "isn", "aren", "t"})


class RightWrongSettings(MakerSettings):
    """A right against a wrong answer to a question with a known answer (IRPO)."""

    maker: Literal["right_wrong"] = Field("right_wrong", description="How pairs are made.")
    pairs_per_prompt: int = Field(10, ge=1, description="Most pairs of one question.")
    match: Literal["contains", "equal"] = Field(
        "contains",
        description="contains: an answer is right if it has the words of the known one and leaves nothing open. equal: "
        "if it has no other words.",
    )
    final: str = Field(
        FINAL, description="Regular expression whose first group, where it is found last, is the final answer."
    )

    @field_validator("final")
    @classmethod
    def _one_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if groups < 1:
            raise ValueError("needs a group in round brackets around the answer")
        return value


@pair_maker("right_wrong", settings=RightWrongSettings)
class RightWrong(PairMaker[RightWrongSettings]):
    """Pairs of answers as they are."""

    def pairs_of(self, picture: JudgedPicture) -> list[MadePair]:
        found: list[MadePair] = []
        reasons: Counter[str] = Counter()
        for number, group in picture.prompts.items():
            pairs, reason = self._of(number, group)
            found += pairs
            reasons[reason] += not pairs
        if not found:
            first = max(reasons, key=lambda name: reasons[name], default="no_answer")
            raise Quarantined("filter", first, ", ".join(f"{name} {count}" for name, count in sorted(reasons.items())))
        return found

    def _of(self, number: int, group: Sequence[Candidate]) -> tuple[list[MadePair], str]:
        """The pairs of one question, or why it has none."""
        if group[0].answer is None:
            return [], "no_answer"
        right: list[Candidate] = []
        wrong: list[Candidate] = []
        for candidate in group:
            said = self._is_right(candidate)
            if said is not None:
                (right if said else wrong).append(candidate)
        if not right or not wrong:
            return [], "always_right" if right else "always_wrong" if wrong else "no_answer_read"
        return [
            MadePair(
                key=f"p{number}s{chosen.sample}x{rejected.sample}",
                prompt=chosen.prompt,
                chosen=PairSide.of(chosen),
                rejected=PairSide.of(rejected),
                kind="answer",
                free_length=max(chosen.words, rejected.words) <= SHORT,
                about={
                    "answer": chosen.answer,
                    "right": [one.sample for one in right],
                    "wrong": [one.sample for one in wrong],
                },
            )
            for chosen, rejected in in_turn(right, wrong, self.settings.pairs_per_prompt)
        ], ""

    def _is_right(self, candidate: Candidate) -> bool | None:
        if candidate.truncated or candidate.answer is None:
            return None
        return is_right(
            candidate.answer, final_answer(candidate.text, self.settings.final), self.settings.match == "equal"
        )


def final_answer(text: str, pattern: str = FINAL) -> str:
    """What an answer says last where `pattern` finds something, else all of it."""
    found = re.findall(f"(?i:{pattern})", text)
    if not found:
        return text
    last: str = found[-1] if isinstance(found[-1], str) else found[-1][0]
    return last


def is_right(known: str, said: str, equal: bool = False) -> bool | None:
    """Whether an answer is the known one; None where it can't be told: a question of yes and no without either, words
    that leave it open (`red or blue`, `not red`), nothing said."""
    if (yes := says_yes(known)) is not None and len(known.split()) == 1:
        answered = says_yes(said)
        return None if answered is None else answered == yes
    wanted, words = content_words(known), content_words(said)
    if not wanted or not words:
        return None
    if equal:
        return wanted == words
    if _UNDECIDED & set(words) - set(wanted):
        return None
    places = range(len(words) - len(wanted) + 1)
    return any(words[at : at + len(wanted)] == wanted for at in places)


def content_words(text: str) -> list[str]:
    """The words of an answer in lower case, numbers in digits, without articles."""
    words = re.findall(r"\w+(?:\.\d+)?", text.lower())
    return [_DIGITS.get(word, word) for word in words if word not in _ARTICLES]


def in_turn(right: Sequence[T], wrong: Sequence[T], most: int) -> list[tuple[T, T]]:
    """Up to `most` different pairs. Both lists are gone through at once, each from its beginning again when it ends, so
    every answer is used before one is used much; at the end of a round the second is shifted by one."""
    rounds = math.lcm(len(right), len(wrong))
    count = min(most, len(right) * len(wrong))
    return [(right[k % len(right)], wrong[(k + k // rounds) % len(wrong)]) for k in range(count)]
