"""Golden values of eight losses on four fixed pairs, from a float64 computation independent of any framework.

`W`, `L` are summed policy log-probs of chosen and rejected; derivatives are per pair, None at a kink.
"""

from __future__ import annotations

from typing import Any

PAIRS: dict[str, Any] = {
    "policy_chosen": [-42.5, -120.75, -15.2, -310.4],
    "policy_rejected": [-58.25, -98.5, -17.9, -402.6],
    "ref_chosen": [-45.0, -118.25, -15.2, -350.9],
    "ref_rejected": [-55.5, -101.0, -17.9, -333.3],
    "len_chosen": [21, 64, 8, 150],
    "len_rejected": [30, 40, 9, 210],
}
"""Four pairs: each list has an entry a pair."""


def gaps(one: str, other: str) -> list[float]:
    """One column less another."""
    return [a - b for a, b in zip(PAIRS[one], PAIRS[other], strict=True)]


CASES: list[dict[str, Any]] = [
    {
        "name": "dpo",
        "params": {"beta": 0.1},
        "per_pair": [0.464712, 0.974077, 0.693147, 1.7e-05],
        "mean": 0.532988,
        "dloss_dW": [-0.037168, -0.062246, -0.05, -2e-06],
        "dloss_dL": [0.037168, 0.062246, 0.05, 2e-06],
    },
    {
        "name": "cdpo",
        "params": {"beta": 0.1, "eps": 0.1},
        "per_pair": [0.517212, 0.924077, 0.693147, 1.098017],
        "mean": 0.808113,
        "dloss_dW": [-0.027168, -0.052246, -0.04, 0.009998],
        "dloss_dL": [0.027168, 0.052246, 0.04, -0.009998],
    },
    {
        "name": "ipo",
        "params": {"tau": 0.1},
        "per_pair": [22.937258, 26.02594, 25.0, 19.36],
        "mean": 23.330799,
        "dloss_dW": [-0.456122, -0.159424, -1.25, -0.058667],
        "dloss_dL": [0.319286, 0.255078, 1.111111, 0.041905],
    },
    {
        "name": "hinge",
        "params": {"beta": 0.1},
        "per_pair": [0.475, 1.5, 1.0, 0.0],
        "mean": 0.74375,
        "dloss_dW": [-0.1, -0.1, -0.1, 0.0],
        "dloss_dL": [0.1, 0.1, 0.1, 0.0],
    },
    {
        "name": "simpo",
        "params": {"beta": 2.0, "gamma": 1.0},
        "per_pair": [1.435949, 0.620235, 1.186486, 1.544453],
        "mean": 1.196781,
        "dloss_dW": [-0.072582, -0.014443, -0.173677, -0.010488],
        "dloss_dL": [0.050807, 0.023109, 0.15438, 0.007491],
    },
    {
        "name": "orpo",
        "params": {"lam": 0.1},
        "per_pair": [2.098001, 1.928687, 1.964262, 2.147847],
        "mean": 2.0347,
        "dloss_dW": [-0.050493, -0.016256, -0.131968, -0.007082],
        "dloss_dL": [0.002038, 0.000937, 0.006103, 0.000304],
    },
    {
        "name": "dpop",
        "params": {"beta": 0.1, "lam": 5.0},
        "per_pair": [0.464712, 1.910224, 0.693147, 1.7e-05],
        "mean": 0.767025,
        "dloss_dW": [-0.037168, -0.511172, None, -2e-06],
        "dloss_dL": [0.037168, 0.085195, 0.05, 2e-06],
    },
    {
        "name": "nca_pair",
        "params": {"beta": 0.1},
        "per_pair": [1.271444, 1.526879, 1.386294, 2.051397],
        "mean": 1.559004,
        "dloss_dW": [-0.015674, -0.034326, -0.025, 0.047431],
        "dloss_dL": [0.021584, 0.028109, 0.025, 4.9e-05],
    },
]
