"""Losses beside TARS: golden values computed by hand from the printed formulas, log 2 at the start, the direction in
which each part pushes, and no dependence on padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.symmetric import CHOSEN_THERE, TWIN, TWIN_HERE
from mmpo.objectives.visual import CHOSEN, PREFERRED
from mmpo.types import PairLogps, ResponseLogps, StepStatistics
from tests.objectives.making import LOG2, response, softplus, value


def chip_pairs(pad: int = 0) -> PairLogps:
    """rho 1, -2 and -.5 on the corrupted image, weights 4 on the second tokens, K(y_w) = .3, K(y_l) = .7."""
    return PairLogps(
        response([0.75, 0.25], weights=[1, 4], kl=[0.1, 0.2], pad=pad),
        response([-0.5, -1.5], weights=[1, 4], kl=[0.4, 0.3], pad=pad),
        {CHOSEN: response([-0.25, -0.25], weights=[1, 4], pad=pad)},
    )


def test_chip_of_the_paper_by_hand() -> None:
    """Separate sigmoids: D = 3, rho gap 1.5, weighted sums 1.75 and -6.5 over weights of 5."""
    parts = [softplus(-0.5 * 3), softplus(-0.5 * 1.5), softplus(-0.5 * (1.75 + 6.5) / 5), 0.5 * (0.7 - 0.3)]
    expected = parts[0] + parts[1] + 3 * parts[2] + 0.1 * parts[3]
    assert value("chip", chip_pairs()) == pytest.approx(expected)
    unnormalized = parts[0] + parts[1] + 1 * softplus(-0.5 * (1.75 + 6.5)) + 0.1 * parts[3]
    assert value("chip", chip_pairs(), normalize=False, segment=1.0) == pytest.approx(unnormalized)
    printed = parts[0] + parts[1] + 3 * parts[2] - 0.1 * parts[3]
    assert value("chip", chip_pairs(), sign="printed") == pytest.approx(printed)


def test_chip_of_the_code_by_hand() -> None:
    """One sigmoid: weighted ratios 1.75, -6.5 and -1.25."""
    margin = (1.75 + 6.5) + (1.75 + 1.25) - 0.1 * (0.7 - 0.3)
    assert value("chip_official", chip_pairs()) == pytest.approx(softplus(-0.1 * margin))
    given = chip_pairs()
    noisy = given.view(CHOSEN)
    given.views[CHOSEN] = replace(noisy, reference=torch.tensor([[-2.0, -1.0]], dtype=torch.float64))
    right = (1.75 + 6.5) + (1.75 - (-1.25 + 2 + 4)) - 0.04
    assert value("chip_official", given) == pytest.approx(softplus(-0.1 * right))
    slip = (1.75 + 6.5) + (1.75 - (-1.25 + 5 * 6)) - 0.04
    assert value("chip_official", given, summed_twice=True) == pytest.approx(softplus(-0.1 * slip))


def test_the_divergence_of_the_rejected_answer_is_held_down_and_the_chosen_one_left() -> None:
    for name, parameters, sign in (
        ("chip", {}, 1),
        ("chip", {"sign": "printed"}, -1),
        ("chip_official", {}, 1),
        ("tdpo2", {}, 1),
    ):
        given = chip_pairs()
        for side in (given.chosen, given.rejected):
            assert side.kl is not None
            side.kl.requires_grad_()
        build_objective({name: parameters}).loss(given).backward()
        assert given.chosen.kl is not None and given.rejected.kl is not None
        assert given.chosen.kl.grad is None, name
        assert given.rejected.kl.grad is not None and (given.rejected.kl.grad * sign > 0).all(), name


def test_tdpo_by_hand() -> None:
    assert value("tdpo1", chip_pairs(), beta=0.2) == pytest.approx(softplus(-0.2 * (3 - 0.4)))
    assert value("tdpo2", chip_pairs(), beta=0.2, alpha=0.5) == pytest.approx(softplus(-0.2 * (3 - 0.2)))
    assert value("tdpo2", chip_pairs(), alpha=0.0) == pytest.approx(value("dpo", chip_pairs()))
    given = chip_pairs()
    given.auxiliary = response([-1.0, -1.0], kl=[0.2, 0.6])
    assert value("kl", given) == pytest.approx(0.3) and value("auxiliary_kl", given) == pytest.approx(0.8)


def test_povid_halves_by_hand() -> None:
    given = chip_pairs()
    given.views[PREFERRED] = response([-0.4, -0.1])
    assert value("povid", given) == pytest.approx(0.5 * softplus(-0.3) + 0.5 * softplus(-0.15))
    assert value("povid", given, image=0.0) == pytest.approx(value("dpo", given))
    same = replace(given, views={**given.views, PREFERRED: given.chosen})
    build_objective({"povid": {"image": 1.0}}).loss(same).backward()
    assert given.chosen.policy.grad is not None and not given.chosen.policy.grad.any(), "equal tokens cancel"


def test_opa_dpo_by_hand() -> None:
    parts = [softplus(-0.1 * (1.75 + 6.5)), softplus(-0.1 * (1.75 + 1.25)), softplus(-0.1 * 1.75), softplus(-0.65)]
    assert value("opa_dpo", chip_pairs()) == pytest.approx(parts[0] + 0.2 * parts[1] + parts[2])
    both = value("opa_dpo", chip_pairs(), rejected_anchor=0.5)
    assert both == pytest.approx(parts[0] + 0.2 * parts[1] + parts[2] + 0.5 * parts[3])


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_the_image_preference_of_opa_dpo_has_weights_of_its_own(level: str) -> None:
    """3 for what was wrong about the image, 1 elsewhere, beside 1 to 4 by the sentence's score."""
    given = chip_pairs()
    given.views[CHOSEN] = replace(given.view(CHOSEN), weights=torch.tensor([[3.0, 1.0]], dtype=torch.float64))
    found = value("opa_dpo", given, level=level)
    places = [3 * (0.75 + 0.25), 0.25 + 0.25]
    if level == "sequence":
        expected = softplus(-0.1 * (1.75 + 6.5)) + 0.2 * softplus(-0.1 * sum(places)) + softplus(-0.1 * 1.75)
    else:
        preference = [softplus(-0.1 * x) for x in (0.75 + 0.5, 4 * (0.25 + 1.5))]
        anchor = [softplus(-0.1 * x) for x in (0.75, 4 * 0.25)]
        expected = (sum(preference) + 0.2 * sum(softplus(-0.1 * x) for x in places) + sum(anchor)) / 2
    assert found == pytest.approx(expected)
    assert found != pytest.approx(value("opa_dpo", chip_pairs(), level=level))


