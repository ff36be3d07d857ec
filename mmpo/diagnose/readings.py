"""From sums to sentences: each number with what it means, how grave it is, and what to do. Pure.

Thresholds are constants here, each with where it is from: the papers' own where they name one, else a choice, said so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmpo.diagnose.samples import SampledAnswers
from mmpo.diagnose.separability import Separability
from mmpo.diagnose.summary import Proportion, SetSummary
from mmpo.statistics import wilson

Grave = Literal["fine", "look", "warning"]
"""A number as it should be; one worth a look; one that something should be done about."""

CEILING = 0.8
"""A choice: below this share even the best policy at this beta leaves many pairs ranked wrong."""
DROP_LOOK, DROP_WARN = 0.03, 0.07
"""Lin et al. 2024 (arXiv:2409.03650): implicit rewards lose 3 % on other data in the mean, up to 7 %."""
STEEP = 1.0
"""A choice: nats per token by which the rejected responses fell."""
LOPSIDED = math.log(100)
"""A choice: one gradient a hundred times the other."""
ALIKE = -0.05
"""A choice: relative CHES above which the sides' mean states hardly differ."""
SEPARABLE_LOOK, SEPARABLE_WARN = 0.75, 0.95
"""A choice: AUROC (its interval's low end) of a classifier that sees no picture."""
CORRELATED = 0.5
"""A choice: correlation of reward and length."""
BLIND_WARN, BLIND_LOOK = 0.005, 0.05
"""A choice: nats per token; a model that looks has some tenths."""
FAR = 1.0
"""A choice: nats per token between policy and reference on the policy's own answers."""
LONGER = 0.25
"""A choice: relative change of the answers' length."""
UNSEEN = 1.0
"""A choice: nats by which answers that are neither grow."""


@dataclass(frozen=True)
class DiagnosisReading:
    """A number with its sentence. `interval` is 95 %, where there is one; `advice` what to do where it is not fine."""

    subject: str
    name: str
    value: float | None
    grave: Grave
    sentence: str
    advice: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class DiagnosisNumbers:
    """All that was measured: the pairs themselves, further sets by name, and what was asked for beside them."""

    main: SetSummary
    others: Mapping[str, SetSummary]
    separability: Separability | None
    answers: SampledAnswers | None
    adapter: bool


def readings(found: DiagnosisNumbers) -> list[DiagnosisReading]:
    """The numbers that are there, in the order of the page."""
    parts = (_ranking, _flip, _displacement, _ches, _properties, _generalization, _separability, _length, _answers)
    return [one for part in (*parts, _perception) for one in part(found)]


