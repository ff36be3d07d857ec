"""A recipe in its rounds: models, references, seeds and places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.recipes import Recipe, complete
from mmpo.recipes.in_round import in_round
from mmpo.recipes.source import RecipeSource, override
from mmpo.settings import Settings

RUN = Path("runs/mine")


def recipe_of(rounds: Any, *settings: str, **more: Any) -> Recipe:
    data = {
        "name": "mine", "model": "base", "seed": 7, "rounds": rounds,
        "build": {"annotations": "a.jsonl"}, "train": {}, "eval": {"annotations": "b.jsonl"}, **more,
    }  # fmt: skip
    source = RecipeSource("mine.yaml", data)
    override(source, settings)
    return complete(source, run=RUN)


def test_a_number_alone_is_the_short_form() -> None:
    assert recipe_of(3).rounds == recipe_of({"number": 3}).rounds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "rounds.number: input should be greater than or equal to 1"),
        (True, "rounds: must be settings by name"),
        ("3", "rounds: must be settings by name"),
        ([], "rounds: must be settings by name"),
        (1.5, "rounds: must be settings by name"),
        ({}, "rounds.number: missing"),
        ({"number": 1000}, "less than or equal to 99"),
        ({"number": 2, "from": "base"}, "rounds.from: unknown key"),
        ({"number": 2, "stop": {"wrong": "claims"}}, "BENCHMARK.METRIC"),
        ({"number": 2, "stop": {"recall": "chair..Recall"}}, "BENCHMARK.METRIC"),
        ({"number": 2, "stop": {"least_fall": 1}}, "less than 1"),
        ({"number": 2, "stop": {"most_lost": -0.1}}, "greater than or equal to 0"),
        ({"number": 2, "train_from": "round 1"}, "'previous' or 'base'"),
    ],
)  # fmt: skip
def test_what_is_no_number_of_rounds_is_told(given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_of(given)
    assert message in error.value.message and error.value.message.count("\n") == 0


def test_the_first_round_is_the_recipe_itself_in_folders_of_its_own() -> None:
    plain, first = recipe_of(None), in_round(recipe_of(3), RUN, 1)
    assert plain.build is not None and plain.train is not None and plain.eval is not None
    assert first.build == plain.build
    assert first.train == plain.train.model_copy(update={"pairs": RUN / "build-1/pairs"})
    moved = {"adapter": str(RUN / "train-1/adapter"), "cache": str(RUN / "eval-answers")}
    assert first.eval == plain.eval.model_copy(update=moved)


def test_all_rounds_keep_what_evidence_found_in_one_folder() -> None:
    photos = {"builder": "candidates", "images": "photos", "evidence": [{"source": "self"}], "pairs": "best_worst"}
    for given, place in ((None, RUN / "evidence-findings"), ("elsewhere", Path("elsewhere"))):
        recipe = recipe_of(3, build={**photos, **({"evidence_cache": given} if given else {})})
        assert {in_round(recipe, RUN, number).build.evidence_cache for number in (1, 2, 3)} == {place}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("start", "reference", "model", "given"),
    [
        ("previous", "previous", "merge-2/model", None),
        ("previous", "fixed", "merge-2/model", {"adapter": None, "model": "base", "moving": None}),
        ("base", "fixed", "base", None),
        ("base", "previous", "base", {"adapter": str(RUN / "train-2/adapter"), "model": None, "moving": None}),
    ],
)
def test_a_later_round_has_the_model_the_reference_and_the_seeds_of_its_own(
    start: str, reference: str, model: str, given: Any
) -> None:
    recipe = recipe_of({"number": 4, "train_from": start, "reference": reference})
    third = in_round(recipe, RUN, 3)
    assert third.train is not None and third.eval is not None
    trained = str(RUN / model) if "/" in model else model
    assert third.build.model == str(RUN / "merge-2/model")  # type: ignore[union-attr]
    assert third.train.model == third.eval.model == trained
    found = third.train.reference
    assert (None if found is None else found.model_dump()) == given
    assert third.train.pairs == RUN / "build-3/pairs"
    assert third.eval.adapter == str(RUN / "train-3/adapter")
    assert third.eval.before == ("base" if start == "previous" else None)
    assert third.train.seed == third.build.seed == 2007  # type: ignore[union-attr]
    assert recipe.seed == 7 and third.eval.pope == recipe.eval.pope  # type: ignore[union-attr]


def test_settings_that_were_not_given_stay_defaults_and_those_given_stay() -> None:
    recipe = recipe_of(2, "train.objective={sft: {weight: 2}}", "train.seed=1", "eval.compare=none", "eval.cache=kept")
    second = in_round(recipe, RUN, 2)
    assert second.train is not None and second.eval is not None
    assert second.train.objective == {"sft": {"weight": 2}} and second.train.seed == 1001
    assert second.train.learning_rate == 5e-5 and "learning_rate" not in second.train.model_fields_set
    assert second.eval.compare is None and second.eval.before is None and second.eval.cache == "kept"


def test_only_the_runs_own_folders_of_sections_move() -> None:
    recipe = recipe_of(2, "eval.images=${run}/world/test", "train.eval_pairs=${run}/building/pairs")
    second = in_round(recipe, RUN, 2)
    assert second.eval is not None and second.train is not None
    assert second.eval.images == str(RUN / "world/test") and second.train.eval_pairs == RUN / "building/pairs"


class Judging(Settings):
    """A build whose claims are judged by several sources."""

    model: str
    seed: int = 0
    evidence: list[dict[str, Any]]


def test_evidence_from_the_model_itself_stays_with_the_first_model() -> None:
    sources = [{"source": "self"}, {"source": "detector", "model": "d"}, {"source": "self", "model": "other"}]
    recipe = recipe_of(2).model_copy(update={"build": Judging(model="base", evidence=sources)})
    first, second = (in_round(recipe, RUN, number).build for number in (1, 2))
    assert isinstance(first, Judging) and first.evidence == sources
    assert isinstance(second, Judging) and second.model == str(RUN / "merge-1/model")
    assert second.evidence == [{"source": "self", "model": "base"}, *sources[1:]]
