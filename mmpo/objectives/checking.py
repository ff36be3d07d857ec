"""Golden cases, recomputed in float64 by the functions that training calls: `mmpo objectives check`.

A mistake in a case fails that case and no other. `case_records` builds what the losses read, `comparing` compares.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.build import Objective, build_objective
from mmpo.objectives.case_records import CaseRecord, record_of
from mmpo.objectives.comparing import LargestErrors, compare_gradients, compare_lists
from mmpo.objectives.details import details_of
from mmpo.objectives.golden_files import Case, GoldenFile, TokenStatistic
from mmpo.objectives.names import resolve
from mmpo.objectives.registry import OBJECTIVES, Registered
from mmpo.objectives.step_rule import Draw
from mmpo.objectives.term import Term
from mmpo.types import PairLogps, StepStatistics

MOST = 10_000
"""Largest whole number among the parameters of a case: candidates, steps of an inner optimization."""


@dataclass(frozen=True)
class Checked:
    """What came of one case or statistic: the errors of loss and gradient where they were compared (of a statistic, its
    value's), why it failed, and what differs that does not count unless asked."""

    id: str
    kind: str = "case"
    loss: float | None = None
    gradient: float | None = None
    state: float | None = None
    problem: str = ""
    warnings: tuple[str, ...] = ()
    refused: str = ""

    def ok(self, tolerance: float, *, strict: bool = False) -> bool:
        errors = [error for error in (self.loss, self.gradient, self.state) if error is not None]
        return not self.problem and all(error <= tolerance for error in errors) and not (strict and self.warnings)


Kernels = Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]]
"""Statistics of tokens by name, each of logits [n, v] by name and of parameters."""


def check(golden: GoldenFile, tolerance: float, kernels: Kernels) -> Iterator[Checked]:
    """Every case and statistic of a file, in its order."""
    for case in golden.cases:
        yield _guarded(case.id, "case", partial(_case, case, tolerance))
    for statistic in golden.statistics:
        yield _guarded(statistic.id, "statistic", partial(_statistic, statistic, kernels))


def _guarded(name: str, kind: str, run: Callable[[], Checked]) -> Checked:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run()
    except UserError as error:
        return Checked(name, kind, problem=error.message)
    except Exception as error:  # whatever a case provokes is that case's failure
        text = str(error).partition("\n")[0]
        return Checked(name, kind, problem=f"{type(error).__name__}: {text}" if text else type(error).__name__)


# ---- a case


@dataclass
class _Run:
    """A case's loss as it is trained on, its values, and what is logged."""

    loss: Tensor
    values: Tensor
    state_after: Mapping[str, Tensor]
    rewards: Mapping[str, Any]
    details: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)


def _case(case: Case, tolerance: float) -> Checked:
    if case.problem:
        raise UserError(case.problem)
    meant = resolve(case.name, OBJECTIVES, case.parameters, table=case.table)
    if case.refused is not None:
        return _refused(case, lambda: _run(case, {**meant.spec, **case.plus}, meant.name))
    if doubled := [name for name in case.plus if name in meant.spec]:
        raise UserError(f"plus names {doubled[0]!r} a second time")
    record, run = _run(case, {**meant.spec, **case.plus}, meant.name)
    expected, problem = case.expected, ""
    found = LargestErrors()
    if "loss" in expected:
        found.loss(compare_lists(run.loss, expected["loss"], "loss"))
    if "losses" in expected:
        found.loss(compare_lists(run.values, expected["losses"], "losses"))
    if "loss" not in expected and "losses" not in expected:
        problem = "the case expects neither loss nor losses"
    if "gradient" in expected:
        if run.loss.requires_grad:
            run.loss.backward()
        found.gradient(compare_gradients(record, expected["gradient"], case.gradient_scale))
    state = None
    for name, value in case.mapping("state_after").items():
        if name not in run.state_after:
            raise UserError(f"state_after.{name}: the objective keeps no such state")
        error = compare_lists(run.state_after[name], value, f"state_after.{name}")
        state = error if state is None else max(state, error)
    notes = [*run.notes, *_differences(case, run, tolerance)]
    return Checked(case.id, "case", found.of_loss, found.of_gradient, state, problem, tuple(notes))


def _differences(case: Case, run: _Run, tolerance: float) -> Iterator[str]:
    """Rewards, margins and details that are not as expected."""
    wanted = {f"rewards.{name}": value for name, value in case.mapping("rewards").items()}
    if "margins" in case.expected:
        wanted["margins"] = case.expected["margins"]
    wanted.update({f"details.{name}": value for name, value in case.mapping("details").items()})
    have = {**run.rewards, **{f"details.{name}": value for name, value in run.details.items()}}
    for name, value in wanted.items():
        if name not in have:
            yield f"{name}: not computed here"
            continue
        try:
            error = compare_lists(have[name], value, name)
        except UserError as wrong:
            yield wrong.message
            continue
        if not error <= tolerance:
            yield f"{name} {error:.1e}"


def _refused(case: Case, run: Callable[[], Any]) -> Checked:
    """A case that must be refused, by an error that names what is wrong."""
    try:
        run()
    except UserError as error:
        unnamed = [name for name in case.refused or () if name.lower() not in error.message.lower()]
        notes = (f"the error does not name {unnamed[0]!r}: {error.message}",) if unnamed else ()
        return Checked(case.id, warnings=notes, refused=error.message)
    return Checked(case.id, problem="must be refused, and is not")


