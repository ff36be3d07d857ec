"""Drift in the benchmarks' own answers: repetition, loops, diversity, length, cut and empty answers, share of yes.

Shapes: a answers, g images, k counted quantities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpo.eval.drift import degeneration
from mmpo.eval.drift.degeneration import words
from mmpo.eval.drift.limits import judged
from mmpo.eval.drift.settings import DriftSettings
from mmpo.eval.protocol import Part, Request, Response
from mmpo.eval.statistics.compare import Bootstrap, compare
from mmpo.eval.statistics.drift import DriftRow, Reading
from mmpo.eval.statistics.rows import Estimate, MetricRow
from mmpo.eval.statistics.tally import Metric, Tally, aligned, share
from mmpo.statistics import Array, ratio

GRAMS = (1, 2, 3, 4)
_ALL, _LOOP, _CUT, _EMPTY, _WORDS, _TOKENS = 8, 9, 10, 11, 12, 13
_COLUMNS = 14
"""Columns of an answer's counts: first rep-n and, one or none, whether it has one, for n of `GRAMS`."""


@dataclass(frozen=True)
class TokenReader:
    """The model's tokenizer: `cut` gives the tokens of a text, `vocabulary` is how many there are."""

    cut: Callable[[str], list[str]]
    vocabulary: int


def answer_rows(
    benchmark: str,
    given: Mapping[str, Mapping[Request, Response]],
    settings: DriftSettings,
    tokens: TokenReader | None,
    bootstrap: Bootstrap,
) -> list[DriftRow]:
    """The checks of one benchmark's answers, by state (`before`, `after`), paired over the same requests. Without
    `tokens` none that counts them is there."""
    asked = list(given["after"])
    found = {state: [_Answer.of(own[request], tokens, settings) for request in asked] for state, own in given.items()}
    units = [_unit(request) for request in asked]
    tallies = {state: _tally(units, answers, settings, tokens is not None) for state, answers in found.items()}
    rows = drift_rows(benchmark, tallies.get("before"), tallies["after"], bootstrap)
    rows += _lengths(benchmark, found, "words", lambda answer: len(answer.words))
    if tokens is not None:
        rows += _lengths(benchmark, found, "tokens", lambda answer: len(answer.tokens))
    rows += _diversity(benchmark, found, tokens)
    return [judged(row) for row in rows] if "before" in given else rows


def yes_rows(benchmark: str, scored: Mapping[str, Sequence[Part]], bootstrap: Bootstrap) -> list[DriftRow]:
    """The share of yes among the answers to yes/no questions, that minus the labels' share, and the mean P(yes), where
    the benchmark has such questions and these are known."""
    places = _yes_places(scored)
    if not places:
        return []
    parts = {state: [own[place] for place in places] for state, own in scored.items()}
    known = all(part.tally.ranking is not None for own in parts.values() for part in own)
    tallies = {state: _yes_tally(own, labels=known) for state, own in parts.items()}
    rows = drift_rows(benchmark, tallies.get("before"), tallies["after"], bootstrap)
    if "before" not in scored:
        return rows
    return [row if known and row.metric == "yes-ratio" else judged(row) for row in rows]


def drift_rows(of: str | None, before: Tally | None, after: Tally, bootstrap: Bootstrap) -> list[DriftRow]:
    """The rows of a tally's metrics with their intervals and paired differences; one that is undefined has none."""
    return [drift_row(of, row) for row in compare(of or "drift", None, before, after, bootstrap) if row.defined]


def drift_row(of: str | None, row: MetricRow) -> DriftRow:
    """A compared metric as a check."""
    change = row.change
    return DriftRow(
        metric=row.metric,
        of=of,
        label=row.shown,
        meaning=row.meaning,
        percent=row.percent,
        before=None if row.before is None else _reading(row.before),
        after=_reading(row.after),
        change=None if change is None else Reading(value=change.value, low=change.low, high=change.high),
        p=None if change is None else change.p,
    )


def brief(rows: Sequence[DriftRow]) -> list[DriftRow]:
    """The rows with those marked that a screen shows: of the benchmark with the longest answers how it says things, of
    all yes/no benchmarks the share of yes that is furthest off, and everything about shipped prompts and texts."""
    medians = {row.of: row.after.value for row in rows if row.metric == "words-median"}
    longest = max(medians, key=lambda name: medians[name], default=None)
    leaning = [row for row in rows if row.metric == "yes-bias"] or [row for row in rows if row.metric == "yes-ratio"]
    furthest = max(leaning, key=lambda row: abs(row.change.value if row.change else row.after.value), default=None)
    shown = {"rep-4", "distinct-2", "loop", "at-limit", "empty", "words-median"}
    return [
        row.model_copy(update={"brief": True})
        if row is furthest
        or (row.of == longest and row.metric in shown)
        or row.metric in ("perplexity", "perplexity-captions", "kl-forward", "kl-reverse")
        else row
        for row in rows
    ]


