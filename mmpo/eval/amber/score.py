"""AMBER on responses made elsewhere: the scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.amber import files
from mmpo.eval.amber import metrics as amber
from mmpo.eval.amber.files import AmberLabel, AmberObjects, Annotations, Query
from mmpo.eval.amber.metrics import CogDenominator, DescribedRow, Order
from mmpo.eval.amber.words import NounReader, NounsName, Similarity, open_similarity
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.statistics.tally import Tally


@dataclass(frozen=True)
class AmberRules:
    """How AMBER is scored; every field stands in the result."""

    nouns: NounReader
    similarity: Similarity
    order: Order = "published"
    cog_denominator: CogDenominator = "targets"
    parser: str = "official"

    @property
    def conventions(self) -> list[str]:
        """What a number follows, for its reader."""
        lines = [
            f"nouns: {self.nouns.identity}",
            f"similar words: {self.similarity.identity}",
            f"search order: {self.order}; Cog as a share of "
            + ("the expected words, as the script" if self.cog_denominator == "targets" else "the nouns, as the paper"),
            f"yes/no answers: parser {self.parser}; the positive class is no",
        ]
        return [f"AMBER {line}" for line in lines]


def rules(
    annotations: Annotations,
    *,
    words: str = "auto",
    similarity: str = "exact",
    order: str = "published",
    cog_denominator: str = "targets",
    parser: str = "official",
) -> AmberRules:
    """The rules by name. Raises UserError for an unknown one."""
    for name, value, known in (
        ("order", order, get_args(Order)),
        ("cog_denominator", cog_denominator, get_args(CogDenominator)),
    ):
        if value not in known:
            raise UserError(f"{name} {value!r} is unknown", hint=f"choose one of {', '.join(known)}")
    return AmberRules(
        NounReader(words, annotations.words),
        open_similarity(similarity),
        cast(Order, order),
        cast(CogDenominator, cog_denominator),
        parser,
    )


def describe_all(
    items: Sequence[AmberObjects], responses: Sequence[str], annotations: Annotations, rules: AmberRules
) -> list[DescribedRow]:
    """Score the descriptions of `items`, in order."""
    nouns = rules.nouns.read(responses)
    return [
        amber.describe(item, found, annotations, rules.similarity, rules.order)
        for item, found in zip(items, nouns, strict=True)
    ]


def answer_all(
    items: Sequence[AmberLabel], responses: Sequence[str], rules: AmberRules
) -> dict[int, Literal["yes", "no"] | None]:
    """What the responses answer, by id."""
    return {item.id: amber.read_answer(text, rules.parser) for item, text in zip(items, responses, strict=True)}


@scorer(
    "amber",
    parsers=amber.PARSERS,
    needs=("annotations",),
    options={
        "select": f"which responses: {', '.join(amber.SELECTIONS)} (the published script's flags; a is all)",
        "words": f"how nouns are found, one of {', '.join(get_args(NounsName))}",
        "similarity": "exact, synonyms or spacy:MODEL (word vectors)",
        "order": f"of the search, one of {', '.join(get_args(Order))}",
        "cog_denominator": f"one of {', '.join(get_args(CogDenominator))}",
        "relation": "relation.json, where it is not beside the annotations",
        "safe_words": "safe_words.txt, likewise",
    },
)
def score_amber(request: ScoreRequest) -> Scored:
    """The script's numbers of a response file, rounded as it prints them, and under `exact` without its rounding."""
    assert request.annotations is not None
    options = request.options
    select = options.get("select", "a")
    if select not in amber.SELECTIONS:
        raise UserError(f"select {select!r} is unknown", hint=f"choose one of {', '.join(amber.SELECTIONS)}")
    annotations = files.read_annotations(
        request.annotations, related=options.get("relation"), safe=options.get("safe_words")
    )
    responses = files.read_responses(request.answers, annotations)
    chosen = rules(
        annotations,
        parser=request.parser or "official",
        **{name: options[name] for name in ("words", "similarity", "order", "cog_denominator") if name in options},
    )
    wanted = amber.SELECTIONS[select]
    queries = None if request.questions is None else _queries(request.questions, annotations)
    images = {query.id: query.image for query in queries or ()}
    picked = [annotations.items[number] for number in responses]
    described = [item for item in picked if isinstance(item, AmberObjects) and "generative" in wanted]
    asked = [item for item in picked if isinstance(item, AmberLabel) and item.dimension in wanted]

    metrics: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    tallies: dict[str, Tally] = {}
    warnings: list[str] = []
    if described:
        rows = describe_all(described, [responses[item.id] for item in described], annotations, chosen)
        metrics |= amber.published_generative(rows, chosen.cog_denominator)
        totals = np.array([row.counts for row in rows]).sum(0)
        exact |= {m.name: 100 * float(m.formula(totals)) for m in amber.generative_metrics(chosen.cog_denominator)}
        warnings += _noun_warnings(rows, chosen)
        own = {item.id: images.get(item.id, f"AMBER_{item.id}.jpg") for item in described}  # one description an image
        tallies["generative"] = amber.generative_tally(rows, own, chosen.cog_denominator)
    unparsed = 0
    if asked:
        answers = answer_all(asked, [responses[item.id] for item in asked], chosen)
        unparsed = sum(answer is None for answer in answers.values())
        if unparsed:
            warnings.append(f"{unparsed} answers are neither yes nor no to the parser {chosen.parser}: they are wrong")
        lines = {
            line: np.array([amber.answer_counts(item, answers[item.id]) for item in members]).sum(0)
            for line, members in amber.groups(asked).items()
        }
        printed = {line: amber.published_discriminative(counts, line) for line, counts in lines.items()}
        plain = {
            line: {m.name: 100 * float(m.formula(counts)) for m in amber.DISCRIMINATIVE}
            for line, counts in lines.items()
        }
        dimensions = [plain[line]["accuracy"] for line in ("existence", "attribute", "relation") if line in plain]
        if all(item.id in images for item in asked):
            for line, members in amber.groups(asked).items():
                tallies[line] = amber.discriminative_tally(members, answers, images)
        metrics |= {"discriminative": printed, "Avg_ACC": sum(dimensions) / len(dimensions)}
        exact["discriminative"] = plain
    if described and asked:
        metrics["AMBER_score"] = amber.amber_score(metrics["CHAIR"], metrics["discriminative"]["all"]["F1"])
        exact["AMBER_score"] = amber.amber_score(exact["CHAIR"], exact["discriminative"]["all"]["F1"])
    if not described and not asked:
        raise UserError(f"{request.answers} has no response that select={select} takes")
    if described and asked and unparsed == len(asked):
        warnings.append("none of the yes/no answers could be read: their numbers say nothing; try --parser first-word")
    metrics["exact"] = exact
    used = len(described) + len(asked)
    return Scored(
        metrics=metrics,
        conventions=[
            f"AMBER: {len(described)} descriptions and {len(asked)} yes/no answers; percent",
            "as the published script rounds (one decimal, F1 from rounded precision and recall, denominators from "
            "0.001); `exact` is plain arithmetic; Avg_ACC is VLMEvalKit's mean over the dimensions",
            *chosen.conventions,
        ],
        read=len(responses),
        scored=used,
        unparsed=unparsed,
        quarantined={"not selected": len(responses) - used} if used < len(responses) else {},
        warnings=warnings + _missing(annotations, queries, wanted, used),
        intervals=_intervals(tallies),
    )


def _intervals(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """Of the plain numbers in percent. Those of yes/no answers need to know which questions are about one image."""
    lines = {line: intervals(tally, percent=True) for line, tally in tallies.items()}
    found: dict[str, Any] = lines.pop("generative", {})
    if lines:
        found["discriminative"] = lines
    if "generative" in tallies and "all" in tallies:
        found |= intervals(amber.combined_tally(tallies["generative"], tallies["all"]), percent=True)
    return found


def _noun_warnings(rows: Sequence[DescribedRow], rules: AmberRules) -> list[str]:
    warnings = []
    if not rules.nouns.tagged:
        warnings.append(
            "nouns are found without a tagger: every word counts as a noun, so CHAIR and Cover are not the script's"
        )
    silent = sum(not row.nouns for row in rows)
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
    items = [annotations.items[number] for number in numbers]
    kinds = ["generative" if isinstance(item, AmberObjects) else item.dimension for item in items]
    total = sum(kind in wanted for kind in kinds)
    return [f"{used} of {total} questions are answered; only these are scored"] if used < total else []
