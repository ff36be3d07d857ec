"""Run an evaluation: send the benchmarks' requests to a model (before and after its adapter), score the responses, and
write the scorecard.

    usable images ─▶ benchmarks' requests ─▶ AnswerEngine ─▶ answers.jsonl ─▶ scorecard.json, scorecard.md
                                        └▶ right or wrong ▶ answers.jsonl, flips.jsonl
    shipped texts and prompts ───────────────────────────▶ drift.jsonl ───────────────┘

The model gets only requests that neither `answers.jsonl` nor the cache answers; where none are left, it is not even
loaded.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpo.claims import alone
from mmpo.data.image_digests import read_digests
from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.collecting import AskedModel, Responses, answer_keys, collect_responses, engine_notes
from mmpo.eval.context import context_of
from mmpo.eval.drift.measuring import Measured, measure
from mmpo.eval.drift.report import DriftReport
from mmpo.eval.grading import write_grades
from mmpo.eval.pictures import Pictures
from mmpo.eval.protocol import NothingToAsk, Part, Request, Response
from mmpo.eval.settings import EvalSettings
from mmpo.eval.statistics.compare import Bootstrap, adjusted, compare, compare_categories
from mmpo.eval.statistics.rows import Category, Estimate, MetricCounts, MetricRow, Overlap
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.eval.statistics.tally import Metric
from mmpo.eval.task import Context, Task, named
from mmpo.files.atomic import read_json, write_json, write_text
from mmpo.files.paths import follows_links
from mmpo.locks import in_own_folder
from mmpo.team import working_in

log = logging.getLogger(__name__)

UNREAD_SHARE = 0.05
CARD = "scorecard.json"


@follows_links
@in_own_folder
def evaluate(settings: EvalSettings, run_dir: str | Path) -> Scorecard:
    """Evaluate `settings.model` and write answers, published-format files and the scorecard into `run_dir`.

    With an adapter and `compare: base` the model is loaded once and asked twice, with the adapter off (before) and on
    (after). Run again in the same folder after a kill, it asks only what is missing and ends with the same scorecard.

    Raises UserError for mistakes in files or settings; images that cannot be used are left out, counted, and listed
    in `rejects.jsonl`.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(settings)
    benchmarks, notes = _benchmarks(settings, context_of(settings, pictures.annotated, settings.cache or str(run_dir)))
    requests = list(dict.fromkeys(request for benchmark in benchmarks.values() for request in benchmark.requests()))
    pictures.look_at(requests)
    overlap = _overlap(settings, run_dir, pictures, requests)
    left_out = notes + [
        note for name, benchmark in benchmarks.items() if (note := _left_out(name, benchmark, pictures))
    ]

    model, asked = AskedModel(settings), [one for one in requests if not pictures.problem(one)]
    earlier = _written(run_dir)
    responses = collect_responses(asked, pictures, model, run_dir)
    with alone(run_dir), working_in(None):
        if _written(run_dir) != earlier:  # another member of the team was quicker
            return Scorecard.model_validate(read_json(run_dir / CARD))
        keys, measured = answer_keys(asked, pictures, model), measure(model, pictures, asked, run_dir)
        del model  # its weights leave the memory before the scoring
        for name, benchmark in benchmarks.items():
            benchmark.write(run_dir / name, responses)  # type: ignore[arg-type]
        loud = [overlap.warning()] if overlap is not None and overlap.shared else []
        card = _score(settings, benchmarks, responses, measured, pictures, [*loud, *left_out], run_dir)
        card = card.model_copy(update={"overlap": overlap})
        rejects = [
            {"id": image.id, "path": image.path, "stage": image.reason.stage, "reason": image.reason.reason,
             "detail": image.reason.detail}
            for image in pictures.rejected
        ]  # fmt: skip
        write_lines(run_dir / "rejects.jsonl", rejects)
        write_grades(run_dir, benchmarks, responses, keys)
        write_text(run_dir / "scorecard.md", card.to_markdown())
        write_json(run_dir / CARD, card.model_dump(mode="json"))
        return card


def _written(run_dir: Path) -> int | None:
    """When the scorecard was written; None where there is none."""
    path = run_dir / CARD
    return path.stat().st_mtime_ns if path.exists() else None