@dataclass(frozen=True)
class _Answer:
    words: list[str]
    tokens: list[str]
    units: list[str]
    counts: Array

    @classmethod
    def of(cls, response: Response, tokens: TokenReader | None, settings: DriftSettings) -> _Answer:
        said, pieces = words(response.text), tokens.cut(response.text) if tokens is not None else []
        units = pieces if settings.units == "tokens" and tokens is not None else said
        repeated = [degeneration.rep_n(units, n) for n in GRAMS]
        looped = (
            degeneration.repeats_like_vlmevalkit(response.text)
            if settings.loops == "vlmevalkit"
            else degeneration.loop(said) is not None
        )
        counts = np.zeros(_COLUMNS)
        for place, value in enumerate(repeated):
            counts[2 * place : 2 * place + 2] = (value or 0.0, value is not None)
        counts[_ALL:] = (1, looped, response.truncated, not response.text.strip(), len(said), len(pieces))
        return cls(said, pieces, units, counts)


def _tally(units: Sequence[str], answers: Sequence[_Answer], settings: DriftSettings, tokens: bool) -> Tally:
    what = settings.units
    metrics = [
        share(
            f"rep-{n}",
            2 * place,
            2 * place + 1,
            "neither",
            f"of the {what if n == 1 else f'runs of {n} {what}'} in an answer, the share that repeats an earlier one; "
            f"mean over answers of {n} or more",
        )
        for place, n in enumerate(GRAMS)
    ]
    looping = "three or more copies of a block, twelve words or more"
    if settings.loops == "vlmevalkit":
        looping = "what VLMEvalKit calls a repetition"
    metrics += [
        share("loop", _LOOP, _ALL, "neither", f"share of answers whose end is a loop: {looping}", label="loops"),
        share(
            "at-limit", _CUT, _ALL, "neither", "share of answers cut off at the token limit", label="cut at the limit"
        ),
        share("empty", _EMPTY, _ALL, "neither", "share of answers that say nothing", label="empty answers"),
        share("words-mean", _WORDS, _ALL, "neither", percent=False, label="words, mean"),
    ]
    if tokens:
        metrics.append(share("tokens-mean", _TOKENS, _ALL, "neither", percent=False, label="tokens, mean"))
    images, counts = sums_by_unit(units, np.array([answer.counts for answer in answers]).reshape(-1, _COLUMNS))
    return Tally(images, counts, tuple(metrics))


def sums_by_unit(units: Sequence[str], rows: Array) -> tuple[tuple[str, ...], Array]:
    """The distinct units in order of first appearance, and the sums [g, k] of their `rows` [a, k], in float64."""
    position: dict[str, int] = {}
    index = [position.setdefault(unit, len(position)) for unit in units]
    sums = np.zeros((len(position), rows.shape[1]))
    np.add.at(sums, index, rows)
    return tuple(position), sums


def _lengths(
    benchmark: str, found: Mapping[str, Sequence[_Answer]], what: str, length: Callable[[_Answer], int]
) -> list[DriftRow]:
    """Median, with the ratio of the medians, and 95th percentile of the answers' lengths."""
    lengths = {state: np.array([length(answer) for answer in answers]) for state, answers in found.items()}
    rows = []
    for name, label, level in (("median", "median", 0.5), ("p95", "95th percentile", 0.95)):
        values = {state: float(np.quantile(own, level)) for state, own in lengths.items()}
        row = plain_row(f"{what}-{name}", benchmark, f"{what}, {label}", values)
        if name == "median" and values.get("before"):
            row = row.model_copy(update={"ratio": Reading(value=values["after"] / values["before"])})
        rows.append(row)
    return rows


