"""Scores of pairs from the data to the losses that read them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.objectives import build_objective
from mmpo.objectives.stand_in import scores_read
from mmpo.trainers.collate import EncodedPair, EncodedPairs
from mmpo.trainers.fitting import objective_problems
from mmpo.trainers.score_settings import ScoreSettings
from mmpo.trainers.scores import with_scores
from mmpo.trainers.train import train
from mmpo.types import PairLogps, ResponseLogps
from tests.trainers.material import make_pairs, settings_for


def pairs(*scores: dict[str, float] | None) -> EncodedPairs:
    ids = torch.tensor([1, 2, 3], dtype=torch.int32)
    return EncodedPairs(
        [EncodedPair(f"p{k}", ids, ids, ids[:2], None, None, (), scores=own) for k, own in enumerate(scores)]
    )


def named(objective: dict[str, Any], data: EncodedPairs, **settings: str) -> list[dict[str, float] | None]:
    given = ScoreSettings(**settings) if settings else None
    (found,) = with_scores(given, build_objective(objective), data)
    return [None if row.scores is None else dict(row.scores) for row in found.rows]


def test_which_scores_a_loss_reads_and_needs() -> None:
    assert scores_read(build_objective("odpo")) == {"chosen": True, "rejected": True}
    assert scores_read(build_objective("uft")) == {"chosen": False, "rejected": False}
    assert scores_read(build_objective({"dpo": {}, "sem_dpo": {"alpha": 1.0}})) == {"similarity": True}
    assert scores_read(build_objective("dpo")) == {}


def test_scores_go_by_their_usual_names_or_by_those_given() -> None:
    data = pairs({"chosen_reward": 3.0, "rejected_reward": 1.0, "judge": 9.0}, {"chosen_reward": 2.0,
                 "rejected_reward": 0.5, "judge": 8.0})  # fmt: skip
    assert named({"odpo": {}}, data) == [{"chosen": 3.0, "rejected": 1.0}, {"chosen": 2.0, "rejected": 0.5}]
    assert named({"odpo": {}}, data, chosen="judge") == [
        {"chosen": 9.0, "rejected": 1.0}, {"chosen": 8.0, "rejected": 0.5},
    ]  # fmt: skip
    assert named({"dpo": {}}, data) == [None, None], "what nothing reads is not kept"
    both = pairs({"chosen": 1.0, "chosen_reward": 7.0, "rejected": 0.5})
    assert named({"odpo": {}}, both) == [{"chosen": 1.0, "rejected": 0.5}]


def test_a_weight_that_was_selected_by_multiplies_the_loss() -> None:
    objective = {"dpo": {"times": "given"}}
    assert scores_read(build_objective(objective)) == {"weight": True}
    assert named(objective, pairs({"madpo_weight": 1.5}), weight="madpo_weight") == [{"weight": 1.5}]
    one = torch.ones(2, 1)
    side = ResponseLogps(-one, -one, one.bool())
    weighed = PairLogps(side, side, scores={"weight": torch.tensor([1.5, 0.0])})
    (_, term), *_ = build_objective(objective).terms(weighed).values()
    assert term.values.tolist() == pytest.approx([1.5 * math.log(2), 0.0])
    with pytest.raises(UserError, match="scores weight of pairs, and they have chosen"):
        named(objective, pairs({"chosen": 1.0}))
    with pytest.raises(UserError, match="pair p0: given"):
        named(objective, pairs({"weight": -1.0}))


def test_pairs_without_a_score_that_need_none_are_nan() -> None:
    first, second = named({"uft": {}}, pairs({"chosen": 0.5}, None))
    assert first is not None and second is not None
    assert first["chosen"] == 0.5 and all(math.isnan(v) for v in (first["rejected"], second["chosen"]))


@pytest.mark.parametrize(
    ("objective", "scores", "settings", "message"),
    [
        ("odpo", [{"a": 1.0, "b": 0.0}], {}, "reads the scores chosen, rejected of pairs, and they have a, b"),
        ("uft", [None], {}, "and they have no scores"),
        ("odpo", [{"chosen": 1.0}], {}, "the score 'rejected' of every pair, and they have chosen"),
        ("odpo", [{"chosen": 1.0, "rejected": 0.0}, {"chosen": 2.0, "x": 1.0}], {},
         "'rejected' of every pair, and 1 of 2 have none; the first is p1, with chosen, x"),
        ("odpo", [{"chosen": 1.0, "rejected": 0.0}], {"chosen": "judge"}, "scores.chosen: no pair has a score 'judge'"),
        ("mappo", [{"chosen": 1.0, "rejected": 0.0}, {"chosen": 2.0, "rejected": 0.0}], {}, "pair p1: mappo reads"),
        ("odpo", [{"chosen": 1.0, "rejected": 0.0}, {"chosen": 0.0, "rejected": 0.0}], {}, "pair p1: odpo needs"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_any_work(
    objective: str, scores: list[dict[str, float] | None], settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        named({objective: {}}, pairs(*scores), **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("objective", "scores", "message"),
    [
        ("dpo", {"chosen": "judge"}, "scores have no effect on this objective"),
        ("odpo", {"similarity": "clip"}, "scores.similarity has no effect on this objective, which reads chosen, rej"),
        ("odpo", {"chosen": "judge", "similarity": None}, None),
    ],
)
def test_a_setting_without_effect_is_a_mistake(objective: str, scores: dict[str, str], message: str | None) -> None:
    settings = settings_for(Path("model"), Path("pairs"), objective={objective: {}}, scores=scores)
    found = [problem for problem in objective_problems(settings, build_objective(objective)) if problem[0] == "scores"]
    assert bool(found) == (message is not None)
    if message is not None:
        assert found[0][1].startswith(message)


def test_scores_reach_the_loss_and_schedules_move(tiny_llava_folder: Path, tmp_path: Path) -> None:
    """At policy = reference odpo is log(1 + e^(alpha m)), and `weight` and `alpha` move from step to step."""
    with PairWriter(tmp_path / "pairs", recipe={"builder": "test"}) as writer:
        for number, pair in enumerate(make_pairs(8)):
            writer.add(replace(pair, scores={"judge": 1.0 + number / 8, "rejected": 0.5}))
    schedules = {"alpha": {"from": 2.0, "to": 1.0}, "weight": {"from": 1.0, "to": 0.0, "over": 0.5}}
    settings = settings_for(
        tiny_llava_folder, tmp_path / "pairs", objective={"odpo": {"offset": "linear", **schedules}},
        scores={"chosen": "judge"}, max_steps=4, batch_size=8, logging_steps=1, eval_pairs=tmp_path / "pairs",
        learning_rate=1e-9, save_steps=None,
    )  # fmt: skip
    result = train(settings, tmp_path / "run")
    assert result.first_eval is not None and result.last_eval is not None
    assert result.first_eval["eval_loss"] == pytest.approx(sum(of_each(2.0)) / 8, rel=1e-4)
    assert result.last_eval["eval_loss"] == 0.0, "the weight has come down to 0"
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    rows = [row for row in rows if "loss" in row]
    for row, alpha, weight in zip(rows, (2.0, 1.75, 1.5, 1.25), (1.0, 0.5, 0.0, 0.0), strict=True):
        assert (row["schedule/odpo.alpha"], row["schedule/odpo.weight"]) == (alpha, weight)
        assert row["loss"] == pytest.approx(weight * sum(of_each(alpha)) / 8, rel=1e-4)  # each step is a pass


def of_each(alpha: float) -> list[float]:
    return [math.log1p(math.exp(alpha * (0.5 + number / 8))) for number in range(8)]
