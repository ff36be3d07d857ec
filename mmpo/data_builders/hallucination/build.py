"""Pairs against hallucinated descriptions and answers, of annotated images. Beside what every build leaves behind
(`mmpo.data_builders.run`):

    run_dir/
      generations/         what the model generated: descriptions and answers of each unit
      replies/             what text models replied, where the settings name any

The result has the style probe in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mmpo
from mmpo.chat import ChatModel, ChatSettings, open_chat
from mmpo.chat.templates import template_version
from mmpo.data.annotations.read import read_annotations
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.pair import PreferencePair
from mmpo.data_builders.hallucination.builder import HallucinationBuilder, TextModels
from mmpo.data_builders.hallucination.choose import choose_images
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.generations import GenerationCache
from mmpo.data_builders.hallucination.judges import Judge, QuestionMaker, Rewriter
from mmpo.data_builders.hallucination.questions import CoOccurrence
from mmpo.data_builders.hallucination.settings import BuildResult, BuildSettings
from mmpo.data_builders.hallucination.style_probe import Sides, probe
from mmpo.data_builders.hallucination.value_questions import VALUE_KINDS
from mmpo.data_builders.models import model_contents, open_answerer
from mmpo.data_builders.run import Builder, Written, run
from mmpo.data_builders.units import Advance, Units, Work, count_table, digest, file_digest, ordered, pair_of_row
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import remove_leftovers
from mmpo.files.images import portable_image
from mmpo.resuming import deciding
from mmpo.text.scene_claims import KINDS
from mmpo.text.vocabulary import ObjectVocabulary, coco


def build(settings: BuildSettings, run_dir: Path, *, generations: Path | None = None) -> BuildResult:
    """`mmpo.data_builders.run.run` for annotated images. `generations` is the folder for the model's texts, by default
    in `run_dir`; builds over the same images with the same model and sampling can share one, whatever they make of it.
    """
    return run(settings, run_dir, partial(HallucinationPairs, generations=generations))


class HallucinationPairs(Builder[BuildSettings, AnnotatedImage, BuildResult]):
    """Pairs from what the model says about annotated images (after HA-DPO)."""

    result = BuildResult
    label = "describing images and asking about them"
    title = "Hallucination pairs"
    called = MappingProxyType(
        {
            "mmpo": "mmpo version",
            "annotated": "annotations",
            "model": "content of the model's files",
            "templates": "prompt of a text model",
        }
    )

    def __init__(self, settings: BuildSettings, run_dir: Path, *, generations: Path | None = None) -> None:
        super().__init__(settings, run_dir)
        self.generations = generations or run_dir / "generations"
        self.categories: list[str] = []

    @cached_property
    def annotated(self) -> list[AnnotatedImage]:
        settings = self.settings
        listed = read_annotations(
            settings.annotations, settings.images, captions=settings.captions, categories=self.categories
        )
        if found := list(listed):
            return found
        raise UserError(f"{settings.annotations}: no images are listed there")

    @cached_property
    def vocabulary(self) -> ObjectVocabulary:
        return read_vocabulary(self.settings, self.annotated, self.categories)

    @cached_property
    def chosen(self) -> tuple[list[AnnotatedImage], dict[str, int]]:
        """The images that are used, and where all that are listed went."""
        images, counts = choose_images(
            self.annotated, self.settings.choose, Detector(self.vocabulary), self.settings.seed
        )
        return images[: self.settings.limit], dict(counts)

    @cached_property
    def model(self) -> str | None:
        return model_contents(self.settings.model, self.settings, self.run_dir, "model")

    def plan(self) -> Sequence[AnnotatedImage]:
        images, choice = self.chosen
        if not images:
            left_out = ", ".join(
                f"{count} {reason}" for reason, count in choice.items() if reason not in ("in", "chosen")
            )
            raise UserError(f"{self.settings.annotations}: no image fits `choose` ({left_out})")
        return images

    def source(self) -> dict[str, Any]:
        own = {"annotated": file_digest(self.settings.annotations), "model": self.model}
        return super().source() | own | {"templates": _templates(self.settings)}

    def open(self, stack: ExitStack) -> Work[AnnotatedImage]:
        settings = self.settings
        remove_leftovers(self.generations)
        engine = cache(partial(open_answerer, settings.model, settings, self.run_dir, stack))
        listener = GenerationCache(settings, engine, self.model or "", self.generations)
        common = CoOccurrence(Detector(self.vocabulary).truth(image).names for image in self.annotated)
        text_models = _text_models(settings, self.run_dir / "replies", stack)
        builder = HallucinationBuilder(settings, listener, self.vocabulary, common, mmpo.__version__, text_models)

        def work(number: int, part: Sequence[AnnotatedImage], advance: Advance) -> dict[str, Any]:
            outcomes, tally = builder.build(number, part, advance)
            return {"tally": vars(tally), "outcomes": [asdict(outcome) for outcome in outcomes]}

        return work

    def pairs(
        self, source: AnnotatedImage, outcome: Mapping[str, Any], units: Units[AnnotatedImage]
    ) -> list[PreferencePair]:
        if outcome["reason"]:
            raise Quarantined(outcome["stage"], outcome["reason"], outcome["detail"])
        picture = portable_image(source.path, root=source.root)  # Quarantined, if it is gone since the unit was made
        return [pair_of_row(row, picture) for row in outcome["pairs"]]

    def summary(self, units: Units[AnnotatedImage], written: Written) -> BuildResult:
        _, choice = self.chosen
        result = _result(units, written, choice)
        sides = (
            Sides(outcome["id"], row["chosen"], row["rejected"])
            for _, outcome in units.outcomes()
            for row in outcome["pairs"]
            if row["provenance"]["kind"] == "description"
        )
        result.style = probe(sides, self.vocabulary, seed=self.settings.seed)
        result.warnings = _warnings(self.settings, counts=result.counts, vocabulary=self.vocabulary)
        return result

    def notes(self, result: BuildResult) -> str:
        return (
            f"{result.description_pairs} description pairs and {result.omission_pairs} about an omission (chosen "
            f"{result.chosen_words} words, rejected {result.rejected_words}), {result.question_pairs} yes/no pairs "
            f"(right answer {answers_line(result.question_answers)}), pairs from questions about "
            f"{kinds_line(result.value_pairs)}.\n\n"
            f"Description pairs whose rejected side is wrong, by kind of claim: {kinds_line(result.corrected)}.\n\n"
            + "".join(f"Warning: {warning}.\n\n" for warning in result.warnings)
            + (f"Style probe of the description pairs: {result.style.line()}.\n\n" if result.style else "")
            + count_table(result.counts)
        )


def _templates(settings: BuildSettings) -> dict[str, str]:
    """The versions of the prompts that text models of this build get."""
    used = {
        "judge": settings.judge,
        "writer": settings.writer,
        "questions": settings.qa.writer if settings.qa is not None else None,
    }
    return {role: template_version(getattr(settings.templates, role)) for role, model in used.items() if model}


def _text_models(settings: BuildSettings, replies: Path, stack: ExitStack) -> TextModels:
    """Open the text models that the settings name; one that is named twice is opened once."""
    opened: dict[str, ChatModel] = {}

    def chat(wanted: ChatSettings) -> ChatModel:
        key = wanted.model_dump_json()
        if key not in opened:
            cache_file = replies / f"{digest(json.dumps(deciding(wanted), sort_keys=True).encode())}.jsonl"
            opened[key] = stack.enter_context(open_chat(wanted, cache_file))
        return opened[key]

    maker = settings.qa.writer if settings.qa is not None else None
    prompts = settings.templates
    return TextModels(
        Judge(chat(settings.judge), prompts.judge) if settings.judge else None,
        Rewriter(chat(settings.writer), prompts.writer) if settings.writer else None,
        QuestionMaker(chat(maker), prompts.questions, settings.qa.written_per_image) if maker and settings.qa else None,
    )


def read_vocabulary(
    settings: BuildSettings, images: list[AnnotatedImage], categories: Sequence[str] = ()
) -> ObjectVocabulary:
    """The vocabulary that the settings name; else a COCO file's `categories`, else the annotated names."""
    if settings.vocabulary == "coco":
        return coco()
    if settings.vocabulary is not None:
        return ObjectVocabulary.from_file(settings.vocabulary)
    if categories:
        return ObjectVocabulary.from_categories(categories)
    names = sorted({name for image in images for name in image.object_names})
    if not names:
        raise UserError(f"{settings.annotations}: no image has annotated objects, so nothing can be checked")
    return ObjectVocabulary.from_names(names)


