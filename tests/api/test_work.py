"""build, train, evaluate and convert from Python: the run folders, checks and results of the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import datasets
import pytest
from PIL import Image

import mmpo
from mmpo.api.model import Model
from mmpo.cli.app import load_commands
from mmpo.errors import UserError
from mmpo.models.families import loading

TRAIN: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "eval_fraction": 0.25, "samples": {"n": 0}}
POPE: dict[str, Any] = {
    "pope": {"splits": ["random"], "questions_per_image": 2, "max_new_tokens": 2}, "bootstrap": {"samples": 100},
}  # fmt: skip


def trl_rows(photos: Path, n: int = 6) -> list[dict[str, Any]]:
    """Conversational rows with pictures, as TRL's vision trainers take them."""
    return [
        {
            "images": [Image.open(photos / f"{number % 4}.png")],
            "prompt": [{"role": "user", "content": [{"type": "image", "text": None},
                                                    {"type": "text", "text": "What is in the image?"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": f"A cat and {number} chairs."}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": f"There are {number} dogs."}]}],
        }
        for number in range(n)
    ]  # fmt: skip


def test_training_leaves_what_the_command_leaves(here: Path, pairs: Path, tiny_llava_folder: Path) -> None:
    done = mmpo.train(tiny_llava_folder, pairs, out="runs/a", objective="dpo", **TRAIN)
    assert done.run == Path("runs/a") and (done.adapter / "adapter_model.safetensors").is_file()
    for name in ("recipe.yaml", "versions.json", "run.log", "results.json", "train/step.json", "train/metrics.jsonl"):
        assert (done.run / name).is_file(), name
    assert done.result.steps == 2
    table = done.to_pandas()
    assert {"step", "loss", "eval_loss"} <= set(table.columns)
    assert "2 steps on 6 pairs" in repr(done) and "<table" in done._repr_html_()
    again = mmpo.train(tiny_llava_folder, pairs, out="runs/a", objective={"dpo": None}, **TRAIN)
    assert again.result == done.result  # taken as it is
    from typer.testing import CliRunner

    exported = CliRunner().invoke(load_commands(), ["export", "runs/a", "exported"])
    assert exported.exit_code == 0, exported.output


def test_training_from_a_dataset_in_trls_form(here: Path, photos: Path, tiny_llava_folder: Path) -> None:
    dataset = datasets.Dataset.from_list(trl_rows(photos))
    done = mmpo.train(tiny_llava_folder, dataset, images=photos, out="runs/trl", **TRAIN)
    assert done.result.pairs + done.result.eval_pairs == 6
    assert len(datasets.load_dataset(str(done.run / "pairs"), split="train")) == 6
    again = mmpo.train(tiny_llava_folder, dataset, images=photos, out="runs/trl", **TRAIN)
    assert again.result == done.result
    with pytest.raises(UserError, match=r"pairs was made with other settings"):
        mmpo.train(tiny_llava_folder, dataset.select(range(4)), images=photos, out="runs/trl", **TRAIN)


