"""Multi-image benchmarks with fixed answers: NLVR2, BLINK, Mantis-Eval and MVBench-style files, read and scored.

    nlvr2         a sentence about two pictures, true or false; accuracy, and consistency over the pairs of a sentence
                  (Suhr et al. 2019, arXiv:1811.00491)
    blink         options (A), (B), … about one to four pictures; accuracy by subtask, and its mean over subtasks
                  (Fu et al. 2024, arXiv:2404.12390)
    mantis_eval   options, or a short answer, about several pictures (Jiang et al. 2024, arXiv:2405.01483)
    mvbench       candidates about a video, one file a task (Li et al. 2024, arXiv:2311.17005)

Letters are read the same way in all of them (`read_option`); official scripts differ from one another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data.layouts.prompts import TAG
from mmpo.data.records import text_of
from mmpo.errors import UserError
from mmpo.eval.embedded import picture_of, read_rows
from mmpo.eval.multiple_choice.settings import FormatName
from mmpo.eval.statistics.tally import Tally, by_image, share

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question. `options` without their letters, empty for a short answer; `answer` the right option's number, or
    the text. `images` are paths (encoded bytes where the file holds the pictures), `video` a path. `group`: questions
    that count together (NLVR2's sentences)."""

    id: str
    question: str
    options: tuple[str, ...]
    answer: int | str
    images: tuple[str | bytes, ...] = ()
    video: str | None = None
    category: str = ""
    group: str = ""

    @property
    def prompt(self) -> str:
        """The question with its tags, and a line for each option."""
        lines = [f"({LETTERS[number]}) {option}" for number, option in enumerate(self.options)]
        shown = self.question
        if self.images and TAG not in shown:
            shown = TAG * len(self.images) + "\n" + shown
        return "\n".join([shown, *lines])


def read_choices(format: FormatName, path: str | Path) -> list[ChoiceQuestion]:
    """The questions of a published file (JSON, JSON Lines or Parquet). Raises UserError naming a wrong row."""
    path = Path(path)
    found: list[ChoiceQuestion] = []
    for number, (where, row) in enumerate(read_rows(path)):
        choice = _READERS[format](row, where, path.stem)
        found.append(choice if choice.id else replace(choice, id=f"{path.stem}/{number}"))
    if not found:
        raise UserError(f"{path} holds no questions")
    names = [choice.id for choice in found]
    if twice := next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None:
        raise UserError(f"{path}: the id {twice!r} is there twice")
    return found


def _nlvr2(row: Mapping[str, Any], where: str, _: str) -> ChoiceQuestion:
    name = text_of(dict(row), ("identifier",), where)
    label = str(row.get("label", "")).strip().lower()
    if label not in ("true", "false"):
        raise UserError(f"{where}: `label` must be True or False, found {row.get('label')!r}")
    parts = name.split("-")
    if len(parts) != 4:
        raise UserError(f"{where}: identifier {name!r} is not SPLIT-SET-PAIR-SENTENCE")
    stem = "-".join(parts[:3])
    folder = f"{row['directory']}/" if "directory" in row else ""
    sentence = text_of(dict(row), ("sentence",), where)
    question = f"{TAG}{TAG}\nIs this statement about the two images true or false? {sentence}"
    images = tuple(f"{folder}{stem}-img{side}.png" for side in (0, 1))
    return ChoiceQuestion(name, question, (), label, images, group="-".join((parts[0], parts[1], parts[3])))


def _blink(row: Mapping[str, Any], where: str, stem: str) -> ChoiceQuestion:
    options = _options(row, ("choices", "options"), where)
    images = tuple(
        picture_of(row[key], where) for key in ("image_1", "image_2", "image_3", "image_4") if row.get(key) is not None
    )
    question = text_of(dict(row), ("question",), where)
    category = str(row.get("sub_task", stem))
    return ChoiceQuestion(
        str(row.get("idx", "")), question, options, _letter(row, options, where), images, category=category
    )


def _mantis(row: Mapping[str, Any], where: str, _: str) -> ChoiceQuestion:
    short = row.get("question_type") == "short-answer" or not row.get("options")
    options = () if short else _options(row, ("options",), where)
    shown_images = row.get("images") or ()
    if not isinstance(shown_images, list | tuple):
        raise UserError(f"{where}: `images` must be a list, found {type(shown_images).__name__}")
    images = tuple(picture_of(image, where) for image in shown_images)
    question = text_of(dict(row), ("question",), where)
    if (shown := question.count(TAG)) not in (0, len(images)):
        raise UserError(f"{where}: {shown} {TAG} tags for {len(images)} images")
    answer: int | str = text_of(dict(row), ("answer",), where) if short else _letter(row, options, where)
    return ChoiceQuestion(
        str(row.get("id", "")), question, options, answer, images, category=str(row.get("question_type", ""))
    )


def _mvbench(row: Mapping[str, Any], where: str, stem: str) -> ChoiceQuestion:
    record = dict(row)
    options = _options(row, ("candidates",), where)
    answer = text_of(record, ("answer",), where)
    if answer not in options:
        raise UserError(f"{where}: the answer {answer!r} is none of the candidates")
    task = str(row.get("task", stem))
    name = str(row.get("id", ""))
    video = text_of(record, ("video",), where)
    return ChoiceQuestion(name, text_of(record, ("question",), where), options, options.index(answer), (), video, task)


