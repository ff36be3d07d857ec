"""The benchmarks an evaluation can run, each as: what to ask about which image, and what the replies score.

A benchmark is built from annotated images and its settings. It never sees a model: the harness asks and hands the
replies back. A new benchmark is a class with `asks` and `score`, and a line in `BENCHMARKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mmpo.data.annotations import AnnotatedImage
from mmpo.data.vocabulary import ObjectVocabulary, coco
from mmpo.eval import chair, pope, pope_builder
from mmpo.eval.settings import EvalSettings
from mmpo.eval.tally import Tally

POPE_IMAGES = 500
"""How many images the published POPE splits have."""


@dataclass(frozen=True)
class Ask:
    """One greedy question about one image (its path in the annotation file); two equal ones are asked once."""

    image: str
    prompt: str
    max_new_tokens: int


@dataclass(frozen=True)
class Reply:
    """What the model said; `truncated` if it was cut off at the token limit."""

    text: str
    truncated: bool


@dataclass(frozen=True)
class Section:
    """One scored benchmark, or one split of it. `truncated` and `unparsed` count answers (None: nothing is parsed)."""

    split: str | None
    tally: Tally
    questions: int
    truncated: int
    unparsed: int | None = None


class Benchmark(Protocol):
    """A benchmark that is ready to be asked."""

    conventions: list[str]

    def asks(self) -> Sequence[Ask]:
        """Everything to ask."""

    def score(self, replies: Mapping[Ask, Reply]) -> list[Section]:
        """Score the replies to all asks."""

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        """Write questions and replies of each state (`before`, `after`) in the benchmark's published formats."""


@dataclass
class Material:
    """Images that can be opened, with the objects in each by image path, and the vocabulary the object names belong
    to.
    """

    images: list[AnnotatedImage]
    truth: dict[str, tuple[str, ...]]
    vocabulary: ObjectVocabulary
    notes: list[str] = field(default_factory=list)


def material(images: Sequence[AnnotatedImage], settings: EvalSettings) -> Material:
    """Pair images with their objects: annotated ones and those that reference captions mention, under the
    vocabulary's names.
    """
    images = list(images)
    vocabulary = vocabulary_for(images, settings.chair.vocabulary, published_rules=settings.chair.published_rules)
    by_id = chair.ground_truth(images, vocabulary)
    unknown = sorted({name for image in images for name in image.object_names if vocabulary.name_of(name) is None})
    notes = []
    if unknown:
        shown = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        notes.append(f"{len(unknown)} annotated names are not in the vocabulary and are left out: {shown}")
    return Material(images, {image.path: by_id[image.id] for image in images}, vocabulary, notes)


def vocabulary_for(images: Sequence[AnnotatedImage], choice: str, *, published_rules: bool = False) -> ObjectVocabulary:
    """The vocabulary that `choice` names: `auto`, `coco`, or a file."""
    if choice == "coco":
        return coco()
    if choice != "auto":
        return ObjectVocabulary.from_file(choice, chair_merges=published_rules)
    names = list(dict.fromkeys(name for image in images for name in image.object_names))
    known = coco().names
    return coco() if all(name in known for name in names) else ObjectVocabulary.from_names(names)


class PopeBenchmark:
    """POPE, built from the annotations."""

    def __init__(self, material: Material, settings: EvalSettings) -> None:
        self.settings = settings.pope
        positives = self.settings.questions_per_image // 2
        candidates = [pope_builder.ImageObjects(image.path, material.truth[image.path]) for image in material.images]
        count = self.settings.images
        if count is None:
            fitting = sum(len(image.objects) >= positives for image in candidates)
            count = min(fitting, POPE_IMAGES) if fitting else None
        selected = pope_builder.select(candidates, count, positives=positives, seed=self.settings.seed)
        self.splits = pope_builder.build(selected, self.settings.splits, positives=positives, seed=self.settings.seed)
        self.conventions = [
            f"POPE: {len(selected)} of {len(candidates)} images (those with at least {positives} objects qualify), "
            f"{self.settings.questions_per_image} questions each and split, seed {self.settings.seed}; "
            f"parser {self.settings.parser}; "
            + (
                f"question followed by {self.settings.prompt_suffix!r}"
                if self.settings.prompt_suffix
                else "question alone"
            )
            + f"; greedy, at most {self.settings.max_new_tokens} tokens",
        ]
        fallbacks = {split: built.fallbacks for split, built in self.splits.items() if built.fallbacks}
        if fallbacks:
            drawn = ", ".join(f"{count} {split}" for split, count in fallbacks.items())
            self.conventions.append(f"POPE: negatives drawn at random because the ranking ran out: {drawn}")

    def asks(self) -> list[Ask]:
        return list(
            dict.fromkeys(self._ask(question) for built in self.splits.values() for question in built.questions)
        )

    def score(self, replies: Mapping[Ask, Reply]) -> list[Section]:
        results: dict[str, pope.PopeResult] = {}
        sections: list[Section] = []
        for split, built in self.splits.items():
            given = [replies[self._ask(question)] for question in built.questions]
            result = results[split] = pope.score(built.questions, [reply.text for reply in given], self.settings.parser)
            sections.append(Section(split, result.tally, len(given), sum(r.truncated for r in given), result.unparsed))
        if len(results) > 1:
            total = [
                sum(getattr(section, name) for section in sections) for name in ("questions", "truncated", "unparsed")
            ]
            sections.append(Section("all splits", pope.mean_over_splits(results), *total))
        return sections

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for split, built in self.splits.items():
            pope.write_questions(folder / f"questions_{split}.jsonl", built.questions)
            for state, given in replies.items():
                answers = [given[self._ask(question)].text for question in built.questions]
                pope.write_answers(folder / f"answers_{split}_{state}.jsonl", built.questions, answers)

    def _ask(self, question: pope.PopeQuestion) -> Ask:
        return Ask(question.image, question.text + self.settings.prompt_suffix, self.settings.max_new_tokens)


class ChairBenchmark:
    """CHAIR on free descriptions of every image."""

    def __init__(self, material: Material, settings: EvalSettings) -> None:
        self.material, self.settings = material, settings.chair
        self.conventions = [
            f"CHAIR: {len(material.images)} images, prompt {self.settings.prompt!r}, greedy, "
            f"at most {self.settings.max_new_tokens} tokens; "
            f"vocabulary {self.settings.vocabulary} ({len(material.vocabulary)} objects), "
            + (
                "the published script's double words"
                if self.settings.published_rules
                else "longest phrase first, regular and listed plurals"
            ),
            *material.notes,
        ]

    def asks(self) -> list[Ask]:
        return [self._ask(image) for image in self.material.images]

    def score(self, replies: Mapping[Ask, Reply]) -> list[Section]:
        given = {image.path: replies[self._ask(image)] for image in self.material.images}
        result = self._result(given)
        return [Section(None, result.tally, len(given), sum(reply.truncated for reply in given.values()))]

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for state, given in replies.items():
            result = self._result({image.path: given[self._ask(image)] for image in self.material.images})
            chair.write_rows(folder / f"sentences_{state}.jsonl", result)

    def _result(self, given: Mapping[str, Reply]) -> chair.ChairResult:
        captions = {image: reply.text for image, reply in given.items()}
        return chair.score(captions, self.material.truth, self.material.vocabulary)

    def _ask(self, image: AnnotatedImage) -> Ask:
        return Ask(image.path, self.settings.prompt, self.settings.max_new_tokens)


BENCHMARKS: dict[str, Callable[[Material, EvalSettings], Benchmark]] = {"pope": PopeBenchmark, "chair": ChairBenchmark}