def test_opa_dpo_per_token_by_hand() -> None:
    """Places are matched by number; the longer side counts."""
    given = PairLogps(response([0.5, -0.5]), response([1.0, 0.0, 2.0]), {CHOSEN: response([0.0, 1.0])})
    preference = [softplus(-0.1 * x) for x in (0.5 - 1.0, -0.5, -2.0)]
    image = [softplus(-0.1 * x) for x in (0.5, -1.5)]
    anchor = [softplus(-0.1 * x) for x in (0.5, -0.5)]
    expected = sum(preference) / 3 + 0.2 * sum(image) / 2 + sum(anchor) / 2
    assert value("opa_dpo", given, level="token") == pytest.approx(expected)
    released = ((sum(preference) + 893 * LOG2) + 0.2 * (sum(image) + 894 * LOG2) + (sum(anchor) + 894 * LOG2)) / 896
    assert value("opa_dpo", given, level="token", grid=896) == pytest.approx(released)


def halva_pairs(pad: int = 0) -> PairLogps:
    """Two phrases of two and one tokens in the chosen answer, of one and two in the rejected one."""
    return PairLogps(
        response([-1.0, -0.5, -0.25, -2.0, -1.0], weights=[1, 5, 5, 1, 5], kl=[0.1] * 5, pad=pad),
        response([-1.0, -3.0, -0.5, -1.0, -0.5], weights=[1, 5, 1, 5, 5], pad=pad),
    )


def test_halva_by_hand() -> None:
    first, second = softplus(-3.0 + 0.75), softplus(-1.5 + 1.0)
    assert value("phrase_contrast", halva_pairs()) == pytest.approx((first + second) / 2)
    assert value("halva", halva_pairs(), alpha=0.4) == pytest.approx((first + second) / 2 + 0.4 * 0.5)


def test_phrases_that_cannot_be_matched_and_pairs_without_any() -> None:
    merged = halva_pairs()
    merged.rejected.weights = torch.tensor([[1.0, 5, 1, 1, 1]], dtype=torch.float64)
    assert value("phrase_contrast", merged) == pytest.approx(softplus(-3.0 + 1.75)), "all that is marked, as one"
    nothing = halva_pairs()
    nothing.chosen.weights = nothing.rejected.weights = torch.ones(1, 5, dtype=torch.float64)
    assert value("phrase_contrast", nothing) == 0.0 and value("halva", nothing, alpha=0.0) == 0.0
    with pytest.raises(UserError, match="mark none"):
        value("halva", PairLogps(response([-1.0]), response([-2.0])))


