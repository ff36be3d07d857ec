"""One diagnosis, from pairs and a model to numbers, sentences and charts.

    diagnose/
      source.json                   what it was made from; another source is refused
      numbers/pairs/00000.parquet … a row a pair, a unit of work each; further sets beside
      samples/00000.json …          answers that both models wrote
      separability.json             the linear classifiers
      diagnose.json, diagnose.md    the numbers with their sentences; *.svg, the charts

Killed and run again at any moment it goes on behind its last unit, and gives the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mmpo
from mmpo.data.reader import PairDataset, check_pairs, shard_paths
from mmpo.diagnose.held_out import held_out_ids
from mmpo.diagnose.measure import PairMeasurer
from mmpo.diagnose.page import write_page
from mmpo.diagnose.readings import DiagnosisNumbers, DiagnosisReading, readings
from mmpo.diagnose.samples import SampledAnswers, Sampler, WrittenAnswer, drawn_prompts
from mmpo.diagnose.samples import summarize as summarize_answers
from mmpo.diagnose.separability import Separability, separability
from mmpo.diagnose.settings import COSTLY, Costly, DiagnoseSettings
from mmpo.diagnose.summary import SetSummary, summarize
from mmpo.diagnose.table import read_columns, read_states, write_unit
from mmpo.errors import UserError
from mmpo.files.atomic import file_digest, read_json, read_sealed, remove_leftovers, write_json, write_sealed
from mmpo.files.fingerprints import folder_fingerprint, model_folder
from mmpo.locks import in_own_folder
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.progress import task
from mmpo.resuming import deciding, has_work

UNIT = 256
"""Pairs of a unit of work: what is lost at most when a diagnosis is killed."""
PROMPTS = 4
"""Prompts of a unit of answers."""
MAIN, HELD_OUT = "pairs", "held_out"
NO_ADAPTER = "there is no adapter: before a training policy and reference are one"


@dataclass(frozen=True)
class Diagnosis:
    """What came of it: counts of each set (`in` is the sum of the others), the readings, what was left out and why, and
    the pairs whose sides are most alike, by relative CHES."""

    folder: Path
    counts: Mapping[str, Mapping[str, int]]
    readings: Sequence[DiagnosisReading]
    left_out: Mapping[str, str]
    most_alike: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class PairSet:
    """A set of pairs to measure: its name, its folder, the rows of it that are drawn, in order."""

    name: str
    folder: Path
    limit: int | None
    seed: int

    @cached_property
    def dataset(self) -> PairDataset:
        return PairDataset(self.folder)

    @cached_property
    def rows(self) -> Sequence[int]:
        total = len(self.dataset)
        if self.limit is None or self.limit >= total:
            return range(total)
        return sorted(random.Random(f"{self.seed}/{self.name}").sample(range(total), self.limit))

    def parts(self, folder: Path) -> list[tuple[Path, Sequence[int]]]:
        """The files of its units with their rows."""
        starts = range(0, len(self.rows), UNIT)
        return [
            (folder / self.name / f"{number:05d}.parquet", self.rows[start : start + UNIT])
            for number, start in enumerate(starts)
        ]


class _Model:
    """The model, loaded when it is first needed and not before."""

    def __init__(self, settings: DiagnoseSettings) -> None:
        self._settings = settings

    @cached_property
    def vlm(self) -> VLM:
        own = self._settings
        return load_vlm(
            own.model, adapter=own.adapter, dtype=own.dtype, quantize=own.quantize, video_input=own.video_input,
            trust_remote_code=own.trust_remote_code, allow_network=own.allow_network,
        )  # fmt: skip

    @cached_property
    def measurer(self) -> PairMeasurer:
        return PairMeasurer(self.vlm, self._settings)

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(self.vlm, self._settings)


@in_own_folder
def diagnose(settings: DiagnoseSettings, run_dir: Path) -> Diagnosis:
    """Diagnose pairs under a model into the folder `run_dir`; a stopped diagnosis continues.

    Raises `UserError` for folders without pairs, a model or an adapter that can't be opened, and where the folder holds
    a diagnosis of something else. Pairs that can't be used are counted by reason.
    """
    sets = _sets(settings)
    left_out = _left_out(settings)
    asked: list[Costly] = [name for name in COSTLY if name not in left_out]
    _check_source(settings, sets, run_dir)
    remove_leftovers(run_dir, deep=True)
    model = _Model(settings)
    probed = _probed(sets[0], settings)
    _measure(settings, sets, run_dir, model, asked, probed)
    numbers = run_dir / "numbers"
    summaries = {one.name: _summary(one, numbers, settings) for one in sets}
    main = summaries.pop(MAIN)
    if not main.pairs:
        reasons = ", ".join(
            f"{count} {reason}" for reason, count in main.counts.items() if reason not in ("in", "diagnosed")
        )
        raise UserError(
            f"{settings.pairs}: no pair can be scored: {reasons}", hint="mmpo inspect PAIRS shows what they hold"
        )
    found = DiagnosisNumbers(
        main,
        summaries,
        _separability(sets[0], numbers, settings, run_dir) if "separability" in asked else None,
        _answers(sets[0], settings, run_dir, model) if "samples" in asked else None,
        settings.adapter is not None,
    )
    _explain(found, asked, left_out)
    return _written(settings, run_dir, found, left_out)


def _sets(settings: DiagnoseSettings) -> list[PairSet]:
    """The sets to measure, the pairs themselves first. Raises `UserError` for a folder without pairs."""
    folders = {MAIN: settings.pairs}
    if settings.eval_pairs is not None:
        folders[HELD_OUT] = settings.eval_pairs
    for name, folder in settings.also.items():
        if name in folders:
            raise UserError(f"--also {name}: this name is taken", hint="give the folder another name")
        folders[name] = folder
    found = []
    for name, folder in folders.items():
        check_pairs(folder)
        one = PairSet(name, folder, settings.limit, settings.seed)
        if not one.rows:
            raise UserError(f"{folder}: no pairs in it", hint="build or convert some first")
        found.append(one)
    return found


def _left_out(settings: DiagnoseSettings) -> dict[str, str]:
    """What is not measured, and why."""
    found: dict[str, str] = {name: "left out as asked" for name in COSTLY if name in settings.without}
    if settings.adapter is None:
        found.setdefault("samples", NO_ADAPTER)
        found["policy, displacement, implicit reward"] = NO_ADAPTER
    return found


def _check_source(settings: DiagnoseSettings, sets: Sequence[PairSet], run_dir: Path) -> None:
    """Write what this is made from, or compare with what is there."""
    source: dict[str, Any] = {
        "settings": deciding(settings),
        "mmpo": mmpo.__version__,
        "model": folder_fingerprint(model_folder(settings.model)),
        "adapter": None if settings.adapter is None else folder_fingerprint(Path(settings.adapter)),
        "data": {one.name: [file_digest(path) for path in shard_paths(one.folder, "train")] for one in sets},
    }
    path = run_dir / "source.json"
    if path.exists() and has_work(run_dir):
        before = read_json(path)
        old, new = (
            {**state["settings"], **{k: v for k, v in state.items() if k != "settings"}} for state in (before, source)
        )
        if changed := [key for key in {**new, **old} if old.get(key) != new.get(key)]:
            raise UserError(
                f"{run_dir} holds a diagnosis with another `{changed[0]}`",
                hint="--out names another folder; or delete this one",
            )
    write_json(path, source)


def _probed(main: PairSet, settings: DiagnoseSettings) -> frozenset[int]:
    """The rows whose mean states are kept."""
    if len(main.rows) <= settings.probe_pairs:
        return frozenset(main.rows)
    return frozenset(random.Random(f"{settings.seed}/probe").sample(main.rows, settings.probe_pairs))


def _measure(
    settings: DiagnoseSettings,
    sets: Sequence[PairSet],
    run_dir: Path,
    model: _Model,
    asked: Sequence[Costly],
    probed: frozenset[int],
) -> None:
    """Make the units that are not there yet."""
    numbers = run_dir / "numbers"
    todo = [(one, path, rows) for one in sets for path, rows in one.parts(numbers) if not path.exists()]
    if not todo:
        return
    held = frozenset[str]()
    if settings.held_out is not None and any(one.name == MAIN for one, _, _ in todo):
        held = _held_out(settings, run_dir)
    total = sum(len(one.rows) for one in sets)
    with task("scoring pairs", total) as running:
        measurer = model.measurer
        running.advance(total - sum(len(rows) for _, _, rows in todo))
        for one, path, rows in todo:
            main = one.name == MAIN
            unit = measurer(
                one.folder, rows, [one.dataset[row] for row in rows], asked=asked if main else (),
                probed=probed if main and "separability" in asked else (), held_out=held if main else (),
                running=running,
            )  # fmt: skip
            write_unit(path, unit.numbers, unit.states)


def _held_out(settings: DiagnoseSettings, run_dir: Path) -> frozenset[str]:
    """The ids held out in training, found once."""
    assert settings.held_out is not None
    file = run_dir / "held_out.json"
    if not file.exists():
        write_sealed(file, {"ids": sorted(held_out_ids(settings.pairs, settings.held_out))})
    return frozenset(read_sealed(file)["ids"])


def _summary(one: PairSet, numbers: Path, settings: DiagnoseSettings) -> SetSummary:
    paths = [path for path, _ in one.parts(numbers)]
    found = summarize(
        read_columns(paths), beta=settings.beta, betas=settings.betas, agreement=settings.agreement, pairs=len(one.rows)
    )
    if found.counts["in"] != len(one.rows) or found.counts["in"] != sum(found.counts.values()) - found.counts["in"]:
        raise RuntimeError(f"the counts of {one.name} do not add up: {found.counts} of {len(one.rows)} pairs")
    return found


def _separability(
    main: PairSet, numbers: Path, settings: DiagnoseSettings, run_dir: Path
) -> Separability | None:  # fmt: skip
    file = run_dir / "separability.json"
    if not file.exists():
        with task("testing whether style tells the sides apart", 1) as running:
            states = dict(read_states([path for path, _ in main.parts(numbers)]))
            found = separability({row: main.dataset[row] for row in states}, states, seed=settings.seed)
            running.advance()
        write_sealed(file, {"found": None if found is None else found.model_dump()})
    kept = read_sealed(file)["found"]
    return None if kept is None else Separability.model_validate(kept)


def _answers(main: PairSet, settings: DiagnoseSettings, run_dir: Path, model: _Model) -> SampledAnswers | None:
    prompts = drawn_prompts(main.dataset, main.rows, settings)
    parts = [
        (run_dir / "samples" / f"{number:05d}.json", prompts[start : start + PROMPTS])
        for number, start in enumerate(range(0, len(prompts), PROMPTS))
    ]
    missing = [(path, rows) for path, rows in parts if not path.exists()]
    if missing:
        with task("answers of both models", len(prompts)) as running:
            running.advance(len(prompts) - sum(len(rows) for _, rows in missing))
            for path, rows in missing:
                write_sealed(path, {"answers": [asdict(one) for one in model.sampler(main.dataset, rows)]})
                running.advance(len(rows))
    found = [WrittenAnswer(**row) for path, _ in parts for row in read_sealed(path)["answers"]]
    return summarize_answers(found, 2 * settings.samples * len(prompts))


def _explain(found: DiagnosisNumbers, asked: Sequence[Costly], left_out: dict[str, str]) -> None:
    """Add what was asked for and could not be had."""
    if "separability" in asked and found.separability is None:
        left_out["separability"] = "the pairs are about fewer than five pictures"
    if "samples" in asked and found.answers is None:
        left_out["samples"] = "no prompt about a picture that both models answered"
    if "perception" in asked and found.main.perception_chosen.mean is None:
        left_out["perception"] = "no pair shows a picture"


def _written(
    settings: DiagnoseSettings, run_dir: Path, found: DiagnosisNumbers, left_out: Mapping[str, str]
) -> Diagnosis:  # fmt: skip
    read = readings(found)
    counts = {name: one.counts for name, one in {MAIN: found.main, **found.others}.items()}
    diagnosis = Diagnosis(run_dir, counts, read, left_out, found.main.most_alike)
    write_json(run_dir / "diagnose.json", as_json(diagnosis, settings, found))
    write_page(run_dir, settings, found, read, counts, left_out)
    return diagnosis


def as_json(diagnosis: Diagnosis, settings: DiagnoseSettings, found: DiagnosisNumbers) -> dict[str, Any]:
    """The content of `diagnose.json`."""
    return {
        "format": "mmpo-diagnosis/1",
        "model": settings.model,
        "adapter": settings.adapter,
        "pairs": str(settings.pairs),
        "beta": settings.beta,
        "agreement": settings.agreement,
        "counts": diagnosis.counts,
        "readings": [asdict(one) for one in diagnosis.readings],
        "left_out": dict(diagnosis.left_out),
        "most_alike": [{"id": name, "relative_ches": value} for name, value in diagnosis.most_alike],
        "separability": None if found.separability is None else found.separability.model_dump(),
        "answers": None if found.answers is None else asdict(found.answers),
    }