def answers_line(answers: Mapping[str, int]) -> str:
    """`no in 1,403, yes in 141`"""
    return ", ".join(f"{answer} in {count:,}" for answer, count in answers.items())


def kinds_line(kinds: Mapping[str, int]) -> str:
    """`count 12, color 3`"""
    return ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())


def _result(units: Units[AnnotatedImage], written: Written, choice: dict[str, int]) -> BuildResult:
    total = units.tally
    counts = {
        **({"listed": choice} if choice["chosen"] < choice["in"] else {}),
        "images": written.table,
        "descriptions": ordered(total["descriptions"]),
        "wordings": ordered(total["wordings"], ("in", "kept")),
        "claims": ordered(total["claims"], ("in",)),
        "questions": ordered(total["questions"]),
        "value_questions": ordered(total["value_questions"]),
    }
    totals = total["totals"]
    described, asked = totals["description_pairs"], counts["questions"].get("paired", 0)
    texts = described + totals["omission_pairs"]

    def share(part: float, whole: int) -> float:
        return round(part / whole, 4) if whole else 0.0

    return BuildResult(
        pairs="pairs",
        images=written.table["in"],
        images_used=written.table["paired"],
        description_pairs=described,
        omission_pairs=totals["omission_pairs"],
        question_pairs=asked,
        counts=counts,
        chosen_words=share(totals["chosen_words"], texts),
        rejected_words=share(totals["rejected_words"], texts),
        yes_share=share(totals["yes"], asked),
        value_pairs={kind: totals[f"{kind}_questions"] for kind in VALUE_KINDS},
        corrected={kind: totals[f"wrong_{kind}"] for kind in KINDS},
        question_answers={"no": asked - totals["yes"], "yes": totals["yes"]},
        hallucinating_share=share(totals["hallucinating"], counts["descriptions"].get("in", 0)),
    )


def _warnings(settings: BuildSettings, counts: dict[str, dict[str, int]], vocabulary: ObjectVocabulary) -> list[str]:
    """Warnings for a vocabulary that knows few of the annotated or described objects."""
    file = "a file with the words for your objects"
    remedy = f"set build.vocabulary to `coco` or to {file}"
    if settings.vocabulary == "coco":
        remedy = f"leave build.vocabulary out, or set it to {file}"
    known = f"of the {len(vocabulary):,} that the vocabulary knows ({', '.join(vocabulary.names[:5])}, …)"
    warnings = []
    images, descriptions = counts["images"], counts["descriptions"]
    if (unknown := images.get("annotation: unknown_objects", 0)) * 2 > images["in"]:
        warnings.append(f"{unknown:,} of {images['in']:,} images have no annotated object {known}; {remedy}")
    unnamed = descriptions.get("no_known_object", 0)
    if settings.judge is None and unnamed * 2 > descriptions["in"]:
        warnings.append(
            f"{unnamed:,} of {descriptions['in']:,} descriptions name no object {known}, so nothing in them can be "
            f"checked; {remedy}"
        )
    return warnings
