"""mmpo objectives: the list, a page, golden values; one line for whatever a file holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmpo.objectives import OBJECTIVES
from mmpo.objectives.describing import warning
from tests.cli.conftest import Invoke

SIDE = {"policy": [-1.0, -2.0], "reference": [-1.5, -2.0]}
OTHER = {"policy": [-3.0], "reference": [-2.0]}
Z = 0.1 * (0.5 + 1.0)
"""The logit of this pair at beta 0.1."""
LOSS = math.log1p(math.exp(-Z))
SLOPE = -0.1 / (1 + math.exp(Z))


def case(**changed: Any) -> dict[str, Any]:
    return {
        "id": "one",
        "name": "dpo",
        "parameters": {},
        "inputs": {"pairs": [{"chosen": SIDE, "rejected": OTHER}]},
        "expected": {
            "loss": LOSS,
            "losses": [LOSS],
            "gradient": {"pairs": [{"chosen": {"policy": [SLOPE, SLOPE]}, "rejected": {"policy": [-SLOPE]}}]},
            "rewards": {"chosen": [0.05], "rejected": [-0.1]},
            "margins": [0.15],
        },
        **changed,
    }


def write(folder: Path, *cases: Any, **more: Any) -> Path:
    file = folder / "golden.json"
    file.write_text(json.dumps({"schema_version": 2, "cases": list(cases), **more}))
    return file


def test_the_list_follows_the_specification(mmpo: Invoke) -> None:
    lines = mmpo("objectives").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert sorted(names) == sorted(OBJECTIVES)
    assert names.index("aot") < names.index("dpo") < names.index("odpo") < names.index("simpo") < names.index("tars")
    rows = [json.loads(line) for line in mmpo("objectives", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == names
    dpo = next(row for row in rows if row["name"] == "dpo")
    assert dpo["parameters"] == {"beta": {"default": 0.1, "range": "> 0"}} and dpo["reads"] == ["ref"] and dpo["sums"]
    assert not next(row for row in rows if row["name"] == "ld_dpo")["sums"]
    wanted = [line.split()[0] for line in mmpo("objectives", "--needs", "kl").stdout.splitlines()]
    assert "tdpo2" in wanted and "dpo" not in wanted
    assert mmpo("objectives", "--needs", "sc").stdout == mmpo("objectives", "--needs", "scores").stdout
    assert mmpo("objectives", "--needs", "colour").exit_code == 2


def test_a_page_says_what_an_objective_is(mmpo: Invoke) -> None:
    text = mmpo("objectives", "show", "cdpo").stdout
    assert "dpo for eps 0" in text and "[0, 0.5)" in text and "objective: {cdpo: {}}" in text
    assert "ipo is" in mmpo("objectives", "show", "ipo_sum").stdout.replace("ipo_sum is", "ipo is")
    shown = json.loads(mmpo("objectives", "show", "irpo", "--json").stdout)
    assert shown["objective"] == {"dpo": {}, "sft": {"weight": 1.0}}
    for wrong, words in (("dpoo", "did you mean 'dpo'"), ("apo", "apo_zero"), ("tdpo", "tdpo2")):
        result = mmpo("objectives", "show", wrong)
        assert result.exit_code == 2 and words in result.stderr


def test_a_beta_that_does_not_fit_is_said() -> None:
    assert "2 to 10" in (warning(OBJECTIVES["simpo"], {"beta": 0.1}) or "")
    assert warning(OBJECTIVES["simpo"], {}) is None and warning(OBJECTIVES["dpo"], {}) is None


def test_right_values_are_ok(mmpo: Invoke, here: Path) -> None:
    result = mmpo("objectives", "check", write(here, case()), "--strict")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"ok    {'one':<26}loss ")
    assert "1 cases, 1 ok, 0 failed; largest error of loss" in result.stdout
    found = json.loads(mmpo("objectives", "check", write(here, case()), "--json").stdout)
    assert found["ok"] == 1 and found["cases"][0]["gradient"] < 1e-12


def test_wrong_values_fail_and_what_is_logged_warns(mmpo: Invoke, here: Path) -> None:
    right = case()["expected"]
    mistakes: list[dict[str, Any]] = [
        {"loss": 1.0}, {"losses": [1.0]}, {"losses": [LOSS, LOSS]}, {"gradient": {"pairs": []}},
    ]  # fmt: skip
    for changed in mistakes:
        assert mmpo("objectives", "check", write(here, case(expected={**right, **changed}))).exit_code == 1, changed
    file = write(here, case(expected={**right, "margins": [0.2]}))
    result = mmpo("objectives", "check", file)
    assert result.exit_code == 0 and "margins" in result.stderr
    assert mmpo("objectives", "check", file, "--strict").exit_code == 1
    assert mmpo("objectives", "check", file, "--tolerance", "1").exit_code == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "nosuch"}, "unknown objective 'nosuch'"),
        ({"name": 3}, "name must be text"),
        ({"parameters": {"colour": 1}}, "no parameter 'colour'"),
        ({"parameters": []}, "parameters must be an object"),
        ({"name": "perturbed_dpo", "parameters": {"candidates": 10**9}}, "above 10000"),
        ({"inputs": {"pairs": {}}}, "pairs must be a list"),
        ({"inputs": {"pairs": [[]]}}, "must be an object"),
        ({"inputs": {"pairs": [{"chosen": SIDE, "rejected": {**OTHER, "policy": ["x"]}}]}}, "must be a number"),
        ({"inputs": {"pairs": [{"chosen": SIDE, "rejected": {**OTHER, "reference": []}}]}}, "has 0 numbers"),
        ({"inputs": {"pairs": [{"chosen": SIDE, "rejected": {**OTHER, "other": [1]}}]}}, "no field"),
        ({"inputs": {}}, "hold no pairs"),
        ({"inputs": {"colour": 1}}, "is not known"),
        ({"expected": {}}, "neither loss nor losses"),
        ({"expected": {"loss": "x"}}, "must be numbers"),
        ({"expected": {"loss": LOSS, "state_after": {"mean": 1}}}, "keeps no such state"),
        ({"expected": {"refused": "beta"}}, "must be refused"),
    ],
)
def test_a_mistake_fails_its_case_alone(mmpo: Invoke, here: Path, changed: dict[str, Any], words: str) -> None:
    result = mmpo("objectives", "check", write(here, case(**changed), case(id="two"), "text"))
    assert result.exit_code == 1 and "Traceback" not in result.output
    first, second, third, last = result.stdout.splitlines()
    assert first.startswith("FAIL") and words in first
    assert second.startswith("ok    two") and third.startswith("FAIL  #3") and "3 cases, 1 ok, 2 failed" in last


def test_what_must_be_refused_is_ok_where_it_is(mmpo: Invoke, here: Path) -> None:
    file = write(here, case(parameters={"beta": -1.0}, expected={"refused": "beta"}))
    assert mmpo("objectives", "check", file, "--strict").exit_code == 0


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema_version": 3}', '{"schema_version": true}', "[" * 100000, '{"schema_version": 2}'],
)
def test_files_that_are_none_end_with_2(mmpo: Invoke, here: Path, text: str) -> None:
    (here / "golden.json").write_text(text)
    result = mmpo("objectives", "check", "golden.json")
    assert result.exit_code == 2 and result.stderr.startswith("error: golden.json")
    assert mmpo("objectives", "check", "absent.json").exit_code == 2


def test_files_of_sums(mmpo: Invoke, here: Path) -> None:
    pair = {
        "policy_chosen": -3.0, "policy_rejected": -3.0, "ref_chosen": -3.5, "ref_rejected": -2.0,
        "len_chosen": 2, "len_rejected": 1,
    }  # fmt: skip
    one = {"name": "sigmoid", "params": {"beta": 0.1}, "per_pair": [LOSS], "mean": LOSS, "dloss_dW": [SLOPE]}
    other = {"name": "rdpo", "params": {"alpha": 0.0}, "per_pair": [LOSS], "dloss_dL": [-SLOPE], "dloss_dW": [None]}
    for rows, status in (([one, other], 0), ([{**one, "dloss_dW": [0.0]}], 1)):
        (here / "sums.json").write_text(json.dumps({"schema_version": 1, "pairs": [pair], "cases": rows}))
        assert mmpo("objectives", "check", "sums.json").exit_code == status
