"""Run an evaluation: ask a model (before and after its adapter) everything the benchmarks want to know, score, and
write the scorecard.

    annotations ─▶ usable images ─▶ benchmarks' asks ─▶ AnswerEngine ─▶ answers.jsonl ─▶ scorecard.json, scorecard.md

Only answers that `answers.jsonl` lacks are asked; where none are missing, the model is not even loaded.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmpo.data.annotations import AnnotatedImage, read_annotations
from mmpo.data.atomic import write_json, write_text
from mmpo.errors import Quarantined, UserError
from mmpo.eval.answers import AnswerLog, answer_key, file_fingerprint, folder_fingerprint, model_folder
from mmpo.eval.benchmarks import BENCHMARKS, Ask, Benchmark, Reply, Section, material
from mmpo.eval.scorecard import Bootstrap, Counts, Row, Scorecard, compare
from mmpo.eval.settings import EvalSettings
from mmpo.progress import task, track

if TYPE_CHECKING:
    from mmpo.models.answer import Answer, AnswerEngine

log = logging.getLogger(__name__)

State = Literal["before", "after"]

YES_SHIFT = 0.05
LENGTH_SHIFT = 0.2
HEADLINES = ("accuracy", "F1", "mean_F1", "CHAIRi", "CHAIRs", "Recall")


@dataclass(frozen=True)
class Usable:
    """The images that can be opened with their content fingerprints by path, and those that cannot."""

    images: list[AnnotatedImage]
    fingerprints: dict[str, str]
    rejected: list[tuple[AnnotatedImage, Quarantined]]


def evaluate(settings: EvalSettings, run_dir: str | Path) -> Scorecard:
    """Evaluate `settings.model` and write answers, published-format files and the scorecard into `run_dir`.

    With an adapter and `compare: base` the model is loaded once and asked twice, with the adapter off (before) and on
    (after). Run again in the same folder after a kill, it asks only what is missing and ends with the same scorecard.

    Raises UserError for mistakes in files or settings; images that cannot be used are left out, counted, and listed
    in `rejects.jsonl`.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    usable = usable_images(settings)
    ready = material(usable.images, settings)
    benchmarks: dict[str, Benchmark] = {name: BENCHMARKS[name](ready, settings) for name in settings.benchmarks}
    asks = list(dict.fromkeys(ask for benchmark in benchmarks.values() for ask in benchmark.asks()))

    replies = _collect(asks, usable, settings, run_dir)
    for name, benchmark in benchmarks.items():
        benchmark.write(run_dir / name, replies)
    card = _score(settings, benchmarks, replies, usable)
    rejects = [
        {"id": image.id, "path": image.path, "stage": reason.stage, "reason": reason.reason, "detail": reason.detail}
        for image, reason in usable.rejected
    ]
    _write_lines(run_dir / "rejects.jsonl", rejects)
    write_text(run_dir / "scorecard.md", card.to_markdown())
    write_json(run_dir / "scorecard.json", card.model_dump(mode="json"))
    return card


def usable_images(settings: EvalSettings) -> Usable:
    """Open every image once (in threads); the ones that fail are set aside with their reason. Raises UserError where
    none is left.
    """
    listed = list(islice(read_annotations(settings.annotations, images=settings.images), settings.limit))
    if not listed:
        raise UserError(f"{settings.annotations} lists no images")
    twice = next((path for path, count in Counter(image.path for image in listed).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"{settings.annotations}: {twice} is listed more than once",
            hint="give each image one entry with all its objects",
        )
    images, fingerprints, rejected = [], {}, []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for image, outcome in track(zip(listed, pool.map(_check, listed), strict=True), "checking images", len(listed)):
            if isinstance(outcome, Quarantined):
                log.warning("%s is left out: %s", image.path, outcome)
                rejected.append((image, outcome))
            else:
                images.append(image)
                fingerprints[image.path] = outcome
    if not images:
        raise UserError(
            f"none of the {len(listed)} images of {settings.annotations} can be used; the first: {rejected[0][1]}",
            hint=f"are they in {settings.images}?",
        )
    return Usable(images, fingerprints, rejected)


def _check(image: AnnotatedImage) -> str | Quarantined:
    try:
        image.load()
        return file_fingerprint(image.root / image.path)
    except Quarantined as reason:
        return reason


def _collect(asks: Sequence[Ask], usable: Usable, settings: EvalSettings, run_dir: Path) -> dict[str, dict[Ask, Reply]]:
    """Every reply of every state, from the log where it is there, else from the model."""
    model = folder_fingerprint(model_folder(settings.model))
    adapter = folder_fingerprint(_adapter_folder(settings.adapter)) if settings.adapter else None
    states: dict[State, str | None] = (
        {"before": None, "after": adapter} if adapter and settings.compare else {"after": adapter}
    )
    keys = {
        (state, ask): answer_key(
            model, with_adapter, settings.dtype, usable.fingerprints[ask.image], ask.prompt, ask.max_new_tokens
        )
        for state, with_adapter in states.items()
        for ask in asks
    }
    images = {image.path: image for image in usable.images}
    with AnswerLog(run_dir / "answers.jsonl") as answers:
        missing: dict[State, list[Ask]] = {
            state: [a for a in asks if keys[state, a] not in answers] for state in states
        }
        if any(missing.values()):
            _ask_model(missing, keys, images, settings, answers)
        return {
            state: {
                ask: Reply(answers[keys[state, ask]]["answer"], bool(answers[keys[state, ask]]["truncated"]))
                for ask in asks
            }
            for state in states
        }


def _adapter_folder(adapter: str) -> Path:
    if not Path(adapter).is_dir():
        raise UserError(f"{adapter}: no such adapter folder", hint="give the folder that training wrote")
    return Path(adapter)


def _ask_model(
    missing: Mapping[State, Sequence[Ask]],
    keys: Mapping[tuple[State, Ask], str],
    images: Mapping[str, AnnotatedImage],
    settings: EvalSettings,
    answers: AnswerLog,
) -> None:
    from mmpo.models.answer import AnswerEngine
    from mmpo.models.loading import load_vlm

    vlm = load_vlm(settings.model, adapter=settings.adapter, dtype=settings.dtype)
    root = next(iter(images.values())).root
    engine = AnswerEngine(vlm, token_budget=settings.tokens_per_batch, image_root=root)
    for state, asks in missing.items():
        label = f"asking, {state}" if len(missing) > 1 else "asking"
        with engine.adapter_off() if state == "before" else nullcontext(), task(label, len(asks)) as running:
            for ask, answer in _answers(engine, asks):
                answers.add(
                    {
                        "key": keys[state, ask],
                        "state": state,
                        "image": ask.image,
                        "prompt": ask.prompt,
                        "answer": answer.text,
                        "truncated": answer.truncated,
                        "p_yes": answer.p_yes,
                        "margin": answer.margin if math.isfinite(answer.margin) else None,
                    }
                )
                running.advance()


def _answers(engine: AnswerEngine, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Answer]]:
    """Ask, all that concerns an image together, and answers of one length limit together."""
    from mmpo.models.answer import Question

    numbers = {ask: str(number) for number, ask in enumerate(asks)}
    for limit in sorted({ask.max_new_tokens for ask in asks}):
        by_image: dict[str, list[Ask]] = {}
        for ask in asks:
            if ask.max_new_tokens == limit:
                by_image.setdefault(ask.image, []).append(ask)
        groups = (
            (image, [Question(numbers[ask], image, ask.prompt) for ask in about]) for image, about in by_image.items()
        )
        for answer in engine.answer(groups, max_new_tokens=limit):
            yield asks[int(answer.id)], answer


