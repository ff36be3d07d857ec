"""`mmpo select`, the recipe's section between build and train, and the order that reaches training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.pair import PreferencePair
from mmpo.data.reader import read_pairs
from mmpo.data.shards import PairWriter
from mmpo.errors import UserError
from mmpo.preflight import examine
from mmpo.recipes import load
from mmpo.recipes.source import parse
from mmpo.select.settings import select_settings
from mmpo.trainers import train as training
from mmpo.trainers.order import in_order
from mmpo.trainers.settings import TrainSettings
from tests.cli.conftest import Invoke
from tests.trainers.material import make_pairs, settings_for


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Twelve pairs with scores: the gap is 0 to 11."""
    folder = tmp_path / "scored"
    with PairWriter(folder, recipe={"test": 1}) as writer:
        for number, pair in enumerate(make_pairs(12)):
            writer.add(PreferencePair(**{**vars(pair), "scores": {"chosen": float(number % 3), "rejected": 0.0}}))
    return folder


def test_a_folder_of_pairs(mmpo: Invoke, scored: Path) -> None:
    by = "dual_margin: {implicit: false, fusion: sum, keep: 0.5}"
    done = mmpo("select", scored, "--by", by, "--out", "run")
    assert done.exit_code == 0, done.output
    assert "dual_margin: 6 of 12 (6 below)" in done.stdout
    assert "mean margin chosen - rejected: 1.000 -> 1.667" in done.stdout
    assert sum(1 for _ in read_pairs("run/select/pairs")) == 6
    again = mmpo("select", scored, "--by", by, "--out", "run")
    assert again.exit_code == 0 and "done before" in again.stdout
    shown = mmpo("inspect", "run")
    assert "select: complete" in shown.stdout and "run/select/pairs" in shown.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--by is missing"),
        (["--by", "[1]"], "no selector"),
        (["--by", "length_balence"], "did you mean length_balance"),
        (["--by", "reference_gap"], "nothing gives them"),
        (["--by", "consensus: {judges: [{margin: a}, {margin: b}]}"], "the pairs have no score 'a'"),
        (["--by", "wpo", "--set", "select.model=nowhere/model"], "nowhere/model"),
        (["--by", "wpo", "--set", "select.logps=nowhere.parquet"], "nowhere.parquet: no such file"),
        (["--by", "length_balance: {within: -1}"], "greater than or equal to 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    mmpo: Invoke,
    scored: Path,
    here: Path,
    words: list[str],
    told: str,
) -> None:
    done = mmpo("select", scored, *words, "--out", "run")
    assert done.exit_code == 2
    assert told in done.stderr.replace("\n", " ").replace("  ", " ")
    assert not (here / "run").exists()


def test_by_belongs_to_pairs(mmpo: Invoke, recipe: Path) -> None:
    done = mmpo("select", recipe, "--by", "wpo")
    assert done.exit_code == 2 and "--by belongs to a folder of pairs" in done.stderr
    done = mmpo("select", "nowhere", "--by", "wpo")
    assert done.exit_code == 2 and "nowhere: no such folder" in done.stderr


def test_a_selection_that_keeps_nothing_says_so(mmpo: Invoke, scored: Path) -> None:
    done = mmpo("select", scored, "--by", "length_balance: {ratio: [8, 9]}", "--out", "run")
    assert done.exit_code == 2 and "kept no pairs" in done.stderr
    assert "12 ratio" in done.stdout


def test_the_line_of_a_mistake(scored: Path, tmp_path: Path) -> None:
    text = f"""\
name: mine
select:
  pairs: {scored}
  by:
    - length_balance
    - dual_margin:
        external: {{chosen: rating, rejected: rating}}
        implicit: false
        kep: 0.5
"""
    with pytest.raises(UserError) as caught:
        examine(parse(text, "my.yaml"), run=tmp_path / "run")
    told = str(caught.value)
    assert "my.yaml:9: select.by.1.dual_margin.kep: unknown key; did you mean keep?" in told
    assert "my.yaml:6: select.by.1.dual_margin: the pairs have no score 'rating'" in told


