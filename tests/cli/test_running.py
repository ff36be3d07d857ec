"""Runs of a real recipe on a tiny model: what is written and printed, what is done once, and how to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from mmpo.cli import console
from mmpo.progress_display import BarReporter, LineReporter, duration
from tests.cli.conftest import Invoke


def test_a_run_trains_evaluates_and_says_where_everything_is(mmpo: Invoke, recipe: Path, here: Path) -> None:
    result = mmpo("run", recipe, "--out", "out")
    assert result.exit_code == 0, result.output

    run = here / "out"
    resolved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert resolved["eval"]["adapter"] == "out/train/adapter"
    assert json.loads((run / "versions.json").read_text())["transformers"]
    assert (run / "train/adapter/adapter_model.safetensors").exists()
    assert "train is complete" in (run / "run.log").read_text()
    results = json.loads((run / "results.json").read_text())
    assert results["train"]["steps"] == 2
    assert {row["benchmark"] for row in results["eval"]["rows"]} == {"pope"}

    assert "adapter: out/train/adapter" in result.stdout
    assert "before [95%]" in result.stdout
    assert result.stdout.rstrip().splitlines()[-2].startswith("  ")
    assert "next" in result.stdout

    again = mmpo("run", recipe, "--out", "out")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("done before") == 2
    assert "before [95%]" in again.stdout


def test_resume_false_does_a_complete_step_again(mmpo: Invoke, recipe: Path, here: Path) -> None:
    assert mmpo("train", recipe, "--out", "out").exit_code == 0
    adapter = here / "out/train/adapter/adapter_model.safetensors"
    before = adapter.read_bytes()
    adapter.write_bytes(b"")
    kept = mmpo("train", recipe, "--out", "out")
    assert "done before" in kept.stdout and adapter.read_bytes() == b""
    again = mmpo("train", recipe, "--out", "out", "--set", "train.resume=false")
    assert again.exit_code == 0, again.output
    assert "done before" not in again.stdout and "continuing" not in again.stdout
    assert adapter.read_bytes() == before
    other = mmpo("train", recipe, "--out", "out", "--set", "train.resume=false", "--set", "train.seed=5")
    assert other.exit_code == 0, other.output
    assert adapter.read_bytes() != before


def test_one_section_at_a_time_prints_the_command_for_the_next(mmpo: Invoke, recipe: Path, here: Path) -> None:
    early = mmpo("eval", recipe, "--out", "out")
    assert early.exit_code == 2
    assert "eval uses what train makes, and train is not complete in out" in early.stderr

    trained = mmpo("train", recipe, "--out", "out", "--set", "train.seed=3")
    assert trained.exit_code == 0, trained.output
    next_command = trained.stdout.rstrip().splitlines()[-1].split()
    assert next_command == ["mmpo", "eval", str(recipe), "--set", "train.seed=3", "--out", "out"]
    evaluated = mmpo(*next_command[1:])
    assert evaluated.exit_code == 0, evaluated.output
    assert "train" in json.loads((here / "out/results.json").read_text())


def test_what_is_missing_is_said_before_anything_is_drawn(mmpo: Invoke, here: Path) -> None:
    result = mmpo("eval", "demo", "--out", "out")
    assert result.exit_code == 2
    assert "eval uses what train makes, and train is not complete in out" in result.stderr
    assert not (here / "out").exists()


def test_a_build_without_pairs_stops_and_says_why(mmpo: Invoke, recipe: Path, photos: Path, here: Path) -> None:
    with recipe.open("a") as file:
        file.write(f"build: {{annotations: {photos}/annotations.jsonl, max_new_tokens: 4}}\n")
    for _ in range(2):  # the second time from the finished step
        result = mmpo("run", recipe, "--out", "out")
        assert result.exit_code == 2
        assert "no pair from 12 descriptions: " in result.stdout
        assert "error: the build made no pairs" in result.stderr
        assert "out/build/pairs/rejects.jsonl" in result.stderr
    assert (here / "out/build/pairs/rejects.jsonl").exists()


def test_settings_that_change_no_result_may_change(mmpo: Invoke, recipe: Path) -> None:
    assert mmpo("train", recipe, "--out", "out").exit_code == 0
    result = mmpo("train", recipe, "--out", "out", "--set", "train.keep_checkpoints=1")
    assert result.exit_code == 0, result.output
    assert "done before" in result.stdout


def test_the_demo_world_is_drawn_where_a_recipe_names_it(mmpo: Invoke, recipe: Path, here: Path) -> None:
    from mmpo.cli.demo_world import DemoWorld
    from mmpo.recipes import load
    from mmpo.runs import RunFolder

    run = RunFolder(here / "out")
    text = recipe.read_text().replace(f"{here}/photos", "${demo.world}/test")
    (here / "world.yaml").write_text(text)
    resolved = load("world.yaml", run=run.path, inputs=DemoWorld.names(run.path))
    assert resolved.eval is not None and resolved.eval.images == f"{run.path}/world/test"
    DemoWorld({"train": 2, "test": 3}).draw(run, resolved)
    assert [folder.name for folder in (run.path / "world").iterdir() if folder.is_dir()] == ["test"]
    assert len((run.path / "world/test/annotations.jsonl").read_text().splitlines()) == 3
    assert run.step("eval").needs(resolved.eval.model_dump(mode="json")) == ["train", "world"]

    ordinary = load(str(recipe), run=here / "other")
    DemoWorld().draw(RunFolder(here / "other"), ordinary)
    assert not (here / "other").exists()


def test_other_settings_on_the_same_folder_are_refused(mmpo: Invoke, recipe: Path) -> None:
    assert mmpo("train", recipe, "--out", "out").exit_code == 0
    result = mmpo("train", recipe, "--out", "out", "--set", "train.learning_rate=1e-3")
    assert result.exit_code == 2
    assert "out/train was made with other settings: train.learning_rate: 5e-05 -> 0.001" in result.stderr


def test_a_missing_section_is_named(mmpo: Invoke, recipe: Path, here: Path) -> None:
    result = mmpo("build", recipe)
    assert result.exit_code == 2
    assert "the recipe small has no `build:` section\n  hint: it has: train, eval" in result.stderr
    (here / "empty.yaml").write_text("name: empty\n")
    assert "there is nothing to run" in mmpo("run", "empty.yaml").stderr


def test_resume_continues_the_latest_run(mmpo: Invoke, recipe: Path, here: Path) -> None:
    assert mmpo("train", recipe).exit_code == 0
    (run,) = (here / "runs").iterdir()
    resumed = mmpo("run", recipe, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert list((here / "runs").iterdir()) == [run]
    assert "training (done before, in" in resumed.stdout


def test_a_users_mistake_found_by_a_stage_is_one_line(mmpo: Invoke, recipe: Path) -> None:
    result = mmpo("train", recipe, "--out", "out", "--set", "model=./nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --set model=./nowhere: model: ./nowhere: no such model folder")


def test_an_unforeseen_error_points_to_the_log(
    mmpo: Invoke, recipe: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmpo.trainers.train as stage

    def broken(settings: object, run_dir: Path) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr(stage, "train", broken)
    result = mmpo("train", recipe, "--out", "out")
    assert result.exit_code == 1
    assert "error: ZeroDivisionError: by hand" in result.stderr
    assert "out/run.log" in result.stderr
    assert "Traceback" in (here / "out/run.log").read_text()
    assert "Traceback" not in result.output


def test_ctrl_c_says_how_to_continue_and_continuing_works(mmpo: Invoke, recipe: Path, here: Path) -> None:
    words = ["run", str(recipe), "--out", "out", "--set", "train.max_steps=4000", "--set", "train.save_steps=2"]
    with (here / "stdout").open("w") as stdout, (here / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmpo", *words],
            cwd=here,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit SIG_IGN
        )
        try:
            checkpoints = here / "out/train/checkpoints"
            patience = time.monotonic() + 300  # on an idle machine it takes seconds
            while not (checkpoints.is_dir() and any(checkpoints.iterdir())):
                assert process.poll() is None and time.monotonic() < patience, (here / "stderr").read_text()
                time.sleep(0.1)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
    said = (here / "stderr").read_text()
    assert "Traceback" not in said
    command = said.partition("continue with: ")[2].strip().split()
    assert command == ["mmpo", "run", str(recipe), *words[4:], "--out", "out"]
    assert json.loads((here / "out/train/step.json").read_text())["state"] == "started"


def test_several_processes_only_train(mmpo: Invoke, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = mmpo("eval", recipe, "--out", "out", "--set", "eval.adapter=null")
    assert result.exit_code == 2
    assert "eval runs in one process" in result.stderr


def test_lines_report_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from mmpo import progress

    with progress.reporting(LineReporter(console.out)):
        assert list(progress.track("abc", "counting")) == ["a", "b", "c"]
        with progress.task("half", 10) as running:
            running.advance(5, "loss 0.5")
        with pytest.raises(ZeroDivisionError), progress.task("failing"):
            raise ZeroDivisionError
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["  counting: 3/3, 0.0 s", "  half: 5/10, 0.0 s, loss 0.5", "  failing: 0, 0.0 s, stopped"]


def test_bars_report_progress_on_a_terminal() -> None:
    import io

    from rich.console import Console

    from mmpo import progress

    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    with progress.reporting(BarReporter(terminal)):
        for _ in progress.track(range(3), "first [x]"):
            with progress.task("inner") as running:
                running.advance(2, "loss 0.5")
        list(progress.track([], "empty"))
    text = screen.getvalue()
    assert "first [x]" in text and "3/3" in text and "inner" in text and "loss 0.5" in text and "empty" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.9, "59.9 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_step_that_failed_before_any_work_is_corrected_in_its_folder(mmpo: Invoke, recipe: Path, here: Path) -> None:
    wrong = mmpo("train", recipe, "--out", "out", "--set", "train.model=nowhere")
    assert wrong.exit_code == 2, wrong.output
    assert mmpo("train", recipe, "--out", "out", "--set", "train.max_steps=1").exit_code == 0
    later = mmpo("train", recipe, "--out", "out")
    assert later.exit_code == 2 and "other settings: train.max_steps: 1 -> 2" in later.stderr