def _run(case: Case, spec: Mapping[str, Any], name: str) -> tuple[CaseRecord, _Run]:
    """Everything that the objective makes of the case's inputs; `name` is the term whose values are compared."""
    for term_name, options in spec.items():
        values = options.values() if isinstance(options, Mapping) else ()
        if any(isinstance(value, int) and abs(value) > MOST for value in values):
            raise UserError(f"{term_name}: a whole number among the parameters is above {MOST}")
    objective = build_objective(spec)
    record = record_of(case.inputs, objective.views)
    pairs = record.pairs
    if not len(pairs) and pairs.groups is None and pairs.auxiliary is None:
        raise UserError("the inputs hold no pairs")
    objective = objective.at(pairs.progress)
    entry, given = OBJECTIVES[name], dict(objective.parameters[name])
    notes: list[str] = []
    pairs, after = _over_the_step(objective, pairs, name, case, notes)
    terms = objective.terms(pairs)
    term = terms[name][1]
    if not len(term.values):
        raise UserError(f"the inputs hold no {entry.unit_of(given)}")
    loss = torch.stack([w * one.mean for w, one in terms.values()]).sum()
    run = _Run(
        loss,
        _values(terms, name),
        after,
        _rewards(objective, entry, given, pairs),
        details_of(name, pairs, entry.values(given), term.values.detach()),
        notes,
    )
    return record, run


def _values(terms: Mapping[str, tuple[float, Term]], name: str) -> Tensor:
    """The values of each pair, NaN where it does not count; of a sum, the sum's where its terms have as many."""
    counts = len(terms[name][1].values)
    total = torch.zeros(counts, dtype=torch.float64)
    for weight, one in terms.values():
        if len(one.values) == counts:
            total = total + weight * one.values.detach() / one.weights.detach()
    return total


def _over_the_step(
    objective: Objective, pairs: PairLogps, name: str, case: Case, notes: list[str]
) -> tuple[PairLogps, Mapping[str, Tensor]]:
    """The record with what the losses read of the step, which these pairs are, and the objective's state after it."""
    rules = {term: OBJECTIVES[term].rule_of(given) for term, given in objective.parameters.items()}
    given_state = {key: value for key, value in case.inputs.get("state", {}).items() if key != "progress"}
    rule = rules[name]
    if rule is None:
        return pairs, {}
    if unknown := [key for key in given_state if key not in rule.state]:
        known = f"it keeps {', '.join(rule.state)}" if rule.state else "it keeps none"
        raise UserError(f"state.{unknown[0]}: the objective keeps no such state; {known}")
    state = {key: _state(value, key) for key, value in given_state.items()}
    draw = None if case.selected is None else _given_draw(case.selected, notes)
    step, after = StepStatistics(objective.statistics(pairs)), {}
    for term, one in rules.items():
        if one is not None:
            own, choose = (state, draw) if term == name else (None, None)
            found, left = OBJECTIVES[term].look(step.values, own, objective.parameters[term], seed=0, draw=choose)
            step = StepStatistics(step.values, found={**step.found, term: found})
            after[term] = left
    pairs.state = {name: state}
    pairs.step = step
    return pairs, after.get(name, {})


def _state(value: Any, key: str) -> Tensor:
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"state.{key} must be a number or a list of numbers") from None


def _given_draw(selected: Sequence[int], notes: list[str]) -> Draw:
    """A draw that gives the case's pairs."""

    def draw(weights: Tensor, count: int) -> Tensor:
        if any(place >= len(weights) for place in selected):
            raise UserError(f"selected names a pair beyond the {len(weights)} there are")
        if len(selected) != count:
            notes.append(f"selected names {len(selected)} pairs, and the objective draws {count}")
        drawn = torch.zeros(len(weights), dtype=torch.bool)
        drawn[list(selected)] = True
        return drawn

    return draw


def _rewards(objective: Objective, entry: Registered, given: Mapping[str, Any], pairs: PairLogps) -> dict[str, Any]:
    """The rewards that are logged, by their names in the file."""
    reward = entry.rewards_of(given)
    if reward is None:
        return {}
    if entry.unit_of(given) in ("groups", "responses") and pairs.groups is not None:
        flat = reward(pairs.groups.responses, float(entry.values(given).get(entry.scale, 1.0))).tolist()
        number = pairs.groups.group.tolist()
        nested = [[x for x, k in zip(flat, number, strict=True) if k == group] for group in range(len(pairs.groups))]
        return {"rewards.responses": nested}
    metrics = objective.metrics(pairs)
    names = {"rewards.chosen": "rewards/chosen", "rewards.rejected": "rewards/rejected", "margins": "rewards/margins"}
    return {ours: metrics[theirs].values for ours, theirs in names.items() if theirs in metrics}


# ---- a statistic


def _statistic(statistic: TokenStatistic, kernels: Kernels) -> Checked:
    if statistic.problem:
        raise UserError(statistic.problem)
    if statistic.name not in kernels:
        raise UserError(f"unknown statistic {statistic.name!r}")
    logits = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in statistic.logits.items()}
    found = kernels[statistic.name](logits, statistic.parameters)
    return Checked(statistic.id, "statistic", compare_lists(found, statistic.expected, "expected"))
