"""One selection, from a folder of pairs to another.

    run_dir/
      source.json          what was selected from; another source or other settings are refused
      logps/00000.parquet  log-probs, where a model scores the pairs (`scoring.py`); good for further selections
      pairs/               the pairs that are kept: shards, card.json, README.md, rejects.jsonl with why others are not
      select_result.json   the report: counts, and lengths and margins before and after each step; written last

Killed and restarted at any moment, a selection goes on and gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import mmpo
from mmpo.data.image_digests import digests_of_pairs, read_digests, write_digests
from mmpo.data.reader import check_pairs, count_pairs
from mmpo.data.shards import PairWriter
from mmpo.data_builders.units import check_source, check_sums, count_table
from mmpo.errors import UserError
from mmpo.files.atomic import read_json, write_json
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.locks import in_own_folder
from mmpo.resuming import deciding
from mmpo.select.chain import Decision, decide
from mmpo.select.logps import identity, with_logps
from mmpo.select.scan import folder_identity, merged, scan, score_names, stored_as
from mmpo.select.settings import CommonSelectSettings, PairMeans, SelectResult
from mmpo.select.table import LOGPS, SCORES, PairTable
from mmpo.select.write import open_writer, write_selected

logger = logging.getLogger("mmpo.select")
RESULT = "select_result.json"

Origin = Literal["nothing", "logps", "scores", "model"]
"""Where log-probs are from: none are read, files, the pairs' own scores, or a model."""


def origin_of(settings: CommonSelectSettings, scores: Collection[str] | None) -> Origin:
    """Where the log-probs that the steps read are from. `scores` are the names of the pairs' scores, None where these
    are not known yet. UserError where nothing gives them."""
    read = settings.logps_read()
    if not read:
        return "nothing"
    if settings.logps is not None:
        return "logps"
    if scores is not None and all(stored_as(SCORES + name, scores) for name in read):
        return "scores"
    if settings.model is None:
        raise UserError(
            f"select.by reads log-probs ({', '.join(read)}), and nothing gives them",
            hint="model: NAME scores the pairs; logps: FILE has what was scored before",
        )
    if settings.reads_both and settings.adapter is None:
        raise UserError(
            "select.by compares a tuned model with its reference, and there is no adapter",
            hint="adapter: FOLDER of a training on some of the pairs, or logps: FILE",
        )
    return "model"


@in_own_folder
def select(settings: CommonSelectSettings, run_dir: Path) -> SelectResult:
    """Select among the pairs of `settings` into `run_dir/pairs`. A finished selection returns its result.

    Raises `UserError` for settings that don't fit the pairs or what is in `run_dir`. Pairs that are dropped are counted
    and listed in `pairs/rejects.jsonl` with the step and the reason.
    """
    run_dir = Path(run_dir)
    check_pairs(settings.pairs)
    origin = origin_of(settings, score_names(settings.pairs))
    check_source(run_dir, _source(settings, origin), {"rows": "content of the pairs"})
    if (run_dir / RESULT).exists():
        return SelectResult.model_validate(read_json(run_dir / RESULT))
    if not count_pairs(settings.pairs):
        raise UserError(f"{settings.pairs}: there are no pairs in it", hint="its rejects.jsonl says why")
    decision = decide(settings, _table(settings, run_dir, origin))
    recipe = {"select": deciding(settings), "rows": folder_identity(settings.pairs), "order": _order(settings)}
    writer = open_writer(run_dir / "pairs", settings.pairs, score_names(settings.pairs), decision, recipe)
    write_selected(writer, settings.pairs, decision)
    result = _result(settings, writer, decision, origin)
    check_sums(result.counts)
    writer.close(title="Selected preference pairs", notes=_notes(result))
    if read_digests(run_dir / "pairs") is None:
        write_digests(run_dir / "pairs", digests_of_pairs(run_dir / "pairs"))
    write_json(run_dir / RESULT, result.model_dump(mode="json"))
    logger.info("%s", count_table(result.counts))
    return result


def _order(settings: CommonSelectSettings) -> str | None:
    """What `mmpo.trainers.order` looks for in a card."""
    return "given" if settings.ordered else None


def _source(settings: CommonSelectSettings, origin: Origin) -> dict[str, Any]:
    source = {"settings": deciding(settings), "mmpo": mmpo.__version__, "rows": folder_identity(settings.pairs)}
    if origin == "logps" and settings.logps is not None:
        source["log-probs"] = identity(settings.logps)
    if origin == "model" and settings.model is not None:
        if not settings.allow_network:
            source["files of the model"] = folder_fingerprint(model_folder(settings.model))
        if settings.adapter is not None:
            source["files of the adapter"] = folder_fingerprint(Path(settings.adapter))
    return source


def _table(settings: CommonSelectSettings, run_dir: Path, origin: Origin) -> PairTable:
    """All that the steps read."""
    logps = settings.logps_read()
    own = [name for name in settings.reads() if name not in LOGPS]
    if origin == "scores":
        table = scan(settings.pairs, [*own, *(SCORES + name for name in logps)])
        return merged(table, {name: table[SCORES + name] for name in logps})
    table = scan(settings.pairs, own)
    if origin == "nothing":
        return table
    folder = settings.logps
    if origin == "model":
        from mmpo.select.scoring import score_pairs_of

        folder = run_dir / "logps"
        score_pairs_of(settings, folder)
    assert folder is not None
    return with_logps(table, settings.pairs, folder, logps)


def _result(settings: CommonSelectSettings, writer: PairWriter, decision: Decision, origin: Origin) -> SelectResult:
    counts = writer.counts
    lost = {reason.replace("/", ": ", 1): number for reason, number in counts.reasons.items()}
    stages: dict[int, int] = {}
    if decision.stage is not None:
        for stage in decision.stage[decision.kept].tolist():
            stages[stage] = stages.get(stage, 0) + 1
    return SelectResult(
        pairs="pairs",
        pairs_in=len(decision.code),
        pairs_kept=counts.pairs,
        counts={"pairs": {"in": len(decision.code), "kept": counts.kept, **lost}},
        steps=list(decision.reports),
        before=decision.before,
        after=decision.after,
        ordered=settings.ordered,
        stages=stages,
        scored=origin,
    )


def _notes(result: SelectResult) -> str:
    """The report as Markdown."""
    means = {"before": result.before, **{f"after {step.step}": step.after for step in result.steps}}
    parts = [count_table(result.counts), means_table(means)]
    if result.ordered:
        stages = ", ".join(f"{number}: {count}" for number, count in result.stages.items())
        parts.append(f"The pairs stand in the order in which they are to be learnt. Pairs of each stage: {stages}.")
    return "\n\n".join(parts)


def means_table(means: Mapping[str, PairMeans]) -> str:
    """Lengths and margins as a Markdown table, a row for each name."""
    margins = list(dict.fromkeys(name for one in means.values() for name in one.margins))
    head = ["", "pairs", "words chosen", "words rejected", "difference", *(f"margin {name}" for name in margins)]
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for name, one in means.items():
        numbers = [one.chosen_words, one.rejected_words, one.length_difference]
        numbers += [one.margins.get(margin) for margin in margins]
        lines.append(_row([name, str(one.pairs), *("" if number is None else f"{number:.3f}" for number in numbers)]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
