"""Cuts, probabilities and agreement: golden values of the rules, and what they do on numbers made up for it."""

from __future__ import annotations

import numpy as np
import pytest

from mmpo.evidence.agreement import combine, kappa, overlap
from mmpo.evidence.cuts import (
    Platt,
    SourceCuts,
    VerdictCuts,
    calibrated_cuts,
    fit_platt,
    otsu,
    precise_cuts,
    reliability,
    separation,
    unlabelled_cuts,
)
from mmpo.evidence.records import Opinion, Presence
from mmpo.statistics import wilson, wilson_low

P, A, U, NONE = "present", "absent", "uncertain", None


def votes(*verdicts: Presence | None, confidence: float | None = None) -> dict[str, Opinion]:
    return {f"s{number}": Opinion(one, 0.0, confidence) for number, one in enumerate(verdicts)}


@pytest.mark.parametrize(
    ("given", "dissent", "verdict"),
    [
        ((P, P), "uncertain", P),
        ((P, A), "uncertain", U),
        ((P, NONE), "uncertain", U),
        ((P, U), "uncertain", U),
        ((NONE, NONE), "uncertain", U),
        ((A, A), "uncertain", A),
        ((A, A, NONE), "uncertain", A),
        ((A, A, P), "uncertain", U),
        ((A, A, P), "majority", U),  # two votes are not more than twice one
        ((A, A, A, P), "majority", A),
        ((A, A, A, U), "majority", A),
        ((A, A, A, P), "uncertain", U),
        ((P, U, U), "majority", U),
        ((P,), "uncertain", P),  # one source listed: it is enough
        ((NONE,), "uncertain", U),
    ],
)
def test_agreement(given: tuple[Presence | None, ...], dissent: str, verdict: Presence) -> None:
    assert combine("dog", votes(*given), least=2, dissent=dissent).verdict == verdict  # type: ignore[arg-type]


def test_a_complete_annotation_decides_alone_and_confidence_is_the_smallest() -> None:
    by = {"annotations": Opinion(A, -1.0, 1.0), "detector": Opinion(P, 0.9, 0.8)}
    assert combine("dog", by, decides=["annotations"]).verdict == A
    assert combine("dog", by).verdict == U
    by["annotations"] = Opinion(None, None, None, "not_annotated")
    assert combine("dog", by, decides=["annotations"]).verdict == U
    assert combine("dog", {"a": Opinion(P, 1.0, 0.9), "b": Opinion(P, 1.0, 0.7)}).confidence == 0.7
    assert combine("dog", {"a": Opinion(P, 1.0, 0.9), "b": Opinion(P, 1.0, None)}).confidence is None
    assert combine("dog", {"a": Opinion(P, 1.0, 0.9), "b": Opinion(None, None, None)}, least=1).confidence == 0.9


def test_kappa_and_lift() -> None:
    assert kappa([("p", "p")] * 3 + [("a", "a")] * 3 + [("p", "a")] * 2 + [("a", "p")] * 2) == pytest.approx(0.2)
    assert kappa([]) is None and kappa([("p", "p")]) is None
    truth = [True] * 100
    together: list[tuple[Presence | None, Presence | None]] = [(A, A)] * 10 + [(P, P)] * 90
    both = overlap("x", "y", together, truth)
    assert both.lift == pytest.approx(10) and "10.0 times" in both.warning and both.kappa == 1
    apart: list[tuple[Presence | None, Presence | None]] = [(A, P)] * 10 + [(P, A)] * 10 + [(P, P)] * 80
    assert overlap("x", "y", apart, truth).lift == 0 and not overlap("x", "y", apart, truth).warning
    assert overlap("x", "y", [(P, NONE), (NONE, A)], [True, True]).claims == 0
    assert overlap("x", "y", [(P, P)] * 5, [True] * 5).lift is None


def test_lower_bounds_of_wilson_are_those_of_one_at_a_time() -> None:
    cases = [(0, 5), (5, 5), (29, 30), (73, 100)]
    lows = wilson_low(np.array([k for k, _ in cases]), np.array([n for _, n in cases]))
    assert lows == pytest.approx([wilson(k, n).low for k, n in cases])
    assert wilson_low(np.array([0]), np.array([0])) == 0


