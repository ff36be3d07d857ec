"""Every selector on a table made by hand, and chains of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mmpo.errors import UserError
from mmpo.select.chain import Decision, decide
from mmpo.select.curricula import added, curry_stages, gap_buckets
from mmpo.select.registry import SELECTORS, Choice, SelectorSettings, selector
from mmpo.select.settings import select_settings
from mmpo.select.table import PairTable


def table(prompts: list[int] | None = None, **columns: list[float]) -> PairTable:
    """A table with these columns (`scores_x` is `scores.x`); sides of ten words where none are given."""
    n = len(next(iter(columns.values())))
    named = {name.replace("scores_", "scores."): np.array(values, float) for name, values in columns.items()}
    named = {"chosen_words": np.full(n, 10.0), "rejected_words": np.full(n, 10.0)} | named
    return PairTable(n, named, None if prompts is None else np.array(prompts))


def chosen(by: Any, of: PairTable, **more: Any) -> Decision:
    found = decide(select_settings().model_validate({"pairs": "x", "by": by, **more}), of)
    lost = sum(sum(report.dropped.values()) for report in found.reports)
    assert len(found.kept) + lost == of.n == found.reports[0].pairs_in
    for one, next_ in zip(found.reports, [*found.reports[1:], None], strict=True):
        assert one.pairs_in == one.kept + sum(one.dropped.values())
        assert one.kept == (len(found.kept) if next_ is None else next_.pairs_in)
    assert (found.code >= 0).sum() == lost
    return found


def why(found: Decision) -> list[str]:
    return ["kept" if code < 0 else "/".join(found.reasons[code]) for code in found.code]


# D = (W - Wr) - (L - Lr): 4, 1, -3, 0
LOGPS: dict[str, list[float]] = {
    "policy_chosen": [-10, -20, -30, -8], "ref_chosen": [-12, -20, -28, -8],
    "policy_rejected": [-15, -22, -20, -9], "ref_rejected": [-13, -21, -21, -9],
    "chosen_lengths": [4, 10, 7, 8], "rejected_lengths": [2, 7, 7, 3],
}  # fmt: skip


def test_dual_margin_by_sum() -> None:
    of = table(scores_chosen=[1, 9, 2, 5], scores_rejected=[0, 1, 1, 5], **LOGPS)  # m = 1, 8, 1, 0; sums 5, 9, -2, 0
    found = chosen([{"dual_margin": {"fusion": "sum", "keep": 0.5}}], of)
    assert why(found) == ["kept", "kept", "dual_margin/below", "dual_margin/below"]
    assert found.before.margins["chosen - rejected"] == 2.5
    assert found.before.margins["implicit"] == 0.5
    assert found.after.margins["implicit"] == 2.5


def test_dual_margin_by_probabilities() -> None:
    """M2 of four margins is the greatest: 8 and 4. P of m 1, 8, 1, 0: .3, 1, .3, .2; of D 4, 1, -3, 0: 1, .5, 0, 1/3.
    Fused: .3/(.3 + 0) = 1, 1, 0, and (.2/3)/(.2/3 + .8 * 2/3) = 1/9."""
    of = table(scores_chosen=[1, 9, 2, 5], scores_rejected=[0, 1, 1, 5], **LOGPS)
    found = chosen([{"dual_margin": {"keep": 3}}], of)
    assert why(found) == ["kept", "kept", "dual_margin/below", "kept"]
    assert found.reports[0].figures == {"M2 of chosen - rejected": 8.0, "M2 of implicit": 4.0}


def test_a_margin_that_ends_below_m1_is_told() -> None:
    of = table(scores_chosen=[-9, -8], scores_rejected=[0, 0])
    with pytest.raises(UserError, match="end at -8, not above low: -2"):
        chosen([{"dual_margin": {"implicit": False}}], of)


def test_the_reference_gap_is_by_token_whichever_side_it_prefers() -> None:
    """-12/4 + 13/2 = 3.5; -20/10 + 21/7 = 1; -28/7 + 21/7 = -1; -8/8 + 9/3 = 2."""
    of = table(**LOGPS)
    assert why(chosen([{"reference_gap": {"keep": 2}}], of)) == [
        "kept", "reference_gap/below", "reference_gap/below", "kept"
    ]  # fmt: skip
    found = chosen([{"reference_gap": {"keep": 1.0, "sign": "agree"}}], of)
    assert why(found) == ["kept", "kept", "reference_gap/reference_disagrees", "kept"]
    # of equal sizes the first: 1 and -1
    assert why(chosen([{"reference_gap": {"keep": 3}}], of))[2] == "reference_gap/below"
    # sums: 1, 1, -7, 1
    found = chosen([{"reference_gap": {"keep": 0.25, "average": False}}], of)
    assert why(found)[2] == "kept"


def test_pairs_without_a_number_are_dropped_by_what_they_lack() -> None:
    of = table(scores_chosen=[1, math.nan, 3], scores_rejected=[0, 0, math.nan])
    found = chosen([{"dual_margin": {"implicit": False, "keep": 1.0}}], of)
    assert why(found) == ["kept", "dual_margin/no_chosen", "dual_margin/no_rejected"]


def test_pairs_that_could_not_be_scored_say_why() -> None:
    logps = {**LOGPS, "ref_chosen": [-12.0, math.nan, math.nan, math.inf]}
    of = table(**logps)
    of = PairTable(4, of.columns, None, np.array([-1, 1, 0, -1]), ("too_long", "broken_image"))
    found = chosen([{"reference_gap": {"keep": 1.0}}], of)
    assert why(found) == [
        "kept", "reference_gap/broken_image", "reference_gap/too_long", "reference_gap/not_finite"
    ]  # fmt: skip


def test_steps_see_what_is_left() -> None:
    """The two best margins are 30 and 3 words apart; the balance is then of these two alone."""
    of = table(
        scores_chosen=[9, 8, 1, 1], scores_rejected=[0, 0, 0, 0],
        chosen_words=[80, 50, 10, 90], rejected_words=[50, 50, 50, 50],
    )  # fmt: skip
    found = chosen([{"dual_margin": {"implicit": False}}, "length_balance"], of, keep=0.5)
    assert why(found) == ["length_balance/chosen_longer", "kept", "dual_margin/below", "dual_margin/below"]
    assert found.reports[1].before.length_difference == 15
    assert found.reports[1].after.length_difference == 0


def test_one_selector_twice_has_two_names() -> None:
    of = table(chosen_words=[10, 12, 30], rejected_words=[10, 10, 10])
    steps = [{"length_balance": {"ratio": [0.5, 2], "within": 0.9}}, {"length_balance": {"within": 0}}]
    assert why(chosen(steps, of)) == ["kept", "length_balance_2/chosen_longer", "length_balance/ratio"]


def test_rlaif_vs_filter_as_a_step() -> None:
    of = table(chosen_words=[40, 30, 45, 60, 50, 20], rejected_words=[50] * 6)
    found = chosen([{"length_balance": {"rule": "rlaif_v"}}], of)
    assert found.reports[0].figures == {"r": 0.2}
    assert found.kept.tolist() == [0, 2, 3, 4]


def test_judges_agree_abstain_and_dissent() -> None:
    judges = [{"chosen": "a", "rejected": "b"}, {"margin": "c"}, {"margin": "errors", "lower_is_better": True}]
    nan = math.nan
    of = table(
        scores_a=[2, 2, 1, nan, 2], scores_b=[1, 1, 1, 1, 1], scores_c=[1, -1, 3, 1, nan],
        scores_errors=[-1, -1, 0, -2, nan],
    )  # fmt: skip
    assert why(chosen([{"consensus": {"judges": judges}}], of)) == [
        "kept", "consensus/dissent", "consensus/few_votes", "kept", "consensus/few_votes"
    ]  # fmt: skip
    assert why(chosen([{"consensus": {"judges": judges, "against": 1}}], of))[1] == "kept"


def test_the_bootstrap_takes_one_pair_of_a_prompt() -> None:
    """beta D: .4, .1, -.3, 0 (prompts 7, 7, 8, 9). Of 7 the first; that of 8 the model has the other way round, of that
    of 9 it knows nothing."""
    more = {"chosen_characters": [50.0] * 4, "rejected_characters": [50.0] * 4, "unfinished": [0.0] * 4}
    found = chosen(["bootstrap"], table([7, 7, 8, 9], **LOGPS, **more))
    assert why(found) == ["kept", "bootstrap/not_best", "bootstrap/reversed", "bootstrap/reversed"]
    more["chosen_characters"][0], more["unfinished"][2] = 3.0, 1.0
    found = chosen([{"bootstrap": {"least": 2}}], table([7, 7, 8, 9], **LOGPS, **more))
    assert why(found) == [
        "bootstrap/characters", "bootstrap/few_pairs", "bootstrap/unfinished", "bootstrap/few_pairs"
    ]  # fmt: skip


def test_weights_become_scores() -> None:
    of = table(chosen_alignment=[-0.5, -1.0], rejected_alignment=[-0.5, 0.0])
    assert chosen(["wpo"], of).columns["wpo_weight"] == pytest.approx([math.exp(-1), math.exp(-1)])
    # MADPO at h = 2 = tau: c = 1, so w = 1; at h = -3 < -tau: 1; at h = 0: sig(0)/sig(0) = 1; at h = 1:
    # c = .5 + 1.5 / (1 + 2 e^-1), w = sig(c)/sig(1)
    c = 0.5 + 1.5 / (1 + 2 * math.exp(-1))
    of = table(scores_chosen=[2, -3, 0, 1], scores_rejected=[0, 0, 0, 0])
    expected = [1, 1, 1, (1 + math.exp(-1)) / (1 + math.exp(-c))]
    assert chosen(["madpo"], of).columns["madpo_weight"] == pytest.approx(expected)


def test_the_draw_keeps_a_share_and_follows_the_seed() -> None:
    gaps = np.random.default_rng(0).normal(size=100)
    zero = [0.0] * 100
    of = table(policy_chosen=list(gaps), policy_rejected=zero, ref_chosen=zero, ref_rejected=zero)
    one, two, three = (chosen(["beta_dpo"], of, seed=seed).kept.tolist() for seed in (0, 0, 1))
    assert len(one) == 80 and one == two != three


def test_small_edits() -> None:
    assert why(chosen([{"minimal_edit": {"most": 0.3}}], table(edit_distance=[0.1, 0.3, 0.31]))) == [
        "kept", "kept", "minimal_edit/too_different"
    ]  # fmt: skip


# ---- curricula


def test_of_four_ranked_responses_the_farthest_is_easy() -> None:
    """Ranks (1, 2), (1, 4), (1, 3) of one prompt are hard, easy, medium; lower ranks are better."""
    of = table([0, 0, 0], scores_chosen=[1, 1, 1], scores_rejected=[2, 4, 3])
    found = chosen([{"curry": {"gap": {"lower_is_better": True}}}], of)
    assert found.stage is not None and found.stage.tolist() == [2, 0, 1]
    assert found.kept.tolist() == [1, 2, 0]


def test_six_pairs_are_dealt_to_three_stages() -> None:
    stages = curry_stages(np.array([1.0, 2, 3, 4, 5, 6, 9, 8]), np.array([5, 5, 5, 5, 5, 5, 1, 1]), 3)
    assert stages.tolist() == [2, 2, 1, 1, 0, 0, 0, 1]


def test_within_a_stage_the_order_is_drawn() -> None:
    of = table(list(range(40)), scores_chosen=[1.0] * 40, scores_rejected=[0.0] * 40)
    orders = [chosen(["curry"], of, seed=seed).kept.tolist() for seed in (1, 1, 2)]
    assert sorted(orders[0]) == list(range(40)) != orders[0] == orders[1] != orders[2]


def test_buckets_of_gaps() -> None:
    gaps = np.array([1.0, 3, 2, 3, 1, 1])
    assert gap_buckets(gaps, None).tolist() == [2, 0, 1, 0, 2, 2]
    # Falling: 3 3 2 | 1 1 1 begins behind 3 of 6 pairs.
    assert gap_buckets(gaps, 2).tolist() == [1, 0, 0, 0, 1, 1]
    with pytest.raises(UserError, match="51 different gaps"):
        gap_buckets(np.arange(51.0), None)


def test_buckets_join_as_time_goes_on() -> None:
    bucket = np.repeat([0, 1, 2], 30)
    stage = added(bucket, np.random.default_rng(0))
    assert np.bincount(stage[bucket == 0]).tolist() == [10, 10, 10]
    assert np.bincount(stage[bucket == 1], minlength=3).tolist() == [0, 15, 15]
    assert (stage[bucket == 2] == 2).all()


def test_a_filter_behind_a_curriculum_keeps_its_order() -> None:
    words: dict[str, list[float]] = {"chosen_words": [10, 10, 10, 99], "rejected_words": [10] * 4}
    of = table(scores_chosen=[1, 3, 2, 9], scores_rejected=[0] * 4, **words)
    found = chosen([{"rank_difference": {"add": False}}, "length_balance"], of)
    assert found.kept.tolist() == [1, 2, 0]
    assert why(found)[3] == "length_balance/chosen_longer"


# ---- nothing, and what is no selection


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_no_pairs_are_no_error(name: str) -> None:
    given = {"consensus": {"judges": [{}, {"margin": "m"}]}}.get(name, {})
    step = select_settings().model_validate({"pairs": "x", "by": [{name: given}]}).steps()[0].selector
    columns = {column: np.zeros(0) for column in (*step.reads(), "chosen_words", "rejected_words")}
    found = chosen([{name: given}], PairTable(0, columns, np.zeros(0, dtype=np.int64)))
    assert len(found.kept) == 0 and found.before.length_difference is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"by": []}, "at least 1 item"),
        ({"by": ["length_balence"]}, "Extra inputs"),
        ({"by": [{"length_balance": {}, "wpo": {}}]}, "one selector in each step"),
        ({"by": [{}]}, "one selector in each step"),
        ({"by": [3]}, "valid dictionary"),
        ({"by": ["length_balance"], "keep": 0.5}, "none of the selectors ranks"),
        ({"by": ["wpo", "beta_dpo"], "keep": 0.5}, "2 of the selectors rank"),
        ({"by": [{"wpo": {"keep": 0.1}}], "keep": 0.5}, "stands here and in wpo"),
        ({"by": ["wpo"], "adapter": "folder"}, "of which model"),
        ({"by": ["wpo"], "keep": 2.5}, "a whole number of them"),
        ({"by": ["wpo"], "keep": 0}, "greater than 0"),
        ({"by": ["curry", "rank_difference"]}, "curry and rank_difference both order"),
        ({"by": [{"dual_margin": {"external": [], "implicit": False}}]}, "neither"),
        ({"by": [{"dual_margin": {"external": {"margin": "m", "chosen": "c"}}}]}, "either `margin`"),
        ({"by": [{"consensus": {"judges": [{}]}}]}, "of 1 judges can't agree"),
        ({"by": [{"length_balance": {"ratio": [2, 1]}}]}, "ratio"),
    ],
)
def test_what_is_no_selection_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        select_settings().model_validate({"pairs": "x", **settings})


def test_a_selector_of_ones_own() -> None:
    try:

        @selector("lucky")
        class Lucky(SelectorSettings):
            least: float = 0.5

            def reads(self) -> tuple[str, ...]:
                return ("scores.luck",)

            def choose(self, table: PairTable, seed: int) -> Choice:
                return Choice(dropped={"unlucky": table["scores.luck"] < self.least})

        assert why(chosen([{"lucky": {"least": 2}}], table(scores_luck=[1, 3]))) == ["lucky/unlucky", "kept"]
        with pytest.raises(UserError, match="two selectors are called 'lucky'"):
            SELECTORS.add("lucky", Lucky, module="another")
    finally:
        SELECTORS.forget({__name__})
    with pytest.raises(ValidationError, match="Extra inputs"):
        select_settings().model_validate({"pairs": "x", "by": ["lucky"]})


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Choice(dropped={"odd": np.zeros(3, dtype=np.bool_)}), r"shape \(3,\) for 2 pairs"),
        (Choice(dropped={"odd": np.zeros(2)}), "true or false"),
        (Choice(values=np.zeros(2)), "says otherwise"),
        (Choice(columns={"c": np.zeros(1)}), r"`columns\[c\]` of shape"),
    ],
)
def test_a_choice_that_does_not_fit_is_told(made: Choice, told: str) -> None:
    try:

        @selector("odd")
        class Odd(SelectorSettings):
            def reads(self) -> tuple[str, ...]:
                return ()

            def choose(self, table: PairTable, seed: int) -> Choice:
                return made

        with pytest.raises(UserError, match=told):
            chosen(["odd"], table(scores_luck=[1, 3]))
    finally:
        SELECTORS.forget({__name__})
