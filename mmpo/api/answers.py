"""The results of `ask`: answers about photos, with the adapter and without. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import pandas

    from mmpo.models.generation.answer import Answer

_AUXILIARY = re.compile(
    r"(is|are|am|was|were|do|does|did|has|have|had|can|could|will|would|should|must|may|might)(n't)?\b", re.IGNORECASE
)
_REQUEST = re.compile(r"(can|could|will|would) you\b", re.IGNORECASE)
_YES_OR_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def is_yes_no(question: str, *answers: str) -> bool:
    """True if a question is one of yes or no: by the beginning of its last sentence, by asking for the two words, or
    because an answer begins with one of them.

    "Can you describe the image?" is a request. The rule is for English.
    """
    if any(_YES_OR_NO.match(answer) for answer in answers) or re.search(r"\byes or no\b", question, re.IGNORECASE):
        return True
    sentences = [part.strip() for part in re.split(r"(?<=[.!?:\n])\s+", question.strip()) if part.strip().endswith("?")]
    return any(_AUXILIARY.match(one) and not _REQUEST.match(one) for one in sentences)


@dataclass(frozen=True)
class PhotoAnswer:
    """The answer to one question about one photo (or several, shown together).

    `after` is the model's answer with its adapter, or as it is where it has none; `before` the answer with the adapter
    off, None where there is none. Both are `mmpo.models.generation.answer.Answer`, with the text, the new tokens and
    whether the limit cut them off. `yes_no` says that the question is one of yes or no, for which alone P(yes) means
    something.
    """

    photo: str
    question: str
    after: Answer
    before: Answer | None = None
    yes_no: bool = False

    @property
    def text(self) -> str:
        """The text of `after`, the model's current answer."""
        return self.after.text

    @property
    def p_yes(self) -> float | None:
        """P(yes) against no at the first token, over all their spellings; None for other questions, and where the
        vocabulary has no such tokens."""
        return self.after.p_yes if self.yes_no else None

    @property
    def p_yes_before(self) -> float | None:
        """The same with the adapter off; None without an adapter too."""
        return self.before.p_yes if self.yes_no and self.before is not None else None

    def lines(self) -> list[str]:
        """`before: … (P(yes) 0.93)` and `after: …`, or the answer alone."""
        if self.before is None:
            return [_with_share(self.after.text, self.p_yes)]
        return [
            f"before: {_with_share(self.before.text, self.p_yes_before)}",
            f"after:  {_with_share(self.after.text, self.p_yes)}",
        ]

    def __repr__(self) -> str:
        return "\n".join([f"{self.photo}: {self.question}", *(f"  {line}" for line in self.lines())])


class Answers(Sequence[PhotoAnswer]):
    """The answers to all questions about all photos, photo by photo. Notebooks show them as a table."""

    def __init__(self, answers: Sequence[PhotoAnswer]) -> None:
        self._answers = tuple(answers)

    def __len__(self) -> int:
        return len(self._answers)

    @overload
    def __getitem__(self, index: int) -> PhotoAnswer: ...
    @overload
    def __getitem__(self, index: slice) -> Answers: ...
    def __getitem__(self, index: int | slice) -> PhotoAnswer | Answers:
        return Answers(self._answers[index]) if isinstance(index, slice) else self._answers[index]

    def __iter__(self) -> Iterator[PhotoAnswer]:
        return iter(self._answers)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._answers)) or "no answers"

    def _repr_html_(self) -> str:
        rows = self._rows()
        head = "".join(f"<th>{escape(name)}</th>" for name in (rows[0] if rows else ()))
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{escape(_cell(value))}</td>' for value in row.values())
            + "</tr>" for row in rows
        )  # fmt: skip
        return f"<table><tr>{head}</tr>{body}</table>"

    def _rows(self) -> list[dict[str, Any]]:
        compared = any(one.before is not None for one in self)
        rows = []
        for one in self:
            row: dict[str, Any] = {"photo": one.photo, "question": one.question}
            if compared:
                row |= {"before": None if one.before is None else one.before.text, "before_p_yes": one.p_yes_before}
            row |= {"after" if compared else "answer": one.text, "after_p_yes" if compared else "p_yes": one.p_yes}
            rows.append(row)
        return rows

    def to_pandas(self) -> pandas.DataFrame:
        """A row a question: `photo`, `question`, and `before`, `before_p_yes`, `after`, `after_p_yes`; without an
        adapter `answer`, `p_yes`. P(yes) is empty where the question is not one of yes or no."""
        import pandas

        return pandas.DataFrame(self._rows(), columns=None if self._answers else ["photo", "question", "answer"])


def _with_share(text: str, p_yes: float | None) -> str:
    return text if p_yes is None else f"{text}  (P(yes) {p_yes:.3f})"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