def test_rows_that_cannot_be_used_are_left_out_and_counted(here: Path, photos: Path, tiny_llava_folder: Path) -> None:
    rows = trl_rows(photos)
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[2]["chosen"][0]["content"][0]["text"] = ""
    dataset = datasets.Dataset.from_list(rows)
    with pytest.warns(UserWarning, match="2 rows were left out"):
        done = mmpo.train(tiny_llava_folder, dataset, images=photos, out="runs/left", **{**TRAIN, "eval_fraction": 0.0})
    assert done.result.pairs == 4
    rejects = [json.loads(line) for line in (done.run / "pairs" / "rejects.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rejects] == ["row 1", "row 2"]
    with pytest.raises(UserError, match=r"no pair can be used \(6 decode/path_escape\)"):
        other = here / "other"
        other.mkdir()
        mmpo.train(tiny_llava_folder, datasets.Dataset.from_list(trl_rows(photos)), images=other, out="runs/x", **TRAIN)


def test_mistakes_are_all_told_before_anything_is_written(here: Path, pairs: Path, tiny_llava_folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        mmpo.train(tiny_llava_folder, pairs, out="runs/b", learning_rte=1, batch_size="many", objective="dpoo")
    told = str(caught.value)
    assert "3 mistakes" in told and "did you mean learning_rate" in told and "mmpo.train: train.batch_size" in told
    assert "unknown objective 'dpoo'" in told
    assert not (here / "runs").exists()
    for call, message in (
        (lambda: mmpo.train("nowhere/at/all", pairs), "no such model folder"),
        (lambda: mmpo.train(tiny_llava_folder, here / "nowhere"), "train.pairs"),
        (lambda: mmpo.train(cast(Any, 3), pairs), "model must be a Model, a path or a name, not int"),
        (lambda: mmpo.train(tiny_llava_folder, 3), "pairs must be a folder"),
        (lambda: mmpo.train(tiny_llava_folder, pairs, images=here), "leave images out"),
        (lambda: mmpo.train(tiny_llava_folder, pairs, out=cast(Any, 3)), "out must be a folder"),
        (lambda: mmpo.train(tiny_llava_folder, pairs, lora=object()), "no setting can be"),
        (lambda: mmpo.train(tiny_llava_folder, []), "no pair can be used (there are none)"),
        (lambda: mmpo.evaluate(tiny_llava_folder, "popo"), "eval.benchmarks"),
        (lambda: mmpo.evaluate(tiny_llava_folder, cast(Any, 3)), "eval.benchmarks"),
        (lambda: mmpo.build(tiny_llava_folder, annotations="nowhere.jsonl"), "build.annotations"),
        (lambda: mmpo.build(tiny_llava_folder, builder="x"), "build.builder"),
        (lambda: mmpo.convert("nowhere", "out"), "no such file or folder"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            call()
        assert message in str(caught.value)


def test_a_loaded_model_is_evaluated_without_loading_it_again(
    here: Path, photos: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded a second time")

    monkeypatch.setattr("mmpo.models.live.load_vlm", refuse)
    given = {"images": photos, "annotations": photos / "annotations.jsonl", **POPE}
    done = mmpo.evaluate(model, ["pope"], out="runs/e", **given)
    table = done.to_pandas()
    accuracy = table[(table.benchmark == "pope") & (table.metric == "accuracy")].iloc[0]
    row = done.scorecard.row("pope", "accuracy", "random")
    assert accuracy.split == "random" and accuracy.better == "higher"
    answered = table[table.benchmark == "pope"]
    assert (accuracy.after == row.after.value) if row.after.defined else answered.after.isna().all()  # random answers
    assert "POPE" in repr(done) and "<pre>" in done._repr_html_()
    assert (done.run / "eval" / "scorecard.md").is_file()
    with pytest.raises(UserError, match="but the model is loaded with 'float32'"):
        mmpo.evaluate(model, "pope", dtype="bfloat16", **given)
    with pytest.raises(UserError, match="an adapter beside a loaded model"):
        mmpo.evaluate(model, "pope", adapter="somewhere", **given)
    monkeypatch.undo()
    by_path = mmpo.evaluate(model.source, "pope", dtype="float32", out=here / "again", **given)
    assert by_path.scorecard == done.scorecard
    assert loading.load_vlm is not refuse


def test_one_run_folder_holds_all_stages(here: Path, photos: Path, pairs: Path, tiny_llava_folder: Path) -> None:
    trained = mmpo.train(tiny_llava_folder, pairs, out="runs/all", **TRAIN)
    with mmpo.load(tiny_llava_folder, trained.adapter, dtype="float32") as tuned:
        done = mmpo.evaluate(
            tuned, "pope", images=photos, annotations=photos / "annotations.jsonl", out="runs/all", **POPE
        )
    assert done.scorecard.compared
    results = json.loads((trained.run / "results.json").read_text())
    assert set(results) == {"train", "eval"}
    recipe = (trained.run / "recipe.yaml").read_text()
    assert "train:" in recipe and "eval:" in recipe


def test_converting(here: Path, photos: Path, pairs: Path) -> None:
    done = mmpo.convert(pairs, here / "trl", out_format="trl")
    assert done.account.pairs == 8 and "8 pairs written" in repr(done)
    assert list(done.to_pandas().columns) == ["reason", "rows", "example"]
    back = mmpo.convert(here / "trl", here / "back")
    assert back.account.kept == 8
    with pytest.raises(UserError, match="not empty"):
        mmpo.convert(pairs, here / "trl", out_format="trl")
