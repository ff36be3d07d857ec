"""Golden values, by the checker of `mmpo objectives check`: those of the published file, and a few by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmpo.cli.objective_checks import golden_file_of, token_kernels
from mmpo.objectives.checking import Checked, check


def checked(file: Path) -> list[Checked]:
    golden = golden_file_of(file)
    return list(check(golden, golden.tolerance, token_kernels()))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


PAIR = {
    "chosen": {"policy": [-1.0, -2.0], "reference": [-1.5, -2.0]},
    "rejected": {"policy": [-3.0], "reference": [-2.0]},
}
"""Log-ratios 0.5 and -1."""


def gradient(chosen: float, rejected: float) -> dict[str, Any]:
    """Of one pair, the same at every token of a response."""
    return {"pairs": [{"chosen": {"policy": [chosen, chosen]}, "rejected": {"policy": [rejected]}}]}


DPO = 0.1 * sigmoid(-0.15)
WANTED = sigmoid(2.0)
BY_HAND: list[dict[str, Any]] = [
    {
        "name": "dpo",
        "parameters": {"beta": 0.1},
        "inputs": {"pairs": [PAIR]},
        "expected": {
            "loss": softplus(-0.15),
            "losses": [softplus(-0.15)],
            "gradient": gradient(-DPO, DPO),
            "rewards": {"chosen": [0.05], "rejected": [-0.1]},
            "margins": [0.15],
        },
    },
    {
        "name": "dpo",
        "plus": {"sft": {"weight": 2.0}},
        "inputs": {"pairs": [PAIR]},
        "expected": {"loss": softplus(-0.15) + 2 * 1.5, "gradient": gradient(-DPO - 2 / 2, DPO)},
    },
    {  # a mean of two log-ratios of 0.5 before, and these two
        "name": "bco_pair",
        "parameters": {"beta": 0.2, "delta": "running"},
        "inputs": {"pairs": [PAIR], "state": {"log_ratio_mean": 0.5, "log_ratio_count": 2}},
        "expected": {
            "loss": softplus(0.2 * (0.125 - 0.5)) + softplus(0.2 * (-1.0 - 0.125)),
            "gradient": gradient(-0.2 * sigmoid(-0.075), 0.2 * sigmoid(-0.225)),
            "state_after": {"log_ratio_mean": 0.125, "log_ratio_count": 4},
            "details": {"delta": 0.025},
        },
    },
    {
        "name": "infonca",
        "parameters": {"beta": 0.4, "temperature": 0.5},
        "inputs": {
            "groups": [
                {
                    "responses": [
                        {"policy": [-1.0], "reference": [-1.5], "score": 1.0},
                        {"policy": [-2.0], "reference": [-2.0], "score": 0.0},
                    ]
                }
            ]
        },
        "expected": {
            "loss": WANTED * softplus(-0.2) + (1 - WANTED) * softplus(0.2),
            "gradient": {
                "groups": [
                    {
                        "responses": [
                            {"policy": [0.4 * (sigmoid(0.2) - WANTED)]},
                            {"policy": [0.4 * (WANTED - sigmoid(0.2))]},
                        ]
                    }
                ]
            },
            "rewards": {"responses": [[0.2, 0.0]]},
        },
    },
    {"name": "dpo", "parameters": {"beta": -1.0}, "inputs": {"pairs": [PAIR]}, "expected": {"refused": "beta"}},
]
STATISTICS: list[dict[str, Any]] = [
    {  # probabilities 1/4, 1/4, 1/2
        "name": "token_entropy",
        "inputs": {"policy_logits": [[0.0, 0.0, math.log(2)]]},
        "expected": [1.5 * math.log(2)],
    },
    {  # 1/2, 1/2 and 3/4, 1/4
        "name": "token_kl",
        "inputs": {"policy_logits": [[0.0, 0.0]], "reference_logits": [[math.log(3), 0.0]]},
        "expected": [0.75 * math.log(1.5) + 0.25 * math.log(0.5)],
    },
]


def test_values_by_hand(tmp_path: Path) -> None:
    numbered = [{"id": f"{case['name']} {number}", "parameters": {}, **case} for number, case in enumerate(BY_HAND)]
    statistics = [{"id": one["name"], "parameters": {}, **one} for one in STATISTICS]
    file = tmp_path / "golden.json"
    file.write_text(json.dumps({"schema_version": 2, "cases": numbered, "statistics": statistics}))
    done = checked(file)
    assert len(done) == len(BY_HAND) + len(STATISTICS)
    assert not [one for one in done if not one.ok(1e-12, strict=True)]


def test_published_values(published_data: Path) -> None:
    file = published_data.parent / "golden_objectives.json"
    if not file.is_file():
        pytest.skip("the golden values of the objectives are not beside the published files")
    done = checked(file)
    assert len(done) > 90
    assert not [one for one in done if not one.ok(1e-6, strict=True)]
