"""Drift in answers: counted by hand, paired by prompt, judged by the limits of the specification."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mmpo.eval.drift.answers import TokenReader, answer_rows, brief, requests_in, yes_rows
from mmpo.eval.drift.degeneration import expectation_adjusted_distinct
from mmpo.eval.drift.limits import LIMITS, judged
from mmpo.eval.drift.settings import DriftSettings
from mmpo.eval.pope import metrics as pope
from mmpo.eval.protocol import Part, Request, Response
from mmpo.eval.statistics.compare import Bootstrap
from mmpo.eval.statistics.drift import Drift, DriftRow, Reading, Unmeasured
from mmpo.eval.statistics.scorecard import Scorecard

BOOT = Bootstrap(samples=200, seed=0)
LETTERS = TokenReader(lambda text: list(text.replace(" ", "")), vocabulary=1000)


def rows(
    before: list[str] | None, after: list[str], *, cut: int = 0, tokens: TokenReader | None = None, **chosen: object
) -> dict[str, DriftRow]:
    """The checks of these answers; of those after, the first `cut` were cut off."""
    requests = [Request(f"{number // 2}.png", f"Prompt {number}", 8) for number in range(len(after))]
    given = {"after": {one: Response(text, i < cut) for i, (one, text) in enumerate(zip(requests, after, strict=True))}}
    if before is not None:
        given["before"] = {one: Response(text, False) for one, text in zip(requests, before, strict=True)}
    found = answer_rows("chair", given, DriftSettings(**chosen), tokens, BOOT)  # type: ignore[arg-type]
    return {row.metric: row for row in found}


def test_means_over_answers_with_paired_differences() -> None:
    before = ["a dog sits on a mat", "a cat"]
    after = ["the the the the the", "a cat"]
    found = rows(before, after, cut=1)
    assert found["rep-1"].before is not None and found["rep-1"].before.value == pytest.approx((1 / 6 + 0) / 2)
    assert found["rep-1"].after.value == pytest.approx((0.8 + 0) / 2)
    assert found["rep-4"].after.value == pytest.approx(0.5), "the answer of two words has no run of four"
    assert (found["at-limit"].after.value, found["empty"].after.value, found["loop"].after.value) == (0.5, 0, 0)
    change = found["rep-4"].change
    assert change is not None and change.value == pytest.approx(0.5) and found["rep-4"].p is not None
    assert found["rep-4"].sign == "answers repeat themselves" and found["at-limit"].sign and not found["loop"].sign


def test_nothing_to_say_has_no_repetition() -> None:
    found = rows(["", "yes"], ["", "  "])
    assert "rep-1" not in found and "distinct-1" not in found
    assert found["empty"].after.value == 1 and found["empty"].sign == "answers are empty"
    assert found["words-median"].ratio is not None and found["words-median"].ratio.value == 0
    assert found["words-median"].sign == "answers are shorter"
    assert rows(["", ""], ["a", "b"])["words-median"].ratio is None, "nothing to divide by"


def test_lengths() -> None:
    before = ["w " * n for n in (1, 2, 3, 4)]
    after = ["w " * n for n in (3, 3, 3, 11)]
    found = rows(before, after, tokens=LETTERS)
    assert (found["words-mean"].before, found["words-mean"].after.value) == (
        Reading(value=2.5, low=found["words-mean"].before.low, high=found["words-mean"].before.high),  # type: ignore[union-attr]
        5,
    )
    median = found["words-median"]
    assert median.before is not None and (median.before.value, median.after.value) == (2.5, 3)
    assert median.ratio is not None and median.ratio.value == 1.2 and not median.sign
    assert found["words-p95"].after.value == pytest.approx(3 + 0.85 * 8)
    assert found["tokens-mean"].after.value == 5 and found["tokens-median"].limit == "×0.8–1.25"
    assert "tokens-mean" not in rows(before, after)


def test_diversity_is_compared_over_the_same_number_of_words() -> None:
    found = rows(["a b c d"], ["a b c d a b c d"], tokens=LETTERS)
    assert found["distinct-1"].before == found["distinct-1"].after == Reading(value=1.0)
    assert found["distinct-1"].change == Reading(value=0.0) and not found["distinct-1"].sign
    whole = [list("abcdabcd")]
    assert found["ead"].after.value == expectation_adjusted_distinct(whole, 1000)
    assert rows(["a b c d e f"], ["a a a a a a"])["distinct-1"].sign == "answers use fewer different words"


def test_tokens_and_vlmevalkits_loops_on_demand() -> None:
    text = "dog " * 300
    assert rows(None, [text], loops="vlmevalkit")["loop"].after.value == 1
    assert rows(None, ["dog " * 15], loops="vlmevalkit")["loop"].after.value == 0
    assert rows(None, ["dog " * 15])["loop"].after.value == 1
    assert rows(None, ["dog"], tokens=LETTERS, units="tokens")["rep-3"].after.value == 0
    assert "rep-3" not in rows(None, ["dog"], tokens=LETTERS)


def test_only_requests_that_every_state_answered_are_paired() -> None:
    one, other = (Request(None, text, 8) for text in "ab")
    given = {"before": {one: Response("x", False)}, "after": {r: Response("y", False) for r in (one, other)}}
    assert [list(own) for own in requests_in([one, one, other], given).values()] == [[one], [one]]


def yes_parts(said: list[str], p_yes: list[float | None]) -> list[Part]:
    labels = ["yes", "no", "no", "no"]
    questions = [pope.PopeQuestion(i, f"{i}.png", f"Is there {i}?", label) for i, label in enumerate(labels)]
    return [Part("random", pope.score(questions, said, p_yes=p_yes).tally, 4, 0, 0)]


def test_the_share_of_yes_is_judged_against_the_labels() -> None:
    before, after = yes_parts(["yes"] * 4, [0.9] * 4), yes_parts(["yes", "no", "no", "no"], [0.8, 0.1, 0.2, 0.3])
    found = {row.metric: row for row in yes_rows("pope", {"before": before, "after": after}, BOOT)}
    bias, mean = found["yes-bias"], found["p-yes"]
    assert bias.before is not None and (bias.before.value, bias.after.value) == (0.75, 0)
    assert bias.limit and not bias.sign, "it came nearer to the labels"
    assert mean.after.value == pytest.approx(0.35) and found["yes-ratio"].limit is None
    (worse,) = (r for r in yes_rows("pope", {"before": after, "after": before}, BOOT) if r.metric == "yes-bias")
    assert worse.sign == "answers lean more to one of yes and no"
    unknown = yes_rows("pope", {"before": yes_parts(["yes"] * 4, []), "after": yes_parts(["no"] * 4, [])}, BOOT)
    assert [(row.metric, bool(row.sign)) for row in unknown] == [("yes-ratio", True)]
    assert yes_rows("chair", {"after": []}, BOOT) == []


def checked(metric: str, before: float | None, after: float) -> str:
    ratio = Reading(value=after / before) if before else None
    known = None if before is None else Reading(value=before)
    return judged(DriftRow(metric=metric, label=metric, before=known, after=Reading(value=after), ratio=ratio)).sign


@pytest.mark.parametrize(
    ("metric", "before", "within", "beyond"),
    [
        ("rep-4", 0.1, (0.15, 0.0), (0.151,)),
        ("distinct-1", 0.5, (0.45, 0.9), (0.449,)),
        ("distinct-2", 0.5, (0.45, 0.9), (0.449,)),
        ("loop", 0.01, (0.02, 0.0), (0.021,)),
        ("at-limit", 0.1, (0.15, 0.0), (0.151,)),
        ("words-median", 100.0, (80.0, 125.0), (79.0, 126.0)),
        ("tokens-median", 100.0, (80.0, 125.0), (79.0, 126.0)),
        ("empty", 0.0, (0.0,), (0.001,)),
        ("yes-bias", 0.1, (0.15, -0.15, 0.0), (0.151, -0.151)),
        ("yes-ratio", 0.5, (0.55, 0.45), (0.551, 0.449)),
        ("perplexity", 10.0, (10.5, 1.0), (10.51,)),
        ("perplexity-captions", 10.0, (10.5, 1.0), (10.51,)),
        ("kl-forward", None, (0.0, 0.1), (0.101,)),
        ("kl-reverse", None, (0.0, 0.1), (0.101,)),
    ],
)
def test_every_limit_of_the_specification(
    metric: str, before: float | None, within: tuple[float, ...], beyond: tuple[float, ...]
) -> None:
    assert [checked(metric, before, value) for value in within] == [""] * len(within)
    assert all(checked(metric, before, value) for value in beyond)
    assert metric in LIMITS and not checked("rep-1", 0.0, 1.0)


def card(drift: Drift) -> Scorecard:
    return Scorecard(
        model="m", adapter="a", rows=[], counts=[], conventions=[], warnings=[], quarantined={}, drift=drift
    )


def shown(what: Scorecard, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(what)
    return text.getvalue()


def test_the_sentence_and_the_block() -> None:
    good = list(rows(["a dog sits on a mat"], ["a dog sits on a mat"]).values())
    assert Drift(rows=good).sentence() == "Other abilities: no sign of harm in 7 checks"
    bad = brief([*rows(["a dog sits on a mat"], ["the the the the the"]).values()])
    drift = Drift(rows=bad, unmeasured=[Unmeasured(what="KL to base", why="no adapter")], prompts=["talk-1"])
    assert drift.sentence() == (
        "Other abilities: 3 of 7 checks warn: answers repeat themselves (CHAIR rep-4 0.0 → 50.0); answers use fewer "
        "different words (CHAIR distinct-1 0.80 → 0.20); answers use fewer different word pairs (CHAIR distinct-2 1.00 "
        "→ 0.25); not measured: KL to base"
    )
    far = [
        judged(DriftRow(metric=f"kl-{way}", label=f"KL to base, {way}", after=Reading(value=value)))
        for way, value in (("forward", 0.33), ("reverse", 0.31))
    ]
    assert Drift(rows=far).sentence() == (
        "Other abilities: 2 of 2 checks warn: the model moved far from its base where nobody trained it to (KL to "
        "base, forward 0.33; KL to base, reverse 0.31)"
    )
    page = "\n".join(drift.to_markdown())
    assert "| **CHAIR rep-4** | **0.0** | **50.0** | **+50.0 [+50.0, +50.0]** | **+5.0** |" in page
    assert "- not measured: KL to base: no adapter" in page and "- prompts: talk-1" in page
    wide, narrow = shown(card(drift), 118), shown(card(drift), 40)
    assert "DRIFT AND ABILITY" in wide and "not measured: KL to base: no adapter" in wide
    assert "CHAIR rep-4" in wide and "CHAIR rep-1" not in wide, "the block is short"
    assert "CHAIR rep-4: before 0.0, after 50.0" in narrow
    assert Drift.model_validate_json(drift.model_dump_json()) == drift
    assert drift.row("rep-4", "chair").sign
    with pytest.raises(KeyError, match="no chair bleu"):
        drift.row("bleu", "chair")


def test_a_page_of_one_model_has_no_columns_to_compare() -> None:
    page = "\n".join(Drift(rows=list(rows(None, ["a dog"]).values())).to_markdown())
    assert "| check | value |" in page and "warns" not in page and "Other abilities" not in page


def test_numbers_of_every_size_can_be_read() -> None:
    row = DriftRow(
        metric="perplexity", label="perplexity", before=Reading(value=1993590.01), after=Reading(value=0.012345)
    )
    assert row.moved == "1.99e+06 → 0.0123"
    changed = row.model_copy(update={"change": Reading(value=-1993589.99)})
    assert changed.cells(intervals=True)[3] == "−1.99e+06"