def _diversity(benchmark: str, found: Mapping[str, Sequence[_Answer]], tokens: TokenReader | None) -> list[DriftRow]:
    said = {state: [answer.units for answer in answers] for state, answers in found.items()}
    if "before" in said:
        first, second = degeneration.cut_alike(said["before"], said["after"])
        cut: Mapping[str, Sequence[Sequence[str]]] = {"before": first, "after": second}
    else:
        cut = said
    how = "both sides' answers cut to the same length" if "before" in said else "of all answers"
    rows: list[DriftRow | None] = []
    for n, what in ((1, "words"), (2, "word pairs")):
        values = {state: degeneration.distinct_n(own, n) for state, own in cut.items()}
        rows.append(_known(f"distinct-{n}", benchmark, f"distinct-{n}", values, f"different {what} / {what}; {how}"))
    if tokens is not None:
        size = tokens.vocabulary
        values = {state: degeneration.expectation_adjusted_distinct(own, size) for state, own in said.items()}
        meaning = f"distinct-1 of whole answers, corrected for how much is said (a vocabulary of {size:,})"
        rows.append(_known("ead", benchmark, "EAD", values, meaning))
    return [row for row in rows if row is not None]


def _known(metric: str, of: str, label: str, values: Mapping[str, float | None], meaning: str) -> DriftRow | None:
    known = {state: value for state, value in values.items() if value is not None}
    return plain_row(metric, of, label, known, meaning=meaning) if len(known) == len(values) else None


def plain_row(metric: str, of: str | None, label: str, values: Mapping[str, float], *, meaning: str = "") -> DriftRow:
    """A row of numbers without intervals."""
    before = values.get("before")
    return DriftRow(
        metric=metric,
        of=of,
        label=label,
        meaning=meaning,
        before=None if before is None else Reading(value=before),
        after=Reading(value=values["after"]),
        change=None if before is None else Reading(value=values["after"] - before),
    )


def _yes_places(scored: Mapping[str, Sequence[Part]]) -> list[int]:
    """The places of the parts that read yes and no in every state: those that sum up others where there are such."""
    after = scored["after"]
    reading = [
        place
        for place, part in enumerate(after)
        if not part.view and any(metric.name == "yes_ratio" for metric in part.tally.metrics)
        if all(own[place].questions and not own[place].unreadable for own in scored.values())
    ]
    return [place for place in reading if after[place].total] or reading


def _yes_tally(parts: Sequence[Part], *, labels: bool) -> Tally:
    """Of several parts: their shares, each weighing as many as it has questions; an image's counts of all parts are
    resampled together. With `labels` also what needs these, and the probabilities of yes."""
    images = tuple(dict.fromkeys(image for part in parts for image in part.tally.images))
    counts = [aligned(part.tally, images) for part in parts]
    ends = np.cumsum([own.shape[1] for own in counts])
    weights = np.array([part.questions for part in parts], dtype=float) / sum(part.questions for part in parts)
    formulas = [next(m.formula for m in part.tally.metrics if m.name == "yes_ratio") for part in parts]

    def said(c: Array) -> Array:
        pieces = np.split(c[..., : ends[-1]], ends[:-1], axis=-1)
        found: Array = sum(w * f(piece) for w, f, piece in zip(weights, formulas, pieces, strict=True))
        return found

    metrics = [Metric("yes-ratio", said, "neither", "share of answers read as yes", label="yes ratio")]
    if labels:
        start = int(ends[-1])
        counts.append(_known_labels(parts, images))
        metrics += [
            Metric(
                "yes-bias",
                lambda c: said(c) - ratio(c[..., start + 1], c[..., start + 2]),
                "neither",
                "share of answers read as yes, minus that of the labels",
                label="yes ratio − labels'",
            ),
            share("p-yes", start, start + 2, "neither", "mean probability of yes", label="P(yes), mean"),
        ]
    return Tally(images, np.concatenate(counts, axis=1), tuple(metrics))


def _known_labels(parts: Sequence[Part], images: Sequence[str]) -> Array:
    """[g, 3]: the sums over an image's questions of P(yes), of the labels that are yes, and their number."""
    place = {image: row for row, image in enumerate(images)}
    found = np.zeros((len(images), 3))
    for part in parts:
        one = part.tally.ranking
        assert one is not None
        rows = np.array([place[part.tally.images[i]] for i in one.image_of])
        np.add.at(found, rows, np.stack([one.p_yes, one.positive, np.ones(len(rows))], axis=1))
    return found


def _unit(request: Request) -> str:
    """What is resampled whole: the picture, or the prompt where there is none."""
    return "+".join(request.paths) or request.prompt


def _reading(estimate: Estimate) -> Reading:
    return Reading(value=estimate.value, low=estimate.low, high=estimate.high)


def requests_in(
    requests: Iterable[Request], responses: Mapping[str, Mapping[Request, Response]]
) -> dict[str, dict[Request, Response]]:
    """Of each state's responses those to these requests, each once."""
    wanted = [request for request in dict.fromkeys(requests) if all(request in own for own in responses.values())]
    return {state: {request: own[request] for request in wanted} for state, own in responses.items()}
