"""`mmpo diagnose` as people type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mmpo as face
from mmpo.diagnose.held_out import held_out_ids
from mmpo.diagnose.settings import HeldOut
from tests.cli.conftest import Invoke
from tests.diagnose.material import save_adapter
from tests.tiny import contents, save_tiny_llava
from tests.trainers.material import write_pairs

QUICK = ("--max-new-tokens", 3)


def test_a_run_knows_its_pairs_its_model_and_what_it_held_out(
    mmpo: Invoke, here: Path, twelve: Path, tiny_llava_folder: Path
) -> None:
    run = face.train(
        tiny_llava_folder, twelve, out="runs/a", max_steps=3, batch_size=2, learning_rate=0.02, samples={"n": 0},
        eval_fraction=0.3, objective={"dpo": {"beta": 0.3}}, logging_steps=1,
    ).run  # fmt: skip
    other = write_pairs(here / "other", 3, seed=5)
    shown = mmpo("diagnose", run, "--also", f"other={other}", *QUICK)
    assert shown.exit_code == 0, shown.output
    folder = run / "diagnose"
    data = json.loads((folder / "diagnose.json").read_text())
    assert data["beta"] == 0.3 and data["model"] == str(tiny_llava_folder)
    assert data["counts"]["pairs"] == {"in": 12, "diagnosed": 12} and data["counts"]["other"]["in"] == 3
    named = {one["name"]: one for one in data["readings"]}
    assert {"accuracy, trained on", "accuracy, held out", "accuracy, other", "divergence"} <= set(named)
    held = json.loads((folder / "held_out.json").read_text())["ids"]
    result = json.loads((run / "train/train_result.json").read_text())
    assert len(held) == result["eval_pairs"] > 0
    assert result["last_eval"]["eval_rewards/accuracies"] == pytest.approx(named["accuracy, held out"]["value"])
    assert "course" in {path.stem for path in folder.glob("*.svg")}
    for words in (
        "Ranking accuracy",
        "Perception gap",
        "12 in, 12 diagnosed",
        str(folder / "diagnose.md"),
        "to look at",
    ):
        assert words in shown.stdout, words
    before = contents(folder)
    again = mmpo("diagnose", run, "--also", f"other={other}", "--json", *QUICK)
    assert json.loads(again.stdout) == data and contents(folder) == before
    trained = json.loads(mmpo("diagnose", run / "train", "--also", f"other={other}", "--json", *QUICK).stdout)
    assert trained == data


def test_pairs_that_were_changed_since_count_as_not_held_out(twelve: Path, caplog: pytest.LogCaptureFixture) -> None:
    how = HeldOut(fraction=0.3, seed=0, pairs=4)
    found = held_out_ids(twelve, how)
    assert len(found) == 4 and not caplog.text
    assert held_out_ids(twelve, how.model_copy(update={"pairs": 3})) == frozenset()
    assert "the folder was changed since" in caplog.text


def test_pairs_before_a_training(mmpo: Invoke, here: Path, twelve: Path, tiny_llava_folder: Path) -> None:
    shown = mmpo(
        "diagnose", twelve, "--model", tiny_llava_folder, "--out", here / "out", "--without", "perception",
        "--without", "separability", "--limit", 6, "--agreement", 0.9, "--beta", 2,
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert "relative CHES" in shown.stdout and "6 in, 6 diagnosed" in shown.stdout
    assert "there is no adapter" in shown.stdout and "mmpo train RECIPE" in shown.stdout
    assert not (twelve / "diagnose").exists()
    assert json.loads((here / "out/diagnose.json").read_text())["agreement"] == 0.9


def test_mistakes_are_one_line_with_a_remedy(
    mmpo: Invoke, here: Path, twelve: Path, tiny_llava_folder: Path, adapter: Path, pairs: Path
) -> None:
    (here / "empty").mkdir()
    (here / "file").touch()
    begun = here / "begun"
    begun.mkdir()
    (begun / "recipe.yaml").write_text("name: x\n")
    model = ("--model", tiny_llava_folder)
    (here / "trl").mkdir()
    (here / "trl/rows.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    for words, told in (
        (("nowhere",), "nowhere: no such folder; a run or a folder of pairs belongs here"),
        (("file",), "file: a file; a run or a folder of pairs"),
        (("empty",), "empty: neither a run that trained nor a folder of pairs"),
        ((begun,), "a run without a finished training"),
        ((twelve,), "no model is named"),
        ((twelve, "--model", "absent/model"), "no such folder, and no such model in the local cache"),
        ((twelve, *model, "--adapter", "nowhere"), "nowhere: no such adapter folder"),
        ((twelve, *model, "--adapter", "empty"), "not an adapter"),
        ((twelve, *model, "--also", "x"), "NAME=FOLDER belongs here"),
        ((twelve, *model, "--adapter", adapter, "--also", f"pairs={twelve}"), "this name is taken"),
        ((twelve, *model, "--adapter", adapter, "--also", f"../x={twelve}"), "not a name"),
        ((twelve, *model, "--adapter", adapter, "--also", "x=empty"), "empty: no pairs of the split"),
        ((twelve, *model, "--adapter", adapter, "--also", f"x={twelve}", "--also", f"x={twelve}"), "comes twice"),
        ((twelve, *model, "--also", f"x={twelve}"), "--also compares what an adapter has learnt"),
        ((twelve, *model, "--without", "perception,luck"), "--without luck: no such part"),
        ((twelve, *model, "--out", "file"), "a folder belongs here"),
    ):
        shown = mmpo("diagnose", *words)
        assert shown.exit_code == 2, (words, shown.output)
        assert (told in shown.stderr and "hint:" in shown.stderr) or "a folder belongs here" in told, (
            words,
            shown.stderr,
        )
        assert len(shown.stderr.strip().splitlines()) <= 2 and not shown.stdout
    assert sorted(path.name for path in here.iterdir() if path.name.startswith("diag")) == []


def test_the_run_names_its_model_itself(mmpo: Invoke, here: Path, tiny_llava_folder: Path) -> None:
    folder = here / "run/train"
    folder.mkdir(parents=True)
    (folder / "train_result.json").write_text("{}")
    shown = mmpo("diagnose", here / "run", "--model", tiny_llava_folder)
    assert shown.exit_code == 2 and "a run names its model and adapter itself" in shown.stderr


PROGRAM = """
import sys
from mmpo.cli import main
from mmpo.diagnose import run
run.UNIT, run.PROMPTS = 8, 4
sys.exit(main())
"""


@pytest.mark.slow
def test_killed_for_good_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL right after files appear, again and again on what the one before left."""
    model, adapter = save_tiny_llava(tmp_path / "model"), save_adapter(tmp_path / "adapter")
    pairs = write_pairs(tmp_path / "pairs", 24)
    words = [sys.executable, "-c", PROGRAM, "diagnose", pairs, "--model", model, "--adapter", adapter, *map(str, QUICK)]
    subprocess.run([*words, "--out", tmp_path / "whole"], check=True, capture_output=True)
    killed = tmp_path / "killed"
    for file in ("numbers/pairs/00000.parquet", "numbers/pairs/00002.parquet", "samples/00003.json"):
        process = subprocess.Popen([*words, "--out", killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (killed / file).exists() and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, "it came to its end before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / "diagnose.json").exists()
    subprocess.run([*words, "--out", killed], check=True, capture_output=True)
    assert contents(killed) == contents(tmp_path / "whole")