def test_halva_has_no_reference_in_its_contrast() -> None:
    given = halva_pairs()
    before = value("phrase_contrast", given)
    assert given.chosen.reference is not None
    given.chosen.reference = given.chosen.reference - 3.0
    assert value("phrase_contrast", given) == before and "reference" not in build_objective("phrase_contrast").reads


def symmpo_pairs(pad: int = 0) -> PairLogps:
    views = {
        TWIN: response([0.5, 0.3], pad=pad),
        TWIN_HERE: response([-0.6, 0.2], pad=pad),
        CHOSEN_THERE: response([0.1, 0.3], pad=pad),
    }
    return PairLogps(response([0.75, 0.25], pad=pad), response([-0.5, -1.5], pad=pad), views)


def test_symmpo_by_hand() -> None:
    d1, d2 = 1.0 + 0.4, 0.8 - 0.4
    expected = softplus(-0.3) + 0.5 * (softplus(-0.1 * d1) + softplus(-0.1 * d2)) + 1e-4 * (d1 - d2) ** 2
    expected += softplus(-0.1) + softplus(-0.08)
    assert value("symmpo", symmpo_pairs()) == pytest.approx(expected)


def test_mpo_has_the_value_of_the_specification_and_a_running_mean() -> None:
    """beta .1, rho_w 1, rho_l -2, NLL 1.25: 1.941991 at delta 0."""
    given = PairLogps(response([-1.25, -1.25], [-1.75, -1.75]), response([-2.0] * 3, [-4 / 3] * 3))
    assert value("mpo", given) == pytest.approx(1.941991, abs=1e-6)
    parts = build_objective({"dpo": {"weight": 0.8}, "bco_pair": {"weight": 0.2}, "sft": {"weight": 1.0}})
    assert parts.loss(given).item() == pytest.approx(value("mpo", given))
    # of a batch that is a step of its own, the first: the mean of its ratios 1 and -2
    shifted = softplus(-0.05 - 0.1) + softplus(-0.2 + 0.05)
    running = 0.8 * softplus(-0.3) + 0.2 * shifted + 1.25
    assert value("mpo", given, delta="running") == pytest.approx(running)
    later = replace(given, step=StepStatistics({}, found={"bco_pair": {"log_ratio_mean": torch.tensor(0.7)}}))
    moved = softplus(0.07 - 0.1) + softplus(-0.2 - 0.07)
    assert value("bco_pair", later, delta="running") == pytest.approx(moved)
    assert value("bco_pair", later) == pytest.approx(1.242536, abs=1e-6)
    assert build_objective({"mpo": {"delta": "running"}}).reads_step
    assert not build_objective("mpo").reads_step


