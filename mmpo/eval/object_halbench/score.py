"""Object HalBench on answers made elsewhere: ground truth from COCO files or a table, and the scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from mmpo.chat import judging
from mmpo.chat.judging import Judgement, Mode
from mmpo.chat.templates import template_version
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.descriptions import annotated_images
from mmpo.eval.image_ids import by_names
from mmpo.eval.object_halbench.judge import TEMPLATE, named_by_model
from mmpo.eval.object_halbench.metrics import (
    ANSWERS,
    HalbenchAnswer,
    HalRow,
    NamedObject,
    answer_reader,
    named_in_words,
    read_answers,
    read_questions,
    score,
)
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.text.object_words import BaseFormReader
from mmpo.text.word_forms import FormName


def objects_and_reader(
    path: str | Path, choice: str, *, words: str = "noun-lemma", captions: str | Path | None = None
) -> tuple[dict[str, tuple[str, ...]], BaseFormReader, list[AnnotatedImage]]:
    """The objects of every image (by id and by file name), the reader of answers, and the annotated images (none where
    `path` is a table). `choice` is a synonym file, `coco` or `auto`.
    """
    images = annotated_images(path, captions)
    if images is None:
        table = chair.read_ground_truth(path)
        vocabulary = chair.vocabulary_for((name for names in table.values() for name in names), choice, False)
        known = set(vocabulary.names)
        for number, names in table.items():
            if (unknown := next((name for name in names if name not in known), None)) is not None:
                raise UserError(f"{path}: image {number}: {unknown!r} is not in the vocabulary of {len(known)} names")
        return table, answer_reader(vocabulary, words), []
    vocabulary = chair.vocabulary_for((name for image in images for name in image.object_names), choice, False)
    reader = answer_reader(vocabulary, words)
    truth = chair.objects_in(images, reader)
    for image in images:
        truth.setdefault(image.path, truth[image.id])
    return truth, reader, images


def write_rows(path: str | Path, rows: Sequence[HalRow]) -> None:
    """Write one JSON line an answer: what it names, what of that the image lacks, objects found and missed."""
    found = (
        {
            "image_id": row.image_id,
            "answer": row.text,
            "named": row.named,
            "hallucinated": row.hallucinated,
            "found": row.found,
            "missed": row.missed,
        }
        for row in rows
    )
    write_lines(path, found)


def split_unread(
    answers: Sequence[HalbenchAnswer], named: Sequence[tuple[NamedObject, ...] | None]
) -> tuple[list[HalbenchAnswer], list[tuple[NamedObject, ...]]]:
    """The answers whose objects are known, with these."""
    pairs = [(answer, names) for answer, names in zip(answers, named, strict=True) if names is not None]
    return [answer for answer, _ in pairs], [names for _, names in pairs]


@scorer(
    "object_halbench",
    parsers=judging.MODES[::-1],
    needs=("annotations",),
    options={
        "vocabulary": "the refined synonyms (synonyms_refine.txt) or another file, coco, or auto",
        "words": f"the rule for word forms (noun-lemma), one of {', '.join(get_args(FormName))}",
        "captions": "COCO's captions file, where the annotations are an instances file",
        "template": f"the judge's prompt, a packaged name or a .j2 file ({TEMPLATE})",
        "temperature": "the judge's (0; the published protocol has 0.2)",
        "sentences": "file to write, what every answer names",
    },
)
def score_object_halbench(request: ScoreRequest) -> Scored:
    """Rates in percent; with a judge the objects are those that it lists, without one the answers' own words."""
    assert request.annotations is not None
    options = request.options
    questions = read_questions(request.questions) if request.questions is not None else None
    answers = read_answers(request.answers, questions)
    choice = options.get("vocabulary", "auto")
    truth, reader, _ = objects_and_reader(
        request.annotations, choice, words=options.get("words", "noun-lemma"), captions=options.get("captions")
    )
    truth = by_names((answer.image_id for answer in answers), truth)
    judgements: list[Judgement[list[str]]] = []
    if request.judge is None:
        kept, named = list(answers), named_in_words(answers, reader)
        extraction = "objects from the answers' own words, every occurrence (the script without its judge)"
    else:
        mode: Mode = "strict" if request.parser == "strict" else "tolerant"
        template = options.get("template", TEMPLATE)
        found, judgements = named_by_model(
            request.judge, answers, reader, mode=mode, template=template, temperature=_temperature(options)
        )
        kept, named = split_unread(answers, found)
        extraction = (
            f"objects listed by {request.judge.identity} with {template_version(template)}, read by the {mode} rule, "
            "each once an answer"
        )
    unread = judging.unparsed(judgements)
    quarantined = judging.failures(judgements) | ({"judge_unparsed": unread} if unread else {})
    if not kept:
        raise UserError(f"none of the {len(answers)} answers can be scored: {quarantined}")
    rows, tally = score(kept, named, truth)
    if "sentences" in options:
        write_rows(options["sentences"], rows)
    warnings = [f"{name} is undefined (nothing to divide by)" for name in tally.undefined]
    if len(kept) != ANSWERS:
        warnings.append(f"{len(kept)} answers are scored; the benchmark has {ANSWERS}")
    if unread:
        warnings.append(f"{unread} judge replies hold no list of objects; their answers are left out")
    warnings += judging.not_judged(judgements)
    return Scored(
        metrics={
            **tally.shown(percent=True),
            "with_objects": sum(bool(row.named) for row in rows),
            "mentions": sum(len(row.named) for row in rows),
        },
        conventions=[
            "Object HalBench: rates in percent; CHAIRs_refine (published as Resp.) is over answers with an object, "
            "CHAIRi (published as Mention) over mentions",
            extraction,
            f"word forms: {reader.identity}",
            f"vocabulary: {choice} ({len(reader.vocabulary)} objects)",
        ],
        read=len(answers),
        scored=len(kept),
        quarantined=quarantined,
        warnings=warnings,
        intervals=intervals(tally, percent=True),
    )


def _temperature(options: Mapping[str, str]) -> float:
    text = options.get("temperature", "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise UserError(f"temperature must be a number of at least 0, got {text!r}")
    return value
