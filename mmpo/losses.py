"""Every registered objective as a function of tensors: `mmpo.losses.NAME(policy_chosen, policy_rejected, …)`.

    loss = mmpo.losses.dpo(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1)
    loss = mmpo.losses.simpo(policy_chosen, policy_rejected, chosen_lengths=n_w, rejected_lengths=n_l)
    loss = mmpo.losses.tdpo2(…, chosen_kl=k_w, rejected_kl=k_l)
    loss = mmpo.losses.odpo(…, chosen_scores=s_w, rejected_scores=s_l)
    loss = mmpo.losses.mdpo(…, views={"chosen_corrupted": (policy_corrupted, ref_corrupted)})

The functions are those that `mmpo train` minimizes, with the same parameters and defaults. They are made from the
registry, so an objective of your own (`mmpo.objectives.objective`) is here as soon as it is registered. Each takes
log-probabilities in nats, summed over the tokens of a response, one number a pair: tensors [b]. All calls may bring all
of these; a loss reads what it needs, and what it needs is the last line of its docstring. To a loss in which pairs
depend on each other or on earlier ones, the pairs of a call are a whole optimizer step, the first of a run.

An objective that needs numbers of every token (spans, hidden states, answers beside the pairs) has none here to read:
called, it raises a `UserError` that names what is missing. `mmpo train` has them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.objectives.build import spec_mistakes
from mmpo.objectives.reads import READS
from mmpo.objectives.registry import Registered
from mmpo.objectives.stand_in import scores_read
from mmpo.types import PairLogps, ResponseLogps, ViewSpec

Reduction = Literal["mean", "sum", "none"]
ViewLogps = Mapping[str, tuple[Tensor, Tensor | None]]
Loss = Callable[..., Tensor]


def __getattr__(name: str) -> Loss:
    entry = OBJECTIVES.get(name)
    if entry is None:
        raise AttributeError(f"module 'mmpo.losses' has no loss {name!r}; dir(mmpo.losses) lists them")
    return _made(entry)


def __dir__() -> list[str]:
    return sorted(OBJECTIVES)


_TOKENS = "the log-probs of every token"
_TOLD = (Tensor.__len__, Tensor.dtype.__get__, Tensor.device.__get__, Tensor.shape.__get__)  # type: ignore[attr-defined]


class _PerToken(Tensor):
    """Stands where a loss may look for numbers of each token: their format is known, their values are not."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TOLD:
            return super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.to and not isinstance(args[0], cls):  # something is given their format
            return args[0].to(args[1].device, args[1].dtype)
        raise _Missing(_TOKENS)


class _Missing(Exception):
    """The name of something that a loss needs and was not given."""


class _SequenceLogps(ResponseLogps):
    """One side's responses, of which only sums over the tokens are known, all [b]."""

    def __init__(
        self,
        side: str,
        policy: Tensor,
        reference: Tensor | None,
        lengths: Tensor | None = None,
        kl: Tensor | None = None,
    ) -> None:
        tokens = policy.detach()[:, None].expand(-1, 2).as_subclass(_PerToken)  # two: not what one weight for all is
        super().__init__(policy=tokens, reference=tokens, mask=tokens)
        self._side = side
        self._sums = {"policy": policy, "reference": reference, "lengths": lengths, "kl": kl}

    def _sum(self, kind: str) -> Tensor:
        found = self._sums[kind]
        if found is None:
            if self._side in SIDES:
                raise _Missing(_NAMES[kind][SIDES.index(self._side)])
            raise _Missing(f"the {'reference log-probs' if kind == 'reference' else kind} of the view {self._side}")
        return found

    def weighed(self, weights: Tensor) -> ResponseLogps:
        """Of sums, one weight for all tokens of a response can be factored out."""
        if weights.shape[-1] != 1:
            raise _Missing("the log-probs of every token")
        factor, sums = weights[:, 0], self._sums
        made = _SequenceLogps(self._side, sums["policy"], None, sums["lengths"], sums["kl"])  # type: ignore[arg-type]
        for kind in ("policy", "reference"):
            if (total := sums[kind]) is not None:
                made._sums[kind] = total * factor
        return made

    @property
    def policy_sum(self) -> Tensor:
        return self._sum("policy")

    @property
    def reference_sum(self) -> Tensor:
        return self._sum("reference")

    @property
    def lengths(self) -> Tensor:
        return self._sum("lengths")

    @property
    def kl_sum(self) -> Tensor:
        return self._sum("kl")


