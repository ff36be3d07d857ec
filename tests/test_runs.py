"""Run folders: naming, steps that are done once, and refusal to mix settings."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.runs import RunFolder, choose_folder, differences, versions


class Work:
    """A step's work that counts how often it is done."""

    def __init__(self, **result: Any) -> None:
        self.result = result
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return self.result


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.open("name: x\n")
    return folder


def test_a_new_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    first = choose_folder("demo", out=None, resume=False, root=tmp_path)
    assert re.fullmatch(r"demo-\d{8}-\d{6}", first.name)
    first.mkdir()
    assert choose_folder("demo", out=None, resume=False, root=tmp_path) != first


def test_out_is_taken_as_it_is(tmp_path: Path) -> None:
    assert choose_folder("demo", out=tmp_path / "here", resume=False) == tmp_path / "here"


def test_out_must_be_a_run_or_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        choose_folder("demo", out=tmp_path / "file", resume=False)
    with pytest.raises(UserError, match="holds other files and no run"):
        choose_folder("demo", out=tmp_path, resume=False)
    (tmp_path / "recipe.yaml").write_text("")
    assert choose_folder("demo", out=tmp_path, resume=False) == tmp_path


def test_resume_takes_the_latest_run_of_this_recipe(tmp_path: Path) -> None:
    names = ["demo-20260101-000000", "demo-20260102-000000", "demo-other-20260103-000000"]
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1_000_000 + age, 1_000_000 + age))
    assert choose_folder("demo", out=None, resume=True, root=tmp_path).name == "demo-20260102-000000"
    with pytest.raises(UserError, match="no earlier run of other"):
        choose_folder("other", out=None, resume=True, root=tmp_path)
    with pytest.raises(UserError, match="there is no run in"):
        choose_folder("demo", out=tmp_path / "empty", resume=True)


def test_several_processes_need_a_named_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="agree on one folder"):
        choose_folder("demo", out=None, resume=False, root=tmp_path)


def test_opening_writes_recipe_and_versions(run: RunFolder) -> None:
    assert (run.path / "recipe.yaml").read_text() == "name: x\n"
    found = json.loads((run.path / "versions.json").read_text())
    assert found == versions()
    assert found["torch"].startswith("2.") and found["mmpo"]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "run").open("")


def test_other_processes_write_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    run = RunFolder(tmp_path / "run")
    run.open("name: x\n")
    assert run.step("train").do({}, Work(loss=1.0)) == {"loss": 1.0}
    assert not run.path.exists()


def test_a_complete_step_is_not_done_again(run: RunFolder) -> None:
    work = Work(pairs=3)
    assert run.step("build").state == "absent"
    assert run.step("build").do({"limit": 1}, work) == {"pairs": 3}
    assert run.step("build").do({"limit": 1}, work) == {"pairs": 3}
    assert work.times == 1
    assert run.step("build").state == "complete"


def test_a_step_that_failed_is_done_again(run: RunFolder) -> None:
    def stopped() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.step("build").do({}, stopped)
    assert run.step("build").state == "started"
    assert run.step("build").do({}, Work(pairs=1)) == {"pairs": 1}


def test_other_settings_are_refused_and_named(run: RunFolder) -> None:
    run.step("build").do({"limit": 1, "writer": {"style": "a"}}, Work())
    with pytest.raises(UserError, match=r"build\.writer\.style: 'a' -> 'b'") as error:
        run.step("build").do({"limit": 1, "writer": {"style": "b"}}, Work())
    assert "--out" in str(error.value.hint)


def test_a_step_knows_what_it_needs_and_what_that_was_made_from(run: RunFolder) -> None:
    settings = {"pairs": str(run.path / "build" / "pairs"), "model": "elsewhere"}
    assert run.step("train").needs(settings) == ["build"]
    run.step("build").do({"limit": 1}, Work())
    run.step("train").do(settings, Work())
    run.step("train").check(settings)
    (run.path / "build" / "step.json").unlink()
    run.step("build").do({"limit": 2}, Work())
    with pytest.raises(UserError, match="made from another build"):
        run.step("train").check(settings)


def test_a_moved_run_stays_the_same_run(run: RunFolder) -> None:
    run.step("build").do({}, Work())
    run.step("train").do({"pairs": str(run.path / "build" / "pairs")}, Work(steps=2))
    moved = RunFolder(run.path.rename(run.path.with_name("moved")))
    assert moved.step("train").do({"pairs": str(moved.path / "build" / "pairs")}, Work(steps=9)) == {"steps": 2}


def test_results_hold_paths_and_no_nan(run: RunFolder) -> None:
    result = run.step("eval").do({}, Work(adapter=Path("train/adapter"), loss=float("nan")))
    assert result == {"adapter": "train/adapter", "loss": None}
    assert run.write_results(("build", "eval")) == {"eval": result}
    assert json.loads((run.path / "results.json").read_text()) == {"eval": result}


def test_a_damaged_step_file_is_a_user_error(run: RunFolder) -> None:
    run.step("build").do({}, Work())
    (run.path / "build" / "step.json").write_text("{")
    with pytest.raises(UserError, match=r"step\.json:1: not valid JSON"):
        _ = run.step("build").state


def test_differences_name_the_keys() -> None:
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}) == ["b.c: 2 -> 3", "d: None -> 4"]
    assert differences([1], [1]) == []
