"""The graded answers of an evaluation (`mmpo.eval.grading`), read again question by question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmpo.files.atomic import read_json, read_jsonl

ANSWERS = "answers.jsonl"
STATES = ("before", "after")
AnswerChange = Literal["broken", "fixed", "wrong", "right"]


@dataclass(frozen=True)
class GradedQuestion:
    """A question of a benchmark, the answer it `expected` (empty: it has none), and the rows of `answers.jsonl` by
    state, with what was `parsed` in each and whether it is `right`. `root` is the folder of the pictures, where the
    benchmark has its own."""

    benchmark: str
    split: str
    image: str
    more: tuple[str, ...]
    prompt: str
    expected: str
    root: str | None
    said: Mapping[str, Mapping[str, Any]]

    @property
    def id(self) -> str:
        return "/".join(part for part in (self.benchmark, self.split, self.image, *self.more, self.prompt) if part)

    @property
    def rights(self) -> list[bool | None]:
        """Whether it was answered rightly in each state; None where nobody can say."""
        return [row.get("right") for row in self.said.values()]

    @property
    def change(self) -> AnswerChange | None:
        return change_of(self.rights)


def change_of(rights: list[bool | None]) -> AnswerChange | None:
    """What became of an answer, from before to after; None without both, or where one is not known."""
    if len(rights) != 2 or None in rights:
        return None
    before, after = rights
    return ("right" if after else "wrong") if before == after else ("broken" if before else "fixed")


def graded_questions(folder: Path) -> list[GradedQuestion]:
    """The questions of an evaluation's `answers.jsonl` that a benchmark graded; none where the file is older than
    grading, or not there."""
    found: dict[tuple[str, str, str, tuple[str, ...], str, str, str | None], dict[str, Mapping[str, Any]]] = {}
    file = folder / ANSWERS
    for row in read_jsonl(file) if file.is_file() else ():
        for grade in (row, *(row.get("also") or ())):
            if grade.get("benchmark") is None or (grade.get("expected") is None and grade.get("right") is None):
                continue
            key = (
                grade["benchmark"], grade.get("split") or "", row.get("image") or "", tuple(row.get("more") or ()),
                row["prompt"], str(grade.get("expected") or ""), row.get("root"),
            )  # fmt: skip
            graded = {**row, "parsed": grade.get("parsed"), "right": grade.get("right")}
            found.setdefault(key, {})[row.get("state", "after")] = graded
    return [
        GradedQuestion(*key, {state: said[state] for state in STATES if state in said}) for key, said in found.items()
    ]


def pictures_of(folder: Path) -> Path | None:
    """The folder that the pictures of an evaluation are in, by its settings; None where they don't say."""
    step = folder / "step.json"
    settings = read_json(step).get("settings", {}) if step.is_file() else {}

    def place(text: object) -> Path:
        return Path(str(text).replace("${run}", str(folder.parent)))

    if images := settings.get("images"):
        return place(images)
    return place(annotations).parent if (annotations := settings.get("annotations")) else None
