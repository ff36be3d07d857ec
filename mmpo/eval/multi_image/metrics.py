"""Hallucination with several images: whose object is it? Questions from any annotated images, and their scores.

A prompt shows several pictures and asks about one of them (after MIA-DPO, arXiv:2410.17637, which names the failures):

    present     an object that the target shows                        a no is a miss
    elsewhere   an object that only another picture shows              a yes is *element interference*
    absent      an object that none of them shows                      a yes is plain invention
    which       an object that exactly one picture shows: which one?   naming another one is *confusion* of images
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mmpo.data.layouts.prompts import PHRASES, TAG
from mmpo.data.records import read_records, write_lines
from mmpo.errors import UserError
from mmpo.eval.multi_image.settings import LayoutName, MultiImageSettings
from mmpo.eval.statistics.tally import YES_RATIO, Direction, Metric, Tally, by_image, share
from mmpo.eval.yes_no import parse
from mmpo.text.vocabulary import article

QuestionKind = Literal["present", "elsewhere", "absent", "which"]

COLUMNS = (
    "right", "asked", "yes_no_right", "yes_no", "missed", "present", "interfered", "elsewhere", "invented", "absent",
    "found", "confused", "which", "yes",
)  # fmt: skip
_AT = {name: place for place, name in enumerate(COLUMNS)}


def _share(name: str, above: str, below: str, better: Direction, meaning: str, **shown: Any) -> Metric:
    return share(name, _AT[above], _AT[below], better, meaning, **shown)


METRICS = (
    _share("accuracy", "right", "asked", "higher", "share of right answers", headline=1, watched=True),
    _share("yes_no_accuracy", "yes_no_right", "yes_no", "higher", "the same, of yes/no questions"),
    _share("missed", "missed", "present", "lower", "of what the target shows, the share that is denied"),
    _share(
        "interference",
        "interfered",
        "elsewhere",
        "lower",
        "of what only another picture shows, the share that is seen in the target",
    ),
    _share("invention", "invented", "absent", "lower", "of what no picture shows, the share that is seen"),
    _share("yes_ratio", "yes", "yes_no", "neither", **YES_RATIO),
)
WHICH_METRICS = (
    _share("which_accuracy", "found", "which", "higher", "share of right pictures"),
    _share("confusion", "confused", "which", "lower", "share of answers that name another picture"),
)


@dataclass(frozen=True)
class MultiQuestion:
    """One question. `pictures` in order, `index` (from 1) the target; `prompt` with a tag for every image; `answer`
    yes, no, or the number of the image."""

    id: str
    layout: LayoutName
    pictures: tuple[str, ...]
    index: int
    kind: QuestionKind
    object: str
    prompt: str
    answer: str

    @property
    def target(self) -> str:
        return self.pictures[self.index - 1]


_QUESTION = TypeAdapter(MultiQuestion)


@dataclass(frozen=True)
class Read:
    """The content of an answer: yes, no or an image's number. `found` is False where it holds no such thing."""

    answer: str | None
    found: bool


def build_questions(
    truth: Mapping[str, Sequence[str]], names: Sequence[str], settings: MultiImageSettings
) -> list[MultiQuestion]:
    """Questions over annotated images: `truth` maps a path to the objects in the picture, `names` are all objects there
    are. Raises UserError for too few images."""
    usable = [path for path, objects in truth.items() if objects]
    questions: list[MultiQuestion] = []
    for layout in settings.layouts:
        sizes = {"sequence": settings.sequence_sizes, "collage": settings.collage_sizes, "pic_in_pic": [2]}[layout]
        if len(usable) < max(sizes):
            raise UserError(
                f"multi_image: {len(usable)} annotated images with objects, {max(sizes)} are needed for one {layout}"
            )
        rng = random.Random(f"{settings.seed}/{layout}")
        for number in range(settings.prompts):
            pictures = tuple(rng.sample(usable, sizes[number % len(sizes)]))
            index = 2 if layout == "pic_in_pic" else rng.randrange(len(pictures)) + 1
            questions += _about(f"{layout}/{number}", layout, pictures, index, truth, names, settings, rng)
    return questions


