"""Wrong values of a recipe's objective, its reference and the adapter's regularizers: one clear line each, with the
place, before any work starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.preflight import examine
from mmpo.recipes import dump, read
from tests.trainers.material import make_pairs, write_pairs


@pytest.fixture(scope="module")
def section(tiny_llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pairs = write_pairs(tmp_path_factory.mktemp("pairs"), 2)
    return {"model": str(tiny_llava_folder), "pairs": str(pairs)}


def refusal(section: dict[str, Any], folder: Path, said: dict[str, Any]) -> UserError:
    file = folder / "mine.yaml"
    file.write_text(dump({"train": {**section, **said}}))
    with pytest.raises(UserError) as caught:
        examine(read(str(file)), run=folder / "run", inputs={}, sections=("train",))
    return caught.value


SPAN = "must be a number, or {from: NUMBER, to: NUMBER, over: SHARE}"
SECOND: dict[str, Any] = {"objective": {"mrpo": {}}}
TYPO: dict[str, Any] = {"objective": {"typo": {"lam": 1.0}}}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"objective": {}}, "train.objective: must not be empty"),
    ({"objective": {"dpo": {"weight": 0}}}, "train.objective: every term has the weight 0"),
    ({"objective": {"dpo": {"beta": {"from": 1}}}}, f"train.objective.dpo.beta: {SPAN}"),
    ({"objective": {"dpo": {"beta": {"from": 1, "to": -2}}}}, "dpo.beta: must be greater than 0 (it is -2.0)"),
    ({"objective": {"perturbed_dpo": {"candidates": 10**9}}}, "perturbed_dpo.candidates: must be less than or equal"),
    ({"objective": {"lpoi": {"levels": 10**9}}}, "lpoi.levels: must be less than or equal to 100"),
    ({"objective": {"gamma_po": {"steps": 10**12}}}, "gamma_po.steps: must be less than or equal to 10000"),
    ({"objective": {"dpo_2d": {"aspects": []}}}, "dpo_2d.aspects: must be equal or must not be empty (it is [])"),
    ({"objective": {"dpo": {"ratio": {1: {}}}}}, "dpo.ratio: must be a ratio by name, with its parameters (it is {1"),
    ({"objective": {"dpo": {"ratio": {"ld": {"alpha": {"from": 0, "to": 2}}}}}}, "ratio.ld.alpha: must be less than"),
    ({"objective": {"dpo": {"times": []}}}, "train.objective.dpo.times: must be a weight of pairs by name"),
    ({"objective": {"odpo": {}}, "scores": "judge"}, "train.scores: must be settings by name, such as {chosen: …}"),
    ({**TYPO, "samples_from": {"data": 5}}, "train.samples_from.data: must be a path (it is 5)"),
    ({**TYPO, "samples_from": {"data": "/dev/null"}}, "train.samples_from.data: /dev/null: holds no samples"),
    ({"reference": "bas"}, "train.reference: must be settings by name, such as {adapter: …} (it is 'bas')"),
    ({"reference": {}}, "train.reference: needs one of adapter, model, moving"),
    ({"reference": {"model": "m", "moving": {}}}, "needs one of adapter, model, moving, and has model and moving"),
    ({**SECOND, "references": {"second": None}}, "references.second: must be settings by name, such as {adapter: …}"),
    ({"regularizers": ["sam"]}, "train.regularizers: must be settings by name, such as {sam: …} (it is ['sam'])"),
    ({"regularizers": {"pego": {"targets": []}}}, "train.regularizers.pego.targets: must not be empty"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_value_is_told_with_its_place(
    said: dict[str, Any], message: str, section: dict[str, Any], tmp_path: Path
) -> None:
    error = refusal(section, tmp_path, said)
    assert message in error.message and "mine.yaml:" in error.message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("apo", "say apo_zero or apo_down"),
        ("sigmoid", "here it is dpo: {}"),
        ("ipo_sum", "here it is ipo: {average: false}"),
        ("irpo", "here it is dpo: {}, sft: {weight: 1.0}"),
        ("dpoo", "did you mean 'dpo'?"),
    ],
)
def test_another_name_of_an_objective_is_told_as_ours(
    name: str, hint: str, section: dict[str, Any], tmp_path: Path
) -> None:
    error = refusal(section, tmp_path, {"objective": {name: {}}})
    assert f"train.objective.{name}: unknown objective {name!r}" in error.message and error.hint == hint


PEGO: dict[str, Any] = {"regularizers": {"pego": {}}}
ODPO: dict[str, Any] = {"objective": {"odpo": {}}}
VISION = r".*vision_tower.*\.q_proj"

UNFIT: list[tuple[dict[str, Any], str, str]] = [
    ({**ODPO, "scores": {"chosen": "nosuch"}}, "scores.chosen: no pair has a score 'nosuch'", "they have judge, low"),
    (ODPO, "train.objective: the objective reads the scores chosen, rejected of pairs, and they have judge, low", "na"),
    ({**ODPO, "scores": {"chosen": "low", "rejected": "judge"}}, "train.scores: pair pair-0: odpo needs", "drop such"),
    ({"objective": {"dpo": {"times": {"sem_dpo": {"alpha": 1}}}}}, "reads the scores similarity of pairs, and", "name"),
    ({"lora": {"targets": r".*\.q_prj"}}, r"lora.targets: '.*\\.q_prj' matches no linear layer", "names look like"),
    ({"lora": {"targets": r".*language_model.*"}}, "which is no linear layer", "let it end with"),
    ({"lora": {"targets": ".*lm_head"}}, "train.lora.targets: the language-model head can't be adapted", "leave lm_"),
    ({"regularizers": {"pego": {"targets": ["qq", "q_proj"]}}}, "pego.targets: no adapted layer is called qq",
     "targets: those of down_proj, gate_proj, k_proj"),
    ({**PEGO, "lora": {"targets": VISION}}, "pego.targets: no adapted layer is called v_proj", "targets: those of q_"),
]  # fmt: skip


@pytest.fixture(scope="module")
def scored(section: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("scored")
    with PairWriter(folder / "pairs", recipe={"builder": "test"}) as writer:
        writer.add(*[replace(pair, scores={"judge": 3.0, "low": 1.0}) for pair in make_pairs(2)])
    return {**section, "pairs": str(folder / "pairs")}


@pytest.mark.parametrize(("said", "message", "hint"), UNFIT, ids=[message[:40] for _, message, _ in UNFIT])
def test_names_that_the_pairs_or_the_model_do_not_have_are_told_before_the_run(
    said: dict[str, Any], message: str, hint: str, scored: dict[str, Any], tmp_path: Path
) -> None:
    error = refusal(scored, tmp_path, said)
    assert message in error.message and "mine.yaml:" in error.message
    assert error.hint is not None and error.hint.startswith(hint)


@pytest.mark.parametrize(
    "said",
    [
        {**ODPO, "scores": {"chosen": "judge", "rejected": "low"}},
        {"lora": {"targets": VISION}, "regularizers": {"pego": {"targets": ["q_proj"]}}},
        {**PEGO, "lora": {"targets": ["v_proj", "q_proj"]}},
    ],
)
def test_names_that_are_there_pass(said: dict[str, Any], scored: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(dump({"train": {**scored, **said}}))
    examine(read(str(file)), run=tmp_path / "run", inputs={}, sections=("train",))


def test_scores_of_pairs_that_the_run_makes_first_are_left_to_it(
    scored: dict[str, Any], tmp_path: Path, photos: Path
) -> None:
    file = tmp_path / "mine.yaml"
    train = {"objective": {"odpo": {}}, "scores": {"chosen": "nosuch"}, "max_steps": 1}
    build = {"annotations": str(photos / "annotations.jsonl"), "images": str(photos)}
    file.write_text(dump({"model": scored["model"], "build": build, "train": train}))
    examine(read(str(file)), run=tmp_path / "run", sections=("build", "train"))
