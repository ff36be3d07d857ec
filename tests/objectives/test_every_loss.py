"""What holds for every registered loss, and for each choice among its parameters: identities, gradients, padding, what
stands beside a pair, and what it says that it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES
from mmpo.objectives.registry import Identity
from mmpo.types import PairLogps, ResponseLogps, StepStatistics
from tests.objectives.making import (
    EVERY_SETTING,
    one_objective,
    random_record,
    record_with_gaps,
    responses_of,
    setting_id,
)  # fmt: skip

every_setting = pytest.mark.parametrize(("name", "given"), EVERY_SETTING, ids=setting_id)

OF_THE_FIRST_PAIR = ("tars_official", {"average": False})
"""Repeats what its release does: the first pair's spectral term counts for all."""
DIFFERENTIABLE = ("tail_kl", "eos_policy", "label_logit", "label_logit_corrupted")
FIELDS = {
    "eos": ("eos_policy", "eos_reference"),
    "label_logits": (
        "label_logit", "label_logit_corrupted", "reference_label_logit", "reference_label_logit_corrupted",
    ),
    "steps": ("steps", "step_scores"),
    "segments": ("segments", "segment_scores"),
}  # fmt: skip
"""Fields of `ResponseLogps.more` that make up a read; of the others the field has its name."""
WORDS = {"reference": "reference", "weights": "weight|mark", "kl": "divergence", "scores": "score"}
OPTIONAL = {("opa_dpo", "weights"), ("uft", "scores")}
"""Read where they are there."""
IMPLIED = ("kl", "tail_kl", "eos", "label_logits")
"""What is made with the reference at hand, so that a loss of these alone says `reference` as well."""


def term(name: str, given: Mapping[str, Any], pairs: PairLogps) -> Any:
    return OBJECTIVES[name](pairs, given)


# ---- padding and company


@every_setting
def test_padding_does_not_count(name: str, given: dict[str, Any]) -> None:
    plain, padded = (term(name, given, random_record(name, given, pad=pad)).mean.item() for pad in (0, 5))
    assert padded == pytest.approx(plain, rel=1e-9)


@every_setting
def test_masked_places_between_turns_do_not_count(name: str, given: dict[str, Any]) -> None:
    if OBJECTIVES[name].hidden is not None:
        return  # hidden states have places of their own
    plain = random_record(name, given)
    for side in responses_of(plain).values():
        side.policy.requires_grad_()
    apart = record_with_gaps(plain)
    found, expected = term(name, given, apart), term(name, given, plain)
    assert found.values.tolist() == pytest.approx(expected.values.tolist(), rel=1e-9)
    assert found.weights.tolist() == pytest.approx(expected.weights.tolist(), rel=1e-9)
    if expected.mean.requires_grad:
        slopes = [
            torch.autograd.grad(one.mean, plain.rejected.policy, allow_unused=True)[0] for one in (found, expected)
        ]
        assert slopes[1] is None or torch.allclose(slopes[0], slopes[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["ld", "sampled", "turn", "step", "span", "dense", "subset", "bmc", "mean"])
def test_masked_places_between_turns_do_not_count_in_ratios(name: str) -> None:
    more: dict[str, dict[str, Any]] = {"sampled": {"draw": True}, "subset": {"eos_weight": "relevant"}}
    choices: list[dict[str, Any]] = [{}, *([more[name]] if name in more else [])]
    for values in choices:
        given = {"ratio": {name: values}}
        plain = random_record("dpo", given)
        found, expected = (term("dpo", given, pairs).values.tolist() for pairs in (record_with_gaps(plain), plain))
        assert found == pytest.approx(expected, rel=1e-9)


@every_setting
def test_a_pair_alone_counts_what_it_counts_in_a_batch(name: str, given: dict[str, Any]) -> None:
    if OBJECTIVES[name].rule_of(given) is not None or (name, given) == OF_THE_FIRST_PAIR:
        return  # depends on the step by design

    def totals(rows: Sequence[int]) -> list[float]:
        found = term(name, given, random_record(name, given, rows))
        return [*found.values.tolist(), *found.weights.tolist()]

    alone = [totals((row,)) for row in range(3)]
    per_row = len(alone[0]) // 2
    values = [value for one in alone for value in one[:per_row]]
    weights = [weight for one in alone for weight in one[per_row:]]
    assert totals((0, 1, 2)) == pytest.approx(values + weights, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "given"),
    [(name, given) for name, given in EVERY_SETTING if OBJECTIVES[name].rule_of(given) is not None],
    ids=setting_id,
)
def test_a_step_may_be_cut_up(name: str, given: dict[str, Any]) -> None:
    objective = one_objective(name, given)
    whole = random_record(name, given)
    step = StepStatistics(objective.statistics(whole))
    step, _ = objective.look(step, objective.start(), seed=0)

    def sums(rows: slice) -> Tensor:
        piece = random_record(name, given, range(3)[rows])
        piece.step = replace(step, own=rows)
        found = objective.terms(piece)[name][1]
        return torch.stack([found.values.sum(), found.weights.sum()])

    once, parts = sums(slice(0, 3)), sums(slice(0, 1)) + sums(slice(1, 3))
    torch.testing.assert_close(parts, once)