def test_the_widest_cuts_at_which_the_bound_holds() -> None:
    """100 present claims at 1.00 … 1.99, 100 absent ones at -1.00 … -1.99, each of a picture of its own, and ten of
    each kind, mixed, around 0."""
    mixed = np.arange(20) / 100 - 0.1
    z = np.r_[1 + np.arange(100) / 100, -1 - np.arange(100) / 100, mixed]
    truth = np.r_[np.ones(100), np.zeros(100), np.arange(20) % 2].astype(bool)
    cuts = precise_cuts(z, truth, np.arange(220))
    assert cuts.present_at is not None and cuts.absent_below is not None
    assert -0.1 <= cuts.absent_below <= 1.0 and -0.1 < cuts.present_at <= 1.0
    for kept in (truth[z >= cuts.present_at], ~truth[z < cuts.absent_below]):
        assert wilson(kept.sum(), len(kept)).low >= 0.95
    assert cuts.verdict(1.5) == P and cuts.verdict(-1.5) == A


def test_overlapping_cuts_become_one_at_the_best_separation() -> None:
    z = np.r_[np.linspace(0, 1, 200), np.linspace(2, 3, 200)]
    truth = np.r_[np.zeros(200), np.ones(200)].astype(bool)
    cuts = precise_cuts(z, truth, np.arange(400))
    assert cuts.present_at == cuts.absent_below == pytest.approx(2.0)


def test_fewer_than_thirty_claims_give_no_verdict() -> None:
    z = np.r_[np.full(29, 1.0), np.full(200, -1.0)]
    truth = z > 0
    cuts = precise_cuts(z, truth, np.arange(229))
    assert cuts.present_at is None or (truth[z >= cuts.present_at]).sum() >= 30
    assert cuts.verdict(1.0) != A and cuts.verdict(-1.0) == A
    assert precise_cuts(z[:29], truth[:29], np.arange(29)) == VerdictCuts(None, None)


def test_claims_of_one_picture_are_not_independent() -> None:
    """300 claims, six false in one picture: by single claims the bound holds, by pictures (ten of them) it doesn't."""
    z, truth = np.full(300, 1.0), np.ones(300, bool)
    truth[:6] = False
    alone = np.arange(300)
    ten = np.arange(300) // 30
    assert precise_cuts(z, truth, alone).present_at == 1.0
    assert precise_cuts(z, truth, ten).present_at is None


def test_normal_numbers_have_one_group_and_two_groups_are_found() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=2000)
    assert otsu(normal)[0] == pytest.approx(0.64, abs=0.01)
    assert unlabelled_cuts(normal).off == "one_group"
    assert otsu(rng.uniform(size=5000))[0] == pytest.approx(0.75, abs=0.01)
    assert unlabelled_cuts(rng.uniform(size=5000)).off == "one_group"
    two = np.r_[rng.normal(-3, 1, 500), rng.normal(3, 1, 1500)]
    cuts = unlabelled_cuts(two)
    assert not cuts.off and cuts.present_at is not None and cuts.absent_below is not None
    assert cuts.present_at - cuts.absent_below == pytest.approx(2 * 0.1 * 6, abs=0.1)
    assert cuts.verdict(3) == P and cuts.verdict(-3) == A
    assert unlabelled_cuts(np.r_[rng.normal(-9, 1, 20), rng.normal(3, 1, 1980)]).off == "one_group"  # 1 % are no group
    assert unlabelled_cuts([1.0] * 29).off == "few_claims"
    assert unlabelled_cuts([1.0] * 100).off == "one_group"
    assert unlabelled_cuts([]).off == "few_claims"