SIDES = ("chosen", "rejected")
_NAMES = {"reference": ("ref_chosen", "ref_rejected"), "lengths": ("chosen_lengths", "rejected_lengths"),
          "kl": ("chosen_kl", "rejected_kl")}  # fmt: skip
_SCORES = {"chosen": "chosen_scores", "rejected": "rejected_scores", "similarity": "similarity"}
_OPTIONS = {
    "ref_chosen": "the reference model's log-probs of the chosen responses [b], nats",
    "ref_rejected": "the same of the rejected responses [b]",
    "chosen_lengths": "scored tokens of each chosen response [b]",
    "rejected_lengths": "scored tokens of each rejected response [b]",
    "chosen_kl": "sum over tokens of KL(reference || policy) [b], nats",
    "rejected_kl": "the same of the rejected response [b]",
    "chosen_scores": "a score of each chosen response [b]",
    "rejected_scores": "a score of each rejected response [b]",
    "similarity": "the similarity of each chosen response to its prompt or image [b]",
    "views": "name -> (policy, reference) log-probs of that view [b]",
}


@cache
def _made(entry: Registered) -> Loss:
    """The function of an objective."""
    name = entry.name
    parameters = entry.fields
    views = _views(name, {})

    def loss(
        policy_chosen: Tensor,
        policy_rejected: Tensor,
        ref_chosen: Tensor | None = None,
        ref_rejected: Tensor | None = None,
        *,
        chosen_lengths: Tensor | None = None,
        rejected_lengths: Tensor | None = None,
        chosen_kl: Tensor | None = None,
        rejected_kl: Tensor | None = None,
        chosen_scores: Tensor | None = None,
        rejected_scores: Tensor | None = None,
        similarity: Tensor | None = None,
        views: ViewLogps | None = None,
        reduction: Reduction = "mean",
        **values: Any,
    ) -> Tensor:
        if reduction not in ("mean", "sum", "none"):
            raise UserError(f"mmpo.losses.{name}: reduction={reduction!r}", hint="one of mean, sum, none")
        _check_parameters(name, values)
        _check_needs(entry, values)
        given = {
            "policy_chosen": policy_chosen, "policy_rejected": policy_rejected, "ref_chosen": ref_chosen,
            "ref_rejected": ref_rejected, "chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths,
            "chosen_kl": chosen_kl, "rejected_kl": rejected_kl, "chosen_scores": chosen_scores,
            "rejected_scores": rejected_scores, "similarity": similarity,
        }  # fmt: skip
        given_views, wanted = views or {}, _views(name, values)
        _check_tensors(name, given, given_views, {view.name for view in wanted if view.side == "other"})
        if absent := [view.name for view in wanted if view.name not in given_views]:
            raise _refused(name, f"the view {absent[0]}", f"views={{{absent[0]!r}: (policy, reference)}}")
        made: dict[ViewSpec, ResponseLogps] = {v: _SequenceLogps(v.name, *given_views[v.name]) for v in wanted}
        pairs = PairLogps(
            _SequenceLogps("chosen", policy_chosen, ref_chosen, chosen_lengths, chosen_kl),
            _SequenceLogps("rejected", policy_rejected, ref_rejected, rejected_lengths, rejected_kl),
            made,
            scores={score: found for score, key in _SCORES.items() if (found := given[key]) is not None},
        )
        for score, needed in scores_read(build_objective({name: values})).items():
            if score not in pairs.scores and (needed or not pairs.scores):
                raise _refused(name, _SCORES[score])
        try:
            term = entry(pairs, values)
        except _Missing as missing:
            raise _refused(name, str(missing)) from None
        return term.mean if reduction == "mean" else term.values.sum() if reduction == "sum" else term.values

    reads, more = _reads(entry)
    options = [option for kind in ("lengths", "kl") if kind in reads for option in _NAMES[kind]]
    options += [*(_SCORES[score] for score in _scores(entry)), *(["views"] if views else [])]
    loss.__name__ = loss.__qualname__ = name
    loss.__module__ = __name__
    loss.__doc__ = _docstring(entry, parameters, reads, options, more)
    both, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    keywords = (
        {key: inspect.Parameter.empty if key in entry.required else field.default for key, field in parameters.items()}
        | dict.fromkeys(options)
        | {"reduction": "mean"}
    )
    needed = inspect.Parameter.empty if "reference" in reads or more else None
    loss.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("policy_chosen", both),
            inspect.Parameter("policy_rejected", both),
            inspect.Parameter("ref_chosen", both, default=needed),
            inspect.Parameter("ref_rejected", both, default=needed),
            *(inspect.Parameter(key, keyword, default=default) for key, default in keywords.items()),
        ],
        return_annotation="Tensor",
    )
    return loss