# ---- identities


IDENTITIES = [(name, identity) for name, entry in sorted(OBJECTIVES.items()) for identity in entry.identities]


@pytest.mark.parametrize(("name", "identity"), IDENTITIES, ids=[f"{n}-{i.other}" for n, i in IDENTITIES])
def test_identities_hold(name: str, identity: Identity) -> None:
    entry, other = OBJECTIVES[name], OBJECTIVES[identity.other]
    values = {"beta": 0.3, **{key: 0.7 for key in entry.required}}
    same = {key: values.get(key, entry.parameters.get(key)) for key in identity.same if key not in identity.given}
    given = {**{key: values[key] for key in entry.required}, **same, **identity.given}
    others = {**{key: one for key, one in same.items() if key in other.parameters}, **identity.others}
    assert set(same) <= set(other.parameters) | set(other.required), "both have them"
    pairs = random_record(name, given)
    missing = {view: pairs.chosen for view in other.views_of(others) if view not in pairs.views}
    found, expected = (
        term(name, given, pairs),
        term(identity.other, others, replace(pairs, views={**pairs.views, **missing})),
    )
    assert found.mean.item() == pytest.approx(expected.mean.item(), rel=1e-9)
    assert found.values.tolist() == pytest.approx(expected.values.tolist(), rel=1e-9)


# ---- gradients


def leaves_of(pairs: PairLogps) -> dict[str, Tensor]:
    """Everything through which a gradient may flow; views on one tensor are not shared."""
    found = {}
    for what, side in responses_of(pairs).items():
        found[f"{what}.policy"] = side.policy
        for field in ("kl", "policy_hidden"):
            if (tensor := getattr(side, field)) is not None:
                found[f"{what}.{field}"] = tensor
        found.update({f"{what}.{field}": side.more[field] for field in DIFFERENTIABLE if field in side.more})
    return found


@contextmanager
def constants(kept: list[Tensor], *, replay: bool) -> Iterator[None]:
    """Keeps what a loss takes out of the graph, or gives it what was kept: so constants stay constant while the inputs
    are moved."""
    detach, left = torch.Tensor.detach, iter(list(kept))

    def keeping(tensor: Tensor) -> Tensor:
        if replay:
            return next(left)
        kept.append(detach(tensor).clone())
        return detach(tensor)

    torch.Tensor.detach = keeping  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.Tensor.detach = detach


@every_setting
def test_gradients_are_central_differences(name: str, given: dict[str, Any]) -> None:
    pairs = random_record(name, given)
    leaves = leaves_of(pairs)
    for leaf in leaves.values():
        leaf.requires_grad_()
    kept: list[Tensor] = []
    with constants(kept, replay=False):
        loss = term(name, given, pairs).mean
    loss.backward()
    assert any(leaf.grad is not None for leaf in leaves.values())
    generator, width = torch.Generator().manual_seed(1), 1e-5

    def moved(leaf: Tensor, step: Tensor) -> float:
        leaf.data += step
        with torch.no_grad(), constants(kept, replay=True):
            found = term(name, given, pairs).mean.item()
        leaf.data -= step
        return float(found)

    for what, leaf in leaves.items():
        way = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
        slope = (moved(leaf, width * way) - moved(leaf, -width * way)) / (2 * width)
        found = 0.0 if leaf.grad is None else (leaf.grad * way).sum().item()
        assert found == pytest.approx(slope, rel=1e-4, abs=1e-6 * max(1.0, abs(loss.item()))), what


