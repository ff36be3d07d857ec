"""The part of a report about training: curves of one run or of several over each other, samples, and the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpo.files.atomic import read_json, read_jsonl, write_text
from mmpo.report.svg import Series, lines

CURVES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Loss", "loss", ("loss", "eval_loss")),
    ("Log-probs of both sides: both falling is displacement", "log-prob", ("logps/chosen", "logps/rejected")),
    ("Rewards", "reward", ("rewards/chosen", "rewards/rejected")),
    ("Margin", "reward", ("rewards/margins", "eval_rewards/margins")),
    ("Share of pairs in the right order", "share", ("rewards/accuracies", "eval_rewards/accuracies")),
    ("Gradient norm", "norm", ("grad_norm",)),
    ("Learning rate", "rate", ("learning_rate",)),
    ("Speed", "pairs a second", ("pairs_per_second",)),
)


@dataclass(frozen=True)
class SampleInTime:
    """What the model answered to one prompt at one step, and the base model's answer."""

    step: int
    policy: str
    base: str


@dataclass
class TrainingPart:
    """What the templates show of training runs. `facts` are (run, [(what, value)])."""

    curves: list[str] = field(default_factory=list)
    samples: list[tuple[str, list[SampleInTime]]] = field(default_factory=list)
    facts: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    recipes: list[tuple[str, str]] = field(default_factory=list)


def training_part(runs: Mapping[str, Path]) -> TrainingPart:
    """Of folders of training, by the names they get in the legend."""
    part = TrainingPart()
    metrics = {name: list(read_jsonl(folder / "metrics.jsonl")) for name, folder in runs.items()}
    part.curves = curves(metrics)
    for name, folder in runs.items():
        part.facts.append((name, _facts(folder)))
        if (recipe := folder.parent / "recipe.yaml").is_file():
            part.recipes.append((name, recipe.read_text(encoding="utf-8")))
        if (folder / "samples.jsonl").is_file():
            asked: dict[str, list[SampleInTime]] = {}
            for row in read_jsonl(folder / "samples.jsonl"):
                one = SampleInTime(int(row["step"]), str(row.get("policy", "")), str(row.get("base", "")))
                asked.setdefault(f"{name}: {row.get('prompt', '')} ({row.get('id', '')})", []).append(one)
            part.samples += list(asked.items())[:6]
    return part


def curves(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A chart for each of `CURVES` that any run has numbers for."""
    drawn = []
    for title, label, columns in CURVES:
        series = [
            Series(f"{run}: {column}" if len(metrics) > 1 else column, points)
            for run, rows in metrics.items()
            for column in columns
            if len(points := _points(rows, column)) > 1
        ]
        if series:
            drawn.append(lines(title, "step", label, series))
    return drawn


def write_curves(folder: Path) -> Path | None:
    """`curves.svg` of a training folder: the loss and the log-probs over the steps, one under the other."""
    drawn = curves({"": list(read_jsonl(folder / "metrics.jsonl"))})
    if not drawn:
        return None
    places = "".join(f'<g transform="translate(0 {380 * k})">{svg}</g>' for k, svg in enumerate(drawn))
    size = f'width="640" height="{380 * len(drawn)}" viewBox="0 0 640 {380 * len(drawn)}"'
    nested = places.replace('viewBox="0 0 640 360"', 'width="640" height="360" viewBox="0 0 640 360"')
    return write_text(folder / "curves.svg", f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{nested}</svg>\n')


def _points(rows: Sequence[Mapping[str, Any]], column: str) -> list[tuple[float, float]]:
    return [(row["step"], row[column]) for row in rows if isinstance(row.get(column), (int, float))]


def _facts(folder: Path) -> list[tuple[str, str]]:
    file = folder / "train_result.json"
    if not file.is_file():
        return []
    result = read_json(file)
    memory = (result.get("memory") or {}).get("total")
    facts = [
        ("steps", result.get("steps")), ("epochs", result.get("epochs")), ("pairs", result.get("pairs")),
        ("held out", result.get("eval_pairs")), ("trainable parameters", result.get("trainable_parameters")),
        ("memory, estimated", None if not memory else f"{memory / 2**20:,.0f} MiB"),
    ]  # fmt: skip
    known = [(name, value) for name, value in facts if value is not None]
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in known]
