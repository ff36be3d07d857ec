"""Yes or no read from a free text, by the rules of the scripts in use. Each rule is a named parser.

The rules disagree on the same text (`NO` is "yes" for the official POPE script and "no" for others), so a number is
comparable only with numbers made by the same parser, and every result names its own. Sources: RUCAIBox/POPE
evaluate.py, haotian-liu/LLaVA eval_pope.py, shikiw/OPERA pope_eval.py, open-compass/VLMEvalKit yorn.py,
EvolvingLMMs-Lab/lmms-eval tasks/pope, YanNeu/DASH-B eval_utils.py, DAMO-NLP-SG/VCD eval_pope.py,
Baiqi-Li/NaturalBench naturalbench_vqa.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from mmpo.errors import UserError

T = TypeVar("T")
ParserName = Literal["official", "llava", "opera", "vlmevalkit", "lmms-eval", "dash"]


@dataclass(frozen=True)
class YesNoVerdict:
    """`label` is "yes", "no", or None where the rule has a third outcome.

    `found` is False where the text did not hold the word that the rule looks for, so that the label is only the
    rule's default.
    """

    label: Literal["yes", "no"] | None
    found: bool


_YES_WORD = re.compile(r"\byes\b", re.IGNORECASE)
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_FULL_STOPS = 32
"""The number of full stops that VLMEvalKit deletes: the number behind the flag that its call gives as the count."""
_BREAKING_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def _official(text: str) -> YesNoVerdict:
    """The first sentence, commas deleted, split on single spaces: "no" if a token is exactly No, not or no, else
    "yes".
    """
    tokens = text.split(".")[0].replace(",", "").split(" ")
    if any(token in ("No", "not", "no") for token in tokens):
        return YesNoVerdict("no", True)
    return YesNoVerdict("yes", bool(_YES_WORD.search(text)))


def _opera(text: str) -> YesNoVerdict:
    """Full stops and commas deleted: "no" if a token is No, not, no or NO or ends in n't, else "yes"."""
    tokens = text.replace(".", "").replace(",", "").split(" ")
    if any(token in ("No", "not", "no", "NO") or token.endswith("n't") for token in tokens):
        return YesNoVerdict("no", True)
    return YesNoVerdict("yes", bool(_YES_WORD.search(text)))


def _vlmevalkit(text: str) -> YesNoVerdict:
    """Lower case, punctuation stripped: the text must hold the word yes or the word no, not both; otherwise unknown.

    A mark that somewhere touches a space (and every mark, where a number has a thousands comma) is deleted, any other
    becomes a space. Full stops beside no digit are deleted, but only the first 32, as published.
    """
    lowered = text.lower()
    delete_all = re.search(r"\d,\d", lowered) is not None
    words = lowered
    for mark in _BREAKING_MARKS:
        delete = delete_all or f"{mark} " in lowered or f" {mark}" in lowered
        words = words.replace(mark, "" if delete else " ")
    found = {"yes", "no"}.intersection(_FULL_STOP.sub("", words, count=_FULL_STOPS).split())
    if len(found) != 1:
        return YesNoVerdict(None, False)
    return YesNoVerdict("yes" if "yes" in found else "no", True)


def _lmms_eval(text: str) -> YesNoVerdict:
    """The whole stripped, lower-cased answer must be yes or no; otherwise unknown ("Yes." is unknown)."""
    answer = text.strip().lower()
    if answer == "yes":
        return YesNoVerdict("yes", True)
    return YesNoVerdict("no", True) if answer == "no" else YesNoVerdict(None, False)


def _dash(text: str) -> YesNoVerdict:
    """yes where the lower-cased text holds the letters "yes", else no where it holds "no"; otherwise unknown."""
    lowered = text.lower()
    label: Literal["yes", "no"] | None = "yes" if "yes" in lowered else "no" if "no" in lowered else None
    return YesNoVerdict(label, label is not None)


def vcd(text: str, gold: Literal["yes", "no"]) -> YesNoVerdict:
    """VCD's rule, which looks at the right answer first: it is given where its letters are anywhere in the lower-cased
    text, else the other one."""
    other: Literal["yes", "no"] = "no" if gold == "yes" else "yes"
    lowered = text.lower()
    return YesNoVerdict(gold if gold in lowered else other, gold in lowered or other in lowered)


def first_word(text: str, words: Mapping[str, T]) -> T | None:
    """NaturalBench's rule: the value of the first of `words` that stands alone in the text, in any case; None where
    there is none ("the answer is a dog" is A)."""
    found = re.search(rf"\b({'|'.join(map(re.escape, words))})\b", text, re.IGNORECASE)
    return None if found is None else words[found.group(1).lower()]


PARSERS: dict[str, Callable[[str], YesNoVerdict]] = {
    "official": _official,
    "llava": _official,
    "opera": _opera,
    "vlmevalkit": _vlmevalkit,
    "lmms-eval": _lmms_eval,
    "dash": _dash,
}


def parse(text: str, parser: str = "official") -> YesNoVerdict:
    """Read `text` by the rule named `parser`. Raises UserError for an unknown name."""
    try:
        rule = PARSERS[parser]
    except KeyError:
        raise UserError(f"no answer parser is called {parser!r}", hint=f"choose one of {', '.join(PARSERS)}") from None
    return rule(text)
