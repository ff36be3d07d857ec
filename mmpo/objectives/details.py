"""Intermediate values of losses by the names that golden files give them: they help to find an error.

What a step rule found is there as it is; the rest is read off the loss's own values, so that nothing is computed by a
second formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmpo.objectives.registry import OBJECTIVES
from mmpo.types import PairLogps

Parameters = Mapping[str, Any]


def details_of(name: str, pairs: PairLogps, parameters: Parameters, values: Tensor) -> dict[str, Any]:
    """Details of the objective `name` on these pairs, of which its term has the `values`."""
    found = dict(pairs.step.found.get(name, {})) if pairs.step is not None else {}
    own = _DETAILS.get(name)
    with torch.no_grad():
        return {**found, **(own(pairs, parameters, values) if own is not None else {})}


def _gaps(pairs: PairLogps, parameters: Parameters, values: Tensor) -> dict[str, Any]:
    """The gaps whose logistic loss the values are."""
    return {} if parameters.get("eps") else {"sorted_gaps": -values.expm1().log() / parameters["beta"]}


def _weights(pairs: PairLogps, parameters: Parameters, values: Tensor) -> dict[str, Any]:
    """The factor of each pair's logistic loss."""
    plain = OBJECTIVES["dpo"](pairs, {"beta": parameters["beta"]}).values
    return {"weights": values / plain}


def _delta(pairs: PairLogps, parameters: Parameters, values: Tensor) -> dict[str, Any]:
    delta = parameters["delta"]
    if isinstance(delta, str) and pairs.step is not None:
        found = next(one for one in pairs.step.found.values() if "log_ratio_mean" in one)
        delta = parameters["beta"] * found["log_ratio_mean"]
    return {"delta": delta}


def _share(pairs: PairLogps, parameters: Parameters, values: Tensor) -> dict[str, Any]:
    lowest, highest = parameters.get("lam_min", 1.0), parameters.get("lam_max", 1.0)
    done = {"increase": pairs.progress, "decrease": 1 - pairs.progress}.get(parameters.get("schedule", "fixed"))
    return {"lam": parameters["lam"] if done is None else lowest + (highest - lowest) * done}


_DETAILS: Mapping[str, Callable[[PairLogps, Parameters, Tensor], dict[str, Any]]] = {
    "aot": _gaps,
    "madpo": _weights,
    "wpo": _weights,
    "bco_pair": _delta,
    "mpo": _delta,
    "dpo_shift": _share,
    "kto": lambda pairs, parameters, values: {} if isinstance(parameters["z0"], str) else {"z0": parameters["z0"]},
}
