"""AMBER on responses made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from mmpo.errors import UserError
from mmpo.eval.amber import files
from mmpo.eval.amber import metrics as amber
from mmpo.eval.amber.files import AmberLabel, AmberObjects, Annotations, Query
from mmpo.eval.amber.settings import AmberSettings
from mmpo.eval.amber.task import Amber
from mmpo.eval.amber.words import NounsName
from mmpo.eval.protocol import Part, Response
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals

_CHOICES = {
    "select": tuple(amber.SELECTIONS),
    "order": get_args(amber.Order),
    "cog_denominator": get_args(amber.CogDenominator),
}


@scorer(
    "amber",
    parsers=amber.PARSERS,
    needs=("annotations",),
    options={
        "select": f"which responses: {', '.join(amber.SELECTIONS)} (the published script's flags; a is all)",
        "words": f"how nouns are found, one of {', '.join(get_args(NounsName))}",
        "similarity": "exact, synonyms or spacy:MODEL (word vectors)",
        "order": f"of the search, one of {', '.join(get_args(amber.Order))}",
        "cog_denominator": f"one of {', '.join(get_args(amber.CogDenominator))}",
        "relation": "relation.json, where it is not beside the annotations",
        "safe_words": "safe_words.txt, likewise",
    },
)
def score_amber(request: ScoreRequest) -> Scored:
    """The script's numbers of a response file, rounded as it prints them, and under `exact` without its rounding."""
    assert request.annotations is not None
    options = request.options
    for name, known in _CHOICES.items():
        if (value := options.get(name, known[0])) not in known:
            raise UserError(f"{name} {value!r} is unknown", hint=f"choose one of {', '.join(known)}")
    annotations = files.read_annotations(
        request.annotations, related=options.get("relation"), safe=options.get("safe_words")
    )
    responses = files.read_responses(request.answers, annotations)
    queries = None if request.questions is None else _queries(request.questions, annotations)
    images = {query.id: query.image for query in queries or ()}
    select = options.get("select", "a")
    wanted = amber.SELECTIONS[select]
    given = [
        (Query(number, images.get(number, f"AMBER_{number}.jpg"), "", ""), Response(text, False))
        for number, text in responses.items()
        if _kind(annotations.items[number]) in wanted
    ]
    if not given:
        raise UserError(f"{request.answers} has no response that select={select} takes")
    parser = request.parser or "official"  # words and similarity are checked where they are opened
    rules: dict[str, Any] = {
        name: options[name] for name in ("words", "similarity", "order", "cog_denominator") if name in options
    }
    task = Amber.on([query for query, _ in given], AmberSettings.model_construct(parser=parser, **rules))
    task.annotations = annotations
    parts = {str(part.split): part for part in task.parts(given)}
    half = parts.get("generative")
    lines = {name: part for name, part in parts.items() if name not in ("generative", "both halves")}

    metrics: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    bounds: dict[str, Any] = {}
    warnings: list[str] = []
    if half is not None:
        bounds |= intervals(half.tally, percent=True)
        metrics |= amber.published_generative(half.tally.counts, task.settings.cog_denominator)
        exact |= _percent(half)
        warnings += _noun_warnings(int(half.tally.counts[:, amber.SILENT].sum()), task.nouns.tagged)
    unparsed = 0
    if lines:
        unparsed = lines["all"].unparsed or 0
        if unparsed:
            warnings.append(f"{unparsed} answers are neither yes nor no to the parser {parser}: they are wrong")
        printed = {line: amber.published_discriminative(part.tally.counts.sum(0), line) for line, part in lines.items()}
        plain = {line: _percent(part) for line, part in lines.items()}
        dimensions = [plain[line]["accuracy"] for line in ("existence", "attribute", "relation") if line in plain]
        metrics |= {"discriminative": printed, "Avg_ACC": sum(dimensions) / len(dimensions)}
        exact["discriminative"] = plain
        if all(_kind(annotations.items[query.id]) == "generative" or query.id in images for query, _ in given):
            # which questions are about one image is known
            bounds["discriminative"] = {line: intervals(part.tally, percent=True) for line, part in lines.items()}
    if both := parts.get("both halves"):
        if "discriminative" in bounds:
            bounds |= intervals(both.tally, percent=True)
        metrics["AMBER_score"] = amber.amber_score(metrics["CHAIR"], metrics["discriminative"]["all"]["F1"])
        exact["AMBER_score"] = amber.amber_score(exact["CHAIR"], exact["discriminative"]["all"]["F1"])
        if unparsed == lines["all"].questions:
            warnings.append(
                "none of the yes/no answers could be read: their numbers say nothing; try --parser first-word"
            )
    metrics["exact"] = exact
    return Scored(
        metrics=metrics,
        conventions=[
            f"AMBER: {half.questions if half else 0} descriptions and {lines['all'].questions if lines else 0} yes/no "
            "answers; percent",
            "as the published script rounds (one decimal, F1 from rounded precision and recall, denominators from "
            "0.001); `exact` is plain arithmetic; Avg_ACC is VLMEvalKit's mean over the dimensions",
            *task.rules,
        ],
        read=len(responses),
        scored=len(given),
        unparsed=unparsed,
        quarantined={"not selected": len(responses) - len(given)} if len(given) < len(responses) else {},
        warnings=warnings + _missing(annotations, queries, wanted, len(given)),
        intervals=bounds,
    )


def _kind(item: AmberObjects | AmberLabel) -> str:
    return "generative" if isinstance(item, AmberObjects) else item.dimension


def _percent(part: Part) -> dict[str, float]:
    return {name: 100 * value for name, value in part.tally.values.items()}


def _noun_warnings(silent: int, tagged: bool) -> list[str]:
    warnings = []
    if not tagged:
        warnings.append(
            "nouns are found without a tagger: every word counts as a noun, so CHAIR and Cover are not the script's"
        )
    if silent:
        warnings.append(f"{silent} descriptions name no word of AMBER; they count as free of hallucination")
    return warnings


def _queries(path: Path, annotations: Annotations) -> list[Query]:
    queries = files.read_queries(path)
    unknown = next((query for query in queries if query.id not in annotations.items), None)
    if unknown is not None:
        raise UserError(f"{unknown.where}: id {unknown.id} is in no annotation")
    return queries


def _missing(annotations: Annotations, queries: Sequence[Query] | None, wanted: Sequence[str], used: int) -> list[str]:
    """Only ids that are answered are scored, as in the script; a reader should know how many are not."""
    numbers = list(annotations.items) if queries is None else [query.id for query in queries]
    total = sum(_kind(annotations.items[number]) in wanted for number in numbers)
    return [f"{used} of {total} questions are answered; only these are scored"] if used < total else []
