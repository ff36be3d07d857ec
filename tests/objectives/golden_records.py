"""Cases of golden_objectives.json as records in float64, and the names of those that are checked here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.objectives import OBJECTIVES, build_objective
from mmpo.types import PairLogps, ResponseLogps

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden_objectives.json"
PLAIN = ("policy", "reference", "weights", "kl")
PARTS = ("turns", "steps", "segments")
DIFFERENTIABLE = ("policy", "kl", "tail_kl", "eos_policy", "label_logit", "label_logit_corrupted")


def golden(section: str = "cases") -> list[dict[str, Any]]:
    """The file's cases or statistics; skips where the data folder is not there."""
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN.name} is not here")
    found: list[dict[str, Any]] = json.loads(GOLDEN.read_text())[section]
    return found


def record(responses: list[dict[str, Any]], pad: int = 0) -> ResponseLogps:
    """Responses as the file writes them, padded to the longest and by `pad` more places."""
    lengths = [len(one["policy"]) for one in responses]
    width = max(lengths) + pad
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    fields: dict[str, torch.Tensor] = {}
    for name in sorted({key for one in responses for key in one}):
        rows = [one.get(name) for one in responses]
        if name == "positions":
            fields[name] = torch.zeros(len(rows), width, dtype=torch.bool)
            for number, row in enumerate(rows):
                fields[name][number, row or []] = True
        elif name in PARTS:
            fields[name] = torch.tensor([[*row, *([-1] * (width - len(row)))] for row in rows])
        elif name.endswith("_scores"):
            parts = [torch.tensor(row, dtype=torch.float64) for row in rows]
            shape = (len(rows), max(map(len, parts)), *parts[0].shape[1:])
            fields[name] = torch.full(shape, float("nan"), dtype=torch.float64)
            for number, part in enumerate(parts):
                fields[name][number, : len(part)] = part
        else:
            fields[name] = torch.zeros(len(rows), width, dtype=torch.float64)
            for number, row in enumerate(rows):
                fields[name][number, : len(row)] = torch.tensor(row, dtype=torch.float64)
    for name in DIFFERENTIABLE:
        if name in fields:
            fields[name].requires_grad_()
    plain = {name: fields.pop(name) for name in PLAIN if name in fields}
    return ResponseLogps(
        plain["policy"], plain.get("reference"), mask, plain.get("weights"), kl=plain.get("kl"), more=fields
    )


def pairs_of(case: dict[str, Any], pad: int = 0) -> PairLogps:
    """The case's pairs with its views, by the names that the loss gives them."""
    given = case["inputs"]["pairs"]
    specs = {view.name: view for view in OBJECTIVES[case["name"]].views_of(case["parameters"])}
    names = list(given[0].get("views", {}))
    return PairLogps(
        record([pair["chosen"] for pair in given], pad),
        record([pair["rejected"] for pair in given], pad),
        {specs[name]: record([pair["views"][name] for pair in given], pad) for name in names},
    )


def check(case: dict[str, Any], pad: int = 0) -> None:
    """Loss, losses, gradients and logged rewards of a case, to 1e-6."""
    pairs, expected = pairs_of(case, pad), case["expected"]
    objective = build_objective({case["name"]: case["parameters"]})
    ((_, term),) = objective.terms(pairs).values()
    assert term.values.tolist() == pytest.approx(expected["losses"], rel=1e-6, abs=1e-6)
    loss = objective.loss(pairs)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-6, abs=1e-6)
    loss.backward()
    places = [("chosen", pairs.chosen), ("rejected", pairs.rejected), *((v.name, r) for v, r in pairs.views.items())]
    for place, response in places:
        for field in DIFFERENTIABLE:
            tensor = getattr(response, field) if field in PLAIN else response.more.get(field)
            if tensor is None:
                continue
            for number, pair in enumerate(expected["gradient"]["pairs"]):
                own = pair.get(place) or pair.get("views", {}).get(place) or {}
                found = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                tokens = response.mask[number]
                wanted = own.get(field) or [0.0] * int(tokens.sum())
                message = (place, field, number)
                assert found[number][tokens].tolist() == pytest.approx(wanted, rel=1e-6, abs=1e-6), message
    metrics = objective.metrics(pairs)
    for side in ("chosen", "rejected"):
        if "rewards" in expected:
            found = metrics[f"rewards/{side}"].values
            assert found.tolist() == pytest.approx(expected["rewards"][side], rel=1e-6, abs=1e-6)
        else:
            assert f"rewards/{side}" not in metrics