_READERS: dict[str, Callable[[Mapping[str, Any], str, str], ChoiceQuestion]] = {
    "nlvr2": _nlvr2,
    "blink": _blink,
    "mantis_eval": _mantis,
    "mvbench": _mvbench,
}


def _options(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> tuple[str, ...]:
    found = next((row[key] for key in keys if row.get(key) is not None), None)
    if not isinstance(found, list) or not 2 <= len(found) <= len(LETTERS) or not all(isinstance(o, str) for o in found):
        raise UserError(f"{where}: `{keys[0]}` must be a list of 2 to {len(LETTERS)} texts")
    return tuple(re.sub(rf"^\(?{LETTERS[number]}[).:]\s*", "", option.strip()) for number, option in enumerate(found))


def _letter(row: Mapping[str, Any], options: Sequence[str], where: str) -> int:
    text = text_of(dict(row), ("answer",), where).strip()
    named = re.fullmatch(r"\(?([A-Z])\)?\.?", text)
    number = LETTERS.index(named.group(1)) if named else next((n for n, o in enumerate(options) if o == text), -1)
    if not 0 <= number < len(options):
        raise UserError(f"{where}: the answer {text!r} is none of {len(options)} options")
    return number


def read_option(text: str, options: Sequence[str]) -> int | None:
    """The index of the option that an answer names: by a letter in brackets, at the beginning, or behind `answer is`;
    else the option whose text it is; else the only one whose text it holds. None where none of these fits."""
    last = LETTERS[len(options) - 1]
    stripped = text.strip()
    for pattern in (
        rf"^\(?([A-{last}])(?:[).:,]|\s*$)",
        rf"\(([A-{last}])\)",
        rf"\b(?:answer|option|choice)\b(?:\s+is|:)?\s*\(?([A-{last}])\b",
    ):
        if found := re.search(pattern, stripped):
            return LETTERS.index(found.group(1))
    plain, texts = _normalized(stripped), [_normalized(option) for option in options]
    if plain in texts and plain:
        return texts.index(plain)
    held = [number for number, option in enumerate(texts) if option and re.search(rf"\b{re.escape(option)}\b", plain)]
    longest = [n for n in held if not any(texts[n] != texts[m] and texts[n] in texts[m] for m in held)]
    return longest[0] if len(longest) == 1 else None


def read_truth(text: str) -> str | None:
    """`true` or `false` of an answer: the first of true, yes, correct, false, no, incorrect, not."""
    found = re.search(r"\b(true|yes|correct|false|no|incorrect|not)\b", text.lower())
    if found is None:
        return None
    return "true" if found.group(1) in ("true", "yes", "correct") else "false"


def _normalized(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def is_right(choice: ChoiceQuestion, text: str) -> tuple[bool, bool]:
    """(right, readable) of an answer. A short answer is right if it is the right text, or holds it as whole words."""
    if choice.options:
        read = read_option(text, choice.options)
        return read == choice.answer, read is not None
    wanted = str(choice.answer)
    if choice.group:
        truth = read_truth(text)
        return truth == wanted, truth is not None
    plain = _normalized(text)
    return bool(re.search(rf"\b{re.escape(_normalized(wanted))}\b", plain)), bool(plain)


ACCURACY = share("accuracy", 0, 1, "higher", "share of right answers", headline=1, watched=True)
CONSISTENCY = share("consistency", 2, 3, "higher", "sentences that are right about every pair of photographs")


def score(choices: Sequence[ChoiceQuestion], texts: Sequence[str]) -> tuple[Tally, int]:
    """Counts by question (NLVR2: by sentence), and how many answers can't be read (they count as wrong)."""
    verdicts = [is_right(choice, text) for choice, text in zip(choices, texts, strict=True)]
    units = [choice.group or choice.id for choice in choices]
    rows = np.array([[int(right), 1, 0, 0] for right, _ in verdicts], dtype=np.int64).reshape(-1, 4)
    images, counts = by_image(units, rows)
    grouped = any(choice.group for choice in choices)
    if grouped:
        counts[:, 2] = counts[:, 0] == counts[:, 1]
        counts[:, 3] = 1
    outcomes = {choice.id: right for choice, (right, _) in zip(choices, verdicts, strict=True)}
    categories = {choice.id: choice.category for choice in choices if choice.category}
    metrics = (ACCURACY, CONSISTENCY) if grouped else (ACCURACY,)
    tally = Tally(images, counts, metrics, outcomes, "accuracy", categories)
    return tally, sum(not readable for _, readable in verdicts)


def by_category(choices: Sequence[ChoiceQuestion], texts: Sequence[str]) -> dict[str, float]:
    """Accuracy of each category, in the order of the file."""
    rights: dict[str, list[bool]] = {}
    for choice, text in zip(choices, texts, strict=True):
        rights.setdefault(choice.category, []).append(is_right(choice, text)[0])
    return {name: sum(own) / len(own) for name, own in rights.items() if name}