def _about(
    id: str,
    layout: LayoutName,
    pictures: tuple[str, ...],
    index: int,
    truth: Mapping[str, Sequence[str]],
    names: Sequence[str],
    settings: MultiImageSettings,
    rng: random.Random,
) -> Iterator[MultiQuestion]:
    """The questions about one composed prompt: one of each kind that is possible."""
    shown = [list(dict.fromkeys(truth[path])) for path in pictures]
    own = shown[index - 1]
    others = sorted({name for place, objects in enumerate(shown) if place != index - 1 for name in objects} - set(own))
    nowhere = sorted(set(names).difference(*shown))
    single = sorted(name for name in {*own, *others} if sum(name in objects for objects in shown) == 1)
    pools: list[tuple[QuestionKind, list[str]]] = [("present", own), ("elsewhere", others), ("absent", nowhere)]
    pointer = rng.choice(PHRASES) if layout == "pic_in_pic" else f"In Image{index}"
    head = _head(layout, len(pictures), settings.label)
    for kind, pool in pools:
        if pool:
            thing = rng.choice(pool)
            text = settings.question.format(article=article(thing), object=thing)
            prompt = f"{head}{pointer}, {text[:1].lower()}{text[1:]}{settings.prompt_suffix}"
            right = "yes" if kind == "present" else "no"
            yield MultiQuestion(f"{id}/{kind}", layout, pictures, index, kind, thing, prompt, right)
    if single and layout != "pic_in_pic":
        thing = rng.choice(single)
        owner = next(place for place, objects in enumerate(shown, start=1) if thing in objects)
        prompt = head + settings.which.format(article=article(thing), object=thing) + settings.prompt_suffix
        yield MultiQuestion(f"{id}/which", layout, pictures, owner, "which", thing, prompt, str(owner))


def _head(layout: LayoutName, count: int, label: str) -> str:
    if layout != "sequence":
        return f"{TAG}\n"
    return "".join(f"{label.format(n=number)}{TAG}\n" for number in range(1, count + 1))


_ORDINALS = {
    "first": "1", "second": "2", "third": "3", "fourth": "4", "fifth": "5", "sixth": "6", "seventh": "7", "eighth": "8",
    "ninth": "9",
}  # fmt: skip


def read_answer(question: MultiQuestion, text: str, parser: str = "official") -> Read:
    """The content of an answer. An image's number: the first `Image 3`, else an ordinal, else a bare number."""
    if question.kind != "which":
        verdict = parse(text, parser)
        return Read(verdict.label, verdict.found)
    lowered = text.lower()
    if named := re.search(r"\b(?:image|picture|photo)\s*#?\s*(\d+)", lowered):
        return Read(named.group(1), True)
    if ordinal := re.search(rf"\b({'|'.join(_ORDINALS)})\b", lowered):
        return Read(_ORDINALS[ordinal.group(1)], True)
    number = re.fullmatch(r"\W*(\d+)\W*", lowered)
    return Read(number.group(1), True) if number else Read(None, False)


def score(questions: Sequence[MultiQuestion], texts: Sequence[str], parser: str = "official") -> tuple[Tally, int]:
    """Counts by target picture, and how many answers hold nothing that can be read (they count as wrong)."""
    rows = np.zeros((len(questions), len(COLUMNS)), dtype=np.int64)
    outcomes: dict[str, bool] = {}
    unread = 0
    for row, question, text in zip(rows, questions, texts, strict=True):
        read = read_answer(question, text, parser)
        unread += not read.found
        right = read.answer == question.answer
        outcomes[question.id] = right
        counted = {"asked": 1, "right": int(right)}
        if question.kind == "which":
            other = read.answer is not None and not right and 1 <= int(read.answer) <= len(question.pictures)
            counted |= {"which": 1, "found": int(right), "confused": int(other)}
        else:
            wrong = {"present": "missed", "elsewhere": "interfered", "absent": "invented"}[question.kind]
            counted |= {
                "yes_no": 1, "yes_no_right": int(right), question.kind: 1, wrong: int(not right),
                "yes": int(read.answer == "yes"),
            }  # fmt: skip
        for name, value in counted.items():
            row[_AT[name]] += value
    images, counts = by_image([question.target for question in questions], rows)
    metrics = METRICS + (WHICH_METRICS if any(question.kind == "which" for question in questions) else ())
    categories = {question.id: f"{question.layout}, {question.kind}" for question in questions}
    return Tally(images, counts, metrics, outcomes, "accuracy", categories), unread


def write_questions(path: Path, questions: Sequence[MultiQuestion]) -> None:
    """JSON Lines that `read_questions` reads."""
    write_lines(path, map(asdict, questions))


def read_questions(path: str | Path) -> list[MultiQuestion]:
    """The questions of a file. Raises UserError naming the line of a wrong one."""
    found = []
    for where, row in read_records(path):
        try:
            question = _QUESTION.validate_python(row)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "the row"
            raise UserError(f"{where}: not a question as `mmpo eval` writes it ({name}: {first['msg']})") from None
        if not 1 <= question.index <= len(question.pictures):
            raise UserError(f"{where}: `index` {question.index} of {len(question.pictures)} pictures")
        found.append(question)
    return found