@pytest.mark.parametrize(
    ("name", "given"),
    [one for one in EVERY_SETTING if {"scores", "groups"} & {*OBJECTIVES[one[0]].reads_of(one[1])}],
    ids=setting_id,
)
def test_scores_are_constants(name: str, given: dict[str, Any]) -> None:
    pairs = random_record(name, given)
    numbers = [*pairs.scores.values(), *([pairs.groups.scores] if pairs.groups is not None else [])]
    for number in numbers:
        number.requires_grad_()
    pairs.chosen.policy.requires_grad_()
    found = term(name, given, pairs).mean
    if found.requires_grad:
        found.backward()
    assert all(number.grad is None or not number.grad.any() for number in numbers)


@every_setting
def test_finite_for_extreme_margins_in_float32(name: str, given: dict[str, Any]) -> None:
    for margin in (-3000.0, 3000.0):
        check_finite(name, given, margin)


def check_finite(name: str, given: dict[str, Any], margin: float) -> None:
    pairs = random_record(name, given, rows=(1,))
    for side in responses_of(pairs).values():
        for field in ("policy", "reference", "weights", "kl", "policy_hidden", "reference_hidden"):
            tensor = getattr(side, field)
            setattr(side, field, None if tensor is None else tensor.float())
        side.more = {key: one.float() if one.is_floating_point() else one for key, one in side.more.items()}
    for side, shift in ((pairs.chosen, min(margin, 0.0)), (pairs.rejected, -max(margin, 0.0))):
        side.policy = side.policy + shift * side.mask / side.lengths[:, None]
    pairs.scores = {key: one.float() for key, one in pairs.scores.items()}
    leaves = leaves_of(pairs)
    for leaf in leaves.values():
        leaf.requires_grad_()
    loss = term(name, given, pairs).mean
    loss.backward()
    assert loss.isfinite()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves.values())


# ---- what it reads


def only(pairs: PairLogps, reads: set[str], hidden: bool) -> PairLogps:
    """The record without what is not among the `reads`."""
    fields = {field for read in reads for field in FIELDS.get(read, (read,))}

    def side(response: ResponseLogps) -> ResponseLogps:
        return replace(
            response,
            reference=response.reference if "reference" in reads else None,
            weights=response.weights if "weights" in reads else None,
            kl=response.kl if "kl" in reads else None,
            policy_hidden=response.policy_hidden if hidden else None,
            reference_hidden=response.reference_hidden if hidden else None,
            more={key: one for key, one in response.more.items() if key in fields},
        )

    groups = pairs.groups
    mismatched = groups and groups.mismatched
    return replace(
        pairs,
        chosen=side(pairs.chosen),
        rejected=side(pairs.rejected),
        views={view: side(one) for view, one in pairs.views.items()},
        auxiliary=side(pairs.auxiliary) if "auxiliary" in reads and pairs.auxiliary is not None else None,
        scores=pairs.scores if "scores" in reads else {},
        groups=replace(groups, responses=side(groups.responses), mismatched=mismatched and side(mismatched))
        if "groups" in reads and groups is not None
        else None,
        samples=side(pairs.samples) if "samples" in reads and pairs.samples is not None else None,
        samples_of=pairs.samples_of if "samples" in reads else None,
    )


@every_setting
def test_reads_what_it_says_and_nothing_else(name: str, given: dict[str, Any]) -> None:
    entry, pairs = OBJECTIVES[name], random_record(name, given)
    reads, hidden = set(entry.reads_of(given)), entry.hidden is not None
    if name == "tars_official":
        reads.add("weights")  # of its views, which the perturbation makes
    whole = term(name, given, pairs).mean.item()
    assert term(name, given, only(pairs, reads, hidden)).mean.item() == pytest.approx(whole, rel=1e-12)
    reads = set(entry.reads_of(given))
    for read in sorted(reads - {"lengths"}):
        if (name, read) in OPTIONAL or (read == "reference" and (hidden or reads & {*IMPLIED})):
            continue
        with pytest.raises(UserError) as caught:
            term(name, given, only(pairs, reads - {read}, hidden))
        word = WORDS.get(read, "|".join(FIELDS.get(read, (read.rstrip("s"),))))
        assert re.search(word, caught.value.message), read
    if compared := OBJECTIVES[name].views_of(given):
        with pytest.raises(UserError, match=compared[0].name.partition("_")[0]):
            term(name, given, replace(pairs, views={}))


def test_no_setting_is_forgotten() -> None:
    assert {name for name, _ in EVERY_SETTING} == set(OBJECTIVES)
    objective = one_objective("dpo", {})
    assert objective.reads == {"reference"}
