"""Any ratio in any link, and weights of pairs on any term of preference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.build import spec_mistakes
from mmpo.objectives.weighing import RATIOS
from mmpo.types import PairLogps, ResponseLogps, StepStatistics

LENGTHS = ([4, 2, 6], [3, 5, 6])


def _response(seed: int, lengths: list[int], others: list[int]) -> ResponseLogps:
    """Three responses with everything that a ratio reads, float64."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    place = torch.arange(max(lengths)).expand_as(mask)

    def logps() -> Tensor:
        return -(0.1 + torch.rand(mask.shape, generator=generator, dtype=torch.float64)) * mask

    part = torch.where(mask, place // 2, -1)
    scores = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    drawn = place < torch.minimum(torch.tensor(lengths), torch.tensor(others))[:, None]
    return ResponseLogps(
        logps().requires_grad_(),
        logps(),
        mask,
        torch.where(place % 2 == 1, 0.25, 1.0).double() * mask,
        more={
            "turns": part,
            "steps": part,
            "step_scores": scores.masked_fill(torch.arange(3) > part.amax(-1, keepdim=True), math.nan),
            "positions": drawn,
            "second_reference": logps(),
            "log_sum_squares": logps() - 0.2,
        },
    )


@pytest.fixture
def pairs() -> PairLogps:
    given = {"chosen": [0.9, 0.7, 0.8], "rejected": [0.2, 0.6, 0.1], "similarity": [1.0, 0.5, 0.0]}
    return PairLogps(
        _response(1, LENGTHS[0], LENGTHS[1]),
        _response(2, LENGTHS[1], LENGTHS[0]),
        scores={name: torch.tensor(values, dtype=torch.float64) for name, values in given.items()},
    )


def values(pairs: PairLogps, spec: dict[str, Any]) -> Tensor:
    (_, term), *_ = build_objective(spec).terms(pairs).values()
    return term.values


def gradients(pairs: PairLogps, spec: dict[str, Any]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(values(pairs, spec).sum(), (pairs.chosen.policy, pairs.rejected.policy))


def weighted_gap(pairs: PairLogps, weights: list[list[list[float]]]) -> Tensor:
    """sum_t u_t (p_t - q_t) of chosen less that of rejected, for weights written out token by token."""
    sums = []
    for side, rows in zip((pairs.chosen, pairs.rejected), weights, strict=True):
        assert side.reference is not None
        ratios = (side.policy - side.reference).detach()
        sums.append(
            torch.stack(
                [(torch.tensor(row).double() * of[: len(row)]).sum() for row, of in zip(rows, ratios, strict=True)]
            )
        )
    return sums[0] - sums[1]


@pytest.mark.parametrize(
    ("name", "parameters", "ratio"),
    [
        ("dpo", {}, "sum"),
        ("ld_dpo", {"alpha": 0.3}, {"ld": {"alpha": 0.3}}),
        ("ld_dpo", {}, "ld"),
        ("ln_dpo", {}, "mean"),
        ("sampo", {}, "sampled"),
        ("sampo", {"draw": True}, {"sampled": {"draw": True}}),
        ("span_dpo", {}, "span"),
        ("dense_dpo", {}, "dense"),
        ("subset_dpo", {"gamma": 0.2}, {"subset": {"gamma": 0.2}}),
        ("subset_dpo", {"normalise": "weighted_count", "eos_weight": "relevant"},
         {"subset": {"normalise": "weighted_count", "eos_weight": "relevant"}}),
        ("dpo_bmc", {"cap": 1.5}, {"bmc": {"cap": 1.5}}),
        ("dmpo", {"gamma": 0.6}, {"turn": {"gamma": 0.6}}),
        ("dmpo", {"gamma": 1.0}, {"turn": {"gamma": 1.0}}),
        ("full_step_dpo", {"gamma": 2.0, "scale_by_steps": True}, {"step": {"gamma": 2.0, "scale_by_steps": True}}),
        ("dpo_shift", {"lam": 0.4}, {"shift": {"lam": 0.4}}),
        ("mappo", {}, "mappo"),
        ("da_dpo", {"gamma": 2.0}, {"da_dpo": {"gamma": 2.0}}),
    ],
)  # fmt: skip
def test_a_named_loss_is_dpo_on_its_ratio(pairs: PairLogps, name: str, parameters: dict[str, Any], ratio: Any) -> None:
    own, with_ratio = {name: {"beta": 0.3, **parameters}}, {"dpo": {"beta": 0.3, "ratio": ratio}}
    torch.testing.assert_close(values(pairs, with_ratio), values(pairs, own), rtol=1e-12, atol=1e-14)
    for found, expected in zip(gradients(pairs, with_ratio), gradients(pairs, own), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("ratio", "weights"),
    [
        ({"ld": {"alpha": 0.3}}, [[[1, 1, 1, 0.3], [1, 1], [1] * 6], [[1] * 3, [1, 1, 0.3, 0.3, 0.3], [1] * 6]]),
        ("mean", [[[1 / 4] * 4, [1 / 2] * 2, [1 / 6] * 6], [[1 / 3] * 3, [1 / 5] * 5, [1 / 6] * 6]]),
        ("sampled", [[[3 / 4] * 4, [1] * 2, [1] * 6], [[1] * 3, [2 / 5] * 5, [1] * 6]]),
        ({"shift": {"lam": 0.5}}, [[[1] * 4, [1] * 2, [1] * 6], [[0.5] * 3, [0.5] * 5, [0.5] * 6]]),
        ("span", [[[1, 0.25] * 2, [1, 0.25], [1, 0.25] * 3], [[1, 0.25, 1], [1, 0.25, 1, 0.25, 1], [1, 0.25] * 3]]),
        # gamma 1: turn j of n weighs (n - j)/n
        ({"turn": {"gamma": 1.0}}, [[[1, 1, 1 / 2, 1 / 2], [1, 1], [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3]],
                                    [[1, 1, 1 / 2], [1, 1, 2 / 3, 2 / 3, 1 / 3], [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3]]]),
    ],
)  # fmt: skip
def test_ratios_by_hand_in_several_links(pairs: PairLogps, ratio: Any, weights: list[list[list[float]]]) -> None:
    z = weighted_gap(pairs, weights)
    expected = {
        "hinge": torch.relu(1 - 0.2 * z),
        "robust": (0.9 * torch.log1p((-0.2 * z).exp()) - 0.1 * torch.log1p((0.2 * z).exp())) / 0.8,
        "gpo": (0.2 * z - 1) ** 2,
    }
    for name, value in expected.items():
        torch.testing.assert_close(values(pairs, {name: {"beta": 0.2, "ratio": ratio}}).detach(), value)
    ipo = values(pairs, {"ipo": {"tau": 0.5, "average": False, "ratio": ratio}})
    torch.testing.assert_close(ipo.detach(), (z - 1) ** 2)


def test_masks_and_what_is_logged_stay(pairs: PairLogps) -> None:
    plain, with_ratio = (
        build_objective("dpo").metrics(pairs),
        build_objective({"dpo": {"ratio": "mean"}}).metrics(pairs),
    )
    assert plain.keys() == with_ratio.keys()
    for name, term in plain.items():
        torch.testing.assert_close(with_ratio[name].mean, term.mean)
    assert pairs.chosen.policy.requires_grad and pairs.chosen.lengths.tolist() == LENGTHS[0]


def test_a_second_reference_is_weighed_too(pairs: PairLogps) -> None:
    """With equal references mrpo is dpo, whatever the ratio."""
    for side in (pairs.chosen, pairs.rejected):
        assert side.reference is not None
        side.more = {**side.more, "second_reference": side.reference}
    found = values(pairs, {"mrpo": {"ratio": "ld"}})
    torch.testing.assert_close(found, values(pairs, {"ld_dpo": {}}), rtol=1e-6, atol=1e-6)


def test_one_object_on_both_sides_has_two_sides(pairs: PairLogps) -> None:
    same = PairLogps(pairs.chosen, pairs.chosen)
    torch.testing.assert_close(
        values(same, {"dpo": {"beta": 0.01, "ratio": "shift"}}), values(same, {"dpo_shift": {}}), rtol=1e-12, atol=0
    )


def test_a_loss_may_have_a_parameter_of_that_name() -> None:
    """gamma_po's own `ratio` is a number."""
    assert build_objective({"gamma_po": {"ratio": 0.4, "times": None}}).parameters["gamma_po"]["ratio"] == 0.4
    assert spec_mistakes({"gamma_po": {"ratio": "ld"}})[0][1] == "gamma_po.ratio must be a number (it is 'ld')"


# ---- weights of pairs


@pytest.mark.parametrize(
    ("name", "parameters"), [("madpo", {"tau": 1.0, "c_max": 3.0}), ("sem_dpo", {"alpha": 0.7}), ("wpo", {})]
)
def test_weights_of_pairs_make_the_loss_of_their_name(pairs: PairLogps, name: str, parameters: dict[str, Any]) -> None:
    own, times = {name: {"beta": 0.2, **parameters}}, {"dpo": {"beta": 0.2, "times": {name: parameters}}}
    torch.testing.assert_close(values(pairs, times), values(pairs, own), rtol=1e-12, atol=0)
    for found, expected in zip(gradients(pairs, times), gradients(pairs, own), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_weights_multiply_and_do_not_see_the_ratio(pairs: PairLogps) -> None:
    similarity = torch.exp(-2.0 * (1 - pairs.scores["similarity"]))
    ours = torch.ones(3, dtype=torch.float64)
    for side in (pairs.chosen, pairs.rejected):
        gap = (side.policy - side.more["log_sum_squares"]) * side.mask
        ours = ours * (gap.sum(-1) / side.lengths).exp().detach()
    both = {"sem_dpo": {"alpha": 2.0}, "wpo": None}
    for name, given in (("hinge", {"ratio": "ld"}), ("simpo", {}), ("mdpo", {}), ("phrase_contrast", {})):
        if name == "mdpo":
            pairs = replace(pairs, views=dict.fromkeys(OBJECTIVES[name].views_of({}), pairs.rejected))
        (_, plain), *_ = build_objective({name: given}).terms(pairs).values()
        (_, term), *_ = build_objective({name: {**given, "times": both}}).terms(pairs).values()
        torch.testing.assert_close(term.values, plain.values * similarity * ours)
        torch.testing.assert_close(term.weights, plain.weights)


def test_weights_are_of_one_term_alone(pairs: PairLogps) -> None:
    weighed = build_objective({"dpo": {"times": {"sem_dpo": {"alpha": 1.0}}}, "sft": {"weight": 0.5}}).terms(pairs)
    torch.testing.assert_close(weighed["sft"][1].values, values(pairs, {"sft": {}}))


# ---- what a run needs of them


def test_reads_include_those_of_ratio_and_weights() -> None:
    objective = build_objective({"dpo": {"ratio": "turn", "times": {"madpo": {}, "wpo": {}}}})
    assert objective.reads == {"reference", "turns", "scores", "log_sum_squares"}
    assert "positions" not in build_objective({"dpo": {"ratio": "sampled"}}).reads
    assert "positions" in build_objective({"dpo": {"ratio": {"sampled": {"draw": True}}}}).reads


def test_schedules_within_a_ratio(pairs: PairLogps) -> None:
    moving = {"from": 0.0, "to": 1.0, "over": 0.5}
    objective = build_objective({"dpo": {"ratio": {"ld": {"alpha": moving}}, "times": {"sem_dpo": {"alpha": moving}}}})
    assert objective.at(0.25).parameters["dpo"]["ratio"] == {"ld": {"alpha": 0.5}}
    assert objective.scheduled(0.5) == {"dpo.ratio.ld.alpha": 1.0, "dpo.times.sem_dpo.alpha": 1.0}
    weight = torch.exp(-0.5 * (1 - pairs.scores["similarity"]))
    found = objective.terms(replace(pairs, progress=0.25))["dpo"][1].values
    torch.testing.assert_close(found, weight * values(pairs, {"ld_dpo": {}}))


def test_step_rules_see_the_weighed_record(pairs: PairLogps) -> None:
    """The running mean is of weighed log-ratios, also where another loss gathers plain ones under the same names."""
    spec = {"bco_pair": {"ratio": "mean", "delta": "running"}, "aot": {}}
    objective = build_objective(spec)
    gathered = objective.statistics(pairs)
    assert {"W", "bco_pair/W"} <= set(gathered)
    step, states = objective.look(StepStatistics(gathered), objective.start(), seed=1)
    ratios = [(s.policy_sum - s.reference_sum).detach() / s.lengths for s in (pairs.chosen, pairs.rejected)]
    mean = torch.cat(ratios).mean()
    torch.testing.assert_close(states["bco_pair"]["log_ratio_mean"], mean)
    whole = objective.terms(replace(pairs, step=step))
    a, b = (0.1 * ratio for ratio in ratios)
    expected = torch.log1p((0.1 * mean - a).exp()) + torch.log1p((b - 0.1 * mean).exp())
    torch.testing.assert_close(whole["bco_pair"][1].values.detach(), expected)
    alone = build_objective({"bco_pair": spec["bco_pair"]}).terms(pairs)
    torch.testing.assert_close(alone["bco_pair"][1].values.detach(), expected)
    torch.testing.assert_close(whole["aot"][1].values, build_objective("aot").terms(pairs)["aot"][1].values)


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if entry.link is True])
def test_every_link_takes_every_ratio_and_its_sum_is_itself(pairs: PairLogps, name: str) -> None:
    pairs = replace(pairs, scores={k: v for k, v in pairs.scores.items() if k != "similarity" or name == "sem_dpo"})
    given = {key: 1.0 for key in OBJECTIVES[name].required}
    if name == "odpo":
        given = {"offset": "linear"}  # type: ignore[dict-item]
    plain = values(pairs, {name: given})
    torch.testing.assert_close(values(pairs, {name: {**given, "ratio": "sum"}}), plain, rtol=1e-12, atol=0)
    for ratio in RATIOS:
        found = values(pairs, {name: {**given, "ratio": ratio}})
        assert found.shape == plain.shape and bool(found.isfinite().all()), ratio


# ---- mistakes


@pytest.mark.parametrize(
    ("spec", "path", "words", "hint"),
    [
        ({"dpo": {"ratio": "ldd"}}, ("dpo", "ratio"), "unknown ratio 'ldd'", "did you mean 'ld'"),
        ({"dpo": {"ratio": {"meen": {}}}}, ("dpo", "ratio", "meen"), "unknown ratio 'meen'", "'mean'"),
        ({"dpo": {"ratio": {"ld": {"alpha": 2}}}}, ("dpo", "ratio", "ld", "alpha"), "less than or equal to 1", None),
        ({"dpo": {"ratio": {"ld": {"alpa": 1}}}}, ("dpo", "ratio", "ld", "alpa"), "no parameter 'alpa'", "'alpha'"),
        ({"dpo": {"ratio": {"ld": {"weight": 1}}}}, ("dpo", "ratio", "ld", "weight"), "no parameter 'weight'", None),
        ({"dpo": {"ratio": {"ld": {}, "mean": {}}}}, ("dpo", "ratio"), "takes one ratio", None),
        ({"dpo": {"ratio": 3}}, ("dpo", "ratio"), "must be a ratio by name", None),
        ({"dpo": {"ratio": {}}}, ("dpo", "ratio"), "must be a ratio by name", None),
        ({"dpo": {"times": {"madpoo": {}}}}, ("dpo", "times", "madpoo"), "unknown weight of pairs", "'madpo'"),
        ({"dpo": {"times": "sem_dpo"}}, ("dpo", "times"), "alpha must be given", "sem_dpo: {alpha: …}"),
        ({"ipo": {"ratio": "ld"}}, ("ipo", "ratio"), "average: false", None),
        ({"kto": {"ratio": "ld"}}, ("kto", "ratio"), "give z0 as a number", None),
        ({"simpo": {"ratio": "ld"}}, ("simpo", "ratio"), "this loss has none", "two log-ratios"),
        ({"mdpo": {"ratio": "ld"}}, ("mdpo", "ratio"), "further renderings", None),
        ({"span_dpo": {"ratio": "ld"}}, ("span_dpo", "ratio"), "says so itself", None),
        ({"rpo": {"ratio": "ld"}}, ("rpo", "ratio"), "also has a term", None),
        ({"ln_dpo": {"ratio": "ld"}}, ("ln_dpo", "ratio"), "reads lengths itself", None),
        ({"aot": {"ratio": "ld"}}, ("aot", "ratio"), "those of several pairs meet", None),
        ({"aot": {"times": "wpo"}}, ("aot", "times"), "depend on each other", None),
        ({"sft": {"times": "wpo"}}, ("sft", "times"), "compares nothing", "sft"),
        ({"cpo": {"times": "wpo"}}, ("cpo", "times"), "compares nothing", "sft"),
        ({"auxiliary": {"times": "wpo"}}, ("auxiliary", "times"), "other answers", None),
        ({"nca": {"times": "wpo"}}, ("nca", "times"), "groups of responses", None),
    ],
)
def test_mistakes_are_told_with_their_place(
    spec: dict[str, Any], path: tuple[str, ...], words: str, hint: str | None
) -> None:
    (at, message, remedy), *more = spec_mistakes(spec)
    assert at == path and not more and words in message and (hint is None or hint in str(remedy))
    assert "\n" not in message
    with pytest.raises(UserError):
        build_objective(spec)


def test_no_likelihood_is_ever_weighed() -> None:
    kept = {name for name, entry in OBJECTIVES.items() if entry.supervised}
    assert kept >= {
        "sft",
        "auxiliary",
        "kl",
        "auxiliary_kl",
        "cpo",
        "orpo",
        "asft",
        "slic",
        "rpo",
        "mpo",
        "typo",
        "halva",
    }
    for name in kept:
        given = dict.fromkeys(OBJECTIVES[name].required, 1.0)
        assert [at for at, _, _ in spec_mistakes({name: {**given, "times": "wpo"}})] == [(name, "times")]