BUILDERS: dict[str, Callable[[int], PairLogps]] = {
    "chip": chip_pairs,
    "chip_official": chip_pairs,
    "tdpo1": chip_pairs,
    "tdpo2": chip_pairs,
    "opa_dpo": chip_pairs,
    "halva": halva_pairs,
    "phrase_contrast": halva_pairs,
    "symmpo": symmpo_pairs,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_padding_does_not_matter(name: str) -> None:
    options = [{}, {"level": "token"}] if name == "opa_dpo" else [{}]
    for parameters in options:
        plain, padded = (value(name, BUILDERS[name](pad), **parameters) for pad in (0, 3))
        assert plain == pytest.approx(padded, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters", "terms"),
    [
        ("chip", {"token": 0.0}, 1 + 1 + 3),
        ("chip_official", {}, 1),
        ("tdpo1", {}, 1),
        ("tdpo2", {}, 1),
        ("povid", {}, 1),
        ("opa_dpo", {}, 1 + 0.2 + 1),
        ("opa_dpo", {"level": "token"}, 1 + 0.2 + 1),
        ("opa_dpo", {"level": "token", "grid": 896}, 1 + 0.2 + 1),
        ("symmpo", {}, 1 + 2 * 0.5 + 2),
        ("mpo", {"generation": 0.0}, 0.8 + 2 * 0.2),
        ("tars_official", {"lam": 0.0}, 2),
    ],
)
def test_at_policy_equal_to_reference_every_logistic_term_is_log_two(
    name: str, parameters: dict[str, Any], terms: float
) -> None:
    def still(n: int) -> ResponseLogps:
        side = response([-1.5] * n, [-1.5] * n, [1.0, *[4.0] * (n - 1)], [0.0] * n)
        states = torch.ones(1, n, 2)
        return replace(side, policy_hidden=states, reference_hidden=states)

    objective = build_objective({name: parameters})
    views = {view: still(5 if view.side == "rejected" else 4) for view in objective.views}
    assert objective.loss(PairLogps(still(4), still(5), views)).item() == pytest.approx(terms * LOG2)


@pytest.mark.parametrize("name", ["anchor", "mdpo", "opa_dpo", "symmpo", "bco_pair", "mpo", "chip", "povid"])
def test_every_chosen_answer_is_pushed_up_and_every_negative_down(name: str) -> None:
    given = chip_pairs()
    given.views |= {**symmpo_pairs().views, PREFERRED: response([-0.4, -0.1])}
    build_objective({name: {}}).loss(given).backward()
    assert given.chosen.policy.grad is not None and (given.chosen.policy.grad < 0).all()
    for side in (given.rejected, given.view(CHOSEN), given.view(PREFERRED), given.view(TWIN_HERE)):
        assert side.policy.grad is None or (side.policy.grad > 0).all()
    twin = given.view(TWIN).policy.grad
    assert twin is None or (twin < 0).all()


def test_the_anchors_of_opa_dpo_and_symmpo_alone_push_up() -> None:
    for name, parameters in (
        ("opa_dpo", {"image": 0.0}),
        ("opa_dpo", {"image": 0.0, "level": "token"}),
        ("symmpo", {"symmetric": 0.0, "margin": 0.0}),
    ):
        slopes = []
        for anchor in (0.0, 1.0):
            given = chip_pairs()
            given.views |= symmpo_pairs().views
            build_objective({name: {**parameters, "anchor": anchor}}).loss(given).backward()
            assert given.chosen.policy.grad is not None
            slopes.append(given.chosen.policy.grad)
        assert (slopes[1] < slopes[0]).all(), name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("chip", {"sign": "printed"}),
        ("chip_official", {"summed_twice": True}),
        ("tdpo1", {}),
        ("povid", {}),
        ("opa_dpo", {"rejected_anchor": 0.3}),
        ("opa_dpo", {"level": "token"}),
        ("halva", {}),
        ("symmpo", {}),
        ("mpo", {"delta": "running"}),
        ("spectral", {"span": "sequence"}),
    ],
)
def test_gradients_against_finite_differences(name: str, parameters: dict[str, Any]) -> None:
    objective = build_objective({name: parameters})
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    spans = torch.tensor([[1.0, 4.0, 1.0], [4.0, 1.0, 1.0]]).double()
    names = list(objective.views)

    def loss(*given: torch.Tensor) -> torch.Tensor:
        # The last two are divergences; what is behind a stop-gradient (the chosen one's) stays as it is.
        kl = [values.square() * mask for values in given[-2:]]
        sides = [
            ResponseLogps(
                policy * mask, torch.linspace(-1, 0.5 + k, 6).double().view(2, 3) * mask, mask, spans * mask,
                policy_hidden=policy[..., None] * mask[..., None], reference_hidden=torch.ones(2, 3, 1).double(),
            )
            for k, policy in enumerate(given[:-2])
        ]  # fmt: skip
        sides[0].kl, sides[1].kl = kl[0] if name in ("tdpo1", "halva") else kl[0].detach(), kl[1]
        pairs = PairLogps(sides[0], sides[1], dict(zip(names, sides[2:], strict=True)))
        return objective.loss(pairs)

    count = 4 + len(names)
    inputs = [torch.randn(2, 3, generator=generator).double().requires_grad_() for _ in range(count)]
    if name not in ("tdpo1", "halva"):
        inputs[-2] = inputs[-2].detach()
    if name == "spectral":  # float32 inside
        assert torch.autograd.gradcheck(loss, inputs, eps=1e-2, atol=5e-3, rtol=0.1)
        return
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"chip": {"sign": "up"}}, "lower or printed"),
        ({"povid": {"image": 2.0}}, "less than or equal to 1"),
        ({"opa_dpo": {"level": "word"}}, "sequence or token"),
        ({"mpo": {"delta": "mean"}}, "must be a number or must be running"),
        ({"tars": {"span": "prompt"}}, "response or sequence"),
        ({"tars": {"layer": 1}, "tars_official": {}}, "different layers"),
    ],
)
def test_mistakes_are_named(spec: dict[str, dict[str, Any]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_objective(spec)


def test_what_each_loss_asks_of_scoring() -> None:
    assert {name for name, entry in OBJECTIVES.items() if "kl" in entry.reads_of({})} == {
        "tdpo1", "tdpo2", "kl", "auxiliary_kl", "chip", "chip_official", "halva",
    }  # fmt: skip
    assert build_objective("tars_official").corruption == build_objective("chip").corruption == "diffusion"
    assert build_objective("povid").corruption == "diffusion_pixels"
    assert build_objective("opa_dpo").corruption == "pixel_mask"
