"""Losses of single responses: rows that nobody paired."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.groups import with_own_groups
from mmpo.objectives.stand_in import takes_unscored
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps, StepStatistics
from tests.objectives.making import random_record
from tests.objectives.test_groups import grouped, response

BETA = 0.3
RATIOS, SCORES = [0.4, -1.2, 0.9], [0.8, 0.1, math.nan]


def alone(ratios: list[float]) -> ResponseLogps:
    groups = grouped(ratios, [0.0] * len(ratios), [*range(len(ratios))]).groups
    assert groups is not None
    return groups.responses


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rows(name: str, pairs: PairLogps, **given: Any) -> list[float]:
    found = build_objective({name: {"beta": BETA, "rows": "responses", **given}}).terms(pairs)[name][1]
    assert found.weights.tolist() == [1.0] * len(found.values), "every response counts once"
    return found.values.tolist()


def test_uft_learns_scored_and_supervised_rows_by_hand() -> None:
    targets = [0.8, 0.1, 1.0]
    expected = [(sigmoid(BETA * ratio) - target) ** 2 for ratio, target in zip(RATIOS, targets, strict=True)]
    assert rows("uft", grouped(RATIOS, SCORES, [0, 1, 2])) == pytest.approx(expected)
    assert rows("uft", grouped(RATIOS, SCORES, [0, 0, 0])) == pytest.approx(expected), "groups mean nothing"
    assert rows("una_mse", grouped(RATIOS[:2], SCORES[:2], [0, 1])) == pytest.approx(expected[:2])


def test_kto_by_hand() -> None:
    pairs = grouped(RATIOS, [1.0, 0.0, 0.51], [0, 1, 1])
    expected = [sigmoid(-BETA * (0.4 - 0.2)), 0.5 * sigmoid(-BETA * (0.2 + 1.2)), sigmoid(-BETA * (0.9 - 0.2))]
    assert rows("kto", pairs, z0=0.2, undesirable=0.5) == pytest.approx(expected)
    expected[2] = 0.5 * sigmoid(-BETA * (0.2 - 0.9))
    assert rows("kto", pairs, z0=0.2, undesirable=0.5, threshold=0.51) == pytest.approx(expected)


@pytest.mark.parametrize(("others", "point"), [([0.5, 0.1], 0.3), ([-2.0, 0.5], 0.0)])
def test_the_point_of_reference_is_the_mean_of_mismatched_rows(others: list[float], point: float) -> None:
    pairs = grouped(RATIOS, [1.0, 0.0, 1.0], [0, 1, 2])
    assert pairs.groups is not None
    pairs = replace(pairs, groups=replace(pairs.groups, mismatched=alone(others)))
    assert rows("kto", pairs) == pytest.approx(rows("kto", pairs, z0=point))


def test_a_step_without_mismatched_rows_and_evaluation_read_the_last_point() -> None:
    objective = build_objective({"kto": {"rows": "responses"}})
    state: Any = objective.start()
    assert {key: float(value) for key, value in state["kto"].items()} == {"z0": 0.0}

    def step(total: float, rows: float) -> StepStatistics:
        one = torch.ones(2, dtype=torch.float64)
        return StepStatistics({"mismatched": total / 2 * one, "mismatched_rows": rows / 2 * one})

    looked, state = objective.look(step(1.5, 3), state, seed=0)
    assert float(looked.found["kto"]["z0"]) == float(state["kto"]["z0"]) == 0.5
    looked, state = objective.look(step(0, 0), state, seed=0)
    assert float(looked.found["kto"]["z0"]) == float(state["kto"]["z0"]) == 0.5
    looked, after = objective.look(step(9, 3), state, seed=0, training=False)
    assert float(looked.found["kto"]["z0"]) == float(after["kto"]["z0"]) == 0.5


@pytest.mark.parametrize(("name", "given"), [("uft", {}), ("una_mse", {}), ("kto", {"z0": 0.1})])
def test_pairs_as_rows_are_the_loss_of_pairs(name: str, given: dict[str, Any]) -> None:
    pairs = random_record("dpo", {})
    ones = torch.ones(len(pairs), dtype=torch.float64)
    pairs = replace(pairs, scores={"chosen": ones, "rejected": 0 * ones})
    of_pairs = build_objective({name: given}).loss(pairs)
    of_rows = build_objective({name: {**given, "rows": "responses"}}).loss(with_own_groups(pairs))
    assert of_rows.item() == pytest.approx(of_pairs.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "scores", "message"),
    [
        ("una_mse", SCORES, "una_mse reads a score of every response, and 1 of 3 have none"),
        ("kto", SCORES, "kto reads a score of every response, and 1 of 3 have none"),
        ("uft", [0.5, 1.5, 0.1], "uft reads scores of responses from 0 to 1 (one is 1.5)"),
        ("una_mse", [0.5, math.inf, 0.1], "from 0 to 1 (one is inf)"),
    ],
)
def test_scores_that_are_none(name: str, scores: list[float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        rows(name, grouped(RATIOS, scores, [0, 1, 2]))
    assert message in str(caught.value)


def test_what_they_are_of_and_take() -> None:
    uft, kto = (build_objective({name: {"rows": "responses"}}) for name in ("uft", "kto"))
    assert (takes_unscored(uft), takes_unscored(kto), takes_unscored(build_objective("nca"))) == (True, False, False)
    assert not takes_unscored(build_objective({"uft": {"rows": "responses"}, "nca": {}}))
    assert uft.of_groups_alone and not uft.compares_responses and not uft.reads_mismatched and kto.reads_mismatched
    assert not build_objective({"kto": {"rows": "responses", "z0": 0.1}}).reads_mismatched
    assert not build_objective("uft").of_groups_alone and "groups" not in build_objective("kto").reads
    both = build_objective({"dpo": {}, "uft": {"rows": "responses"}})
    assert both.on_pairs_alone().weights == {"dpo": 1.0}


@pytest.mark.parametrize("key", [{"ratio": "ld"}, {"times": "wpo"}])
def test_ratios_and_weights_of_pairs_are_refused(key: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="the term is one of single responses"):
        build_objective({"uft": {"rows": "responses", **key}})


def test_nothing_to_learn_is_an_empty_term() -> None:
    none = ResponseGroups(response([]), torch.zeros(0).long(), torch.zeros(0))
    assert rows("uft", PairLogps(response([-1.0]), response([-1.0]), groups=none)) == []
