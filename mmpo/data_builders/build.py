"""A build, from an annotation file to a folder of preference pairs.

    run_dir/
      source.json          what the build was started from; another source or other settings are refused
      units/00000.json …   what each unit of work gave: pairs without pictures, verdicts, counts; whole or not there
      pairs/               the dataset: shards, card.json, README.md, rejects.jsonl
      build_result.json    the result in numbers; written last

Killed at any moment and run again, a build goes on behind its last unit and ends with the same bytes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import mmpo
from mmpo.data.annotations import AnnotatedImage, read_annotations
from mmpo.data.atomic import read_json, remove_leftovers, write_json
from mmpo.data.images import portable_image
from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.data.vocabulary import ObjectVocabulary, coco
from mmpo.data_builders.detect import Detector
from mmpo.data_builders.hallucination import HallucinationBuilder, digest
from mmpo.data_builders.questions import CoOccurrence
from mmpo.data_builders.settings import BuildResult, BuildSettings
from mmpo.errors import Quarantined, UserError
from mmpo.models.answer import AnswerEngine
from mmpo.models.loading import load_vlm
from mmpo.progress import task

logger = logging.getLogger("mmpo.build")

# Settings that don't change what is built.
FREE = frozenset({"allow_network"})
TOKEN_BUDGET = 16384
RESULT = "build_result.json"


def build(settings: BuildSettings, run_dir: Path) -> BuildResult:
    """Build the pairs of `settings` into `run_dir/pairs`. A finished build returns its result.

    Raises `UserError` for settings that don't fit the files or what is in `run_dir`. Images that can't be used end in
    `pairs/rejects.jsonl`, never in an error.
    """
    run_dir = Path(run_dir)
    units = run_dir / "units"
    annotated = list(read_annotations(settings.annotations, settings.images, captions=settings.captions))
    if not annotated:
        raise UserError(f"{settings.annotations}: no images are listed there")
    vocabulary = read_vocabulary(settings, annotated)
    images = annotated[: settings.limit]
    recipe = settings.model_dump(mode="json", exclude=set(FREE))
    source = {"settings": recipe, "mmpo": mmpo.__version__, "annotated": digest(settings.annotations.read_bytes())}
    _check_source(run_dir, source)
    if (run_dir / RESULT).exists():
        return BuildResult.model_validate(read_json(run_dir / RESULT))
    cuts = range(0, len(images), settings.shard_size)
    todo = [number for number in range(len(cuts)) if not _unit(units, number).exists()]
    if todo:
        remove_leftovers(units)
        builder = _builder(settings, vocabulary, annotated)
        with task("describing images and asking about them", total=len(images)) as running:
            done = len(cuts) - len(todo)
            running.advance(min(done * settings.shard_size, len(images)))
            for number in todo:
                part = images[cuts[number] : cuts[number] + settings.shard_size]
                outcomes, tally = builder.build(part)
                write_json(
                    _unit(units, number), {"tally": vars(tally), "outcomes": [asdict(outcome) for outcome in outcomes]}
                )
                running.advance(len(part), note=f"{sum(len(outcome.pairs) for outcome in outcomes)} pairs")
    result = _assemble(settings, recipe, run_dir, images, [_unit(units, number) for number in range(len(cuts))])
    write_json(run_dir / RESULT, result.model_dump(mode="json"))
    logger.info("%s", count_table(result))
    return result


def read_vocabulary(settings: BuildSettings, images: list[AnnotatedImage]) -> ObjectVocabulary:
    """The vocabulary that the settings name; else the annotated names."""
    if settings.vocabulary == "coco":
        return coco()
    if settings.vocabulary is not None:
        return ObjectVocabulary.from_file(settings.vocabulary)
    names = sorted({name for image in images for name in image.object_names})
    if not names:
        raise UserError(f"{settings.annotations}: no image has annotated objects, so nothing can be checked")
    return ObjectVocabulary.from_names(names)


def _builder(
    settings: BuildSettings, vocabulary: ObjectVocabulary, images: list[AnnotatedImage]
) -> HallucinationBuilder:
    vlm = load_vlm(
        settings.model,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
        allow_network=settings.allow_network,
    )
    engine = AnswerEngine(vlm, max_new_tokens=settings.max_new_tokens, token_budget=TOKEN_BUDGET)
    detector = Detector(vocabulary)
    common = CoOccurrence(detector.truth(image).names for image in images)
    return HallucinationBuilder(settings, engine, vocabulary, common, mmpo.__version__)


def _assemble(
    settings: BuildSettings, recipe: dict[str, Any], run_dir: Path, images: list[AnnotatedImage], units: list[Path]
) -> BuildResult:
    """Write the dataset from the finished units. It is quick, and resumes as the writer does."""
    total = {"descriptions": Counter[str](), "questions": Counter[str](), "totals": Counter[str]()}
    for path in units:
        for name, counts in read_json(path)["tally"].items():
            total[name].update(counts)
    writer = PairWriter(run_dir / "pairs", recipe=recipe, scores=())
    with task("writing pairs", total=len(images)) as running:
        running.advance(writer.sources_done)
        for image, outcome in islice(zip(images, _outcomes(units), strict=True), writer.sources_done, None):
            if outcome["reason"]:
                writer.reject(image.id, Quarantined(outcome["stage"], outcome["reason"], outcome["detail"]))
            else:
                try:
                    picture = portable_image(image.path, root=image.root)
                except Quarantined as error:  # it was there when the unit was made
                    writer.reject(image.id, error)
                else:
                    writer.add(*(_pair(row, picture) for row in outcome["pairs"]))
            running.advance()
    result = _result(total, writer, len(images))
    writer.close(title="Hallucination pairs", notes=_notes(result))
    return result


def _outcomes(units: list[Path]) -> Iterator[dict[str, Any]]:
    for path in units:
        yield from read_json(path)["outcomes"]


def _pair(row: dict[str, Any], picture: bytes) -> PreferencePair:
    return PreferencePair.simple(
        id=row["id"],
        image=picture,
        question=row["question"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        provenance=row["provenance"],
    )


def _result(total: dict[str, Counter[str]], writer: PairWriter, images: int) -> BuildResult:
    rejected = {reason.replace("/", ": "): count for reason, count in writer.counts.reasons.items()}
    counts = {
        "images": {"in": images, "paired": writer.counts.kept, **rejected},
        "descriptions": _ordered(total["descriptions"]),
        "questions": _ordered(total["questions"]),
    }
    for name, table in counts.items():
        if table.get("in", 0) != sum(table.values()) - table.get("in", 0):
            raise RuntimeError(f"the counts of {name} do not add up: {table}")
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
        hallucinating_share=share(totals["hallucinating"], counts["descriptions"].get("in", 0)),
    )


def _ordered(table: Counter[str]) -> dict[str, int]:
    """`in`, `paired`, then the losses by name."""
    first = {key: table[key] for key in ("in", "paired")}
    return first | {key: table[key] for key in sorted(table) if key not in first and table[key]}


def _notes(result: BuildResult) -> str:
    """What the dataset's page says about the build."""
    return (
        f"{result.description_pairs} description pairs and {result.omission_pairs} about an omission (chosen "
        f"{result.chosen_words} words, rejected {result.rejected_words}), {result.question_pairs} yes/no pairs "
        f"(right answer yes in {result.yes_share:.0%}).\n\n{count_table(result)}"
    )


def count_table(result: BuildResult) -> str:
    """The counts as a Markdown table; within each kind the other rows add up to `in`."""
    lines = ["| what | where it went | count |", "| --- | --- | ---: |"]
    lines += [f"| {kind} | {key} | {count} |" for kind, table in result.counts.items() for key, count in table.items()]
    return "\n".join(lines)


def _unit(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def _check_source(run_dir: Path, source: dict[str, Any]) -> None:
    path = run_dir / "source.json"
    if not path.exists():
        write_json(path, source)
        return
    before = read_json(path)
    if before == source:
        return
    old, new = (
        {**state.get("settings", {}), "mmpo": state.get("mmpo"), "annotated": state.get("annotated")}
        for state in (before, source)
    )
    changed = next(key for key in new if old.get(key) != new[key])
    raise UserError(
        f"{run_dir} holds a build with another `{changed}`", hint="build into a new folder, or delete this one"
    )
