"""The table of `objectives_table.py`: rows over seeds with intervals, ranks, markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import cells

METRICS: dict[str, cells.Metric] = {
    "CHAIR_i": ("chair", "CHAIRi", None),
    "object recall": ("chair", "Recall", None),
    "tokens": ("chair", "Len", None),
    "POPE adversarial F1": ("pope", "F1", "adversarial"),
}
LOWER_IS_BETTER = {"CHAIR_i"}
UNTUNED = "untuned"

NOT_SHOWN = """\
Not in this table: other models, other pairs and longer training, in which objectives may change places; other
parameters than the defaults, which their papers chose for other models; sums with an SFT term, which most real runs
have; objectives that read what these pairs lack (scores, turns, steps, segments, groups, samples, a second reference,
twins). Where the best rate is the largest one, a still larger might be better. An interval is over scenes, with the
adapters as they are. Objectives whose intervals overlap are not told apart, and among so many some look good by chance.
"""


def pooled(estimates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of one value a seed with its 95% interval; seeds hold out different scenes, so that variances add."""
    mean = statistics.mean(one["value"] for one in estimates)
    below = math.hypot(*(one["value"] - one["low"] for one in estimates)) / len(estimates)
    above = math.hypot(*(one["high"] - one["value"] for one in estimates)) / len(estimates)
    return {"value": mean, "low": mean - below, "high": mean + above}


def balance(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The harmonic mean of 1 - CHAIR_i and object recall, in percent, with its interval to first order, as if the two
    were independent: what chooses a rate, and what ranks."""
    chair, named = metrics["CHAIR_i"], metrics["object recall"]
    right, recall = 100 - chair["value"], named["value"]
    total = max(right + recall, 1e-9)
    by_right, by_recall = 2 * (recall / total) ** 2, 2 * (right / total) ** 2
    value = 2 * right * recall / total
    below = math.hypot(by_right * (chair["high"] - chair["value"]), by_recall * (recall - named["low"]))
    above = math.hypot(by_right * (chair["value"] - chair["low"]), by_recall * (named["high"] - recall))
    return {"value": value, "low": value - below, "high": value + above}


def ranks(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """By balance, from 1; who overlaps the first of a rank shares it."""
    found: dict[str, int] = {}
    known = {name: balance(row["metrics"]) for name, row in rows.items() if name != UNTUNED}
    leader = ""
    for place, name in enumerate(sorted(known, key=lambda name: -known[name]["value"]), 1):
        if not leader or known[name]["high"] < known[leader]["low"]:
            leader = name
            found[name] = place
        else:
            found[name] = found[leader]
    return found


def pooled_rows(seeds: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Over the seeds that have all of it: the untuned model and every objective; one that lacks a seed is left out."""
    rows: dict[str, dict[str, Any]] = {}
    for name in (UNTUNED, *names):
        every = [cells_of.get(name) for cells_of in seeds.values()]
        if not every or None in every:
            continue
        rows[name] = {"metrics": {key: pooled([one["metrics"][key] for one in every]) for key in METRICS}}  # type: ignore[index]
        if name != UNTUNED:
            rows[name] |= {key: every[0][key] for key in ("family", "learning_rate")}  # type: ignore[index]
            rows[name]["drift"] = {side: [one["drift"][side] for one in every] for side in ("chosen", "rejected")}  # type: ignore[index]
            rows[name]["seconds_a_step"] = statistics.median(one["seconds_a_step"] for one in every)  # type: ignore[index]
    return rows


def with_seconds(rows: dict[str, dict[str, Any]], alone: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The rows with the seconds of those that were timed `alone` in the place of what cells took beside one another."""
    for name, row in rows.items():
        if name != UNTUNED:
            row |= {"seconds_a_step": alone.get(name, row["seconds_a_step"]), "timed_alone": name in alone}
    return rows


def table(results: Mapping[str, Any]) -> str:
    """Markdown: the objectives in the order of their ranks, then the sweep of rates, then what is not shown."""
    rows, place = results["rows"], results["ranks"]
    if not rows:
        return ""
    heads = [f"{name} {'↓' if name in LOWER_IS_BETTER else ''}".strip() for name in METRICS]
    heads = ["rank", "objective", "balance", *heads, "chosen moved, nats", "rejected moved, nats", "rate", "s a step"]
    lines = [f"| {' | '.join(heads)} |", "| ---: | --- |" + " ---: |" * (len(heads) - 2)]

    def order(name: str) -> tuple[float, float]:
        return place[name], -balance(rows[name]["metrics"])["value"]

    for name in (UNTUNED, *sorted((name for name in rows if name != UNTUNED), key=order)):
        if name in rows:
            lines.append(f"| {' | '.join(_columns(name, rows[name], place))} |")
    seeds = ", ".join(results["seeds"])
    head = f"Seeds {seeds}; [95% intervals] over scenes, (ranges) over seeds. "
    head += "Balance: the harmonic mean of 1 - CHAIR_i and recall."
    if any(not row.get("timed_alone") for name, row in rows.items() if name != UNTUNED):
        head += " Seconds with a ~ were taken beside other cells: read them as a bound."
    head += "\n"
    return "\n".join([head, *lines, "", *_rates(results["rates"]), "", NOT_SHOWN])


def _columns(name: str, row: Mapping[str, Any], place: Mapping[str, int]) -> Iterator[str]:
    yield str(place.get(name, ""))
    yield name if name == UNTUNED else f"`{name}`"
    for estimate in (balance(row["metrics"]), *(row["metrics"][metric] for metric in METRICS)):
        value, low, high = (estimate[key] for key in ("value", "low", "high"))
        yield f"{value:.1f} [{low:.1f}, {high:.1f}]"
    if name == UNTUNED:
        yield from ("0", "0", "", "")
        return
    for side in ("chosen", "rejected"):
        moved = row["drift"][side]
        mean, low, high = (
            f"{round(value, 1) + 0.0:+.1f}" for value in (statistics.mean(moved), min(moved), max(moved))
        )
        yield f"{mean} ({low} to {high})"
    yield f"{row['learning_rate']:g}"
    yield f"{'' if row.get('timed_alone') else '~'}{row['seconds_a_step']:.2f}"


def _rates(rates: Mapping[str, Any]) -> Iterator[str]:
    if not rates:
        return
    known = sorted({rate for one in rates.values() for rate in one["scores"]}, key=float)
    yield "Balance on the seed of the rates; the family's rate in bold:"
    yield ""
    yield f"| family | by | {' | '.join(format(float(rate), 'g') for rate in known)} |"
    yield "| --- | --- |" + " ---: |" * len(known)
    for family, one in rates.items():
        shown = [
            f"**{one['scores'][rate]:.1f}**" if float(rate) == one["rate"] else f"{one['scores'][rate]:.1f}"
            for rate in known
        ]
        yield f"| {family} | `{one['by']}` | {' | '.join(shown)} |"
