"""Rounds side by side, and when a further one is not worth it. The rules are those of the specification, 6.4."""

from __future__ import annotations

import pytest

from mmpo.errors import UserError
from mmpo.eval.statistics.rounds import RoundsTable
from mmpo.eval.statistics.rows import Change, Estimate, MetricRow
from mmpo.eval.statistics.scorecard import Scorecard
from mmpo.eval.stopping import StopSettings

Values = dict[str, float | None]


def estimate(value: float | None) -> Estimate:
    return Estimate(value=value or 0.0, low=0.0, high=1.0, method="percentile", defined=value is not None)


def card(before: Values | None, after: Values) -> Scorecard:
    """A scorecard with these metrics, called as `claims.wrong`."""
    better = {"wrong": "lower", "Recall": "higher"}
    change = Change(value=0.1, low=0.0, high=0.2, p=0.04, test="bootstrap", detectable=0.1)
    rows = [
        MetricRow(
            benchmark=name.split(".")[0], split=None, metric=name.split(".")[1], percent=not name.endswith("Len"),
            better=better.get(name.split(".")[1], "neither"),  # type: ignore[arg-type]
            before=None if before is None else estimate(before[name]), after=estimate(value),
            change=None if before is None else change,
        )
        for name, value in after.items()
    ]  # fmt: skip
    return Scorecard(
        model="m", adapter="a", rows=rows, counts=[], conventions=[], warnings=[], quarantined={}
    )  # fmt: skip


def values(wrong: float | None, recall: float | None = 0.9, words: float | None = 50.0) -> Values:
    return {"claims.wrong": wrong, "chair.Recall": recall, "chair.Len": words}


def stopped(*models: Values, **stop: object) -> str | None:
    """Why there is no further round after the last of these models, the first being the one before round 1."""
    cards = [card(models[0], after) for after in models[1:]]
    return RoundsTable.of(cards, StopSettings.model_validate(stop)).stopped


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (values(0.20), values(0.18), None),  # a fall by a tenth of itself
        (values(0.20), values(0.181), "no fall by 10 % of itself"),
        (values(0.20), values(0.25), "no fall by 10 % of itself"),
        (values(0.0), values(0.0), "no fall by 10 % of itself"),
        (values(0.20), values(0.10, recall=0.85), None),  # 0.05 less and no more
        (values(0.20), values(0.10, recall=0.849), "a loss of more than 5.0"),
        (values(0.20), values(0.10, recall=0.99), None),
        (values(0.20), values(0.10, words=57.5), None),
        (values(0.20), values(0.10, words=57.6), "a change by more than 15 %"),
        (values(0.20), values(0.10, words=42.4), "a change by more than 15 %"),
        (values(0.20), values(None), "claims.wrong is undefined"),
        (values(None), values(0.20), None),
    ],
)  # fmt: skip
def test_one_round_is_judged_by_the_three_rules(before: Values, after: Values, reason: str | None) -> None:
    found = stopped(before, after)
    assert found is None if reason is None else found is not None and reason in found


def test_wrong_claims_are_compared_with_the_round_before_and_guards_with_the_first_model() -> None:
    first, second = values(0.30, recall=0.90), values(0.20, recall=0.87)
    assert stopped(first, second) is None
    assert "no fall" in str(stopped(first, second, values(0.19, recall=0.87)))  # though far below the first model
    third = values(0.10, recall=0.84)  # 0.03 below the round before, 0.06 below the first
    assert "chair.Recall 90.0 → 84.0 since the first model" in str(stopped(first, second, third))


def test_limits_and_metrics_are_the_recipes() -> None:
    before, after = values(0.20, recall=0.9), values(0.19, recall=0.7)
    assert stopped(before, after, least_fall=0.01, most_lost=0.3) is None
    assert "chair.Recall" in str(stopped(before, after, wrong="chair.Len", least_fall=0.0))
    assert RoundsTable.of([card(before, after)], None).stopped is None


def test_a_metric_that_is_not_measured_or_points_the_other_way_is_refused() -> None:
    with pytest.raises(UserError, match=r"rounds.stop.recall: chair.recal is not measured") as error:
        stopped(values(0.2), values(0.1), recall="chair.recal")
    assert error.value.hint == "measured are claims.wrong, chair.Recall, chair.Len"
    with pytest.raises(UserError, match="is better when higher"):
        stopped(values(0.2), values(0.1), wrong="chair.Recall")
    with pytest.raises(UserError, match="is better when lower"):
        stopped(values(0.2), values(0.1), recall="claims.wrong")


def test_rounds_without_a_known_metric_go_on() -> None:
    found = RoundsTable.of([card({"pope.F1": 0.5}, {"pope.F1": 0.1})], StopSettings())
    assert found.stopped is None and found.findings == ["round 1: nothing to compare with"]


def test_without_a_model_before_the_first_round_is_the_first_column() -> None:
    cards = [card(None, values(0.2)), card(None, values(0.19))]
    one, two = (RoundsTable.of(cards[:number], StopSettings()) for number in (1, 2))
    assert one.models == ["round 1"] and one.stopped is None
    assert two.models == ["round 1", "round 2"] and "no fall" in str(two.stopped)


def test_the_table_has_every_round_with_its_interval_and_difference() -> None:
    cards = [card(values(0.3), values(0.2)), card(values(0.3), values(0.1))]
    table = RoundsTable.of(cards, StopSettings())
    assert RoundsTable.model_validate_json(table.model_dump_json()) == table
    page = table.to_markdown().splitlines()
    assert page[2] == "| metric | base [95%] | round 1 [95%] | round 2 [95%] |"
    line = (
        "| CLAIMS wrong ↓ | 30.0 [0.0, 100.0] | 20.0 [0.0, 100.0]; +10.0, p 0.040 | 10.0 [0.0, 100.0]; +10.0, p 0.040 |"
    )
    assert line in page
    assert "- round 2: claims.wrong 20.0 → 10.0; chair.Recall 90.0 → 90.0; chair.Len 50.0 → 50.0" in page


def test_rounds_that_measure_different_things_are_no_table() -> None:
    with pytest.raises(UserError, match="not measured alike: no claims"):
        RoundsTable.of([card(values(0.3), values(0.2)), card({"pope.F1": 0.1}, {"pope.F1": 0.1})], StopSettings())