def test_platt_is_the_logistic_fit_and_its_probabilities_are_right() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=20_000) * 3
    truth = rng.random(20_000) < 1 / (1 + np.exp(-(0.8 * z - 0.5)))
    fit = fit_platt(z, truth)
    assert (fit.slope, fit.offset) == (pytest.approx(0.8, abs=0.05), pytest.approx(-0.5, abs=0.05))
    ece, bins = reliability(fit.present(z), truth)
    assert ece is not None and ece < 0.015 and sum(one.claims for one in bins) == 20_000 and len(bins) == 10
    apart = fit_platt(np.array([-1.0, 1.0] * 20), np.array([False, True] * 20))  # the targets keep it finite
    assert float(apart.present(1.0)) == pytest.approx(21 / 22, abs=1e-3)


def test_expected_calibration_error_by_hand() -> None:
    ece, bins = reliability(np.array([0.2, 0.2, 0.9, 0.9]), np.array([False, True, True, True]), bins=2)
    assert ece == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)
    assert [one.observed for one in bins] == [0.5, 1.0]
    assert reliability(np.array([]), np.array([])) == (None, ())


def test_a_source_that_tells_nothing_is_off() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(300) < 0.5
    cuts = calibrated_cuts(rng.normal(size=300), truth, np.arange(300) // 3)
    assert cuts.cuts.off == "too_weak" and cuts.calibration is not None and cuts.calibration.auroc_low < 0.7
    assert cuts.opinion(5.0) == Opinion(None, 5.0, None, "too_weak")
    assert calibrated_cuts(np.ones(50), np.ones(50, bool), np.arange(50)).cuts.off == "no_controls"
    upside_down = calibrated_cuts(-truth.astype(float), truth, np.arange(300))
    assert upside_down.cuts.off == "too_weak"  # never turned round


def test_a_good_source_gets_cuts_and_honest_numbers() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(600) < 0.7
    z = np.where(truth, 2.0, -2.0) + rng.normal(size=600) * 0.7
    cuts = calibrated_cuts(z, truth, np.arange(600) // 3)
    assert cuts.calibration is not None and cuts.calibration.pictures == 200 and cuts.calibration.claims == 600
    assert cuts.calibration.auroc > 0.99 and cuts.calibration.ece is not None and cuts.calibration.ece < 0.05
    sure, other = cuts.opinion(3.0), cuts.opinion(-3.0)
    assert (sure.verdict, other.verdict) == (P, A)
    assert sure.confidence is not None and sure.confidence > 0.95
    assert other.confidence is not None and other.confidence > 0.95


def test_separation_resamples_pictures() -> None:
    z, truth = np.array([1.0, 2.0, 3.0, 4.0] * 20), np.array([False, False, True, True] * 20)
    value, interval = separation(z, truth, np.arange(80) // 4)
    assert value == 1.0 and interval.method == "wilson" and interval.low < 1


def test_what_is_not_above_its_decoy_is_not_present() -> None:
    cuts = SourceCuts(VerdictCuts(0.35, 0.175), Platt(1.0, 0.0))
    assert cuts.opinion(0.5, decoy=0.4).verdict == P
    assert cuts.opinion(0.5, decoy=0.5) == Opinion(U, 0.5, None, "not_above_decoy")
    assert cuts.opinion(0.1, decoy=0.5).verdict == A
    assert cuts.opinion(None, "unknown_class") == Opinion(None, None, None, "unknown_class")
    assert SourceCuts(VerdictCuts(0.0, 0.0), certain=True).opinion(-1.0) == Opinion(A, -1.0, 1.0)


def test_absent_ones_that_nobody_claims_do_not_flatter_the_verdict_absent() -> None:
    """Of 400 claims three quarters are true, a tenth of these with a low number: below the cut 100 of 130 are absent.
    With 900 more absent classes beside them it would be 1,000 of 1,030."""
    truth = np.r_[np.ones(300, bool), np.zeros(1000, bool)]
    z = np.r_[np.ones(270), -np.ones(1030)]
    claimed, pictures = np.arange(1300) < 400, np.arange(1300)
    assert precise_cuts(z, truth, pictures) == VerdictCuts(1.0, 1.0)
    assert precise_cuts(z, truth, pictures, claimed=claimed) == VerdictCuts(1.0, None)
    z[270:298] = 1.0  # two low ones are left: 100 of 102
    assert precise_cuts(z, truth, pictures, claimed=claimed, precision=0.9) == VerdictCuts(1.0, 1.0)
