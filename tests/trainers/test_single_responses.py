"""Training on rows that nobody paired: a response with a score, or a response alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.data.responses import ResponseGroup, ScoredResponse
from mmpo.data.shards import ResponseWriter
from mmpo.errors import UserError
from mmpo.files.images import encode_image
from mmpo.models.families.prompts import encode_response
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.objectives import build_objective
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.group_settings import GroupSettings
from mmpo.trainers.groups import GroupCollator, GroupNeeds, Groups, check_group_scores, encode_groups
from mmpo.trainers.images import ImageStore
from mmpo.trainers.train import train
from tests.tiny import add_lora, tiny_image, tiny_llava
from tests.trainers.material import make_pairs, resumed_alike, settings_for, write_pairs
from tests.trainers.test_auxiliary import the_same_however_cut
from tests.trainers.test_groups import TEXTS, make_groups
from tests.trainers.test_preference import first_step

UFT = {"uft": {"beta": 0.2, "rows": "responses"}}
KTO = {"kto": {"beta": 0.2, "rows": "responses", "undesirable": 0.5}}


def row(number: int, *scores: float | None) -> ResponseGroup:
    answers = [ScoredResponse(TEXTS[(number + k) % 4], score) for k, score in enumerate(scores)]
    return replace(
        make_groups(1)[0], id=f"row-{number}", responses=answers, images=[encode_image(tiny_image(70 + number))]
    )


def write(folder: Path, *rows: ResponseGroup) -> Path:
    with ResponseWriter(folder) as writer:
        writer.add(*rows)
    return folder


SCORED = (row(0, 1.0), row(1, 0.0), row(2, 0.9, 0.2, 0.4), row(3, 0.7))
MIXED = (*SCORED, row(4, None), row(5, 0.5, None), row(6, None, None))


def encoded(folder: Path, objective: dict[str, Any], **values: Any) -> Groups:
    vlm, needs = tiny_llava(), GroupNeeds.of(build_objective(objective), 42)
    return encode_groups(vlm, GroupSettings(data=folder, **values), ImageStore(vlm, 2**24), needs=needs)


@pytest.mark.parametrize(
    ("objective", "kept", "dropped"),
    [
        (UFT, [0, 1, 2, 3, 4, 6], {"unscored": 1}),
        (KTO, [0, 1, 2, 3], {"unscored": 3}),
        ({"nca": {}}, [2], {"one_response": 4, "unscored": 2}),
        ({**UFT, "nca": {}}, [2], {"one_response": 4, "unscored": 2}),
    ],
)  # fmt: skip
def test_which_rows_are_learnt(
    tmp_path: Path, objective: dict[str, Any], kept: list[int], dropped: dict[str, int]
) -> None:
    groups = encoded(write(tmp_path / "rows", *MIXED), objective)
    assert [one.id for one in groups.rows] == [f"row-{number}" for number in kept]
    assert dict(groups.dropped) == dropped
    assert len(groups.rows) + sum(groups.dropped.values()) == len(MIXED)


def test_mismatched_rows_are_answers_of_groups_about_other_images(tmp_path: Path) -> None:
    groups = encoded(write(tmp_path / "rows", *SCORED), KTO)
    vlm = add_lora(tiny_llava(), spread=0.1)
    pairs = encode_pairs(vlm, make_pairs(2), groups.store)
    rows = [(pairs.rows[0], groups.rows[:1]), (pairs.rows[1], groups.rows[1:3])]
    batch = GroupCollator(PairCollator(groups.store), groups.store, groups.others)(rows)["batch"]
    with torch.no_grad():
        found = PairScorer(vlm)(batch).groups
    assert found is not None and found.mismatched is not None and groups.others is not None
    assert found.group.tolist() == [0, 1, 2, 2, 2] and len(found.scores) == 5 == len(found.responses.mask)
    assert len(found.mismatched.mask) == 3
    for number, group in enumerate(SCORED[:3]):
        drawn = groups.others(groups.rows[number])
        theirs = [one for other in groups.rows if other.id != group.id for one in other.responses]
        assert any(torch.equal(drawn, other) for other in theirs)
        (text,) = (text for text in TEXTS if encode_response(vlm, text) == drawn.tolist())
        alone = score_responses(vlm, group.prompt, [tiny_image(70 + number)], [text])[0]
        assert found.mismatched.policy_sum[number].item() == pytest.approx(alone, abs=2e-3)
    one_image = [replace(one, images=SCORED[0].images) for one in SCORED]
    with pytest.raises(UserError, match="all 4 groups show one image"):
        encoded(write(tmp_path / "same", *one_image), KTO)


@pytest.mark.parametrize("name", [pytest.param("uft", marks=pytest.mark.slow), "kto"])
def test_the_loss_is_the_mean_over_the_responses_of_a_step_however_it_is_cut(tmp_path: Path, name: str) -> None:
    objective = {"dpo": {"beta": 0.2}, name: {**{**UFT, **KTO}[name], "weight": 0.5}}
    folder = write(tmp_path / "rows", *(MIXED if name == "uft" else SCORED))

    def step(where: str, batch: int, accumulation: int) -> Any:
        return first_step(
            tmp_path / where, objective=objective, groups=lambda vlm: encoded(folder, objective),
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        )  # fmt: skip

    the_same_however_cut(step, name)


@pytest.mark.parametrize(
    ("objective", "rows", "at_first"),
    [pytest.param(UFT, MIXED, 0.25, marks=pytest.mark.slow), (KTO, SCORED, 0.375)],
)
def test_a_run_on_rows_alone_resumes_to_the_same_weights(
    tiny_llava_folder: Path, tmp_path: Path, objective: dict[str, Any], rows: tuple[ResponseGroup, ...], at_first: float
) -> None:
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 8), objective=objective, batch_size=2, accumulation=2,
        max_steps=4, save_steps=2, logging_steps=1, keep_checkpoints=4,
        groups={"data": write(tmp_path / "rows", *rows)},
    )  # fmt: skip
    whole = train(settings, tmp_path / "run")
    assert whole.first_eval is not None
    assert whole.first_eval["eval_loss"] == pytest.approx(at_first, abs=1e-5), "pairs are groups scored 1 and 0"
    resumed = resumed_alike(settings, tmp_path / "run")
    assert resumed.last_eval is not None and whole.last_eval is not None
    assert resumed.last_eval["eval_loss"] == whole.last_eval["eval_loss"]


@pytest.mark.parametrize(
    ("objective", "scores", "message"),
    [
        (UFT, [0.5, 3.0], "group b: uft reads scores of responses from 0 to 1 (one is 3)"),
        (KTO, [0.5, math.nan], "group b: kto reads a score of every response"),
        ({"nca": {}}, [0.5, math.nan], "group b: nca reads a score of every response of a group"),
    ],
)
def test_scores_are_looked_at_before_the_run(objective: dict[str, Any], scores: list[float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_group_scores(build_objective(objective), [("a", [0.5, 0.1]), ("b", scores)])
    assert message in str(caught.value)
