"""`mmpo report`: one self-contained HTML file about runs, pairs or evaluations."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mmpo
from mmpo.errors import UserError
from mmpo.eval.statistics.rounds import RoundsTable
from mmpo.files.atomic import read_json, write_text
from mmpo.report.album import Album
from mmpo.report.evaluation import EvaluationPart, evaluation_part
from mmpo.report.pages import asset, environment
from mmpo.report.pairs import PairsPart, pairs_part
from mmpo.report.svg import DARK_COLOURS, LIGHT_COLOURS, PAGE_STYLE
from mmpo.report.training import TrainingPart, training_part

CARDS = 400


@dataclass
class _Sources:
    """What there is to report on, by name."""

    pairs: dict[str, Path] = field(default_factory=dict)
    training: dict[str, Path] = field(default_factory=dict)
    evaluations: dict[str, Path] = field(default_factory=dict)
    rounds: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class WrittenReport:
    """Where a report is, what it weighs, and the rows beside it, if any."""

    path: Path
    size: int
    rows: Path | None = None


def default_place(paths: Sequence[Path]) -> Path:
    """In the folder of a run or an evaluation, beside pairs, and here for several."""
    if len(paths) > 1:
        return Path("report.html")
    only = paths[0]
    return only.with_name(f"{only.name}-report.html") if _is_pairs(only) else only / "report.html"


def write_report(
    paths: Sequence[Path], out: Path | None = None, *, cards: int = CARDS, images: Path | None = None
) -> WrittenReport:
    """Write one page about `paths`: run folders, folders of pairs, evaluations. Raises UserError for anything else.

    `cards` is how many pairs, and how many answers, are shown. Where pairs are left out, all of them are written as
    JSON Lines beside the page. `images` is the folder of an evaluation's pictures, where nothing else says so.
    """
    sources = _sources(paths)
    place = out or default_place(paths)
    album = Album()
    rows: list[str] = []
    evaluations = [
        evaluation_part(folder, album, cards=cards // len(sources.evaluations), images=images)
        for folder in sources.evaluations.values()
    ]
    pairs = [
        pairs_part(folder, album, cards=cards // len(sources.pairs), rows=rows) for folder in sources.pairs.values()
    ]
    training = training_part(sources.training) if sources.training else None
    beside = None
    if sum(part.pairs for part in pairs) > sum(len(part.cards) for part in pairs):
        beside = write_text(place.with_suffix(".pairs.jsonl"), "\n".join(rows) + "\n")
    rounds = [RoundsTable.model_validate(read_json(file)) for file in sources.rounds]
    html = render(paths, evaluations, pairs, training, rounds, album, beside)
    write_text(place, html)
    return WrittenReport(place, len(html.encode()), beside)


def render(
    paths: Sequence[Path],
    evaluations: Sequence[EvaluationPart],
    pairs: Sequence[PairsPart],
    training: TrainingPart | None,
    rounds: Sequence[RoundsTable],
    album: Album,
    beside: Path | None,
) -> str:
    """The page. Its policy lets nothing in from outside, and no script but its own."""
    script = asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment().get_template("report.html").render(
        title=" and ".join(path.resolve().name for path in paths[:3]) + (" and more" if len(paths) > 3 else ""),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        style=asset("report.css"), chart_style=PAGE_STYLE, light=LIGHT_COLOURS, dark=DARK_COLOURS, script=script,
        evaluations=evaluations, pairs=pairs, training=training, rounds=rounds, album=album,
        beside=None if beside is None else beside.name, version=mmpo.__version__,
    )  # fmt: skip


def _is_pairs(path: Path) -> bool:
    return path.is_dir() and any((path / "data").glob("*.parquet"))


def _sources(paths: Sequence[Path]) -> _Sources:
    found = _Sources()
    if not paths:
        raise UserError("nothing to report on", hint="mmpo report RUN, PAIRS or EVAL")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such folder")
        name = path.resolve().name
        before = len(found.pairs) + len(found.training) + len(found.evaluations)
        if _is_pairs(path):
            found.pairs[_free(name, found.pairs)] = path
        elif (path / "scorecard.json").is_file():
            found.evaluations[_free(name, found.evaluations)] = path
        elif (path / "metrics.jsonl").is_file():
            found.training[_free(name, found.training)] = path
        else:
            for step in sorted(path.iterdir()) if path.is_dir() else ():
                kind = step.name.partition("-")[0]
                label = name if step.name == kind else f"{name} {step.name}"
                if kind in ("build", "select") and _is_pairs(step / "pairs"):
                    found.pairs[_free(label, found.pairs)] = step / "pairs"
                elif kind == "train" and (step / "metrics.jsonl").is_file():
                    found.training[_free(label, found.training)] = step
                elif kind == "eval" and (step / "scorecard.json").is_file():
                    found.evaluations[_free(label, found.evaluations)] = step
            if (path / "rounds.json").is_file():
                found.rounds.append(path / "rounds.json")
        if len(found.pairs) + len(found.training) + len(found.evaluations) == before:
            raise UserError(
                f"{path}: no pairs, no training and no scorecard in it yet",
                hint="give a run folder, a folder of pairs (…/build/pairs) or an evaluation (…/eval)",
            )
    return found


def _free(name: str, taken: dict[str, Path]) -> str:
    return next(one for k in range(len(taken) + 1) if (one := name if not k else f"{name} ({k + 1})") not in taken)
