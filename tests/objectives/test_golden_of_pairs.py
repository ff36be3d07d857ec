"""Golden values of the objectives of scores, steps, groups and samples: loss, gradient and state of the published file,
however a step is padded and cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.types import PairLogps, ResponseLogps
from tests.objectives.golden_record import computed, record

NAMES = (
    "adaptive", "batchwise", "groups", "scores", "shapes", "sided",
)  # fmt: skip
"""Modules whose objectives are compared here."""


@pytest.fixture(scope="module")
def cases(published_data: Path) -> list[dict[str, Any]]:
    file = published_data.parent / "golden_objectives.json"
    if not file.is_file():
        pytest.skip("the golden values are not beside the checkout")
    mine = {name for name, one in OBJECTIVES.items() if one.function.__module__.split(".")[-1] in NAMES}
    mine |= {"slic", "typo", "cpo", "orpo", "asft", "simpo", "repo", "alphapo", "sft"}
    return [case for case in json.loads(file.read_text())["cases"] if case["name"] in mine and "plus" not in case]


def close(found: torch.Tensor | float, expected: Any) -> bool:
    found, wanted = torch.as_tensor(found).double().reshape(-1), torch.as_tensor(expected).double().reshape(-1)
    error = (found - wanted).abs()
    return bool(((error <= 1e-6) | (error <= 1e-6 * wanted.abs())).all())


def gradients(response: ResponseLogps, expected: list[dict[str, Any]], where: str) -> None:
    grad = response.policy.grad if response.policy.grad is not None else torch.zeros_like(response.policy)
    for row, wanted in enumerate(expected):
        length = int(response.mask[row].sum())
        if "policy_sum" in wanted:
            assert close(grad[row, :length].sum(), wanted["policy_sum"]), where
        elif wanted:
            assert close(grad[row, :length], wanted["policy"]), where


def check(case: dict[str, Any], pairs: PairLogps, cuts: list[slice]) -> None:
    expected, where = case["expected"], case["id"]
    loss, losses, after = computed(case["name"], case["parameters"], pairs, case["inputs"], cuts)
    assert close(loss, expected["loss"]), (where, loss.item(), expected["loss"])
    cut_up = len(cuts) > 1 and case["name"] == "aot"  # then in the order of the pairs, not of the ranks
    for one, wanted in zip(losses.tolist(), expected.get("losses", [None] * len(losses)), strict=True):
        assert wanted is None or cut_up or close(one, wanted), where
    for name, wanted in expected.get("state_after", {}).items():
        assert close(after[case["name"]][name], wanted), (where, name)
    loss.backward()
    gradient = expected["gradient"]
    if "pairs" in gradient:
        for side in ("chosen", "rejected"):
            gradients(getattr(pairs, side), [pair.get(side, {}) for pair in gradient["pairs"]], where)
    if any("samples" in pair for pair in gradient.get("pairs", [])):
        assert pairs.samples is not None
        gradients(pairs.samples, [sample for pair in gradient["pairs"] for sample in pair["samples"]], where)
    if "groups" in gradient:
        assert pairs.groups is not None
        gradients(pairs.groups.responses, [o for group in gradient["groups"] for o in group["responses"]], where)
    for view in pairs.views.values():
        assert view.policy.grad is None or not view.policy.grad.any(), f"{where}: a constant has a gradient"


@pytest.mark.parametrize("pad", [0, 3])
def test_loss_gradient_and_state_are_golden(cases: list[dict[str, Any]], pad: int) -> None:
    assert len(cases) > 40
    for case in cases:
        check(case, record(case["inputs"], pad), [slice(None)])


def test_a_step_that_is_cut_up_is_golden_too(cases: list[dict[str, Any]]) -> None:
    cut = [case for case in cases if build_objective({case["name"]: case["parameters"]}).reads_step]
    assert {case["name"] for case in cut} >= {"aot", "beta_dpo", "gamma_po", "dama", "kto", "kto_pair", "bco_pair"}
    for case in cut:
        count = len(case["inputs"]["pairs"])
        check(case, record(case["inputs"]), [slice(0, 1), slice(1, count)])


def test_logged_rewards_are_golden(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        expected = case["expected"].get("rewards", {})
        if "chosen" not in expected:
            continue
        pairs = record(case["inputs"])
        (entry, given), *_ = build_objective({case["name"]: case["parameters"]})._entries()
        reward = entry.rewards_of(given)
        assert reward is not None
        scale = entry.values(given).get(entry.scale, 1.0)
        for side in ("chosen", "rejected"):
            assert close(reward(getattr(pairs, side), scale), expected[side]), case["id"]
