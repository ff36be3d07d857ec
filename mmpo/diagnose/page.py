"""The page of a diagnosis, `diagnose.md`, and its charts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from mmpo.diagnose.readings import DiagnosisNumbers, DiagnosisReading, Grave, in_short
from mmpo.diagnose.settings import DiagnoseSettings
from mmpo.diagnose.summary import Distribution
from mmpo.errors import UserError
from mmpo.files.atomic import read_jsonl, write_text
from mmpo.report.svg import Series, histogram, lines, scatter
from mmpo.visible import visible

BARS = 40
MARKS: Mapping[Grave, str] = {"warning": "warning", "look": "look", "fine": ""}
HEADINGS = {
    "ranking": "Ranking accuracy",
    "flip": "The loss at which a pair flips",
    "displacement": "Displacement",
    "ches": "Similarity before training (CHES)",
    "properties": "The three properties, and the gradient field",
    "implicit reward": "The implicit reward on other pairs",
    "separability": "Linear separability",
    "length": "Length",
    "drift": "Drift of the answers",
    "perception": "Perception gap",
}


def write_page(
    folder: Path,
    settings: DiagnoseSettings,
    found: DiagnosisNumbers,
    read: Sequence[DiagnosisReading],
    counts: Mapping[str, Mapping[str, int]],
    left_out: Mapping[str, str],
) -> None:
    """Write the charts and the page that shows them. Charts of an earlier try that are not drawn now are removed."""
    drawn = dict(charts(found, settings))
    for path in folder.glob("*.svg"):
        if path.stem not in drawn:
            path.unlink()
    for name, svg in drawn.items():
        write_text(folder / f"{name}.svg", svg)
    write_text(folder / "diagnose.md", page(settings, found, read, counts, left_out, list(drawn)))


def page(
    settings: DiagnoseSettings,
    found: DiagnosisNumbers,
    read: Sequence[DiagnosisReading],
    counts: Mapping[str, Mapping[str, int]],
    left_out: Mapping[str, str],
    drawn: Sequence[str],
) -> str:
    """The page in Markdown."""
    about = f"`{_cell(str(settings.pairs))}` under `{_cell(settings.model)}`"
    if settings.adapter is not None:
        about += f" with `{_cell(settings.adapter)}`"
    rows = ["# Diagnosis", "", about, "", f"{in_short(read)}.", ""]
    if advice := list(dict.fromkeys(one.advice for one in read if one.advice)):
        rows += ["## What to do", "", *(f"- {_cell(one)}" for one in advice), ""]
    for subject, heading in HEADINGS.items():
        own = [one for one in read if one.subject == subject]
        pictures = [name for name in drawn if CHARTS[name] == subject]
        if not own and not pictures:
            continue
        rows += [f"## {heading}", ""]
        if own:
            rows += ["| number | value | 95 % | | what it says |", "| --- | ---: | --- | --- | --- |"]
            rows += [
                f"| {_cell(one.name)} | {number(one.value)} | {interval(one)} | {MARKS[one.grave]} "
                f"| {_cell(one.sentence)} |"
                for one in own
            ]
            rows.append("")
        rows += [f"![{name}]({name}.svg)\n" for name in pictures]
    if alike := found.main.most_alike:
        rows += ["## The pairs whose sides are most alike", "", "| pair | relative CHES |", "| --- | ---: |"]
        rows += [f"| {_cell(name)} | {value:+.4g} |" for name, value in alike] + [""]
    rows += ["## Counts", "", "| set | what became of them | pairs |", "| --- | --- | ---: |"]
    rows += [
        f"| {_cell(name)} | {_cell(key)} | {count} |" for name, table in counts.items() for key, count in table.items()
    ]
    if left_out:
        rows += ["", "## Not measured", "", *(f"- {_cell(name)}: {_cell(why)}" for name, why in left_out.items())]
    return "\n".join(rows) + "\n"


CHARTS = {
    "idealized": "ranking",
    "flip": "flip",
    "change": "displacement",
    "course": "displacement",
    "ches": "ches",
    "gradient": "properties",
    "margin": "implicit reward",
    "perception": "perception",
}
"""The charts by name, with the subject each belongs to."""


def charts(found: DiagnosisNumbers, settings: DiagnoseSettings) -> Iterator[tuple[str, str]]:
    """(name, SVG) of each chart that there are numbers for."""
    main = found.main
    ceiling = [
        (math.log10(beta), share.value) for beta, share in sorted(main.idealized.items()) if share.value is not None
    ]
    if len(ceiling) > 1:
        series = [Series("idealized", ceiling)]
        for name, share in (("reference", main.reference_right), ("policy", main.policy_right)):
            if share.value is not None:
                series.append(Series(name, [(ceiling[0][0], share.value), (ceiling[-1][0], share.value)]))
        yield (
            "idealized",
            lines("Ranking accuracy that this reference allows", "log10 of beta", "share of pairs", series),
        )
    for name, title, label, spread in (
        ("flip", "Loss above the flip threshold", "DPO loss minus threshold (below 0: ranked right)", main.flip),
        ("ches", "Similarity of the sides", "relative CHES (0: the same mean states)", main.ches_relative),
        ("gradient", "Gradient on rejected against chosen", "log of the ratio, by probability", main.gradient_ratio),
        ("margin", "Implicit reward margin", "D, nats, before beta", main.margin),
        ("perception", "Effect of hiding the picture", "KL of a token's distributions, nats", main.perception_chosen),
    ):
        if spread.histogram.total:
            yield name, _histogram(title, label, spread)
    if main.points:
        title = "Change of the log-probs in training"
        yield "change", scatter(title, "chosen, nats", "rejected, nats", main.points)
    if course := _course(settings.metrics):
        yield "course", lines("Log-probs during training", "step", "nats, mean of a window", course)


def _histogram(title: str, label: str, spread: Distribution) -> str:
    low, high = (spread.histogram.quantile(q) or 0.0 for q in (0.005, 0.995))
    low, high = min(low, 0.0), max(high, 0.0)
    return histogram(title, label, spread.histogram.bars(low, high, BARS), low, high, marks=[(0.0, "")])


def _course(metrics: Path | None) -> list[Series]:
    """The log-probs of the training's windows; empty where there is no record of them."""
    if metrics is None or not metrics.is_file():
        return []
    points: dict[str, list[tuple[float, float]]] = {"chosen": [], "rejected": []}
    try:
        for row in read_jsonl(metrics):
            for name, own in points.items():
                step, value = row.get("step"), row.get(f"logps/{name}")
                if isinstance(step, int) and isinstance(value, int | float):
                    own.append((float(step), float(value)))
    except UserError:  # a record that is damaged is no reason to have no diagnosis
        return []
    return [Series(name, own) for name, own in points.items() if len(own) > 1]


def number(value: float | None) -> str:
    """Four digits; a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def interval(one: DiagnosisReading) -> str:
    return "" if one.interval is None else f"{one.interval[0]:.3g} – {one.interval[1]:.3g}"


def _cell(text: str) -> str:
    return escape(visible(text), quote=False).replace("|", "\\|").replace("`", "'").replace("\n", " ")