def _reads(entry: Registered) -> tuple[set[str], str]:
    """The inputs that a loss with its default parameters reads, as it says, and what it needs beyond sums (empty:
    nothing)."""
    more = _beyond(entry, {}) or _of_tokens(entry)
    return (set(), more) if more else (set(entry.reads_of({})), "")


_SUMS = ("reference", "lengths", "kl", "scores")
"""What one number of a response or pair is enough for."""
_OTHERWISE = {"weights": "the weights of every token", "auxiliary": "answers beside the pairs"}


def _beyond(entry: Registered, values: Mapping[str, Any]) -> str:
    """The input of a loss that sums over tokens do not give; empty where sums may do."""
    if more := [read for read in entry.reads_of(values) if read not in _SUMS]:
        return _OTHERWISE.get(more[0], READS[more[0]].what)
    return "hidden states of the model" if entry.hidden is not None else ""


def _of_tokens(entry: Registered) -> str:
    """That a loss looks at the log-probs of single tokens, which is nothing that it reads besides: seen in a call."""
    ones = torch.ones(1)

    def side(name: str) -> _SequenceLogps:
        return _SequenceLogps(name, -ones, -ones, ones, ones)

    views: dict[ViewSpec, ResponseLogps] = {view: side(view.name) for view in _views(entry.name, {})}
    scores = {"chosen": ones, "rejected": ones / 2, "similarity": ones}
    try:
        entry(PairLogps(side("chosen"), side("rejected"), views, scores=scores), dict.fromkeys(entry.required, 1.0))
    except _Missing as missing:
        return str(missing)
    return ""


def _scores(entry: Registered) -> list[str]:
    """The scores of pairs that a loss reads."""
    if "scores" not in entry.reads_of({}):
        return []
    return list(scores_read(build_objective({entry.name: dict.fromkeys(entry.required, 1.0)})))


def _check_needs(entry: Registered, values: Mapping[str, Any]) -> None:
    if more := _beyond(entry, values):
        raise UserError(f"mmpo.losses.{entry.name} needs {more}", hint=_TRAIN.format(name=entry.name))


_BY_HAND = "weigh the log-probs of the tokens before you sum them"
_TRAIN = "sums over tokens do not give them: train with `objective: {{{name}: {{}}}}`, where mmpo has them"


def _refused(name: str, missing: str, remedy: str = "") -> UserError:
    if missing in _OPTIONS:
        return UserError(
            f"mmpo.losses.{name} needs {missing}: {_OPTIONS[missing]}", hint=f"mmpo.losses.{name}(…, {missing}=…)"
        )
    return UserError(f"mmpo.losses.{name} needs {missing}", hint=remedy or _TRAIN.format(name=name))


def _views(name: str, values: Mapping[str, Any]) -> tuple[ViewSpec, ...]:
    found = OBJECTIVES[name].views
    return found(OBJECTIVES[name].parameters | dict(values)) if callable(found) else found


