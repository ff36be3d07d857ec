"""The worked example in real runs: its builder, objective, benchmark, family and format, in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mmpo import plugins
from mmpo.data.reader import read_pairs
from mmpo.models.families.records import FAMILIES
from tests.cli.conftest import Invoke
from tests.plugins.conftest import EXAMPLE
from tests.trainers.two_processes import HANGS

RECIPE = """\
plugins: [absent_objects]
model: {model}
build:
  builder: absent_objects
  annotations: {photos}/annotations.jsonl
  per_image: 2
train:
  objective: {{capped_dpo: {{beta: 0.2, cap: 5}}}}
  max_steps: 2
  batch_size: 2
  eval_fraction: 0
  samples: {{n: 0}}
eval:
  annotations: {photos}/annotations.jsonl
  benchmarks: [absent_yes]
  absent_yes: {{max_new_tokens: 3, parser: official}}
  bootstrap: {{samples: 100}}
"""


@pytest.fixture
def mine(here: Path, photos: Path, example: Path, tiny_vip_folder: Path) -> Path:
    file = here / "mine.yaml"
    file.write_text(RECIPE.format(model=tiny_vip_folder, photos=photos))
    return file


def test_a_run_builds_trains_and_evaluates_with_the_plug_in(mmpo: Invoke, mine: Path, here: Path) -> None:
    checked = mmpo("recipe", "check", mine)
    assert checked.exit_code == 0, checked.output
    assert "build  absent_objects from" in checked.output and "eval   absent_yes" in checked.output

    result = mmpo("run", mine, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "4 of 4 sources" in result.output

    run = here / "out"
    pairs = list(read_pairs(run / "build/pairs"))
    assert len(pairs) == 6  # pictures with a dog lack two objects, those with a cat one
    assert {pair.chosen_text[:15] for pair in pairs} == {"No, there is no"}
    losses = [json.loads(line) for line in (run / "train/metrics.jsonl").open()]
    assert any("loss" in row for row in losses)
    card = json.loads((run / "eval/scorecard.json").read_text())
    assert [(row["benchmark"], row["metric"]) for row in card["rows"]] == [("absent_yes", "false_yes")]
    assert len((run / "eval/answers.jsonl").read_text().splitlines()) == 2 * 4  # four pictures, before and after

    # The family's record was used: ViP-LLaVA shares beginnings, an unknown model does not.
    assert FAMILIES["vipllava"].sharing
    assert "no record of" not in (run / "run.log").read_text()

    version = plugins.loaded()["absent_objects"].version
    assert json.loads((run / "versions.json").read_text())["plug-in absent_objects"] == version
    for step in ("build", "train", "eval"):
        assert json.loads((run / step / "step.json").read_text())["settings"]["plugins"] == {"absent_objects": version}
    assert yaml.safe_load((run / "recipe.yaml").read_text())["plugins"] == ["absent_objects"]


def test_single_commands_take_it_from_the_command_line_too(
    mmpo: Invoke, mine: Path, here: Path, new_process: Callable[[], None]
) -> None:
    text = mine.read_text().replace("plugins: [absent_objects]\n", "")
    mine.write_text(text)
    refused = mmpo("build", mine, "--out", "out")
    assert refused.exit_code == 2 and "mine.yaml:3: build.builder: should be one of" in refused.stderr
    for command in ("build", "train", "eval"):
        new_process()
        result = mmpo(command, mine, "--out", "out", "--set", "plugins=[absent_objects]")
        assert result.exit_code == 0, result.output
    again = mmpo("run", mine, "--out", "out", "--set", "plugins=[absent_objects]")
    assert again.stdout.count("done before") == 3

    new_process()
    merged = mmpo("export", "out", "merged", "--merge")
    assert merged.exit_code == 0, merged.output
    assert "absent_objects" in plugins.loaded()
    assert "plug-in absent_objects code " in (here / "merged/README.md").read_text()


def test_its_format_converts(mmpo: Invoke, here: Path, photos: Path, example: Path) -> None:
    rows = [{"photo": "0.png", "ask": "What is it?", "good": "A cat.", "bad": "A dog."}]
    (photos / "rows.json").write_text(json.dumps(rows))
    unknown = mmpo("convert", "photos/rows.json", "pairs")
    assert unknown.exit_code == 2 and "no known format" in unknown.stderr
    result = mmpo("convert", "photos/rows.json", "pairs", "--plugin", "absent_objects")
    assert result.exit_code == 0, result.output
    assert [pair.rejected_text for pair in read_pairs(here / "pairs")] == ["A dog."]


@pytest.mark.slow
def test_two_processes_train_with_it(mmpo: Invoke, mine: Path, here: Path, tiny_vip_folder: Path) -> None:
    """Every rank reads the recipe and imports the plug-in; loader workers too."""
    assert mmpo("build", mine, "--out", "out").exit_code == 0
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *("-m", "mmpo", "train", str(mine), "--out", "out", "--set", "train.workers=1"),
    ]
    path = os.pathsep.join([str(EXAMPLE / "src"), str(EXAMPLE.parents[1])])
    env = os.environ | {
        "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path,
        plugins.HANDED_ON: "",
    }  # fmt: skip
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr[-3000:]
    settings = json.loads((here / "out/train/step.json").read_text())["settings"]
    assert list(settings["plugins"]) == ["absent_objects"]
    assert (here / "out/train/adapter/adapter_model.safetensors").exists()
    assert "no record of" not in (here / "out/run.log").read_text()


def test_its_benchmark_scores_answers_made_elsewhere(mmpo: Invoke, here: Path, photos: Path, example: Path) -> None:
    """Four pictures with a dog or a cat, each asked for the other."""
    said = ["Yes.", "No.", "Yes, it is there.", "Hm."]
    rows = [{"id": f"{number}.png", "answer": text} for number, text in enumerate(said)]
    command = ["eval", "score", "absent_yes", "--answers", "answers.jsonl", "--annotations", "photos/annotations.jsonl"]
    command += ["--plugin", "absent_objects", "--json"]

    def scored(rows: list[dict[str, str]], *more: str) -> dict:
        (here / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = mmpo(*command, *more)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    found = scored([*rows, {"id": "9.png", "answer": "No."}])
    assert (found["false_yes"], found["unparsed"]) == (0.5, 1) and found["intervals"]["false_yes"][0] < 0.5
    assert (found["read"], found["scored"]) == (5, 4)
    fewer = scored(rows[1:], "--set", "parser=official")
    assert fewer["false_yes"] == 2 / 3  # the official rule takes what says neither for yes
    assert "parser official" in fewer["conventions"][0] and fewer["warnings"] == ["1 of 4 questions have no answer"]
    for option, message in (("parser=mine", "--set parser: Input should be"), ("mine=1", "has no option 'mine'")):
        refused = mmpo(*command, "--set", option)
        assert refused.exit_code == 2 and message in refused.stderr