def _ranking(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    main = found.main
    for who, raw, by_length in (
        ("policy", main.policy_right, main.policy_right_by_length),
        ("reference", main.reference_right, main.reference_right_by_length),
    ):
        if raw.value is None:
            continue
        behind = who == "policy" and (main.reference_right.value or 0) > raw.value
        yield _share(
            "ranking", f"ranking accuracy, {who}", raw,
            f"{_model(who, found)} finds the chosen response at least as probable in {_percent(raw)} of the pairs",
            "warning" if behind else "fine",
            "training made the ranking worse: fewer epochs, a larger beta, or an objective with a term for the chosen "
            "response (dpop, irpo)" if behind else "",
        )  # fmt: skip
        yield _share(
            "ranking", f"ranking accuracy per token, {who}", by_length,
            f"per token it is {_percent(by_length)}",
        )  # fmt: skip
    for beta, share in main.idealized.items():
        if share.value is None:
            continue
        own = beta == main.beta
        low = own and share.value < CEILING
        yield _share(
            "ranking", f"idealized ranking accuracy, beta {beta:g}", share,
            f"a policy at DPO's very optimum with beta {beta:g} would rank {_percent(share)} right, starting from this "
            "reference",
            "look" if low else "fine",
            "no training with this beta ranks more pairs right: a smaller beta, or a reference that was first tuned "
            "on the chosen responses (sft)" if low else "",
        )  # fmt: skip


def _flip(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    main = found.main
    if not main.policy_right.total:
        return
    below = Proportion(main.policy_right.total - main.flip_above.moments.count, main.policy_right.total)
    yield _share(
        "flip", f"past the flip threshold, beta {main.beta:g}", below,
        f"the loss of {_percent(below)} of the pairs is low enough for the policy to rank them right",
    )  # fmt: skip
    if (distance := main.flip_above.median) is not None:
        yield DiagnosisReading(
            "flip", "distance to the threshold", distance, "fine",
            f"the loss of the others has to fall by {distance:.3g} more, in the median",
        )  # fmt: skip


def _displacement(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    main = found.main
    fell, both = main.chosen_fell, main.both_fell
    if fell.value is None:
        return
    change = main.chosen_change.mean or 0.0
    grave: Grave = "warning" if change < 0 and fell.value > 0.5 else "look" if fell.value > 0.5 else "fine"
    advice = "the chosen responses lose probability: an objective that holds them up (dpop, irpo, rpo, sft), a smaller "
    advice += "learning rate, or pairs of low CHES"
    yield _share(
        "displacement", "chosen fell", fell,
        f"{_percent(fell)} of the chosen responses are less probable than before", grave,
        "" if grave == "fine" else advice,
    )  # fmt: skip
    yield _share("displacement", "both fell", both, f"in {_percent(both)} of the pairs both responses are")
    for name, spread, per_token in (
        ("chosen", main.chosen_change, main.chosen_change_per_token),
        ("rejected", main.rejected_change, main.rejected_change_per_token),
    ):
        if spread.mean is not None and per_token.mean is not None:
            yield DiagnosisReading(
                "displacement", f"change of {name}", spread.mean, "fine",
                f"the {name} response's log-prob changed by {spread.mean:+.3g} nats in the mean, {per_token.mean:+.3g} "
                "per token",
            )  # fmt: skip


def _ches(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    main = found.main
    for name, spread in (("CHES", main.ches), ("CHES by length", main.ches_normalized)):
        if spread.mean is not None:
            yield DiagnosisReading("ches", name, spread.mean, "fine", f"{name} is {spread.mean:.4g} in the mean")
    value = main.ches_relative.median
    if value is None:
        return
    near = value > ALIKE
    yield DiagnosisReading(
        "ches", "relative CHES", value, "look" if near else "fine",
        f"relative to the chosen side's own size it is {value:+.3g} in the median"
        + (": to the model the sides look almost the same" if near else ""),
        "such pairs pull the chosen response down with the rejected one: leave out those of the highest CHES (they "
        "are named), or use an objective that holds the chosen one up (dpop, irpo)" if near else "",
    )  # fmt: skip


def _properties(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    main = found.main
    a, b = main.chosen_change_per_token.mean, main.rejected_change_per_token.mean
    if a is not None and b is not None:
        steep = -b > STEEP and a < 0
        yield DiagnosisReading(
            "properties", "drop of rejected", -b, "look" if steep else "fine",
            f"the rejected responses fell by {-b:.3g} nats per token while the chosen ones changed by {a:+.3g}",
            "training pushes down more than it pulls up: flex_dpo or dpo_shift weigh the rejected side less"
            if steep else "",
        )  # fmt: skip
    ratio = main.gradient_ratio.median
    if ratio is not None:
        lopsided = ratio > LOPSIDED
        yield DiagnosisReading(
            "properties", "gradient ratio", ratio, "look" if lopsided else "fine",
            f"a step takes from the rejected response e^{ratio:.3g} times what it gives to the chosen one (by "
            "probability, in the median)",
            "the rejected responses are far less probable than the chosen ones already: rejected responses of the "
            "model's own teach more" if lopsided else "",
        )  # fmt: skip
    field = main.field_ratio.median
    if field is not None:
        yield DiagnosisReading(
            "properties", "gradient field", field, "fine",
            f"by likelihood ratios the gradient on the chosen side is e^{field:.3g} times that on the rejected side, "
            "in the median",
        )  # fmt: skip


def _generalization(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    main = found.main
    if main.implicit_right.value is None:
        return
    split = bool(main.held_out_right.total)
    trained = main.trained_right
    if trained.total:
        yield _share(
            "implicit reward", "accuracy, trained on" if split else "accuracy", trained,
            f"the implicit reward prefers the chosen response in {_percent(trained)} of "
            + ("the pairs it was trained on" if split else "these pairs"),
        )  # fmt: skip
    inside = trained
    others = {name: one.implicit_right for name, one in found.others.items()}
    if split:
        others = {"held out": main.held_out_right, **others}
    for name, share in others.items():
        if share.value is None:
            continue
        drop = (inside.value or 0.0) - share.value
        # Where the intervals meet, so few pairs may show it by chance.
        open_ = wilson(share.hits, share.total).high >= wilson(inside.hits, inside.total).low
        grave: Grave = "fine" if drop <= DROP_LOOK else "look" if drop <= DROP_WARN or open_ else "warning"
        yield _share(
            "implicit reward", f"accuracy, {name}", share,
            f"it does in {_percent(share)} of the pairs {name!r}"
            + (f", {100 * drop:.1f} points fewer" if drop > 0 else "")
            + (f", which {share.total} pairs leave open" if drop > DROP_LOOK and open_ else ""),
            grave,
            "the preference does not carry over: fewer epochs, more varied prompts and pictures"
            if grave != "fine" else "",
        )  # fmt: skip


def _separability(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    if found.separability is None:
        return
    one = found.separability
    kinds = {
        "states": "the model's mean hidden states",
        "surface": "length, punctuation and n-grams",
        "length": "the number of words alone",
    }
    for name, words in kinds.items():
        value = getattr(one, name)
        low = value.auroc_low
        grave: Grave = "warning" if low > SEPARABLE_WARN else "look" if low > SEPARABLE_LOOK else "fine"
        if name == "states" and grave == "warning":
            grave = "look"  # states know what the texts say, which is what the pairs are about
        yield DiagnosisReading(
            "separability", f"separable by {name}", value.auroc, grave,
            f"a linear classifier tells the sides apart by {words} with AUROC {value.auroc:.2f} (accuracy "
            f"{100 * value.accuracy:.1f} %)",
            "a policy can learn this style instead of what is in the picture: word both sides by one writer, match "
            "lengths" if grave != "fine" else "",
            (value.auroc_low, value.auroc_high),
        )  # fmt: skip


def _length(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    main = found.main
    chosen, rejected = main.chosen_tokens.mean, main.rejected_tokens.mean
    if chosen is None or rejected is None:
        return
    apart = chosen / rejected - 1 if rejected else 0.0
    yield DiagnosisReading(
        "length", "chosen longer by", apart, "look" if abs(apart) > LONGER else "fine",
        f"chosen responses have {chosen:.1f} tokens in the mean, rejected ones {rejected:.1f}",
        "length tells the sides apart: match lengths, or use rdpo, ln_dpo or simpo" if abs(apart) > LONGER else "",
    )  # fmt: skip
    for name, value in (("reward", main.reward_length.value), ("margin", main.margin_length.value)):
        if value is None:
            continue
        bound = abs(value) > CORRELATED
        yield DiagnosisReading(
            "length", f"correlation of {name} and length", value, "look" if bound else "fine",
            f"the implicit {name} goes with {'the length' if name == 'reward' else 'the difference in length'} by "
            f"{value:+.2f}",
            "the policy learns length: match lengths, or use rdpo, ld_dpo or ln_dpo" if bound else "",
        )  # fmt: skip


def _answers(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    one = found.answers
    if one is None:
        return
    change = one.tokens_after / one.tokens_before - 1 if one.tokens_before else 0.0
    yield DiagnosisReading(
        "drift", "length of answers", change, "look" if abs(change) > LONGER else "fine",
        f"its own answers have {one.tokens_after:.1f} tokens, before training {one.tokens_before:.1f} ("
        f"{100 * one.truncated_after:.0f} % cut at the limit, before {100 * one.truncated_before:.0f} %)",
        "training changed how long it talks: match the lengths of the sides" if abs(change) > LONGER else "",
    )  # fmt: skip
    far = one.divergence.nats_per_token > FAR
    yield DiagnosisReading(
        "drift", "divergence", one.divergence.nats, "look" if far else "fine",
        f"KL(policy || reference) is {one.divergence.nats:.3g} nats for an answer, {one.divergence.nats_per_token:.3g} "
        "for a token",
        "the policy is far from where it began: a larger beta, a smaller learning rate" if far else "",
    )  # fmt: skip
    if one.growth is not None:
        grown = one.growth > UNSEEN
        yield DiagnosisReading(
            "properties", "growth of unseen", one.growth, "look" if grown else "fine",
            f"answers that are neither chosen nor rejected grew by {one.growth:+.3g} nats (over {one.growth_prompts} "
            "prompts)",
            "the probability that the rejected side loses goes elsewhere: an objective that holds the chosen one up"
            if grown else "",
        )  # fmt: skip


def _perception(found: DiagnosisNumbers) -> Iterator[DiagnosisReading]:
    for side, spread in (("chosen", found.main.perception_chosen), ("rejected", found.main.perception_rejected)):
        value = spread.mean
        if value is None:
            continue
        grave: Grave = "warning" if value < BLIND_WARN else "look" if value < BLIND_LOOK else "fine"
        yield DiagnosisReading(
            "perception", f"perception gap, {side}", value, grave,
            f"hiding the picture changes the distribution of each token of the {side} response by {value:.3g} nats in "
            "the mean",
            "the picture hardly matters: pairs about what is in it, or an objective that rests on it (mdpo, chip, tars)"
            if grave != "fine" else "",
        )  # fmt: skip


def _share(
    subject: str, name: str, share: Proportion, sentence: str, grave: Grave = "fine", advice: str = ""
) -> DiagnosisReading:  # fmt: skip
    interval = wilson(share.hits, share.total)
    return DiagnosisReading(subject, name, share.value, grave, sentence, advice, (interval.low, interval.high))


def _percent(share: Proportion) -> str:
    return f"{100 * (share.value or 0.0):.1f} %"


def _model(who: str, found: DiagnosisNumbers) -> str:
    return "the policy" if who == "policy" else "the reference" if found.adapter else "the model"


def in_short(found: Sequence[DiagnosisReading]) -> str:
    """`1 warning, 4 to look at`."""
    warnings, looks = (sum(one.grave == kind for one in found) for kind in ("warning", "look"))
    return f"{warnings} warning{'' if warnings == 1 else 's'}, {looks} to look at"
