"""Groups of scored responses in training: drawn whole, scored by both models, the mean over a step's groups."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mmpo.data.image_digests import FILE
from mmpo.data.responses import ResponseGroup, ScoredResponse
from mmpo.data.shards import PairWriter, ResponseWriter
from mmpo.errors import UserError
from mmpo.files.images import encode_image
from mmpo.models.families.loading import VLM
from mmpo.models.scoring.pairs import blank_logps
from mmpo.models.scoring.score import PairScorer
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.objectives import build_objective
from mmpo.objectives.groups import with_own_groups
from mmpo.trainers.auxiliary import draw
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.group_settings import GroupSettings
from mmpo.trainers.groups import GroupCollator, Groups, encode_groups, group_batch, rate_beside, read_scored
from mmpo.trainers.images import ImageStore
from mmpo.trainers.schedule import Schedule, Shape
from mmpo.trainers.train import train
from tests.tiny import add_lora, tiny_image, tiny_llava
from tests.trainers.material import make_pairs, resumed_alike, settings_for, write_conversations, write_pairs
from tests.trainers.test_auxiliary import the_same_however_cut
from tests.trainers.test_preference import first_step

BETA, TEMPERATURE = 0.2, 0.7
NCA = {"nca": {"beta": BETA, "temperature": TEMPERATURE}}
BOTH = {"dpo": {"beta": BETA}, "nca": {"beta": BETA, "temperature": TEMPERATURE, "weight": 0.5}}
TEXTS = ("There is a dog.", "A cat and a ball on the table.", "Two trees.", "There is a red cup.")


def make_groups(n: int) -> list[ResponseGroup]:
    """Groups of 2, 3, 4, 2 … responses; every second one shares its image with the one before."""
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}]}]
    return [
        ResponseGroup(
            f"group-{k}",
            prompt,
            [ScoredResponse(text, float((3 * j + k) % 5) / 2) for j, text in enumerate(TEXTS[: 2 + k % 3])],
            [encode_image(tiny_image(70 + k // 2))],
        )
        for k in range(n)
    ]


def write_groups(folder: Path, n: int = 6, *more: ResponseGroup) -> Path:
    with ResponseWriter(folder) as writer:
        writer.add(*make_groups(n), *more)
    return folder


def encoded(vlm: VLM, folder: Path, **values: Any) -> Groups:
    return encode_groups(vlm, GroupSettings(data=folder, **values), ImageStore(vlm, 2**24))


def test_what_cannot_be_learnt_is_counted(tmp_path: Path) -> None:
    prompt = make_groups(1)[0].prompt
    picture: list[bytes | str] = [encode_image(tiny_image(1))]
    bad = [
        ResponseGroup("one", prompt, [ScoredResponse("A dog.", 1.0)], picture),
        ResponseGroup("null", prompt, [ScoredResponse("A dog.", 1.0), ScoredResponse("A cat.")], picture),
        ResponseGroup("gone", prompt, [ScoredResponse("A dog.", 1.0), ScoredResponse("A cat.", 0.0)], ["gone.png"]),
        ResponseGroup("broken", prompt, [ScoredResponse("A dog.", 1.0), ScoredResponse("A cat.", 0.0)], [b"no image"]),
        ResponseGroup("long", prompt, [ScoredResponse("A dog.", 1.0), ScoredResponse("tree " * 4000, 0.0)], picture),
    ]
    turned_away: list[tuple[str, str]] = []
    vlm = tiny_llava()
    groups = encode_groups(
        vlm, GroupSettings(data=write_groups(tmp_path / "groups", 2, *bad)), ImageStore(vlm, 2**24),
        on_reject=lambda name, error: turned_away.append((name, f"{error.stage}/{error.reason}")),
    )  # fmt: skip
    assert [row.id for row in groups.rows] == ["group-0", "group-1"]
    assert dict(turned_away) == {
        "one": "groups/one_response", "null": "groups/unscored", "gone": "groups/missing",
        "broken": "groups/not_an_image", "long": "groups/too_long",
    }  # fmt: skip
    assert sum(groups.dropped.values()) == 5
    same = ResponseGroup("same", prompt, [ScoredResponse(TEXTS[0], 1.0), ScoredResponse(TEXTS[3], 0.0)], picture)
    settings = GroupSettings(data=write_groups(tmp_path / "same", 0, same))
    with pytest.raises(UserError, match=r"no group of responses to learn \(1 equal_responses, as equal after 2 tokens"):
        encode_groups(vlm, settings, ImageStore(vlm, 2**24), max_response_tokens=2)


def test_pairs_are_groups_of_two(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 3)
    found = [one for one in read_scored(GroupSettings(data=pairs)) if isinstance(one, ResponseGroup)]
    assert [[one.score for one in group.responses] for group in found] == [[1.0, 0.0]] * 3
    with pytest.raises(UserError, match="groups of responses bring their scores"):
        next(read_scored(GroupSettings(data=write_groups(tmp_path / "groups"), scores=("a", "b"))))
    with pytest.raises(UserError, match=r"no group of responses to learn \(3 unscored"):
        encoded(tiny_llava(), pairs, scores=("up", "down"))


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_policy_and_reference_score_each_response_as_alone(tmp_path: Path, sharing: Any) -> None:
    vlm = add_lora(tiny_llava(), spread=0.1)
    groups = encoded(vlm, write_groups(tmp_path / "groups", 3))
    pairs = encode_pairs(vlm, make_pairs(3), groups.store)
    rows = list(zip(pairs.rows, [[row] for row in groups.rows], strict=True))
    batch = GroupCollator(PairCollator(groups.store), groups.store)(rows)["batch"]
    assert batch.groups is not None
    assert len(batch.groups.image_tokens) == 2, "an image that two groups show is in the batch once"
    with torch.no_grad():
        scored = PairScorer(vlm, sharing=sharing)(batch)
    found = scored.groups
    assert found.group.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2] and len(found) == 3
    places = [(group, answer) for group in make_groups(3) for answer in group.responses]
    assert found.scores.tolist() == [answer.score for _, answer in places]
    for row, (group, answer) in enumerate(places):
        shown = [tiny_image(70 + int(group.id[-1]) // 2)]
        alone = score_responses(vlm, group.prompt, shown, [answer.text])[0]
        with vlm.adapter_off():
            before = score_responses(vlm, group.prompt, shown, [answer.text])[0]
        assert found.responses.policy_sum[row].item() == pytest.approx(alone, abs=2e-4)
        assert found.responses.reference_sum[row].item() == pytest.approx(before, abs=2e-4)

    values = build_objective(NCA).terms(scored)["nca"][1].values
    for number, group in enumerate(make_groups(3)):  # the formula, written again
        own = [row for row, (other, _) in enumerate(places) if other.id == group.id]
        ratios = [(found.responses.policy_sum - found.responses.reference_sum)[row].item() for row in own]
        lift = [math.exp(answer.score / TEMPERATURE) for answer in group.responses if answer.score is not None]
        up, down = ([math.log1p(math.exp(sign * BETA * ratio)) for ratio in ratios] for sign in (-1, 1))
        expected = sum(q / sum(lift) * one for q, one in zip(lift, up, strict=True)) + sum(down) / len(down)
        assert values[number].item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_groups(tmp_path: Path) -> None:
    vlm = add_lora(tiny_llava())
    store = ImageStore(vlm, 2**24)
    rows: list[Any] = [(row, []) for row in encode_pairs(vlm, make_pairs(2), store).rows]
    batch = GroupCollator(PairCollator(store), store)(rows)["batch"]
    for pairs in (blank_logps(batch), PairScorer(vlm)(batch)):
        for name in ("nca", "infonca"):
            _, term = build_objective(name).terms(pairs)[name]
            assert (len(term.values), float(term.weights.sum())) == (0, 0.0)


@pytest.mark.parametrize(("rate", "groups"), [(1.0, 4), pytest.param(0.5, 2, marks=pytest.mark.slow)])
def test_the_loss_is_the_mean_over_the_groups_of_a_step_however_it_is_cut(
    tmp_path: Path, rate: float, groups: int
) -> None:
    folder = write_groups(tmp_path / "groups")

    def step(name: str, batch: int, accumulation: int) -> Any:
        return first_step(
            tmp_path / name, objective=BOTH, groups=lambda vlm: encoded(vlm, folder, per_pair=rate),
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        )  # fmt: skip

    row = the_same_however_cut(step, "nca")

    vlm = add_lora(tiny_llava(), spread=0.1)
    own = encoded(vlm, folder, per_pair=rate)
    pairs = encode_pairs(vlm, make_pairs(8), own.store)
    schedule = Schedule(pairs.lengths, Shape(4), seed=42)
    drawn = draw(len(own), schedule, 42, own.rate(8), "groups")
    picked = [own.rows[k] for batch in drawn[0] for numbers in batch for k in numbers]
    assert len(picked) == groups
    rows = [(pairs[0], [group]) for group in picked]
    scored = PairScorer(vlm)(GroupCollator(PairCollator(own.store), own.store)(rows)["batch"])
    assert row["loss/nca"] == pytest.approx(build_objective(NCA).loss(scored).item(), rel=1e-4)


def test_groups_and_samples_are_drawn_apart() -> None:
    schedule = Schedule([5] * 20, Shape(4), seed=0, epochs=2)
    assert draw(6, schedule, 0, name="groups") != draw(6, schedule, 0)


def test_alone_every_batch_must_have_a_group(tmp_path: Path) -> None:
    groups = encoded(tiny_llava(), write_groups(tmp_path / "groups"), per_pair=0.5)
    assert float(rate_beside(groups, 8, sharded=False, alone=False)) == 0.5
    with pytest.raises(UserError, match="a batch may have none") as found:
        rate_beside(groups, 8, sharded=False, alone=True)
    assert "groups.per_pair: 1 or more" in str(found.value.hint)
    with pytest.raises(UserError, match="wait for it for ever"):
        rate_beside(groups, 8, sharded=True, alone=False)


def test_pairs_of_a_record_as_groups_are_dpo() -> None:
    vlm = add_lora(tiny_llava(), spread=0.1)
    store = ImageStore(vlm, 2**24)
    pairs = PairScorer(vlm)(PairCollator(store)(encode_pairs(vlm, make_pairs(3), store).rows)["batch"])
    with torch.no_grad():
        loss = build_objective({"infonca": {"beta": BETA}}).loss(with_own_groups(pairs))
        assert loss.item() == pytest.approx(build_objective({"dpo": {"beta": BETA}}).loss(pairs).item(), rel=1e-5)


@pytest.mark.parametrize("objective", [pytest.param(NCA, marks=pytest.mark.slow), BOTH])
def test_a_run_that_resumes_ends_with_the_same_weights(
    tiny_llava_folder: Path, tmp_path: Path, objective: dict[str, Any]
) -> None:
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 10), objective=objective, batch_size=2, accumulation=2,
        max_steps=4, save_steps=2, logging_steps=1, keep_checkpoints=4,
        groups={"data": write_groups(tmp_path / "groups")},
    )  # fmt: skip
    whole = train(settings, tmp_path / "run")
    assert (whole.groups, whole.groups_dropped) == (6, {})
    assert whole.memory is not None and whole.first_eval is not None and whole.last_eval is not None
    at_first = 2 * math.log(2) if objective is NCA else math.log(2)
    assert whole.first_eval["eval_loss"] == pytest.approx(at_first, abs=1e-4)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert len((tmp_path / "run" / "adapter" / FILE).read_text().split()) == 5 + 3, "pictures of pairs and of groups"

    resumed_alike(settings, tmp_path / "run")


def test_beside_auxiliary_samples_and_not_resumed_on_others(tiny_llava_folder: Path, tmp_path: Path) -> None:
    objective = {"dpo": {}, "auxiliary": {"weight": 0.5}, "infonca": {"beta": BETA}}
    settings = settings_for(
        tiny_llava_folder, write_pairs(tmp_path / "pairs", 6), objective=objective, max_steps=1, logging_steps=1,
        eval_fraction=0, groups={"data": write_groups(tmp_path / "groups"), "per_pair": "once"},
        auxiliary={"data": write_conversations(tmp_path / "chat")},
    )  # fmt: skip
    result = train(settings, tmp_path / "run")
    assert (result.groups, result.auxiliary) == (6, 5)
    assert {"loss/dpo", "loss/auxiliary", "loss/infonca"} <= set(result.last_train)
    (tmp_path / "run" / "train_result.json").unlink()
    shutil.rmtree(tmp_path / "groups")
    write_groups(tmp_path / "groups", 5)
    with pytest.raises(UserError, match="other pairs"):
        train(settings, tmp_path / "run")


def test_more_memory_is_estimated_with_groups(tmp_path: Path) -> None:
    from mmpo.trainers.memory import kept_bytes

    vlm = add_lora(tiny_llava())
    groups = encoded(vlm, write_groups(tmp_path / "groups"))
    collate = PairCollator(groups.store)
    plain = collate(encode_pairs(vlm, make_pairs(1), groups.store).rows)["batch"]
    largest = groups.largest(2, shared=True)
    assert [row.id for row in largest] == ["group-2", "group-5"]
    plain_bytes = kept_bytes(PairScorer(vlm), plain)
    plain.groups = group_batch(largest, groups.store)
    assert kept_bytes(PairScorer(vlm), plain) > 1.5 * plain_bytes


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objective": BOTH}, "reads groups of scored responses, and there are none"),
        ({"objective": NCA}, "reads groups of scored responses, and there are none"),
        ({"groups": {"data": "x"}}, "groups of responses have no effect"),
        ({"objective": NCA, "groups": {"data": "x"}, "cache_reference": True}, "cache_reference keeps log-probs"),
        ({"objective": NCA, "groups": {"data": "gone"}}, "gone: no folder of groups of responses, nor of pairs"),
        ({"objective": {"auxiliary": {}, **NCA}, "groups": {"data": "x"}, "auxiliary": {"data": "x"}}, "goes with"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(tiny_llava_folder: Path, tmp_path: Path, values: dict[str, Any], words: str) -> None:
    settings = settings_for(tiny_llava_folder, write_pairs(tmp_path / "pairs", 4), **values)
    with pytest.raises(UserError, match=words):
        train(settings, tmp_path / "run")


@pytest.mark.parametrize("value", [0, -1, "twice", True])
def test_rates_that_are_none(value: Any) -> None:
    with pytest.raises(ValidationError):
        GroupSettings(data=Path("x"), per_pair=value)


def test_a_pair_that_is_no_group_is_counted(tmp_path: Path) -> None:
    first, second = make_pairs(4)[::3]
    with PairWriter(tmp_path / "pairs") as writer:
        writer.add(replace(first, unfinished=True), second)
    groups = encoded(tiny_llava(), tmp_path / "pairs")
    assert (len(groups), dict(groups.dropped)) == (1, {"unfinished": 1})
