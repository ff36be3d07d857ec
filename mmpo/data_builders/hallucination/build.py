"""A build, from an annotation file to a folder of preference pairs.

    run_dir/
      source.json          what the build was started from; another source, other settings or another model are refused
      said/                what the model said: descriptions and answers of each unit
      replies/             what text models replied, where the settings name any
      units/00000.json …   what each unit of work gave: pairs without pictures, verdicts, counts; whole or not there
      pairs/               the dataset: shards, card.json, README.md, rejects.jsonl
      build_result.json    the result in numbers, with the style probe; written last

Killed at any moment and run again, a build goes on behind its last unit and ends with the same bytes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import mmpo
from mmpo.chat import ChatModel, ChatSettings, open_chat
from mmpo.chat.templates import template_version
from mmpo.data.annotations.read import read_annotations
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.shards import PairWriter
from mmpo.data_builders.hallucination.builder import HallucinationBuilder, HallucinationCounts, TextModels
from mmpo.data_builders.hallucination.choose import choose_images
from mmpo.data_builders.hallucination.detect import Detector
from mmpo.data_builders.hallucination.generations import Listener
from mmpo.data_builders.hallucination.judges import Judge, QuestionMaker, Rewriter
from mmpo.data_builders.hallucination.questions import CoOccurrence
from mmpo.data_builders.hallucination.settings import BuildResult, BuildSettings
from mmpo.data_builders.hallucination.style_probe import Sides, probe
from mmpo.data_builders.hallucination.value_questions import VALUE_KINDS
from mmpo.data_builders.units import (
    SOURCE,
    Advance,
    Work,
    add_up,
    check_source,
    check_sums,
    count_table,
    digest,
    file_digest,
    finish_units,
    ordered,
    pair_of_row,
    read_outcomes,
    read_unit,
)
from mmpo.errors import Quarantined, UserError
from mmpo.files.atomic import read_json, remove_leftovers, write_json
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.files.images import portable_image
from mmpo.files.paths import follows_links
from mmpo.locks import in_own_folder
from mmpo.models.families.loading import load_vlm
from mmpo.models.generation.answer import AnswerEngine
from mmpo.progress import task
from mmpo.resuming import deciding
from mmpo.text.scene_claims import KINDS
from mmpo.text.vocabulary import ObjectVocabulary, coco

logger = logging.getLogger("mmpo.build")

CALLED = {
    "mmpo": "mmpo version", "annotated": "annotations", "model": "content of the model's files",
    "templates": "prompt of a text model",
}  # fmt: skip
TOKEN_BUDGET = 16384
RESULT = "build_result.json"


@follows_links
@in_own_folder
def build(settings: BuildSettings, run_dir: Path, *, said: Path | None = None) -> BuildResult:
    """Build the pairs of `settings` into `run_dir/pairs`. A finished build returns its result.

    `said` is the folder for what the model says, `run_dir/said` by default; builds over the same images with the same
    model and sampling can share one, whatever they make of it. Raises `UserError` for settings that don't fit the files
    or what is in `run_dir`. Images that can't be used end in `pairs/rejects.jsonl`, never in an error.
    """
    run_dir = Path(run_dir)
    categories: list[str] = []
    annotated = list(
        read_annotations(settings.annotations, settings.images, captions=settings.captions, categories=categories)
    )
    if not annotated:
        raise UserError(f"{settings.annotations}: no images are listed there")
    vocabulary = read_vocabulary(settings, annotated, categories)
    chosen, choice = choose_images(annotated, settings.choose, Detector(vocabulary), settings.seed)
    images = chosen[: settings.limit]
    if not images:
        left_out = ", ".join(f"{count} {reason}" for reason, count in choice.items() if reason not in ("in", "chosen"))
        raise UserError(f"{settings.annotations}: no image fits `choose` ({left_out})")
    recipe = deciding(settings)
    model = _model_fingerprint(settings, run_dir)
    source = {
        "settings": recipe,
        "mmpo": mmpo.__version__,
        "annotated": file_digest(settings.annotations),
        "model": model,
        "templates": _templates(settings),
    }
    check_source(run_dir, source, CALLED)
    if (run_dir / RESULT).exists():
        return BuildResult.model_validate(read_json(run_dir / RESULT))

    def begin(stack: ExitStack) -> Work[AnnotatedImage]:
        heard = said or run_dir / "said"
        remove_leftovers(heard)
        listener = Listener(settings, _engine(settings), model or "", heard)
        common = CoOccurrence(Detector(vocabulary).truth(image).names for image in annotated)
        text_models = _text_models(settings, run_dir / "replies", stack)
        builder = HallucinationBuilder(settings, listener, vocabulary, common, mmpo.__version__, text_models)

        def work(number: int, part: Sequence[AnnotatedImage], advance: Advance) -> dict[str, Any]:
            outcomes, tally = builder.build(number, part, advance)
            return {"tally": vars(tally), "outcomes": [asdict(outcome) for outcome in outcomes]}

        return work

    label = "describing images and asking about them"
    done = finish_units(run_dir / "units", images, settings.shard_size, label, begin)
    result = _assemble(settings, recipe, run_dir, images, done, vocabulary, dict(choice))
    write_json(run_dir / RESULT, result.model_dump(mode="json"))
    logger.info("%s", count_table(result.counts))
    return result


def _engine(settings: BuildSettings) -> Any:
    @cache
    def engine() -> AnswerEngine:
        vlm = load_vlm(
            settings.model,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            allow_network=settings.allow_network,
        )
        return AnswerEngine(vlm, max_new_tokens=settings.max_new_tokens, token_budget=TOKEN_BUDGET)

    return engine


def _model_fingerprint(settings: BuildSettings, run_dir: Path) -> str | None:
    """What the model's files hold. A finished build no longer needs a model that is gone: what it held then."""
    try:
        return folder_fingerprint(model_folder(settings.model))
    except UserError:
        if (run_dir / RESULT).exists() and (run_dir / SOURCE).exists():
            before: str | None = read_json(run_dir / SOURCE).get("model")
            return before
        if not settings.allow_network:
            raise
    load_vlm(settings.model, trust_remote_code=settings.trust_remote_code, allow_network=True)  # fetches it
    return folder_fingerprint(model_folder(settings.model))


