"""MMVP (Tong et al. 2024, arXiv:2401.06209): questions read, answers read by two rules, pairs counted.

Rows 2k-1 and 2k of `Questions.csv` are one question about two pictures, with opposite answers; a pair counts where both
are right (chance: 25 %). The authors let GPT-4 compare answers; the rules here need no judge: those of lmms-eval
(`tasks/mmvp/utils.py`) and InternVL (`eval/mmvp/evaluate_mmvp.py`), quirks included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmpo.data.records import read_table, text_of
from mmpo.errors import UserError
from mmpo.eval.mmvp.settings import GoldName, ReaderName
from mmpo.eval.statistics.tally import Tally, by_image, share

SWAPPED = {99, 100, 279, 280}
"""Questions whose released right answers are swapped (tsb0601/MMVP, issue 30)."""
SUFFIX = "Answer with the option's letter from the given choices directly."

_OPTIONS = re.compile(r"\(a\)\s*(.+?)\s*\(b\)\s*(.+?)\s*", re.IGNORECASE | re.DOTALL)
_LETTERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^\(?([ab])\)?(?:\.?$|[.\s])",
        r"answer\s+is\s+\(?([ab])",
        r"option\s+\(?([ab])",
        r"([ab])\)?(?:\s|$)",
        r"^([ab])",
    )
)
"""The places in which lmms-eval looks for a letter, in this order."""


@dataclass(frozen=True)
class MmvpQuestion:
    """One question about the picture `number`.jpg; `options` are those of A and B, `answer` is "A" or "B"."""

    number: int
    question: str
    options: tuple[str, str]
    answer: str

    @property
    def id(self) -> str:
        return str(self.number)

    @property
    def pair(self) -> str:
        """The pair that the question counts in, from 1."""
        return f"pair {(self.number + 1) // 2}"

    @property
    def prompt(self) -> str:
        """As lmms-eval and InternVL ask it."""
        return "\n".join([self.question, *(f"{a}. {b}" for a, b in zip("AB", self.options, strict=True)), SUFFIX])


def read_questions(path: str | Path, gold: GoldName = "corrected") -> list[MmvpQuestion]:
    """The questions of `Questions.csv`. Raises UserError naming a wrong row, and where a pair is incomplete."""
    found: dict[int, MmvpQuestion] = {}
    for where, row in read_table(path):
        index = text_of(row, ("Index", "lndex"), where).strip()
        number = int(index) if index.isascii() and index.isdigit() else 0
        if number < 1 or number in found:
            raise UserError(f"{where}: `Index` must be a number from 1, each once; found {index!r}")
        options = _OPTIONS.fullmatch(text_of(row, ("Options",), where).strip())
        answer = text_of(row, ("Correct Answer",), where).strip().lower()
        if options is None or answer not in ("(a)", "(b)"):
            raise UserError(f"{where}: needs `Options` like `(a) Open (b) Closed`, and `Correct Answer` (a) or (b)")
        right = answer[1].upper()
        if gold == "corrected" and number in SWAPPED:
            right = "B" if number % 2 else "A"
        text = text_of(row, ("Question",), where).strip()
        found[number] = MmvpQuestion(number, text, (options[1], options[2]), right)
    if alone := next((n for n in found if (n + 1 if n % 2 else n - 1) not in found), None):
        raise UserError(f"{path}: question {alone} has no partner; rows 1 and 2, 3 and 4, … are pairs")
    return list(found.values())


def _lmms_eval(text: str, options: Sequence[str]) -> str | None:
    found = next((match for pattern in _LETTERS if (match := pattern.search(text.strip()))), None)
    return found and found[1].upper()


def _internvl(text: str, options: Sequence[str]) -> str | None:
    text = text.strip()
    if len(text) == 1 or text[:1] in ("A", "B"):
        return text[0] if text[0] in ("A", "B") else None
    return next((letter for letter, option in zip("AB", options, strict=True) if text and option in text), None)


READERS: dict[ReaderName, Callable[[str, Sequence[str]], str | None]] = {"lmms-eval": _lmms_eval, "internvl": _internvl}
"""Each gives "A", "B", or None for an answer that counts as wrong; from the answer and both options."""

METRICS = (
    share("pair_accuracy", 2, 3, "higher", "pairs of pictures with both answers right", independent=True, headline=1),
    share("accuracy", 0, 1, "higher", "right answers"),
)


def score(questions: Sequence[MmvpQuestion], texts: Sequence[str], parser: ReaderName) -> tuple[Tally, int]:
    """Counts by pair, of pairs that are complete, and how many answers name no option (they are wrong)."""
    read = [READERS[parser](text, question.options) for question, text in zip(questions, texts, strict=True)]
    right = {question.id: letter == question.answer for question, letter in zip(questions, read, strict=True)}
    rows = np.array([[right[question.id], 1, 0, 0] for question in questions], dtype=np.int64).reshape(-1, 4)
    pairs, counts = by_image([question.pair for question in questions], rows)
    counts[:, 3] = counts[:, 1] == 2
    counts[:, 2] = counts[:, 0] == 2
    return Tally(pairs, counts, METRICS, right, "accuracy"), read.count(None)