def _check_parameters(name: str, values: Mapping[str, Any]) -> None:
    for key, instead in (("weight", "multiply the loss"), ("ratio", _BY_HAND), ("times", "multiply the losses")):
        if key in values and OBJECTIVES[name].has_common(key):
            raise UserError(f"mmpo.losses.{name} has no parameter {key!r}", hint=instead)
    if found := spec_mistakes({name: dict(values)}):
        _, message, hint = found[0]
        raise UserError(f"mmpo.losses.{name}: {message}", hint=hint)
    build_objective({name: dict(values)})  # what only the loss itself refuses


def _check_tensors(name: str, given: Mapping[str, Tensor | None], views: ViewLogps, others: set[str]) -> None:
    """Tensors [b], all of one length, floating except lengths and scores. `others` are views of any length."""
    known: dict[str, Any] = {key: value for key, value in given.items() if value is not None or key.startswith("pol")}
    if not isinstance(views, Mapping):
        raise UserError(f"mmpo.losses.{name}: views must be names with (policy, reference), not {type(views).__name__}")
    for view, sums in views.items():
        if not isinstance(sums, tuple | list) or len(sums) != 2:
            raise UserError(f"mmpo.losses.{name}: views[{view!r}] must be (policy, reference)")
        known[f"views[{view!r}][0]"] = sums[0]
        if sums[1] is not None:
            known[f"views[{view!r}][1]"] = sums[1]
    pairs = None
    for key, value in known.items():
        if not isinstance(value, Tensor):
            raise UserError(f"mmpo.losses.{name}: {key} must be a tensor [b], not {type(value).__name__}")
        if value.dim() != 1:
            hint = "sum over the tokens first" if value.dim() == 2 else "one number a pair"
            raise UserError(f"mmpo.losses.{name}: {key} must have the shape [b], it has {list(value.shape)}", hint=hint)
        if not value.is_floating_point() and not key.endswith(("_lengths", "_scores")):
            raise UserError(f"mmpo.losses.{name}: {key} must hold floating-point log-probs, not {value.dtype}")
        if any(key.startswith(f"views[{view!r}]") for view in others):
            continue
        pairs = len(value) if pairs is None else pairs
        if len(value) != pairs:
            raise UserError(f"mmpo.losses.{name}: {key} has {len(value)} pairs, policy_chosen has {pairs}")
    if not pairs:
        raise UserError(f"mmpo.losses.{name}: no pairs", hint="the mean of nothing is no loss")


def _docstring(entry: Registered, parameters: Mapping[str, Any], reads: set[str], options: list[str], more: str) -> str:
    own = inspect.cleandoc(entry.function.__doc__ or f"The objective {entry.name!r}.")
    if more:
        return f"{own}\n\nNeeds {more}, so that it cannot be computed from sums over tokens; called here it says so."
    lines = [own, "", "Args:", "    policy_chosen, policy_rejected: the policy's log-probs of the responses [b], nats."]
    if "reference" in reads:
        lines.append("    ref_chosen, ref_rejected: the reference model's [b], nats.")
    for key, field in parameters.items():
        default = "to be given" if key in entry.required else f"{field.default!r} by default"
        lines.append(f"    {key}: a parameter of the objective, {default}.")
    lines += [f"    {option}: {_OPTIONS[option]}." for option in options]
    lines.append("    reduction: mean over the pairs, sum of them, or none: each pair's term [b].")
    needs = ["policy_chosen, policy_rejected", *(", ".join(_NAMES[kind]) for kind in _NAMES if kind in reads)]
    needs += [_SCORES[score] for score in _scores(entry)]
    if views := _views(entry.name, {}):
        needs.append("the views " + ", ".join(view.name for view in views))
    raises = "UserError for a missing tensor, another shape than [b], an unknown or impossible parameter."
    return "\n".join([*lines, "", f"Raises: {raises}", f"Needs: {'; '.join(needs)}."])