def test_train_takes_the_selected_pairs(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    both = "build: {annotations: a.jsonl, model: m}\ntrain: {model: m}\n"
    file.write_text(both)
    assert load(str(file), run=tmp_path / "run").train.pairs == tmp_path / "run/build/pairs"  # type: ignore[union-attr]
    file.write_text(both + "select: {by: [length_balance]}\n")
    found = load(str(file), run=tmp_path / "run")
    assert found.select is not None and found.train is not None
    assert found.sections() == ("build", "select", "train")
    assert found.select.pairs == tmp_path / "run/build/pairs"
    assert found.train.pairs == tmp_path / "run/select/pairs"


def test_run_selects_between_build_and_train(mmpo: Invoke, here: Path, scored: Path, tiny_llava_folder: Path) -> None:
    file = here / "small.yaml"
    file.write_text(
        f"""\
model: {tiny_llava_folder}
select:
  pairs: {scored}
  by: [curry]
train:
  max_steps: 2
  batch_size: 2
  eval_fraction: 0
  samples: {{n: 0}}
"""
    )
    done = mmpo("run", file, "--out", "run")
    assert done.exit_code == 0, done.output
    assert "ordered for training, in stages of" in done.stdout
    result = json.loads(Path("run/results.json").read_text())
    assert (result["select"]["pairs_kept"], result["train"]["pairs"]) == (12, 12)
    assert "a curriculum; trained in this order" in Path("run/run.log").read_text()


def test_the_order_of_a_curriculum_reaches_training(
    scored: Path, tmp_path: Path, tiny_llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmpo.select.run import select

    by = [{"rank_difference": {"add": False}}]
    select(select_settings().model_validate({"pairs": str(scored), "by": by}), tmp_path / "out")
    pairs = tmp_path / "out/pairs"
    wanted = [pair.id for pair in read_pairs(pairs)]
    assert [pair.scores["stage"] for pair in read_pairs(pairs) if pair.scores] == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    met: list[str] = []

    class Watched(training.PairCollator):
        def __call__(self, rows: Any) -> Any:
            met.extend(row.id for row in rows)
            return super().__call__(rows)

    monkeypatch.setattr(training, "PairCollator", Watched)

    def trained(name: str, **more: Any) -> list[str]:
        met.clear()
        settings = settings_for(tiny_llava_folder, pairs, batch_size=3, eval_fraction=0, epochs=1, **more)
        training.train(settings, tmp_path / name)
        return met[-12:]

    assert trained("left-out") == wanted
    shuffled = trained("shuffled", order="shuffled")
    assert sorted(shuffled) == sorted(wanted) and shuffled != wanted


def test_order_is_what_is_said_else_what_the_card_says(scored: Path, caplog: pytest.LogCaptureFixture) -> None:
    def of(**more: Any) -> bool:
        return in_order(TrainSettings.model_validate({"model": "m", "pairs": str(scored), **more}))

    assert not of() and of(order="given") and not of(order="shuffled")
    card = json.loads((scored / "card.json").read_text())
    card["splits"]["train"]["recipe"]["order"] = "given"
    (scored / "card.json").write_text(json.dumps(card))
    with caplog.at_level(logging.INFO):
        assert of() and not of(order="shuffled") and not of(group_images=True)
    with pytest.raises(ValueError, match="two orders"):
        of(order="given", group_images=True)


# ---- the demo

BY = "[{reference_gap: {keep: 0.5}}, {wpo: {keep: 0.9}}, length_balance]"


@pytest.mark.slow
def test_demo_pairs_by_the_demo_model(mmpo: Invoke) -> None:
    """Real pairs of the demo world, scored by the demo's model."""
    few = ["--set", "build.limit=12", "--set", f"select={{by: {BY}}}", "--out", "run"]
    for section in ("build", "select"):
        done = mmpo(section, "demo", *few)
        assert done.exit_code == 0, done.output
    result = json.loads(Path("run/select/select_result.json").read_text())
    table = result["counts"]["pairs"]
    assert table["in"] == sum(1 for _ in read_pairs("run/build/pairs")) == sum(table.values()) - table["in"]
    assert table["kept"] == sum(1 for _ in read_pairs("run/select/pairs")) > 0
    gap, weight, _ = result["steps"]
    assert gap["kept"] == table["in"] // 2 and not set(gap["dropped"]) - {"below"}
    assert weight["kept"] == int(gap["kept"] * 0.9 + 1e-9)
    assert all(pair.scores["wpo_weight"] > 0 for pair in read_pairs("run/select/pairs") if pair.scores)
    assert abs(result["after"]["length_difference"]) <= 0.02 * result["after"]["rejected_words"] + 1e-9