def _overlap(settings: EvalSettings, run_dir: Path, pictures: Pictures, requests: Sequence[Request]) -> Overlap | None:
    """The images that the evaluation shares with the pairs of its adapter, and with those built in the same run."""
    places = [run_dir.parent / "build" / "pairs", *sorted(run_dir.parent.glob("build-*/pairs"))]
    if settings.adapter is not None:
        adapter = Path(settings.adapter)
        places += [adapter, adapter.parent.parent / "build" / "pairs"]
    known = [digests for place in places if (digests := read_digests(place)) is not None]
    if not known:
        return None
    shown = pictures.digests(requests)
    overlap = Overlap(images=len(shown), shared=len(shown & frozenset[str]().union(*known)))
    if overlap.shared:  # before hours of asking, too
        log.warning("%s", overlap.warning())
    return overlap


def _benchmarks(settings: EvalSettings, context: Context) -> tuple[dict[str, Task[Any]], list[str]]:
    """The benchmarks, and what they warn of; one that has nothing to ask is skipped with a warning, unless it is the
    only one.
    """
    made: dict[str, Task[Any]] = {}
    notes: list[str] = []
    for name in settings.benchmarks:
        try:
            made[name] = named(name).ready(settings.of(name), context)
        except NothingToAsk as error:
            if len(settings.benchmarks) == 1:
                raise
            notes.append(f"{error.message}; it is skipped")
        else:
            notes += made[name].warnings
    return made, notes


def _left_out(name: str, benchmark: Task[Any], pictures: Pictures) -> str:
    """A warning where some of a benchmark's questions can't be asked. Raises UserError where it can't be scored then,
    or none is left.
    """
    requests = benchmark.requests()
    problems = [problem for request in requests if (problem := pictures.problem(request))]
    if not problems:
        return ""
    counted = f"{name}: {len(problems)} of {len(requests)} questions are about images that cannot be used"
    if len(problems) == len(requests) or not benchmark.partial:
        raise UserError(f"{counted}; the first: {problems[0]}", hint="is the folder of its images right and complete?")
    return f"{counted} and were not asked; the numbers are not those of the whole benchmark"


def _score(
    settings: EvalSettings,
    benchmarks: Mapping[str, Task[Any]],
    responses: Responses,
    measured: Measured,
    pictures: Pictures,
    left_out: Sequence[str],
    run_dir: Path,
) -> Scorecard:
    bootstrap = Bootstrap(settings.bootstrap.samples, settings.bootstrap.seed)
    drift = DriftReport(settings, measured, bootstrap)
    rows: list[MetricRow] = []
    counts: list[MetricCounts] = []
    categories: list[Category] = []
    near_ties: list[dict[str, object]] = []
    conventions: list[str] = []
    unread: list[str] = []
    metrics: dict[tuple[str, str | None, str], Metric] = {}
    for name, benchmark in benchmarks.items():
        scored = {state: benchmark.score(given) for state, given in responses.items()}
        own: list[MetricRow] = []
        whole = all(part.view for part in scored["after"] if not part.total)
        for number, after in enumerate(scored["after"]):
            if after.view and not any(parts[number].questions for parts in scored.values()):
                continue
            before = scored["before"][number].tally if "before" in scored else None
            dumb = [state for state, parts in scored.items() if parts[number].unreadable]
            own += [_blank(row, dumb) for row in compare(name, after.split, before, after.tally, bootstrap)]
            metrics |= {(name, after.split, metric.name): metric for metric in after.tally.metrics}
            if not after.view:
                counts += [_counted(name, state, parts[number]) for state, parts in scored.items()]
            if not after.total or whole:
                unread += [w for state, parts in scored.items() for w in _unread(name, state, parts[number])]
            categories += compare_categories(name, before, after.tally)
        rows += adjusted(own, [part.split for part in scored["after"] if part.total])
        drift.add(name, benchmark.requests(), responses, scored)
        for state, given in responses.items():
            near_ties += _near_ties(name, state, scored[state], given)
        conventions += benchmark.conventions
    conventions += pictures.conventions
    write_lines(run_dir / "near_ties.jsonl", near_ties)
    conventions.append(
        f"intervals: 95%; Wilson's for shares of images or single answers, else percentiles of {bootstrap.samples:,} "
        f"resamples of whole images (seed {bootstrap.seed})"
    )
    if "before" in responses:
        conventions.append(
            "p: exact McNemar test for accuracy and CHAIR_s, else the same resamples, paired by image; not corrected "
            "for the number of metrics. In brackets: q, that is p corrected for the splits or categories that have the "
            "metric (Benjamini-Hochberg); and where p is 0.05 or more, behind ≥, the smallest true difference that "
            "these images would show four times out of five"
        )
    how, engine_warnings = engine_notes(run_dir)
    if (sampler := settings.sampler) is not None:
        how.append(f"answers: from a server, which calls the models {' and '.join(sampler.names)}")
    return Scorecard(
        model=settings.model,
        adapter=settings.adapter or (None if sampler is None else sampler.adapter),
        before=settings.before if "before" in responses else None,
        rows=rows,
        counts=counts,
        categories=categories,
        conventions=conventions + how,
        warnings=[*left_out, *engine_warnings, *unread, *_warnings(rows, counts, metrics)],
        quarantined=dict(sorted(Counter(image.reason.reason for image in pictures.rejected).items())),
        drift=drift.done(),
    )


