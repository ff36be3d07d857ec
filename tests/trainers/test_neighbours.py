"""The neighbours of TARS from pairs on disk to a trained adapter, and what they need of the data."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.shards import PairWriter, read_pairs
from mmpo.errors import UserError
from mmpo.models.families.loading import load_vlm
from mmpo.models.families.prompts import encode_prompt, encode_response
from mmpo.models.scoring.score import PairScorer
from mmpo.objectives import build_objective
from mmpo.objectives.step_rule import log_sums
from mmpo.objectives.symmetric import CHOSEN_THERE, TWIN, TWIN_HERE
from mmpo.trainers.collate import PairCollator, encode_pairs
from mmpo.trainers.holdout import hold_out
from mmpo.trainers.images import ImageStore
from mmpo.trainers.step import StepRules
from mmpo.trainers.train import train
from mmpo.trainers.views.view_maker import view_maker
from mmpo.types import StepStatistics
from tests.tiny import add_lora
from tests.trainers.material import make_pairs, settings_for, write_pairs

WEIGHTS = {"token_weights": {"changed": 4.0, "insertions": True}}


def write(folder: Path, pairs: list[PreferencePair]) -> Path:
    with PairWriter(folder, recipe={"builder": "test"}) as writer:
        for pair in pairs:
            writer.add(pair)
    return folder


def twins(n: int) -> list[PreferencePair]:
    """Pairs 2k and 2k + 1 are twins and show different images."""
    pairs = make_pairs(2 * n)
    images = [pair.images for pair in pairs[::2]]
    return [replace(pair, images=images[i % len(images)], twin=f"pair-{i ^ 1}") for i, pair in enumerate(pairs[:n])]


@pytest.mark.parametrize(
    ("objective", "start", "settings"),
    [
        ({"chip": {}}, 5 * math.log(2), WEIGHTS),
        ({"chip_official": {}}, math.log(2), WEIGHTS),
        ({"tdpo2": {}}, math.log(2), {}),
        ({"opa_dpo": {}}, 2.2 * math.log(2), WEIGHTS),
        ({"povid": {}}, math.log(2), {}),
        ({"mpo": {"generation": 0.0, "delta": "running"}}, 1.2 * math.log(2), {}),
        ({"tars_official": {"lam": 0.0}}, 2 * math.log(2), {}),
        ({"tars_official": {"layer": 1}}, None, {"disturbance": {"mode": "mask"}}),
        ({"tars": {"layer": 1, "span": "sequence"}}, None, {"perturbation": {"mode": "synonyms", "unit": "token"}}),
    ],
)
def test_training_starts_at_its_logs_of_two_and_learns(
    tiny_llava_folder: Path, tmp_path: Path, objective: dict[str, Any], start: float | None, settings: dict[str, Any]
) -> None:
    pairs = write_pairs(tmp_path / "pairs", 16)
    result = train(settings_for(tiny_llava_folder, pairs, objective=objective, epochs=4, **settings), tmp_path / "run")
    assert result.first_eval is not None and result.last_eval is not None
    if start is not None:
        assert result.first_eval["eval_loss"] == pytest.approx(start, abs=1e-4)
    assert result.last_eval["eval_loss"] < result.first_eval["eval_loss"]


def test_halva_contrasts_the_phrases_that_differ(tiny_llava_folder: Path, tmp_path: Path) -> None:
    """The chosen object against the one put in its place; at the start nothing has moved from the reference."""
    swapped = [
        replace(
            pair,
            chosen=[text_message("assistant", "There is a red cup on the left.")],
            rejected=[text_message("assistant", "There is a dog on the left.")],
            chosen_weights=[{"start": 11, "end": 18, "weight": 2.0}],
            rejected_weights=[{"start": 11, "end": 14, "weight": 2.0}],
        )
        for pair in make_pairs(16)
    ]
    folder = write(tmp_path / "pairs", swapped)
    result = train(settings_for(tiny_llava_folder, folder, objective={"halva": {}}, epochs=3), tmp_path / "run")
    assert result.first_eval is not None and result.last_eval is not None
    assert 1e-3 < result.last_eval["eval_loss"] < result.first_eval["eval_loss"]


def test_the_question_is_perturbed_in_a_run_from_a_recipe(tiny_llava_folder: Path, tmp_path: Path) -> None:
    """With every word masked the perturbed question is another one: the losses of the two differ once trained."""
    pairs = write_pairs(tmp_path / "pairs", 16)
    losses = []
    for name in ("dpo", "perturbed_dpo"):
        settings: dict[str, Any] = {} if name == "dpo" else {"perturbation": {"omega": 100.0}}
        wanted = settings_for(tiny_llava_folder, pairs, objective={name: {}}, max_steps=6, **settings)
        losses.append(train(wanted, tmp_path / name).last_eval["eval_loss"])  # type: ignore[index]
    assert abs(losses[0] - losses[1]) > 1e-4
    assert list((pairs / "relevance").glob("*.safetensors"))


def test_symmpo_scores_twins_about_both_images(tiny_llava_folder: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "pairs", twins(6))
    vlm = add_lora(load_vlm(tiny_llava_folder), spread=0.1)
    store = ImageStore(vlm, 1 << 26)
    pairs = encode_pairs(vlm, read_pairs(folder), store, root=folder)
    objective = build_objective("symmpo")
    maker = view_maker(
        settings_for(Path(vlm.source), folder, objective={"symmpo": {}}), objective, vlm, store, pairs.rows
    )
    assert maker is not None
    batch = PairCollator(store, maker.add)(pairs.rows[:2])["batch"]
    scored = PairScorer(vlm, sharing="on")(batch)
    twin_batch = PairCollator(store, maker.add)([pairs.rows[1], pairs.rows[0]])["batch"]
    swapped = PairScorer(vlm, sharing="off")(twin_batch)
    torch.testing.assert_close(scored.view(TWIN).policy_sum, swapped.chosen.policy_sum, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        scored.view(TWIN_HERE).policy_sum, swapped.view(CHOSEN_THERE).policy_sum, atol=1e-4, rtol=1e-4
    )
    result = train(settings_for(tiny_llava_folder, folder, objective={"symmpo": {}}, epochs=3), tmp_path / "run")
    assert result.first_eval is not None and result.last_eval is not None
    assert result.first_eval["eval_loss"] == pytest.approx(4 * math.log(2), abs=1e-4)
    assert result.last_eval["eval_loss"] < result.first_eval["eval_loss"]
    kept, held = hold_out(pairs, 0.3, seed=0)
    assert {row.twin for row in held.rows} == {row.id for row in held.rows} and len(kept) + len(held) == 6
    with pytest.raises(UserError, match="has the twin pair-1, which is not among the pairs"):
        view_maker(settings_for(Path(vlm.source), folder), objective, vlm, store, pairs.rows[:1])


def test_a_run_with_a_running_mean_resumes_to_the_same_weights(tiny_llava_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    pairs = write_pairs(tmp_path / "pairs", 16)
    objective = {
        "mpo": {"delta": "running", "beta": {"from": 0.1, "to": 0.5}},
        "beta_dpo": {"keep": 0.5},
        "gamma_po": {"queue": 10},
    }
    whole = settings_for(tiny_llava_folder, pairs, objective=objective, max_steps=6, save_steps=3, keep_checkpoints=5)
    train(whole, tmp_path / "whole")
    metadata = json.loads((tmp_path / "whole/checkpoints/checkpoint-3/complete.json").read_text())
    state = metadata["states"]["mpo"]
    assert state["log_ratio_count"] == 3 * 2 * 4 and state["log_ratio_mean"] != 0
    assert len(metadata["states"]["gamma_po"]["queue"]) == 10 and metadata["states"]["beta_dpo"]["std"] > 0
    half = tmp_path / "half"
    (half / "checkpoints").mkdir(parents=True)
    for name in ("settings.json",):
        (half / name).write_text((tmp_path / "whole" / name).read_text())
    (tmp_path / "whole/checkpoints/checkpoint-3").rename(half / "checkpoints/checkpoint-3")
    result = train(whole, half)
    assert result.resumed_from == 3
    ours, theirs = (load_file(tmp_path / run / "adapter/adapter_model.safetensors") for run in ("whole", "half"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_running_mean_takes_whole_steps() -> None:
    from tests.objectives.test_objectives import golden_pairs

    pairs, objective = golden_pairs(), build_objective({"bco_pair": {"delta": "running"}})
    ratios = torch.cat([side.policy_sum - side.reference_sum for side in (pairs.chosen, pairs.rejected)])
    rules = StepRules(objective, seed=0)
    for factor in (1, 2):
        step = StepStatistics({name: factor * value for name, value in log_sums(pairs).items()})
        (looked,) = rules.look(objective, [step], factor, training=True)
    assert looked.found["bco_pair"]["log_ratio_mean"].item() == pytest.approx(1.5 * ratios.mean().item())
    assert rules.states["bco_pair"]["log_ratio_count"] == 16


def context_pair(context: str | None) -> PreferencePair:
    pair = make_pairs(1)[0]
    answers = [f"{context or ''}{text}" for text in (" There is a dog.", " There is a cat and a ball.")]
    if context is None:
        return replace(
            pair, chosen=[text_message("assistant", answers[0])], rejected=[text_message("assistant", answers[1])]
        )
    return replace(
        pair,
        prompt=[*pair.prompt, text_message("assistant", context)],
        chosen=[text_message("assistant", answers[0][len(context) :])],
        rejected=[text_message("assistant", answers[1][len(context) :])],
        chosen_weights=[{"start": 12, "end": 15, "weight": 5.0}],
    )


def test_a_context_is_shared_masked_and_followed(tiny_llava_folder: Path, tmp_path: Path) -> None:
    """SENTINEL's C-DPO: the answer so far stands in the prefix, both responses continue it, and DPO on them equals DPO
    on the whole answers."""
    context = "The image shows a kitchen with a table."
    folder = write(tmp_path / "pairs", [context_pair(context)])
    vlm = add_lora(load_vlm(tiny_llava_folder), spread=0.1)
    store = ImageStore(vlm, 1 << 26)
    (row,) = encode_pairs(vlm, read_pairs(folder), store, root=folder, words=True).rows
    whole = [encode_response(vlm, context + text) for text in (" There is a dog.", " There is a cat and a ball.")]
    prompt = encode_prompt(vlm, context_pair(context).prompt[:-1], 1)
    assert row.prompt.tolist()[: len(prompt)] == prompt and len(row.prompt) > len(prompt) + 5
    said = row.prompt.tolist()[len(prompt) :]
    assert [said + side.tolist() for side in (row.chosen, row.rejected)] == whole
    assert vlm.tokenizer.decode(said).strip() == context
    assert row.chosen_weights is not None and row.chosen_weights.max() == 5.0
    heavy = row.chosen[row.chosen_weights == 5.0]
    assert "dog" in vlm.tokenizer.decode(heavy)
    assert row.words is not None
    assert all(place < len(prompt) for _, places in row.words for place in places)
    scored = PairScorer(vlm, sharing="on")(PairCollator(store)([row])["batch"])
    plain = replace(
        context_pair(context),
        prompt=context_pair(context).prompt[:-1],
        chosen=[text_message("assistant", context + " There is a dog.")],
        rejected=[text_message("assistant", context + " There is a cat and a ball.")],
        chosen_weights=None,
    )
    full = encode_pairs(vlm, [plain], store, root=folder).rows
    expected = PairScorer(vlm, sharing="off")(PairCollator(store)(full)["batch"])
    assert scored.chosen.lengths.item() == len(row.chosen) < expected.chosen.lengths.item()
    losses = [build_objective("dpo").loss(pairs).item() for pairs in (scored, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] != pytest.approx(math.log(2), abs=1e-4)


def test_pairs_with_a_context_train(tiny_llava_folder: Path, tmp_path: Path) -> None:
    pairs = [
        replace(pair, prompt=[*pair.prompt, text_message("assistant", "The image shows a kitchen. ")])
        for pair in make_pairs(12)
    ]
    folder = write(tmp_path / "pairs", pairs)
    result = train(settings_for(tiny_llava_folder, folder, max_steps=6, samples={"n": 1}), tmp_path / "run")
    assert result.first_eval is not None and result.last_eval is not None
    assert result.first_eval["eval_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.last_eval["eval_loss"] < result.first_eval["eval_loss"]


def test_a_step_without_phrases_adds_nothing(tiny_llava_folder: Path, tmp_path: Path) -> None:
    """No phrase is marked: the term is 0, not 0 / 0, in training and in evaluation."""
    pairs = [replace(p, chosen_weights=[{"start": 0, "end": 3, "weight": 1.0}]) for p in make_pairs(8)]
    folder = write(tmp_path / "pairs", pairs)
    objective: dict[str, Any] = {"dpo": {}, "phrase_contrast": {}}
    result = train(settings_for(tiny_llava_folder, folder, objective=objective, max_steps=2), tmp_path / "run")
    assert result.first_eval is not None and result.first_eval["eval_loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_halva_with_the_divergence_on_other_data(tiny_llava_folder: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 8)
    other = write_pairs(tmp_path / "other", 6, seed=1)
    objective = {"phrase_contrast": {}, "auxiliary_kl": {"weight": 0.4}}
    settings = settings_for(
        tiny_llava_folder,
        pairs,
        objective=objective,
        max_steps=6,
        auxiliary={"data": str(other)},
        logging_steps=1,
        **WEIGHTS,
    )
    train(settings, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    values = [row["loss/auxiliary_kl"] for row in rows if "loss/auxiliary_kl" in row]
    assert values[0] == pytest.approx(0.0, abs=1e-6) and max(values) > 1e-4
