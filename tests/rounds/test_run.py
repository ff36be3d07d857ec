"""Rounds of build, train and eval by `mmpo run` on a tiny model: what is made, from what, and how it goes on."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mmpo.files.atomic import read_json
from tests.faults.commands import World
from tests.rounds.conftest import ON, OUT, RunIn, made


def step(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(out / name / "step.json")
    return found


def test_every_round_is_made_from_the_one_before(two_rounds: tuple[Path, Result]) -> None:
    out, result = two_rounds
    names = ["build-1", "train-1", "eval-1", "merge-1", "build-2", "train-2", "eval-2"]
    assert all(step(out, name)["state"] == "complete" for name in names) and not (out / "merge-2").exists()
    assert {*step(out, "build-2")["inputs"]} == {"merge-1"}
    assert {*step(out, "train-2")["inputs"]} == {"merge-1", "build-2"}
    assert {*step(out, "eval-2")["inputs"]} == {"merge-1", "train-2"}
    assert step(out, "build-2")["settings"]["model"] == "${run}/merge-1/model"
    assert step(out, "train-2")["settings"]["seed"] == 1000
    # The policy begins as the reference, which is the model that the round began with.
    assert step(out, "train-2")["result"]["first_eval"]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    results = read_json(out / "results.json")
    assert [*results] == [*names, "rounds"] and results["rounds"] == read_json(out / "rounds.json")
    said = [line for line in result.stdout.splitlines() if line.startswith("round ")]
    assert said[3].startswith("round 2 of 2, merge:") and said[-1].startswith("round 2 of 2, eval:")
    assert result.stdout.rstrip().splitlines()[-1].split() == ["mmpo", "export", "out", "my-model", "--merge"]


def test_a_selection_is_made_in_every_round(run_in: RunIn, rounds_world: World) -> None:
    result = run_in("selecting", "run", *ON, "--set", "select={by: [length_balance]}", "--set", "eval=null")
    assert result.exit_code == 0, result.output
    out = rounds_world.folder / "selecting" / OUT
    for number in (1, 2):
        assert step(out, f"select-{number}")["settings"]["pairs"] == f"${{run}}/build-{number}/pairs"
        assert step(out, f"train-{number}")["settings"]["pairs"] == f"${{run}}/select-{number}/pairs"
    assert {*step(out, "train-2")["inputs"]} == {"merge-1", "select-2"}
    assert f"pairs: {OUT / 'select-2' / 'pairs'}" in result.stdout


def test_all_rounds_are_measured_on_the_same_pictures_and_the_first_model_once(
    two_rounds: tuple[Path, Result],
) -> None:
    out, _ = two_rounds
    table = read_json(out / "rounds.json")
    assert table["models"] == ["base", "round 1", "round 2"] and table["stopped"] is None
    cards = [read_json(out / name / "scorecard.json") for name in ("eval-1", "eval-2")]
    for number, row in enumerate(table["rows"]):
        first, second = (card["rows"][number] for card in cards)
        assert row["values"] == [first["before"], first["after"], second["after"]]
        assert first["before"] == second["before"] and second["change"] == row["changes"][2]
    assert cards[0]["before"] is None and cards[1]["before"] == cards[0]["model"] != cards[1]["model"]
    assert "before" in read_json(out / "eval-1/engine.json") and "before" not in read_json(out / "eval-2/engine.json")
    assert "| CHAIR CHAIR_i ↓ |" in (out / "rounds.md").read_text()


def test_what_is_done_is_not_done_again_and_more_rounds_can_follow(
    run_in: RunIn, two_rounds: tuple[Path, Result]
) -> None:
    out, _ = two_rounds
    before = made(out)
    again = run_in("whole", "run", *ON)
    assert again.exit_code == 0 and again.stdout.count("(done before") == 7
    assert made(out) == before
    for command, name in (("build", "build-2"), ("train", "train-2"), ("eval", "eval-2")):
        last = run_in("whole", command, *ON)
        assert last.exit_code == 0 and f"(done before, in out/{name})" in last.stdout, last.output
    other = run_in("whole", "run", *ON, "--set", "rounds.train_from=base")
    assert other.exit_code == 2 and "out/train-2 was made with other settings: train-2.model" in other.stderr
    assert made(out) == before


@pytest.mark.slow
def test_one_round_is_a_run_without_rounds(run_in: RunIn, rounds_world: World) -> None:
    for name, number in (("none", "null"), ("one", "1")):
        result = run_in(name, "run", "--set", f"rounds={number}")
        assert result.exit_code == 0, result.output
    none, one = (made(rounds_world.folder / name / "out") for name in ("none", "one"))
    assert {one.pop("rounds.json") != b"", one.pop("rounds.md") != b""} == {True}
    renamed = {_plain(name): _plain(value) for name, value in one.items()}
    # the folder of the shared answers decides no result
    assert renamed.keys() == none.keys()
    assert [name for name, value in renamed.items() if value != none[name]] == []


def _plain(value: Any) -> Any:
    """Without the numbers of rounds in the names of folders."""
    for section in ("build", "train", "eval"):
        if isinstance(value, bytes):
            value = value.replace(f"{section}-1/".encode(), f"{section}/".encode())
        elif isinstance(value, str):
            value = value.replace(f"{section}-1/", f"{section}/")
    return value


class Killed(BaseException):
    """Stands for the end of the process."""


DEATHS: dict[str, tuple[str, str, int]] = {
    "merge-1": ("mmpo.trainers.export", "card", 1),
    "build-2": ("mmpo.data_builders.hallucination.generations:GenerationCache", "descriptions", 2),
    "train-2": ("mmpo.trainers.preference:PreferenceTrainer", "training_step", 4),
    "eval-2": ("mmpo.eval.answers:AnswerLog", "add", 3),
}
"""Inside each step: the call that never returns (module, or module and class; name; the how-manieth)."""


def _die(monkeypatch: pytest.MonkeyPatch, where: str, name: str, when: int) -> None:
    """The process ends in the `when`-th call; with `when` 0 behind the first."""
    module, _, inside = where.partition(":")
    owner = getattr(import_module(module), inside) if inside else import_module(module)
    real, calls = getattr(owner, name), []

    def dying(*args: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == when:
            raise Killed
        result = real(*args, **options)
        if when == 0:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.slow  # each step's own tests kill it; this one shows that rounds add nothing to that
def test_killed_inside_every_step_it_goes_on_to_the_same_bytes(
    run_in: RunIn, rounds_world: World, two_rounds: tuple[Path, Result]
) -> None:
    """Each step of the second round, and the merge, is killed once; the run that goes on ends as one never touched."""
    whole, _ = two_rounds
    out = rounds_world.folder / "killed" / "out"
    assert run_in("killed", "run", *ON, "--set", "rounds.number=1").exit_code == 0
    behind = ("merge-1", ("mmpo.trainers.export", "export", 0))  # all is written, and nothing says so yet
    for name, death in [behind, *DEATHS.items()]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            _die(monkeypatch, *death)
            with pytest.raises(Killed):
                run_in("killed", "run", *ON)
        assert step(out, name)["state"] == "started"
    result = run_in("killed", "run", *ON)
    assert result.exit_code == 0 and "round 2 of 2, eval: evaluating, continuing" in result.stdout
    killed, untouched = made(out), made(whole)
    assert killed.keys() == untouched.keys()
    assert [name for name in killed if killed[name] != untouched[name]] == []


@pytest.mark.slow
def test_single_sections_follow_the_rounds_and_say_what_is_missing(
    run_in: RunIn, rounds_world: World, two_rounds: tuple[Path, Result]
) -> None:
    whole, _ = two_rounds
    out = rounds_world.folder / "single" / "out"
    early = run_in("single", "train", *ON)
    assert early.exit_code == 2 and "train-1 uses what build-1 makes, and build-1 is not complete" in early.stderr
    assert "hint: run build there first" in early.stderr
    for command in ("build", "train", "eval"):
        result = run_in("single", command, *ON)
        assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().splitlines()[-1].split()[:2] == ["mmpo", "build"]
    early = run_in("single", "eval", *ON)
    assert early.exit_code == 2 and "eval-2 uses what train-2 makes" in early.stderr
    result = run_in("single", "build", *ON)
    assert result.exit_code == 0 and "round 2 of 2, merge:" in result.stdout, result.output
    both = [made(folder) for folder in (out, whole)]
    done = [name for name in both[0] if name.startswith(("build", "train-1", "eval-1", "merge"))]
    assert len(done) > 20 and [name for name in done if both[0][name] != both[1][name]] == []


def test_rounds_stop_when_wrong_claims_no_longer_fall(run_in: RunIn, rounds_world: World) -> None:
    out = rounds_world.folder / "stopped" / "out"
    result = run_in("stopped", "run", "--set", "rounds=3", "--set", "train.learning_rate=1e-9")
    assert result.exit_code == 0, result.output
    assert (out / "eval-1").exists() and not (out / "merge-1").exists() and not (out / "build-2").exists()
    reason = read_json(out / "results.json")["rounds"]["stopped"]
    assert reason.startswith("chair.CHAIRs") and reason.endswith("no fall by 10 % of itself")
    told = " ".join(result.stdout.split())
    assert f"no further round: {reason}" in told
    assert f"No further round: {reason}." in (out / "rounds.md").read_text()
    over = run_in("stopped", "build", "--set", "rounds=3", "--set", "train.learning_rate=1e-9")
    assert over.exit_code == 0 and "(done before" in over.stdout


def test_export_takes_the_last_round(run_in: RunIn, two_rounds: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = two_rounds
    result = run_in("whole", "export", OUT, tmp_path / "whole", "--merge")
    assert result.exit_code == 0, result.output
    from mmpo.trainers.export import finished

    assert finished(out).folder == out / "train-2"
    assert "CHAIR" in (tmp_path / "whole/README.md").read_text()
    adapter = run_in("whole", "export", OUT, tmp_path / "adapter")
    assert adapter.exit_code == 0 and "belongs on out/merge-1/model" in adapter.stderr


def test_another_model_stands_before_though_no_cache_has_its_answers(
    run_in: RunIn, rounds_world: World, two_rounds: tuple[Path, Result]
) -> None:
    whole, _ = two_rounds
    base = read_json(whole / "eval-1/scorecard.json")["model"]
    changes = {"model": whole / "merge-1/model", "adapter": whole / "train-2/adapter", "before": base}
    result = run_in("before", "eval", *(w for key, value in changes.items() for w in ("--set", f"eval.{key}={value}")))
    assert result.exit_code == 0, result.output
    out = rounds_world.folder / "before" / OUT / "eval"
    assert read_json(out / "scorecard.json")["rows"] == read_json(whole / "eval-2/scorecard.json")["rows"]
    assert {*read_json(out / "engine.json")} == {"before", "after"}


@pytest.mark.usefixtures("two_rounds")
def test_a_run_folder_shows_its_rounds(run_in: RunIn) -> None:
    shown = run_in("whole", "inspect", OUT).stdout
    names = [line.split(":")[0].strip() for line in shown.splitlines() if ": complete" in line]
    assert names == ["build-1", "train-1", "eval-1", "merge-1", "build-2", "train-2", "eval-2"]
    assert "round 2" in shown


@pytest.mark.slow
@pytest.mark.parametrize(("start", "reference"), [("previous", "fixed"), ("base", "previous"), ("base", "fixed")])
def test_each_start_and_reference_trains_against_what_it_says(
    run_in: RunIn, rounds_world: World, start: str, reference: str
) -> None:
    name = f"{start}-{reference}"
    settings = (*ON, "--set", f"rounds.train_from={start}", "--set", f"rounds.reference={reference}")
    result = run_in(name, "run", *settings, "--set", "train.learning_rate=1e-3")
    assert result.exit_code == 0, result.output
    loss = step(rounds_world.folder / name / "out", "train-2")["result"]["first_eval"]["eval_loss"]
    same = start == "base" and reference == "fixed"
    assert (abs(loss - math.log(2)) < 1e-6) == same
