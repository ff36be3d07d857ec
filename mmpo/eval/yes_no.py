"""Yes or no read from a free text, by the rules of the scripts in use. Each rule is a named parser.

The rules disagree on the same text (`NO` is "yes" for the official POPE script and "no" for others), so a number is
comparable only with numbers made by the same parser, and every result names its own. Sources: RUCAIBox/POPE
evaluate.py, haotian-liu/LLaVA eval_pope.py, shikiw/OPERA pope_eval.py, open-compass/VLMEvalKit yorn.py,
EvolvingLMMs-Lab/lmms-eval tasks/pope.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mmpo.errors import UserError

ParserName = Literal["official", "llava", "opera", "vlmevalkit", "lmms-eval"]


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


PARSERS: dict[str, Callable[[str], YesNoVerdict]] = {
    "official": _official,
    "llava": _official,
    "opera": _opera,
    "vlmevalkit": _vlmevalkit,
    "lmms-eval": _lmms_eval,
}


def parse(text: str, parser: str = "official") -> YesNoVerdict:
    """Read `text` by the rule named `parser`. Raises UserError for an unknown name."""
    try:
        rule = PARSERS[parser]
    except KeyError:
        raise UserError(f"no answer parser is called {parser!r}", hint=f"choose one of {', '.join(PARSERS)}") from None
    return rule(text)