def _near_ties(
    name: str, state: str, parts: Sequence[Part], given: Mapping[Request, Response]
) -> list[dict[str, object]]:
    """The yes/no answers that another number format or batch may turn, each once."""
    close = dict.fromkeys(request for part in parts for request in part.near_ties or ())
    return [
        {
            "benchmark": name,
            "state": state,
            "image": request.image,
            "prompt": request.prompt,
            "answer": given[request].text,
            "p_yes": given[request].p_yes,
            "margin": given[request].margin,
        }
        for request in close
    ]


def _blank(row: MetricRow, unreadable: Sequence[str]) -> MetricRow:
    """A row whose numbers are undefined for the states in which nothing could be read: a parser's default for every
    answer is no result.
    """
    states: dict[str, Estimate] = {"after": row.after, **({} if row.before is None else {"before": row.before})}
    return row.model_copy(
        update={state: states[state].model_copy(update={"defined": False}) for state in unreadable if state in states}
    )


def _unread(benchmark: str, state: str, part: Part) -> list[str]:
    """A warning where many answers of a part got the parser's default."""
    if not part.unparsed or part.unparsed <= UNREAD_SHARE * part.questions:
        return []
    where = benchmark.upper() + (f" {part.split}" if part.split else "")
    if part.unreadable:
        return [
            f"{where}, {state}: none of the {part.questions:,} answers could be read, so it has no numbers; look at "
            f"answers.jsonl, and try another parser or prompt"
        ]
    return [
        f"{where}, {state}: {part.unparsed:,} of {part.questions:,} answers could not be read; the number follows the "
        "parser's default for them, or leaves them out"
    ]


def _counted(benchmark: str, state: str, part: Part) -> MetricCounts:
    return MetricCounts(
        benchmark=benchmark,
        split=part.split,
        state=state,  # type: ignore[arg-type]
        images=len(part.tally.images),
        questions=part.questions,
        unparsed=part.unparsed,
        truncated=part.truncated,
        unreadable=part.unreadable,
        near_ties=None if part.near_ties is None else len(part.near_ties),
    )


def _warnings(
    rows: Sequence[MetricRow], counts: Sequence[MetricCounts], metrics: Mapping[tuple[str, str | None, str], Metric]
) -> list[str]:
    """Warnings that a reader should know before believing a number."""
    warnings = []
    silent = {(c.benchmark, c.split) for c in counts if c.unreadable}  # said already
    for row in rows:
        if (row.benchmark, row.split) in silent:
            continue
        where = row.benchmark.upper() + (f" {row.split}" if row.split else "")
        if not row.defined:
            warnings.append(f"{where}: {row.metric} is undefined (nothing to divide by) and counts as 0 in differences")
        if row.before is None or row.change is None:
            continue
        moved = f"from {row.before.value:.3g} to {row.after.value:.3g}"
        metric = metrics.get((row.benchmark, row.split, row.metric))
        if metric is None:
            continue
        if (caution := metric.caution) is not None:
            limit = caution.limit * (row.before.value if caution.relative else 1.0)
            if limit and abs(row.change.value) > limit:
                warnings.append(f"{where}: {caution.text.format(moved=moved)}")
        if metric.watched and row.change.p >= 0.05 and row.change.detectable is not None:
            unit = f"{100 * row.change.detectable:.1f} points"
            warnings.append(
                f"{where}: no clear change in {row.metric} (p = {row.change.p:.2f}); "
                f"these images would show one of {unit} or more"
            )
    return warnings
