"""What the table of `objectives_table.py` says in a few lines, for the docs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.objectives_rows import LOWER_IS_BETTER, METRICS, UNTUNED, balance

SHOWN = 3
BASE = "dpo"


def summary(results: Mapping[str, Any]) -> str:
    """Markdown: best and worst by balance, who differs from dpo, who moved the log-probs most, who is slow, and what
    none of it shows. Empty without rows."""
    rows = {name: row for name, row in results["rows"].items() if name != UNTUNED}
    return "\n".join([*_lines(rows, results), ""]) if rows else ""


def _lines(rows: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    scores = {name: balance(row["metrics"]) for name, row in rows.items()}
    ordered = sorted(rows, key=lambda name: -scores[name]["value"])
    shown = min(SHOWN, (len(ordered) + 1) // 2)
    yield f"{len(ordered)} objectives, seeds {', '.join(results['seeds'])}; [95% intervals] over scenes."
    yield ""
    if UNTUNED in results["rows"]:
        yield f"- Untuned: balance {_estimate(balance(results['rows'][UNTUNED]['metrics']))}."
    yield f"- Best by balance: {_listed(ordered[:shown], scores)}."
    first = [name for name, rank in results["ranks"].items() if rank == 1]
    yield f"- Not told apart from the best one ({len(first)}, the best among them): {_names(first)}."
    yield f"- Worst by balance: {_listed(ordered[::-1][:shown], scores)}."
    if BASE in rows:
        yield from _against(rows, scores)
    for side in ("chosen", "rejected"):
        moved = {name: statistics.mean(row["drift"][side]) for name, row in rows.items()}
        most = sorted(moved, key=lambda name: moved[name])[:shown]
        told = ", ".join(f"`{name}` {moved[name]:+.1f} nats" for name in most)
        up = sum(value > 0 for value in moved.values())
        yield f"- {side.capitalize()} log-probs moved down most: {told}; up in {up} of {len(moved)}."
    yield from _seconds(rows, shown)
    yield f"- Not shown: {_not_shown(results)}"


def _against(rows: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Those whose interval does not overlap dpo's, by balance and by each metric but length."""
    columns = {"balance": scores} | {
        metric: {name: row["metrics"][metric] for name, row in rows.items()} for metric in METRICS if metric != "tokens"
    }
    for what, found in columns.items():
        base = found[BASE]
        above = [name for name, one in found.items() if one["low"] > base["high"]]
        below = [name for name, one in found.items() if one["high"] < base["low"]]
        better, worse = (below, above) if what in LOWER_IS_BETTER else (above, below)
        yield (
            f"- {what}, against `{BASE}` ({_estimate(base)}), intervals apart: better {_names(better)}; "
            f"worse {_names(worse)}."
        )


def _seconds(rows: Mapping[str, Any], shown: int) -> Iterator[str]:
    seconds = {name: row["seconds_a_step"] for name, row in rows.items() if row.get("timed_alone")}
    if not seconds:
        yield "- Seconds a step were taken beside other cells and are not compared here (`--time` takes them alone)."
        return
    slow = sorted(seconds, key=lambda name: -seconds[name])[:shown]
    against = f"`{BASE}` {seconds[BASE]:.2f}; " if BASE in seconds else ""
    yield f"- Seconds a step, alone on one core: {against}longest {', '.join(f'`{n}` {seconds[n]:.2f}' for n in slow)}."


def _not_shown(results: Mapping[str, Any]) -> str:
    given = results["arguments"]
    rate = f"the rate {given['rate']}" if given["rate"] != "None" else "one rate a family, chosen with its first"
    return (
        "other models than this one; other data than one drawn world; other parameters than the defaults; "
        f"{rate}; {given['steps']} steps of {given['batch_size']} pairs, in which a loss that is slow to "
        "start looks weak. Seeds differ in scenes and pairs at once, an interval is over scenes alone, and among so "
        "many objectives some differ by chance."
    )


def _listed(names: Sequence[str], scores: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"`{name}` {_estimate(scores[name])}" for name in names)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _estimate(one: Mapping[str, float]) -> str:
    return f"{one['value']:.1f} [{one['low']:.1f}, {one['high']:.1f}]"
