from __future__ import annotations

from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.types import PairLogps, ResponseLogps
from tests.objectives.golden import CASES, PAIRS, gaps
from tests.objectives.more_golden import MORE_CASES


def side(
    policy: list[float], reference: list[float] | None, lengths: list[int], weight: float | None = None
) -> ResponseLogps:
    """Responses with the given sums, spread evenly over their tokens."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    def spread(sums: list[float]) -> torch.Tensor:
        return mask * (torch.tensor(sums, dtype=torch.float64) / torch.tensor(lengths))[:, None]

    weights = None if weight is None else mask * weight
    return ResponseLogps(spread(policy), None if reference is None else spread(reference), mask, weights)


def golden_pairs() -> PairLogps:
    chosen, rejected = (
        side(PAIRS[f"policy_{s}"], PAIRS[f"ref_{s}"], PAIRS[f"len_{s}"]) for s in ("chosen", "rejected")
    )
    return PairLogps(chosen, rejected)


def single(value: float, reference: float = 0.0, n: int = 1) -> PairLogps:
    """One pair with chosen sum `value` and rejected sum `-value`, references around `reference`."""
    return PairLogps(side([value], [reference], [n]), side([-value], [reference], [n]))


@pytest.mark.parametrize("case", CASES + MORE_CASES, ids=lambda case: case["name"])
def test_golden_values_and_derivatives(case: dict[str, Any]) -> None:
    pairs = golden_pairs()
    pairs.chosen.policy.requires_grad_()
    pairs.rejected.policy.requires_grad_()
    term = build_objective({case["name"]: case["params"]}).terms(pairs)[case["name"]][1]
    torch.testing.assert_close(
        term.values.detach(), torch.tensor(case["per_pair"], dtype=torch.float64), rtol=0, atol=2e-6
    )
    assert term.mean.item() == pytest.approx(case["mean"], abs=2e-6)
    term.values.sum().backward()
    for response, key in ((pairs.chosen, "dloss_dW"), (pairs.rejected, "dloss_dL")):
        assert response.policy.grad is not None
        slopes = (response.policy.grad * response.mask).sum(
            -1
        ) / response.lengths  # a sum spread evenly over its tokens
        for slope, expected in zip(slopes.tolist(), case[key], strict=True):
            if expected is not None:
                assert slope == pytest.approx(expected, abs=2e-6)


def test_orpo_is_finite_for_certain_responses() -> None:
    policy = torch.zeros(1, 2, requires_grad=True)
    response = ResponseLogps(policy, None, torch.ones(1, 2, dtype=torch.bool))
    loss = build_objective("orpo").loss(PairLogps(response, response))
    loss.backward()
    assert loss.isfinite() and policy.grad is not None and policy.grad.isfinite().all()


def test_sft_by_pair_and_by_token() -> None:
    pairs = PairLogps(side([-2.0, -12.0], None, [1, 3]), side([-1.0, -1.0], None, [1, 1]))
    assert build_objective("sft").loss(pairs).item() == pytest.approx((2 + 4) / 2)
    assert build_objective({"sft": {"per": "token"}}).loss(pairs).item() == pytest.approx(14 / 4)


def test_mia_dpo_oracle() -> None:
    """arXiv:2410.17637: beta 0.1, differences 1 and -2; with gamma 0.1 and a mean of 1.25 over the chosen tokens."""
    pairs = PairLogps(side([-5.0], [-6.0], [4]), side([-8.0], [-6.0], [3]))
    assert build_objective({"dpo": {"beta": 0.1}}).loss(pairs).item() == pytest.approx(0.554355, abs=1e-6)
    both = build_objective({"dpo": {"beta": 0.1}, "sft": {"weight": 0.1, "per": "token"}})
    assert both.loss(pairs).item() == pytest.approx(0.679355, abs=1e-6)


def test_terms_add_up_with_weights() -> None:
    pairs = golden_pairs()
    both = build_objective({"dpo": {"beta": 0.2}, "sft": {"weight": 0.5}})
    expected = build_objective({"dpo": {"beta": 0.2}}).loss(pairs) + 0.5 * build_objective("sft").loss(pairs)
    assert both.loss(pairs).item() == pytest.approx(expected.item())
    assert build_objective({"dpo": 2}).loss(pairs).item() == pytest.approx(
        2 * build_objective("dpo").loss(pairs).item()
    )
    assert "reference" in both.reads and "reference" not in build_objective("simpo").reads


def test_means_survive_any_split_of_the_batch() -> None:
    pairs = PairLogps(side([-2.0, -12.0, -5.0], None, [1, 3, 2]), side([-1.0] * 3, None, [1, 1, 1]))
    objective = build_objective({"sft": {"per": "token"}})

    def part(response: ResponseLogps, i: int) -> ResponseLogps:
        return ResponseLogps(response.policy[i : i + 1], None, response.mask[i : i + 1])

    parts = [PairLogps(part(pairs.chosen, i), part(pairs.rejected, i)) for i in range(3)]
    terms = [objective.terms(one)["sft"][1] for one in parts]
    total = torch.stack([t.values.sum() for t in terms]).sum() / torch.stack([t.weights.sum() for t in terms]).sum()
    assert total.item() == pytest.approx(objective.loss(pairs).item())


def test_span_weights() -> None:
    ones = PairLogps(side([-4.0], [-5.0], [2], 1.0), side([-6.0], [-5.5], [2], 1.0))
    assert build_objective("span_dpo").loss(ones).item() == pytest.approx(build_objective("dpo").loss(ones).item())
    double = PairLogps(side([-4.0], [-5.0], [2], 2.0), side([-6.0], [-5.5], [2], 2.0))
    assert build_objective("span_dpo").loss(double).item() == pytest.approx(
        build_objective({"dpo": {"beta": 0.2}}).loss(double).item()
    )
    with pytest.raises(UserError, match="token weights"):
        build_objective("span_dpo").loss(PairLogps(side([-4.0], [-5.0], [2]), side([-6.0], [-5.5], [2])))


def test_metrics_use_trl_s_names_and_the_loss_s_reward() -> None:
    pairs = golden_pairs()
    metrics = {name: term.mean.item() for name, term in build_objective({"dpo": {"beta": 0.5}}).metrics(pairs).items()}
    assert set(metrics) == {
        "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
    }  # fmt: skip
    a = gaps("policy_chosen", "ref_chosen")
    assert metrics["rewards/chosen"] == pytest.approx(0.5 * sum(a) / 4)
    assert metrics["rewards/accuracies"] == 0.5  # the tie counts as an error
    simpo = build_objective({"simpo": {"beta": 3.0}}).metrics(pairs)
    assert simpo["rewards/chosen"].values[0].item() == pytest.approx(3 * -42.5 / 21)
    assert "rewards/chosen" not in build_objective("sft").metrics(pairs)
    pairs.chosen.policy.requires_grad_()
    assert not build_objective("dpo").metrics(pairs)["rewards/chosen"].values.requires_grad


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"dpoo": {}}, "did you mean 'dpo'"),
        ("nonsense", "one of"),
        ({"dpo": {"xyz": 1}}, "no parameter"),
        ({"dpo": {"betta": 1}}, "did you mean 'beta'"),
        ({}, "empty"),
        ({"cdpo": {"eps": 0.5}}, "less than 0.5"),
        ({"robust": {"eps": -0.1}}, "greater than or equal to 0"),
        ({"ipo": {"tau": 0}}, "greater than 0"),
        ({"sft": {"per": "word"}}, "pair or token"),
    ],
)
def test_mistakes_are_named_when_the_objective_is_built(spec: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_objective(spec)


def test_a_missing_reference_is_an_error_not_a_zero() -> None:
    pairs = PairLogps(side([-4.0], None, [2]), side([-6.0], None, [2]))
    with pytest.raises(UserError, match="reference"):
        build_objective("dpo").loss(pairs)
