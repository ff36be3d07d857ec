"""The comparison of objectives: what it trains is sound, and its table says what the cells say."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import objectives_table as comparison
from benchmarks.objectives_rows import METRICS, UNTUNED, balance, pooled, pooled_rows, ranks, table, with_seconds
from benchmarks.objectives_seconds import alone, file_of, timed
from benchmarks.objectives_summary import summary
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.trainers.fitting import check_objective
from mmpo.trainers.settings import TrainSettings
from tests.trainers.material import settings_for, write_pairs

NAMES = [name for names in comparison.FAMILIES.values() for name in names]


def test_at_least_thirty_objectives_each_once() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 30 and set(NAMES) <= set(OBJECTIVES) and set(comparison.OWN) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_settings_fit_the_objective(name: str) -> None:
    settings = TrainSettings.model_validate({"model": "m", "pairs": "p", **comparison.train_settings(name)})
    objective = build_objective(settings.objective)
    check_objective(settings, objective)
    if "weights" in objective.reads:
        assert settings.token_weights is not None


def estimate(value: float, width: float = 2.0) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def cell(chair: float, recall: float = 90.0, width: float = 2.0) -> dict[str, Any]:
    values = {"CHAIR_i": chair, "object recall": recall, "tokens": 30.0, "POPE adversarial F1": 80.0}
    return {
        "family": "summed log-ratios",
        "learning_rate": 3e-4,
        "metrics": {name: estimate(value, width) for name, value in values.items()},
        "drift": {"chosen": -1.0, "rejected": -4.0},
        "seconds_a_step": 0.5,
    }


def test_intervals_of_seeds_add_as_variances() -> None:
    together = pooled([{"value": 10, "low": 7, "high": 12}, {"value": 20, "low": 16, "high": 22}])
    assert together == {"value": 15, "low": 15 - 5 / 2, "high": 15 + math.sqrt(8) / 2}


def test_balance_moves_with_both_and_its_interval_with_theirs() -> None:
    assert balance(cell(10)["metrics"])["value"] == 90
    found = balance(cell(20, recall=80, width=4)["metrics"])
    assert found["value"] == 80 and found["low"] == pytest.approx(80 - math.hypot(2, 2))
    assert balance(cell(0, recall=0)["metrics"])["value"] == 0


def test_ranks_are_shared_where_intervals_overlap() -> None:
    rows = {UNTUNED: cell(20), "b": cell(8), "a": cell(6), "mute": cell(1, recall=40), "c": cell(16)}
    assert ranks(rows) == {"a": 1, "b": 1, "c": 3, "mute": 4}


def test_the_table_has_those_that_every_seed_has() -> None:
    seeds = {"0": {UNTUNED: cell(20), "dpo": cell(8), "orpo": cell(6)}, "1": {UNTUNED: cell(22), "dpo": cell(10)}}
    rows = pooled_rows(seeds, ["dpo", "orpo"])
    assert list(rows) == [UNTUNED, "dpo"] and rows["dpo"]["metrics"]["CHAIR_i"]["value"] == 9
    rates = {"summed log-ratios": {"by": "dpo", "scores": {1e-4: 80.0, 3e-4: 85.0}, "rate": 3e-4}}
    shown = table({"rows": rows, "ranks": ranks(rows), "seeds": seeds, "rates": rates})
    assert (
        "| 1 | `dpo` | 90.5 [" in shown
        and "| 9.0 [7.6, 10.4] |" in shown
        and "-1.0 (-1.0 to -1.0)" in shown
        and "0.0003" in shown
    )
    assert "| summed log-ratios | `dpo` | 80.0 | **85.0** |" in shown and "Not in this table" in shown
    assert "orpo" not in shown


def test_seconds_that_were_taken_alone_stand_in_the_table(tmp_path: Path) -> None:
    file = file_of(tmp_path, 0, "dpo")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"seconds_a_step": 0.25}))
    found = alone(tmp_path, 0, ["dpo", "orpo"])
    seeds = {"0": {UNTUNED: cell(20), "dpo": cell(8), "orpo": cell(6)}}
    rows = with_seconds(pooled_rows(seeds, ["dpo", "orpo"]), found)
    shown = table({"rows": rows, "ranks": ranks(rows), "seeds": seeds, "rates": {}})
    assert "| 0.25 |" in shown and "| ~0.50 |" in shown and "Seconds with a ~ were taken beside other cells" in shown


def test_a_step_is_timed_alone_and_only_the_number_stays(tmp_path: Path, tiny_llava_folder: Path) -> None:
    train = settings_for(tiny_llava_folder, write_pairs(tmp_path / "pairs", 8), batch_size=2).model_dump(mode="json")
    file = file_of(tmp_path / "out", 0, "dpo")
    found = timed(file, "dpo", train, quick=True)
    assert len(found["steps"]) == 3 and found["seconds_a_step"] == pytest.approx(sum(found["steps"][-2:]) / 2, abs=1e-3)
    assert alone(tmp_path / "out", 0, ["dpo"]) == {"dpo": found["seconds_a_step"]}
    assert [path.name for path in file.parent.rglob("*") if path.is_file()] == ["dpo.json"]


def test_the_summary_names_best_and_worst_and_who_differs_from_dpo() -> None:
    seeds = {"0": {UNTUNED: cell(20), "dpo": cell(8), "orpo": cell(2), "cpo": cell(16), "sft": cell(8, recall=92)}}
    seeds["0"]["cpo"]["drift"]["chosen"] = -9.0
    rows = with_seconds(pooled_rows(seeds, ["dpo", "orpo", "cpo", "sft"]), {"dpo": 0.2, "cpo": 0.6})
    given = {"model": "the demo model", "rate": "None", "steps": "100", "batch_size": "8"}
    told = summary({"rows": rows, "ranks": ranks(rows), "seeds": seeds, "rates": {}, "arguments": given})
    assert "- Best by balance: `orpo` 93.8 [92.4, 95.3], `sft`" in told
    assert "- Worst by balance: `cpo` 86.9" in told and "- Untuned: balance 84.7" in told
    assert "CHAIR_i, against `dpo` (8.0 [6.0, 10.0]), intervals apart: better `orpo`; worse `cpo`." in told
    assert "object recall, against `dpo` (90.0 [88.0, 92.0]), intervals apart: better none; worse none." in told
    assert "Chosen log-probs moved down most: `cpo` -9.0 nats" in told and "up in 0 of 4" in told
    assert "alone on one core: `dpo` 0.20; longest `cpo` 0.60, `dpo` 0.20." in told
    assert "100 steps of 8 pairs" in told and "one rate a family" in told
    assert summary({"rows": {}}) == ""
    for row in rows.values():
        row.pop("timed_alone", None)
    assert "taken beside other cells" in summary(
        {"rows": rows, "ranks": ranks(rows), "seeds": seeds, "arguments": given}
    )


def test_the_rate_has_the_best_harmonic_mean_and_the_lower_one_of_equals(tmp_path: Path) -> None:
    args = Namespace(out=tmp_path, rate_seed=9, rates=[1e-3, 1e-4, 3e-4])
    swept = comparison.sweep(args, ["averages"])
    for work, (chair, recall) in zip(swept["averages"], ((20, 80), (20, 80), (0, 60)), strict=True):
        assert comparison.chosen_rates(args, swept) == {}
        file = work.file(tmp_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(cell(chair, recall)))
    (found,) = comparison.chosen_rates(args, swept).values()
    assert found["by"] == "simpo" and found["rate"] == 1e-4 and found["scores"][1e-3] == pytest.approx(75)


def test_speed_is_of_training_rows_alone() -> None:
    rows = [{"pairs_per_second": 4.0}, {"eval_loss": 1.0}, {"pairs_per_second": 2.0}]
    assert comparison.seconds_a_step(rows, 8) == 3


@pytest.mark.slow
def test_a_small_run_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["x", "--quick", "--out", str(tmp_path / "out"), "--seeds", "0", "--jobs", "1", "--only", "dpo", "orpo"]
    monkeypatch.setattr("sys.argv", words)
    comparison.main()
    first = capsys.readouterr().out
    assert "2 cells in" in first and "`orpo`" in first
    comparison.main()
    assert "cells in" not in capsys.readouterr().out
    kept = (tmp_path / "out" / "arguments.json").read_text()
    assert "time" not in json.loads(kept), "a folder that an earlier version began goes on"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not results["rows"]["dpo"]["timed_alone"]
    monkeypatch.setattr("sys.argv", [*words, "--time"])
    comparison.main()
    told = capsys.readouterr().out
    assert "2 of 2, orpo: " in told and "Seconds with a ~" not in told and "alone on one core" in told
    seconds = json.loads(file_of(tmp_path / "out", 0, "dpo").read_text())
    assert len(seconds["steps"]) == 3 and not (tmp_path / "out/seed-0/seconds/train/dpo").exists()
    comparison.main()
    assert " of 2, " not in capsys.readouterr().out
    assert (tmp_path / "out" / "arguments.json").read_text() == kept
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["rows"]["dpo"]["seconds_a_step"] == seconds["seconds_a_step"]
    assert set(results["rows"]) == {UNTUNED, "dpo", "orpo"}
    assert set(results["rows"]["dpo"]["metrics"]) == set(METRICS)
