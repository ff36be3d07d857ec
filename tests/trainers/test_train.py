"""One call from pairs to adapter: what it leaves behind, what it refuses, and how it starts again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.files.atomic import read_json
from mmpo.models.families.loading import load_vlm
from mmpo.models.scoring.segment_logps import score_responses
from mmpo.progress import reporting
from mmpo.trainers.settings import TrainResult, TrainSettings
from mmpo.trainers.train import train
from tests.tiny import tiny_image, user
from tests.trainers.material import make_pairs, settings_for, write_pairs


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), 20)


@pytest.fixture(scope="module")
def run(
    tiny_llava_folder: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainSettings, TrainResult]:
    folder = tmp_path_factory.mktemp("run")
    settings = settings_for(
        tiny_llava_folder, pairs_folder, epochs=4, samples={"n": 2, "prompts": ["Is there a dog?"], "max_new_tokens": 4}
    )
    return folder, settings, train(settings, folder)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open()]


def test_the_model_learns_the_preference(run: tuple[Path, TrainSettings, TrainResult]) -> None:
    _, _, result = run
    assert result.first_eval is not None and result.last_eval is not None
    assert result.first_eval["eval_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert result.last_eval["eval_loss"] < 0.6
    assert result.last_eval["eval_rewards/accuracies"] > 0.7
    assert (result.pairs, result.eval_pairs, result.steps, result.epochs) == (16, 4, 16, 4.0)
    assert result.dropped == {} and result.truncated == 0 and result.resumed_from is None


def test_what_a_run_leaves_behind(run: tuple[Path, TrainSettings, TrainResult]) -> None:
    folder, settings, result = run
    assert TrainResult.model_validate(read_json(folder / "train_result.json")) == result
    assert TrainSettings.model_validate(read_json(folder / "settings.json")) == settings
    metrics = rows(folder / "metrics.jsonl")
    assert [row["step"] for row in metrics if "loss" in row] == list(range(2, 17, 2))
    assert [row["step"] for row in metrics if "eval_loss" in row] == [0, 16]
    assert {"rewards/chosen", "rewards/margins", "logps/rejected", "pairs_per_second", "epoch"} <= set(metrics[1])
    samples = rows(folder / "samples.jsonl")
    assert [row["step"] for row in samples] == [0, 0, 16, 16]
    assert all(row["policy"] == row["base"] for row in samples[:2])
    assert {row["prompt"] for row in samples} == {"Is there a dog?"}
    assert not list(folder.glob(".*")), "temporary files are gone"


def test_the_adapter_opens_both_ways(run: tuple[Path, TrainSettings, TrainResult]) -> None:
    folder, settings, result = run
    adapter = folder / result.adapter
    ours = load_vlm(settings.model, adapter=adapter)
    base = load_vlm(settings.model)
    question, image, answers = user("What is on the left?"), [tiny_image(3)], ["There is a dog.", "There is a cat."]
    adapted = score_responses(ours, question, image, answers)
    assert adapted != pytest.approx(score_responses(base, question, image, answers), abs=1e-2)
    base.model = PeftModel.from_pretrained(base.model, adapter).eval()
    assert adapted == pytest.approx(score_responses(base, question, image, answers), abs=1e-4)


def test_a_finished_run_is_not_done_again(run: tuple[Path, TrainSettings, TrainResult]) -> None:
    folder, settings, result = run
    weights = folder / "adapter" / "adapter_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert train(settings, folder) == result
    assert weights.stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused(run: tuple[Path, TrainSettings, TrainResult]) -> None:
    folder, settings, result = run
    with pytest.raises(UserError, match=r"other settings: learning_rate \(0\.01 → 0\.5\)"):
        train(settings.model_copy(update={"learning_rate": 0.5}), folder)
    assert train(settings.model_copy(update={"keep_checkpoints": 1}), folder) == result  # changes no result


@pytest.mark.slow
def test_starting_over_and_other_pairs(tiny_llava_folder: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 8)
    settings = settings_for(tiny_llava_folder, pairs, max_steps=2, eval_fraction=0, save_steps=1)
    first = train(settings, tmp_path / "run")
    assert first.first_eval is None and first.eval_pairs == 0
    (tmp_path / "run" / "train_result.json").unlink()
    for path in pairs.rglob("*.*"):
        path.unlink()
    write_pairs(pairs, 8, seed=1)
    with pytest.raises(UserError, match="a run on other pairs"):
        train(settings, tmp_path / "run")
    again = train(settings.model_copy(update={"resume": False}), tmp_path / "run")
    assert again.resumed_from is None and again.last_train["logps/chosen"] != first.last_train["logps/chosen"]


def test_own_evaluation_pairs_truncation_and_rejects(
    tiny_llava_folder: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    settings = settings_for(
        tiny_llava_folder,
        pairs_folder,
        eval_pairs=write_pairs(tmp_path / "eval", 5, seed=2),
        max_steps=1,
        max_response_tokens=12,
        objective={"dpo": {"beta": 0.3}, "sft": {"weight": 0.1}},
        gradient_checkpointing=True,
        dtype="bfloat16",
    )
    result = train(settings, tmp_path / "run")
    rejected = rows(tmp_path / "run" / "rejects.jsonl")
    assert result.truncated > 0
    assert result.pairs + result.eval_pairs + len(rejected) == 25
    assert sum(result.dropped.values()) == len(rejected)
    assert {row["reason"] for row in rejected} <= {"equal_responses"}
    assert result.first_eval is not None and {"eval_loss/dpo", "eval_loss/sft"} <= set(result.first_eval)


def test_mistakes_are_said_before_anything_slow(tiny_llava_folder: Path, pairs_folder: Path, tmp_path: Path) -> None:
    def settings(**values: Any) -> TrainSettings:
        return settings_for(tiny_llava_folder, pairs_folder, **values)  # type: ignore[no-any-return]

    with pytest.raises(UserError, match="unknown objective 'dpoo'"):
        train(settings(objective={"dpoo": {}}), tmp_path / "a")
    with pytest.raises(UserError, match="no pair left to train on"):
        train(settings(max_response_tokens=1), tmp_path / "b")
    with pytest.raises(UserError, match="longest pair"):
        train(settings(tokens_per_batch=10), tmp_path / "c")
    with PairWriter(tmp_path / "none"):
        pass
    with pytest.raises(UserError, match="no pair left to train on"):
        train(settings_for(tiny_llava_folder, tmp_path / "none"), tmp_path / "d")


def test_gradient_checkpointing_gives_the_same_run(tiny_llava_folder: Path, pairs_folder: Path, tmp_path: Path) -> None:
    losses = [
        train(
            settings_for(tiny_llava_folder, pairs_folder, max_steps=3, eval_fraction=0, gradient_checkpointing=on),
            tmp_path / str(on),
        ).last_train
        for on in (False, True)
    ]
    for name in ("loss", "grad_norm", "rewards/margins"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-4), name


@pytest.mark.slow
def test_attention_is_a_setting(tiny_llava_folder: Path, pairs_folder: Path, tmp_path: Path) -> None:
    """Every back end trains alike; one that can't run here is refused before anything is computed."""
    runs = {}
    for attention in ("plain", "dense"):
        settings = settings_for(tiny_llava_folder, pairs_folder, max_steps=4, attention=attention, cache_reference=True)
        shutil.rmtree(pairs_folder / "reference", ignore_errors=True)
        runs[attention] = train(settings, tmp_path / attention)
    assert runs["dense"].last_train["loss"] == pytest.approx(runs["plain"].last_train["loss"], rel=1e-4)
    shutil.rmtree(pairs_folder / "reference")
    if not torch.cuda.is_available():
        settings = settings_for(tiny_llava_folder, pairs_folder, max_steps=4, attention="flex", cache_reference=True)
        with pytest.raises(UserError, match="no backward pass on a CPU"):
            train(settings, tmp_path / "flex")
        assert not (pairs_folder / "reference").exists()


def test_progress_is_reported(tiny_llava_folder: Path, pairs_folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int | None, int, bool]] = []

    class Recorder:
        def begin(self, label: str, total: int | None) -> Any:
            class Task:
                done = 0

                def advance(self, steps: int = 1, note: str | None = None) -> None:
                    self.done += steps

                def extend(self, more: int | None) -> None:
                    self.extended = more

                def close(self, *, finished: bool) -> None:
                    seen.append((label, total, self.done, finished))

            return Task()

    with reporting(Recorder()):
        train(settings_for(tiny_llava_folder, pairs_folder, max_steps=3), tmp_path / "run")
    assert ("training", 3, 3, True) in seen
    (evaluating,) = [one for one in seen if one[0] == "evaluating"]
    assert evaluating[1] and evaluating[2] == 2 * evaluating[1], "two evaluations, one count that only goes up"


def test_make_pairs_is_deterministic() -> None:
    assert make_pairs(4) == make_pairs(4)
