"""SHR on responses, or whole judgements, made elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmpo.chat import ChatModel
from mmpo.chat.judging import Judgement, Mode, cut_off, not_judged
from mmpo.chat.templates import template_version
from mmpo.errors import Quarantined, UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.descriptions import annotated_images
from mmpo.eval.protocol import Response
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.shr import metrics as shr
from mmpo.eval.shr.files import IMAGES_FILE, SavedJudgement, ShrImage, read_images, read_judgements, read_responses
from mmpo.eval.shr.judge import TEMPLATE, ShrRuleJudge, from_annotated, model_rows, saved_row, write_judgements
from mmpo.eval.shr.settings import ShrSettings
from mmpo.eval.shr.task import Shr
from mmpo.eval.statistics.compare import intervals
from mmpo.outside import read_text


@scorer(
    "shr",
    parsers=("tolerant", "strict"),
    options={
        "temperature": "the judge's temperature (0; the published protocol has 0.7)",
        "runs": "how often every response is judged, each run with a seed of its own (1)",
        "template": f"the judge's prompt, a packaged name or a .j2 file ({TEMPLATE})",
        "vocabulary": "for the rule judge: auto, coco, or a file of synonyms",
        "judgements": "file to write, every verdict in the published form",
    },
)
def score_shr(request: ScoreRequest) -> Scored:
    """SHR of a `judgement.json` as it is (with --parser its raw replies are read again), of responses by the judge, or
    by rules where there is none. Without annotations only the n-gram numbers, which need neither.
    """
    judged = read_judgements(request.answers)
    if judged is not None:
        return _judged_elsewhere(request, judged)
    responses = read_responses(request.answers)
    if not responses:
        raise UserError(f"{request.answers} holds no responses")
    if request.annotations is None:
        if request.judge is not None:
            raise UserError("the judge needs --annotations", hint=f"{IMAGES_FILE}, its folder, or annotated images")
        return Scored(
            metrics=shr.text_metrics(list(responses.values())),
            conventions=["n-grams as published: distinct / all, mean over responses; higher means less repetition"],
            read=len(responses),
            scored=len(responses),
            warnings=["without --annotations nothing is judged: these are the n-gram numbers only"],
        )
    images, names = shr_images(request.annotations)
    unknown = next((image for image in responses if image not in images), None)
    if unknown is not None:
        raise UserError(f"{request.answers}: image {unknown} is not in {request.annotations}")
    described = [(replace(images[image], id=image), response) for image, response in responses.items()]
    if request.judge is None:
        return _by_rules(request, described, names)
    return _by_model(request, request.judge, described)


def shr_images(path: Path) -> tuple[dict[str, ShrImage], Iterable[str] | None]:
    """The images of SHR's own files or of any annotated set, by id (and path), with the annotated object names of the
    latter.
    """
    if path.is_dir() and (path / IMAGES_FILE).exists():
        return read_images(path), None
    if path.is_file() and read_text(path).lstrip().startswith("["):
        return read_images(path), None
    annotated = annotated_images(path)
    if annotated is None:
        raise UserError(
            f"{path}: neither SHR's annotations nor annotated images",
            hint=f"give {IMAGES_FILE}, COCO instances, or JSON Lines",
        )
    images: dict[str, ShrImage] = {}
    for image in annotated:
        images.update({image.id: from_annotated(image), image.path: from_annotated(image)})
    return images, [name for image in annotated for name in image.object_names]


def _by_rules(request: ScoreRequest, described: list[tuple[ShrImage, str]], names: Iterable[str] | None) -> Scored:
    choice = request.options.get("vocabulary", "coco" if names is None else "auto")
    if names is None and choice == "auto":
        raise UserError("Visual Genome's names are no closed list", hint="vocabulary: coco, or a file of synonyms")
    vocabulary = chair.vocabulary_for(names or (), choice)
    judge = ShrRuleJudge(vocabulary)
    rows = [judge.row(image, response) for image, response in described]
    how = (
        f"judged by rules: object names of {choice} ({len(vocabulary)} classes) against the annotations; colours, "
        "numbers and places are not looked at"
    )
    return _scored(request.options, {"0": rows}, how)


def _by_model(request: ScoreRequest, chat: ChatModel, described: list[tuple[ShrImage, str]]) -> Scored:
    settings = ShrSettings.model_construct(
        parser=request.parser or "tolerant",
        template=request.options.get("template", TEMPLATE),
        temperature=_number(request, "temperature", 0.0),
    )
    count = int(_number(request, "runs", 1))
    runs: dict[str, list[shr.ShrRow]] = {}
    failed: dict[str, Quarantined] = {}
    asked: list[Judgement[str]] = []
    for run in range(count):
        rows, judgements = model_rows(chat, described, settings, run)
        sent = [row.image for row in rows if row.sentences]
        failed.update({image: one.failure for image, one in zip(sent, judgements, strict=True) if one.failure})
        asked += judgements
        runs[str(run)] = rows
    runs = {name: [row for row in rows if row.image not in failed] for name, rows in runs.items()}
    how = (
        f"judged by {chat.identity} at temperature {settings.temperature:g} with {template_version(settings.template)}"
        f", {count} run{'s' if count > 1 else ''}, replies read by the {settings.parser} rule"
    )
    return _scored(request.options, runs, how, failed, cut_off(asked))


def _judged_elsewhere(request: ScoreRequest, judged: Mapping[str, Mapping[str, SavedJudgement]]) -> Scored:
    mode: Mode | None = None if request.parser is None else "strict" if request.parser == "strict" else "tolerant"
    runs = {
        name: [saved_row(image, saved, mode) for image, saved in entries.items()] for name, entries in judged.items()
    }
    first = next(iter(runs.values()))
    if any([row.image for row in rows] != [row.image for row in first] for rows in runs.values()):
        raise UserError(f"{request.answers}: the runs are not about the same images in the same order")
    how = "judged elsewhere, classes as saved" if mode is None else f"judged elsewhere, replies read by the {mode} rule"
    return _scored(request.options, runs, how)


def _scored(
    options: Mapping[str, str],
    runs: Mapping[str, list[shr.ShrRow]],
    how: str,
    failed: Mapping[str, Quarantined] | None = None,
    warned: Sequence[str] = (),
) -> Scored:
    """The result of one or more runs over the same responses; `failed` are the images that are not among them."""
    reasons = Counter(f"judge_{failure.reason}" for failure in (failed or {}).values())
    questions = [(row.image, ShrImage(row.image, (), ())) for row in next(iter(runs.values()))]
    if not questions:
        raise UserError(f"no response could be judged: {dict(reasons)}")
    if "judgements" in options:
        write_judgements(options["judgements"], runs)
    task, parts = Shr.on(questions, ShrSettings()), []
    for rows in runs.values():
        given = [(question, Response(row.response, False)) for question, row in zip(questions, rows, strict=True)]
        parts += task.parts(given, rows)
    unparsed, sentences = sum(part.unparsed or 0 for part in parts), sum(part.readable_of or 0 for part in parts)
    warnings = list(warned)
    if unparsed:
        warnings.append(f"{unparsed} of {sentences} sentences have no readable verdict; they are in no ratio")
    warnings += not_judged([Judgement[str](None, None, failure) for failure in (failed or {}).values()], "responses")
    bounds = intervals(parts[0].tally)  # of the first run's numbers, and of SHR where that is the only one
    if len(parts) == 1 and (ratio := bounds.get("hal_sents_ratio")) is not None:
        bounds |= {"mean_hal_ratio": ratio, "SHR": [100 * bound for bound in ratio]}
    return Scored(
        metrics={**shr.metrics([part.tally for part in parts]), "n_sentences": sentences, "n_unparsed": unparsed},
        conventions=[
            f"SHR in percent: hallucinated / judged sentences over all images; {how}",
            "unparsed counts sentences",
        ],
        read=len(questions) + reasons.total(),
        scored=len(questions),
        unparsed=unparsed,
        readable_of=sentences or None,
        quarantined=dict(sorted(reasons.items())),
        warnings=warnings,
        intervals=bounds,
    )


def _number(request: ScoreRequest, name: str, default: float) -> float:
    value = request.options.get(name)
    if value is None:
        return default
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"{name} must be a number, got {value!r}") from None
    if number < 0 or (name == "runs" and number < 1):
        raise UserError(f"{name} is too small: {value}")
    return number