def _score(
    settings: EvalSettings,
    benchmarks: Mapping[str, Benchmark],
    replies: Mapping[str, Mapping[Ask, Reply]],
    usable: Usable,
) -> Scorecard:
    bootstrap = Bootstrap(settings.bootstrap.samples, settings.bootstrap.seed)
    rows: list[Row] = []
    counts: list[Counts] = []
    conventions: list[str] = []
    for name, benchmark in benchmarks.items():
        scored = {state: benchmark.score(given) for state, given in replies.items()}
        for number, after in enumerate(scored["after"]):
            before = scored["before"][number] if "before" in scored else None
            rows += compare(name, after.split, before.tally if before else None, after.tally, bootstrap)
            counts += [_counted(name, state, sections[number]) for state, sections in scored.items()]
        conventions += benchmark.conventions
    conventions.append(
        f"intervals: 95%; Wilson's for CHAIR_s, else percentiles of {bootstrap.samples:,} resamples of whole images "
        f"(seed {bootstrap.seed})"
    )
    if "before" in replies:
        conventions.append(
            "p: exact McNemar test for accuracy and CHAIR_s, else the same resamples, paired by image; "
            "not corrected for the number of metrics"
        )
    return Scorecard(
        model=settings.model,
        adapter=settings.adapter,
        rows=rows,
        counts=counts,
        conventions=conventions,
        warnings=_warnings(rows),
        quarantined=dict(sorted(Counter(reason.reason for _, reason in usable.rejected).items())),
    )


def _counted(benchmark: str, state: str, section: Section) -> Counts:
    return Counts(
        benchmark=benchmark,
        split=section.split,
        state=state,  # type: ignore[arg-type]
        images=len(section.tally.images),
        questions=section.questions,
        unparsed=section.unparsed,
        truncated=section.truncated,
    )


def _warnings(rows: Sequence[Row]) -> list[str]:
    """What a reader should know before believing a number."""
    warnings = []
    for row in rows:
        where = row.benchmark.upper() + (f" {row.split}" if row.split else "")
        if not row.after.defined or (row.before is not None and not row.before.defined):
            warnings.append(f"{where}: {row.metric} is undefined (nothing to divide by) and counts as 0 in differences")
        if row.before is None or row.change is None:
            continue
        moved = f"from {row.before.value:.3g} to {row.after.value:.3g}"
        if row.metric == "yes_ratio" and abs(row.change.value) > YES_SHIFT:
            warnings.append(
                f"{where}: the share of yes answers moved {moved}; part of any change is a changed bias, "
                "look at accuracy too"
            )
        if row.metric == "Len" and row.before.value and abs(row.change.value) > LENGTH_SHIFT * row.before.value:
            warnings.append(
                f"{where}: descriptions went {moved} tokens; shorter ones hallucinate less by saying less, "
                "look at recall too"
            )
        if (
            row.better != "neither"
            and row.change.p >= 0.05
            and row.change.detectable is not None
            and row.metric in HEADLINES
        ):
            unit = f"{100 * row.change.detectable:.1f} points"
            warnings.append(
                f"{where}: no clear change in {row.metric} (p = {row.change.p:.2f}); "
                f"these images would show one of {unit} or more"
            )
    return warnings


def _write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