def _templates(settings: BuildSettings) -> dict[str, str]:
    """The versions of the prompts that text models of this build get."""
    used = {
        "judge": settings.judge,
        "writer": settings.writer,
        "questions": settings.qa.writer if settings.qa is not None else None,
    }
    return {role: template_version(getattr(settings.templates, role)) for role, model in used.items() if model}


def _text_models(settings: BuildSettings, replies: Path, stack: ExitStack) -> TextModels:
    """Open the text models that the settings name; one that stands in two places is opened once."""
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


def _assemble(
    settings: BuildSettings,
    recipe: dict[str, Any],
    run_dir: Path,
    images: list[AnnotatedImage],
    units: list[Path],
    vocabulary: ObjectVocabulary,
    choice: dict[str, int],
) -> BuildResult:
    """Write the dataset from the finished units. It is quick, and resumes as the writer does."""
    total: dict[str, Counter[str]] = vars(HallucinationCounts())
    for path in units:
        add_up(total, read_unit(path)["tally"])
    writer = PairWriter(run_dir / "pairs", recipe=recipe, scores=())
    with task("writing pairs", total=len(images)) as running:
        running.advance(writer.sources_done)
        for image, outcome in islice(zip(images, read_outcomes(units), strict=True), writer.sources_done, None):
            if outcome["reason"]:
                writer.reject(image.id, Quarantined(outcome["stage"], outcome["reason"], outcome["detail"]))
            else:
                try:
                    picture = portable_image(image.path, root=image.root)
                except Quarantined as error:  # it was there when the unit was made
                    writer.reject(image.id, error)
                else:
                    writer.add(*(pair_of_row(row, picture) for row in outcome["pairs"]))
            running.advance()
    sides = (
        Sides(outcome["id"], row["chosen"], row["rejected"])
        for outcome in read_outcomes(units)
        for row in outcome["pairs"]
        if row["provenance"]["kind"] == "description"
    )
    result = _result(total, writer, len(images), choice)
    result.style = probe(sides, vocabulary, seed=settings.seed)
    result.warnings = _warnings(settings, counts=result.counts, vocabulary=vocabulary)
    writer.close(title="Hallucination pairs", notes=_notes(result))
    return result


def answers_line(answers: Mapping[str, int]) -> str:
    """`no in 1,403, yes in 141`"""
    return ", ".join(f"{answer} in {count:,}" for answer, count in answers.items())


def kinds_line(kinds: Mapping[str, int]) -> str:
    """`count 12, color 3`"""
    return ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())


def _result(total: dict[str, Counter[str]], writer: PairWriter, images: int, choice: dict[str, int]) -> BuildResult:
    rejected = {reason.replace("/", ": "): count for reason, count in writer.counts.reasons.items()}
    counts = {
        **({"listed": choice} if choice["chosen"] < choice["in"] else {}),
        "images": {"in": images, "paired": writer.counts.kept, **rejected},
        "descriptions": ordered(total["descriptions"]),
        "wordings": ordered(total["wordings"], ("in", "kept")),
        "claims": ordered(total["claims"], ("in",)),
        "questions": ordered(total["questions"]),
        "value_questions": ordered(total["value_questions"]),
    }
    check_sums(counts)
    totals = total["totals"]
    described, asked = totals["description_pairs"], counts["questions"].get("paired", 0)
    texts = described + totals["omission_pairs"]

    def share(part: float, whole: int) -> float:
        return round(part / whole, 4) if whole else 0.0

    return BuildResult(
        pairs="pairs",
        images=images,
        images_used=writer.counts.kept,
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
    """Where the vocabulary and what is to be checked don't meet."""
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


def _notes(result: BuildResult) -> str:
    """What the dataset's page says about the build."""
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
